"""One neighbour's connection: a SUB socket that keeps the newest frame, its monitor, and its inbox.

    open --(refused, broken off, garbage, oversize, silent, flooded)--> closed, with back-off --(time is up)--> open

libzmq connects again by itself after an ordinary loss, and says so to the monitor. Every other end of a connection is
final for it, and is mended here by a fresh socket. It knows one numeric address: a name is looked up here, before a
socket is opened and while it finds nobody, and a socket whose name leads elsewhere by then is closed for a fresh one.
"""

from __future__ import annotations

import math
import socket as tcp
import struct
import sys
from dataclasses import dataclass

import zmq

from transport.errors import FloodError, LocalError, MalformedFrameError
from transport.inbox import QUARANTINE_S, Inbox, Refused
from transport.lookup import Lookup
from transport.sockets import HANDSHAKE_FAILED, Socket, Wiring, read_monitor
from transport.wire import Expected

_CURVE_OVERHEAD_BYTES = 33
_LOST_GRACE_S = 0.25  # libzmq tells at once whether it connects again
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.2, 3.0
_SILENT_REPUBLISHES = 3
_SLOWEST_BYTES_PER_S = 125_000  # 1 Mbit/s
_MIXED = "one end is insecure and the other is not"
# Fields of Linux' tcp_info: tcpi_last_data_recv, in milliseconds, and tcpi_bytes_received.
_LAST_DATA_RECEIVED, _BYTES_RECEIVED = struct.Struct("=52xI"), struct.Struct("=128xQ")
_WIRE_OVERHEAD_BYTES = _CURVE_OVERHEAD_BYTES + 9  # and ZMTP's own, for each frame
_TELLS_OF_CONNECTIONS = sys.platform == "linux"


@dataclass(frozen=True)
class Neighbor:
    """The other end of one edge.

    Attributes:
        id: Its node id.
        address: tcp:// endpoint of its publisher.
        public_key: Z85; what it proves itself with, in both directions.
        expected: What its frames must be.
    """

    id: int
    address: str
    public_key: str
    expected: Expected


@dataclass
class _Line:
    """One SUB socket while it is open; its times are the receiver's monotonic seconds."""

    socket: Socket
    monitor: Socket
    heard_s: float
    lost_s: float | None = None
    descriptor: int = -1
    received_bytes: int = 0
    searching: bool = False  # its last try to connect has failed, and the next one is not through


class Subscription:
    """The SUB socket of one neighbour, which is built anew whenever it is beyond help, and its inbox.

    Args:
        wiring: What the link's sockets share.
        neighbor: Whom to listen to.

    Attributes:
        neighbor: Whom it listens to.
        inbox: What judges the frames.
        bytes_in: Bytes of the frames received.
        rebuilds: How often the socket was closed to be opened anew.
        connected: A connection stands, and both ends have proved who they are.

    Raises:
        LocalError: The neighbour's address or key is none.
    """

    def __init__(self, wiring: Wiring, neighbor: Neighbor) -> None:
        self.neighbor = neighbor
        self.inbox = Inbox(neighbor.expected)
        self.bytes_in = self.rebuilds = 0
        self.connected = False
        self._wiring = wiring
        self._patience_s = _SILENT_REPUBLISHES * wiring.republish_s
        if not _TELLS_OF_CONNECTIONS:
            # A large frame may take longer on a slow line, and nothing would tell that it is under way.
            slowest_s = neighbor.expected.max_frame_bytes / _SLOWEST_BYTES_PER_S
            self._patience_s = max(self._patience_s, slowest_s)
        self._backoff_s = _FIRST_BACKOFF_S
        self._reopen_s = -math.inf
        self._last_reason: str | None = None
        self._last_error: str | None = None
        self._endpoint: str | None = None  # the last one opened
        self._line: _Line | None = None
        try:
            self._lookup = Lookup(neighbor.address, wiring.resolve, wiring.wake)
            self._socket().close()  # a key that is none is told of now, and not once the name has an address
            self.tick(wiring.clock())
        except (ValueError, zmq.ZMQError) as error:
            where = f"cannot connect to node {neighbor.id} at {neighbor.address!r}"
            mend = "tcp://HOST:PORT and a public key of 40 characters are right"
            raise LocalError(f"{where}: {error}; {mend}") from None

    def tick(self, now_s: float) -> float:
        """Looks up, opens or gives up what is due, and returns when something may be due again."""
        answered = self._look_up(now_s)
        line, endpoint = self._line, self._lookup.after(self._endpoint)
        if line is None:
            if now_s < self._reopen_s:
                return self._reopen_s
            if endpoint is None:
                return self._lookup.due_s
            line = self._line = self._open(endpoint)
        elif line.searching and answered and endpoint != self._endpoint:
            return self._rebuild("its name leads to another address", wait_s=0.0)
        if line.lost_s is not None and now_s - line.lost_s >= _LOST_GRACE_S:
            return self._rebuild("ended: oversize frame or garbage")
        # Without a connection there is nothing to hear: libzmq tries again, and a fresh socket would only do so later.
        connected = line.descriptor >= 0
        if connected and now_s - line.heard_s >= self._patience_s:
            # An unfinished frame is no silence.
            line.heard_s = max(line.heard_s, now_s - _data_age_s(line.descriptor))
            if now_s - line.heard_s >= self._patience_s:
                return self._rebuild(f"silent for {self._patience_s:g} s")
        lost_due_s = math.inf if line.lost_s is None else line.lost_s + _LOST_GRACE_S
        lookup_due_s = self._lookup.due_s if line.searching else math.inf
        silent_due_s = line.heard_s + self._patience_s if connected else math.inf
        return min(silent_due_s, lost_due_s, lookup_due_s)

    def close(self) -> None:
        """Closes the socket and its monitor."""
        self.connected = False
        if self._line is None:
            return
        self._line.socket.disable_monitor()
        for socket in (self._line.monitor, self._line.socket):
            self._wiring.reactor.remove(socket)
            socket.close()
        self._line = None

    def _look_up(self, now_s: float) -> bool:
        """Asks for the address unless a connection stands or may yet; returns whether there is a new answer."""
        if self._line is None or self._line.searching:
            self._lookup.ask(now_s)
        if not self._lookup.take():
            return False
        name, error = self._lookup.name, self._lookup.error
        if error and error != self._last_error:  # a lasting cause is told once
            self._wiring.report("name_unresolved", neighbor=self.neighbor.id, name=name, error=error)
        self._last_error = error
        self._on_monitor()  # a connection may stand by now, which no answer is to disturb
        return True

    def _socket(self) -> Socket:
        options: dict[int, int] = {
            zmq.CONFLATE: 1,
            zmq.MAXMSGSIZE: self.neighbor.expected.max_frame_bytes + _CURVE_OVERHEAD_BYTES,
            zmq.CONNECT_TIMEOUT: 3000,
            zmq.RECONNECT_IVL: 200,
            zmq.RECONNECT_IVL_MAX: 1000,
        }
        socket = self._wiring.socket(zmq.SUB, options)
        if self._wiring.keys is not None:
            socket.curve_serverkey = self.neighbor.public_key.encode()
        socket.subscribe(b"")
        return socket

    def _open(self, endpoint: str) -> _Line:
        socket = self._socket()
        monitor = socket.get_monitor_socket()
        socket.connect(endpoint)
        self._endpoint = endpoint
        line = _Line(socket, monitor, heard_s=self._wiring.clock())
        self._wiring.reactor.add(monitor, self._on_monitor)
        self._wiring.reactor.add(socket, lambda: self._on_frame(line))
        return line

    def _rebuild(self, reason: str, wait_s: float | None = None) -> float:
        """Closes the socket and returns when it is to be opened anew."""
        self.close()
        self.rebuilds += 1
        if wait_s is None:
            wait_s, self._backoff_s = self._backoff_s, min(2 * self._backoff_s, _LAST_BACKOFF_S)
        now_s = self._wiring.clock()
        self._lookup.ask(now_s)  # perhaps another node has the address now
        self._reopen_s = now_s + wait_s
        if reason != self._last_reason:  # a lasting cause is told once
            self._wiring.report("connection_rebuilt", neighbor=self.neighbor.id, reason=reason)
            self._last_reason = reason
        return self._reopen_s

    def _on_frame(self, line: _Line) -> None:
        try:
            frame = line.socket.recv(zmq.NOBLOCK, copy=False).buffer
        except zmq.Again:
            return
        now_s = line.heard_s = self._wiring.clock()
        self.bytes_in += len(frame)
        if line.socket.rcvmore:
            # Another look at this socket would end the process: libzmq asserts that the other parts are there,
            # and conflation has dropped them.
            self.inbox.refuse(MalformedFrameError(self.neighbor.id, "it has several parts"))
            self._report_refusal("MalformedFrameError")
            self._rebuild("sent a message of several parts")
            return
        verdict = self.inbox.offer(frame, now_s, self._arrived(line, len(frame)))
        if isinstance(verdict, Refused):
            self._report_refusal(type(verdict.error).__name__)
            if isinstance(verdict.error, FloodError):
                self._rebuild("flooded", wait_s=QUARANTINE_S)
        else:
            self._backoff_s, self._last_reason = _FIRST_BACKOFF_S, None
            self._wiring.deliver(self.neighbor.id, verdict.delivery)

    def _arrived(self, line: _Line, size_bytes: int) -> int:
        """Frames of this size that came since the last look: conflation keeps the last of them only."""
        before, line.received_bytes = line.received_bytes, _tcp_info(line.descriptor, _BYTES_RECEIVED) or 0
        return max(1, (line.received_bytes - before) // (size_bytes + _WIRE_OVERHEAD_BYTES))

    def _report_refusal(self, kind: str) -> None:
        self._wiring.report(
            "snapshot_refused", neighbor=self.neighbor.id, kind=kind, error=self.inbox.last_refusal
        )

    def _on_monitor(self) -> None:
        if self._line is None:
            return
        for event, value in read_monitor(self._line.monitor):
            if event in HANDSHAKE_FAILED:
                # libzmq would give up after some of these and hammer on after others.
                mixed = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
                self._rebuild(_MIXED if mixed else HANDSHAKE_FAILED[event])
                return
            if event == zmq.Event.CONNECTED:
                self._line.descriptor, self._line.searching = value, False
                self._line.received_bytes, self._line.heard_s = 0, self._wiring.clock()
            elif event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.connected = True
                self._wiring.report("connection_up", neighbor=self.neighbor.id)
            elif event == zmq.Event.DISCONNECTED:
                self.connected = False
                self._line.lost_s, self._line.descriptor = self._wiring.clock(), -1
                self._wiring.report("connection_lost", neighbor=self.neighbor.id)
            elif event == zmq.Event.CONNECT_RETRIED:
                self._line.lost_s, self._line.searching = None, True
                self._last_reason = None  # whatever spoke there is gone; what comes next is told again


def _data_age_s(descriptor: int) -> float:
    """Seconds since a connection brought any byte; infinite where that cannot be told."""
    age_ms = _tcp_info(descriptor, _LAST_DATA_RECEIVED)
    return math.inf if age_ms is None else age_ms / 1000


def _tcp_info(descriptor: int, field: struct.Struct) -> int | None:
    """What the kernel knows of a connection of libzmq's; None where that cannot be told."""
    if descriptor < 0 or not _TELLS_OF_CONNECTIONS:
        return None
    try:
        connection = tcp.socket(fileno=descriptor)
    except OSError:  # libzmq has closed it meanwhile
        return None
    try:
        info = connection.getsockopt(tcp.IPPROTO_TCP, tcp.TCP_INFO, field.size)
        return int(field.unpack(info)[0])
    except (OSError, struct.error):
        return None
    finally:
        connection.detach()  # it stays libzmq's
