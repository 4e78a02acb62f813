"""What a link has counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NeighborStatistics:
    """One neighbour since the link was started, or since it has another key.

    Attributes:
        accepted: Snapshots accepted.
        repeated: Frames that brought the accepted snapshot once more.
        refusals: Frames refused, by the name of the error.
        rebuilds: How often the connection had to be built anew.
        last_refusal: Why the last refused frame was, in one line.
        heard_s: When the accepted snapshot or its repeat came last, receiver's monotonic seconds.
        connected: A connection stands now, and both ends have proved who they are.
    """

    accepted: int
    repeated: int
    refusals: Mapping[str, int]
    rebuilds: int
    last_refusal: str | None
    heard_s: float | None
    connected: bool

    @property
    def refused(self) -> int:
        """Frames refused, for whatever reason."""
        return sum(self.refusals.values())


@dataclass(frozen=True)
class LinkStatistics:
    """Counters since the link was started.

    Attributes:
        bytes_out: Bytes of frames handed to subscribers' connections: frame x subscribers at each send, and the
            welcome frame of each that joins. What a stuck subscriber made libzmq drop is counted too.
        bytes_in: Bytes of frames received, refused ones included.
        publishes: New frames sent; those that gave way to a newer one before they were sent are not counted.
        republishes: Frames sent again because no new one came.
        subscribers: Connections subscribed to this node now.
        neighbors: By node id.
    """

    bytes_out: int
    bytes_in: int
    publishes: int
    republishes: int
    subscribers: int
    neighbors: Mapping[int, NeighborStatistics]
