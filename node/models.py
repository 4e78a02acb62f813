"""Generators and discriminators after DCGAN, for square images of 8 to 64 pixels, and the tapped features.

    B batch, Z latent, C channels, H W pixels (H = W), S image size

The discriminator halves the image with 4x4 convolutions of stride 2 until 2 or 3 pixels are left, and reduces those
with one last convolution to a single logit: 20 -> 10 -> 5 -> 2 -> 1. The generator grows z to at most 7 pixels with
one fractionally strided convolution and doubles from there: 1 -> 5 -> 10 -> 20. No pooling, no fully connected layer.
With widths (64, 64, 12) at 20x20 the flattened layers of D hold 6400 + 1600 + 48 + 1 = 8049 numbers (section 4).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, Architecture
from topology.errors import InputError

_LAST_MAP = 3  # D's convolutions of stride 2 end at 2 or 3 pixels
_FIRST_MAP = 7  # G's first map has 4 to 7 pixels
_SUMMABLE = 1e4  # deviations
GAP_CAP = 10.0
"""Deviations: of a channel's mean or spread that is further away than this no change is asked."""


class BatchNorm(nn.Module):
    """Batch normalisation whose running statistics move only where the caller says so.

    The statistics of a neighbour's discriminator, and of one's own while G learns, must not change by use, so
    tracking is an argument of the call rather than a mode of the module.
    """

    running_mean: Tensor
    running_var: Tensor
    _EPSILON = 1e-5  # as torch's own: of a channel that went dead the deviation is 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BCHW: Tensor, *, track: bool = False) -> Tensor:
        """Normalises by the batch in training mode, by the running statistics in evaluation mode."""
        moving = track or not self.training
        return functional.batch_norm(
            x_BCHW,
            self.running_mean if moving else None,
            self.running_var if moving else None,
            self.weight,
            self.bias,
            training=self.training,
            eps=self._EPSILON,
        )

    def gap(self, x_BCHW: Tensor) -> Tensor:
        """How far a batch is from the running statistics, (), after DeepInversion (Yin et al. 2020, arXiv 1912.08795).

        Squared differences of mean and of deviation, each in running deviations and no more than GAP_CAP of them, which that paper
        neither scales nor caps; their mean over the channels. It is finite, and its gradient too, whatever a neighbour has sent.
        """
        variance_C = self.running_var + self._EPSILON
        apart_BCHW = x_BCHW.float() - self.running_mean[:, None, None]
        # Sums of what weights beyond all measure make of an image would not be finite.
        standard_BCHW = (apart_BCHW / variance_C.sqrt()[:, None, None]).clamp(-_SUMMABLE, _SUMMABLE)
        squares_C, shift_C = torch.var_mean(standard_BCHW, dim=(0, 2, 3), correction=0)
        spread_C = (squares_C + self._EPSILON / variance_C).sqrt()
        return torch.stack([shift_C, spread_C - 1]).clamp(-GAP_CAP, GAP_CAP).square().sum(dim=0).mean()


class Discriminator(nn.Module):
    """D(x): the logit of the probability that x is real, and every layer's output on the way.

    Args:
        architecture: Widths, slope and where batch normalisation stands.
        size: Height and width of the images in pixels.
        channels: 1 or 3.

    Attributes:
        structure: The arguments, which another of the same structure is made from.

    Raises:
        InputError: The size is not 8 to 64 or the channels are not 1 or 3.
    """

    def __init__(self, architecture: Architecture, size: int, channels: int) -> None:
        super().__init__()
        check_image_shape(size, channels)
        self.structure = (architecture, size, channels)
        maps = _halvings(size, until=_LAST_MAP)
        widths = _fit_widths(architecture.discriminator_widths, len(maps) - 1)
        self.slope = architecture.slope
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        before = channels
        for layer, width in enumerate(widths):
            normalised = layer > 0 or architecture.first_batchnorm
            self.convolutions.append(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=not normalised))
            self.norms.append(BatchNorm(width) if normalised else nn.Identity())
            before = width
        self.last = nn.Conv2d(before, 1, maps[-1])
        # What a mean and a mean square count in the logit, by channel: nothing at first.
        self.moments = nn.Parameter(torch.zeros(2, channels)) if architecture.image_moments else None

    def forward(
        self, images_BCHW: Tensor, *, track: bool = False, gaps: list[Tensor] | None = None
    ) -> Tensor:
        """Logits (B,) of images in [-1, 1].

        Args:
            images_BCHW: The images.
            track: Whether the running statistics of batch normalisation move.
            gaps: Takes, where given, how far the images are from these: `BatchNorm.gap` of each layer that has them.
        """
        return self.layers(images_BCHW, track=track, gaps=gaps)[-1].flatten()

    def layers(
        self, images_BCHW: Tensor, *, track: bool = False, gaps: list[Tensor] | None = None
    ) -> list[Tensor]:
        """The output of every layer, [(B, c_1, h_1, w_1), …, (B, 1, 1, 1)]; the last one is the logit (P12)."""
        outputs: list[Tensor] = []
        x = images_BCHW
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            by_product = layer == 0 and x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu"
            x = _convolve(convolution, x) if by_product else convolution(x)
            if gaps is not None and isinstance(norm, BatchNorm):
                gaps.append(norm.gap(x))
            x = norm(x, track=track) if isinstance(norm, BatchNorm) else norm(x)
            x = functional.leaky_relu(x, self.slope, inplace=True)
            outputs.append(x)
        # Logits in float32 whatever the layers before: they reach 10 and more, where bfloat16 counts in sixteenths.
        with torch.autocast(x.device.type, enabled=False):
            logit = self.last(x.float())
            if self.moments is not None:
                logit = logit + _weigh_moments(images_BCHW.float(), self.moments)
            outputs.append(logit)
        return outputs


def _weigh_moments(images_BCHW: Tensor, weights_2C: Tensor) -> Tensor:
    """(B, 1, 1, 1): each image's mean and mean square by channel, times their weights."""
    moments_B2C = torch.stack([images_BCHW.mean(dim=(2, 3)), images_BCHW.square().mean(dim=(2, 3))], dim=1)
    return (moments_B2C * weights_2C).sum(dim=(1, 2))[:, None, None, None]


class Generator(nn.Module):
    """G(z): images in [-1, 1] from noise, by fractionally strided convolutions.

    Args:
        architecture: Widths and the length of z.
        size: Height and width of the images in pixels.
        channels: 1 or 3.

    Raises:
        InputError: The size is not 8 to 64 or the channels are not 1 or 3.
    """

    def __init__(self, architecture: Architecture, size: int, channels: int) -> None:
        super().__init__()
        check_image_shape(size, channels)
        maps = _halvings(size, until=_FIRST_MAP)[::-1]
        widths = (*_fit_widths(architecture.generator_widths, len(maps) - 1), channels)
        self.latent_size, self.size = architecture.latent_size, size
        self.convolutions = nn.ModuleList(
            [nn.ConvTranspose2d(self.latent_size, widths[0], maps[0], bias=False)]
        )
        self.norms = nn.ModuleList([BatchNorm(widths[0])])
        for layer in range(1, len(maps)):
            odd = maps[layer] - 2 * maps[layer - 1]
            is_output = layer == len(maps) - 1
            self.convolutions.append(
                nn.ConvTranspose2d(
                    widths[layer - 1],
                    widths[layer],
                    4,
                    stride=2,
                    padding=1,
                    output_padding=odd,
                    bias=is_output,
                )
            )
            if not is_output:
                self.norms.append(BatchNorm(widths[layer]))

    def forward(self, z_BZ: Tensor, *, track: bool = False) -> Tensor:
        """Images (B, C, H, W) from noise (B, Z); `track` moves the running statistics of batch normalisation."""
        # From a single pixel a fractionally strided convolution is one matrix product, which runs faster as such.
        first = self.convolutions[0].get_parameter("weight")
        x = (z_BZ @ first.flatten(start_dim=1)).view(-1, *first.shape[1:])
        x = x.contiguous(memory_format=torch.channels_last)
        x = functional.relu(self.norms[0](x, track=track), inplace=True)
        for convolution, norm in zip(self.convolutions[1:-1], self.norms[1:], strict=True):
            x = functional.relu(norm(convolution(x), track=track), inplace=True)
        last = self.convolutions[-1]
        return torch.tanh(
            _convolve_transposed(last, x, self.size) if x.device.type == "cpu" else last(x).float()
        )


# Next to an image, with its one or three channels, a library's convolution is slow in some directions on the CPU: there it is
# a matrix product, and images are taken apart for it or put together from it. PyTorch takes them apart one at a time, on a
# GPU a kernel each.


def _convolve(convolution: nn.Module, image_BCHW: Tensor) -> Tensor:
    """D's first layer, for an image that wants a gradient: three quarters of the time went into that."""
    weight, size = convolution.get_parameter("weight"), image_BCHW.shape[-1] // 2
    patches = functional.unfold(image_BCHW, weight.shape[-1], stride=2, padding=1).transpose(1, 2)
    x_BHWC = (patches @ weight.flatten(start_dim=1).T).view(-1, size, size, len(weight))
    bias = dict(convolution.named_parameters()).get("bias")
    return (x_BHWC if bias is None else x_BHWC + bias).permute(0, 3, 1, 2)


def _convolve_transposed(convolution: nn.Module, x_BCHW: Tensor, size: int) -> Tensor:
    """G's last layer, to an image of `size` pixels."""
    weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
    patches = x_BCHW.permute(0, 2, 3, 1).flatten(1, 2) @ weight.flatten(start_dim=1)
    # Overlapping patches are added up in float32, as a convolution does inside.
    image = functional.fold(patches.transpose(1, 2).float(), size, weight.shape[-1], stride=2, padding=1)
    return image + bias[:, None, None]


def check_image_shape(size: int, channels: int) -> None:
    """Refuses image shapes that no architecture takes.

    Raises:
        InputError: The size is not 8 to 64 or the channels are not 1 or 3.
    """
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise InputError(
            "image.size", f"{size} pixels fit no architecture", f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}"
        )
    if channels not in (1, 3):
        raise InputError(
            "image.channels", f"{channels} channels fit no architecture", "1 (grey) or 3 (colour)"
        )


def initialise(module: nn.Module, rule: Literal["he", "dcgan"], generator: torch.Generator) -> None:
    """Draws every convolution's weights in place; biases become 0, batch normalisation starts as the identity.

    Args:
        module: A generator or discriminator.
        rule: `he`: normal with variance 2 / fan-in, counting for a fractionally strided convolution the inputs that
            meet in one output; `dcgan`: N(0, 0.02).
        generator: Source of randomness.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            deviation = 0.02 if rule == "dcgan" else math.sqrt(2 / _fan_in(layer))
            with torch.no_grad():
                layer.weight.normal_(0, deviation, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()


def _fan_in(layer: nn.Conv2d | nn.ConvTranspose2d) -> float:
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        # From one pixel every output sees one tap; with stride s it sees (kernel / s)^2 of them.
        taps = 1 if layer.stride[0] == 1 else taps // (layer.stride[0] * layer.stride[1])
    return float(layer.in_channels * taps)


def _halvings(size: int, *, until: int) -> list[int]:
    """[size, size // 2, …] down to the first that is at most `until`."""
    maps = [size]
    while maps[-1] > until:
        maps.append(maps[-1] // 2)
    return maps


def _fit_widths(widths: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """Exactly `layers` widths: the first is repeated or the first ones are dropped, the last ones stay."""
    missing = layers - len(widths)
    return (widths[0],) * missing + widths if missing > 0 else widths[len(widths) - layers :]
