"""A key that was lost: another pair for a node, or no place in the run any more.

Both change peers.toml, whole or not at all. Whoever has a copy decides for the nodes that read it; running ones are
told by SIGHUP (`node/reload.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from node.files import write_atomically
from topology.errors import InputError
from topology.peers import Peers, dump_peers, read_peers
from transport.keys import make_keys, replace_keys


def rotate_key(path: Path, node_id: int) -> tuple[str, tuple[int, ...]]:
    """Gives a node another key pair, in its key file and in peers.toml.

    Returns:
        The new public key, and the node's neighbours.

    Raises:
        InputError: The file is wrong, or has no such node.
        LocalError: The key file cannot be written.
        OSError: peers.toml cannot be written; nothing has changed.
    """
    peers = read_peers(path)
    view = peers.view(node_id)
    pair = make_keys()
    changed = (replace(peer, public_key=pair.public) if peer.id == node_id else peer for peer in peers.peers)
    # In this order a call that is cut short leaves a node that nobody lets in, and not one with the old key.
    _write(path, replace(peers, peers=tuple(changed)))
    replace_keys(view.key, pair)
    return pair.public, view.me.neighbors


def revoke_node(path: Path, node_id: int) -> tuple[int, ...]:
    """Takes a node out of peers.toml, and out of everybody's neighbours.

    Returns:
        Those that were its neighbours.

    Raises:
        InputError: The file is wrong, has no such node, or no other.
        OSError: It cannot be written; nothing has changed.
    """
    peers = read_peers(path)
    view = peers.view(node_id)
    rest = tuple(
        replace(peer, neighbors=tuple(other for other in peer.neighbors if other != node_id))
        for peer in peers.peers
        if peer.id != node_id
    )
    if not rest:
        raise InputError(path, f"node {node_id} is the only one", "stop it; a run of nobody is none")
    _write(path, replace(peers, peers=rest))
    return view.me.neighbors


def _write(path: Path, peers: Peers) -> None:
    write_atomically(path, dump_peers(peers).encode())
