"""A node's independent random streams, all derived from the run's seed and a node's id."""

from __future__ import annotations

import numpy as np
import torch

_STREAMS = ("weights", "data", "noise", "labels", "selection")
_UNTRAINED = len(_STREAMS)  # beside them, and kept by nobody


def seed_streams(seed: int, node_id: int) -> dict[str, torch.Generator]:
    """Independent random streams of one node, so that no policy shifts another stream's draws.

    Runs that differ in policy alone start from the same weights and see the same images and the same noise.
    """
    return {name: _stream(seed, node_id, index) for index, name in enumerate(_STREAMS)}


def untrained_stream(seed: int, node_id: int) -> torch.Generator:
    """What a discriminator that stands in for that node's is drawn from; none of the node's own streams."""
    return _stream(seed, node_id, _UNTRAINED)


def shared_stream(seed: int) -> torch.Generator:
    """What all nodes of a run draw alike without a word between them."""
    return _generator([seed])


def _stream(seed: int, node_id: int, index: int) -> torch.Generator:
    return _generator([seed, node_id, index])


def _generator(entropy: list[int]) -> torch.Generator:
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
