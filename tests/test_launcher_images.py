"""Pictures: resized without aliasing or cropped at the centre, and class folders read the same way everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from launcher.images import PictureFiles, image_channels, image_sizes, read_picture_folder, render
from node.config import ImageSettings
from topology.errors import InputError


def picture(path: Path, shape: tuple[int, ...] = (8, 8), value: int | None = None) -> Path:
    """A small picture file, grey for (H, W) and colour for (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(np.prod(shape)).reshape(shape) % 256 if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def grid(folder: Path, classes: int = 2, images: int = 10) -> Path:
    """A folder with so many classes of so many pictures each."""
    for label in range(classes):
        for number in range(images):
            picture(folder / f"class{label}" / f"{number}.png", value=10 * label + number)
    return folder


def drawn(
    images: Any, size: int, channels: Literal[1, 3] = 1, resize: Any = "antialias"
) -> NDArray[np.uint8]:
    """All images at this size."""
    return render(images, np.arange(len(images)), ImageSettings(size=size, channels=channels, resize=resize))


def refusal(folder: Path) -> str:
    """The line that refuses this folder."""
    with pytest.raises(InputError) as caught:
        read_picture_folder(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("size", [20, 16, 40])
def test_resizing_agrees_with_torchs_antialiased_bilinear_filter(size: int) -> None:
    """Within the rounding of pixels, for smaller and larger images."""
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    there = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    wanted = torch.nn.functional.interpolate(there, size=(size, size), mode="bilinear", antialias=True)
    got = drawn(images, size)[..., 0].astype(np.float32)
    assert np.abs(got - wanted[:, 0].numpy()).max() <= 1.5


def test_cropping_takes_the_centre() -> None:
    """28 to 20 pixels leaves out 4 on each side, and nothing is resampled."""
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    assert np.array_equal(drawn(images, 20, resize="crop"), images[:, 4:24, 4:24])


def test_images_of_the_right_shape_are_left_alone() -> None:
    """Under both rules."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    for resize in ("antialias", "crop"):
        assert np.array_equal(drawn(images, 8, channels=3, resize=resize), images)


def test_only_the_images_asked_for_are_rendered_in_that_order() -> None:
    """Positions are those of the data set."""
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 8, 8, 1), np.uint8)
    got = render(images, np.array([3, 1]), ImageSettings(size=10, channels=1))
    assert got[:, 0, 0, 0].tolist() == [3, 1]


def test_grey_becomes_colour_and_colour_grey(tmp_path: Path) -> None:
    """Three equal channels, or the luminance."""
    grey = np.full((1, 8, 8, 1), 77, np.uint8)
    assert (drawn(grey, 8, channels=3) == 77).all()
    red = PictureFiles((picture(tmp_path / "a.png", (8, 8, 3), 50),), ((8, 8),), colour=True)
    assert (drawn(red, 8, channels=1) == 50).all()


def test_a_picture_that_is_not_square_is_cut_to_its_centre(tmp_path: Path) -> None:
    """Never squeezed: the outer columns are gone."""
    pixels = np.full((8, 16), 200, np.uint8)
    pixels[:, 4:12] = 100
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    files = PictureFiles((tmp_path / "wide.png",), ((8, 16),), colour=False)
    assert (drawn(files, 8) == 100).all()


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    """As its EXIF orientation says."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    files = PictureFiles((tmp_path / "a.png",), ((8, 8),), colour=True)
    assert (drawn(files, 8, channels=3)[0, -1] == 255).all()


def test_a_palette_with_transparency_is_read_in_colour(tmp_path: Path) -> None:
    """Warnings are errors here, and Pillow warns of this one."""
    image = Image.fromarray(np.zeros((8, 8), np.uint8), mode=None).convert("P")
    image.putpalette([200, 100, 50] * 256)
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    files = PictureFiles((tmp_path / "a.png",), ((8, 8),), colour=True)
    assert drawn(files, 8, channels=3)[0, 0, 0].tolist() == [200, 100, 50]


def test_class_folders_become_labels_in_the_order_of_their_names(tmp_path: Path) -> None:
    """A fifth of every class is the test set; all pictures are used once."""
    (images, labels), (held, held_labels), names = read_picture_folder(grid(tmp_path))
    assert names == ("class0", "class1")
    assert labels.tolist() == [0] * 8 + [1] * 8
    assert held_labels.tolist() == [0] * 2 + [1] * 2
    assert isinstance(images, PictureFiles)
    assert isinstance(held, PictureFiles)
    assert len({*images.paths, *held.paths}) == 20
    for files, expected in ((images, labels), (held, held_labels)):
        values = [10 * label + int(path.stem) for path, label in zip(files.paths, expected, strict=True)]
        assert drawn(files, 8)[:, 0, 0, 0].tolist() == values


def test_the_held_out_fifth_depends_on_names_alone(tmp_path: Path) -> None:
    """The same files elsewhere, made in another order, give the same test set."""
    first = read_picture_folder(grid(tmp_path / "one"))[1][0]
    for number in reversed(range(10)):
        for label in (1, 0):
            picture(tmp_path / "two" / f"class{label}" / f"{number}.png")
    second = read_picture_folder(tmp_path / "two")[1][0]
    assert isinstance(first, PictureFiles)
    assert isinstance(second, PictureFiles)
    names = [[f"{path.parent.name}/{path.name}" for path in files.paths] for files in (first, second)]
    assert names[0] == names[1]


def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    """Nothing is held out of train; a class may be missing from test."""
    grid(tmp_path / "train", classes=3, images=4)
    grid(tmp_path / "test", classes=2, images=1)
    (_, labels), (_, held), names = read_picture_folder(tmp_path)
    assert names == ("class0", "class1", "class2")
    assert len(labels) == 12
    assert held.tolist() == [0, 1]


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    """Lists, thumbnails and system files are no pictures."""
    grid(tmp_path)
    (tmp_path / "README.txt").touch()
    (tmp_path / "class0" / "list.csv").touch()
    (tmp_path / "class0" / "._0.png").touch()
    (tmp_path / ".git").mkdir()
    (_, labels), _, names = read_picture_folder(tmp_path)
    assert names == ("class0", "class1")
    assert len(labels) == 16


def test_one_colour_picture_makes_the_data_set_coloured(tmp_path: Path) -> None:
    """And sizes that differ are all known."""
    grid(tmp_path, images=2)
    picture(tmp_path / "class1" / "0.png", (9, 12, 3))
    picture(tmp_path / "class1" / "1.png", (9, 12, 3))
    (train, _), (test, _), _ = read_picture_folder(tmp_path)
    assert image_channels(train) == image_channels(test) == 3
    assert image_sizes(train) == {(8, 8), (9, 12)}


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    """Text with a picture's name."""
    bad = grid(tmp_path) / "class1" / "7.png"
    bad.write_text("not a picture")
    assert refusal(tmp_path).startswith(f"{bad}: no readable picture")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_that_is_cut_off_is_named_once_its_pixels_are_read(tmp_path: Path, suffix: str) -> None:
    """Its header was whole."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-600])
    files = PictureFiles((path,), ((32, 32),), colour=True)
    with pytest.raises(InputError, match=r"a\.(png|jpg): no readable picture"):
        drawn(files, 8)


def test_sixteen_bit_pixels_are_refused(tmp_path: Path) -> None:
    """Cut down to 8 bits they would all be white."""
    path = grid(tmp_path) / "class0" / "0.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    assert refusal(tmp_path) == f"{path}: pixels of kind I;16; 8 bits for each pixel and channel"


def test_folders_without_classes_or_pictures_are_refused(tmp_path: Path) -> None:
    """No class at all, an empty class, a class of one, a test class that is not trained."""
    assert "no class folder with pictures" in refusal(tmp_path)
    grid(tmp_path, images=2)
    (tmp_path / "empty").mkdir()
    assert "a class folder without pictures" in refusal(tmp_path)
    picture(tmp_path / "empty" / "only.png")
    assert "the only picture of class empty; at least two" in refusal(tmp_path)
    grid(tmp_path / "b" / "train", classes=1)
    grid(tmp_path / "b" / "test", classes=2)
    assert "class1: a class that train does not have" in refusal(tmp_path / "b")
