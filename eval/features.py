"""Numbers that describe images: a discriminator's layers, and the images that a generator makes.

N images, C channels, H W pixels, n numbers of one layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from eval.runs import LabelledImages, RunDirectory
from node.checkpoint import Checkpoint
from node.data import normalise
from node.models import BatchNorm, Discriminator, Generator, initialise
from node.samples import generate
from topology.errors import InputError

_BATCH = 500
_POOLED_SIZE = 4
_STATISTICS_IMAGES = (
    2000  # enough for means and variances; every layer's output of all of them is held at once
)

_Module = TypeVar("_Module", bound=nn.Module)

Description = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]
"""From images (N, H, W, C) their features [(N, n_1), …, (N, n_L)]."""


@dataclass(frozen=True)
class Described:
    """Images by several descriptions, such as those of several discriminators.

    Iterating computes the features of one description after the other, every time anew: features of 10,000 images
    take 320 MB a discriminator, and computing them little beside their inner products.

    Attributes:
        by: What describes an image.
        images_NHWC: The images.
    """

    by: Sequence[Description]
    images_NHWC: NDArray[np.uint8]

    def __iter__(self) -> Iterator[list[NDArray[np.float32]]]:
        """The features by each description."""
        return (describe(self.images_NHWC) for describe in self.by)


def to_tensor(images_NHWC: NDArray[np.uint8]) -> Tensor:
    """Images (N, C, H, W) in [-1, 1], as the nodes are trained on them."""
    return normalise(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2))


def layer_features(discriminator: Discriminator, images_NHWC: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Every layer's flattened output after its activation, [(N, n_1), …, (N, 1)] (section 4, P12).

    Batch normalisation takes the running statistics, so that an image's features depend on no other image.
    """
    return _by_batches(discriminator, images_NHWC, discriminator.layers)


def pooled_features(
    discriminator: Discriminator, images_NHWC: NDArray[np.uint8]
) -> list[NDArray[np.float32]]:
    """The first two layers, max-pooled to 4x4 where they are larger, [(N, n_1), (N, n_2)].

    DCGAN's own probe pools its layers so (Radford, Metz, Chintala 2016, arXiv 1511.06434, section 5.1): where exactly a
    stroke lies tells little about what is written. The layers behind see the whole image, and what D needs of it: whether
    it is real.
    """

    def pooled(images_BCHW: Tensor) -> list[Tensor]:
        first_two = discriminator.layers(images_BCHW)[:2]
        return [functional.adaptive_max_pool2d(maps, min(_POOLED_SIZE, maps.shape[-1])) for maps in first_two]

    return _by_batches(discriminator, images_NHWC, pooled)


def _by_batches(
    discriminator: Discriminator,
    images_NHWC: NDArray[np.uint8],
    describe: Callable[[Tensor], list[Tensor]],
) -> list[NDArray[np.float32]]:
    """What is told of batches (B, C, H, W) while D is in evaluation mode, each part flattened and of all images (N, n)."""
    parts: list[NDArray[np.float32]] = []
    discriminator.eval()
    with torch.no_grad():
        for start in range(0, len(images_NHWC), _BATCH):
            batch = [
                part.flatten(start_dim=1) for part in describe(to_tensor(images_NHWC[start : start + _BATCH]))
            ]
            if not parts:
                parts = [np.empty((len(images_NHWC), part.shape[1]), np.float32) for part in batch]
            for whole, part in zip(parts, batch, strict=True):
                whole[start : start + _BATCH] = part.numpy()
    return parts


def pixel_features(images_NHWC: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The images themselves as one layer [(N, H W C)], 0 black to 1 white: the first floor."""
    return [np.divide(images_NHWC.reshape(len(images_NHWC), -1), 255, dtype=np.float32)]


def trained_discriminator(run: RunDirectory, checkpoint: Checkpoint) -> Discriminator:
    """The node's own D of a checkpoint.

    Raises:
        InputError: The tensors do not fit the node's architecture.
    """
    meta = checkpoint.meta
    architecture = run.architecture(meta.node_id)
    empty = Discriminator(architecture, meta.image_size, meta.image_channels)
    return _filled(empty, checkpoint, "discriminator", checkpoint.part("discriminator"))


def trained_generator(run: RunDirectory, checkpoint: Checkpoint) -> Generator:
    """The node's G of a checkpoint that images are drawn with: `Checkpoint.drawing`.

    Raises:
        InputError: The tensors do not fit the node's architecture.
    """
    meta = checkpoint.meta
    architecture = run.architecture(meta.node_id)
    empty = Generator(architecture, meta.image_size, meta.image_channels)
    return _filled(empty, checkpoint, "generator", checkpoint.drawing)


def untrained_discriminator(
    run: RunDirectory, node_id: int, images_NHWC: NDArray[np.uint8], seed: int
) -> Discriminator:
    """A D of the node's architecture as the node's rule draws it, never trained: the second floor.

    An untrained D has no running statistics, and without them its layers would not be normalised at all. They are
    set to the statistics of the node's own training images, the only data the node has.

    Args:
        run: Names the architecture and the rule of initialisation.
        node_id: The node.
        images_NHWC: Its training images.
        seed: With the node's id, seed of the weights.
    """
    discriminator = Discriminator(run.architecture(node_id), images_NHWC.shape[1], images_NHWC.shape[3])
    stream = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, node_id]).generate_state(1)[0]))
    initialise(discriminator, run.settings.discriminator.initialisation, stream)
    discriminator.eval()
    hooks = [
        module.register_forward_pre_hook(_settle)
        for module in discriminator.modules()
        if isinstance(module, BatchNorm)
    ]
    with torch.no_grad():
        # Spread over all of them, whatever their order: the probe's are sorted by class.
        discriminator(to_tensor(images_NHWC[:: -(-len(images_NHWC) // _STATISTICS_IMAGES)]))
    for hook in hooks:
        hook.remove()
    return discriminator


def generated_images(generator: Generator, count: int, seed: int) -> NDArray[np.uint8]:
    """Images (N, H, W, C) from z ~ N(0, 1), by the running statistics of batch normalisation.

    The same seed gives every generator with the same length of z the same noise.
    """
    stream = torch.Generator().manual_seed(seed)
    z_NZ = torch.randn(count, generator.latent_size, generator=stream)
    return np.concatenate([generate(generator, z_BZ) for z_BZ in torch.split(z_NZ, _BATCH)])


def check_images_fit(checkpoint: Checkpoint, images: LabelledImages) -> None:
    """Refuses images of another shape than the node was trained on.

    Raises:
        InputError: Size or channels differ.
    """
    trained = (checkpoint.meta.image_size, checkpoint.meta.image_channels)
    if images.image_shape != trained:
        shapes = [f"{size}x{size}x{channels}" for size, channels in (images.image_shape, trained)]
        problem = f"images are {shapes[0]}, and node {checkpoint.meta.node_id} was trained on {shapes[1]}"
        raise InputError(images.path, problem, "use the shards that the run was trained on")


def _settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Sets the statistics that a layer is about to normalise by to those of its input."""
    assert isinstance(norm, BatchNorm)  # noqa: S101 - only such modules are hooked; tells the type checker
    (x_BCHW,) = inputs
    norm.running_mean.copy_(x_BCHW.mean(dim=(0, 2, 3)))
    norm.running_var.copy_(x_BCHW.var(dim=(0, 2, 3)))


def _filled(module: _Module, checkpoint: Checkpoint, network: str, weights: Mapping[str, Tensor]) -> _Module:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        problem = f"the {network} does not fit architecture {checkpoint.meta.architecture!r} ({reason})"
        raise InputError(
            checkpoint.path, problem, "restore the architecture that the run started with"
        ) from None
    return module.eval()
