"""Carries a study out: each cell is trained and judged by the commands that a user would give, a few cells at a time.

    waiting --> training --> probing --> judging --> done       a file in `cells/` says what was found
                   |            |           |
                   +------------+-----------+------> failed     the next cell goes on; the same command tries it again
                   +------------+-----------+------> stopped    everything saved; the same command goes on with it

A node whose training failed for good, though it was started again and again, is an outcome as any other: the cell is judged as
far as it goes, and its file says so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.cells import NEIGHBOR_LOST, TRAINING_FAILED, WORK, Phase, Progress, write_cell
from launcher.plan import THREAD_VARIABLES
from launcher.prepare import is_locked
from launcher.processes import caught_signals
from node.exits import EXIT_FAILURE, EXIT_OK
from node.files import write_atomically

_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
_SEEDS = 2**31  # of the evaluation


class Process(Protocol):
    """A command at work, as subprocess.Popen is one."""

    def poll(self) -> int | None:
        """Its exit status, None while it goes on."""

    def terminate(self) -> None:
        """Asks it to save and end."""


def spawn(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """One of the project's commands, as a process that does not outlive this one by more than its saving."""
    with log.open("ab") as output:
        # In a session of its own, so that a terminal's Ctrl-C reaches this process alone.
        return subprocess.Popen(  # noqa: S603 - the project's own commands
            [sys.executable, "-P", "-m", *words],  # and never a file of that name in the working folder
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_follow_parent,  # noqa: PLW1509 - this process has one thread
        )


def _follow_parent() -> None:
    """The command stops as by SIGTERM when whoever started it is gone, however that came."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Manner:
    """How cells are run.

    Attributes:
        jobs: Cells at a time.
        neighborhood: Whether to probe the features of neighbours' discriminators too.
        again: What a user types to make a cell again, but for its name.
        clock: Monotonic seconds.
        spawn: Starts a command.
    """

    jobs: int
    neighborhood: bool
    again: str
    clock: Callable[[], float] = time.monotonic
    spawn: Callable[[Sequence[str], Mapping[str, str], Path], Process] = spawn


class View(Protocol):
    """Where a study is shown."""

    def event(self, text: str) -> None:
        """One thing that happened, told once."""

    def update(self, cells: Sequence[Progress], manner: Manner) -> None:
        """How far every cell is."""


def conduct(cells: Sequence[Progress], manner: Manner, view: View) -> int:
    """Runs what is not done yet and returns the exit status: 0 when all are, 1 when one failed, 128 + a signal.

    Args:
        cells: In the order in which they are started.
        manner: How.
        view: Is told every event and shown how far each cell is.
    """
    waiting = deque(each for each in cells if each.phase is Phase.WAITING)
    running: list[_Job] = []
    with caught_signals() as signals:
        told = 0
        while running or (waiting and not signals):
            while len(running) < manner.jobs and not signals and (free := _take_free(waiting)):
                running.append(_Job(free, manner))
                view.event(f"{free.cell.name}: started")
            if told < len(signals):
                view.event("stopping: the runs save their state" if told == 0 else "stopping at once")
                told = len(signals)
                for job in running:
                    job.stop()
            for job in [job for job in running if not job.goes_on(stopping=bool(signals))]:
                running.remove(job)
                said = f" ({job.progress.words}; see {job.progress.log})" if job.progress.words else ""
                view.event(f"{job.progress.cell.name}: {job.progress.phase}{said}")
            view.update(cells, manner)
            time.sleep(_POLL_S)
    if signals and any(each.phase in (Phase.WAITING, Phase.STOPPED) for each in cells):
        return 128 + signals[0]
    return EXIT_OK if all(each.phase is Phase.DONE for each in cells) else EXIT_FAILURE


def _take_free(waiting: deque[Progress]) -> Progress | None:
    """The first whose run directory is free: a study that was killed may have left a run that is still saving."""
    for each in waiting:
        if not is_locked(each.run_dir):
            waiting.remove(each)
            return each
    return None


class _Job:
    """One cell at work: a command after the other."""

    def __init__(self, progress: Progress, manner: Manner) -> None:
        self.progress = progress
        self._manner = manner
        self._threads = dict.fromkeys(THREAD_VARIABLES, str(max(1, (os.cpu_count() or 1) // manner.jobs)))
        self._collapsed, self._is_whole = False, not progress.run_dir.exists()
        self._start(Phase.TRAINING)

    def stop(self) -> None:
        """Asks the command at work to save and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def goes_on(self, *, stopping: bool) -> bool:
        """Whether a command is at work, after the next one was started where one has ended."""
        code = self._process.poll()
        if code is None:
            return True
        self.progress.seconds[self.progress.phase] = self._manner.clock() - self._began_s
        following = self._after(code, stopping=stopping)
        if following in WORK:
            self._start(following)
            return True
        if following is Phase.DONE:
            again = f"{self._manner.again} {self.progress.cell.name}"
            write_cell(self.progress, again, whole=self._is_whole)
        self.progress.phase = following
        return False

    def _after(self, code: int, *, stopping: bool) -> Phase:
        """What comes after a command that has ended; notes why where that is a failure."""
        progress, is_last = self.progress, self.progress.phase is WORK[-1]
        if stopping and (code != EXIT_OK or not is_last):
            return Phase.STOPPED
        if code != EXIT_OK and not self._is_outcome(code):
            progress.words = self._last_words() or f"status {code}"
            return Phase.FAILED
        if not is_last:
            return WORK[WORK.index(progress.phase) + 1]
        if missing := self._unwritten():
            progress.words = f"{missing} is missing"
            return Phase.FAILED
        return Phase.DONE

    def _is_outcome(self, code: int) -> bool:
        """Whether a command that failed has shown something: nodes that were given up, and what they left."""
        if self.progress.phase is Phase.TRAINING:
            failures = {each.failure for each in self.progress.statuses().values() if each and each.error}
            by_training = TRAINING_FAILED in failures and failures <= {TRAINING_FAILED, NEIGHBOR_LOST}
            self._collapsed = code == EXIT_FAILURE and by_training
        return self._collapsed

    def _start(self, phase: Phase) -> None:
        progress = self.progress
        progress.phase = phase
        progress.log.parent.mkdir(parents=True, exist_ok=True)
        progress.file.parent.mkdir(parents=True, exist_ok=True)
        self._began_s = self._manner.clock()
        self._log_start = progress.log.stat().st_size if progress.log.exists() else 0
        self._process = self._manner.spawn(self._words(phase), self._threads, progress.log)

    def _last_words(self) -> str:
        """The last line that the command at work has printed."""
        with self.progress.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _unwritten(self) -> Path | None:
        """What should be there and is not, where every command has done its work."""
        files = (self.progress.probe_file, self.progress.quality_file)
        return None if self._collapsed else next((file for file in files if not file.exists()), None)

    def _words(self, phase: Phase) -> list[str]:
        progress, cell = self.progress, self.progress.cell
        if phase is Phase.TRAINING:
            settings = progress.directory / "runs" / f"{cell.name}.toml"
            write_atomically(settings, cell.settings_toml().encode())
            places = ["--data", cell.data, "--run-dir", str(progress.run_dir)]
            port = ["--base-port", str(progress.base_port)]
            return ["launcher", "run", str(cell.graph_file), *places, "--settings", str(settings), *port]
        seed = ["--seed", str(cell.seed % _SEEDS)]
        if phase is Phase.PROBING:
            asked = [*seed, "--floors" if cell.floors else "--no-floors"]
            asked += ["--neighborhood"] if self._manner.neighborhood else []
            return ["eval", "probe", str(progress.run_dir), *asked]
        folders = ["--classifiers", str(progress.classifiers), "--labelled", str(progress.labelled)]
        return ["eval", "quality", str(progress.run_dir), *seed, *folders]
