"""From the trainer's discriminator to frames for the neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from node.config import Settings
from node.inputs import architecture_of
from node.neighbors import Arrays
from node.snapshots import schema
from topology.peers import NodeView, Peer
from transport.link import Link, Neighbor
from transport.wire import Expected, Schema, Snapshot, draft


@dataclass(frozen=True)
class Identity:
    """What a node is in its run.

    Attributes:
        view: Its place in the graph and its files.
        settings: The run's settings, image shape filled in.
        architecture: Name of its architecture.
        boot: Number of this start, above that of every earlier one.
        starts: How often it has started in its folder; for people.
        inputs: Digests of what training depends on, by a name that a user understands.
        insecure: Whether it exchanges without CURVE.
    """

    view: NodeView
    settings: Settings
    architecture: str
    boot: int
    starts: int
    inputs: Mapping[str, str]
    insecure: bool = False

    @cached_property
    def schema(self) -> Schema:
        """Schema of the snapshots that it publishes."""
        image = self.settings.image
        return schema(
            self.architecture, self.settings.architecture[self.architecture], image.size, image.channels
        )


def neighbor_of(identity: Identity, peer: Peer) -> Neighbor:
    """A neighbour as the link needs to know it: its address, its key and the frames to expect of it."""
    settings, name = identity.settings, architecture_of(peer)
    image = settings.image
    expected = Expected(
        run_id=identity.view.run_id,
        node_id=peer.id,
        schema=schema(name, settings.architecture[name], image.size, image.channels),
        blocks=2 if settings.lockstep else 1,
        dtype=settings.exchange.payload,
    )
    return Neighbor(peer.id, peer.address, peer.public_key, expected)


class Publisher:
    """Turns the trainer's discriminator into frames; each is encoded once, however many neighbours there are.

    Args:
        identity: Who publishes.
        link: Where frames go.
    """

    def __init__(self, identity: Identity, link: Link) -> None:
        self._identity = identity
        self._link = link
        self._seq = 0

    def publish(self, blocks: tuple[Arrays, ...], cycle: int, *, done: bool) -> None:
        """Sends the weights after `cycle` cycles; in lockstep the two last blocks, the older first.

        They are copied before this returns, and checked and encoded on the link's thread.
        """
        view, self._seq = self._identity.view, self._seq + 1
        snapshot = Snapshot(
            run_id=view.run_id,
            node_id=view.me.id,
            arch_id=self._identity.schema.arch_id,
            boot=self._identity.boot,
            seq=self._seq,
            cycle=cycle,
            done=done,
            blocks=blocks,
        )
        self._link.publish(draft(snapshot, self._identity.schema, self._identity.settings.exchange.payload))
