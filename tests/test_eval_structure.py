"""The table of layers tells what the modules really are."""

from __future__ import annotations

import pytest
import torch

from eval.structure import describe
from node.config import Architecture
from node.models import Discriminator, Generator
from topology.errors import InputError


def test_the_papers_discriminator_has_8049_features() -> None:
    """Section 4: 6400 + 1600 + 48 + 1."""
    structure = describe("paper", Architecture(), 20, 1)
    assert [layer.values for layer in structure.discriminator] == [6400, 1600, 48, 1]
    assert structure.features == 8049


def test_the_papers_generator_ends_with_tanh_at_20_pixels() -> None:
    """Three fractionally strided convolutions, 1 to 5 to 10 to 20 pixels."""
    layers = describe("paper", Architecture(), 20, 1).generator
    assert [layer.shape for layer in layers] == [(64, 5, 5), (32, 10, 10), (1, 20, 20)]
    assert [layer.then for layer in layers] == ["batch norm, ReLU", "batch norm, ReLU", "tanh"]
    assert all(layer.operation.startswith("fractionally strided") for layer in layers)


@pytest.mark.parametrize("size", [8, 20, 28, 37, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("first_batchnorm", [True, False])
@pytest.mark.parametrize("image_moments", [True, False])
def test_shapes_and_parameters_are_those_of_the_modules(
    size: int, channels: int, *, first_batchnorm: bool, image_moments: bool
) -> None:
    """Held against a forward pass and the modules' own parameters."""
    architecture = Architecture(first_batchnorm=first_batchnorm, image_moments=image_moments)
    structure = describe("any", architecture, size, channels)
    d, g = Discriminator(architecture, size, channels).eval(), Generator(architecture, size, channels)
    outputs = d.layers(torch.zeros(1, channels, size, size))
    assert [layer.values for layer in structure.discriminator] == [output.numel() for output in outputs]
    assert structure.generator[-1].shape == (channels, size, size)
    for layers, module in ((structure.discriminator, d), (structure.generator, g)):
        assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in module.parameters())
    assert structure.discriminator[0].then.startswith("batch norm") == first_batchnorm


def test_an_image_that_no_architecture_takes_is_refused() -> None:
    """Seven pixels are too few."""
    with pytest.raises(InputError, match="7 pixels"):
        describe("paper", Architecture(), 7, 1)
