"""Real runs of `dgan-launch run`, watched from outside while they train."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.provenance import ROOT
from faults.evidence import read_lines
from launcher.live import read_status

_PATIENCE_S = 300.0
_POLL_S = (
    0.2  # lines tell their own times; who looks for them often takes processors from those who write them
)


class Running:
    """A run that a launcher has started.

    Args:
        folder: The run directory.
        ids: Its nodes.
        began_s: When the launcher was started, seconds since 1970.
        launcher: Its process.
    """

    def __init__(
        self, folder: Path, ids: Sequence[int], began_s: float, launcher: subprocess.Popen[bytes]
    ) -> None:
        self.folder, self.ids, self.began_s = folder, ids, began_s
        self._launcher = launcher

    def lines(self, node: int) -> list[dict[str, Any]]:
        """The lines of a node's metrics so far."""
        return read_lines(self.folder / "nodes" / str(node) / "metrics.jsonl")

    def wait_for_cycles(self, cycles: int) -> None:
        """Returns once every node has written a line about that cycle."""
        deadline_s = time.monotonic() + _PATIENCE_S
        waiting = list(self.ids)
        while waiting:
            if self._launcher.poll() is not None:
                raise RuntimeError(f"the launcher ended with status {self._launcher.returncode}")
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"nodes {waiting} have not reached cycle {cycles} in {_PATIENCE_S:g} s")
            time.sleep(_POLL_S)
            waiting = [n for n in waiting if not (seen := self.lines(n)) or seen[-1]["cycle"] < cycles]

    def wait_for_end(self) -> None:
        """Returns once the run has finished, however long that takes.

        Raises:
            RuntimeError: It failed.
        """
        if self._launcher.wait():
            raise RuntimeError(f"the launcher ended with status {self._launcher.returncode}")

    def first_cycle_s(self) -> float:
        """Seconds from the launcher's start to the end of the last node's first cycle."""
        return max(float(self.lines(node)[0]["unix_s"]) for node in self.ids) - self.began_s

    def processes(self) -> list[psutil.Process]:
        """The nodes' processes."""
        statuses = [read_status(self.folder / "nodes" / str(node) / "status.json") for node in self.ids]
        return [psutil.Process(status.pid) for status in statuses if status is not None]


@contextlib.contextmanager
def launched(
    graph: Path, data: Path, folder: Path, ids: Sequence[int], *words: str, cores: set[int] | None = None
) -> Iterator[Running]:
    """`dgan-launch run` for the length of a block; stopped at its end, or finished by itself.

    Args:
        graph: The graph file.
        data: The data set's folder.
        folder: The run directory, new.
        ids: The graph's nodes.
        words: Further options.
        cores: Processors that launcher and nodes share; None for all.
    """
    command = [sys.executable, "-m", "launcher", "run", str(graph), "--data", str(data), *words]
    log = folder.with_suffix(".log")
    with log.open("wb") as file:
        began_s = time.time()
        launcher = subprocess.Popen(
            [*command, "--run-dir", str(folder)],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509 - one thread here
        )
    try:
        yield Running(folder, ids, began_s, launcher)
    except RuntimeError as error:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{error}\n{tail}") from None
    finally:
        if launcher.poll() is None:
            launcher.send_signal(signal.SIGTERM)
        launcher.wait()
