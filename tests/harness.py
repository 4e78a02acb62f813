"""Run directories and node processes for tests that need real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from node.config import resolve
from node.shards import Shard, save_shard
from topology.graph import Graph
from topology.peers import Peer, Peers, dump_peers
from transport.keys import make_keys, save_keys

# Below the range that the kernel hands out, and apart for test processes that run side by side.
_PORTS, _PORTS_LOCK = count(20_000 + os.getpid() % 1000 * 12), threading.Lock()

QUICK: Mapping[str, Any] = {
    "architecture": {"paper": {"discriminator_widths": [8, 8], "generator_widths": [8], "latent_size": 16}},
    "training": {"batch_size": 10},
    "exchange": {"republish_s": 0.5, "linger_s": 20},
    "output": {"samples_every_epochs": 1000},
    "discriminator": {"max_steps": 1},
}


def write_run(folder: Path, graph: Graph, images: int = 40, **settings: Any) -> Path:
    """A run directory with random 8x8 shards, fresh keys and peers.toml; returns the path of the latter."""
    pairs = {node_id: make_keys() for node_id in graph.ids}
    for node_id, pair in pairs.items():
        save_keys(folder / "keys" / f"node-{node_id}.key", pair)
        drawn = np.random.default_rng(node_id).integers(0, 256, (images, 8, 8, 1), dtype=np.uint8)
        save_shard(folder / "shards" / f"node-{node_id}.npz", Shard(drawn, np.arange(images) % 10))
    peers = tuple(
        Peer(node_id, f"tcp://127.0.0.1:{free_ports(1)}", pairs[node_id].public, graph.neighbors(node_id))
        for node_id in graph.ids
    )
    resolved = resolve("test", QUICK, settings).model_dump(mode="json")
    templates = ("shards/node-{id}.npz", "keys/node-{id}.key", "nodes/{id}")
    path = folder / "peers.toml"
    path.write_text(
        dump_peers(Peers(path, "test-run", *templates, settings=resolved, peers=peers)), encoding="utf-8"
    )
    return path


def free_ports(number: int) -> int:
    """The first of as many consecutive ports that no other test of this process uses."""
    with _PORTS_LOCK:
        first, *_ = islice(_PORTS, number)
    return first


class NodeProcess:
    """One `dgan-node` process."""

    def __init__(self, peers: Path, node_id: int, *words: str) -> None:
        self.directory = peers.parent / "nodes" / str(node_id)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "node", "--id", str(node_id), "--peers", str(peers), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def status(self) -> dict[str, Any]:
        """status.json, or {} before it is there."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def own_status(self) -> dict[str, Any]:
        """status.json once this very process wrote it, {} before."""
        status = self.status()
        return status if status.get("pid") == self.process.pid else {}

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [
            json.loads(line)
            for line in (self.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]

    def finish(self, timeout_s: float = 60) -> tuple[int, str]:
        """Waits for the end; exit status and standard error."""
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors

    def kill(self) -> None:
        """As `kill -9` would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@contextmanager
def started(peers: Path, *node_ids: int, words: Sequence[str] = ()) -> Iterator[dict[int, NodeProcess]]:
    """Node processes, with further words on their command line; those still there at the end are killed. More may be put into the dictionary."""
    nodes: dict[int, NodeProcess] = {}
    try:
        for node_id in node_ids:
            nodes[node_id] = NodeProcess(peers, node_id, *words)
        yield nodes
    finally:
        for node in nodes.values():
            node.kill()


def wait_until(
    condition: Callable[[], Any], timeout_s: float = 60, what: str = "the condition", every_s: float = 0.02
) -> None:
    """Polls until the condition holds.

    Raises:
        AssertionError: It did not within the time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not come true within {timeout_s} s"
        time.sleep(every_s)
