"""The supervisor's decisions, replayed from events with an injected clock and without a process."""

from __future__ import annotations

import random
import signal

import pytest

from launcher.supervisor import Decision, RestartPolicy, Start, State, Stop, Supervisor

STEADY = RestartPolicy(jitter=0.0)


def supervisor(*ids: int, policy: RestartPolicy = STEADY) -> Supervisor:
    """A supervisor with predictable delays."""
    return Supervisor(ids or (1,), policy, random.Random(0))


def begin(watched: Supervisor, now_s: float = 0.0) -> None:
    """Starts every node that is due."""
    for action in watched.tick(now_s):
        assert isinstance(action, Start)
        watched.started(action.node_id, now_s)


def test_every_node_is_started_once_at_the_beginning() -> None:
    """The first tick names each node; the second names none."""
    watched = supervisor(1, 2, 3)
    assert watched.tick(0.0) == (Start(1), Start(2), Start(3))
    assert watched.tick(0.0) == ()
    assert watched.states == dict.fromkeys((1, 2, 3), State.RUNNING)


def test_a_run_whose_nodes_all_finish_exits_0() -> None:
    """Exit status 0 with the state finished ends a node for good."""
    watched = supervisor(1, 2)
    begin(watched)
    assert watched.exited(1, 0, 10.0, finished=True) == Decision(1, 0, State.FINISHED)
    assert watched.states[2] is State.RUNNING
    watched.exited(2, 0, 11.0, finished=True)
    assert watched.done
    assert watched.tick(99.0) == ()
    assert watched.exit_code() == 0


def test_a_node_that_somebody_else_stopped_has_not_finished() -> None:
    """Exit status 0 without the state finished is no success, and is not started again."""
    watched = supervisor()
    begin(watched)
    assert watched.exited(1, 0, 10.0).state is State.STOPPED
    assert watched.done
    assert watched.exit_code() == 1


def test_a_configuration_error_is_never_restarted() -> None:
    """Status 2 ends the node; alone it becomes the launcher's own status."""
    watched = supervisor(1, 2)
    begin(watched)
    assert watched.exited(1, 2, 0.5) == Decision(1, 2, State.REFUSED)
    watched.exited(2, 0, 9.0, finished=True)
    assert watched.done
    assert watched.exit_code() == 2


@pytest.mark.parametrize("code", [1, 75, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGTERM])
def test_a_failure_is_restarted_after_one_second(code: int) -> None:
    """Failures, temporary or not, and deaths by signal are restarted."""
    watched = supervisor()
    begin(watched)
    assert watched.exited(1, code, 5.0) == Decision(1, code, State.WAITING, restart_in_s=1.0)
    assert watched.tick(5.9) == ()
    assert watched.tick(6.0) == (Start(1),)
    assert watched.restarts == {1: 1}


def test_delays_double_and_the_sixth_failure_in_five_minutes_gives_up() -> None:
    """1, 2, 4, 8 and 16 s, then no more; the other node goes on."""
    watched = supervisor(1, 2)
    begin(watched)
    now_s, delays = 0.0, []
    while (decision := watched.exited(1, 1, now_s)).restart_in_s is not None:
        delays.append(decision.restart_in_s)
        now_s += decision.restart_in_s
        begin(watched, now_s)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert decision.state is State.GAVE_UP
    assert watched.states[2] is State.RUNNING
    watched.exited(2, 0, 99.0, finished=True)
    assert watched.exit_code() == 1


def test_delays_stop_at_the_longest() -> None:
    """With more restarts allowed the back-off stays at 60 s."""
    watched = supervisor(policy=RestartPolicy(jitter=0.0, restarts=50))
    begin(watched)
    now_s, delays = 0.0, []
    for _ in range(8):
        delay_s = watched.exited(1, 1, now_s).restart_in_s or 0.0
        delays.append(delay_s)
        now_s += delay_s
        begin(watched, now_s)
    assert delays[-3:] == [32.0, 60.0, 60.0]


def test_a_healthy_minute_resets_the_back_off() -> None:
    """After 60 s of running the next delay is 1 s again, and old restarts leave the window."""
    watched = supervisor()
    begin(watched)
    now_s = 0.0
    for cycle in range(20):
        now_s += 61.0
        assert watched.exited(1, 1, now_s, cycle=cycle).restart_in_s == 1.0
        now_s += 1.0
        begin(watched, now_s)


def test_a_node_that_only_repeats_itself_is_given_up_however_slowly() -> None:
    """Six runs of two minutes that never get past cycle 7: waiting for a neighbour that is gone for good."""
    watched = supervisor()
    begin(watched)
    now_s, exits = 0.0, 0
    while watched.states[1] is State.RUNNING:
        now_s += 120.0
        watched.exited(1, 75, now_s, cycle=7)
        exits += 1
        now_s += 1.0
        begin(watched, now_s)
    assert exits == 6
    assert watched.states[1] is State.GAVE_UP


def test_jitter_spreads_the_delays_and_repeats_with_its_seed() -> None:
    """Delays stay within a quarter of 1 s, differ between nodes, and follow the generator's seed."""

    def delays(seed: int) -> list[float]:
        watched = Supervisor(range(20), RestartPolicy(), random.Random(seed))
        begin(watched)
        return [watched.exited(node_id, 1, 0.0).restart_in_s or 0.0 for node_id in range(20)]

    assert all(0.75 <= delay_s <= 1.25 for delay_s in delays(1))
    assert len(set(delays(1))) == 20
    assert delays(1) == delays(1) != delays(2)


def test_a_stop_is_polite_for_15_seconds_then_kills() -> None:
    """Each order is named once."""
    watched = supervisor(1, 2)
    begin(watched)
    watched.stop(100.0)
    assert watched.tick(100.0) == (Stop(1), Stop(2))
    assert watched.tick(101.0) == ()
    assert watched.exited(1, 0, 102.0).state is State.STOPPED
    assert watched.tick(115.0) == (Stop(2, kill=True),)
    assert watched.tick(116.0) == ()
    assert watched.exited(2, -signal.SIGKILL, 116.0).state is State.KILLED
    assert watched.exit_code(signal.SIGINT) == 1


def test_a_second_stop_kills_at_once() -> None:
    """The user does not want to wait."""
    watched = supervisor()
    begin(watched)
    watched.stop(100.0)
    watched.tick(100.0)
    watched.stop(100.5)
    assert watched.tick(100.5) == (Stop(1, kill=True),)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_clean_stop_exits_with_the_signal(number: int, code: int) -> None:
    """128 + signal when every node saved its state, had not begun to train, or had finished."""
    watched = supervisor(1, 2, 3, 4)
    begin(watched)
    watched.exited(4, 1, 1.0)
    watched.stop(1.5)
    watched.exited(1, 0, 2.0)
    watched.exited(2, -signal.SIGTERM, 2.0)
    watched.exited(3, 0, 2.0, finished=True)
    assert watched.done, "a node waiting for its restart is not started any more"
    assert watched.exit_code(number) == code


def test_a_signal_after_which_all_finish_is_a_success() -> None:
    """The exit status tells what became of the nodes, not what was asked."""
    watched = supervisor()
    begin(watched)
    watched.stop(1.0)
    watched.exited(1, 0, 2.0, finished=True)
    assert watched.exit_code(signal.SIGINT) == 0


def look_at(watched: Supervisor, sign: object, *times_s: float) -> tuple[Start | Stop, ...]:
    """Node 1 shows the same sign at each of these times; what is due at the last of them."""
    for now_s in times_s:
        watched.looked(1, sign, now_s)
    return watched.tick(times_s[-1])


def test_a_node_without_a_sign_of_life_is_killed_and_restarted() -> None:
    """After 120 s, once, and by the ordinary back-off."""
    watched = supervisor()
    begin(watched)
    assert look_at(watched, (7, 1.0), *range(10, 130)) == ()
    assert look_at(watched, (7, 1.0), 130.0) == (Stop(1, kill=True, quiet_s=120.0),)
    assert look_at(watched, (7, 1.0), 131.0) == ()
    assert watched.exited(1, -signal.SIGKILL, 131.0, cycle=7) == Decision(
        1, -9, State.WAITING, restart_in_s=1.0
    )
    assert watched.tick(132.0) == (Start(1),)
    watched.started(1, 132.0)
    assert look_at(watched, (7, 1.0), *range(133, 253)) == (), (
        "the new process begins with no silence behind it"
    )


def test_a_node_that_hangs_again_and_again_is_given_up() -> None:
    """It never gets past cycle 7."""
    watched = supervisor()
    begin(watched)
    began_s, kills = 0, 0
    while watched.states[1] is State.RUNNING:
        ends_s = began_s + 121
        order = look_at(watched, (7, 1.0), *range(began_s + 1, ends_s + 1))
        assert order == (Stop(1, kill=True, quiet_s=120.0),)
        kills += 1
        watched.exited(1, -signal.SIGKILL, ends_s, cycle=7)
        began_s = ends_s + 60
        begin(watched, began_s)
    assert kills == 6
    assert watched.states[1] is State.GAVE_UP


def test_any_sign_of_life_is_enough() -> None:
    """A new cycle, or a fresh status without one, as while it waits for a neighbour; in the last second too."""
    watched = supervisor()
    begin(watched)
    now_s = 0
    for sign in ((7, 1.0), (8, 1.0), (8, 2.0), (8, 3.0)):
        now_s += 120
        assert look_at(watched, sign, *range(now_s - 119, now_s + 1)) == ()


def test_a_node_that_cannot_be_expected_to_show_anything_is_left_alone() -> None:
    """While it starts, however long that takes; silence counts from its first sign on."""
    watched = supervisor()
    begin(watched)
    assert look_at(watched, None, *range(5000)) == ()
    assert look_at(watched, (0, 1.0), *range(5000, 5120)) == ()
    assert look_at(watched, (0, 1.0), 5120.0) == (Stop(1, kill=True, quiet_s=120.0),)


def test_a_launcher_that_slept_with_its_nodes_kills_none_of_them() -> None:
    """A night between two looks is one second of silence; what comes after it counts in full."""
    watched = supervisor()
    begin(watched)
    assert look_at(watched, (7, 1.0), 10.0, 30_000.0, 60_000.0) == ()
    assert look_at(watched, (7, 1.0), *range(60_001, 60_118)) == ()
    assert look_at(watched, (7, 1.0), 60_118.0) == (Stop(1, kill=True, quiet_s=120.0),)


def test_hang_s_0_never_kills() -> None:
    """For whoever trains something whose cycles take longer."""
    watched = supervisor(policy=RestartPolicy(hang_s=0.0))
    begin(watched)
    assert look_at(watched, (7, 1.0), *range(5000)) == ()


def test_a_silent_node_is_stopped_as_politely_as_any_other() -> None:
    """A stop has its own time limit; and one that was killed for its silence is not told again."""
    watched = supervisor()
    begin(watched)
    look_at(watched, (7, 1.0), *range(100))
    watched.stop(100.0)
    assert look_at(watched, (7, 1.0), 100.0) == (Stop(1),)
    assert look_at(watched, (7, 1.0), *range(101, 115)) == ()
    assert look_at(watched, (7, 1.0), 115.0) == (Stop(1, kill=True),)
