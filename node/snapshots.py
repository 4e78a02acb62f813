"""A discriminator's weights as named float32 arrays, and the schema that tells both ends of an edge what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from node.config import Architecture
from node.models import Discriminator
from transport.wire import Schema

# A channel that went dead lets its running variance decay to 0, which a receiver must refuse. It is far below the
# epsilon of batch normalisation, so the published floor changes nothing that a receiver computes.
_VARIANCE_FLOOR = 1e-6


def arch_id(name: str, architecture: Architecture, size: int, channels: int) -> str:
    """The exact structure of a discriminator, such as `paper/20x20x1/1f0c…`; equal only where all of it is equal."""
    structure = architecture.model_dump_json(include={"discriminator_widths", "slope", "first_batchnorm"})
    return f"{name}/{size}x{size}x{channels}/{hashlib.sha256(structure.encode()).hexdigest()[:8]}"


def schema(name: str, architecture: Architecture, size: int, channels: int) -> Schema:
    """Names and shapes that a snapshot of this architecture has, from one's own settings and never from the wire."""
    with torch.device("meta"):
        state = Discriminator(architecture, size, channels).state_dict()
    return Schema(
        arch_id=arch_id(name, architecture, size, channels),
        tensors=tuple((name, tuple(tensor.shape)) for name, tensor in state.items()),
        positive=frozenset(name for name in state if name.endswith("running_var")),
    )


def to_arrays(discriminator: Discriminator) -> dict[str, NDArray[np.float32]]:
    """The weights and running statistics, ready to be encoded.

    They share the network's memory where they can: encode or copy them before the next step changes them.
    """
    arrays = {name: tensor.numpy(force=True) for name, tensor in discriminator.state_dict().items()}
    for name, array in arrays.items():
        if name.endswith("running_var"):
            arrays[name] = np.maximum(array, _VARIANCE_FLOOR)
    return arrays


def to_block(discriminator: Discriminator) -> dict[str, NDArray[np.float32]]:
    """The same as a private copy, which stays as it is."""
    return {name: np.array(array) for name, array in to_arrays(discriminator).items()}


def load_arrays(discriminator: Discriminator, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Copies a snapshot's arrays into a discriminator of the same structure."""
    for name, tensor in discriminator.state_dict().items():
        if tensor.device.type == "cpu":
            tensor.numpy()[...] = arrays[name]
        else:
            # The array is a read-only view of the received frame, which torch would warn about.
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))
