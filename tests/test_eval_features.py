"""What describes images: layers of discriminators, pixels, and generated images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eval.features import (
    Described,
    check_images_fit,
    generated_images,
    layer_features,
    pixel_features,
    pooled_features,
    to_tensor,
    trained_discriminator,
    trained_generator,
    untrained_discriminator,
)
from eval.runs import RunDirectory, read_run
from node.config import Architecture
from node.models import BatchNorm, Discriminator
from topology.errors import InputError

MakeRun = Callable[..., Path]


@pytest.fixture
def run(make_toy_run: MakeRun, tmp_path: Path) -> RunDirectory:
    """A run of three nodes on 8x8 images."""
    return read_run(make_toy_run(tmp_path / "run"))


def _images(count: int, size: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1)).astype(np.uint8)


def test_the_papers_discriminator_gives_8049_features() -> None:
    """The number that section 4 names."""
    layers = layer_features(Discriminator(Architecture(), 20, 1), _images(3, size=20))
    assert [layer.shape for layer in layers] == [(3, 6400), (3, 1600), (3, 48), (3, 1)]
    assert sum(layer.shape[1] for layer in layers) == 8049


def test_pooled_features_are_the_largest_of_each_part_of_the_first_two_layers() -> None:
    """A grid of 4x4, of the same forward pass as all layers: what is 8x8 loses three of four numbers, 2x2 nothing."""
    discriminator, images = Discriminator(Architecture(), 16, 1), _images(3, size=16)
    first, second, *_ = layer_features(discriminator, images)
    pooled, same = pooled_features(discriminator, images)
    np.testing.assert_array_equal(same, second)
    np.testing.assert_array_equal(pooled, first.reshape(3, 64, 4, 2, 4, 2).max(axis=(3, 5)).reshape(3, -1))
    assert [
        layer.shape for layer in pooled_features(Discriminator(Architecture(), 20, 1), _images(3, 20))
    ] == [(3, 1024)] * 2
    assert [layer.shape for layer in pooled_features(Discriminator(Architecture(), 8, 1), _images(3, 8))] == [
        (3, 1024),
        (3, 48),
    ]


def test_an_images_features_depend_on_no_other_image(run: RunDirectory) -> None:
    """Batch normalisation takes the running statistics, whatever mode the module was left in."""
    discriminator = trained_discriminator(run, run.checkpoint(1))
    images = _images(620)
    together = layer_features(discriminator.train(), images)
    alone = layer_features(discriminator.train(), images[600:601])
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(many[600:601], one, rtol=1e-4, atol=1e-5)


def test_features_are_taken_after_the_activation(run: RunDirectory) -> None:
    """LeakyReLU: normalised to mean 0 and sd 1 before it, values below 0 are the slope times as large as those above."""
    first = layer_features(untrained_discriminator(run, 1, _images(200), seed=0), _images(200))[0]
    assert first.min() < 0
    assert -first[first < 0].mean() == pytest.approx(
        run.architecture(1).slope * first[first > 0].mean(), rel=0.3
    )


def test_an_untrained_discriminator_is_normalised_by_the_nodes_own_images(run: RunDirectory) -> None:
    """In every layer the normalised values have mean 0 and sd 1 over those images."""
    images = _images(200)
    discriminator = untrained_discriminator(run, 1, images, seed=0)
    seen: list[torch.Tensor] = []
    for module in discriminator.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        discriminator(to_tensor(images))
    assert len(seen) == 2
    for output in seen:
        assert output.mean(dim=(0, 2, 3)).abs().max() < 1e-4
        assert (output.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


def test_untrained_discriminators_differ_by_node_and_seed_alone(run: RunDirectory) -> None:
    """The floor is as many draws as there are nodes, and can be repeated."""
    weights = [
        untrained_discriminator(run, node, _images(20), seed).last.weight
        for node, seed in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


def test_pixels_run_from_0_to_1() -> None:
    """The floor is what a user would try first."""
    (pixels,) = pixel_features(np.array([[[[0], [255]], [[51], [102]]]], np.uint8))
    np.testing.assert_allclose(pixels, [[0, 1, 0.2, 0.4]], rtol=1e-6)
    assert pixels.dtype == np.float32


def test_several_descriptions_are_computed_one_after_the_other() -> None:
    """Only when they are read, and anew for the next reader, so that they need not fit into memory together."""
    computed: list[int] = []

    def describe(which: int, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        computed.append(which)
        return [np.full((len(images), 2), which, np.float32)]

    several = Described([partial(describe, which) for which in (1, 2)], _images(3))
    reader = iter(several)
    assert computed == []
    assert next(reader)[0].tolist() == [[1, 1]] * 3
    assert computed == [1]
    assert [part[0][0, 0] for part in several] == [1, 2]
    assert computed == [1, 1, 2]


def test_the_same_noise_gives_the_same_images(run: RunDirectory) -> None:
    """A seed names the images that were judged."""
    generator = trained_generator(run, run.checkpoint(1))
    images = generated_images(generator, 12, seed=3)
    assert images.shape == (12, 8, 8, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, generated_images(generator, 12, seed=3))
    assert not np.array_equal(images, generated_images(generator, 12, seed=4))


def test_a_checkpoint_of_another_structure_is_told(run: RunDirectory) -> None:
    """The peers file was changed after the training."""
    checkpoint = run.checkpoint(1)
    wider = dataclasses.replace(
        run, settings=run.settings.model_copy(update={"architecture": {"light": Architecture()}})
    )
    with pytest.raises(InputError, match="the discriminator does not fit architecture 'light'"):
        trained_discriminator(wider, checkpoint)


def test_images_of_another_size_are_told(run: RunDirectory) -> None:
    """The shard was made anew after the training."""
    images = dataclasses.replace(run.test_images(), images=_images(3, size=20))
    with pytest.raises(InputError, match="images are 20x20x1, and node 1 was trained on 8x8x1"):
        check_images_fit(run.checkpoint(1), images)
