"""Means with intervals: by hand, and by simulated studies whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.statistics import Estimate, Interval, difference, effect_size, mean, relative_change

HAND = {0: {1: 1.0, 2: 3.0}, 1: {1: 4.0, 2: 4.0}, 2: {1: 6.0, 2: 6.0}}
"""Means of seeds: 2, 4 and 6."""


def simulated(
    rng: np.random.Generator, seeds: int, nodes: int = 5, between: float = 1.0, within: float = 0.5
) -> dict[int, dict[int, float]]:
    """Figures about 0 whose seeds differ by `between` and whose nodes within a seed by `within` (standard deviations)."""
    shifts = rng.normal(0, between, seeds)
    return {
        seed: {node: float(shift + rng.normal(0, within)) for node in range(1, nodes + 1)}
        for seed, shift in enumerate(shifts)
    }


def width(interval: Interval | None) -> float:
    """Length of an interval that must be there."""
    assert interval is not None
    return interval.high - interval.low


def covered(interval: Interval | None) -> bool:
    """Whether the truth of `simulated` lies inside."""
    assert interval is not None
    return interval.low <= 0 <= interval.high


def some(estimate: Estimate | None) -> Estimate:
    """An estimate that must be there."""
    assert estimate is not None
    return estimate


def test_a_mean_names_what_it_rests_on() -> None:
    """By hand: t of 2 degrees of freedom is 4.3027, the standard error of 2, 4, 6 is 2 / sqrt(3)."""
    found = some(mean(HAND))
    assert (found.value, found.seeds, found.nodes, found.figures) == (4.0, (0, 1, 2), (1, 2), 6)
    assert found.student is not None
    assert found.student.high == pytest.approx(4 + 4.30265 * 2 / math.sqrt(3), abs=1e-4)
    # Of 27 draws one gives 2 and one gives 6, more than 2.5% of them.
    assert found.bootstrap == Interval(2.0, 6.0)


def test_every_figure_weighs_the_same_though_a_seed_lacks_some() -> None:
    """A node without figures does not double the weight of the others of its seed."""
    found = some(mean({0: {1: 0.0, 2: 0.0, 3: 0.0}, 1: {1: 4.0}, 2: {}}))
    assert (found.value, found.seeds, found.figures) == (1.0, (0, 1), 4)


def test_one_seed_has_no_interval_and_no_figure_no_mean() -> None:
    """Nodes of one training are no sample of trainings."""
    found = some(mean({3: {1: 1.0, 2: 2.0}}))
    assert (found.value, found.bootstrap, found.student) == (1.5, None, None)
    assert mean({}) is None
    assert mean({0: {}}) is None


def test_the_same_figures_give_the_same_interval() -> None:
    """In whatever order they come."""
    figures = simulated(np.random.default_rng(1), 6)
    assert mean(figures) == mean(dict(reversed(figures.items())))


def test_the_interval_is_wider_than_one_that_takes_nodes_for_seeds() -> None:
    """Five nodes of a seed that agree are hardly more than one figure."""
    figures = simulated(np.random.default_rng(2), 10, between=1.0, within=0.1)
    flat = [figure for values in figures.values() for figure in values.values()]
    naive = some(mean({place: {1: figure} for place, figure in enumerate(flat)}))
    clustered = some(mean(figures))
    assert naive.value == pytest.approx(clustered.value)
    assert width(clustered.bootstrap) > 1.8 * width(naive.bootstrap)


@pytest.mark.parametrize(("seeds", "bootstrap"), [(5, 0.846), (10, 0.904), (20, 0.931)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, bootstrap: float) -> None:
    """Student's in 95% of studies; the bootstrap's less often the fewer seeds there are, as the module says."""
    rng = np.random.default_rng(3)
    found = [some(mean(simulated(rng, seeds))) for _ in range(400)]
    # Three standard errors of a share of 400.
    assert np.mean([covered(each.student) for each in found]) == pytest.approx(0.95, abs=0.033)
    assert np.mean([covered(each.bootstrap) for each in found]) == pytest.approx(bootstrap, abs=0.055)


def test_differences_are_of_pairs_that_both_have() -> None:
    """By seed and node; the rest is left out, a seed without any pair too."""
    theirs = {0: {1: 0.5, 3: 9.0}, 1: {1: 5.0, 2: 1.0}, 2: {7: 1.0}, 4: {1: 1.0}}
    assert difference(HAND, theirs) == {0: {1: 0.5}, 1: {1: -1.0, 2: 3.0}}


def test_pairing_takes_out_what_both_arms_share() -> None:
    """Seeds that differ by far more than the arms still show which arm is better."""
    rng = np.random.default_rng(4)
    theirs = simulated(rng, 5, between=3.0)
    ours = {
        seed: {node: value - 0.4 + rng.normal(0, 0.1) for node, value in values.items()}
        for seed, values in theirs.items()
    }
    found = some(mean(difference(ours, theirs)))
    assert found.bootstrap is not None
    assert found.student is not None
    assert found.bootstrap.excludes_zero
    assert found.student.excludes_zero
    assert not Interval(-0.1, 0.1).excludes_zero
    assert width(found.student) < 0.1 * width(some(mean(ours)).student)


def test_a_relative_change_is_of_means_and_in_percent() -> None:
    """20 instead of 40 is half, whatever the single quotients are."""
    ours = {0: {1: 1.0, 2: 9.0}, 1: {1: 5.0, 2: 5.0}}
    theirs = {0: {1: 10.0, 2: 10.0}, 1: {1: 10.0, 2: 10.0, 3: 99.0}}
    found = some(relative_change(ours, theirs))
    assert (found.value, found.figures) == (-50.0, 4)
    assert found.bootstrap == Interval(-50.0, -50.0)
    assert found.student is not None
    assert found.student.low == pytest.approx(-50.0)


def test_percents_of_nothing_are_none() -> None:
    """KID may be 0 or below; then there is nothing to divide by."""
    assert relative_change({0: {1: 1.0}, 1: {1: 1.0}}, {0: {1: 1.0}, 1: {1: -0.1}}) is None
    assert relative_change({0: {1: 1.0}}, {1: {1: 1.0}}) is None


def test_students_interval_of_a_quotient_holds_the_truth() -> None:
    """Both sides share what a seed brings; the true quotient is one half."""
    rng, held = np.random.default_rng(5), []
    for _ in range(300):
        levels = rng.uniform(1.0, 2.0, 8)
        theirs = {seed: {1: float(level)} for seed, level in enumerate(levels)}
        ours = {seed: {1: float(0.5 * level + rng.normal(0, 0.1))} for seed, level in enumerate(levels)}
        student = some(relative_change(ours, theirs)).student
        assert student is not None
        held.append(student.low <= -50 <= student.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.038)


def test_the_effect_is_in_units_of_the_seeds_spread() -> None:
    """Means of seeds 2, 4, 6: 4 over a standard deviation of 2."""
    assert effect_size(some(mean(HAND))) == pytest.approx(2.0)
    assert effect_size(some(mean({0: {1: 1.0}}))) is None
    assert effect_size(some(mean({0: {1: 0.1 + 0.2}, 1: {1: 0.3}}))) is None


def test_the_effect_of_a_quotient_is_that_of_the_quotient() -> None:
    """Ours are 60, 50 and 40% of theirs, of equal means: a change of -50% over a standard deviation of 10."""
    ours, theirs = (
        {seed: {1: value} for seed, value in enumerate(side)} for side in ((6.0, 5.0, 4.0), (10.0,) * 3)
    )
    assert effect_size(some(relative_change(ours, theirs))) == pytest.approx(-5.0)
