"""Batches: without replacement, in [-1, 1], resumable."""

from __future__ import annotations

import numpy as np
import torch

from node.data import Batches, normalise
from node.shards import Shard


def batches(seed: int = 0) -> Batches:
    """Ten 8x8 images whose pixels all hold the image's number."""
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 8, 8, 1)).copy()
    return Batches(Shard(images), 3, torch.Generator().manual_seed(seed), torch.device("cpu"))


def numbers(batch: torch.Tensor) -> list[int]:
    """Which images a batch holds."""
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_bytes_become_the_interval_from_minus_1_to_1() -> None:
    """P8."""
    assert normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).flatten().tolist() == [-1.0, 1.0]


def test_no_image_comes_twice_before_the_shard_is_used_up() -> None:
    """Three batches of three hold nine different images; the next pass is another order."""
    stream = batches()
    first = [number for _ in range(3) for number in numbers(stream.sample())]
    second = [number for _ in range(3) for number in numbers(stream.sample())]
    assert len(set(first)) == 9
    assert len(set(second)) == 9
    assert first != second


def test_a_batch_has_channels_before_pixels() -> None:
    """(m, C, H, W)."""
    assert batches().sample().shape == (3, 1, 8, 8)


def test_a_stream_continues_where_its_state_was_taken() -> None:
    """In the middle of a pass, and through the next shuffle."""
    stream, copy = batches(), batches(seed=9)
    stream.sample()
    state, random = stream.state(), stream._generator.get_state()
    expected = [numbers(stream.sample()) for _ in range(6)]
    copy.load_state(state)
    copy._generator.set_state(random)
    assert [numbers(copy.sample()) for _ in range(6)] == expected
