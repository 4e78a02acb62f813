"""Multiclass SVMs on layered features: hyperparameters chosen on held-out training images, errors on test images.

The hyperparameters are chosen on a held-out tenth of the training images; the SVMs then learn from all of these, and are
judged once on the test images. Every kernel and cost goes by the same inner products (`eval/grams.py`).

    N training images, F of them to fit while choosing, H held out, T test images, S support vectors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from eval.grams import Parts, Products, Weighting, cross_products, kernel, processors, train_products
from eval.results import Kernel

GRID: tuple[tuple[Kernel, float | None, tuple[float, ...]], ...] = (
    ("linear", None, (1, 3, 10, 30)),
    ("rbf", 0.5, (3, 10)),
    ("rbf", 1, (3, 10)),
    ("rbf", 2, (3, 10)),
    ("rbf", 4, (3, 10)),
)
"""What is tried: kernel, gamma on vectors of mean norm 1, and values of C."""

Labels = NDArray[np.int64]
PARTS = 10
"""One of so many parts of the images is held out."""
_PREDICTED_AT_ONCE = 1000
_CHOSEN_BY = 3000  # images, about: hyperparameters are chosen by fits of so many


@dataclass(frozen=True)
class Choice:
    """Hyperparameters and how they did on the held-out images.

    Attributes:
        kernel: Of the SVM.
        gamma: Width of the RBF kernel; None for linear.
        c: Cost of an error.
        held_out_error: In percent.
    """

    kernel: Kernel
    gamma: float | None
    c: float
    held_out_error: float


def split(labels: Labels, generator: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """An order of the images that puts a held-out tenth last, each class in proportion.

    Args:
        labels: (N,).
        generator: Source of randomness.

    Returns:
        The order (N,) and F, the count of those to fit.
    """
    by_class = np.lexsort((generator.permutation(len(labels)), labels))
    is_held = np.arange(len(labels)) % PARTS == generator.integers(PARTS)
    return np.concatenate([by_class[~is_held], by_class[is_held]]), int((~is_held).sum())


def examine(
    train: Parts, test: Parts, labels: Labels, test_labels: Labels, fit_count: int, weigh: Weighting
) -> dict[Kernel, tuple[Choice, float]]:
    """For each kernel the hyperparameters that were chosen, and the error on the test images in percent.

    Args:
        train: Features of the training images, those to fit first, by each discriminator.
        test: Features of the test images, by each discriminator.
        labels: (N,).
        test_labels: (T,).
        fit_count: F.
        weigh: What each layer counts.
    """
    products = train_products(train, weigh)
    choices = choose(products.train_NN, labels, fit_count)
    errors = errors_of(fit(products, labels, choices), train, test, len(labels), test_labels)
    return {name: (choice, errors[name]) for name, choice in choices.items()}


def choose(train_NN: NDArray[np.float32], labels: Labels, fit_count: int) -> dict[Kernel, Choice]:
    """For each kernel the hyperparameters with the fewest errors on the held-out images; the first of equals.

    Of many images to fit every second, third … of each class is taken, so that some thousand remain: twelve fits of all
    of them took half of the probe's time, and chose no better.

    Args:
        train_NN: Inner products of the training images, those to fit first.
        labels: (N,).
        fit_count: F.
    """
    squares = np.diagonal(train_NN).astype(np.float64)
    fitted = np.flatnonzero(_ranks(labels[:fit_count]) % max(1, fit_count // _CHOSEN_BY) == 0)
    held = np.arange(fit_count, len(labels))
    best: dict[Kernel, Choice] = {}
    with ThreadPoolExecutor(processors()) as pool:  # libsvm lets go of the interpreter while it fits
        for name, gamma, costs in GRID:
            fit_FF = kernel(train_NN[np.ix_(fitted, fitted)], squares[fitted], squares[fitted], gamma)
            held_HF = kernel(train_NN[np.ix_(held, fitted)], squares[held], squares[fitted], gamma)
            guesses = pool.map(partial(_fit_and_guess, fit_FF, labels[fitted], held_HF), costs)
            for c, guessed in zip(costs, guesses, strict=True):
                choice = Choice(name, gamma, c, percent_wrong(guessed, labels[held]))
                if name not in best or choice.held_out_error < best[name].held_out_error:
                    best[name] = choice
    return best


def _ranks(labels: Labels) -> NDArray[np.int64]:
    """For each image how many of its class come before it."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return ranks


@dataclass(frozen=True)
class Machines:
    """The SVMs, fitted on all training images.

    Attributes:
        svms: By kernel, with the kernel's width.
        squares_N: Squared norms of the training images.
        factors: Of their `Products`.
    """

    svms: Mapping[Kernel, tuple[Any, float | None]]
    squares_N: NDArray[np.float64]
    factors: Sequence[NDArray[np.float64]]


def fit(products: Products, labels: Labels, choices: Mapping[Kernel, Choice]) -> Machines:
    """Learns from all training images with the chosen hyperparameters."""
    squares = np.diagonal(products.train_NN).astype(np.float64)
    train_NN = np.empty(products.train_NN.shape)
    svms = {
        name: (
            _svm(choice.c).fit(kernel(products.train_NN, squares, squares, choice.gamma, train_NN), labels),
            choice.gamma,
        )
        for name, choice in choices.items()
    }
    return Machines(svms, squares, products.factors)


def errors_of(
    machines: Machines, train: Parts, test: Parts, count: int, test_labels: Labels
) -> dict[Kernel, float]:
    """Wrong test images in percent.

    A test image is compared with support vectors alone, the others do not count; both kernels share the inner products.

    Args:
        machines: What was fitted.
        train: Features of the N training images, by each discriminator.
        test: Features of the test images, by each discriminator.
        count: N.
        test_labels: (T,).
    """
    used = np.unique(np.concatenate([svm.support_ for svm, _ in machines.svms.values()]))
    test_TS, test_T = cross_products(test, train, used, machines.factors)
    # libsvm wants a column for every training image, and reads those of support vectors.
    padded = np.zeros((min(_PREDICTED_AT_ONCE, len(test_labels)), count))
    wrong: dict[Kernel, float] = {}
    for name, (svm, gamma) in machines.svms.items():
        guessed: list[Labels] = []
        for start in range(0, len(test_labels), _PREDICTED_AT_ONCE):
            rows = slice(start, start + _PREDICTED_AT_ONCE)
            columns = kernel(test_TS[rows], test_T[rows], machines.squares_N[used], gamma)
            padded[: len(columns), used] = columns
            guessed.append(svm.predict(padded[: len(columns)]))
        wrong[name] = percent_wrong(np.concatenate(guessed), test_labels)
    return wrong


def percent_wrong(guessed: Labels, truth: Labels) -> float:
    """Share of wrong guesses, in percent."""
    return 100 * float((guessed != truth).mean())


def _svm(c: float) -> Any:
    return SVC(kernel="precomputed", C=c)


def _fit_and_guess(
    fit_FF: NDArray[np.float64], labels: Labels, held_HF: NDArray[np.float64], c: float
) -> Labels:
    guessed: Labels = _svm(c).fit(fit_FF, labels).predict(held_HF)
    return guessed
