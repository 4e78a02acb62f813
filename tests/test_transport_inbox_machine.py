"""transport.inbox against a model: any neighbour, late, restarted, repeating, replaying, flooding, by an injected clock."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from transport.errors import FloodError, StaleError
from transport.inbox import MAX_FRAMES_PER_S, QUARANTINE_S, Accepted, Inbox, Refused, Repeated, Verdict
from transport.wire import Expected, Schema, Snapshot, encode

SCHEMA = Schema("tiny", (("weight", (3,)),))


def frame(boot: int, seq: int, value: int, run_id: str = "run") -> bytes:
    """A frame of node 2."""
    weights = {"weight": np.full(3, value, np.float32)}
    return encode(Snapshot(run_id, 2, "tiny", boot, seq, seq, False, (weights,)), SCHEMA)  # noqa: FBT003 - `done`, a field


class Neighbour(RuleBasedStateMachine):
    """One neighbour and the inbox that listens to it.

    The model is what docs/protocol.md says under Order and When frames are sent: the newest (boot, seq) counts, and
    whoever sends more than 200 frames in a second is not listened to for 10 s. The inbox counts in seconds that begin
    with a frame, so that a burst over two of them may pass with up to twice as many; between the two bounds the model
    takes either verdict.
    """

    @initialize(boot=st.integers(0, 3), seq=st.integers(0, 3))
    def start(self, boot: int, seq: int) -> None:
        """Nothing was heard yet."""
        self.inbox = Inbox(Expected("run", 2, SCHEMA))
        self.now_s = 1000.0
        self.boot, self.seq, self.value = boot, seq, 0
        self.recorded: list[tuple[tuple[int, int], bytes]] = []
        self.accepted: tuple[tuple[int, int], bytes] | None = None
        self.arrived_s = self.heard_s = 0.0
        self.times: list[float] = []
        self.counts = {Accepted: 0, Repeated: 0, Refused: 0}
        self.quarantined_until_s = float("-inf")

    def offer(self, data: bytes) -> tuple[Verdict, bool]:
        """The inbox's verdict, and whether it looked at the frame; holds it to the rate."""
        self.times = [each for each in self.times if self.now_s - each < 1] + [self.now_s]
        verdict = self.inbox.offer(data, self.now_s)
        self.counts[type(verdict)] += 1
        flood = isinstance(verdict, Refused) and isinstance(verdict.error, FloodError)
        if self.now_s < self.quarantined_until_s or len(self.times) > 2 * MAX_FRAMES_PER_S:
            assert flood
        elif len(self.times) <= MAX_FRAMES_PER_S:
            assert not flood
        if flood and verdict.error.frames > MAX_FRAMES_PER_S:
            self.quarantined_until_s = self.now_s + QUARANTINE_S
        return verdict, not flood

    def offer_right(self, order: tuple[int, int], data: bytes) -> None:
        """A frame that is right in itself: what becomes of it depends on its order alone."""
        verdict, listened = self.offer(data)
        if not listened:
            return
        if self.accepted and data == self.accepted[1]:
            assert isinstance(verdict, Repeated)
            self.heard_s = self.now_s
        elif self.accepted is None or order > self.accepted[0]:
            assert isinstance(verdict, Accepted)
            self.accepted, self.arrived_s, self.heard_s = (order, data), self.now_s, self.now_s
        else:
            assert isinstance(verdict, Refused)
            assert isinstance(verdict.error, StaleError)
            assert (verdict.error.order, verdict.error.newest) == (order, self.accepted[0])

    @rule(step=st.integers(1, 5), lost=st.booleans())
    def publish(self, step: int, lost: bool) -> None:  # noqa: FBT001 - drawn by name
        """The next snapshot, some left out; it may be lost on its way and recorded by someone."""
        self.seq += step
        self.value += 1
        made = (self.boot, self.seq), frame(self.boot, self.seq, self.value)
        self.recorded.append(made)
        if not lost:
            self.offer_right(*made)

    @rule(seq=st.integers(0, 3))
    def restart(self, seq: int) -> None:
        """The neighbour begins anew, perhaps from an old checkpoint: boot grows, seq falls."""
        self.boot, self.seq = self.boot + 1, seq

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Anything that was ever made comes again: a repeat, an old one, or one that was lost."""
        self.offer_right(*data.draw(st.sampled_from(self.recorded)))

    @precondition(lambda self: self.accepted)
    @rule()
    def repeat(self) -> None:
        """The accepted one comes again."""
        assert self.accepted
        self.offer_right(*self.accepted)

    @precondition(lambda self: self.accepted)
    @rule()
    def another_under_the_same_number(self) -> None:
        """Other weights with the accepted order."""
        assert self.accepted
        order = self.accepted[0]
        self.value += 1
        self.offer_right(order, frame(*order, self.value))

    @rule(noise=st.one_of(st.binary(max_size=300), st.just(bytes(10_000))))
    def noise(self, noise: bytes) -> None:
        """Bytes that are no frame, and more of them than a frame may have."""
        assert isinstance(self.offer(noise)[0], Refused)

    @rule(ahead=st.integers(0, 9))
    def another_run(self, ahead: int) -> None:
        """A good frame of a run that is none of ours, however new."""
        assert isinstance(self.offer(frame(self.boot + ahead, 0, 1, "other"))[0], Refused)

    @rule(place=st.integers(0, 15), flip=st.integers(1, 255))
    def damage(self, place: int, flip: int) -> None:
        """A new frame whose payload or preamble was changed on its way."""
        good = bytearray(frame(self.boot, self.seq + 1, self.value))
        places = [*range(5), *range(6, 8), *range(len(good) - 9, len(good))]
        good[places[place % len(places)]] ^= flip
        assert isinstance(self.offer(bytes(good))[0], Refused)

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.5, 0.999, 1.0, 3.0, QUARANTINE_S - 1, QUARANTINE_S, 60.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds

    @rule(count=st.sampled_from([MAX_FRAMES_PER_S - 1, MAX_FRAMES_PER_S, MAX_FRAMES_PER_S + 1, 450]))
    def flood(self, count: int) -> None:
        """Many frames at one moment."""
        for _ in range(count):
            assert isinstance(self.offer(b"")[0], Refused)

    @rule(bursts=st.integers(2, 4))
    def keep_the_pace(self, bursts: int) -> None:
        """As many in each second as a publisher may send, the last of them a new snapshot."""
        for _ in range(bursts):
            self.now_s += 1
            for _ in range(MAX_FRAMES_PER_S // 2 - 1):
                self.offer(b"")
            self.publish(1, lost=False)

    @invariant()
    def the_newest_accepted_one_is_there(self) -> None:
        """Whatever was refused left it alone, and every frame was counted once."""
        latest = self.inbox.latest
        assert (latest is None) == (self.accepted is None)
        if latest and self.accepted:
            assert latest.snapshot.order == self.accepted[0]
            assert encode(latest.snapshot, SCHEMA) == self.accepted[1]
            assert (latest.arrived_s, latest.heard_s) == (self.arrived_s, self.heard_s)
        counted = (self.inbox.accepted, self.inbox.repeated, self.inbox.refused)
        assert counted == (self.counts[Accepted], self.counts[Repeated], self.counts[Refused])


Neighbour.TestCase.settings = settings(max_examples=100, stateful_step_count=20)
TestNeighbour = Neighbour.TestCase
