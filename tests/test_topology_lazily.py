"""Libraries that are loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from topology.lazily import load_lazily


def test_it_is_the_module_itself_once_it_is_used() -> None:
    """Every attribute, private ones too."""
    import fractions  # noqa: PLC0415 - what is loaded lazily below

    lazy = load_lazily("fractions")
    assert lazy.Fraction is fractions.Fraction
    assert lazy.__file__ == fractions.__file__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lazy.nothing


def test_it_is_loaded_by_use_alone_and_by_many_threads_at_once() -> None:
    """None of them sees a module that is half there."""
    program = """
import sys, threading
from topology.graph import ring
assert "networkx" not in sys.modules
sizes = []
threads = [threading.Thread(target=lambda: sizes.append(len(ring(5).ids))) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(sizes)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[5, 5, 5, 5, 5, 5, 5, 5]\n"
