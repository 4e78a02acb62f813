"""A run directory as the evaluator sees it: settings, nodes, shards and newest checkpoints. Never a socket.

    NAME/  peers.toml                  who is who, and the complete settings
           shards/{node-3.npz, test.npz}
           nodes/3/{checkpoints/*.safetensors, metrics.jsonl, status.json, samples/*.png}
           eval/                       what the evaluator writes

It may be a copy: paths in the peers file are relative to that file, and nothing here minds a node that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from node.config import DEFAULT_ARCHITECTURE, Architecture, Settings, resolve
from node.shards import load_shard
from topology.errors import InputError
from topology.peers import NodeView, Peers, read_peers

if TYPE_CHECKING:
    from node.checkpoint import Checkpoint

PEERS_FILE = "peers.toml"
EVALUATION_FOLDER = "eval"


@dataclass(frozen=True)
class RunNode:
    """One node of a run.

    Attributes:
        id: Number in the graph.
        neighbors: Ids that it exchanges discriminators with.
        architecture: Name in the registry of the settings.
        directory: Folder with status.json, metrics.jsonl, checkpoints and samples; need not exist.
        shard: File of its private images; need not exist.
    """

    id: int
    neighbors: tuple[int, ...]
    architecture: str
    directory: Path
    shard: Path


@dataclass(frozen=True)
class LabelledImages:
    """Images whose classes are known, to judge by.

    Attributes:
        path: The shard that they come from.
        images: (N, H, W, C) uint8.
        labels: (N,).
        index: (N,) positions in the data set, or None.
        data_set: Name of the data set.
        classes: Names of the labels 0, 1, …
    """

    path: Path
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: NDArray[np.int64] | None
    data_set: str
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int]:
        """(size, channels) of every image."""
        return self.images.shape[1], self.images.shape[3]


@dataclass(frozen=True)
class RunDirectory:
    """One run; reading a node's files is left to the methods, so that a report of half a run is possible.

    Attributes:
        path: The directory.
        run_id: Name that every checkpoint of the run carries.
        settings: The resolved settings, the same for every node.
        peers: The peers file.
        nodes: Every node of the graph, by id.
    """

    path: Path
    run_id: str
    settings: Settings
    peers: Peers
    nodes: tuple[RunNode, ...]

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The graph's undirected edges (a, b) with a < b, sorted."""
        return tuple(
            (node.id, other) for node in self.nodes for other in sorted(node.neighbors) if node.id < other
        )

    @property
    def evaluation(self) -> Path:
        """Folder that the evaluator writes into; need not exist."""
        return self.path / EVALUATION_FOLDER

    def below(self, path: Path) -> str:
        """A file of the run as results name it: relative to the run directory where it lies in there."""
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)

    def node(self, node_id: int) -> RunNode:
        """One node by its id.

        Raises:
            InputError: The run has no such node.
        """
        for node in self.nodes:
            if node.id == node_id:
                return node
        known = ", ".join(str(node.id) for node in self.nodes)
        raise InputError(self.path / PEERS_FILE, f"there is no node {node_id}", f"the nodes are {known}")

    def architecture(self, node_id: int) -> Architecture:
        """Structure of one node's generator and discriminator.

        Raises:
            InputError: No such node, or the settings name no such architecture.
        """
        name = self.node(node_id).architecture
        if name not in self.settings.architecture:
            known = ", ".join(sorted(self.settings.architecture))
            raise InputError(
                self.path / PEERS_FILE,
                f"node {node_id} has the unknown architecture {name!r}",
                f"one of {known}",
            )
        return self.settings.architecture[name]

    def checkpoint(self, node_id: int) -> Checkpoint:
        """The newest valid checkpoint of one node.

        Raises:
            InputError: The node's folder or its checkpoints are missing, or they belong to another run or node.
        """
        directory = self.node(node_id).directory
        if not directory.is_dir():
            mend = "let the node run, or join its folder to the others with `dgan-eval collect`"
            raise InputError(directory, f"no folder of node {node_id}", mend)
        # It loads torch, which whoever only waits for nodes or joins folders can do without.
        from node.checkpoint import load_newest  # noqa: PLC0415

        checkpoint = load_newest(directory)
        meta = checkpoint.meta
        if meta.run_id != self.run_id:
            problem = (
                f"the checkpoint is of run {meta.run_id!r}, and this is the run directory of {self.run_id!r}"
            )
            raise InputError(checkpoint.path, problem, "use the run directory that belongs to that run")
        if meta.node_id != node_id:
            problem = f"the checkpoint is of node {meta.node_id}, in the folder of node {node_id}"
            raise InputError(checkpoint.path, problem, "put each node's folder under its own id")
        return checkpoint

    def training_images(self, node_id: int) -> LabelledImages:
        """The private images of one node with their labels.

        Raises:
            InputError: The shard is missing, unreadable or without labels.
        """
        return labelled_images(self.node(node_id).shard)

    def test_images(self) -> LabelledImages:
        """The test images with their labels, which no node is ever given.

        Raises:
            InputError: The file is missing, unreadable or without labels.
        """
        return labelled_images(self.path / "shards" / "test.npz")


def read_run(path: Path) -> RunDirectory:
    """Reads what a run directory says about its run.

    Raises:
        InputError: There is no such directory, it is no run directory, or its peers file is wrong.
    """
    if not path.is_dir():
        raise InputError(
            path, "no such directory", "a run directory, as `dgan-launch run --run-dir` makes it"
        )
    if not (path / PEERS_FILE).is_file():
        mend = "a directory with peers.toml, shards/ and nodes/, as `dgan-launch run --run-dir` makes it"
        raise InputError(path, f"not a run directory: it holds no {PEERS_FILE}", mend)
    peers = read_peers(path / PEERS_FILE)
    settings = resolve(path / PEERS_FILE, peers.settings)
    nodes = tuple(_node(peers.view(peer.id)) for peer in sorted(peers.peers, key=lambda peer: peer.id))
    return RunDirectory(path=path, run_id=peers.run_id, settings=settings, peers=peers, nodes=nodes)


def read_runs(paths: Sequence[Path]) -> list[RunDirectory]:
    """Reads several run directories, in the order given.

    Raises:
        InputError: One of them is wrong, or one is given twice.
    """
    runs = [read_run(path) for path in paths]
    seen: set[Path] = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise InputError(run.path, "the run directory is given twice", "name each run once")
        seen.add(run.path.resolve())
    return runs


def _node(view: NodeView) -> RunNode:
    return RunNode(
        id=view.me.id,
        neighbors=tuple(view.me.neighbors),
        architecture=view.me.architecture or DEFAULT_ARCHITECTURE,
        directory=view.directory,
        shard=view.data,
    )


def labelled_images(path: Path) -> LabelledImages:
    """A shard with labels.

    Raises:
        InputError: The file is missing, unreadable or without labels.
    """
    shard = load_shard(path)
    if shard.labels is None:
        mend = "a shard with an array `labels`: without classes features cannot be judged"
        raise InputError(path, "the shard has no labels", mend)
    classes = shard.classes or tuple(str(label) for label in range(int(shard.labels.max()) + 1))
    low, high = int(shard.labels.min()), int(shard.labels.max())
    if low < 0 or high >= len(classes):
        problem = f"labels run from {low} to {high}, and {len(classes)} classes are named"
        raise InputError(path, problem, f"labels from 0 to {len(classes) - 1}")
    return LabelledImages(path, shard.images, shard.labels, shard.index, shard.data_set, classes)
