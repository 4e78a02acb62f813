"""The paper's probe (section 4, Table 1): how well a multiclass SVM tells the classes apart by a node's features.

For each node: the outputs of every layer of its own D describe its own labelled images and the test images. The
SVM's hyperparameters are chosen on a held-out tenth of the node's images, never on the test images; it then learns
from all of the node's images and is judged once on the test images. A class that the node never saw costs errors.

Two floors go through exactly the same procedure: raw pixels, and a D that was never trained. A trained D that does
not beat both has learned nothing that the probe can show.

    N training images, F of them to fit while choosing, T test images
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from eval.features import (
    check_images_fit,
    layer_features,
    pixel_features,
    trained_discriminator,
    untrained_discriminator,
)
from eval.grams import Grams, concatenated, first_two, kernel, make_grams, squared_norms
from eval.results import Kernel, Layers, ProbeNode, ProbeResult, ProbeRow, Source
from eval.runs import LabelledImages, RunDirectory
from node.checkpoint import Checkpoint
from topology.errors import InputError

GRID: tuple[tuple[Kernel, float | None, tuple[float, ...]], ...] = (
    ("linear", None, (1, 3, 10, 30)),
    ("rbf", 0.5, (3, 10)),
    ("rbf", 1, (3, 10)),
    ("rbf", 2, (3, 10)),
    ("rbf", 4, (3, 10)),
)
"""What is tried: kernel, gamma on vectors of mean norm 1, and values of C."""

_WEIGHTINGS: Mapping[Source, Mapping[Layers | None, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "discriminator": {"all": concatenated, "first-two": first_two},
    "untrained": {"all": concatenated, "first-two": first_two},
    "pixels": {None: concatenated},
}
SOURCES: Mapping[Source, str] = {
    "discriminator": "trained D",
    "untrained": "untrained D",
    "pixels": "raw pixels",
}
"""What people read for a source."""
_PARTS = 10  # a tenth is held out
_PREDICTED_AT_ONCE = 1000


Labels = NDArray[np.int64]


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


@dataclass(frozen=True)
class Subject:
    """One node to probe, and its own images in the order of `split`: those to fit first.

    Attributes:
        node_id: Its id.
        images: (N, H, W, C).
        labels: (N,).
        fit_count: F.
        checkpoint: Its newest.
    """

    node_id: int
    images: NDArray[np.uint8]
    labels: Labels
    fit_count: int
    checkpoint: Checkpoint


def split(labels: Labels, generator: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """An order of the images that puts a held-out tenth last, each class in proportion.

    Args:
        labels: (N,).
        generator: Source of randomness.

    Returns:
        The order (N,) and F, the count of those to fit.
    """
    by_class = np.lexsort((generator.permutation(len(labels)), labels))
    is_held = np.arange(len(labels)) % _PARTS == generator.integers(_PARTS)
    return np.concatenate([by_class[~is_held], by_class[is_held]]), int((~is_held).sum())


def choose(train_NN: NDArray[np.float32], labels: Labels, fit_count: int) -> dict[Kernel, Choice]:
    """For each kernel the hyperparameters with the fewest errors on the held-out images; the first of equals.

    Args:
        train_NN: Inner products of the training images, those to fit first.
        labels: (N,).
        fit_count: F.
    """
    squares, F = np.diagonal(train_NN).astype(np.float64), fit_count
    best: dict[Kernel, Choice] = {}
    for name, gamma, costs in GRID:
        fit_FF = kernel(train_NN[:F, :F], squares[:F], squares[:F], gamma)
        held_HF = kernel(train_NN[F:, :F], squares[F:], squares[:F], gamma)
        for c in costs:
            guessed = _svm(c).fit(fit_FF, labels[:F]).predict(held_HF)
            choice = Choice(name, gamma, c, percent_wrong(guessed, labels[F:]))
            if name not in best or choice.held_out_error < best[name].held_out_error:
                best[name] = choice
    return best


def final_error(grams: Grams, labels: Labels, test_labels: Labels, choice: Choice) -> float:
    """Wrong test images in percent, after learning from all training images with the chosen hyperparameters."""
    squares = np.diagonal(grams.train_NN).astype(np.float64)
    svm = _svm(choice.c).fit(kernel(grams.train_NN, squares, squares, choice.gamma), labels)
    guessed = [
        svm.predict(kernel(grams.test_TN[rows], grams.test_T[rows], squares, choice.gamma))
        for rows in (slice(i, i + _PREDICTED_AT_ONCE) for i in range(0, len(test_labels), _PREDICTED_AT_ONCE))
    ]
    return percent_wrong(np.concatenate(guessed), test_labels)


def percent_wrong(guessed: Labels, truth: Labels) -> float:
    """Share of wrong guesses, in percent."""
    return 100 * float((guessed != truth).mean())


def binomial_error(percent: float, count: int) -> float:
    """Standard error of a share in percent, in percentage points."""
    share = percent / 100
    return 100 * float(np.sqrt(share * (1 - share) / count))


def sources(*, floors: bool) -> tuple[Source, ...]:
    """What is probed at each node: its trained D, and the two floors."""
    return ("discriminator", "untrained", "pixels") if floors else ("discriminator",)


def probe(
    run: RunDirectory,
    node_ids: Sequence[int],
    seed: int,
    *,
    floors: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> ProbeResult:
    """Probes the nodes of a run, one at a time.

    Args:
        run: The run.
        node_ids: Which of its nodes.
        seed: Of the held-out tenth and of the untrained discriminators.
        floors: Whether to probe raw pixels and an untrained D as well.
        tell: Called with one line before each of the nodes' sources.

    Raises:
        InputError: A shard has no labels or too few images, a checkpoint is missing or belongs elsewhere, or the
            images do not fit the architecture. All nodes are checked before the first is probed.
    """
    test = run.test_images()
    subjects = [_subject(run, node_id, test, seed) for node_id in node_ids]
    found: dict[tuple[Source, Layers | None], list[Mapping[Kernel, ProbeNode]]] = {}
    for subject in subjects:
        for source in sources(floors=floors):
            tell(f"{run.run_id}: node {subject.node_id}, {SOURCES[source]}")
            for layers, by_kernel in _probe_node(run, subject, source, test, seed):
                found.setdefault((source, layers), []).append(by_kernel)
    return ProbeResult(
        run_id=run.run_id,
        policy=run.settings.policy,
        data_set=test.data_set,
        seed=seed,
        rows=tuple(row for (source, layers), nodes in found.items() for row in _rows(source, layers, nodes)),
    )


def _subject(run: RunDirectory, node_id: int, test: LabelledImages, seed: int) -> Subject:
    """One node's checkpoint and images, checked, the images in the order of `split`."""
    checkpoint, own = run.checkpoint(node_id), run.training_images(node_id)
    for images in (own, test):
        check_images_fit(checkpoint, images)
    labels = own.labels
    common = int((np.unique(labels, return_counts=True)[1] > 1).sum())
    if len(labels) < _PARTS or common < 2:  # noqa: PLR2004 - an SVM tells at least two classes apart
        problem = f"{len(labels)} images, {common} classes with more than one"
        mend = f"a node to probe needs at least {_PARTS} images and two such classes"
        raise InputError(own.path, problem, mend)
    order, fit_count = split(labels, np.random.default_rng([seed, node_id]))
    return Subject(node_id, own.images[order], labels[order], fit_count, checkpoint)


def _probe_node(
    run: RunDirectory, subject: Subject, source: Source, test: LabelledImages, seed: int
) -> Iterator[tuple[Layers | None, Mapping[Kernel, ProbeNode]]]:
    """One node's errors from one source, for each weighting of the layers and each kernel."""
    by_layers, sizes = _grams(run, subject, source, test, seed)
    for layers in list(by_layers):
        grams = by_layers.pop(layers)
        choices = choose(grams.train_NN, subject.labels, subject.fit_count)
        errors = {name: final_error(grams, subject.labels, test.labels, c) for name, c in choices.items()}
        features = sum(sizes[:2]) if layers == "first-two" else sum(sizes)
        checkpoint = subject.checkpoint if source == "discriminator" else None
        yield (
            layers,
            {
                name: ProbeNode(
                    node=subject.node_id,
                    error=round(errors[name], 4),
                    standard_error=round(binomial_error(errors[name], len(test.labels)), 4),
                    test_images=len(test.labels),
                    training_images=len(subject.labels),
                    held_out_images=len(subject.labels) - subject.fit_count,
                    held_out_error=round(choice.held_out_error, 4),
                    features=features,
                    kernel=name,
                    c=choice.c,
                    gamma=choice.gamma,
                    checkpoint=run.below(checkpoint.path) if checkpoint else None,
                    cycle=checkpoint.meta.cycle if checkpoint else None,
                )
                for name, choice in choices.items()
            },
        )


def _grams(
    run: RunDirectory, subject: Subject, source: Source, test: LabelledImages, seed: int
) -> tuple[dict[Layers | None, Grams], list[int]]:
    """Inner products for each weighting, and how many numbers each layer has; the features are let go at once."""
    if source == "pixels":
        train_features, test_features = pixel_features(subject.images), pixel_features(test.images)
    else:
        if source == "discriminator":
            discriminator = trained_discriminator(run, subject.checkpoint)
        else:
            discriminator = untrained_discriminator(run, subject.node_id, subject.images, seed)
        train_features = layer_features(discriminator, subject.images)
        test_features = layer_features(discriminator, test.images)
    squares_NL = squared_norms(train_features)
    weights = {layers: weigh(squares_NL) for layers, weigh in _WEIGHTINGS[source].items()}
    return make_grams(train_features, test_features, weights), [layer.shape[1] for layer in train_features]


def _rows(
    source: Source, layers: Layers | None, nodes: Sequence[Mapping[Kernel, ProbeNode]]
) -> Iterator[ProbeRow]:
    """One row for each kernel, and one for the kernel that each node chose; a tie goes to the linear one."""
    chosen = tuple(min(node.values(), key=lambda result: result.held_out_error) for node in nodes)
    headline = source == "discriminator" and layers == "all"
    yield _row(source, layers, "chosen", chosen, headline=headline)
    for name in nodes[0]:
        yield _row(source, layers, name, tuple(node[name] for node in nodes), headline=False)


def _row(
    source: Source,
    layers: Layers | None,
    name: Literal["linear", "rbf", "chosen"],
    nodes: tuple[ProbeNode, ...],
    *,
    headline: bool,
) -> ProbeRow:
    errors = [node.error for node in nodes]
    mean = round(float(np.mean(errors)), 4)
    return ProbeRow(source, layers, name, headline, mean, min(errors), max(errors), nodes)


def _svm(c: float) -> Any:
    return SVC(kernel="precomputed", C=c)
