"""peers.toml: the addresses, public keys and edges of a run, and one node's own view of it.

Complete enough that an id and this file are all a node needs:

    [run]                                # the same for all nodes; other keys are settings
    id = "paper-ring"
    data = "shards/node-{id}.npz"        # relative paths are relative to this file
    key = "keys/node-{id}.key"
    directory = "nodes/{id}"

    [[peer]]
    id = 3
    address = "tcp://127.0.0.1:7003"     # as its neighbours reach it
    bind = "tcp://127.0.0.1:7003"        # optional; else every interface, the address's port
    architecture = "paper"               # optional
    public_key = "…"                     # Z85, CURVE
    neighbors = [2, 4]

An edge stands at both of its ends, so that nobody is listened to without having agreed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict

from topology.checks import (
    check_address,
    check_id,
    check_name,
    endpoint,
    refuse_repeated_ids,
    refuse_repeats,
    shown_ids,
)
from topology.errors import InputError
from topology.tables import Table, read_toml

DEFAULT_DATA = "shards/node-{id}.npz"
DEFAULT_KEY = "keys/node-{id}.key"
DEFAULT_DIRECTORY = "nodes/{id}"

_PLACEHOLDER = "{id}"
# ZeroMQ RFC 32: five characters of base 85 hold four bytes, so 40 hold a CURVE key of 32.
_Z85_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_KEY_CHARACTERS, _GROUP = 40, 5


@dataclass(frozen=True)
class Peer:
    """One node as all the others know it.

    Attributes:
        id: Its id.
        address: `tcp://host:port` as its neighbours reach it.
        public_key: CURVE public key in Z85, 40 characters.
        neighbors: Ids of its single-hop neighbours in ascending order (P1).
        bind: Where it listens, or None for every interface and the address's port.
        architecture: Name of its structure, or None for the default (P3).
    """

    id: int
    address: str
    public_key: str
    neighbors: tuple[int, ...]
    bind: str | None = None
    architecture: str | None = None

    @property
    def bind_address(self) -> str:
        """`tcp://host:port` where the node listens."""
        return self.bind or f"tcp://*:{endpoint(self.address)[1]}"


@dataclass(frozen=True)
class NodeView:
    """What one node needs to know of the run, and no more.

    Attributes:
        run_id: The run's id.
        me: This node.
        neighbors: Its single-hop neighbours in ascending order of id.
        data: Its private shard.
        key: Its CURVE key pair.
        directory: Where it writes.
        settings: Settings of the run, not yet checked.
    """

    run_id: str
    me: Peer
    neighbors: tuple[Peer, ...]
    data: Path
    key: Path
    directory: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Peers:
    """All of peers.toml.

    Attributes:
        path: The file it came from, or None; relative paths start at its folder.
        run_id: The run's id.
        data: Path of a node's shard; `{id}` stands for the node's id in this and the next two.
        key: Path of a node's key pair.
        directory: Path of a node's folder.
        settings: Every other key of `[run]`, tables included.
        peers: In ascending order of id.
    """

    path: Path | None
    run_id: str
    data: str
    key: str
    directory: str
    settings: Mapping[str, Any]
    peers: tuple[Peer, ...]

    def view(self, node_id: int) -> NodeView:
        """The run as this node sees it.

        Raises:
            InputError: There is no such node; names the ids that exist.
        """
        by_id = {peer.id: peer for peer in self.peers}
        if node_id not in by_id:
            where = self.path or "peers"
            raise InputError(where, f"id {node_id} is unknown", f"ids that exist: {shown_ids(sorted(by_id))}")
        folder = self.path.parent if self.path else Path()
        data, key, directory = (
            folder / template.replace(_PLACEHOLDER, str(node_id))
            for template in (self.data, self.key, self.directory)
        )
        me = by_id[node_id]
        neighbors = tuple(by_id[neighbor] for neighbor in me.neighbors)
        return NodeView(self.run_id, me, neighbors, data, key, directory, self.settings)


class _RunTable(Table):
    model_config = ConfigDict(extra="allow")  # the settings, which the node checks
    id: str
    data: str = DEFAULT_DATA
    key: str = DEFAULT_KEY
    directory: str = DEFAULT_DIRECTORY


class _PeerTable(Table):
    id: int
    address: str
    public_key: str
    neighbors: list[int]
    bind: str | None = None
    architecture: str | None = None


class _PeersFile(Table):
    run: _RunTable
    peer: list[_PeerTable]


def read_peers(path: Path) -> Peers:
    """Reads and checks peers.toml; the settings in `[run]` are taken as they stand.

    Raises:
        InputError: The file is missing or no TOML, a key is unknown or missing, a value has the wrong type, an id,
            address or public key is bad or given twice, a path holds a placeholder other than `{id}`, or an edge
            is a self-loop, leads to an unknown peer or stands at one of its ends only.
    """
    file = read_toml(path, _PeersFile)
    peers = tuple(
        Peer(**table.model_dump(exclude={"neighbors"}), neighbors=tuple(sorted(table.neighbors)))
        for table in sorted(file.peer, key=lambda table: table.id)
    )
    run = file.run
    check_name(path, "run: id", run.id)
    for field in ("data", "key", "directory"):
        _check_template(path, field, getattr(run, field))
    _check_peers(path, peers)
    _check_edges(path, peers)
    return Peers(path, run.id, run.data, run.key, run.directory, dict(run.model_extra or {}), peers)


def dump_peers(peers: Peers) -> str:
    """The text of peers.toml, as `read_peers` reads it back.

    Raises:
        ValueError: A setting bears the name of one of `[run]`'s own keys.
    """
    own = {"id": peers.run_id, "data": peers.data, "key": peers.key, "directory": peers.directory}
    if clash := sorted(own.keys() & peers.settings.keys()):
        raise ValueError(f"[run] has its own key {clash[0]}; no setting can stand there under that name")
    text = tomli_w.dumps({"run": own | dict(peers.settings)})
    for peer in peers.peers:
        table: dict[str, Any] = {"id": peer.id, "address": peer.address}
        table |= {
            key: getattr(peer, key) for key in ("bind", "architecture") if getattr(peer, key) is not None
        }
        table["public_key"] = peer.public_key
        text += f"\n[[peer]]\n{tomli_w.dumps(table)}neighbors = {list(peer.neighbors)}\n"
    return text


def _check_template(path: Path, field: str, template: str) -> None:
    rest = template.replace(_PLACEHOLDER, "")
    if not template.strip() or "\0" in template or "{" in rest or "}" in rest:
        problem = f"run: {field} = {template!r} is no path"
        raise InputError(path, problem, "a path in which {id} stands for the node's id, and no other braces")


def _check_peers(path: Path, peers: tuple[Peer, ...]) -> None:
    if not peers:
        raise InputError(path, "there is no peer", "add a [[peer]] table for each node")
    for peer in peers:
        check_id(path, peer.id)
        check_address(path, f"peer with id {peer.id}: address", peer.address)
        if peer.bind is not None:
            check_address(path, f"peer with id {peer.id}: bind", peer.bind, bind=True)
        if peer.architecture is not None:
            check_name(path, f"peer with id {peer.id}: architecture", peer.architecture)
        if not is_public_key(peer.public_key):
            problem = f"peer with id {peer.id}: public_key = {peer.public_key!r} is no CURVE key"
            raise InputError(path, problem, f"{_KEY_CHARACTERS} characters of Z85")
    refuse_repeated_ids(path, (peer.id for peer in peers))
    refuse_repeats(path, "address", ((peer.id, endpoint(peer.address), peer.address) for peer in peers))
    refuse_repeats(path, "public_key", ((peer.id, peer.public_key, peer.public_key) for peer in peers))


def is_public_key(text: str) -> bool:
    """Whether a text is 32 bytes in Z85, as every CURVE key is; whose it is, and that it is public, cannot be seen."""
    if len(text) != _KEY_CHARACTERS or not set(text) <= set(_Z85_DIGITS):
        return False
    groups = (text[start : start + _GROUP] for start in range(0, _KEY_CHARACTERS, _GROUP))
    return all(_z85_value(group) < 2**32 for group in groups)


def _z85_value(group: str) -> int:
    value = 0
    for character in group:
        value = value * len(_Z85_DIGITS) + _Z85_DIGITS.index(character)
    return value


def _check_edges(path: Path, peers: tuple[Peer, ...]) -> None:
    by_id = {peer.id: peer for peer in peers}
    for peer in peers:
        where = f"peer with id {peer.id}: neighbors = {list(peer.neighbors)}"
        for neighbor in peer.neighbors:
            if neighbor not in by_id:
                raise InputError(path, f"{where} names {neighbor}", f"ids that exist: {shown_ids(by_id)}")
            if neighbor == peer.id:
                raise InputError(path, f"{where} names itself", f"take {neighbor} out")
            if peer.id not in by_id[neighbor].neighbors:
                mend = f"add {peer.id} to the neighbors of peer {neighbor}, or take {neighbor} out of peer {peer.id}'s"
                raise InputError(path, f"{where} names {neighbor}, which does not name {peer.id}", mend)
        if len(set(peer.neighbors)) < len(peer.neighbors):
            raise InputError(path, f"{where} names one twice", "name each neighbour once")
