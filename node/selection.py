"""Whose discriminator to learn against: Eq. (6), other criteria, Eq. (7) and the uniform policy, as pure functions.

    J candidate neighbours, M noise samples z^1..z^m, R real images, P numbers of an image
    own_M     logits of D_k(G_k(z)), this node's own discriminator
    their_JM  logits of D_j(G_k(z)), one row for each candidate

Everything is computed in float64 from logits by `logsigmoid`: at probabilities near 0 or 1 the ratio of Eq. (6) would
otherwise be 0/0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

CAP = math.log(2)
"""Most that one image counts for in `capped`: KL of a D_j that is sure from a D_k that is undecided, KL(1 || 1/2)."""
TEMPERATURE = 2.0
"""T of `tempered`. To second order a KL divergence is a squared distance, so its root weighs by the distance itself."""
_SMALLEST = 1e-300  # below every norm that float32 gradients can have, and above 0


@dataclass(frozen=True)
class Divergences:
    """Divergence of each candidate from one's own discriminator.

    Attributes:
        values_J: What Eq. (7) weighs by: never negative.
        raw_J: Before negative values were clamped to 0.
        negative_terms: Fraction of the J x M terms of the sum that are below 0.
    """

    values_J: Tensor
    raw_J: Tensor
    negative_terms: float

    @property
    def clamped(self) -> int:
        """How many candidates' divergence was below 0."""
        return int((self.raw_J < 0).sum())


def eq6(own_M: Tensor, their_JM: Tensor) -> Divergences:
    """Eq. (6) to the letter: sum over i of D_j log(D_j / D_k), negative sums clamped to 0.

    The paper's sum leaves out the (1 - D) term of a Bernoulli divergence, so it is negative wherever D_j mostly
    says "generated" more surely than D_k, and then Eq. (7) would be no probability.
    """
    return _divergences(_terms(their_JM.double(), own_M.double()))


def bernoulli(own_M: Tensor, their_JM: Tensor) -> Divergences:
    """Sum over i of the full divergence KL(Bernoulli(D_j) || Bernoulli(D_k)), which is never negative."""
    return _divergences(_bernoulli_terms(own_M, their_JM))


def capped(own_M: Tensor, their_JM: Tensor) -> Divergences:
    """Sum over i of min(KL(Bernoulli(D_j) || Bernoulli(D_k)), CAP).

    A term grows without bound with the certainty of the two, so that in `bernoulli` one image on which both are sure
    and disagree outweighs a whole batch. Here the number of disagreements decides, not the loudest.
    """
    return _divergences(_bernoulli_terms(own_M, their_JM).clamp(max=CAP))


def tempered(own_M: Tensor, their_JM: Tensor) -> Divergences:
    """Bernoulli divergence to the power of 1 / TEMPERATURE, by which Eq. (7) is less certain of its favourite.

    Of divergences a : b Eq. (7) makes the odds a : b, and these are far apart: the draw of line 11 is nearly no draw.
    T > 1 makes the odds (a : b)^(1/T): the order stays, and the others are heard too.
    """
    powers_J = bernoulli(own_M, their_JM).values_J ** (1 / TEMPERATURE)
    return Divergences(powers_J, powers_J, 0.0)


def competence(own_M: Tensor, their_JM: Tensor, their_real_JR: Tensor) -> Divergences:
    """Bernoulli divergence times how well D_j tells this node's real images x from its generated ones.

    A D_j also diverges where it knows nothing of this node's images, and Eq. (6) takes that for information. The
    factor is max(2 AUC - 1, 0) with AUC = P(D_j(x) > D_j(G(z))), ties counted half: 0 at chance and below, 1 where
    every real image is above every generated one. Only the order of logits counts, as D_j's threshold is that of
    other images.

    Args:
        own_M: See above.
        their_JM: See above.
        their_real_JR: Logits of D_j(x) on this node's real images, one row for each candidate.
    """
    real_JR1, fake_J1M = their_real_JR.double()[:, :, None], their_JM.double()[:, None, :]
    # The mean of the sign is P(above) - P(below) = 2 AUC - 1.
    skill_J = (real_JR1 > fake_J1M).double() - (real_JR1 < fake_J1M).double()
    values_J = skill_J.mean(dim=(1, 2)).clamp(min=0) * bernoulli(own_M, their_JM).values_J
    return Divergences(values_J, values_J, 0.0)


def objection(own_M: Tensor, their_JM: Tensor) -> Divergences:
    """Sum over i of D_k log(D_k / D_j) where D_j < D_k, and of nothing elsewhere: Eq. (6) the other way round.

    Eq. (6) is largest for a D_j that takes images for real which D_k does not, one that G has fooled already. Here a D_j
    counts that finds fault with images by which D_k is fooled, and G learns from it what the own D cannot tell.
    """
    return _divergences(_terms(own_M.double(), their_JM.double()).clamp(min=0))


def novelty(gradients_JMP: Tensor) -> Divergences:
    """Sum over i of 1 - cos(g_k, g_j), g the gradients of G's loss with respect to the image G(z^i) under D_k and D_j.

    Two discriminators may give an image different marks and yet ask for the same change, which line 8 has just made.
    What line 12 can add is another direction. A term is 0 for the same direction, 1 for one that is independent of
    the own, 2 for the opposite, and 0 where D_j asks for no change.

    Args:
        gradients_JMP: The own D's in the first row, then one row for each candidate.
    """
    directions_JMP = normalize(gradients_JMP.double(), dim=2, eps=_SMALLEST)
    cosines_JM = (directions_JMP[0] * directions_JMP[1:]).sum(dim=2)
    asks_JM = directions_JMP[1:].any(dim=2)
    # Rounding can leave a cosine a hair above 1. A gradient that is not finite has no direction.
    return _divergences(((1 - cosines_JM).clamp(min=0) * asks_JM).nan_to_num(nan=0.0))


def _terms(p: Tensor, q: Tensor) -> Tensor:
    """Elementwise p log(p / q), of probabilities given as logits."""
    return p.sigmoid() * (logsigmoid(p) - logsigmoid(q))


def _bernoulli_terms(own_M: Tensor, their_JM: Tensor) -> Tensor:
    own, their = own_M.double(), their_JM.double()
    # Rounding can leave a sum of equal distributions a hair below 0.
    return (_terms(their, own) + _terms(-their, -own)).clamp(min=0)


def _divergences(terms_JM: Tensor) -> Divergences:
    raw_J = terms_JM.sum(dim=1)
    return Divergences(raw_J.clamp(min=0), raw_J, float((terms_JM < 0).double().mean()))


@dataclass(frozen=True)
class Evidence:
    """What a criterion may go by; what costs more than logits is made when it is asked for.

    Attributes:
        own_M: Logits of the own D on the generated images.
        their_JM: Logits of each candidate's D on them.
        judge_real: Logits of each candidate's D on this cycle's real images, (J, R).
        differentiate: Gradients of G's loss with respect to the generated images, (1 + J, M, P), the own D's first.
    """

    own_M: Tensor
    their_JM: Tensor
    judge_real: Callable[[], Tensor]
    differentiate: Callable[[], Tensor]


CRITERIA: Mapping[str, Callable[[Evidence], Divergences]] = {
    "eq6": lambda e: eq6(e.own_M, e.their_JM),
    "bernoulli": lambda e: bernoulli(e.own_M, e.their_JM),
    "capped": lambda e: capped(e.own_M, e.their_JM),
    "tempered": lambda e: tempered(e.own_M, e.their_JM),
    "objection": lambda e: objection(e.own_M, e.their_JM),
    "competence": lambda e: competence(e.own_M, e.their_JM, e.judge_real()),
    "novelty": lambda e: novelty(e.differentiate()),
}


def information_gain(divergences_J: Tensor) -> Tensor:
    """Eq. (7): probabilities (J,) proportional to the divergences; uniform where all of them are 0."""
    total = divergences_J.sum()
    if not torch.isfinite(total) or total <= 0:
        return uniform(len(divergences_J))
    return divergences_J / total


def uniform(candidates: int) -> Tensor:
    """Equal probabilities (J,), float64."""
    return torch.full((candidates,), 1 / candidates, dtype=torch.float64)


def sample(probabilities_J: Tensor, generator: torch.Generator) -> int:
    """Index of one candidate drawn from a discrete distribution (line 11 of Algorithm 1)."""
    return int(torch.multinomial(probabilities_J.cpu(), 1, generator=generator))
