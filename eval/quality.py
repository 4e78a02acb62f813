"""How good and how varied each node's generated images are, against the test images.

Every distance is taken in the features of a small classifier of the nodes' own training images, or of others that are
given, so the figures compare runs on the same data, and not with figures from an Inception network. Real training images
in place of generated ones give the reference point: no generator can be asked to do better than they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval import classifier as classifiers
from eval.classifier import FEATURES, Classifier, Recipe
from eval.features import check_images_fit, generated_images, trained_generator
from eval.metrics import Vectors, confident_shares, frechet_distance, kernel_distance, neighborhoods, radii
from eval.results import ClassifierCard, ClassOrigins, QualityNode, QualityResult, QualityScores
from eval.runs import LabelledImages, RunDirectory, labelled_images
from eval.svm import percent_wrong
from node.checkpoint import Checkpoint
from node.models import Generator
from topology.errors import InputError

MAX_IMAGES = 10_000
"""Images judged of each node: as many as there are test images, and at most these."""
NEIGHBORS = 5
CONFIDENCE = 0.9
COVERED = 0.2
"""A class is covered by this part of its even share: 2% of the images where there are ten classes."""
HELD = 0.1
"""A node holds a class with this part of its even share: 1% of its images where there are ten classes. A mix that is drawn
from all of them has an image or two of nearly each."""
_SUBSETS, _SUBSET_SIZE = 100, 1000
RECIPE = Recipe(seed=0)
"""Of the classifier, one for all: runs on the same images are judged by the same."""


def quality(
    run: RunDirectory,
    node_ids: Sequence[int],
    seed: int,
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
    labelled: Path | None = None,
) -> QualityResult:
    """Judges the generators of a run's nodes.

    Args:
        run: The run.
        node_ids: Which of its nodes.
        seed: Of the noise, the real images and the subsets.
        folder: Where classifiers are kept, each under the digest of the images that it learned from.
        tell: Called with one line before the classifier, the real images and each node: len(node_ids) + 2 times.
        labelled: A shard of labelled training images for the classifier; None for those of the nodes that are here.

    Raises:
        InputError: Labelled images or a checkpoint are missing or unfit, or test images too few; before the long work.
    """
    test = run.test_images()
    count = image_count(test)
    generators = {node_id: generator_of(run, node_id, test) for node_id in node_ids}
    shards = training_shards(run, test, needed=labelled is None)
    held = {i: held_classes(shard.labels, len(test.classes)) for i, shard in shards.items()}
    images, labels = classifier_images(shards, labelled, test)
    tell(f"{run.run_id}: classifier of {len(labels)} images")
    model, card = _classifier(folder, images, labels, test)
    reference = Reference.of(model, test.images)
    tell(f"{run.run_id}: real images")
    real = score(model, images[_sample(len(images), count, seed)], reference, seed)
    nodes = []
    for i, (checkpoint, generator) in generators.items():
        tell(f"{run.run_id}: node {i}, {count} generated images")
        scores = score(model, generated_images(generator, count, seed), reference, seed)
        found = origins(held, i, run.node(i).neighbors, scores)
        nodes.append(QualityNode(i, run.below(checkpoint.path), checkpoint.meta.cycle, scores, found))
    about = (run.run_id, run.settings.policy, test.data_set, seed, test.classes, len(test.images))
    return QualityResult(*about, card, real, tuple(nodes))


def _sample(images: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which real images stand beside the generated ones."""
    return np.random.default_rng(seed).choice(images, min(count, images), replace=False)


@dataclass(frozen=True)
class Reference:
    """The test images, as all that is generated is compared with them.

    Attributes:
        features_Nn: Their features.
        radius_N: `metrics.radii` of these.
    """

    features_Nn: Vectors
    radius_N: Vectors

    @classmethod
    def of(cls, model: Classifier, images_NHWC: NDArray[np.uint8]) -> Reference:
        """That of these images."""
        features_Nn = classifiers.describe(model, images_NHWC)
        return cls(features_Nn, radii(features_Nn, NEIGHBORS))


def score(
    model: Classifier, images_MHWC: NDArray[np.uint8], reference: Reference, seed: int
) -> QualityScores:
    """All figures of one set of images.

    Args:
        model: Gives features and judgements.
        images_MHWC: The images to judge.
        reference: The test images.
        seed: Of KID's subsets.
    """
    reference_Nn = reference.features_Nn
    features_Mn = classifiers.describe(model, images_MHWC)
    shares = confident_shares(classifiers.judge(model, images_MHWC), CONFIDENCE)
    needed = COVERED / len(shares)
    size = max(2, min(_SUBSET_SIZE, len(features_Mn) // 2, len(reference_Nn) // 2))
    kid = kernel_distance(reference_Nn, features_Mn, _SUBSETS, size, np.random.default_rng(seed))
    near = neighborhoods(reference_Nn, features_Mn, NEIGHBORS, reference.radius_N)
    return QualityScores(
        images=len(images_MHWC),
        kid=kid.mean,
        kid_sd=kid.sd,
        kid_subsets=kid.subsets,
        kid_subset_size=kid.subset_size,
        fid=frechet_distance(reference_Nn, features_Mn),
        precision=near.precision,
        recall=near.recall,
        density=near.density,
        coverage=near.coverage,
        neighbors=near.neighbors,
        confident=float(sum(shares)),
        class_shares=shares,
        classes_covered=sum(share >= needed for share in shares),
        confidence_needed=CONFIDENCE,
        class_share_needed=needed,
    )


def origins(
    held: Mapping[int, frozenset[int]], node_id: int, neighbors: Sequence[int], scores: QualityScores
) -> ClassOrigins | None:
    """Who holds the classes that a node's images cover; None where the labels of one who might are not here.

    Args:
        held: Classes of every node whose labelled shard is here.
        node_id: The node.
        neighbors: Its direct neighbours.
        scores: Of its images.
    """
    if not held.keys() >= {node_id, *neighbors}:
        return None
    own = held[node_id]
    theirs = frozenset[int]().union(*(held[neighbor] for neighbor in neighbors))
    covered = {k for k, share in enumerate(scores.class_shares) if share >= scores.class_share_needed}
    return ClassOrigins(
        own=tuple(sorted(own)),
        neighbors=tuple(sorted(theirs)),
        own_covered=len(covered & own),
        neighbors_covered=len(covered & theirs - own),
        unseen_covered=len(covered - own - theirs),
    )


def training_shards(
    run: RunDirectory, test: LabelledImages, *, needed: bool = True
) -> dict[int, LabelledImages]:
    """The labelled training images by node.

    Nodes whose shards are elsewhere, or without labels, are left out: shards are private.

    Raises:
        InputError: One is needed, and no node's shard is here with labels; or a shard does not fit the test images.
    """
    shards: dict[int, LabelledImages] = {}
    refusals: list[InputError] = []
    for node in run.nodes:
        try:
            shards[node.id] = run.training_images(node.id)
        except InputError as error:
            refusals.append(error)
    if needed and not shards:
        raise refusals[0]
    for shard in shards.values():
        _check_fits(shard, test)
    return shards


def classifier_images(
    shards: Mapping[int, LabelledImages], labelled: Path | None, test: LabelledImages
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What the classifier learns from, (N, H, W, C) and (N,): all shards, or where a file is given the images in that.

    Raises:
        InputError: The file holds no labelled images, or they do not fit the test images.
    """
    if labelled is None:
        return training_pool(list(shards.values()))
    given = labelled_images(labelled)
    _check_fits(given, test)
    if given.classes != test.classes:
        problem = f"{len(given.classes)} classes, {_few(given.classes)}"
        raise InputError(
            labelled, problem, f"those of the test images: {len(test.classes)}, {_few(test.classes)}"
        )
    return training_pool([given])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")  # noqa: PLR2004 - enough to recognise them


def _check_fits(shard: LabelledImages, test: LabelledImages) -> None:
    if shard.image_shape != test.image_shape or int(shard.labels.max()) >= len(test.classes):
        problem = f"images of {shard.image_shape} (size, channels), labels up to {shard.labels.max()}"
        mend = f"as the test images: {test.image_shape}, labels up to {len(test.classes) - 1}"
        raise InputError(shard.path, problem, mend)


def held_classes(labels: NDArray[np.int64], classes: int) -> frozenset[int]:
    """Those of so many classes that a node holds, by the labels (N,) of its images."""
    counts = np.bincount(labels, minlength=classes)
    return frozenset(np.flatnonzero(counts >= max(1, HELD / classes * len(labels))).tolist())


def training_pool(shards: Sequence[LabelledImages]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The training images of all shards together, (N, H, W, C) and (N,).

    In the order of the data set where the shards tell it, so that every split of the same images gives the same
    classifier.
    """
    images = np.concatenate([shard.images for shard in shards])
    labels = np.concatenate([shard.labels for shard in shards])
    indexes = [shard.index for shard in shards if shard.index is not None]
    if len(indexes) == len(shards):
        order = np.argsort(np.concatenate(indexes), kind="stable")
        images, labels = images[order], labels[order]
    return images, labels


def image_count(test: LabelledImages) -> int:
    """How many images of each node are judged.

    Raises:
        InputError: There are too few test images.
    """
    count = min(MAX_IMAGES, len(test.images))
    if count <= NEIGHBORS:
        mend = f"at least {NEIGHBORS + 1}, for {NEIGHBORS} neighbours"
        raise InputError(test.path, f"{count} test images", mend)
    return count


def generator_of(run: RunDirectory, node_id: int, test: LabelledImages) -> tuple[Checkpoint, Generator]:
    """A node's generator and the checkpoint that it comes from.

    Raises:
        InputError: The checkpoint is missing, or its images do not fit the test images.
    """
    checkpoint = run.checkpoint(node_id)
    check_images_fit(checkpoint, test)
    return checkpoint, trained_generator(run, checkpoint)


def _classifier(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], test: LabelledImages
) -> tuple[Classifier, ClassifierCard]:
    """The classifier of these training images, and what is known of it."""
    model, made_from = classifiers.kept(folder, images, labels, len(test.classes), RECIPE)
    wrong = percent_wrong(classifiers.judge(model, test.images).argmax(axis=1), test.labels)
    return model, ClassifierCard(round(wrong, 4), len(labels), FEATURES, made_from)
