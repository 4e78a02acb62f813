"""A small net of links, and peers that misbehave, for the tests of the transport."""

from __future__ import annotations

import contextlib
import os
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import zmq

from transport.keys import KeyPair, make_keys
from transport.link import Link, LinkSettings, Neighbor
from transport.wire import Expected, Schema, Snapshot, encode

SCHEMA = Schema("tiny", (("weight", (5000,)),))
DEADLINE_S = 15.0
QUIET_S = 60.0
"""`republish_s` of tests that count frames. It leaves nothing to heal a conflating socket of libzmq's that has, rarely, let
a frame go by unnoticed, as the next frame does; other tests repeat as a node does."""
KEYS = {node: make_keys() for node in range(1, 5)}


def frame(node: int, seq: int, boot: int = 1, run_id: str = "run") -> bytes:
    """A frame of 20 kB whose numbers do not repeat."""
    weights = {"weight": np.random.default_rng(seq).normal(size=5000).astype(np.float32)}
    return encode(Snapshot(run_id, node, "tiny", boot, seq, 10 * seq, False, (weights,)), SCHEMA)  # noqa: FBT003 - `done`, a field


def neighbor(node: int, address: str, keys: KeyPair | None = None) -> Neighbor:
    """Node `node` as its neighbours know it."""
    return Neighbor(node, address, (keys or KEYS[node]).public, Expected("run", node, SCHEMA))


def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Waits for what another thread brings about; fails when it does not."""
    end_s = time.monotonic() + deadline_s
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        tick.wait(0.005)


def free_address() -> str:
    """An endpoint that nothing listens at now."""
    with tcp.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Net:
    """Links and hostile peers of one test; all are closed at its end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.events: dict[int, list[tuple[str, dict[str, Any]]]] = {}

    def settings(self, node: int, *neighbors: Neighbor, **changes: Any) -> LinkSettings:
        """Settings of a node that keeps its events."""
        events = self.events.setdefault(node, [])
        plain = LinkSettings(
            node,
            "tcp://127.0.0.1:0",
            KEYS[node],
            neighbors,
            on_event=lambda name, fields: events.append((name, fields)),
        )
        return replace(plain, **changes)

    def link(self, node: int, *neighbors: Neighbor, **changes: Any) -> Link:
        """A running link."""
        return self.stack.enter_context(Link(self.settings(node, *neighbors, **changes)))

    def told(self, node: int, name: str) -> list[dict[str, Any]]:
        """The fields of every event of that name at that node."""
        return [fields for event, fields in self.events[node] if event == name]


def open_descriptors() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir opens one more


@contextlib.contextmanager
def open_net() -> Iterator[Net]:
    """A net whose links must leave no thread, socket or descriptor behind."""
    # One thread of pyzmq serves all zero-copy sends of a process; it starts at the first of them and stays.
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind("tcp://127.0.0.1:*")
        socket.send(bytes(100_000), copy=False)
    threads, descriptors = threading.active_count(), open_descriptors()
    with contextlib.ExitStack() as stack:
        yield Net(stack)
    until(lambda: threading.active_count() <= threads and open_descriptors() <= descriptors, 5)


class HoldUp:
    """A node's `on_event` that keeps its link's I/O thread from going on, from an event until `go_on`.

    Args:
        net: Whose events it keeps, and at whose end it goes on in any case.
        node: The node.
        at: Name of the event; None for any.
    """

    def __init__(self, net: Net, node: int, at: str | None = None) -> None:
        self._net, self._at = net, at
        self._events = net.events.setdefault(node, [])
        self._held, self._go_on = threading.Event(), threading.Event()

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        """Is told of an event, and returns late."""
        self._events.append((name, fields))
        if self._at in {None, name}:
            self._held.set()
            self._go_on.wait(DEADLINE_S)

    def wait(self) -> None:
        """Returns once the thread is held up; called after the link is made."""
        self._net.stack.callback(self.go_on)  # before the link ends
        assert self._held.wait(DEADLINE_S)

    def go_on(self) -> None:
        """Lets it go on."""
        self._go_on.set()


class RawPublisher:
    """A peer that holds a node's keys and sends what it likes to whoever asks."""

    def __init__(self, node: int, address: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.linger = 0
        self.socket.sndhwm = 0  # a flood is not thinned out
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.socket.rcvtimeo = int(DEADLINE_S * 1000)
        self.socket.curve_server = True
        self.socket.curve_publickey, self.socket.curve_secretkey = (
            KEYS[node].public.encode(),
            KEYS[node].secret.encode(),
        )
        self.socket.bind(address)

    def __enter__(self) -> Self:
        """Is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Frees the port."""
        self.context.destroy(linger=0)

    def wait_for_subscriber(self) -> None:
        """Returns once somebody has subscribed."""
        assert self.socket.recv() == b"\x01"


def pair(net: Net, **changes: Any) -> tuple[Link, Link]:
    """Node 1, which publishes, and its neighbour 2."""
    one = net.link(1, neighbor(2, free_address()), **changes)
    return one, net.link(2, neighbor(1, one.address), **changes)


def order(link: Link, node: int, **arguments: Any) -> tuple[int, int] | None:
    """(boot, seq) of the newest delivery."""
    delivery = link.latest(node, **arguments)
    return delivery.snapshot.order if delivery else None
