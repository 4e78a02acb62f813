"""Small trainers for tests of Algorithm 1, and what one compares of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from node.config import Settings, resolve
from node.models import Discriminator
from node.replay import Recorder
from node.shards import Shard
from node.trainer import Trainer

SMALL = {
    "architecture": {"small": {"discriminator_widths": [4, 6], "generator_widths": [6], "latent_size": 5}},
    "image": {"size": 8, "channels": 1},
    "training": {"batch_size": 10, "precision": "float32"},
    "epochs": 3,
}


def settings(**tables: Any) -> Settings:
    """Small settings with the given tables on top."""
    return resolve("test", SMALL, tables)


def build(
    node_id: int = 1, recorder: Recorder | None = None, neighbor_ids: Sequence[int] = (2, 3), **tables: Any
) -> Trainer:
    """A trainer on forty random 8x8 images."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    return Trainer(settings(**tables), "small", node_id, Shard(images), recorder, neighbor_ids)


def nobody() -> Mapping[int, Discriminator]:
    """No neighbour has sent anything."""
    return {}


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's whole state."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Bit-equal states."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def always(policy: str, **cooperation: Any) -> dict[str, Any]:
    """Settings under which every cycle considers the neighbours."""
    return {"policy": policy, "cooperation": {"consider_probability": 1.0, **cooperation}}
