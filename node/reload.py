"""peers.toml read again while the node runs, because SIGHUP asked for it.

Two things can be followed without starting training anew: neighbours that were taken away, and neighbours that have
another public key. Everything else in the file is what the run began with. Where it has changed, or the file is wrong,
that is one line in the log, nothing of the file is followed, and the node goes on as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from node.inputs import NEIGHBORS, neighbor_list
from node.publisher import Identity, neighbor_of
from topology.errors import InputError
from topology.peers import NodeView, Peer, read_peers
from transport.link import Link

_MEND = "undo that, or stop the node and start it again"


@dataclass(frozen=True)
class Requests:
    """What may be asked of a running node from outside.

    Attributes:
        stop: Set when it shall save and stop.
        reload: Set when it shall read its peers again.
        peers_path: Where they stand.
    """

    stop: Event
    reload: Event
    peers_path: Path


class Forgets(Protocol):
    """What holds the neighbours' discriminators."""

    def forget(self, gone: Iterable[int], rekeyed: Iterable[int]) -> None:
        """Does without some neighbours, and takes what others send from now on for new."""
        ...


@dataclass(frozen=True)
class Change:
    """What can be followed.

    Attributes:
        view: The run as the node sees it from now on.
        gone: Neighbours that were taken away.
        rekeyed: Neighbours that have another public key.
    """

    view: NodeView
    gone: tuple[int, ...]
    rekeyed: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.gone or self.rekeyed)


def compare(path: Path, old: NodeView, new: NodeView) -> Change:
    """What changed in the file for this node. How neighbours are joined to others is no concern of it.

    Args:
        path: The file, for error lines.
        old: The run as the node sees it.
        new: The same by the file as it is now.

    Raises:
        InputError: Something has changed that a running node cannot follow.
    """
    known = {peer.id: peer for peer in old.neighbors}
    for peer in new.neighbors:
        if peer.id not in known:
            raise InputError(path, f"node {peer.id} has become a neighbour", _MEND)
        if _but_for_keys(peer) != _but_for_keys(known[peer.id]):
            raise InputError(path, f"node {peer.id} has changed in more than its public key", _MEND)
    if new.me.public_key != old.me.public_key:
        raise InputError(path, f"node {old.me.id} itself has another public key", _MEND)
    if replace(new.me, neighbors=old.me.neighbors) != old.me:
        raise InputError(path, f"node {old.me.id} itself has changed", _MEND)
    if replace(new, me=old.me, neighbors=old.neighbors) != old:
        raise InputError(path, "[run] has changed", _MEND)
    left = {peer.id for peer in new.neighbors}
    return Change(
        view=new,
        gone=tuple(node_id for node_id in known if node_id not in left),
        rekeyed=tuple(peer.id for peer in new.neighbors if peer.public_key != known[peer.id].public_key),
    )


def _but_for_keys(peer: Peer) -> Peer:
    return replace(peer, public_key="", neighbors=())


class PeersFollower:
    """Follows peers.toml where it may.

    Args:
        requests: Tell when, and which file.
        link: The running link; None where the policy stands alone.
        neighbors: What holds the neighbours' discriminators; None where the policy stands alone.
        log: The node's log.
    """

    def __init__(
        self,
        requests: Requests,
        link: Link | None,
        neighbors: Forgets | None,
        log: FilteringBoundLogger,
    ) -> None:
        self._path = requests.peers_path
        self._asked = requests.reload
        self._link = link
        self._neighbors = neighbors
        self._log = log

    def __call__(self, identity: Identity) -> Identity:
        """The node as it is from now on; the same object where nothing was asked, changed or allowed.

        Raises:
            LocalError: The link could not take the change up, and must not go on as it was.
        """
        if not self._asked.is_set():
            return identity
        self._asked.clear()  # before the file is read: a change during the reading asks again
        try:
            change = compare(self._path, identity.view, read_peers(self._path).view(identity.view.me.id))
        except InputError as error:
            self._log.warning("peers file not followed, going on as before", error=str(error))
            return identity
        if not change:
            self._log.info("peers file read again, nothing has changed for this node")
            return identity
        changed = replace(
            identity, view=change.view, inputs={**identity.inputs, NEIGHBORS: neighbor_list(change.view)}
        )
        if self._link is not None:
            self._link.change(tuple(neighbor_of(changed, peer) for peer in change.view.neighbors))
        if self._neighbors is not None:
            self._neighbors.forget(change.gone, change.rekeyed)
        self._log.info("peers file followed", gone=list(change.gone), rekeyed=list(change.rekeyed))
        return changed
