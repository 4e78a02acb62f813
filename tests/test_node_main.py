"""dgan-node as a process: how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
atexit.register(print, "the interpreter is taken apart")
from node.__main__ import run
sys.argv = ["dgan-node", *sys.argv[1:]]
run()
"""


@pytest.mark.system
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--help"], 0, "Usage: dgan-node"),
        (["--id", "1"], 2, "Missing option '--peers'"),
        (["--id", "1", "--peers", "absent.toml"], 2, "absent.toml"),
    ],
)
def test_a_node_ends_with_its_status_and_all_its_words_as_soon_as_it_is_done(
    words: list[str], code: int, told: str
) -> None:
    """Without the seconds that the interpreter takes to take torch apart."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert "taken apart" not in done.stdout
