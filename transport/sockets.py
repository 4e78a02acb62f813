"""What the publisher and the subscriptions of one link share: a reactor, options, and monitors.

All of it runs in the link's I/O thread. The reactor calls the handler of what became readable, and each turn of the
link's loop calls `tick` for what falls due by the clock. docs/protocol.md tells why each option stands here.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zmq

from transport.inbox import Delivery
from transport.keys import KeyPair
from transport.lookup import Resolve

_MONITOR_EVENT = struct.Struct("=Hi")
HANDSHAKE_FAILED: dict[int, str] = {
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "handshake broken off: another key than the neighbour's answers there, or an insecure node",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "handshake against the protocol",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "the neighbour refused this node's key",
}
"""Monitor events that end a connection before it began, as its SUB side sees them."""

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
Report = Callable[..., None]
"""report(name, **fields) tells one event to whoever watches the link."""


class Reactor:
    """Readable sockets and their handlers."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._handlers: dict[Socket | int, Callable[[], None]] = {}

    def add(self, socket: Socket | int, handler: Callable[[], None]) -> None:
        """Calls `handler` whenever `socket`, ZeroMQ's or a file descriptor, can be read.

        Of any other object the poller would tell the descriptor, which is not what it was added by.
        """
        self._poller.register(socket, zmq.POLLIN)
        self._handlers[socket] = handler

    def remove(self, socket: Socket | int) -> None:
        """Forgets a socket; do so before it is closed."""
        self._poller.unregister(socket)
        del self._handlers[socket]

    def turn(self, timeout_s: float) -> None:
        """Waits for at most `timeout_s` and calls the handler of each readable socket once."""
        # Rounded up, or the last fraction of a millisecond before a deadline would be spent spinning.
        for socket, _ in self._poller.poll(int(timeout_s * 1000) + 1):
            # A handler before this one may have closed the socket.
            if handler := self._handlers.get(socket):
                handler()


@dataclass(frozen=True)
class Wiring:
    """What every socket of one link shares.

    Attributes:
        context: The link's own; its authentication handler serves every server socket in it.
        reactor: Calls the handlers.
        keys: This node's; None for an insecure link, whose sockets neither encrypt nor ask who is there.
        clock: Monotonic seconds.
        republish_s: Time after which a publisher sends its newest frame again.
        report: Told of every event.
        deliver: Given the id of a neighbour and its newest delivery.
        resolve: Looks up names, on threads that it may block.
        wake: Ends the reactor's wait; any thread may call it, and at any time.
    """

    context: Context
    reactor: Reactor
    keys: KeyPair | None
    clock: Callable[[], float]
    republish_s: float
    report: Report
    deliver: Callable[[int, Delivery], None]
    resolve: Resolve
    wake: Callable[[], None]

    def socket(self, kind: int, options: Mapping[int, int]) -> Socket:
        """A socket with this node's keys, if it has any, and the options that every socket here needs besides `options`."""
        common: dict[int, int] = {
            zmq.LINGER: 0,
            zmq.IPV6: 1,
            zmq.HANDSHAKE_IVL: 5000,
            zmq.TCP_KEEPALIVE: 1,
            # A subscriber sends nothing: only this tells it that the other end was reset, and it not.
            zmq.TCP_KEEPALIVE_IDLE: 3,
            zmq.TCP_KEEPALIVE_INTVL: 5,
            zmq.TCP_KEEPALIVE_CNT: 3,
        }
        socket = self.context.socket(kind)
        for option, value in (common | dict(options)).items():
            socket.setsockopt(option, value)
        if self.keys is not None:
            socket.curve_publickey = self.keys.public.encode()
            socket.curve_secretkey = self.keys.secret.encode()
        return socket


def read_monitor(monitor: Socket) -> list[tuple[int, int]]:
    """(event, value) of everything that a monitor holds."""
    events: list[tuple[int, int]] = []
    with contextlib.suppress(zmq.Again):
        while True:
            events.append(_MONITOR_EVENT.unpack(monitor.recv_multipart(zmq.NOBLOCK)[0]))
    return events
