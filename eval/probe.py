"""The paper's probe (section 4, Table 1): how well a multiclass SVM tells the classes apart by a node's features.

For each node: the outputs of every layer of its own D describe its own labelled images and the test images. The
SVM's hyperparameters are chosen on a held-out tenth of the node's images, never on the test images; it then learns
from all of the node's images and is judged once on the test images. A class that the node never saw costs errors.

Two floors go through exactly the same procedure: raw pixels, and a D that was never trained. A trained D that does
not beat both has learned nothing that the probe can show.

So does a variant that the paper lacks, the neighbourhood: a node's own D and those of its direct neighbours describe an
image together. A node can do this by itself, with its own images and labels: the neighbours' newest checkpoints stand
for what they published last. (Under `alone` and `alone-matched` nobody publishes; there the rows say what could be had.)

    N training images, F of them to fit while the SVM's hyperparameters are chosen
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eval.features import (
    Described,
    Description,
    check_images_fit,
    layer_features,
    pixel_features,
    pooled_features,
    trained_discriminator,
    untrained_discriminator,
)
from eval.grams import Parts, Weighting, balanced, concatenated
from eval.results import SOURCES, Kernel, Layers, ProbeNode, ProbeResult, ProbeRow, Source
from eval.runs import LabelledImages, RunDirectory
from eval.svm import PARTS, Labels, examine, split
from node.checkpoint import Checkpoint
from node.models import Discriminator
from topology.errors import InputError

_LAYERS: Mapping[
    Layers, tuple[Callable[[Discriminator, NDArray[np.uint8]], list[NDArray[np.float32]]], Weighting]
] = {
    "all": (layer_features, concatenated),
    "pooled": (pooled_features, balanced),
}


@dataclass(frozen=True)
class Subject:
    """One node to probe, and its own images in the order of `split`: those to fit first.

    Attributes:
        node_id: Its id.
        images: (N, H, W, C).
        labels: (N,).
        fit_count: F.
        checkpoints: Its newest, then the newest of each direct neighbour where they are to join in.
    """

    node_id: int
    images: NDArray[np.uint8]
    labels: Labels
    fit_count: int
    checkpoints: tuple[Checkpoint, ...]


def binomial_error(percent: float, count: int) -> float:
    """Standard error of a share in percent, in percentage points."""
    share = percent / 100
    return 100 * float(np.sqrt(share * (1 - share) / count))


def sources(*, floors: bool, neighborhood: bool = False) -> tuple[Source, ...]:
    """What is probed at each node: its trained D, with its neighbours' D, and the two floors."""
    joined: tuple[Source, ...] = ("neighborhood",) if neighborhood else ()
    return ("discriminator", *joined, *(("untrained", "pixels") if floors else ()))


def probe(
    run: RunDirectory,
    node_ids: Sequence[int],
    seed: int,
    *,
    floors: bool,
    neighborhood: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> ProbeResult:
    """Probes the nodes of a run, one at a time.

    Args:
        run: The run.
        node_ids: Which of its nodes.
        seed: Of the held-out tenth and of the untrained discriminators.
        floors: Whether to probe raw pixels and an untrained D as well.
        neighborhood: Whether to probe each node's D joined with its neighbours' as well.
        tell: Called with one line before each of the nodes' sources.

    Raises:
        InputError: A shard has no labels or too few images, a checkpoint is missing or belongs elsewhere, or the
            images do not fit the architecture. All nodes are checked before the first is probed.
    """
    test = run.test_images()
    newest = cache(run.checkpoint)  # training may go on: a node and its neighbours shall see the same one
    groups = [(each, *(run.node(each).neighbors if neighborhood else ())) for each in node_ids]
    subjects = [_subject(run, list(map(newest, group)), test, seed) for group in groups]
    found: dict[tuple[Source, Layers | None], list[Mapping[Kernel, ProbeNode]]] = {}
    for subject in subjects:
        for source in sources(floors=floors, neighborhood=neighborhood):
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


def _subject(
    run: RunDirectory, checkpoints: Sequence[Checkpoint], test: LabelledImages, seed: int
) -> Subject:
    """The node of the first checkpoint with its images, checked, in the order of `split`."""
    node_id = checkpoints[0].meta.node_id
    own = run.training_images(node_id)
    for images in (own, test):
        for checkpoint in checkpoints:
            check_images_fit(checkpoint, images)
    labels = own.labels
    common = int((np.unique(labels, return_counts=True)[1] > 1).sum())
    if len(labels) < PARTS or common < 2:  # noqa: PLR2004 - an SVM tells at least two classes apart
        problem = f"{len(labels)} images, {common} classes with more than one"
        mend = f"a node to probe needs at least {PARTS} images and two such classes"
        raise InputError(own.path, problem, mend)
    order, fit_count = split(labels, np.random.default_rng([seed, node_id]))
    return Subject(node_id, own.images[order], labels[order], fit_count, tuple(checkpoints))


def _probe_node(
    run: RunDirectory, subject: Subject, source: Source, test: LabelledImages, seed: int
) -> Iterator[tuple[Layers | None, Mapping[Kernel, ProbeNode]]]:
    """One node's errors from one source, for each choice of layers and each kernel."""
    trained = _trained(subject, source)
    for layers, by, weigh in _descriptions(run, subject, source, seed):
        train, test_features = (_features(by, images) for images in (subject.images, test.images))
        found = examine(train, test_features, subject.labels, test.labels, subject.fit_count, weigh)
        count = sum(layer.shape[1] for part in _features(by, subject.images[:1]) for layer in part)
        yield (
            layers,
            {
                name: ProbeNode(
                    node=subject.node_id,
                    error=round(error, 4),
                    standard_error=round(binomial_error(error, len(test.labels)), 4),
                    test_images=len(test.labels),
                    training_images=len(subject.labels),
                    held_out_images=len(subject.labels) - subject.fit_count,
                    held_out_error=round(choice.held_out_error, 4),
                    features=count,
                    kernel=name,
                    c=choice.c,
                    gamma=choice.gamma,
                    checkpoint=run.below(trained[0].path) if trained else None,
                    cycle=trained[0].meta.cycle if trained else None,
                    neighbor_checkpoints=tuple(run.below(other.path) for other in trained[1:]),
                )
                for name, (choice, error) in found.items()
            },
        )


def _trained(subject: Subject, source: Source) -> tuple[Checkpoint, ...]:
    """Whose trained discriminators a source describes images by, the node's own first; nobody's for the floors."""
    return {"discriminator": subject.checkpoints[:1], "neighborhood": subject.checkpoints}.get(source, ())


def _descriptions(
    run: RunDirectory, subject: Subject, source: Source, seed: int
) -> Iterator[tuple[Layers | None, list[Description], Weighting]]:
    """What describes a node's images, a function for each discriminator, and what each layer of it counts."""
    if source == "pixels":
        yield None, [pixel_features], concatenated
        return
    discriminators = [trained_discriminator(run, checkpoint) for checkpoint in _trained(subject, source)] or [
        untrained_discriminator(run, subject.node_id, subject.images, seed)
    ]
    for layers, (describe, weigh) in _LAYERS.items():
        yield layers, [partial(describe, discriminator) for discriminator in discriminators], weigh


def _features(by: Sequence[Description], images: NDArray[np.uint8]) -> Parts:
    """Features of one discriminator, held in memory, or of several, one after the other."""
    several = Described(by, images)
    return several if len(by) > 1 else list(several)


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
