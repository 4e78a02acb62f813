"""Distances between sets of vectors, against what a pencil gives."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics import confident_shares, frechet_distance, kernel_distance, neighborhoods


def _normal(count: int, length: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).standard_normal((count, length))


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    """With diagonal covariances it is |mu - nu|² + sum (s - t)²."""
    # Five points with mean 0 and the unbiased covariance diag(4, 1), exactly.
    real = np.array([[np.sqrt(8), 0], [-np.sqrt(8), 0], [0, np.sqrt(2)], [0, -np.sqrt(2)], [0, 0]])
    generated = real[:, ::-1] + np.array([3.0, 4.0])
    # |(3, 4)|² + (2 - 1)² + (1 - 2)² = 27
    assert frechet_distance(real, generated) == pytest.approx(27, abs=1e-9)


def test_the_frechet_distance_of_a_set_to_itself_is_0() -> None:
    """Also where the covariance is singular, as with features that are always 0."""
    vectors = np.hstack([_normal(50, 4, 0), np.zeros((50, 2))])
    assert frechet_distance(vectors, vectors) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_takes_covariances_that_do_not_commute() -> None:
    """Checked against the eigenvalues of the product, tr (AB)^½ = sum of their roots."""
    real, generated = _normal(40, 3, 1) @ _normal(3, 3, 2), _normal(40, 3, 3)
    A, B = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(A @ B).real).sum()
    shift = real.mean(axis=0) - generated.mean(axis=0)
    expected = shift @ shift + np.trace(A) + np.trace(B) - 2 * roots
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-9)


def test_the_kernel_distance_of_equal_distributions_is_near_0() -> None:
    """It is unbiased: within a few standard errors of 0, on either side."""
    found = kernel_distance(_normal(1000, 8, 0), _normal(1000, 8, 1), 50, 200, np.random.default_rng(2))
    assert abs(found.mean) < 0.02
    assert 0 < found.sd < 0.1
    assert (found.subsets, found.subset_size) == (50, 200)


def test_the_kernel_distance_matches_a_sum_by_hand() -> None:
    """Two numbers against two: every pair written out with (xy + 1)³."""
    real, generated = np.array([[0.0], [1.0]]), np.array([[2.0], [1.0]])
    # k(0, 1) = 1; k(2, 1) = 27; across: k(0, 2) = 1, k(0, 1) = 1, k(1, 2) = 27, k(1, 1) = 8, mean 9.25
    found = kernel_distance(real, generated, 3, 2, np.random.default_rng(0))
    assert found.mean == pytest.approx(1 + 27 - 2 * 9.25)
    assert found.sd == pytest.approx(0)


def test_the_kernel_distance_sees_a_shift() -> None:
    """A mean moved by one standard deviation is far outside the noise."""
    found = kernel_distance(_normal(500, 8, 0), _normal(500, 8, 1) + 1, 20, 100, np.random.default_rng(2))
    assert found.mean > 10 * abs(found.sd)


def test_identical_sets_have_full_precision_recall_and_coverage() -> None:
    """Every vector lies in its own neighbourhood."""
    vectors = _normal(300, 5, 0)
    found = neighborhoods(vectors, vectors, 5)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density > 1


def test_sets_far_apart_have_none() -> None:
    """No ball of one reaches the other."""
    found = neighborhoods(_normal(100, 5, 0), _normal(100, 5, 1) + 100, 5)
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_a_collapsed_generator_is_precise_and_covers_little() -> None:
    """All its images near one real one: precision praises it, recall and coverage do not."""
    real = _normal(300, 5, 0)
    found = neighborhoods(real, real[:1] + 1e-3 * _normal(300, 5, 1), 5)
    assert found.precision == 1
    assert found.recall < 0.02
    assert found.coverage < 0.1


def test_neighborhoods_on_a_line_match_a_count_by_hand() -> None:
    """Real 0, 1, 3 and k = 1 have the radii 1, 1, 2; generated 0.5, 9, 9.5 have 8.5, 0.5, 0.5."""
    found = neighborhoods(np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [9.0], [9.5]]), 1)
    assert found.precision == pytest.approx(1 / 3)  # 0.5 alone is near a real one
    assert found.recall == 1  # all real ones are within 8.5 of 0.5
    assert found.density == pytest.approx(2 / 3)  # the balls of 0 and 1 hold 0.5; that of 3 ends at 1
    assert found.coverage == pytest.approx(2 / 3)


def test_only_confident_judgements_count() -> None:
    """A classifier has an opinion on noise as well."""
    probabilities = np.array([[0.95, 0.05, 0], [0.6, 0.4, 0], [0, 0.91, 0.09], [0.99, 0.01, 0]], np.float32)
    assert confident_shares(probabilities, 0.9) == (0.5, 0.25, 0)
