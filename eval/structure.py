"""The architecture of a node (Fig. 2) as a table of layers, read off the modules themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from node.config import Architecture
from node.models import BatchNorm, Discriminator, Generator


@dataclass(frozen=True)
class Layer:
    """One convolution with what follows it.

    Attributes:
        operation: Kind, kernel and stride.
        then: What its output goes through.
        shape: (C, H, W) of the output.
        values: Numbers in the output, for one image.
        parameters: Trained numbers, those of its batch normalisation included.
    """

    operation: str
    then: str
    shape: tuple[int, int, int]
    values: int
    parameters: int


@dataclass(frozen=True)
class Structure:
    """D and G of one architecture at one image shape.

    Attributes:
        name: In the registry of the settings.
        architecture: Widths, slope, length of z.
        size: Height and width of the images.
        channels: 1 or 3.
        discriminator: Layers from the image to the logit.
        generator: Layers from z to the image.
    """

    name: str
    architecture: Architecture
    size: int
    channels: int
    discriminator: tuple[Layer, ...]
    generator: tuple[Layer, ...]

    @property
    def features(self) -> int:
        """Numbers that the probe takes from D for one image: 8049 in the paper."""
        return sum(layer.values for layer in self.discriminator)


def describe(name: str, architecture: Architecture, size: int, channels: int) -> Structure:
    """The layers of an architecture.

    Raises:
        InputError: The architecture takes no images of that shape.
    """
    with torch.device("meta"):  # shapes alone; nothing is computed
        discriminator = Discriminator(architecture, size, channels)
        generator = Generator(architecture, size, channels)
    leaky = f"LeakyReLU {architecture.slope:g}"
    layers = _layers(discriminator, size, hidden=leaky, last="logit")
    if discriminator.moments is not None:
        logit = replace(
            layers[-1],
            then="logit, with the image's mean and mean square",
            parameters=layers[-1].parameters + discriminator.moments.numel(),
        )
        layers = (*layers[:-1], logit)
    return Structure(
        name,
        architecture,
        size,
        channels,
        discriminator=layers,
        generator=_layers(generator, 1, hidden="ReLU", last="tanh"),
    )


def _layers(module: nn.Module, size: int, *, hidden: str, last: str) -> tuple[Layer, ...]:
    """The convolutions in order, each with the norm that is registered for it; the last one has none."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [layer for layer in module.modules() if isinstance(layer, BatchNorm | nn.Identity)]
    layers = []
    for place, convolution in enumerate(convolutions):
        is_last = place == len(convolutions) - 1
        size = _output_size(convolution, size)
        norm = nn.Identity() if is_last else norms[place]
        layers.append(_layer(convolution, norm, size, last if is_last else hidden))
    return tuple(layers)


def _output_size(convolution: nn.Conv2d | nn.ConvTranspose2d, size: int) -> int:
    """Height and width of the output for an input of this height and width."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    padding = int(convolution.padding[0])
    if isinstance(convolution, nn.ConvTranspose2d):
        return (size - 1) * stride - 2 * padding + kernel + int(convolution.output_padding[0])
    return (size + 2 * padding - kernel) // stride + 1


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module, size: int, activation: str) -> Layer:
    kind = "convolution" if isinstance(convolution, nn.Conv2d) else "fractionally strided convolution"
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    return Layer(
        operation=f"{kind} {kernel}\u00d7{kernel}" + (f", stride {stride}" if stride > 1 else ""),
        then=f"batch norm, {activation}" if isinstance(norm, BatchNorm) else activation,
        shape=(convolution.out_channels, size, size),
        values=convolution.out_channels * size * size,
        parameters=sum(p.numel() for part in (convolution, norm) for p in part.parameters()),
    )
