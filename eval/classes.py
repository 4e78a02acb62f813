"""A picture of what one node's generator draws of each class, its own and those that it never saw, several runs side by side.

M generated images, c classes, H W pixels, C channels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval import classifier as classifiers
from eval.features import generated_images
from eval.metrics import confident_shares
from eval.plots import ClassPanel, class_panels, standalone
from eval.quality import (
    CONFIDENCE,
    RECIPE,
    classifier_images,
    generator_of,
    held_classes,
    image_count,
    training_shards,
)
from eval.runs import LabelledImages, RunDirectory
from node.models import Generator
from topology.errors import InputError

SHOWN = 10
"""Images of each class in the picture."""


def picture(
    runs: Sequence[RunDirectory],
    node_id: int,
    seed: int,
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
    labelled: Path | None = None,
) -> str:
    """The picture as SVG, a panel for each run.

    A panel has a row for each class: the first images, in the order in which they were drawn, that the classifier of `quality`
    is sure of. Behind it the share of all images that are so. Nobody chose among them.

    Args:
        runs: The runs.
        node_id: The node, the same in all of them.
        seed: Of the noise.
        folder: Where classifiers are kept.
        tell: Called with one line before each run.
        labelled: Training images for the classifier, as `quality.quality` takes them.

    Raises:
        InputError: The runs have other classes, the node's labelled images are not here, or as `quality.quality`. All of
            this is checked before the long work begins.
    """
    subjects = [_subject(run, node_id) for run in runs]
    for subject in subjects[1:]:
        if subject.test.classes != subjects[0].test.classes:
            mend = f"{len(subjects[0].test.classes)}, the same as those of {runs[0].run_id}"
            raise InputError(subject.test.path, f"{len(subject.test.classes)} classes", mend)
    panels = []
    for subject in subjects:
        tell(f"{subject.run.run_id}: node {node_id}")
        panels.append(_panel(subject, seed, folder, labelled))
    return standalone(class_panels(panels))


@dataclass(frozen=True)
class _Subject:
    """What a panel is made from."""

    run: RunDirectory
    node_id: int
    generator: Generator
    test: LabelledImages
    shards: Mapping[int, LabelledImages]

    def holders(self) -> list[str]:
        """Who has images of each class, as far as labels are here."""
        classes = len(self.test.classes)
        held = {j: held_classes(shard.labels, classes) for j, shard in self.shards.items()}
        own, neighbors = held[self.node_id], self.run.node(self.node_id).neighbors
        theirs = set[int]().union(*(held.get(j, ()) for j in neighbors))
        others = "neither's" if held.keys() >= set(neighbors) else "not own"
        return [
            "own" if label in own else "neighbours'" if label in theirs else others
            for label in range(len(self.test.classes))
        ]


def _subject(run: RunDirectory, node_id: int) -> _Subject:
    test = run.test_images()
    image_count(test)
    run.training_images(node_id)  # whose lack is told by its own line
    return _Subject(run, node_id, generator_of(run, node_id, test)[1], test, training_shards(run, test))


def _panel(subject: _Subject, seed: int, folder: Path, labelled: Path | None) -> ClassPanel:
    test = subject.test
    known, labels = classifier_images(subject.shards, labelled, test)
    model, _ = classifiers.kept(folder, known, labels, len(test.classes), RECIPE)
    images = generated_images(subject.generator, image_count(test), seed)
    probabilities_Mc = classifiers.judge(model, images)
    return ClassPanel(
        title=subject.run.path.name,
        rows=[f"{name}, {who}" for name, who in zip(test.classes, subject.holders(), strict=True)],
        shares=confident_shares(probabilities_Mc, CONFIDENCE),
        images_cSHWC=sure_images(images, probabilities_Mc),
    )


def sure_images(images_MHWC: NDArray[np.uint8], probabilities_Mc: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The first SHOWN images of each class that are judged to be of it with CONFIDENCE, (c, SHOWN, H, W, C); 0 where there are fewer."""
    classes = probabilities_Mc.shape[1]
    shown = np.zeros((classes, SHOWN, *images_MHWC.shape[1:]), np.uint8)
    sure = probabilities_Mc.max(axis=1) >= CONFIDENCE
    for label in range(classes):
        first = np.flatnonzero(sure & (probabilities_Mc.argmax(axis=1) == label))[:SHOWN]
        shown[label, : len(first)] = images_MHWC[first]
    return shown
