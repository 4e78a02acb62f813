"""A private shard on disk: the images of one node, or the evaluator's test images. No torch.

One `.npz` file without pickle:

    images  (N, H, W, C) uint8     C is 1 grey or 3 colour
    labels  (N,) int64             optional; read by the evaluator alone, never by training
    index   (N,) int64             optional; position of each image in the data set it was taken from
    meta    () str                 optional; JSON with `data_set` and `classes`, the names of the labels
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from node.files import write_atomically
from topology.errors import InputError

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Shard:
    """Images of one holder.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, or None where the holder has none.
        index: (N,) int64 positions in the data set, or None.
        data_set: Name of the data set.
        classes: Names of the labels 0, 1, …
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    index: NDArray[np.int64] | None = None
    data_set: str = "unnamed"
    classes: tuple[str, ...] = field(default=())

    @property
    def image_shape(self) -> tuple[int, int]:
        """(size, channels) of every image."""
        return self.images.shape[1], self.images.shape[3]

    def __len__(self) -> int:
        return len(self.images)


def save_shard(path: Path, shard: Shard) -> None:
    """Writes `path` so that it is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {"images": shard.images}
    if shard.labels is not None:
        arrays["labels"] = shard.labels.astype(np.int64)
    if shard.index is not None:
        arrays["index"] = shard.index.astype(np.int64)
    arrays["meta"] = np.array(json.dumps({"data_set": shard.data_set, "classes": list(shard.classes)}))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def load_shard(path: Path) -> Shard:
    """Reads and checks a shard.

    Raises:
        InputError: The file is missing, is no shard, or its arrays do not fit one another.
    """
    mend = "a .npz file with images (N, H, W, C) uint8, and optionally labels, index and meta"
    try:
        # numpy leaves a torn file open behind its own back; this one is closed here.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {
                name: file[name] for name in ("images", "labels", "index", "meta") if name in file.files
            }
    except FileNotFoundError:
        mend = (
            "`dgan-launch prepare` and `dgan-launch shard` make shards; peers.toml says where, under `data`"
        )
        raise InputError(path, "no such file", mend) from None
    except _UNREADABLE as error:
        raise InputError(path, f"unreadable shard ({error})", mend) from None
    if "images" not in arrays:
        raise InputError(path, "no array named images", mend)
    images = arrays["images"]
    _check_images(path, images)
    for name in ("labels", "index"):
        if name in arrays and (arrays[name].shape != (len(images),) or arrays[name].dtype.kind not in "iu"):
            problem = f"{name} is {arrays[name].dtype} {arrays[name].shape}"
            raise InputError(path, problem, f"one whole number for each of the {len(images)} images")
    meta = _meta(path, arrays.get("meta"))
    return Shard(
        images=images,
        labels=arrays["labels"].astype(np.int64) if "labels" in arrays else None,
        index=arrays["index"].astype(np.int64) if "index" in arrays else None,
        data_set=str(meta.get("data_set", "unnamed")),
        classes=tuple(str(name) for name in meta.get("classes", ())),
    )


def _check_images(path: Path, images: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):  # noqa: PLR2004 - N, H, W, C; grey or colour
        raise InputError(path, f"images is {images.dtype} {images.shape}", "uint8 (N, H, W, C) with C 1 or 3")
    count, height, width, _ = images.shape
    if height != width or not MIN_IMAGE_SIZE <= height <= MAX_IMAGE_SIZE:
        mend = f"square images of {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels"
        raise InputError(path, f"images are {height}x{width}, which no architecture takes", mend)
    if count == 0:
        raise InputError(path, "images is empty", "at least one image")


def _meta(path: Path, array: NDArray[Any] | None) -> dict[str, Any]:
    if array is None:
        return {}
    try:
        meta = json.loads(str(array))
    except json.JSONDecodeError as error:
        raise InputError(path, f"meta is no JSON ({error})", "an object with data_set and classes") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("classes", []), list):
        raise InputError(path, f"meta is {meta!r}", "an object with data_set (text) and classes (a list)")
    return meta
