"""Eq. (6) and Eq. (7) against values computed by hand in float64."""

from __future__ import annotations

import math

import pytest
import torch

from node.selection import bernoulli, eq6, information_gain, sample, uniform

OWN = (0.5, 0.2, 0.7)
THEIRS = ((0.9, 0.4, 0.7), (0.1, 0.1, 0.2))


def logit(probabilities: tuple[float, ...]) -> torch.Tensor:
    """Logits of the given probabilities, float64."""
    return torch.tensor([math.log(p / (1 - p)) for p in probabilities], dtype=torch.float64)


def test_eq6_is_the_sum_of_the_paper() -> None:
    """Row 1: .9 log(.9/.5) + .4 log(.4/.2) + .7 log 1; row 2 is negative and clamped."""
    found = eq6(logit(OWN), torch.stack([logit(row) for row in THEIRS]))
    first = 0.9 * math.log(1.8) + 0.4 * math.log(2)
    second = 0.1 * math.log(0.2) + 0.1 * math.log(0.5) + 0.2 * math.log(2 / 7)
    assert found.raw_J.tolist() == pytest.approx([first, second], abs=1e-6)
    assert found.values_J.tolist() == pytest.approx([first, 0.0], abs=1e-6)
    assert found.clamped == 1
    assert found.negative_terms == pytest.approx(3 / 6)


def test_bernoulli_adds_the_term_that_eq6_leaves_out() -> None:
    """KL(Bernoulli(.1) || Bernoulli(.5)) = .1 log .2 + .9 log 1.8, and so on; never negative."""
    found = bernoulli(logit(OWN), torch.stack([logit(row) for row in THEIRS]))

    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    expected = [sum(kl(p, q) for p, q in zip(row, OWN, strict=True)) for row in THEIRS]
    assert found.values_J.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.clamped == 0
    assert all(value > 0 for value in found.values_J.tolist())


def test_equal_discriminators_diverge_by_0() -> None:
    """Both criteria; no rounding below 0."""
    own = logit(OWN)
    assert eq6(own, own[None]).values_J.tolist() == [0.0]
    assert bernoulli(own, own[None]).values_J.tolist() == [0.0]


def test_divergences_are_finite_at_extreme_logits() -> None:
    """A ratio of probabilities would be 0/0 or inf here."""
    own, their = torch.tensor([80.0, -80.0]), torch.tensor([[-80.0, 80.0]])
    for criterion in (eq6, bernoulli):
        assert bool(criterion(own, their).raw_J.isfinite().all())
    assert float(bernoulli(own, their).values_J[0]) == pytest.approx(160, rel=1e-6)


def test_eq7_is_proportional_to_the_divergences() -> None:
    """1 : 3 : 0 becomes .25, .75, 0."""
    probabilities = information_gain(torch.tensor([2.0, 6.0, 0.0], dtype=torch.float64))
    assert probabilities.tolist() == pytest.approx([0.25, 0.75, 0.0], abs=1e-12)


def test_eq7_is_uniform_where_every_divergence_is_0() -> None:
    """Eq. (6) can clamp all candidates; then nobody is preferred."""
    assert information_gain(torch.zeros(4, dtype=torch.float64)).tolist() == uniform(4).tolist() == [0.25] * 4


def test_sampling_follows_the_probabilities() -> None:
    """Frequencies over 4,000 draws within five standard errors; a probability of 0 is never drawn."""
    stream = torch.Generator().manual_seed(11)
    probabilities = torch.tensor([0.3, 0.0, 0.7], dtype=torch.float64)
    draws = [sample(probabilities, stream) for _ in range(4000)]
    assert draws.count(1) == 0
    assert draws.count(0) / 4000 == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 4000))
