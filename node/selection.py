"""Whose discriminator to learn against: Eq. (6), Eq. (7) and the uniform policy, as pure functions of logits.

    J candidate neighbours, M noise samples z^1..z^m
    own_M     logits of D_k(G_k(z)), this node's own discriminator
    their_JM  logits of D_j(G_k(z)), one row for each candidate

Everything is computed in float64 from logits by `logsigmoid`: at probabilities near 0 or 1 the ratio of Eq. (6) would
otherwise be 0/0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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
    own, their = own_M.double(), their_JM.double()
    terms_JM = their.sigmoid() * (logsigmoid(their) - logsigmoid(own))
    return _divergences(terms_JM)


def bernoulli(own_M: Tensor, their_JM: Tensor) -> Divergences:
    """Sum over i of the full divergence KL(Bernoulli(D_j) || Bernoulli(D_k)), which is never negative."""
    own, their = own_M.double(), their_JM.double()
    real_JM = their.sigmoid() * (logsigmoid(their) - logsigmoid(own))
    generated_JM = (-their).sigmoid() * (logsigmoid(-their) - logsigmoid(-own))
    # Rounding can leave a sum of equal distributions a hair below 0.
    return _divergences((real_JM + generated_JM).clamp(min=0))


def _divergences(terms_JM: Tensor) -> Divergences:
    raw_J = terms_JM.sum(dim=1)
    return Divergences(raw_J.clamp(min=0), raw_J, float((terms_JM < 0).double().mean()))


CRITERIA = {"eq6": eq6, "bernoulli": bernoulli}


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
