"""What is accepted from one neighbour. Pure: frames and times go in, verdicts come out.

Theory of operation. A neighbour may be late, silent, restarted, mistaken or hostile, and whoever reads its frames must
not have to care. A frame is
    repeated  when it equals, byte for byte, the one accepted last: the neighbour is alive and has nothing newer
    refused   when `verify` or `read` refuses it, when its (boot, seq) is not above the accepted one's, or when the neighbour
              sends faster than any publisher may; then nothing of it is looked at for a while
    accepted  else; it replaces the one before.
Restarts need no rule of their own: a node stores a higher boot before its first publish, so that (boot, seq) grows
although seq begins anew. Times are the receiver's monotonic seconds, never anything from the wire.

Conflation shows only the last of the frames that came while the reader was busy, and a busy reader of a flood sees no more
of them than of an honest neighbour's. So those that it was not shown count too, against a limit that leaves room for what a
line that stood still lets go of at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from transport.errors import FloodError, RemoteError, StaleError
from transport.wire import Expected, Frame, Snapshot, read, verify

MAX_FRAMES_PER_S = 200
"""Frames in a second above which a neighbour floods; a publisher sends at most half of them."""
QUARANTINE_S = 10.0
"""For how long a flooding neighbour is not listened to."""
_STALLED_BYTES = 16_000_000  # more than the kernels at both ends hold back while a line stands still


@dataclass(frozen=True)
class Delivery:
    """The newest snapshot of a neighbour.

    Attributes:
        snapshot: What was accepted.
        arrived_s: When it was accepted first, receiver's monotonic seconds.
        heard_s: When it, or its repeat, came last, receiver's monotonic seconds.
    """

    snapshot: Snapshot
    arrived_s: float
    heard_s: float


@dataclass(frozen=True)
class Accepted:
    """The frame holds something new."""

    delivery: Delivery


@dataclass(frozen=True)
class Repeated:
    """The frame is the accepted one once more."""

    delivery: Delivery


@dataclass(frozen=True)
class Refused:
    """The frame was dropped, and why."""

    error: RemoteError


Verdict = Accepted | Repeated | Refused


class Inbox:
    """Judges the frames of one connection.

    Args:
        expected: What every frame on it must be.

    Attributes:
        latest: The newest delivery; None before the first.
        accepted: Frames accepted.
        repeated: Frames that repeated the accepted one.
        refusals: Frames refused, by the name of the error.
        last_refusal: Why the last refused one was, in one line.
    """

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.latest: Delivery | None = None
        self.accepted = 0
        self.repeated = 0
        self.refusals: Counter[str] = Counter()
        self.last_refusal: str | None = None
        self._head = b""
        self._window_s = float("-inf")
        self._window_frames = 0
        self._backlog, self._backlog_s = 0.0, float("inf")
        self._most_backlog = MAX_FRAMES_PER_S + _STALLED_BYTES // expected.max_frame_bytes
        self._quarantined_until_s = float("-inf")

    @property
    def refused(self) -> int:
        """Frames refused, for whatever reason."""
        return self.refusals.total()

    def offer(self, frame: Frame, now_s: float, arrived: int = 1) -> Verdict:
        """Judges one frame.

        Args:
            frame: The newest one.
            now_s: When it arrived, receiver's monotonic seconds.
            arrived: Frames that arrived since the last one offered, itself and those that it replaced.
        """
        try:
            self._check_rate(now_s, arrived)
            return self._judge(frame, now_s)
        except RemoteError as error:
            return self.refuse(error)

    def refuse(self, error: RemoteError) -> Refused:
        """Counts a refusal that was decided without looking at a whole frame."""
        self.refusals[type(error).__name__] += 1
        self.last_refusal = str(error)
        return Refused(error)

    def _check_rate(self, now_s: float, arrived: int) -> None:
        """Two limits: on the frames looked at within a second, and on all of them beyond what the time since allows."""
        if now_s - self._window_s >= 1:
            self._window_s, self._window_frames = now_s, 0
        self._window_frames += 1
        allowed = max(now_s - self._backlog_s, 0.0) * MAX_FRAMES_PER_S  # none before the first look
        self._backlog, self._backlog_s = max(self._backlog + arrived - allowed, 0.0), now_s
        frames = self._window_frames
        if self._backlog > self._most_backlog:
            frames, self._backlog = max(frames, int(self._backlog)), 0.0
        if frames > MAX_FRAMES_PER_S:
            self._quarantined_until_s = now_s + QUARANTINE_S
        if now_s < self._quarantined_until_s:
            raise FloodError(self.expected.node_id, frames, MAX_FRAMES_PER_S, QUARANTINE_S)

    def _judge(self, frame: Frame, now_s: float) -> Verdict:
        verified = verify(frame, self.expected)
        if self.latest and verified.head == self._head:
            self.repeated += 1
            self.latest = replace(self.latest, heard_s=now_s)
            return Repeated(self.latest)
        snapshot = read(frame, verified, self.expected)
        if self.latest and snapshot.order <= self.latest.snapshot.order:
            raise StaleError(self.expected.node_id, snapshot.order, self.latest.snapshot.order)
        self.accepted += 1
        self._head = verified.head
        self.latest = Delivery(snapshot, arrived_s=now_s, heard_s=now_s)
        return Accepted(self.latest)
