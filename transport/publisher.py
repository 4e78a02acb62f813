"""The one socket that a node publishes on: XPUB, with an allow-list of keys in front of it.

A frame is encoded once, and libzmq shares it between the connections. Who joins late is sent the newest frame at once
by libzmq's welcome message. That leaves one gap: a connection is welcomed when it is made and is served from when its
subscription arrives, and misses a new frame that is sent in between. So a subscription that arrives soon after a new
frame makes the publisher repeat it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time

import zmq
from zmq.auth import Authenticator

from transport.errors import LocalError
from transport.inbox import MAX_FRAMES_PER_S
from transport.sockets import HANDSHAKE_FAILED, Socket, Wiring, read_monitor
from transport.wire import Frame

ZAP_DOMAIN = "dgan"
PACE_S = 2 / MAX_FRAMES_PER_S
"""Shortest time between two new frames: half the rate that a receiver takes for a flood."""
_JOIN_GAP_S = 1.0  # longest time that a subscription is on its way, one round trip
_JOIN_REPEAT_S = 0.1  # joins are served together: nobody makes the publisher repeat faster than this
_REBIND_S = 10.0  # libzmq frees the port of a closed socket on a thread of its own
_REBIND_EVERY_S = 0.005
_MAX_SUBSCRIPTION_BYTES = 1024
_SUBSCRIPTIONS_A_TURN = 1000  # a peer that sends endless ones does not hold up the others
_SUBSCRIBED, _UNSUBSCRIBED = b"\x01", b"\x00"


class Publisher:
    """The XPUB socket, the allow-list in front of it, and the frame that was sent last.

    Args:
        wiring: What the link's sockets share.
        bind: tcp:// endpoint; port 0 takes a free one.
        allowed: Public keys that may connect. They are asked for at the handshake only.

    Attributes:
        address: The endpoint that is bound, with the real port.
        bytes_out: Bytes of the frames handed to connections of subscribers.
        publishes: New frames sent.
        republishes: Frames sent again because no new one came.
        subscribers: Connections that are subscribed now.

    Raises:
        LocalError: The address is taken, or is none that can be bound.
    """

    def __init__(self, wiring: Wiring, bind: str, allowed: frozenset[str]) -> None:
        self.bytes_out = self.publishes = self.republishes = self.subscribers = 0
        self._wiring = wiring
        self._allowed = frozenset(key.encode() for key in allowed)
        self._pending: Frame | None = None
        self._frame: Frame | None = None
        self._new_s = self._sent_s = -math.inf
        self._repeat_s = math.inf
        # The handler first: a CURVE server without one lets any key in.
        self._authenticator = None if wiring.keys is None else self._start_authenticator()
        self._socket, self._monitor = self._open()
        self.address = self._bind(bind, within_s=0.0)
        self._listen()

    def _open(self) -> tuple[Socket, Socket]:
        """A socket that is not bound yet, and its monitor."""
        options: dict[int, int] = {
            zmq.SNDHWM: 1,  # what waits for a slow line is old by then, and the next one newer
            zmq.MAXMSGSIZE: _MAX_SUBSCRIPTION_BYTES,
            zmq.TCP_MAXRT: 10_000,
            zmq.XPUB_VERBOSER: 1,  # tells of every subscriber that comes or goes, so that they can be counted
        }
        if self._authenticator is not None:
            options |= {zmq.CURVE_SERVER: 1, zmq.ZAP_ENFORCE_DOMAIN: 1}
        socket = self._wiring.socket(zmq.XPUB, options)
        if self._authenticator is not None:
            socket.zap_domain = ZAP_DOMAIN.encode()
        return socket, socket.get_monitor_socket()

    def _listen(self) -> None:
        self._wiring.reactor.add(self._monitor, self._on_monitor)
        self._wiring.reactor.add(self._socket, self._on_subscription)

    def callback(self, _domain: str, key: bytes) -> bool:
        """The authenticator's question: may the holder of this key connect?"""
        if key in self._allowed:
            return True
        self._wiring.report("key_refused", public_key=key.decode())
        return False

    def admit(self, allowed: frozenset[str]) -> None:
        """Puts another allow-list in force, for connections that stand already too.

        Keys are asked for at the handshake only: an open connection of a key that was taken off the list would go on
        receiving, even after `unbind`. So the socket is closed, and with it every connection, and a fresh one takes
        its port; who may come back does, and is welcomed with the newest frame.

        Raises:
            LocalError: Another program took the port meanwhile.
        """
        self._allowed = frozenset(key.encode() for key in allowed)
        self._shut()
        self.subscribers = 0
        self._socket, self._monitor = self._open()
        if self._frame is not None:
            self._socket.setsockopt(zmq.XPUB_WELCOME_MSG, bytes(self._frame))
        self._bind(self.address, within_s=_REBIND_S)
        self._listen()

    def offer(self, frame: Frame) -> None:
        """Takes a new frame for the next `tick`; one that still waits gives way to it."""
        self._pending = frame

    def tick(self, now_s: float) -> float:
        """Sends what is due, and returns when something may be due again."""
        if self._pending is not None and now_s - self._sent_s >= PACE_S:
            self._frame, self._pending = self._pending, None
            self._new_s = now_s
            self.publishes += 1
            self._send(self._frame, now_s)
            # After it is sent, since libzmq copies it. Who joins in between is welcomed with the one before, and served
            # by the repeat that its subscription brings about.
            self._socket.setsockopt(zmq.XPUB_WELCOME_MSG, bytes(self._frame))
        elif self._frame is not None and now_s >= self._repeat_s:
            self.republishes += 1
            self._send(self._frame, now_s)
        return self._repeat_s if self._pending is None else self._sent_s + PACE_S

    def close(self) -> None:
        """Closes every socket of it."""
        self._shut()
        if self._authenticator is not None:
            self._wiring.reactor.remove(self._authenticator.zap_socket)
            self._authenticator.zap_socket.close()

    def _shut(self) -> None:
        self._socket.disable_monitor()
        for socket in (self._monitor, self._socket):
            self._wiring.reactor.remove(socket)
            socket.close()

    def _start_authenticator(self) -> Authenticator:
        authenticator = Authenticator(self._wiring.context)
        authenticator.start()
        authenticator.configure_curve_callback(ZAP_DOMAIN, credentials_provider=self)
        self._wiring.reactor.add(authenticator.zap_socket, lambda: _answer(authenticator))
        return authenticator

    def _bind(self, bind: str, within_s: float) -> str:
        deadline_s = time.monotonic() + within_s
        try:
            while not self._is_bound(bind, last=time.monotonic() >= deadline_s):
                time.sleep(_REBIND_EVERY_S)
        except zmq.ZMQError as error:
            where = f"cannot listen at {bind!r}"
            if error.errno == errno.EADDRINUSE:
                raise LocalError(
                    f"{where}: the port is taken; stop what holds it, or bind another port"
                ) from None
            problem = "unknown host" if error.errno == errno.EAGAIN else os.strerror(error.errno or 0)
            raise LocalError(
                f"{where}: {problem}; an address of this machine is right, as tcp://*:7003"
            ) from None
        # The host as it was given: libzmq writes an IPv4 one as IPv6.
        port = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        return f"{bind.rpartition(':')[0]}:{port}"

    def _is_bound(self, bind: str, *, last: bool) -> bool:
        """Binds; False where the port is taken and this is not the last try."""
        try:
            self._socket.bind(bind)
        except zmq.ZMQError as error:
            if last or error.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    def _send(self, frame: Frame, now_s: float) -> None:
        self._on_subscription()  # the count is up to date
        self._socket.send(frame, zmq.NOBLOCK, copy=False)
        self.bytes_out += len(frame) * self.subscribers
        self._sent_s, self._repeat_s = now_s, now_s + self._wiring.republish_s

    def _on_subscription(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(_SUBSCRIPTIONS_A_TURN):
                message = self._socket.recv(zmq.NOBLOCK)
                if message == _SUBSCRIBED:
                    self.subscribers += 1
                    self.bytes_out += len(self._frame or b"")  # libzmq has sent it the welcome message
                    if self._wiring.clock() - self._new_s < _JOIN_GAP_S:
                        self._repeat_s = min(self._repeat_s, self._sent_s + _JOIN_REPEAT_S)
                elif message == _UNSUBSCRIBED:
                    self.subscribers -= 1

    def _on_monitor(self) -> None:
        for event, _ in read_monitor(self._monitor):
            # HANDSHAKE_FAILED_AUTH only repeats that a key was refused, and does not name the key.
            if event != zmq.Event.HANDSHAKE_FAILED_AUTH and event in HANDSHAKE_FAILED:
                reason = "no CURVE, or not meant for this node's key"
                if self._authenticator is None:
                    reason = "not a plain connection, and this node is insecure"
                self._wiring.report("handshake_refused", reason=reason)


def _answer(authenticator: Authenticator) -> None:
    question = authenticator.zap_socket.recv_multipart()
    # A coroutine by its signature only: with a callback that answers at once it never waits.
    with contextlib.suppress(StopIteration):
        authenticator.handle_zap_message(question).send(None)
