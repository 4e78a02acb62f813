"""Pictures of any size -> square pixels of one size, and folders of pictures with a sub-folder for each class.

    N images, H W pixels, C channels

Resizing is Pillow's bilinear filter, whose support grows with the reduction: the antialiased bilinear filter that torch
and torchvision use too. A picture that is not square is cut to its centre square first, never squeezed.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from node.config import ImageSettings
from topology.errors import InputError

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_GREY_MODES = frozenset(("1", "L", "LA"))
_TEST_FRACTION = 5  # one of so many images of every class is a test image
# What Pillow raises, in one format or another, for files that are damaged or no images at all.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class PictureFiles:
    """Pictures left on disk until they are wanted: their sizes differ, and thousands of photographs fill a memory.

    Attributes:
        paths: One file each.
        sizes: (height, width) of each in pixels.
        colour: Whether any of them is in colour.
    """

    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    colour: bool

    def __len__(self) -> int:
        return len(self.paths)


Images = NDArray[np.uint8] | PictureFiles
"""Images of one size (N, H, W, C), or picture files."""
LabelledImages = tuple[Images, NDArray[np.int64]]


def image_sizes(images: Images) -> set[tuple[int, int]]:
    """Every (height, width) that occurs."""
    return set(images.sizes) if isinstance(images, PictureFiles) else {(images.shape[1], images.shape[2])}


def image_channels(images: Images) -> Literal[1, 3]:
    """3 where any image is in colour, else 1."""
    colour = images.colour if isinstance(images, PictureFiles) else images.shape[3] > 1
    return 3 if colour else 1


def render(images: Images, index: NDArray[np.int64], image: ImageSettings) -> NDArray[np.uint8]:
    """The images at these positions as (N, size, size, channels).

    Args:
        images: Where to take them from; none smaller than `image.size` where `image.resize` is `crop`.
        index: Positions in `images`.
        image: Size and channels, neither of them 0, and how to resize.

    Raises:
        InputError: A picture file cannot be read.
    """
    pixels_NHWC = np.empty((len(index), image.size, image.size, image.channels), np.uint8)
    if isinstance(images, np.ndarray) and images.shape[1:] == pixels_NHWC.shape[1:]:
        return images[index]
    mode = "L" if image.channels == 1 else "RGB"
    for row, position in enumerate(index):
        picture = _fit(_picture(images, int(position)).convert(mode), image.size, image.resize)
        pixels_NHWC[row] = np.asarray(picture).reshape(pixels_NHWC.shape[1:])
    return pixels_NHWC


def _picture(images: Images, position: int) -> Image.Image:
    if not isinstance(images, PictureFiles):
        pixels_HWC = images[position]
        return Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC)
    path = images.paths[position]
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            # A palette with transparent entries is only understood on the way to RGBA.
            return picture.convert("RGBA") if picture.mode == "P" else picture
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _fit(picture: Image.Image, size: int, rule: Literal["antialias", "crop"]) -> Image.Image:
    width, height = picture.size
    if rule == "crop":
        left, top = (width - size) // 2, (height - size) // 2
        return picture.crop((left, top, left + size, top + size))
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=box)


def read_picture_folder(folder: Path) -> tuple[LabelledImages, LabelledImages, tuple[str, ...]]:
    """Training and test pictures with labels, and the names of the classes, from FOLDER/class/*.png.

    Where FOLDER/train and FOLDER/test exist they are the two sets. Else a fifth of every class is the test set, chosen
    by a digest of the files' names: the same on every machine and for every seed.

    Raises:
        InputError: There are no classes, a class is empty, a file is no 8-bit picture, or a test class is not trained.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = _classes(folder / "train"), _classes(folder / "test")
        unknown = sorted(test.keys() - train.keys())
        if unknown:
            raise InputError(
                folder / "test" / unknown[0],
                "a class that train does not have",
                "a folder train/" + unknown[0],
            )
    else:
        pools = _classes(folder / "train" if (folder / "train").is_dir() else folder)
        parts = {name: _hold_out(name, paths) for name, paths in pools.items()}
        train = {name: kept for name, (kept, _) in parts.items()}
        test = {name: held for name, (_, held) in parts.items()}
    names = tuple(train)
    return _inspect(train, names), _inspect(test, names), names


def _classes(root: Path) -> dict[str, list[Path]]:
    """The picture files of every class folder, both in the order of their names."""
    try:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        found = {folder.name: sorted(p for p in folder.iterdir() if _is_picture(p)) for folder in folders}
    except OSError as error:
        raise InputError(root, f"unreadable ({error.strerror})", "a folder that can be read") from None
    mend = f"class folders with pictures ({' '.join(sorted(SUFFIXES))}), or the four IDX files"
    if not any(found.values()):
        raise InputError(root, "no class folder with pictures", mend)
    for name, paths in found.items():
        if not paths:
            raise InputError(root / name, "a class folder without pictures", mend)
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _hold_out(name: str, paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(training, test) files of one class."""
    if len(paths) == 1:
        raise InputError(
            paths[0], f"the only picture of class {name}", "at least two: one is kept for the test set"
        )
    order = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(f"{name}/{path.name}")).digest())
    held = set(order[: max(1, len(paths) // _TEST_FRACTION)])
    return [path for path in paths if path not in held], [path for path in paths if path in held]


def _inspect(classes: Mapping[str, Sequence[Path]], names: tuple[str, ...]) -> LabelledImages:
    """Sizes and colours from the files' headers; the pixels are read once they are wanted."""
    paths = tuple(path for files in classes.values() for path in files)
    labels = np.repeat([names.index(name) for name in classes], [len(files) for files in classes.values()])
    headers = [_header(path) for path in paths]
    sizes = tuple(size for size, _ in headers)
    return PictureFiles(paths, sizes, any(colour for _, colour in headers)), labels.astype(np.int64)


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """((height, width), whether in colour) of a picture file."""
    try:
        with Image.open(path) as file:
            mode, (width, height) = file.mode, file.size
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    if mode[0] in "IF":  # Pillow would clip these to 255
        raise InputError(path, f"pixels of kind {mode}", "8 bits for each pixel and channel")
    return (height, width), mode not in _GREY_MODES


def _unreadable(path: Path, error: Exception) -> InputError:
    told = str(error).replace(repr(str(path)), "it")
    return InputError(path, f"no readable picture ({told})", "a whole picture file, or none of this name")
