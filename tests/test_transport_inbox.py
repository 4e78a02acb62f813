"""transport.inbox: what is accepted, repeated or refused, by an injected clock."""

from __future__ import annotations

import numpy as np
import pytest

from transport.errors import FloodError, FrameSizeError, MalformedFrameError, MismatchError, StaleError
from transport.inbox import MAX_FRAMES_PER_S, QUARANTINE_S, Accepted, Inbox, Refused, Repeated
from transport.wire import Expected, Schema, Snapshot, encode

SCHEMA = Schema("tiny", (("weight", (3,)),))


def frame(boot: int, seq: int, value: float = 0.0, run_id: str = "run") -> bytes:
    """A frame of node 2."""
    weights = {"weight": np.full(3, value, np.float32)}
    return encode(Snapshot(run_id, 2, "tiny", boot, seq, seq, False, (weights,)), SCHEMA)  # noqa: FBT003 - `done`, a field


@pytest.fixture
def inbox() -> Inbox:
    """What node 2 sends goes here."""
    return Inbox(Expected("run", 2, SCHEMA))


def test_nothing_has_arrived_at_first(inbox: Inbox) -> None:
    """A neighbour that never spoke has no snapshot."""
    assert inbox.latest is None


def test_a_newer_snapshot_replaces_the_one_before(inbox: Inbox) -> None:
    """The newest stays, with the time of its arrival."""
    for seq in range(3):
        verdict = inbox.offer(frame(1, seq), 10.0 + seq)
        assert isinstance(verdict, Accepted)
        assert verdict.delivery is inbox.latest
    assert inbox.latest
    assert (inbox.latest.snapshot.order, inbox.latest.arrived_s, inbox.latest.heard_s) == ((1, 2), 12.0, 12.0)
    assert (inbox.accepted, inbox.repeated, inbox.refused) == (3, 0, 0)


def test_numbers_may_be_left_out(inbox: Inbox) -> None:
    """Conflation drops snapshots; what comes later is newer all the same."""
    inbox.offer(frame(1, 1), 0)
    assert isinstance(inbox.offer(frame(1, 900), 1), Accepted)


def test_a_repeat_says_that_the_neighbour_lives(inbox: Inbox) -> None:
    """The snapshot keeps its arrival; only the time it was heard moves."""
    inbox.offer(frame(1, 5), 1.0)
    verdict = inbox.offer(frame(1, 5), 4.0)
    assert isinstance(verdict, Repeated)
    assert (verdict.delivery.arrived_s, verdict.delivery.heard_s) == (1.0, 4.0)
    assert inbox.latest is verdict.delivery
    assert (inbox.accepted, inbox.repeated, inbox.refused) == (1, 1, 0)


@pytest.mark.parametrize(("boot", "seq"), [(3, 6), (2, 900), (0, 0)])
def test_an_older_snapshot_is_refused(inbox: Inbox, boot: int, seq: int) -> None:
    """Neither a lower seq nor an older boot comes back, however recorded."""
    inbox.offer(frame(3, 7), 0)
    verdict = inbox.offer(frame(boot, seq), 1)
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, StaleError)
    assert (verdict.error.order, verdict.error.newest) == ((boot, seq), (3, 7))
    assert inbox.latest
    assert (inbox.latest.snapshot.order, inbox.latest.heard_s) == ((3, 7), 0)


def test_other_contents_under_the_same_number_are_refused(inbox: Inbox) -> None:
    """One number, one snapshot."""
    inbox.offer(frame(1, 5, value=1), 0)
    verdict = inbox.offer(frame(1, 5, value=2), 1)
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, StaleError)


def test_a_restarted_neighbour_begins_anew(inbox: Inbox) -> None:
    """A higher boot outweighs any seq, also from an older checkpoint."""
    inbox.offer(frame(1, 5000), 0)
    assert isinstance(inbox.offer(frame(2, 0), 1), Accepted)


def test_a_refused_frame_leaves_the_accepted_one(inbox: Inbox) -> None:
    """It is counted, kept as the last refusal, and nothing else changes."""
    inbox.offer(frame(1, 1), 0)
    before = inbox.latest
    verdict = inbox.offer(frame(1, 2, run_id="other"), 1)
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, MismatchError)
    assert inbox.latest is before
    assert (inbox.refused, inbox.last_refusal) == (1, str(verdict.error))
    assert inbox.refusals == {type(verdict.error).__name__: 1}
    assert isinstance(inbox.offer(frame(1, 2), 2), Accepted)


def test_noise_is_refused_by_its_size_first(inbox: Inbox) -> None:
    """A frame that is too long is not even hashed."""
    assert isinstance(inbox.offer(b"", 0), Refused)
    verdict = inbox.offer(frame(1, 1) + bytes(5000), 0)
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, FrameSizeError)


def test_a_refusal_from_outside_is_counted(inbox: Inbox) -> None:
    """What was not even read whole."""
    inbox.refuse(MalformedFrameError(2, "it has several parts"))
    assert (inbox.refused, inbox.last_refusal) == (1, "node 2 sent a malformed frame: it has several parts")


def test_a_flood_is_not_listened_to_for_a_while(inbox: Inbox) -> None:
    """The frame above the limit starts the quarantine; it ends after its time, and the newest counts again."""
    for index in range(MAX_FRAMES_PER_S):
        assert isinstance(inbox.offer(frame(1, index), 100 + index / 1000), Accepted)
    verdict = inbox.offer(frame(1, 1000), 100.5)
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, FloodError)
    assert (verdict.error.frames, verdict.error.limit) == (MAX_FRAMES_PER_S + 1, MAX_FRAMES_PER_S)
    assert isinstance(inbox.offer(frame(1, 1001), 100.5 + QUARANTINE_S - 0.1), Refused)
    assert isinstance(inbox.offer(frame(1, 1002), 100.5 + QUARANTINE_S), Accepted)


def test_a_fast_publisher_is_no_flood(inbox: Inbox) -> None:
    """At the pace that publishers keep, every frame is accepted."""
    for index in range(5 * MAX_FRAMES_PER_S):
        assert isinstance(inbox.offer(frame(1, index), 2 * index / MAX_FRAMES_PER_S), Accepted)


def test_a_flood_that_conflation_hides_is_one_all_the_same(inbox: Inbox) -> None:
    """A busy reader sees twenty frames a second, and each stands for a thousand."""
    verdicts = [inbox.offer(frame(1, index), index / 20, arrived=1000) for index in range(20)]
    (first, *_), refused = verdicts, [each for each in verdicts if isinstance(each, Refused)]
    assert isinstance(first, Accepted)
    assert refused
    assert {type(each.error) for each in refused} == {FloodError}
    assert isinstance(verdicts[-1], Refused)


def test_a_flood_may_be_over_before_the_first_look(inbox: Inbox) -> None:
    """There is no time before it that would have allowed for so many."""
    assert isinstance(inbox.offer(frame(1, 0), 1000.0, arrived=100_000), Refused)


def test_a_busy_reader_of_an_honest_neighbour_sees_no_flood(inbox: Inbox) -> None:
    """One look in five seconds, at the last of all that a publisher may send in that time."""
    for index in range(20):
        now_s, arrived = 5.0 * index, 5 * MAX_FRAMES_PER_S // 2
        assert isinstance(inbox.offer(frame(1, index), now_s, arrived), Accepted)


def test_what_a_line_held_back_is_no_flood(inbox: Inbox) -> None:
    """After a pause megabytes come at once; the pace of a publisher goes on from there."""
    held_back = 10_000_000 // inbox.expected.max_frame_bytes
    inbox.offer(frame(1, 0), 0.0)
    assert isinstance(inbox.offer(frame(1, 1), 1.0, held_back), Accepted)
    for index in range(2, 500):
        assert isinstance(inbox.offer(frame(1, index), 1.0 + index / 100), Accepted)
