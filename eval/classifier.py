"""A small classifier in whose features generated images are compared with real ones.

It learns from training images alone; the test images only measure it. Half of what it sees is stretched to
full contrast, as every image is before it is judged: a generator's grey background must not pass for a class. Nor
must noise, of which a plain classifier is as sure as of a digit: shuffled images teach it one more class, nothing.
Its features, by contrast, are taken from the images as they are, so that a grey background costs distance.

    B batch, C channels, H W pixels, n features, c classes without nothing
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from eval.features import to_tensor
from node.files import write_atomically

FEATURES = 64
_BATCH = 500
_SCALE_IMAGES = 10_000


@dataclass(frozen=True)
class Recipe:
    """How the classifier is trained; part of its digest.

    Attributes:
        seed: Of the weights and the batches.
        steps: Updates of Adam.
        batch_size: Real images in each.
        nothing: Shuffled images beside them.
        learning_rate: At its highest; it rises over the first tenth of the steps and falls to 0.
        widths: Channels of the two convolutions.
        version: Grows with every change of the structure or the training that the fields above do not show.
    """

    seed: int
    steps: int = 1500
    batch_size: int = 100
    nothing: int = 25
    learning_rate: float = 3e-3
    widths: tuple[int, int] = (16, 32)
    version: int = 1


class Classifier(nn.Module):
    """Two convolutions with pooling, one hidden layer, one logit for each class and one for nothing.

    Args:
        channels: 1 or 3.
        classes: c.
        widths: Channels of the two convolutions.
    """

    scale: Tensor

    def __init__(self, channels: int, classes: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.second = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.hidden = nn.Linear(widths[1] * 4 * 4, FEATURES)
        self.last = nn.Linear(FEATURES, classes + 1)
        self.register_buffer("scale", torch.ones(()))

    def features(self, images_BCHW: Tensor) -> Tensor:
        """The penultimate layer (B, n), at least 0, of images in [-1, 1], over its scale on training images."""
        return self._hidden(images_BCHW) / self.scale

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, c + 1), nothing last."""
        logits: Tensor = self.last(self._hidden(images_BCHW))
        return logits

    def _hidden(self, images_BCHW: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.first(images_BCHW)), 2)
        x = functional.adaptive_max_pool2d(functional.relu(self.second(x)), 4)
        return functional.relu(self.hidden(x.flatten(start_dim=1)))


def full_contrast(images_BCHW: Tensor) -> Tensor:
    """Every image stretched so that its 2nd and 98th percentiles become -1 and 1; a flat one becomes 0."""
    low, high = torch.quantile(images_BCHW.flatten(start_dim=1), torch.tensor([0.02, 0.98]), dim=1)
    low, span = low[:, None, None, None], (high - low)[:, None, None, None]
    stretched = (2 * (images_BCHW - low) / span.clamp(min=1e-6) - 1).clamp(-1, 1)
    return torch.where(span > 1e-6, stretched, torch.zeros_like(stretched))  # noqa: PLR2004 - the line above's


def shuffled(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the grey levels of the images: their pixels in random places, blurred by 1, 3 or 5 pixels."""
    B, C, H, W = images_BCHW.shape
    place_B1N = torch.rand(B, 1, H * W, generator=generator).argsort(dim=2)
    noise = images_BCHW.flatten(start_dim=2).gather(2, place_B1N.expand(B, C, H * W)).view(B, C, H, W)
    blur = (1, 3, 5)[int(torch.randint(3, (), generator=generator))]
    return full_contrast(functional.avg_pool2d(noise, blur, stride=1, padding=blur // 2))


def kept(
    folder: Path, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], classes: int, recipe: Recipe
) -> tuple[Classifier, str]:
    """The classifier of these training images and its digest, under which the folder keeps it from then on.

    Processes may share the folder: whoever finds nothing there trains, and puts down the same.

    Raises:
        OSError: The disk refuses.
    """
    made_from = digest(images_NHWC, labels_N, classes, recipe)
    path = folder / f"{made_from}.safetensors"
    model = Classifier(images_NHWC.shape[3], classes, recipe.widths)
    if not load(path, model, made_from):
        model = train(images_NHWC, labels_N, classes, recipe)
        save(path, model, made_from)
    return model, made_from


def digest(images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], classes: int, recipe: Recipe) -> str:
    """xxh3-128 of what a classifier is made from; equal digests mean the same classifier."""
    digest = xxhash.xxh3_128(json.dumps([asdict(recipe), classes, list(images_NHWC.shape)]).encode())
    for array in (images_NHWC, labels_N):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def train(
    images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], classes: int, recipe: Recipe
) -> Classifier:
    """A classifier of the training images; the same inputs give the same one on the same type of machine.

    On one thread: batches this small gain nothing from more, and the number of cores then changes no bit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = Classifier(images_NHWC.shape[3], classes, recipe.widths)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _fit(model, images_NHWC, labels_N, recipe)
        features_Nn = describe(model.eval(), images_NHWC[:_SCALE_IMAGES])
    finally:
        torch.set_num_threads(threads)
    # Mean square 1: distances then have the same order of magnitude whatever the training made of the layer.
    model.scale.fill_(float(np.sqrt((features_Nn**2).mean())) or 1.0)
    return model


def _fit(
    model: Classifier, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], recipe: Recipe
) -> None:
    stream = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    labels = torch.from_numpy(labels_N)
    nothing = torch.full((recipe.nothing,), model.last.out_features - 1)
    for _ in range(recipe.steps):
        index = torch.randint(len(labels), (recipe.batch_size,), generator=stream)
        images_BCHW = to_tensor(images_NHWC[index.numpy()])
        noise_BCHW = shuffled(images_BCHW[: recipe.nothing], stream)
        half = recipe.batch_size // 2
        images_BCHW[:half] = full_contrast(images_BCHW[:half])
        logits = model(torch.cat([images_BCHW, noise_BCHW]))
        loss = functional.cross_entropy(logits, torch.cat([labels[index], nothing]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        optimizer.step()
        schedule.step()


def describe(model: Classifier, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features (N, n) of images as they are."""
    with torch.no_grad():
        parts = [model.features(to_tensor(part)) for part in _batches(images_NHWC)]
    features: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return features


def judge(model: Classifier, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probability of every class (N, c) of images stretched to full contrast; what is missing to 1 is nothing's."""
    with torch.no_grad():
        parts = [
            model(full_contrast(to_tensor(part))).softmax(dim=1)[:, :-1] for part in _batches(images_NHWC)
        ]
    probabilities: NDArray[np.float32] = torch.cat(parts).numpy()
    return probabilities


def save(path: Path, model: Classifier, made_from: str) -> None:
    """Writes the classifier with the digest of what it was made from, whoever else may be writing it.

    Raises:
        OSError: The disk refuses; what was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as own:  # two writers of one file need two
        whole = Path(own) / path.name
        write_atomically(whole, safetensors.torch.save(model.state_dict(), metadata={"digest": made_from}))
        whole.replace(path)


def load(path: Path, model: Classifier, made_from: str) -> bool:
    """Fills `model` from a file, if there is one and it was made from the same; tells whether it did."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("digest") != made_from:
                return False
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, RuntimeError):
        return False  # absent, torn or of another structure: it is only a cache
    model.eval()
    return True


def _batches(images_NHWC: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [images_NHWC[start : start + _BATCH] for start in range(0, len(images_NHWC), _BATCH)]
