"""IDX files, the format in which MNIST is published; checked before a byte is trusted.

A file is `00 00 08 d`, then d sizes as big-endian u32, then unsigned bytes: d = 3 for images (N, H, W), d = 1 for
labels (N,). It may be gzipped, whatever its name says: browsers like to unpack a `.gz` and keep the name.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topology.errors import InputError

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
"""The four files of a data set, by their published names."""

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]

_GZIP_MAGIC = b"\x1f\x8b"
_MOST_INFLATED = 1032  # bytes that deflate can make of one
_IMAGE_DIMENSIONS, _LABEL_DIMENSIONS = 3, 1


def find_idx(folder: Path, name: str) -> Path | None:
    """The file of that published name in the folder: with or without `.gz`, `-idx3-ubyte` or `.idx3-ubyte`."""
    plain = name.removesuffix(".gz")
    spellings = (plain, plain.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def read_idx_folder(folder: Path) -> tuple[Labelled, Labelled]:
    """Training and test images (N, H, W, 1) with labels (N,) from the four files.

    Raises:
        InputError: A file is missing, is no whole IDX file, or does not fit the others; the line names it.
    """
    paths = []
    for name in FILES:
        path = find_idx(folder, name)
        if path is None:
            raise InputError(
                folder, f"no {name}, packed or unpacked", f"the four IDX files {', '.join(FILES)}"
            )
        paths.append(path)
    train = _read_pair(paths[0], paths[1])
    test = _read_pair(paths[2], paths[3])
    if train[0].shape[1:] != test[0].shape[1:]:
        height, width = train[0].shape[1:3]
        problem = f"images of {test[0].shape[1]}x{test[0].shape[2]} pixels"
        raise InputError(paths[2], problem, f"{height}x{width} as in {paths[0].name}")
    return train, test


def _read_pair(images_path: Path, labels_path: Path) -> Labelled:
    images = read_idx(images_path, dimensions=_IMAGE_DIMENSIONS)
    labels = read_idx(labels_path, dimensions=_LABEL_DIMENSIONS)
    if len(labels) != len(images):
        raise InputError(
            labels_path, f"{len(labels)} labels", f"one for each of the {len(images)} in {images_path.name}"
        )
    return images[..., None], labels.astype(np.int64)


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes as an array of that many dimensions, none of them 0.

    Raises:
        InputError: The file cannot be read, has another magic number or length, or is empty.
    """
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            most_bytes = path.stat().st_size * (_MOST_INFLATED if is_packed else 1)
            with gzip.open(raw) if is_packed else raw as file:
                shape = _read_shape(path, file.read(4 + 4 * dimensions), dimensions)
                wanted = math.prod(shape)
                # A damaged header may promise terabytes, for which there is no memory to read into.
                body = file.read(wanted + 1) if wanted <= most_bytes else b""
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            path, f"unreadable, cut off or corrupt ({error})", "a whole IDX file, packed or not"
        ) from None
    if len(body) != wanted:
        problem = f"{'fewer' if len(body) < wanted else 'more'} bytes than its header promises"
        raise InputError(path, problem, f"{wanted} bytes of data for {' x '.join(map(str, shape))}")
    # A copy: an array over `bytes` could not be written to.
    return np.frombuffer(body, np.uint8).reshape(shape).copy()


def _read_shape(path: Path, head: bytes, dimensions: int) -> tuple[int, ...]:
    """The sizes in a header; refuses any other magic number and empty arrays."""
    magic = bytes((0, 0, 8, dimensions))
    if head[:4] != magic:
        problem = f"magic number {head[:4].hex(' ') or 'missing'}"
        raise InputError(path, problem, f"{magic.hex(' ')}: unsigned bytes in {dimensions} dimension(s)")
    if len(head) < 4 + 4 * dimensions:
        raise InputError(path, f"cut off after {len(head)} bytes", f"a header of {4 + 4 * dimensions} bytes")
    shape: tuple[int, ...] = struct.unpack_from(f">{dimensions}I", head, 4)
    if math.prod(shape) == 0:
        raise InputError(path, f"sizes {' x '.join(map(str, shape))}", "at least one item")
    return shape
