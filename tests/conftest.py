"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from nets import Net, open_net
from node import checkpoint
from node.checkpoint import CheckpointMeta, add_prefix
from node.config import Settings, resolve
from node.models import Discriminator, Generator, initialise
from node.shards import Shard, save_shard
from topology.graph import ring
from topology.peers import Peer, Peers, dump_peers

# No test is about time: a busy machine must not fail one.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Containers take minutes and an engine: they run where `-m` asks for them, and never along with other tests."""
    if "compose" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("compose")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def net() -> Iterator[Net]:
    """Links of one test, which must leave nothing behind, no lookup either."""
    with open_net() as opened:
        yield opened


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, for commands too, and no variable that the project heeds."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("DGAN_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    return tmp_path


def _toy_shard(count: int, seed: int) -> Shard:
    """Images of 8x8 in three classes: a bright square in one of three corners, on noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 60, (count, 8, 8, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = [(0, 0), (0, 5), (5, 0)][label]
        image[top : top + 3, left : left + 3] += np.uint8(180)
    index = np.arange(count) + 1000 * seed
    return Shard(images, labels.astype(np.int64), index, "squares", ("a", "b", "c"))


def _toy_checkpoint(directory: Path, settings: Settings, run_id: str, node_id: int) -> None:
    architecture = settings.architecture["light"]
    generator, discriminator = Generator(architecture, 8, 1), Discriminator(architecture, 8, 1)
    stream = torch.Generator().manual_seed(node_id)
    initialise(generator, "dcgan", stream)
    initialise(discriminator, "he", stream)
    meta = CheckpointMeta(
        run_id=run_id,
        node_id=node_id,
        architecture="light",
        arch_id="unused",
        image_size=8,
        image_channels=1,
        cycle=30,
        cycles=30,
        epoch=3,
        epochs=3,
        finished=True,
        chosen={},
        inputs={},
        boot=1,
        saved_at_s=0.0,
    )
    tensors = {
        **add_prefix(generator.state_dict(), "generator"),
        **add_prefix(discriminator.state_dict(), "discriminator"),
    }
    checkpoint.save(directory, meta, tensors)
    status = {
        "run_id": run_id,
        "node_id": node_id,
        "boot": 1,
        "cycle": 30,
        "updated_s": 100.0,
        "state": "finished",
    }
    (directory / "status.json").write_text(json.dumps(status), encoding="utf-8")


@pytest.fixture
def make_toy_run() -> Callable[..., Path]:
    """Makes a run directory of a ring of three nodes with tiny shards and untrained checkpoints."""

    def make(path: Path, run_id: str = "toy", images: int = 40) -> Path:
        settings = resolve(
            "test", {"preset": "paper", "policy": "uniform", "image": {"size": 8, "channels": 1}}
        )
        graph = ring(3)
        peers = tuple(
            Peer(i, f"tcp://127.0.0.1:{7000 + i}", f"{i:040d}", graph.neighbors(i), architecture="light")
            for i in graph.ids
        )
        table = settings.model_dump(mode="json")
        path.mkdir(parents=True)
        text = dump_peers(
            Peers(None, run_id, "shards/node-{id}.npz", "keys/node-{id}.key", "nodes/{id}", table, peers)
        )
        (path / "peers.toml").write_text(text, encoding="utf-8")
        save_shard(path / "shards" / "test.npz", _toy_shard(60, seed=9))
        for node_id in graph.ids:
            save_shard(path / "shards" / f"node-{node_id}.npz", _toy_shard(images, seed=node_id))
            _toy_checkpoint(path / "nodes" / str(node_id), settings, run_id, node_id)
        return path

    return make
