"""How near one set of feature vectors comes to another: pure functions on arrays.

N real vectors, M generated vectors, n numbers of one vector
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
_ROWS = 100  # distances are computed for so many rows at once: 10,000 columns of them stay in the processor's cache


@dataclass(frozen=True)
class KernelDistance:
    """Kernel inception distance (Bińkowski et al. 2018).

    Attributes:
        mean: Over the subsets; 0 for equal distributions, and since it is unbiased it may fall below.
        sd: Standard deviation over the subsets.
        subsets: How many.
        subset_size: Vectors of each kind in one.
    """

    mean: float
    sd: float
    subsets: int
    subset_size: int


@dataclass(frozen=True)
class Neighborhoods:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A vector's neighbourhood is the ball up to its k-th nearest other vector of its own kind.

    Attributes:
        precision: Share of generated vectors inside the neighbourhood of a real one.
        recall: Share of real vectors inside the neighbourhood of a generated one.
        density: Mean count of real neighbourhoods around a generated vector, over k.
        coverage: Share of real vectors whose neighbourhood holds a generated one.
        neighbors: k.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    neighbors: int


def frechet_distance(real_Nn: Vectors, generated_Mn: Vectors) -> float:
    """|mu - nu|² + tr(A + B - 2 (A^½ B A^½)^½) of the two sets' means and covariances (Heusel et al. 2017).

    It is biased by the number of vectors: compare only figures from equal counts.
    """
    difference = real_Nn.mean(axis=0) - generated_Mn.mean(axis=0)
    A, B = (np.atleast_2d(np.cov(vectors, rowvar=False)) for vectors in (real_Nn, generated_Mn))
    root = _root(A)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ B @ root), 0)).sum()
    return max(float(difference @ difference + np.trace(A) + np.trace(B) - 2 * cross), 0.0)


def kernel_distance(
    real_Nn: Vectors, generated_Mn: Vectors, subsets: int, subset_size: int, generator: np.random.Generator
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / n + 1)³, over random subsets.

    Args:
        real_Nn: Real vectors.
        generated_Mn: Generated vectors.
        subsets: How many pairs of subsets.
        subset_size: Vectors in each, at most N and M; drawn without replacement.
        generator: Source of the subsets.
    """
    values = []
    for _ in range(subsets):
        real = real_Nn[generator.choice(len(real_Nn), subset_size, replace=False)]
        generated = generated_Mn[generator.choice(len(generated_Mn), subset_size, replace=False)]
        values.append(_discrepancy(real, generated))
    return KernelDistance(float(np.mean(values)), float(np.std(values)), subsets, subset_size)


def neighborhoods(
    real_Nn: Vectors, generated_Mn: Vectors, neighbors: int, real_radius_N: Vectors | None = None
) -> Neighborhoods:
    """Precision, recall, density and coverage.

    Args:
        real_Nn: Real vectors, more than `neighbors`.
        generated_Mn: Generated vectors, more than `neighbors`.
        neighbors: k.
        real_radius_N: `radii` of the real vectors, where they are known already.
    """
    real_radius_N = radii(real_Nn, neighbors) if real_radius_N is None else real_radius_N
    generated_radius_M = radii(generated_Mn, neighbors)
    around_M = np.zeros(len(generated_Mn))
    recalled, covered = 0, 0
    for rows, squares in _squared_distances(real_Nn, generated_Mn):
        inside = squares <= real_radius_N[rows, None]
        around_M += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((squares <= generated_radius_M[None, :]).any(axis=1).sum())
    return Neighborhoods(
        precision=float((around_M > 0).mean()),
        recall=recalled / len(real_Nn),
        density=float(around_M.mean()) / neighbors,
        coverage=covered / len(real_Nn),
        neighbors=neighbors,
    )


def confident_shares(probabilities_Mc: NDArray[np.float32], confidence: float) -> tuple[float, ...]:
    """For each class the share of all images that are judged to be of it with at least that probability."""
    sure = probabilities_Mc.max(axis=1) >= confidence
    counts = np.bincount(probabilities_Mc.argmax(axis=1)[sure], minlength=probabilities_Mc.shape[1])
    return tuple((counts / len(probabilities_Mc)).tolist())


def _root(symmetric: Vectors) -> Vectors:
    """The positive semidefinite square root of a covariance."""
    values, vectors = np.linalg.eigh(symmetric)
    root: Vectors = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def _discrepancy(real: Vectors, generated: Vectors) -> float:
    size = len(real)
    within = 0.0
    for vectors in (real, generated):
        similar = _similarity(vectors, vectors)
        within += float(similar.sum() - np.trace(similar)) / (size * (size - 1))
    return within - 2 * float(_similarity(real, generated).mean())


def _similarity(rows: Vectors, columns: Vectors) -> Vectors:
    inner: Vectors = rows @ columns.T
    inner /= rows.shape[1]
    inner += 1
    cube = inner * inner  # many times faster than ** 3
    cube *= inner
    return cube


def radii(vectors_Nn: Vectors, neighbors: int) -> Vectors:
    """Squared distance (N,) of every vector to its k-th nearest other one."""
    found_N = np.empty(len(vectors_Nn))
    for rows, squares in _squared_distances(vectors_Nn, vectors_Nn):
        # The vector itself, at distance 0, comes first: index k is the k-th other one.
        found_N[rows] = np.partition(squares, neighbors, axis=1)[:, neighbors]
    return found_N


def _squared_distances(rows: Vectors, columns: Vectors) -> Iterator[tuple[slice, Vectors]]:
    """Squared distances of some rows at a time to all columns, and which rows; good until the next are taken."""
    row_squares, column_squares = (rows**2).sum(axis=1), (columns**2).sum(axis=1)
    squares, products = np.empty(
        (2, _ROWS, len(columns))
    )  # fresh memory for every part took half of the time
    for start in range(0, len(rows), _ROWS):
        part = slice(start, min(start + _ROWS, len(rows)))
        count = part.stop - start
        squared, product = squares[:count], products[:count]
        np.add(row_squares[part, None], column_squares, out=squared)
        np.matmul(rows[part], columns.T, out=product)
        product *= 2
        squared -= product
        yield part, np.maximum(squared, 0, out=squared)
