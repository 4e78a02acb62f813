"""Eq. (6), the other criteria and Eq. (7) against values computed by hand in float64."""

from __future__ import annotations

import math

import pytest
import torch

from node.selection import (
    CAP,
    CRITERIA,
    TEMPERATURE,
    Evidence,
    bernoulli,
    capped,
    competence,
    eq6,
    information_gain,
    novelty,
    objection,
    sample,
    tempered,
    uniform,
)

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


def test_capped_lets_no_single_image_decide() -> None:
    """One image on which both are sure and disagree outweighs three mild ones, but for the cap."""
    own = torch.tensor([-80.0, 0.0, 0.0, 0.0])
    loud, mild = torch.tensor([80.0, 0.0, 0.0, 0.0]), torch.tensor([-80.0, 80.0, 80.0, -80.0])
    full, limited = (criterion(own, torch.stack([loud, mild])).values_J for criterion in (bernoulli, capped))
    assert full.tolist() == pytest.approx([80, 3 * CAP])
    assert limited.tolist() == pytest.approx([CAP, 3 * CAP])
    assert pytest.approx(math.log(2)) == CAP


def test_below_the_cap_capped_is_bernoulli() -> None:
    """No term of these reaches log 2."""
    own, their = logit(OWN), torch.stack([logit(row) for row in THEIRS])
    assert torch.equal(capped(own, their).values_J, bernoulli(own, their).values_J)


def test_tempered_makes_the_odds_of_eq7_their_root() -> None:
    """The order stays; the favourite is less certain."""
    own, their = logit(OWN), torch.stack([logit(row) for row in THEIRS])
    plain = information_gain(bernoulli(own, their).values_J)
    milder = information_gain(tempered(own, their).values_J)
    assert TEMPERATURE == 2
    assert float(milder[0] / milder[1]) == pytest.approx(math.sqrt(float(plain[0] / plain[1])))
    assert plain.max() > milder.max() > 0.5


def test_competence_weighs_the_divergence_by_how_well_real_is_told_from_generated() -> None:
    """Pairs (real, generated): three right and a tie of four, all right, all wrong, none either way."""
    own = torch.tensor([0.3, -0.2])
    their = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    real = torch.tensor([[2.0, 1.0], [9.0, 1.5], [-1.0, -2.0], [0.5, 0.5]])
    divergence = float(bernoulli(own, their).values_J[0])
    found = competence(own, their, real).values_J
    assert found.tolist() == pytest.approx([0.75 * divergence, divergence, 0, 0], abs=1e-12)


def test_objection_goes_by_what_the_own_discriminator_lets_pass_and_the_other_does_not() -> None:
    """Of Eq. (6)'s terms the wrong way round, those above 0: .8 log(.8/.2), nothing for .3 against .6."""
    own = logit((0.8, 0.3, 0.5))
    their = torch.stack([logit((0.2, 0.6, 0.5)), logit((0.9, 0.9, 0.9)), logit((0.8, 0.1, 0.5))])
    found = objection(own, their)
    expected = [0.8 * math.log(0.8 / 0.2), 0, 0.3 * math.log(0.3 / 0.1)]
    assert found.values_J.tolist() == pytest.approx(expected, abs=1e-6)
    assert (found.clamped, found.negative_terms) == (0, 0.0)


def test_novelty_is_the_angle_between_what_two_discriminators_ask_for() -> None:
    """Same direction 0, independent 1, opposite 2, for each of two images; lengths do not count."""
    own = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    independent = torch.tensor([[0.0, 2.0], [-5.0, 0.0]])
    found = novelty(torch.stack([own, 1e-30 * own, independent, -4 * own]))
    assert found.values_J.tolist() == pytest.approx([0, 2, 4], abs=1e-12)


def test_novelty_is_0_where_nothing_or_no_number_is_asked_for() -> None:
    """Of two images the first is lost; a D_k that asks for nothing makes all else new."""
    own = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    nothing = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    broken = torch.tensor([[float("nan"), 0.0], [1.0, 1.0]])
    infinite = torch.tensor([[float("inf"), 0.0], [1.0, 1.0]])
    assert novelty(torch.stack([own, nothing, broken, infinite])).values_J.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_is_finite_at_extremes_and_0_for_a_twin(name: str) -> None:
    """A candidate like the own D, one that contradicts it, in either order alike."""
    own = torch.tensor([80.0, -80.0, 1e30, 0.0])
    theirs, gradients = torch.stack([own, -own]), torch.stack([own, own, -own])[:, :, None]
    found = CRITERIA[name](Evidence(own, theirs, lambda: theirs + 1, lambda: gradients)).values_J
    turned = CRITERIA[name](
        Evidence(own, theirs.flip(0), lambda: theirs.flip(0) + 1, lambda: gradients[[0, 2, 1]])
    ).values_J
    assert bool(found.isfinite().all())
    assert found.tolist() == turned.flip(0).tolist()
    assert float(found[0]) == pytest.approx(0, abs=1e-9)
    assert float(found[1]) >= 0


@pytest.mark.parametrize(
    ("name", "asked"),
    [(name, {"competence": ["real"], "novelty": ["gradients"]}.get(name, [])) for name in CRITERIA],
)
def test_a_criterion_asks_for_what_it_uses_alone(name: str, asked: list[str]) -> None:
    """The evidence beyond logits costs passes through every discriminator."""
    told: list[str] = []
    own, theirs = logit(OWN), torch.stack([logit(row) for row in THEIRS])

    def real() -> torch.Tensor:
        told.append("real")
        return theirs

    def gradients() -> torch.Tensor:
        told.append("gradients")
        return torch.ones(3, 3, 5)

    CRITERIA[name](Evidence(own, theirs, real, gradients))
    assert told == asked
