"""A picture of what one node's generator draws of each class, its own and those that it never saw, several runs side by side.

M generated images, c classes, H W pixels, C channels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval import classifier as classifiers
from eval.comparison import policy_name
from eval.features import generated_images
from eval.metrics import confident_shares
from eval.plots import ClassPanel, class_panels, standalone
from eval.quality import CONFIDENCE, classifier_of, generator_of, image_count, training_pool, training_shards
from eval.runs import RunDirectory

SHOWN = 10
"""Images of each class in the picture."""


def picture(
    runs: Sequence[RunDirectory],
    node_id: int,
    seed: int,
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> str:
    """The picture as SVG, a panel for each run.

    A panel has a row for each class: the first images, in the order in which they were drawn, that the classifier of `quality`
    is sure of. Behind it the share of all images that are so. Nobody chose among them.

    Args:
        runs: The runs.
        node_id: The node, the same in all of them.
        seed: Of the noise and of the classifier.
        folder: Where classifiers are kept.
        tell: Called with one line before each run.

    Raises:
        InputError: As `quality.quality`.
    """
    panels = []
    for run in runs:
        tell(f"{run.run_id}: node {node_id}")
        panels.append(_panel(run, node_id, seed, folder))
    return standalone(class_panels(panels))


def _panel(run: RunDirectory, node_id: int, seed: int, folder: Path) -> ClassPanel:
    test = run.test_images()
    _, generator = generator_of(run, node_id, test)
    shards = training_shards(run, test)
    model, _ = classifier_of(folder, *training_pool(list(shards.values())), test, seed)
    images = generated_images(generator, image_count(test), seed)
    probabilities_Mc = classifiers.judge(model, images)
    held = {j: set(shard.labels.tolist()) for j, shard in shards.items()}
    theirs = set[int]().union(*(held.get(j, set()) for j in run.node(node_id).neighbors))
    rows = []
    for label, name in enumerate(test.classes):
        holder = "own" if label in held[node_id] else "neighbours'" if label in theirs else "neither's"
        rows.append(f"{name}, {holder}")
    return ClassPanel(
        title=policy_name(run.settings.policy)[0],
        rows=rows,
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
