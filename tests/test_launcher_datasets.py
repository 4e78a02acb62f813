"""Data sets: loaded by name or folder, and shared out into files that are the same each time."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from launcher.datasets import DataSet, load_data, prepare_shards, resolve_image
from launcher.idx import FILES
from node.config import Settings, resolve
from node.shards import load_shard
from topology.errors import InputError

IDS = (1, 2, 4)


def settings(**layer: Any) -> Settings:
    """Settings with these tables, and batches small enough for small data."""
    return resolve("test", {"training": {"batch_size": 4}, **layer})


def made_up(height: int = 8, width: int = 8, channels: int = 1, train: int = 60, test: int = 10) -> DataSet:
    """Random images of three classes."""
    rng = np.random.default_rng(0)
    parts = [
        (rng.integers(0, 256, (count, height, width, channels), np.uint8), np.arange(count) % 3)
        for count in (train, test)
    ]
    return DataSet("made-up", parts[0], parts[1], ("a", "b", "c"))


def write_idx(folder: Path, labels: NDArray[np.uint8]) -> None:
    """Four IDX files with these labels, in training and test."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        array = labels if "labels" in name else np.zeros((len(labels), 8, 8), np.uint8)
        head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(gzip.compress(head + array.tobytes()))


def digests(folder: Path) -> dict[str, str]:
    """What every file of a folder holds."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_digits_are_embedded() -> None:
    """1797 images of 8x8 pixels over the full range of a byte; the last fifth is the test set."""
    data = load_data("digits")
    images, labels = data.train
    assert isinstance(images, np.ndarray)
    assert images.shape == (1437, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert labels.dtype == np.int64
    assert len(data.test[1]) == 360
    assert data.classes == tuple("0123456789")
    assert (np.bincount(data.test[1]) > 30).all()


def test_a_folder_of_idx_files_is_a_data_set(tmp_path: Path) -> None:
    """Named after the folder; its classes are its labels."""
    write_idx(tmp_path / "letters", np.array([0, 3, 1], np.uint8))
    data = load_data(str(tmp_path / "letters"))
    assert data.name == "letters"
    assert data.classes == ("0", "1", "2", "3")
    assert data.train[1].tolist() == [0, 3, 1]


def test_a_folder_of_class_folders_is_a_data_set(tmp_path: Path) -> None:
    """Classes are named after the folders."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    data = load_data(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert (len(data.train[1]), len(data.test[1])) == (8, 2)


def test_a_named_data_set_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files put there by hand need no network; fashion's classes have names."""
    write_idx(tmp_path / "mnist", np.array([0, 9], np.uint8))
    write_idx(tmp_path / "fashion-mnist", np.array([0, 9], np.uint8))
    assert load_data("mnist", cache=tmp_path).classes == tuple("0123456789")
    monkeypatch.setenv("DGAN_CACHE", str(tmp_path))
    assert load_data("fashion-mnist").classes[::9] == ("T-shirt/top", "Ankle boot")


def test_labels_beyond_the_named_classes_are_refused(tmp_path: Path) -> None:
    """Another data set's files in the cache of this one."""
    write_idx(tmp_path / "fashion-mnist", np.array([0, 26], np.uint8))
    with pytest.raises(InputError, match="label 26; 0 to 9, the classes of fashion-mnist"):
        load_data("fashion-mnist", cache=tmp_path)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """Neither a data set nor a folder; a file is no folder."""
    (tmp_path / "file").touch()
    for name in ("minst", str(tmp_path / "file")):
        with pytest.raises(
            InputError, match="neither a data set nor a folder; digits, mnist, fashion-mnist, or"
        ):
            load_data(name)


def test_size_and_channels_are_the_data_sets_own_unless_set() -> None:
    """Zero is filled in; what is set stays."""
    image = resolve_image(made_up(12, 12, 3), settings()).image
    assert (image.size, image.channels) == (12, 3)
    asked = settings(image={"size": 20, "channels": 1})
    assert resolve_image(made_up(12, 12, 3), asked) == asked


@pytest.mark.parametrize(
    ("height", "width", "wanted"), [(6, 6, 8), (80, 80, 64), (28, 30, 28), (100, 70, 64)]
)
def test_an_own_size_that_no_architecture_takes_is_refused(height: int, width: int, wanted: int) -> None:
    """The line tells which size to set, and that one works."""
    data = made_up(height, width)
    with pytest.raises(InputError, match=f"{height}x{width} pixels.* --set image.size={wanted}$"):
        resolve_image(data, settings())
    assert resolve_image(data, settings(image={"size": wanted})).image.size == wanted


def test_pictures_of_different_sizes_have_no_own_size(tmp_path: Path) -> None:
    """They need one; a centre crop must fit into the smallest."""
    for number, side in enumerate((9, 12, 30)):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", (side, side)).save(tmp_path / "a" / f"{number}.png")
    data = load_data(str(tmp_path))
    with pytest.raises(InputError, match="images of 3 different sizes"):
        resolve_image(data, settings())
    with pytest.raises(InputError, match=r"0\.png: 9x9 pixels, too few for a centre crop of 10"):
        resolve_image(data, settings(image={"size": 10, "resize": "crop"}))


def test_a_centre_crop_that_fits_is_taken() -> None:
    """Up to the images' own size."""
    for size in (8, 12):
        assert (
            resolve_image(made_up(12, 12), settings(image={"size": size, "resize": "crop"})).image.size
            == size
        )


def test_a_centre_crop_larger_than_the_images_is_refused() -> None:
    """Antialiased resizing may enlarge; cropping may not."""
    with pytest.raises(InputError, match="made-up: 8x8 pixels, too few for a centre crop of 20"):
        resolve_image(made_up(), settings(image={"size": 20, "resize": "crop"}))


def test_shards_hold_what_the_split_says(tmp_path: Path) -> None:
    """Every shard is the data set at its own positions, and no two share one."""
    data = made_up()
    record = prepare_shards(data, settings(split={"shares": [1, 2, 3]}), IDS, tmp_path)
    assert [record.nodes[node].images for node in IDS] == [10, 20, 30]
    seen: list[int] = []
    for node in IDS:
        shard = load_shard(tmp_path / record.nodes[node].file)
        assert shard.index is not None
        assert shard.labels is not None
        assert isinstance(data.train[0], np.ndarray)
        assert np.array_equal(shard.images, data.train[0][shard.index])
        assert np.array_equal(shard.labels, data.train[1][shard.index])
        assert (shard.data_set, shard.classes) == ("made-up", ("a", "b", "c"))
        assert (
            record.nodes[node].index_sha256 == hashlib.sha256(shard.index.astype("<i8").tobytes()).hexdigest()
        )
        assert list(record.nodes[node].classes.values()) == np.bincount(shard.labels, minlength=3).tolist()
        seen.extend(shard.index.tolist())
    assert sorted(seen) == list(range(60))


def test_the_split_is_written_down(tmp_path: Path) -> None:
    """Seed, rule, data set, sizes, classes and digests, as JSON."""
    prepare_shards(
        made_up(), settings(seed=9, split={"rule": "classes", "classes_per_node": 1}), IDS, tmp_path
    )
    record = json.loads((tmp_path / "split.json").read_text())
    assert (record["data_set"], record["train_images"], record["seed"]) == ("made-up", 60, 9)
    assert record["how"]["rule"] == "classes"
    assert record["image"] == {"size": 8, "channels": 1, "resize": "antialias"}
    assert sorted(record["nodes"]) == ["1", "2", "4"]
    assert sorted(record["nodes"]["4"]["classes"].values()) == [0, 0, 20]
    assert record["test"]["file"] == "test.npz"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "node-1.npz",
        "node-2.npz",
        "node-4.npz",
        "split.json",
        "test.npz",
    ]


def test_preparing_twice_leaves_equal_files(tmp_path: Path) -> None:
    """In the same folder and in another, byte for byte; another seed gives others."""
    data, asked = made_up(), settings(image={"size": 12}, split={"rule": "dirichlet", "test_images": 5})
    prepare_shards(data, asked, IDS, tmp_path / "one")
    first = digests(tmp_path / "one")
    prepare_shards(data, asked, IDS, tmp_path / "one")
    prepare_shards(data, asked, IDS, tmp_path / "two")
    assert first == digests(tmp_path / "one") == digests(tmp_path / "two")
    prepare_shards(data, asked.model_copy(update={"seed": 1}), IDS, tmp_path / "two")
    assert not set(first.values()) & set(digests(tmp_path / "two").values())


def test_the_test_set_is_the_evaluators_and_can_be_cut(tmp_path: Path) -> None:
    """All of it, or as many as asked for; more than there are is refused."""
    prepare_shards(made_up(), settings(), IDS, tmp_path)
    assert len(load_shard(tmp_path / "test.npz")) == 10
    prepare_shards(made_up(), settings(split={"test_images": 4}), IDS, tmp_path)
    assert len(load_shard(tmp_path / "test.npz")) == 4
    with pytest.raises(InputError, match=r"split\.test_images: 11, but there are 10 test images; at most 10"):
        prepare_shards(made_up(), settings(split={"test_images": 11}), IDS, tmp_path)


def test_images_are_written_at_the_size_and_channels_asked_for(tmp_path: Path) -> None:
    """In the shards and in the test set."""
    prepare_shards(made_up(28, 28), settings(image={"size": 20, "channels": 3}), IDS, tmp_path)
    for name in ("node-1.npz", "test.npz"):
        assert load_shard(tmp_path / name).image_shape == (20, 3)


def test_refused_settings_touch_nothing(tmp_path: Path) -> None:
    """The checks come before the first file."""
    prepare_shards(made_up(), settings(), IDS, tmp_path)
    before = digests(tmp_path)
    for layer in (
        {"split": {"images_per_node": 21}},
        {"image": {"size": 9, "resize": "crop"}},
        {"training": {"batch_size": 21}},
    ):
        with pytest.raises(InputError):
            prepare_shards(made_up(), settings(**layer), IDS, tmp_path)
    assert digests(tmp_path) == before


def test_a_picture_that_breaks_off_leaves_no_record_of_a_split(tmp_path: Path) -> None:
    """`split.json` vouches for whole files only."""
    for number in range(30):
        (tmp_path / "data" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "data" / "a" / f"{number}.bmp")
    data = load_data(str(tmp_path / "data"))
    shards = tmp_path / "shards"
    prepare_shards(data, settings(), (1,), shards)
    victim = data.train[0].paths[0]  # type: ignore[union-attr]  # a folder of pictures keeps their paths
    victim.write_bytes(victim.read_bytes()[:-40])
    with pytest.raises(InputError, match="no readable picture"):
        prepare_shards(data, settings(seed=1), (1,), shards)
    assert not (shards / "split.json").exists()


def test_a_name_with_any_letters_is_kept(tmp_path: Path) -> None:
    """Folders are named in many languages."""
    record = prepare_shards(replace(made_up(), name="číslice"), settings(), IDS, tmp_path)
    assert "číslice" in record.to_json()
    assert load_shard(tmp_path / "test.npz").data_set == "číslice"
