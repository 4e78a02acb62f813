"""Inner products of layered features: computed once, shared by every kernel and hyperparameter.

    N training images, T test images, L layers, n numbers of one layer

A weighting joins the layers into one vector by a factor for each: the inner product of two such vectors is the sum of
the layers' inner products by these factors. Every vector is then scaled so that the training vectors' mean norm is 1,
which gives gamma and C the same meaning for every kind of feature.

Sums also join the layers of several discriminators: each is a part, weighed by itself and read one after the other, so
that the features of one need not stay in memory with those of the next.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import numpy as np
from numpy.typing import NDArray

_ROWS = 256  # stay in the processor's cache: a kernel of 9,000 x 9,000 took 0.4 s, and 2 s by whole matrices

Features = Sequence[NDArray[np.float32]]
"""[(N, n_1), …, (N, n_L)]."""
Parts = Iterable[Features]
"""What is joined: the features of each discriminator. Iterated several times, always in the same order."""
Weighting = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From squared norms (N, L) of one part the factor (L,) of each layer's inner products before scaling."""


@dataclass(frozen=True)
class Products:
    """Inner products of the training images, scaled.

    Attributes:
        train_NN: Training images by training images.
        factors: (L,) of each part: what each layer's inner products count, scaling included.
    """

    train_NN: NDArray[np.float32]
    factors: tuple[NDArray[np.float64], ...]


def concatenated(squares_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (L,) of plain concatenation, as in the paper: every layer counts as it is."""
    return np.ones(squares_NL.shape[1])


def balanced(squares_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (L,) that scale every layer to mean norm 1."""
    weights: NDArray[np.float64] = 1 / np.maximum(
        np.sqrt(squares_NL).mean(axis=0) ** 2, np.finfo(np.float32).tiny
    )
    return weights


def squared_norms(features: Features) -> NDArray[np.float64]:
    """Squared norm of every image in every layer (N, L)."""
    return np.stack([np.einsum("ij,ij->i", layer, layer) for layer in features], axis=1).astype(np.float64)


def train_products(train: Parts, weigh: Weighting) -> Products:
    """The training images' inner products.

    Numpy sees that `joined @ joined.T` is symmetric and computes half of it: 10,000 x 8049 float32 took 3.1 s on two
    threads where torch's MKL took 4.7 s.

    Args:
        train: Features of the training images, by at least one discriminator; read once.
        weigh: What each layer counts.
    """
    factors: list[NDArray[np.float64]] = []

    def products(features: Features) -> NDArray[np.float32]:
        factors.append(weigh(squared_norms(features)))
        joined = _joined(features, factors[-1])
        return joined @ joined.T

    return _scaled(
        reduce(operator.iadd, map(products, train)), factors
    )  # added up in the memory of the first


def cross_products(
    rows: Parts, columns: Parts, chosen_S: NDArray[np.int64], factors: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Inner products of images by some of the other images, and the rows' squared norms.

    Args:
        rows: Features of the T rows; read once.
        columns: Features of the other images; read once.
        chosen_S: Which of these are columns.
        factors: Those of `Products`.

    Returns:
        (T, S) and (T,).
    """
    squares: list[NDArray[np.float64]] = []

    def products(features: Features, others: Features, factors_L: NDArray[np.float64]) -> NDArray[np.float32]:
        squares.append(squared_norms(features) @ factors_L)
        chosen = _joined([layer[chosen_S] for layer in others], factors_L)
        return _joined(features, factors_L) @ chosen.T

    total_TS = reduce(operator.iadd, starmap(products, zip(rows, columns, factors, strict=True)))
    return total_TS, np.sum(squares, axis=0)


def kernel(
    products: NDArray[np.float32],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    gamma: float | None,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """A kernel matrix from inner products: linear, or exp(-gamma |x - y|²) where gamma is given.

    Args:
        products: Inner products of rows by columns.
        rows: Squared norms of the rows.
        columns: Squared norms of the columns.
        gamma: Width of the RBF kernel; None for linear.
        out: Where to put it: fresh memory for 9,000 x 9,000 numbers took half of the time.

    Returns:
        float64 in C order, as libsvm wants it.
    """
    matrix = np.empty(products.shape) if out is None else out
    row_terms, column_terms = (((gamma or 0) * part).astype(np.float32) for part in (rows, columns))

    def fill(part: slice) -> None:
        if gamma is None:
            matrix[part] = products[part]
            return
        exponents = products[part] * np.float32(2 * gamma)
        exponents -= row_terms[part, None]
        exponents -= column_terms
        np.minimum(exponents, 0, out=exponents)  # rounding makes |x - y|² of equal images slightly negative
        matrix[part] = np.exp(exponents, out=exponents)

    _by_rows(len(products), fill)
    return matrix


def _joined(features: Features, factors_L: NDArray[np.float64]) -> NDArray[np.float32]:
    """Vectors (N, n_1 + … + n_L) whose inner products are the layers' by their factors."""
    joined = np.concatenate(features, axis=1)
    joined *= np.repeat(np.sqrt(factors_L).astype(np.float32), [layer.shape[1] for layer in features])
    return joined


def _by_rows(count: int, work: Callable[[slice], None]) -> None:
    """Some rows at a time, on all processors: numpy lets go of the interpreter."""
    with ThreadPoolExecutor(processors()) as pool:
        for _ in pool.map(work, (slice(start, start + _ROWS) for start in range(0, count, _ROWS))):
            pass


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _scaled(total_NN: NDArray[np.float32], factors: Sequence[NDArray[np.float64]]) -> Products:
    """Products and factors, in the memory of the sum, so that the mean norm of the joined vectors is 1."""
    mean_norm = float(np.sqrt(np.diagonal(total_NN), dtype=np.float64).mean())
    scale = 1 / mean_norm**2 if mean_norm > 0 else 1.0

    def apply(part: slice) -> None:
        total_NN[part] *= np.float32(scale)

    _by_rows(len(total_NN), apply)
    return Products(total_NN, tuple(scale * factors_L for factors_L in factors))
