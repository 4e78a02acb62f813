"""Carries a supervisor's decisions out on real processes.

Each child holds the read end of a pipe, the lifeline, whose only write end is the launcher's. However the launcher
ends, the kernel closes that end, the children read the end of the pipe, and the nodes stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from launcher.forkserver import Forked, ForkServer
from launcher.live import Row, View, read_status
from launcher.plan import ProcessSpec
from launcher.supervisor import Decision, Start, State, Stop, Supervisor
from node.exits import EXIT_OK, EXIT_TEMPORARY, LIFELINE

_POLL_S = 0.1
_TAIL_BYTES = 4096
_SENT_BY_OTHERS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
_FAREWELL_S = 15.0  # for nodes left behind by a failing launcher


@dataclass(frozen=True)
class Outcome:
    """How a supervised run ended.

    Attributes:
        exit_code: The launcher's own exit status.
        states: How each node ended.
        errors: What the nodes that failed said last.
        signal_number: The signal that asked the run to stop, or None.
    """

    exit_code: int
    states: Mapping[int, State]
    errors: Mapping[int, str]
    signal_number: int | None


class Children:
    """The node processes of one run, for the length of a `with` block; none outlives it.

    Args:
        server: What they are forked from; None to start each as a program.
    """

    def __init__(self, server: ForkServer | None = None) -> None:
        self._server = server

    def __enter__(self) -> Self:
        self._running: dict[int, subprocess.Popen[bytes] | Forked] = {}
        self._log_starts: dict[int, int] = {}
        # Neither end is inheritable by default (PEP 446); a start hands on the read end alone.
        self._lifeline_read, self._lifeline_write = os.pipe()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Only an error of the launcher's own leaves nodes running here: they see the lifeline end, save and stop.
        os.close(self._lifeline_write)
        os.close(self._lifeline_read)
        deadline_s = time.monotonic() + _FAREWELL_S
        for node_id, process in self._running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline_s - time.monotonic()))
            self.stop(node_id, kill=True)
            process.wait()

    def start(self, spec: ProcessSpec) -> int:
        """Starts a node in a session of its own, so that a terminal's Ctrl-C reaches the launcher alone.

        Returns:
            The process id.

        Raises:
            OSError: The log cannot be written, or the system refuses another process.
        """
        spec.directory.mkdir(parents=True, exist_ok=True)
        with spec.console_log.open("ab") as log:
            self._log_starts[spec.node_id] = log.tell()
            process = self._start(spec, log.fileno())
        self._running[spec.node_id] = process
        return process.pid

    def _start(self, spec: ProcessSpec, output: int) -> subprocess.Popen[bytes] | Forked:
        if self._server is not None:
            return self._server.start(spec.words, output=output, lifeline=self._lifeline_read)
        return subprocess.Popen(  # noqa: S603 - the command is this project's own node, built in launcher.plan
            spec.argv,
            env={**os.environ, **spec.env, LIFELINE: str(self._lifeline_read)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(self._lifeline_read,),
            start_new_session=True,
        )

    def can_start(self) -> bool:
        """Whether `start` would not have to wait for what nodes are forked from."""
        return self._server is None or self._server.is_ready()

    def stop(self, node_id: int, *, kill: bool) -> None:
        """Sends SIGTERM to a node, or SIGKILL to it and whatever it started; a node that has ended is left alone."""
        process = self._running.get(node_id)
        if process is None or process.poll() is not None:
            return
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.terminate()

    def exited(self) -> list[tuple[int, int, int]]:
        """(node id, process id, exit status) of the processes that ended since the last call."""
        ended = [
            (node_id, child.pid, code)
            for node_id, child in self._running.items()
            if (code := child.poll()) is not None
        ]
        for node_id, _, _ in ended:
            del self._running[node_id]
        return ended

    def pid(self, node_id: int) -> int | None:
        """Process id of a running node."""
        process = self._running.get(node_id)
        return None if process is None else process.pid

    def last_words(self, spec: ProcessSpec) -> str:
        """The last line that a node's newest process wrote on its console, or an empty text."""
        try:
            with spec.console_log.open("rb") as log:
                size_bytes = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_starts.get(spec.node_id, 0), size_bytes - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Within the block, SIGINT and SIGTERM end nothing: their numbers are collected in the list."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def supervise(
    specs: Sequence[ProcessSpec],
    supervisor: Supervisor,
    view: View,
    clock: Callable[[], float] = time.monotonic,
    server: ForkServer | None = None,
) -> Outcome:
    """Runs all processes until each has ended for good.

    Args:
        specs: The processes, one for each node of the supervisor.
        supervisor: Decides.
        view: Is told every event and shown the newest figures.
        clock: Monotonic seconds.
        server: What processes are forked from; None to start each as a program.
    """
    with Children(server) as children, caught_signals() as signals:
        run = _Run({spec.node_id: spec for spec in specs}, supervisor, children, view, clock)
        answered = 0
        while not supervisor.done:
            while answered < len(signals):
                answered += 1
                run.stop()
            run.collect()
            run.act()
            rows = run.rows()
            run.look(rows)
            view.update(rows, clock())
            time.sleep(_POLL_S)
        signal_number = signals[0] if signals else None
        view.update(run.rows(), clock(), last=True)
        return Outcome(supervisor.exit_code(signal_number), supervisor.states, run.errors, signal_number)


@dataclass
class _Run:
    """One pass of the loop, step by step."""

    specs: Mapping[int, ProcessSpec]
    supervisor: Supervisor
    children: Children
    view: View
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.errors: dict[int, str] = {}
        self._stopping = False

    def stop(self) -> None:
        """Answers one signal."""
        self.view.event(
            "killing all nodes"
            if self._stopping
            else "stopping: the nodes save their state; once more to kill them"
        )
        self._stopping = True
        self.supervisor.stop(self.clock())

    def collect(self) -> None:
        """Tells the supervisor which processes have ended."""
        for node_id, pid, code in self.children.exited():
            status = read_status(self.specs[node_id].status)
            own = status if status is not None and status.pid == pid else None
            # A node that finished in an earlier start may leave before it writes a new status.
            finished = status is not None and status.state == "finished"
            cycle = None if own is None else own.cycle
            decision = self.supervisor.exited(node_id, code, self.clock(), finished=finished, cycle=cycle)
            words = (own.error if own else None) or self.children.last_words(self.specs[node_id])
            self._tell(decision, words)

    def look(self, rows: Sequence[Row]) -> None:
        """Tells the supervisor what each node shows of itself."""
        for row in rows:
            self.supervisor.looked(row.node_id, row.sign_of_life, self.clock())

    def act(self) -> None:
        """Starts and stops what is due."""
        for action in self.supervisor.tick(self.clock(), may_start=self.children.can_start()):
            if isinstance(action, Stop):
                self.children.stop(action.node_id, kill=action.kill)
                if action.kill:
                    quiet_s = action.quiet_s
                    why = "" if quiet_s is None else f": no sign of life for {quiet_s:.0f} s"
                    self.view.event(f"node {action.node_id} killed{why}")
            else:
                self._start(action)

    def _start(self, action: Start) -> None:
        node_id = action.node_id
        self.supervisor.started(node_id, self.clock())
        try:
            pid = self.children.start(self.specs[node_id])
        except OSError as error:
            decision = self.supervisor.exited(node_id, EXIT_TEMPORARY, self.clock())
            self._tell(decision, f"cannot start: {error}")
        else:
            self.view.event(f"node {node_id} started (process {pid})")

    def _tell(self, decision: Decision, words: str) -> None:
        """Reports an exit, and remembers the last words of a node that failed for good."""
        code, end = decision.code, _how(decision.code)
        if code in _SENT_BY_OTHERS:
            words = ""  # what the node happened to log last explains nothing
        if decision.state in (State.KILLED, State.REFUSED, State.GAVE_UP):
            self.errors[decision.node_id] = words or end
        then = {
            State.WAITING: f"; again in {decision.restart_in_s or 0:.1f} s",
            State.REFUSED: "; not started again",
            State.GAVE_UP: "; given up",
        }
        said = f": {words}" if words else ""
        text = decision.state if code == EXIT_OK else f"{end}{said}{then.get(decision.state, '')}"
        self.view.event(f"node {decision.node_id} {text}")

    def rows(self) -> list[Row]:
        """What the view shows of each node now."""
        rows = []
        for node_id, state in self.supervisor.states.items():
            status = read_status(self.specs[node_id].status)
            if state is State.RUNNING and status is not None and status.pid != self.children.pid(node_id):
                status = None  # written by an earlier process; this one has not spoken yet
            rows.append(Row(node_id, state, self.supervisor.restarts[node_id], status))
        return rows


def _how(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
