"""Named data sets and folders of images -> one private shard for each node, and the evaluator's test images.

What a run is given is written down in `split.json`, byte for byte the same each time the inputs are:

    data_set, train_images, seed    what was split
    data, image                     the settings that decided: the rule, its numbers, size and channels
    nodes.3, test                   file; number of images; images of each class; index_sha256

The index list itself, positions in the data set's training (or test) images, is the array `index` in that file;
`index_sha256` is the digest of its little-endian int64 bytes. So a split can be checked without any image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.downloads import SOURCES, default_cache, fetch
from launcher.idx import FILES, Labelled, find_idx, read_idx_folder
from launcher.images import (
    Images,
    LabelledImages,
    PictureFiles,
    image_channels,
    image_sizes,
    read_picture_folder,
    render,
)
from launcher.split import split
from node.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, Settings
from node.files import write_atomically
from node.shards import Shard, save_shard
from topology.errors import InputError

DATA_SETS = ("digits", *SOURCES)
"""Data sets known by name; `digits` comes with scikit-learn, the others are downloaded."""

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CLASS_NAMES = {"fashion-mnist": _FASHION}
_TEST_STREAM = 0x74657374  # "test": a random stream of its own
_DIGITS_LEVELS = 16  # digits' pixels count 0 to 16


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled images before they are shared out.

    Attributes:
        name: As given, or the folder's name.
        train: Images (N, H, W, C) uint8, or picture files, and labels (N,) int64.
        test: The same for the evaluator.
        classes: Names of the labels 0, 1, …
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Holding:
    """What one file of the split holds; `index_sha256` is the digest of its array `index`."""

    file: str
    images: int
    classes: dict[str, int]
    index_sha256: str


@dataclass(frozen=True)
class Split:
    """Who holds what, as `split.json` keeps it."""

    data_set: str
    train_images: int
    seed: int
    how: dict[str, Any]
    image: dict[str, Any]
    nodes: dict[int, Holding]
    test: Holding

    def to_json(self) -> str:
        """The text of `split.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def load_data(
    name_or_path: str, *, cache: Path | None = None, progress: bool = False, where: str = "--data"
) -> DataSet:
    """A data set by its name, or from a folder of IDX files or of class folders with pictures.

    Args:
        name_or_path: One of `DATA_SETS`, or a folder; `./mnist` is a folder where `mnist` is the data set.
        cache: Folder of downloads; otherwise $DGAN_CACHE or the user's cache folder.
        progress: Whether to show downloads on standard error.
        where: What an error names as the place of `name_or_path`.

    Raises:
        InputError: There is no such data set or folder, a file is damaged, or a download failed.
    """
    if name_or_path == "digits":
        return _digits()
    if name_or_path in SOURCES:
        folder = (cache or default_cache()) / name_or_path
        fetch(name_or_path, SOURCES[name_or_path], folder, progress=progress)
        return _from_idx(name_or_path, folder)
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        known = f"{', '.join(DATA_SETS)}, or a folder of images"
        raise InputError(where, f"{name_or_path!r} is neither a data set nor a folder", known)
    name = folder.resolve().name
    if any(find_idx(folder, file) for file in FILES):
        return _from_idx(name, folder)
    train, test, classes = read_picture_folder(folder)
    return DataSet(name, train, test, classes)


def _digits() -> DataSet:
    """1797 digits of 8x8 pixels, in their published order; the last fifth is the test set."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - costs most of a second, and only this data set needs it

    bunch = load_digits()
    images = np.rint(bunch.images[..., None] * (255 / _DIGITS_LEVELS)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    train_images = len(labels) * 4 // 5
    train: Labelled = (images[:train_images], labels[:train_images])
    return DataSet("digits", train, (images[train_images:], labels[train_images:]), tuple("0123456789"))


def _from_idx(name: str, folder: Path) -> DataSet:
    train, test = read_idx_folder(folder)
    largest = int(max(train[1].max(), test[1].max()))
    classes = _CLASS_NAMES.get(name, tuple(str(label) for label in range(largest + 1)))
    if largest >= len(classes):
        raise InputError(folder, f"label {largest}", f"0 to {len(classes) - 1}, the classes of {name}")
    return DataSet(name, train, test, classes)


def resolve_image(data: DataSet, settings: Settings) -> Settings:
    """The settings with the data set's own size and channels where they say 0.

    Raises:
        InputError: The images have no one square size of 8 to 64 pixels to take, or are too small for a centre crop;
            the line tells what to set.
    """
    image = settings.image
    size = image.size or _own_size(data)
    if image.resize == "crop":
        for images, _ in (data.train, data.test):
            _check_crop(data.name, images, size)
    channels = image.channels or max(image_channels(data.train[0]), image_channels(data.test[0]))
    return settings.model_copy(
        update={"image": image.model_copy(update={"size": size, "channels": channels})}
    )


def _own_size(data: DataSet) -> int:
    sizes = image_sizes(data.train[0]) | image_sizes(data.test[0])
    (height, width), *others = sorted(sizes)
    if not others and height == width and MIN_IMAGE_SIZE <= height <= MAX_IMAGE_SIZE:
        return height
    told = f"{len(sizes)} different sizes" if others else f"{height}x{width} pixels"
    nearest = min(max(min(min(size) for size in sizes), MIN_IMAGE_SIZE), MAX_IMAGE_SIZE)
    problem = f"images of {told}, and image.size = 0 takes their own"
    wanted = f"one square size of {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels"
    raise InputError(data.name, problem, f"{wanted}, such as --set image.size={nearest}")


def _check_crop(name: str, images: Images, size: int) -> None:
    height, width = min(sorted(image_sizes(images)), key=min)
    if min(height, width) >= size:
        return
    where = images.paths[images.sizes.index((height, width))] if isinstance(images, PictureFiles) else name
    problem = f"{height}x{width} pixels, too few for a centre crop of {size} (image.resize = crop)"
    raise InputError(where, problem, "--set image.resize=antialias or a smaller image.size")


def prepare_shards(data: DataSet, settings: Settings, node_ids: tuple[int, ...], directory: Path) -> Split:
    """Writes `node-<id>.npz` for each node, `test.npz` and, once those are whole, `split.json`.

    The labels stay in the shards for the probe (P12); training never reads them.

    Args:
        data: What to share out.
        settings: The run's; sizes and channels of 0 are resolved here too.
        node_ids: Nodes in the order that `split.shares` follows.
        directory: Made where it is missing; files in it are replaced.

    Raises:
        InputError: The settings do not suit the data (see `resolve_image` and `split`), or a picture is unreadable.
    """
    settings = resolve_image(data, settings)
    parts = split(
        data.train[1], node_ids, settings.split, settings.seed, at_least=settings.training.batch_size
    )
    kept = test_index(data, settings)
    # A stale record would vouch for the files of another split.
    (directory / "split.json").unlink(missing_ok=True)
    nodes = {
        node_id: _write(directory / f"node-{node_id}.npz", data, data.train, index, settings)
        for node_id, index in parts.items()
    }
    record = Split(
        data_set=data.name,
        train_images=len(data.train[1]),
        seed=settings.seed,
        how=settings.split.model_dump(mode="json"),
        image=settings.image.model_dump(mode="json"),
        nodes=nodes,
        test=_write(directory / "test.npz", data, data.test, kept, settings),
    )
    write_atomically(directory / "split.json", record.to_json().encode())
    return record


def test_index(data: DataSet, settings: Settings) -> NDArray[np.int64]:
    """Positions of the test images that the evaluator gets: `split.test_images` drawn by the seed, or all.

    Raises:
        InputError: More are asked for than there are.
    """
    images, asked = len(data.test[1]), settings.split.test_images
    if asked > images:
        raise InputError(
            "split.test_images", f"{asked}, but there are {images} test images", f"at most {images}"
        )
    if asked == 0:
        return np.arange(images)
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, _TEST_STREAM]))
    return np.sort(rng.choice(images, size=asked, replace=False))


def cut_shard(data: DataSet, source: LabelledImages, index: NDArray[np.int64], settings: Settings) -> Shard:
    """The images at these positions with their labels, as a node or the evaluator holds them.

    Args:
        data: Names the data set and its classes.
        source: Its training or its test images.
        index: Positions in `source`.
        settings: Sizes and channels are resolved, see `resolve_image`.

    Raises:
        InputError: A picture is unreadable.
    """
    images, labels = source
    pixels = render(images, index, settings.image)
    return Shard(pixels, labels[index], index, data_set=data.name, classes=data.classes)


def _write(
    path: Path, data: DataSet, source: LabelledImages, index: NDArray[np.int64], settings: Settings
) -> Holding:
    save_shard(path, cut_shard(data, source, index, settings))
    digest = hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()
    return Holding(path.name, len(index), _class_counts(source[1][index], data.classes), digest)


def _class_counts(labels: NDArray[np.int64], classes: Iterable[str]) -> dict[str, int]:
    return {name: int(np.count_nonzero(labels == label)) for label, name in enumerate(classes)}
