"""What happened in a cycle of Algorithm 1, for whoever reports it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exchange:
    """What came of considering the neighbours (lines 10-12).

    Attributes:
        chosen: Neighbour of line 11; None where nobody had a usable snapshot, and the step was skipped. This node itself
            under `alone-matched`, `gossip` and `territories`, and under `forgiving` whoever forgave the most images, perhaps
            this node too.
        loss: G's loss against that D (line 12); under `forgiving` and `territories` against all of them.
        divergences: What Eq. (7) weighed, by neighbour; empty unless the policy is `info-gain`.
        clamped: How many of them were below 0 before they were clamped.
        negative_terms: Fraction of the criterion's terms that were below 0.
    """

    chosen: int | None = None
    loss: float | None = None
    divergences: dict[int, float] = field(default_factory=dict)
    clamped: int = 0
    negative_terms: float = 0.0


@dataclass(frozen=True)
class CycleRecord:
    """What happened in one cycle.

    Attributes:
        cycle: Number of the cycle, from 1.
        epoch: n of LossThres = c / n, from 1.
        loss_threshold: LossThres(n).
        d_loss: D's loss on the last batch of lines 2-6, before the step that it asked for.
        g_loss: G's loss against its own D (line 8); under `forgiving`, where line 9 came out true, and under
            `territories` against all judges.
        inner_steps: Steps of lines 2-6; 0 where the loss was not above the threshold.
        cap_hit: Whether the inner loop ended by its cap, with the loss still above the threshold.
        exchange: Lines 10-12; None where line 9 came out false.
    """

    cycle: int
    epoch: int
    loss_threshold: float
    d_loss: float
    g_loss: float
    inner_steps: int
    cap_hit: bool
    exchange: Exchange | None
