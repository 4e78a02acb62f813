"""A discriminator's weights as named float32 arrays, and the schema that tells both ends of an edge what they are."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.config import Architecture
from node.models import Discriminator
from transport.wire import Schema

# A channel that went dead lets its running variance decay to 0, which a receiver must refuse. It is far below the
# epsilon of batch normalisation, so the published floor changes nothing that a receiver computes.
_VARIANCE_FLOOR = 1e-6


def arch_id(name: str, architecture: Architecture, size: int, channels: int) -> str:
    """The exact structure of a discriminator, such as `paper/20x20x1/1f0c…`; equal only where all of it is equal."""
    structure = architecture.model_dump_json(exclude={"generator_widths", "latent_size"})
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


def to_arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """A discriminator's weights and running statistics, ready to be encoded.

    They share the network's memory where they can: encode or copy them before the next step changes them.

    Args:
        state: The network's `state_dict`, whose tensors follow the network: it need not be asked for again.
    """
    is_here = next(iter(state.values())).device.type == "cpu"
    arrays = {name: tensor.numpy() for name, tensor in state.items()} if is_here else fetch(state)
    for name, array in arrays.items():
        if name.endswith("running_var"):
            arrays[name] = np.maximum(array, _VARIANCE_FLOOR)
    return arrays


def to_block(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """The same as a private copy, which stays as it is."""
    return {name: np.array(array) for name, array in to_arrays(state).items()}


def load_arrays(discriminator: Discriminator, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Copies a snapshot's arrays into a discriminator of the same structure, in place."""
    state = discriminator.state_dict()
    if next(iter(state.values())).device.type == "cpu":
        for name, tensor in state.items():
            tensor.numpy()[...] = arrays[name]
    else:
        send(state, arrays)


# To and from a GPU all weights go as one piece, through page-locked memory and on a stream of their own: a tensor at a time
# would be a transfer and a wait for each. On the CPU both do the same by plain copies.


def fetch(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Tensors on a device as arrays, which share no memory with them."""
    joined = torch.cat([tensor.flatten() for tensor in state.values()])
    with _beside_training(joined.device):
        here = _page_locked(joined.numel(), joined.device).copy_(joined, non_blocking=True)
    parts = torch.split(here, [tensor.numel() for tensor in state.values()])
    return {
        name: part.view(tensor.shape).numpy()
        for (name, tensor), part in zip(state.items(), parts, strict=True)
    }


def send(state: Mapping[str, Tensor], arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Fills tensors on a device from arrays of the same names and shapes."""
    device, sizes = next(iter(state.values())).device, [tensor.numel() for tensor in state.values()]
    here = _page_locked(sum(sizes), device)
    np.concatenate([arrays[name].reshape(-1) for name in state], out=here.numpy())
    joined = torch.empty(
        sum(sizes), device=device
    )  # of training's stream, which keeps its memory for the next one
    with _beside_training(device):
        joined.copy_(here, non_blocking=True)
    for tensor, part in zip(state.values(), torch.split(joined, sizes), strict=True):
        tensor.copy_(part.view(tensor.shape))


def _page_locked(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, pin_memory=device.type == "cuda")


@contextlib.contextmanager
def _beside_training(device: torch.device) -> Iterator[None]:
    """What happens inside comes after all that the device was told before, on another stream, and is over at the end."""
    if device.type != "cuda":
        yield
        return
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        yield
    aside.synchronize()
