"""Grids of generated images, as in Fig. 3.

B images, C channels, H W pixels
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from node.files import write_atomically
from node.models import Generator


def generate(generator: Generator, z_BZ: Tensor) -> NDArray[np.uint8]:
    """Images (B, H, W, C) of a generator in evaluation mode (running statistics), as bytes."""
    was_training = generator.training
    generator.eval()
    with torch.no_grad():
        images_BCHW = generator(z_BZ)
    generator.train(was_training)
    images: NDArray[np.uint8] = images_BCHW.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return images


def grid(images_BHWC: NDArray[np.uint8], gap: int = 1) -> NDArray[np.uint8]:
    """One picture (rows, columns, C) of all images, as square as can be, `gap` black pixels between them."""
    count, height, width, channels = images_BHWC.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.uint8)
    for index, image in enumerate(images_BHWC):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


def write_png(path: Path, picture_HWC: NDArray[np.uint8]) -> None:
    """Writes a grey or colour picture.

    Raises:
        OSError: The disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC.squeeze(2) if picture_HWC.shape[2] == 1 else picture_HWC).save(buffer, "png")
    write_atomically(path, buffer.getvalue())
