"""A node's independent random streams, all derived from the run's seed and a node's id."""

from __future__ import annotations

import numpy as np
import torch

_STREAMS = ("weights", "data", "noise", "labels", "selection")
_UNTRAINED, _SHARED = len(_STREAMS), len(_STREAMS) + 1  # beside them, and kept by nobody


def seed_streams(seed: int, node_id: int) -> dict[str, torch.Generator]:
    """Independent random streams of one node, so that no policy shifts another stream's draws.

    Runs that differ in policy alone start from the same weights, but for D where discriminators are averaged, which starts from
    `shared_stream`. They see the same images and noise as long as each D makes as many passes over batches in every cycle: with
    more than one step allowed, its own losses tell how many.
    """
    return {name: _stream(seed, node_id, index) for index, name in enumerate(_STREAMS)}


def untrained_stream(seed: int, node_id: int) -> torch.Generator:
    """What a discriminator that stands in for that node's is drawn from; none of the node's own streams."""
    return _stream(seed, node_id, _UNTRAINED)


def shared_stream(seed: int) -> torch.Generator:
    """What all nodes of a run draw alike without a word between them."""
    return _stream(seed, 0, _SHARED)


def _stream(seed: int, node_id: int, index: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, node_id, index]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
