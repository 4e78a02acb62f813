"""Node processes that are forked from one that has their libraries loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness import write_run
from launcher.forkserver import Forked, ForkServer, fork_server
from node.exits import EXIT_INPUT, EXIT_OK
from topology.graph import ring

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="Linux has subreapers")]
PATIENCE_S = 60.0


@pytest.fixture
def server() -> Iterator[ForkServer]:
    """One whose nodes compute on one thread."""
    with fork_server({"OMP_NUM_THREADS": "1"}) as server:
        assert server is not None
        yield server


def start(server: ForkServer, console: Path, *words: str) -> tuple[Forked, int]:
    """A node process with these words, and the writing end of its lifeline."""
    reading, writing = os.pipe()
    with console.open("wb") as output:
        node = server.start(words, output=output.fileno(), lifeline=reading)
    os.close(reading)
    return node, writing


def test_what_is_forked_is_a_node_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    """Its words are obeyed, its output and its status are its own; a second one is not confused with the first."""
    found = []
    for number, words in enumerate((["--version"], ["--id", "1", "--peers", str(tmp_path / "absent.toml")])):
        console = tmp_path / f"{number}.log"
        node, lifeline = start(server, console, *words)
        found.append((node.pid, node.wait(PATIENCE_S), console.read_text(encoding="utf-8")))
        os.close(lifeline)
    (first, right, version), (second, wrong, error) = found
    assert first != second
    assert (right, wrong) == (EXIT_OK, EXIT_INPUT)
    assert version == "0.1.0\n"
    assert error.startswith("dgan-node: error: ")
    assert "absent.toml" in error


def test_its_end_by_a_signal_is_told_as_such(server: ForkServer, tmp_path: Path) -> None:
    """By the number of the signal; what has ended is not signalled again."""
    peers = write_run(tmp_path / "run", ring(3), policy="alone", epochs=10_000)
    node, lifeline = start(server, tmp_path / "console.log", "--id", "1", "--peers", str(peers))
    assert os.getsid(node.pid) == node.pid
    assert psutil.Process(node.pid).ppid() == os.getpid()
    with pytest.raises(subprocess.TimeoutExpired):
        node.wait(0.0)
    os.kill(node.pid, signal.SIGKILL)
    assert node.wait(PATIENCE_S) == -signal.SIGKILL
    node.terminate()
    assert node.poll() == -signal.SIGKILL
    os.close(lifeline)


def test_a_node_outlives_the_server_and_heeds_its_lifeline(tmp_path: Path) -> None:
    """It saves and stops when the last writing end is closed."""
    peers = write_run(tmp_path / "run", ring(3), policy="alone", epochs=10_000)
    with fork_server({}) as server:
        assert server is not None
        node, lifeline = start(server, tmp_path / "console.log", "--id", "1", "--peers", str(peers))
    assert node.poll() is None
    os.close(lifeline)
    assert node.wait(PATIENCE_S) in (EXIT_OK, -signal.SIGALRM)


def test_a_server_that_was_killed_is_replaced(server: ForkServer, tmp_path: Path) -> None:
    """The start that finds it gone fails, as one that the system refuses does; the next one has a fresh server."""
    [process] = psutil.Process().children()
    process.kill()
    with pytest.raises(OSError, match="what nodes are forked from"):
        start(server, tmp_path / "console.log", "--version")
    node, lifeline = start(server, tmp_path / "console.log", "--version")
    assert node.wait(PATIENCE_S) == EXIT_OK
    os.close(lifeline)


def test_libraries_that_do_not_load_are_named(tmp_path: Path) -> None:
    """In each start's error, until they do."""
    (tmp_path / "torch.py").write_text("raise ImportError('libgomp.so.1 is missing')", encoding="utf-8")
    with fork_server({"PYTHONPATH": str(tmp_path)}) as server:
        assert server is not None
        for _ in range(2):
            with pytest.raises(OSError, match=r"ImportError: libgomp\.so\.1 is missing"):
                start(server, tmp_path / "console.log", "--version")


def test_a_launcher_without_output_has_nodes_with_their_own(tmp_path: Path) -> None:
    """A node's log is its own, whatever its launcher was given for one."""
    program = f"""
import os, sys
from pathlib import Path
from launcher.forkserver import fork_server
os.close(1)
reading, writing = os.pipe()
with fork_server({{}}) as server, Path({str(tmp_path)!r}, "console.log").open("wb") as output:
    node = server.start(["--version"], output=output.fileno(), lifeline=reading)
    sys.exit(node.wait(60))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == EXIT_OK
    assert (tmp_path / "console.log").read_text(encoding="utf-8") == "0.1.0\n"
