"""Structures: every size, the paper's 8049 features, batch normalisation that tracks only when told."""

from __future__ import annotations

import math

import pytest
import torch

from node.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, Architecture
from node.models import Discriminator, Generator, initialise
from topology.errors import InputError

SMALL = Architecture(discriminator_widths=(4, 5, 6), generator_widths=(5, 4), latent_size=7)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_from_8_to_64_has_a_generator_and_a_discriminator(channels: int) -> None:
    """G draws images of exactly that size and D reduces them to one logit."""
    for size in range(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE + 1):
        images = Generator(SMALL, size, channels)(torch.randn(2, 7))
        assert images.shape == (2, channels, size, size)
        assert float(images.detach().abs().max()) <= 1
        assert Discriminator(SMALL, size, channels)(images).shape == (2,)


def test_the_paper_architecture_has_8049_features_at_20x20() -> None:
    """6400 + 1600 + 48 + 1 (P12)."""
    layers = Discriminator(Architecture(), 20, 1).layers(torch.zeros(3, 1, 20, 20))
    assert [layer.shape for layer in layers] == [(3, 64, 10, 10), (3, 64, 5, 5), (3, 12, 2, 2), (3, 1, 1, 1)]


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_tell_the_contrast_that_batch_normalisation_hides(channels: int) -> None:
    """It takes out what a whole batch shares; their weights start at 0."""
    images = torch.rand(6, channels, 20, 20) - 0.5
    plain = Discriminator(Architecture(slope=0.2), 20, channels)
    torch.testing.assert_close(plain(images), plain(images * 0.5), atol=2e-3, rtol=1e-3)
    told = Discriminator(Architecture(slope=0.2, image_moments=True), 20, channels)
    told.load_state_dict(plain.state_dict(), strict=False)
    assert told.moments is not None
    torch.testing.assert_close(told(images), plain(images))
    with torch.no_grad():
        told.moments.copy_(torch.arange(2.0 * channels).view(2, channels) + 1)
    means, squares = images.mean(dim=(2, 3)), images.square().mean(dim=(2, 3))
    expected = plain(images) + means @ told.moments[0] + squares @ told.moments[1]
    torch.testing.assert_close(told(images), expected)


def test_the_paper_generator_has_three_fractionally_strided_convolutions() -> None:
    """P8: 100-dimensional z to 5, 10 and 20 pixels."""
    generator = Generator(Architecture(), 20, 1)
    assert [layer.stride for layer in generator.convolutions] == [(1, 1), (2, 2), (2, 2)]


def test_the_first_layer_as_a_matrix_product_is_the_fractionally_strided_convolution() -> None:
    """The faster form gives what the convolution would."""
    generator = Generator(SMALL, 20, 1)
    z = torch.randn(4, 7)
    convolution = generator.convolutions[0](z[:, :, None, None])
    weight = generator.convolutions[0].get_parameter("weight")
    product = (z @ weight.flatten(start_dim=1)).view(-1, *weight.shape[1:])
    torch.testing.assert_close(product, convolution)


@pytest.mark.parametrize(("size", "channels"), [(7, 1), (65, 1), (20, 2)])
def test_a_shape_that_no_architecture_takes_is_refused(size: int, channels: int) -> None:
    """The line names the value and the bounds."""
    for network in (Discriminator, Generator):
        with pytest.raises(InputError, match=str(size if channels == 1 else channels)):
            network(SMALL, size, channels)


def test_use_without_tracking_leaves_the_running_statistics_alone() -> None:
    """That is how a neighbour's discriminator, and one's own in G's step, are used."""
    discriminator = Discriminator(SMALL, 20, 1)
    before = {name: t.clone() for name, t in discriminator.state_dict().items()}
    discriminator(torch.randn(4, 1, 20, 20))
    assert all(torch.equal(before[name], t) for name, t in discriminator.state_dict().items())
    discriminator(torch.randn(4, 1, 20, 20), track=True)
    changed = {name for name, t in discriminator.state_dict().items() if not torch.equal(before[name], t)}
    assert changed == {name for name in before if "running" in name}


def test_training_mode_normalises_by_the_batch_and_evaluation_mode_by_the_running_statistics() -> None:
    """In evaluation mode an image's logit does not depend on its batch."""
    discriminator = Discriminator(SMALL, 20, 1)
    images = torch.randn(6, 1, 20, 20)
    assert not torch.allclose(discriminator(images)[:3], discriminator(images[:3]))
    discriminator.eval()
    torch.testing.assert_close(discriminator(images)[:3], discriminator(images[:3]))


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_initialisation_has_the_deviation_it_names(network: type[Generator | Discriminator]) -> None:
    """DCGAN's 0.02 everywhere; He's sqrt(2 / fan-in), where a doubling layer of G meets 2 x 2 taps in one output."""
    wide = Architecture(discriminator_widths=(64, 64, 64), generator_widths=(64, 64))
    module = network(wide, 20, 3)
    initialise(module, "dcgan", torch.Generator().manual_seed(1))
    for layer in module.convolutions:
        assert float(layer.get_parameter("weight").detach().std()) == pytest.approx(0.02, rel=0.1)
    initialise(module, "he", torch.Generator().manual_seed(1))
    fan_in = 64 * 4 if network is Generator else 64 * 16
    assert float(module.convolutions[1].get_parameter("weight").detach().std()) == pytest.approx(
        math.sqrt(2 / fan_in), rel=0.05
    )


def test_initialisation_repeats_with_its_seed() -> None:
    """Equal seeds, equal weights."""
    first, second = Discriminator(SMALL, 20, 1), Discriminator(SMALL, 20, 1)
    for module in (first, second):
        initialise(module, "he", torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_logits_are_float32_whatever_the_layers_compute_in() -> None:
    """Those of a last layer in bfloat16 would all be multiples of 1/16 from 8 on."""
    discriminator = Discriminator(SMALL, 8, 1)
    with torch.no_grad():
        discriminator.last.bias.fill_(9.0)  # type: ignore[union-attr]  # a convolution with a bias
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = discriminator(torch.randn(50, 1, 8, 8))
    assert logits.dtype == torch.float32
    assert bool((logits * 16 != (logits * 16).round()).any())
