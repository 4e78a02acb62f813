"""The link: one I/O thread owns every socket, and the training thread meets it at two doors.

Theory of operation. `publish` leaves a frame on a shelf that holds one, wakes the I/O thread and returns; a frame that
is still there is replaced, since only the newest matters. `latest` reads the newest delivery of a neighbour from
another shelf, and may wait for one that is newer. Everything else happens on the I/O thread: checking and hashing what is
sent, who may connect, sending, receiving, decoding, mending of connections. Its loop waits until a socket can be read or something falls due by the
clock; names are looked up beside it, since that may block (`transport/lookup.py`). Training waits for the network
nowhere, save where the caller of `latest` asks for it.

An unexpected error on the I/O thread, and a draft that may not be sent, end the thread; the next call at either door raises
it as LocalError.
"""

from __future__ import annotations

import contextlib
import socket as tcp
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import zmq

from transport.errors import LocalError
from transport.inbox import Delivery
from transport.keys import KeyPair
from transport.lookup import Resolve
from transport.publisher import Publisher
from transport.sockets import Reactor, Wiring
from transport.statistics import LinkStatistics, NeighborStatistics
from transport.subscription import Neighbor, Subscription
from transport.wire import Draft, Frame, seal

__all__ = ["Link", "LinkSettings", "LinkStatistics", "Neighbor", "NeighborStatistics"]

_START_S = 10.0
_STOP_S = 5.0
_CHANGE_S = 20.0
_LONGEST_TURN_S = 1.0  # the clock may be one that a test turns
_REPORT_EVERY_S = 1.0


def _ignore(_name: str, _fields: dict[str, Any]) -> None:
    """Default of `on_event`."""


@dataclass(frozen=True)
class LinkSettings:
    """All that a link needs to know.

    Attributes:
        node_id: This node.
        bind: tcp:// endpoint of its publisher; port 0 takes a free one.
        keys: This node's; None for an insecure link.
        neighbors: Those it listens to, and the only ones that may listen to it.
        republish_s: The newest frame is sent again after this time without a new one; the same on all nodes.
        clock: Monotonic seconds.
        on_event: Called on the I/O thread with the name and the fields of each event; must not raise or block.
            key_refused(public_key), handshake_refused(reason), connection_up(neighbor), connection_lost(neighbor),
            connection_rebuilt(neighbor, reason), name_unresolved(neighbor, name, error), snapshot_refused(neighbor,
            kind, error). The same event of the same neighbour and kind is told at most once a second; `suppressed` counts
            those left out before it.
        resolve: Looks up the names in neighbours' addresses, called and answering as socket.getaddrinfo, on threads
            that it may block.
        insecure: No CURVE: nothing is encrypted, anybody may listen or pose as a neighbour. Only with no keys, so that
            keys that are missing by mistake are no way to it.

    Raises:
        LocalError: An id, address or key appears twice, is this node's own, or an address is not tcp://; there are no
            keys and the link is not insecure, or the other way round.
    """

    node_id: int
    bind: str
    keys: KeyPair | None
    neighbors: tuple[Neighbor, ...] = ()
    republish_s: float = 3.0
    clock: Callable[[], float] = time.monotonic
    on_event: Callable[[str, dict[str, Any]], None] = _ignore
    resolve: Resolve = tcp.getaddrinfo
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.insecure is not (self.keys is None):
            raise LocalError(f"node {self.node_id}: a link has a key pair, or is insecure and has none")
        ids = [self.node_id, *(neighbor.id for neighbor in self.neighbors)]
        own = () if self.keys is None else (self.keys.public,)
        keys = [*own, *(neighbor.public_key for neighbor in self.neighbors)]
        addresses = [neighbor.address for neighbor in self.neighbors]
        for what, values in (("an id", ids), ("an address", addresses), ("a public key", keys)):
            if len(set(values)) < len(values):
                raise LocalError(
                    f"node {self.node_id}: {what} appears twice in {values}; each node has its own"
                )
        for address in (self.bind, *addresses):
            if not address.startswith("tcp://"):
                raise LocalError(
                    f"node {self.node_id}: address {address!r} is not one; tcp://HOST:PORT is right"
                )
        for neighbor in self.neighbors:
            if neighbor.expected.node_id != neighbor.id:
                raise LocalError(
                    f"node {neighbor.id}: frames of node {neighbor.expected.node_id} are expected of it"
                )


class Link:
    """A node's connections to its neighbours, open as long as the `with` block.

    Args:
        settings: Addresses, keys, neighbours.

    Example:
        >>> with Link(settings) as link:  # doctest: +SKIP
        ...     link.publish(encode(snapshot, schema))
        ...     newest = link.latest(neighbor_id=2)
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.settings = settings
        self._changed = threading.Condition()  # guards all below but the sockets
        self._shelf: Draft | Frame | None = None
        self._deliveries: dict[int, Delivery | None] = {neighbor.id: None for neighbor in settings.neighbors}
        self._wanted: LinkSettings | None = None
        self._failure: BaseException | None = None
        self._ready = self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"link-{settings.node_id}", daemon=True)
        self._publisher: Publisher | None = None
        self._subscriptions: tuple[Subscription, ...] = ()
        self._bytes_in_before = 0  # of subscriptions that are closed for good
        self._reports: dict[tuple[str, Any, Any], tuple[float, int]] = {}

    def __enter__(self) -> Self:
        """Starts the I/O thread and waits until the address is bound, with the allow-list in force.

        Raises:
            LocalError: The address is taken or cannot be bound, a key or an address is none, in one line.
        """
        if self._thread.ident is not None:
            raise LocalError("a link is started once; make another one")
        self._waker, self._wakened = tcp.socketpair()
        self._waker.settimeout(0)
        self._wakened.settimeout(0)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure, _START_S)
        if not self._ready:
            self._stop()
            self._raise_failure()
            raise LocalError(f"the link did not start within {_START_S:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the I/O thread, which closes every socket; what is unsent is dropped."""
        self._stop()

    @property
    def address(self) -> str:
        """The endpoint that is bound, with the real port."""
        return self._running().address

    def publish(self, frame: Draft | Frame) -> None:
        """Hands a frame over to be sent to every neighbour; never waits for the network.

        Args:
            frame: A draft, which is sealed on the link's thread, or a frame as `encode` makes it; one object however many
                neighbours. What was handed over before and is not sent yet gives way to it.

        Raises:
            LocalError: The link is not running. One that a draft turns out to deserve is raised by the next call.
        """
        self._running()
        with self._changed:
            self._shelf = frame
        self._wake()

    def latest(
        self, neighbor_id: int, *, after: tuple[int, int] | None = None, timeout_s: float = 0.0
    ) -> Delivery | None:
        """The newest accepted snapshot of a neighbour.

        Args:
            neighbor_id: Whose.
            after: (boot, seq) that the snapshot must be above; None takes any.
            timeout_s: Longest wait for such a snapshot.

        Returns:
            The delivery, or None when there is no such one by then.

        Raises:
            LocalError: It is no neighbour, or the link is not running.
        """
        self._running()
        if neighbor_id not in self._deliveries:
            raise LocalError(f"node {neighbor_id} is no neighbour; those are {sorted(self._deliveries)}")

        def newer() -> Delivery | None:
            delivery = self._deliveries[neighbor_id]
            return delivery if delivery and (after is None or delivery.snapshot.order > after) else None

        with self._changed:
            self._changed.wait_for(lambda: newer() or self._failure or self._stopping, timeout_s)
            self._raise_failure()
            return newer()

    def change(self, neighbors: tuple[Neighbor, ...]) -> None:
        """Goes on with these neighbours, and returns once that is in force.

        Every connection to this node's publisher is closed, and those who may come back are let in again. Who is left
        out, or has another key now, is sent nothing more and heard no more, and what it sent last is forgotten.

        Raises:
            LocalError: They contradict one another, the link is not running, or its port is lost to another program.
        """
        self._running()
        wanted = replace(self.settings, neighbors=neighbors)
        with self._changed:
            self._wanted = wanted
        self._wake()
        with self._changed:
            self._changed.wait_for(lambda: self._wanted is None or self._failure or self._stopping, _CHANGE_S)
            self._raise_failure()
            if self._wanted is not None:
                raise LocalError(f"the link did not take up its new neighbours within {_CHANGE_S:g} s")

    def statistics(self) -> LinkStatistics:
        """Counters as of now; they stay readable once the link has stopped.

        Raises:
            LocalError: The link was never started.
        """
        publisher = self._publisher
        if publisher is None:
            raise LocalError("the link was not started")
        neighbors = {
            subscription.neighbor.id: NeighborStatistics(
                accepted=subscription.inbox.accepted,
                repeated=subscription.inbox.repeated,
                refusals=dict(subscription.inbox.refusals),
                rebuilds=subscription.rebuilds,
                last_refusal=subscription.inbox.last_refusal,
                heard_s=delivery.heard_s if (delivery := subscription.inbox.latest) else None,
                connected=subscription.connected,
            )
            for subscription in self._subscriptions
        }
        return LinkStatistics(
            bytes_out=publisher.bytes_out,
            bytes_in=self._bytes_in_before
            + sum(subscription.bytes_in for subscription in self._subscriptions),
            publishes=publisher.publishes,
            republishes=publisher.republishes,
            subscribers=publisher.subscribers,
            neighbors=neighbors,
        )

    def _running(self) -> Publisher:
        self._raise_failure()
        if self._publisher is None or self._stopping:
            raise LocalError("the link is not running; use it inside its `with` block")
        return self._publisher

    def _raise_failure(self) -> None:
        if isinstance(self._failure, LocalError):
            raise self._failure
        if self._failure:
            raise LocalError(f"the link's thread ended: {self._failure!r}") from self._failure

    def _stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._wake()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise LocalError(f"the link's thread did not stop within {_STOP_S:g} s")
        with self._changed:
            self._waker.close()
            self._wakened.close()

    def _wake(self) -> None:
        # An error means that the pipe is full, so it will wake, or closed: a lookup may outlive the link. Without the
        # lock the byte could go to whatever gets the descriptor's number next.
        with self._changed, contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # Below: the I/O thread.

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._serve(context)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the doors raise it on the caller's thread
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            # Closes what an error has left open too, as only the owner of the sockets may; term() would wait for them.
            context.destroy(linger=0)

    def _serve(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        settings, reactor = self.settings, Reactor()
        wiring = Wiring(
            context,
            reactor,
            settings.keys,
            settings.clock,
            settings.republish_s,
            self._report,
            self._deliver,
            settings.resolve,
            self._wake,
        )
        reactor.add(self._wakened.fileno(), self._on_wake)
        allowed = frozenset(neighbor.public_key for neighbor in settings.neighbors)
        publisher = Publisher(wiring, settings.bind, allowed)
        self._subscriptions = tuple(Subscription(wiring, neighbor) for neighbor in settings.neighbors)
        with self._changed:
            self._publisher, self._ready = publisher, True
            self._changed.notify_all()
        while not self._stopping:
            if self._wanted is not None:
                self._adopt(self._wanted, wiring, publisher)
            parts: tuple[Publisher | Subscription, ...] = (publisher, *self._subscriptions)
            with self._changed:
                frame, self._shelf = self._shelf, None
            if frame is not None:
                publisher.offer(seal(frame) if isinstance(frame, Draft) else frame)
            due_s = min(part.tick(settings.clock()) for part in parts)
            reactor.turn(min(max(due_s - settings.clock(), 0.0), _LONGEST_TURN_S))
        publisher.close()
        for subscription in self._subscriptions:
            subscription.close()

    def _adopt(self, wanted: LinkSettings, wiring: Wiring, publisher: Publisher) -> None:
        """Puts changed neighbours in force: first who is sent frames, then who is heard."""
        publisher.admit(frozenset(neighbor.public_key for neighbor in wanted.neighbors))
        kept = {old.neighbor: old for old in self._subscriptions if old.neighbor in wanted.neighbors}
        for old in self._subscriptions:
            if old.neighbor not in kept:
                old.close()
                self._bytes_in_before += old.bytes_in
        # A fresh subscription has a fresh inbox: the holder of the old key cannot have shut the new one's out by a
        # high (boot, seq).
        fresh = tuple(kept.get(neighbor) or Subscription(wiring, neighbor) for neighbor in wanted.neighbors)
        with self._changed:
            self._subscriptions, self.settings, self._wanted = fresh, wanted, None
            self._deliveries = {each.neighbor.id: each.inbox.latest for each in fresh}
            self._changed.notify_all()

    def _on_wake(self) -> None:
        self._wakened.recv(4096)  # all that was sent, or the reactor asks again at its next turn

    def _deliver(self, neighbor_id: int, delivery: Delivery) -> None:
        with self._changed:
            self._deliveries[neighbor_id] = delivery
            self._changed.notify_all()

    def _report(self, name: str, /, **fields: Any) -> None:
        """Tells an event, unless the like was told within the last second: a hostile peer must not fill a log."""
        now_s, like = self.settings.clock(), (name, fields.get("neighbor"), fields.get("kind"))
        told_s, suppressed = self._reports.get(like, (-_REPORT_EVERY_S, 0))
        if now_s - told_s < _REPORT_EVERY_S:
            self._reports[like] = told_s, suppressed + 1
            return
        self._reports[like] = now_s, 0
        self.settings.on_event(name, fields | ({"suppressed": suppressed} if suppressed else {}))
