"""Shard files: round trip, and every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.shards import Shard, load_shard, save_shard
from topology.errors import InputError


def test_a_shard_survives_a_round_trip(tmp_path: Path) -> None:
    """Images, labels, index and names all come back."""
    images = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1)
    shard = Shard(images, np.array([0, 1, 0]), np.array([5, 9, 2]), "digits", ("zero", "one"))
    save_shard(tmp_path / "a.npz", shard)
    loaded = load_shard(tmp_path / "a.npz")
    assert np.array_equal(loaded.images, images)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 1, 0]
    assert loaded.index is not None
    assert loaded.index.tolist() == [5, 9, 2]
    assert (loaded.data_set, loaded.classes, loaded.image_shape) == ("digits", ("zero", "one"), (8, 1))


def test_a_shard_of_images_alone_is_enough(tmp_path: Path) -> None:
    """A site without labels can train."""
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    loaded = load_shard(tmp_path / "a.npz")
    assert loaded.labels is None
    assert loaded.image_shape == (8, 3)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"labels": np.zeros(2, np.int64)}, "no array named images"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "uint8 (N, H, W, C)"),
        ({"images": np.zeros((2, 8, 8, 1), np.float32)}, "float32"),
        ({"images": np.zeros((2, 8, 8, 2), np.uint8)}, "C 1 or 3"),
        ({"images": np.zeros((2, 8, 9, 1), np.uint8)}, "8x9"),
        ({"images": np.zeros((2, 70, 70, 1), np.uint8)}, "8 to 64"),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, "empty"),
        (
            {"images": np.zeros((2, 8, 8, 1), np.uint8), "labels": np.zeros(3, np.int64)},
            "labels is int64 (3,)",
        ),
        ({"images": np.zeros((2, 8, 8, 1), np.uint8), "meta": np.array("{")}, "meta is no JSON"),
        ({"images": np.zeros((2, 8, 8, 1), np.uint8), "meta": np.array("[]")}, "meta is []"),
    ],
)
def test_a_shard_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, arrays: dict[str, Any], part: str
) -> None:
    """One line that names the file and what is wrong in it."""
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError) as caught:
        load_shard(tmp_path / "bad.npz")
    assert part in str(caught.value)
    assert "bad.npz" in str(caught.value)


def test_a_missing_torn_or_pickled_shard_is_refused(tmp_path: Path) -> None:
    """Nothing but plain arrays is ever read."""
    with pytest.raises(InputError, match="no such file"):
        load_shard(tmp_path / "none.npz")
    save_shard(tmp_path / "a.npz", Shard(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickled.npz", images=np.array([{"a": 1}], dtype=object))
    middle = len(whole) // 3
    (tmp_path / "flipped.npz").write_bytes(
        whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    )
    for name in ("flipped.npz", "torn.npz", "text.npz", "pickled.npz"):
        with pytest.raises(InputError, match="unreadable shard"):
            load_shard(tmp_path / name)
