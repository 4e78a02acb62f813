"""The paper's probe of one node, against scikit-learn's SVMs fed the features directly.

10,000 training and 10,000 test images made of the written digits that come with scikit-learn, 20x20 pixels, described by
the 8049 numbers of an untrained discriminator of the paper's widths. The probe's time holds all that it does: inner products, the choice of
kernel width and cost on held-out images, and both final SVMs; the others fit once, with what the probe chose or by default.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC, LinearSVC

from benchmarks.measure import Figure, figure, timed
from eval.features import layer_features, to_tensor
from eval.grams import concatenated
from eval.results import Kernel
from eval.svm import examine, percent_wrong, split
from node.config import Architecture
from node.models import Discriminator, initialise

_IMAGES, _SIZE = 10_000, 20
_WRITTEN_FOR_TRAINING = 1000  # of 1797
_SECONDS, _TIMES = 6.0, 6.0

Labels = NDArray[np.int64]


def measure(*, full: bool) -> Iterator[Figure]:
    """Seconds of a node's probe, and how many times longer the others take."""
    torch.set_num_threads(2)
    train, labels = draw(slice(0, _WRITTEN_FOR_TRAINING), 1)
    test, test_labels = draw(slice(_WRITTEN_FOR_TRAINING, None), 2)
    network = Discriminator(Architecture(), _SIZE, 1)
    initialise(network, "he", torch.Generator().manual_seed(0))
    network.train()
    with torch.no_grad():  # its running statistics settle
        for start in range(0, 5000, 100):
            network(to_tensor(train[start : start + 100]), track=True)
    train_layers, test_layers = (layer_features(network, images) for images in (train, test))
    order, fit_count = split(labels, np.random.default_rng(0))
    train_layers, labels = [layer[order] for layer in train_layers], labels[order]
    times: list[float] = []
    for _ in range(5 if full else 3):
        began_s = time.perf_counter()
        found = examine([train_layers], [test_layers], labels, test_labels, fit_count, concatenated)
        times.append(time.perf_counter() - began_s)
    errors = {name: error for name, (_, error) in found.items()}
    rbf = found["rbf"][0]
    told = ", ".join(f"{name} {error:.2f}%" for name, error in errors.items())
    yield figure(
        "the probe of one node, both kernels, hyperparameters chosen",
        times,
        target=_SECONDS,
        unit="s",
        beside=f"errors: {told}",
    )
    x, y = (np.concatenate(layers, axis=1) for layers in (train_layers, test_layers))
    alone = [timed(lambda: x @ x.T) for _ in range(3)]
    yield figure("of it the inner products of the training images, which any kernel needs", alone, unit="s")
    scale = np.linalg.norm(x, axis=1).mean()
    x, y = x / scale, y / scale
    rivals: dict[Kernel, Any] = {
        "linear": LinearSVC(),
        **({"rbf": SVC(kernel="rbf", gamma=rbf.gamma, C=rbf.c)} if full else {}),
    }
    for kernel, rival in rivals.items():
        began_s = time.perf_counter()
        error = percent_wrong(rival.fit(x, labels).predict(y), test_labels)
        seconds = time.perf_counter() - began_s
        name = type(rival).__name__ + ("" if kernel == "linear" else "(kernel='rbf')")
        yield figure(f"{name} on the features, one fit, over the whole probe", [seconds / each for each in times],
                     target=_TIMES if kernel == "linear" else None, at_least=True, beside=f"{seconds:.1f} s, error {error:.2f}%")  # fmt: skip
        yield figure(
            f"the probe's error with the {kernel} kernel over that of {name}",
            [errors[kernel] - error],
            target=0.0,
            unit="points",
        )


def draw(part: slice, seed: int) -> tuple[NDArray[np.uint8], Labels]:
    """Images (N, 20, 20, 1) of scikit-learn's written digits, each turned and moved a little; and their classes."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(digits.target[part]), _IMAGES)
    images = np.empty((_IMAGES, _SIZE, _SIZE, 1), np.uint8)
    for index, digit in enumerate(digits.images[part][chosen]):
        small = Image.fromarray((digit * (255 / 16)).astype(np.uint8))
        right, down = (int(pixels) for pixels in rng.integers(-1, 2, 2))
        large = small.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
        turned = large.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, translate=(right, down))
        images[index, :, :, 0] = np.asarray(turned)
    return images, digits.target[part][chosen].astype(np.int64)
