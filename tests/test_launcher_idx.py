"""IDX files: every spelling is found, and every kind of damage is one line that names the file."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.idx import FILES, find_idx, read_idx, read_idx_folder
from topology.errors import InputError

IMAGES = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
LABELS = np.array([2, 0, 1], np.uint8)


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array as an IDX file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_four(folder: Path) -> None:
    """A whole data set under the published names."""
    for name, array in zip(FILES, (IMAGES, LABELS, IMAGES[:2], LABELS[:2]), strict=True):
        (folder / name).write_bytes(gzip.compress(idx(array)))


def refusal(path: Path, data: bytes, dimensions: int = 3) -> str:
    """The line that refuses a file with these bytes."""
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_idx(path, dimensions=dimensions)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def test_the_four_files_are_read_as_images_and_labels(tmp_path: Path) -> None:
    """(N, H, W, 1) uint8 and int64 labels, training before test."""
    write_four(tmp_path)
    (images, labels), (test_images, test_labels) = read_idx_folder(tmp_path)
    assert np.array_equal(images, IMAGES[..., None])
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]
    assert test_images.shape == (2, 8, 8, 1)
    assert test_labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    "spelling",
    [
        "train-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
        "train-images.idx3-ubyte",
        "train-images.idx3-ubyte.gz",
    ],
)
def test_every_usual_spelling_is_found(tmp_path: Path, spelling: str) -> None:
    """A hyphen or a dot, packed or not."""
    (tmp_path / spelling).touch()
    assert find_idx(tmp_path, FILES[0]) == tmp_path / spelling


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_packing_is_told_by_the_bytes_not_by_the_name(tmp_path: Path, name: str, *, packed: bool) -> None:
    """Browsers unpack a .gz and keep its name."""
    data = idx(IMAGES)
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    assert np.array_equal(read_idx(tmp_path / name, dimensions=3), IMAGES)


def test_a_wrong_magic_number_is_refused(tmp_path: Path) -> None:
    """Labels where images should be, floats, text, or nothing at all."""
    assert "magic number 00 00 08 01" in refusal(tmp_path / "a", idx(LABELS))
    assert "00 00 08 03: unsigned bytes in 3 dimension(s)" in refusal(
        tmp_path / "a", b"\0\0\x0d\3" + bytes(12)
    )
    assert "magic number 3c 68 74 6d" in refusal(tmp_path / "a", b"<html>")
    assert "magic number missing" in refusal(tmp_path / "a", b"")


def test_a_length_that_differs_from_the_header_is_refused(tmp_path: Path) -> None:
    """Cut off, too long, cut off within the header, empty; packed and unpacked."""
    data = idx(IMAGES)
    for pack in (bytes, gzip.compress):
        assert "fewer bytes than its header promises" in refusal(tmp_path / "a", pack(data[:-1]))
        assert "more bytes than its header promises; 192 bytes" in refusal(tmp_path / "a", pack(data + b"\0"))
        assert "cut off after 9 bytes; a header of 16 bytes" in refusal(tmp_path / "a", pack(data[:9]))
        assert "sizes 0 x 8 x 8" in refusal(tmp_path / "a", pack(idx(IMAGES[:0])))


def test_a_header_that_promises_terabytes_costs_no_memory(tmp_path: Path) -> None:
    """It is refused by the size of the file."""
    huge = b"\0\0\x08\3" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    assert "fewer bytes than its header promises" in refusal(tmp_path / "a", huge)
    assert "fewer bytes than its header promises" in refusal(tmp_path / "a", gzip.compress(huge))


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    """Cut off, a flipped bit, a wrong checksum at the end."""
    packed = gzip.compress(idx(IMAGES))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0x55
    wrong_sum = packed[:-8] + bytes(8)
    for data in (packed[: len(packed) // 2], packed[:-4], bytes(flipped), wrong_sum):
        assert "unreadable, cut off or corrupt" in refusal(tmp_path / "a", data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the folder, and with all four that are needed."""
    write_four(tmp_path)
    (tmp_path / FILES[3]).unlink()
    with pytest.raises(
        InputError, match=r"no t10k-labels-idx1-ubyte.gz, packed or unpacked; the four IDX files"
    ):
        read_idx_folder(tmp_path)


def test_labels_that_do_not_match_the_images_are_refused(tmp_path: Path) -> None:
    """The line names the file of labels and both counts."""
    write_four(tmp_path)
    (tmp_path / FILES[1]).write_bytes(idx(LABELS[:2]))
    with pytest.raises(InputError, match=r"train-labels\S+: 2 labels; one for each of the 3 in train-images"):
        read_idx_folder(tmp_path)


def test_test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """Training and test images must be of one size."""
    write_four(tmp_path)
    (tmp_path / FILES[2]).write_bytes(idx(IMAGES[:2, :, :7]))
    with pytest.raises(InputError, match=r"t10k-images\S+: images of 8x7 pixels; 8x8 as in train-images"):
        read_idx_folder(tmp_path)
