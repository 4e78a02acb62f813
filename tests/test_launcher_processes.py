"""Real, short-lived children under the supervisor: starts, restarts, signals and the lifeline."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher.live import Row
from launcher.plan import ProcessSpec
from launcher.processes import Children, Outcome, supervise
from launcher.supervisor import RestartPolicy, State, Supervisor

HASTY = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.05, stop_grace_s=1.0)
ROOT = Path(__file__).parent.parent
DEADLINE_S = 20.0


class Recorder:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.rows: Sequence[Row] = ()

    def event(self, text: str) -> None:
        """Keeps an event."""
        self.events.append(text)

    def update(self, rows: Sequence[Row], now_s: float, *, last: bool = False) -> None:
        """Keeps the newest rows."""
        del now_s, last
        self.rows = rows


PRELUDE = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def say(state, **more):
    fields = {"state": state, "pid": os.getpid(), **more}
    (here / "part").write_text(json.dumps(fields))
    (here / "part").replace(here / "status.json")
def stopped(*_):
    say("stopped")
    sys.exit(0)
"""


def child(directory: Path, node_id: int, script: str) -> ProcessSpec:
    """A process that runs a few lines of Python in place of a node."""
    own = directory / str(node_id)
    command = (sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(own))
    return ProcessSpec(node_id, command, {"OMP_NUM_THREADS": "3"}, own)


def watch(*specs: ProcessSpec, policy: RestartPolicy = HASTY) -> tuple[Outcome, Recorder]:
    """Supervises children to their end."""
    view = Recorder()
    ids = [spec.node_id for spec in specs]
    return supervise(specs, Supervisor(ids, policy, random.Random(0)), view), view


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Polls until the condition holds, and fails after the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.02)


WAIT_FOR_TERM = """
signal.signal(signal.SIGTERM, stopped)
say("training", cycle=5)
signal.pause()
"""


@pytest.fixture
def when() -> Iterator[Callable[[Callable[[], object], Callable[[], object]], None]]:
    """`when(condition, act)` acts from another thread as soon as the condition holds."""
    threads = []

    def register(condition: Callable[[], object], act: Callable[[], object]) -> None:
        def follow() -> None:
            wait_for("a condition", condition)
            act()

        threads.append(threading.Thread(target=follow))
        threads[-1].start()

    yield register
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_children_that_finish_end_the_run_with_0(tmp_path: Path) -> None:
    """Two processes, their output in their console logs, their environment as planned."""
    script = 'print("hello", os.environ["OMP_NUM_THREADS"]); say("finished")'
    specs = [child(tmp_path, 1, script), child(tmp_path, 2, script)]
    outcome, view = watch(*specs)
    assert outcome == Outcome(0, {1: State.FINISHED, 2: State.FINISHED}, {}, None)
    assert specs[0].console_log.read_text() == "hello 3\n"
    assert "node 2 finished" in view.events
    assert [row.state for row in view.rows] == ["finished", "finished"]


@pytest.mark.system
def test_a_child_killed_by_kill_9_is_restarted_and_finishes(tmp_path: Path) -> None:
    """The second start sees what the first left behind; the log keeps both."""
    script = """
    print("start", flush=True)
    if (here / "been").exists():
        say("finished")
    else:
        (here / "been").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    spec = child(tmp_path, 1, script)
    outcome, view = watch(spec)
    assert outcome.exit_code == 0
    assert spec.console_log.read_text() == "start\nstart\n"
    assert any(event.startswith("node 1 was killed by SIGKILL; again in 0.0 s") for event in view.events)
    assert view.rows[0].restarts == 1


@pytest.mark.system
def test_a_suspended_child_is_killed_and_restarted(tmp_path: Path) -> None:
    """SIGSTOP: it takes no SIGTERM, and would stay for ever; the event says why it was killed."""
    script = """
    if (here / "been").exists():
        say("finished")
    else:
        (here / "been").touch()
        say("training", cycle=5, updated_s=time.time())
        os.kill(os.getpid(), signal.SIGSTOP)
    """
    outcome, view = watch(child(tmp_path, 1, script), policy=replace(HASTY, hang_s=2.0))
    assert outcome.exit_code == 0
    told = [event for event in view.events if event.startswith("node 1 ") and "started" not in event]
    assert told[0] == "node 1 killed: no sign of life for 2 s"
    assert told[1].startswith("node 1 was killed by SIGKILL; again in 0.0 s")
    assert told[-1] == "node 1 finished"


@pytest.mark.system
def test_a_child_that_is_starting_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    """Though it is silent for longer than `hang_s`: it may have much to load."""
    script = """
    say("starting")
    time.sleep(2)
    say("finished")
    os._exit(0)
    """
    outcome, view = watch(child(tmp_path, 1, script), policy=replace(HASTY, hang_s=1.0))
    assert outcome.exit_code == 0
    assert not any("killed" in event for event in view.events)


@pytest.mark.system
def test_a_child_that_exits_2_is_not_restarted_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Its last words are kept for the report."""
    refusing = child(tmp_path, 1, 'print("peers.toml: no such id", file=sys.stderr); sys.exit(2)')
    outcome, view = watch(refusing, child(tmp_path, 2, 'say("finished")'))
    assert outcome.exit_code == 2
    assert outcome.states == {1: State.REFUSED, 2: State.FINISHED}
    assert outcome.errors == {1: "peers.toml: no such id"}
    assert sum(event.startswith("node 1 started") for event in view.events) == 1


@pytest.mark.system
def test_a_child_that_always_fails_is_given_up(tmp_path: Path) -> None:
    """Six starts; the error in its own status wins over its console."""
    spec = child(tmp_path, 1, 'print("noise"); say("failed", error="no memory left"); sys.exit(1)')
    outcome, view = watch(spec)
    assert outcome.exit_code == 1
    assert outcome.errors == {1: "no memory left"}
    assert spec.console_log.read_text() == "noise\n" * 6
    assert view.events[-1] == "node 1 exited with status 1: no memory left; given up"


def test_a_child_that_cannot_be_started_is_given_up_with_the_reason(tmp_path: Path) -> None:
    """A missing program is no traceback."""
    spec = ProcessSpec(1, (str(tmp_path / "absent"),), {}, tmp_path / "1")
    outcome, _ = watch(spec, policy=RestartPolicy(restarts=0))
    assert outcome.exit_code == 1
    assert "cannot start" in outcome.errors[1]


@pytest.mark.system
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops_all_children_cleanly(
    tmp_path: Path,
    when: Callable[[Callable[[], object], Callable[[], object]], None],
    number: signal.Signals,
    code: int,
) -> None:
    """Each child gets SIGTERM and leaves with status 0."""
    specs = [child(tmp_path, node_id, WAIT_FOR_TERM) for node_id in (1, 2)]
    when(lambda: all(spec.status.exists() for spec in specs), lambda: os.kill(os.getpid(), number))
    outcome, view = watch(*specs, policy=RestartPolicy())
    assert outcome.exit_code == code
    assert outcome.states == {1: State.STOPPED, 2: State.STOPPED}
    assert "node 1 stopped" in view.events


@pytest.mark.system
def test_a_second_ctrl_c_kills_children_that_do_not_listen(
    tmp_path: Path,
    when: Callable[[Callable[[], object], Callable[[], object]], None],
) -> None:
    """The second signal is sent once the child has seen, and ignored, the SIGTERM of the first."""
    deaf = child(
        tmp_path,
        1,
        """
        signal.signal(signal.SIGTERM, lambda *_: (here / "told").touch())
        say("training")
        while True:
            signal.pause()
        """,
    )
    when(deaf.status.exists, lambda: os.kill(os.getpid(), signal.SIGINT))
    when((deaf.directory / "told").exists, lambda: os.kill(os.getpid(), signal.SIGINT))
    outcome, view = watch(deaf, policy=RestartPolicy())
    assert outcome.states == {1: State.KILLED}
    assert outcome.exit_code == 1
    assert "node 1 killed" in view.events


LIFELINE_READER = """
fd = int(os.environ["DGAN_LIFELINE_FD"])
say("training")
assert os.read(fd, 1) == b""
say("stopped", error="the lifeline ended")
"""


@pytest.mark.system
def test_a_launcher_killed_by_kill_9_ends_the_lifeline_of_every_child(tmp_path: Path) -> None:
    """The children read the end of the pipe and leave: no other child holds its write end."""
    script = f"""
    import random, sys
    sys.path.insert(0, {str(ROOT)!r})
    from pathlib import Path
    from launcher.live import PlainView
    from launcher.plan import ProcessSpec
    from launcher.processes import supervise
    from launcher.supervisor import RestartPolicy, Supervisor
    specs = [
        ProcessSpec(i, (sys.executable, "-c", {PRELUDE + LIFELINE_READER!r}, {str(tmp_path)!r} + f"/{{i}}"), {{}}, Path({str(tmp_path)!r}, str(i)))
        for i in (1, 2, 3)
    ]
    supervise(specs, Supervisor([1, 2, 3], RestartPolicy(), random.Random(0)), PlainView())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.DEVNULL
    ) as launcher:
        statuses = [tmp_path / str(node_id) / "status.json" for node_id in (1, 2, 3)]
        wait_for("three children", lambda: all(status.exists() for status in statuses))
        children = psutil.Process(launcher.pid).children(recursive=True)
        assert len(children) == 3
        launcher.kill()
    wait_for("their end", lambda: all("the lifeline ended" in status.read_text() for status in statuses))
    assert psutil.wait_procs(children, timeout=DEADLINE_S)[1] == []


@pytest.mark.system
def test_no_child_outlives_the_block_and_each_has_its_own_session(tmp_path: Path) -> None:
    """A launcher that fails inside the block leaves through the lifeline; Ctrl-C does not reach the children."""
    spec = child(tmp_path, 1, LIFELINE_READER)
    with contextlib.suppress(ZeroDivisionError), Children() as children:
        pid = children.start(spec)
        assert os.getsid(pid) == pid
        wait_for("its status", spec.status.exists)
        raise ZeroDivisionError
    assert not psutil.pid_exists(pid)
    assert "the lifeline ended" in spec.status.read_text()
