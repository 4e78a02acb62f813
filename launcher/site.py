"""A run of sites that trust nobody with their images or their secret keys: who makes what.

A site makes its own key pair and its own shard, and neither leaves it. A coordinator, who sees neither, makes
peers.toml from the graph and the sites' public keys and gives every site the same copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from launcher.datasets import DataSet, cut_shard, resolve_image, test_index
from launcher.plan import check_architectures
from launcher.prepare import new_run_id
from launcher.split import split
from node.config import Settings, SplitSettings
from node.shards import Shard, load_shard, save_shard
from topology.errors import InputError
from topology.graph import Graph
from topology.peers import (
    DEFAULT_DATA,
    DEFAULT_DIRECTORY,
    DEFAULT_KEY,
    Peer,
    Peers,
    is_public_key,
)
from topology.tables import read_text
from transport.keys import make_keys, save_keys

PUBLIC_KEY = "node-{id}.pub"
"""Name of a node's public key in the coordinator's folder."""

_PUBLIC_KEY_MEND = "one line of 40 characters, as `dgan-launch keys make` prints it"


def make_key(path: Path) -> str:
    """Makes a key pair, writes it with mode 0600 and returns the public key.

    Raises:
        InputError: The file exists already.
        LocalError: It cannot be written.
    """
    if path.exists():
        problem = "exists already, and a key is never overwritten"
        raise InputError(
            path, problem, "its line public_key holds the public key; for a new pair name another file"
        )
    pair = make_keys()
    save_keys(path, pair)
    return pair.public


def make_shard(data: DataSet, settings: Settings, *, is_test: bool = False) -> Shard:
    """All training images of a data set as one shard, in the order that `prepare` gives a run's only node.

    Args:
        data: The site's images.
        settings: `image` says how large they are to be; `seed` draws the order.
        is_test: Whether to take the test images instead, as `prepare` does for the evaluator.

    Raises:
        InputError: The settings do not suit the images, or a picture is unreadable.
    """
    settings = resolve_image(data, settings)
    if is_test:
        return cut_shard(data, data.test, test_index(data, settings), settings)
    only = 0
    parts = split(data.train[1], (only,), SplitSettings(), settings.seed, at_least=1)
    return cut_shard(data, data.train, parts[only], settings)


def write_shard(path: Path, shard: Shard) -> bool:
    """Writes a shard; a file that holds the same already is left as it is.

    Returns:
        Whether the file is new.

    Raises:
        InputError: The file holds something else: a node that has trained on it would refuse to go on.
    """
    if not path.exists():
        save_shard(path, shard)
        return True
    if not _holds(path, shard):
        raise InputError(
            path, "exists already and holds something else", "name another file, or remove this one first"
        )
    return False


def read_public_keys(folder: Path, node_ids: tuple[int, ...]) -> dict[int, str]:
    """The public key of each node from `node-<id>.pub`; what a wrong file holds is never shown, it may be a secret.

    Raises:
        InputError: A file is missing or holds no key, or two hold the same one.
    """
    keys: dict[int, str] = {}
    holders: dict[str, Path] = {}
    for node_id in node_ids:
        path = folder / PUBLIC_KEY.format(id=node_id)
        if not path.is_file():
            raise InputError(path, "no such file", f"node {node_id}'s public key: {_PUBLIC_KEY_MEND}")
        text = read_text(path).strip()
        if "secret_key" in text:
            mend = "tell that site to make a new pair, and to send only what `dgan-launch keys make` prints"
            raise InputError(path, "holds a secret key, which is secret no longer", mend)
        if not is_public_key(text):
            raise InputError(path, "holds no public key", _PUBLIC_KEY_MEND)
        if text in holders:
            raise InputError(
                path, f"holds the same key as {holders[text]}", "every node has a pair of its own"
            )
        keys[node_id], holders[text] = text, path
    return keys


def make_peers(graph_file: Path, graph: Graph, settings: Settings, public_keys: Mapping[int, str]) -> Peers:
    """The peers file of a new run, complete but for what the sites keep.

    Args:
        graph_file: Where the graph came from, for errors about it.
        graph: Gives every node its address.
        settings: Of the run.
        public_keys: Of every node.

    Raises:
        InputError: A node lacks an address or names an unknown architecture, or the settings leave the size or the
            channels of the images to a data set that nobody sees here.
    """
    check_architectures(graph_file, graph, settings)
    for name, value, such_as in (("size", settings.image.size, 20), ("channels", settings.image.channels, 1)):
        if value == 0:
            problem = "0 takes the data set's own, and no data set is seen here"
            mend = f"what the shards of all sites have, such as --set image.{name}={such_as}"
            raise InputError(f"image.{name}", problem, mend)
    return Peers(
        path=None,
        run_id=new_run_id(graph.name),
        data=DEFAULT_DATA,
        key=DEFAULT_KEY,
        directory=DEFAULT_DIRECTORY,
        settings=settings.model_dump(mode="json"),
        peers=tuple(_peer(graph_file, graph, node_id, public_keys[node_id]) for node_id in graph.ids),
    )


def _peer(graph_file: Path, graph: Graph, node_id: int, public_key: str) -> Peer:
    spec = graph.node(node_id)
    if spec.address is None:
        mend = f'a table [[node]] with id = {node_id} and address = "tcp://host:port", as its neighbours reach it'
        raise InputError(graph_file, f"node {node_id} has no address", mend)
    return Peer(node_id, spec.address, public_key, graph.neighbors(node_id), spec.bind, spec.architecture)


def _holds(path: Path, shard: Shard) -> bool:
    try:
        there = load_shard(path)
    except InputError:
        return False
    same_names = (there.data_set, there.classes) == (shard.data_set, shard.classes)
    return same_names and all(
        np.array_equal(getattr(there, name), getattr(shard, name)) for name in ("images", "labels", "index")
    )
