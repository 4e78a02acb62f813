"""Made-up data sets of MNIST's size, so that a benchmark needs no download."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def write_images(folder: Path, training: int = 50_000) -> Path:
    """Four IDX files in MNIST's form, 28x28 pixels; returns the folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", training), ("t10k", 100)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            data = gzip.compress(header + array.tobytes(), compresslevel=1)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(data)
    return folder
