"""Whoever is no honest node: listeners with any keys or none, publishers in a neighbour's place, and forged frames."""

from __future__ import annotations

import contextlib
import socket as tcp
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs
import numpy as np
import xxhash
import zmq
from numpy.typing import NDArray

from transport.keys import KeyPair, load_keys

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15 + 1 + 31)
"""What a ZMTP 3.1 peer with CURVE says first: signature, version, mechanism, not as a server, filler."""
_PREAMBLE = struct.Struct("<4sBBHIQ")
_ALIGNMENT_BYTES = 64
_PACE_S = 0.01
_PATIENCE_S = 3.0


def forge(frame: bytes, edit: Callable[[NDArray[np.float32]], None] = lambda _: None, **fields: Any) -> bytes:
    """A frame with other numbers and other header fields, whose lengths and digest are right again.

    Args:
        frame: One with a float32 payload.
        edit: Changes the payload's numbers in place.
        fields: Header keys and their new values.
    """
    magic, major, minor, flags, header_bytes, payload_bytes = _PREAMBLE.unpack_from(frame)
    header = msgpack.unpackb(frame[_PREAMBLE.size : _PREAMBLE.size + header_bytes])
    numbers = np.frombuffer(frame[-payload_bytes:], "<f4").copy()
    edit(numbers)
    payload = numbers.tobytes()
    packed = msgpack.packb(header | {"digest": xxhash.xxh3_128_digest(payload)} | fields)
    preamble = _PREAMBLE.pack(magic, major, minor, flags, len(packed), len(payload))
    padding = bytes(-(len(preamble) + len(packed)) % _ALIGNMENT_BYTES)
    return b"".join([preamble, packed, padding, payload])


def header_of(frame: bytes) -> dict[str, Any]:
    """The header of a frame."""
    header_bytes = _PREAMBLE.unpack_from(frame)[4]
    found: dict[str, Any] = msgpack.unpackb(frame[_PREAMBLE.size : _PREAMBLE.size + header_bytes])
    return found


def keys_of(run: Path, node: int) -> KeyPair:
    """A node's key pair, as a thief or the site itself has it."""
    return load_keys(run / "keys" / f"node-{node}.key")


class _Peer:
    """A socket with a context of its own, which holds a key pair or none."""

    def __init__(self, kind: int, keys: KeyPair | None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.linger = 0
        if keys is not None:
            self._socket.curve_publickey = keys.public.encode()
            self._socket.curve_secretkey = keys.secret.encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)


class Listener(_Peer):
    """A SUB socket that asks a publisher for everything, and keeps what it is given.

    Args:
        address: The publisher's.
        keys: Its own; None for none.
        server_key: What it takes for the publisher's public key.
    """

    def __init__(self, address: str, keys: KeyPair | None = None, server_key: str = "") -> None:
        super().__init__(zmq.SUB, keys)
        self._socket.rcvhwm = 0
        if keys is not None:
            self._socket.curve_serverkey = server_key.encode()
        self._socket.subscribe(b"")
        self._socket.connect(address)

    def frames(self) -> list[bytes]:
        """Whatever has arrived since the last call."""
        found: list[bytes] = []
        with contextlib.suppress(zmq.Again):
            while True:
                found.append(self._socket.recv(zmq.NOBLOCK))
        return found


class Liar(_Peer):
    """An XPUB socket that lets in whoever asks, and sends them anything.

    Args:
        address: Where to listen, such as a neighbour's.
        keys: Whose it pretends to be, or a thief's; None for no CURVE.
    """

    def __init__(self, address: str, keys: KeyPair | None) -> None:
        super().__init__(zmq.XPUB, keys)
        self._socket.sndhwm = 1000
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket.curve_server = keys is not None
        self._socket.bind(address)
        self.subscribers = self._newcomers = 0

    def heard_by(self, number: int = 1, within_s: float = 20.0) -> bool:
        """Waits until so many listen; False where they do not."""
        deadline_s = time.monotonic() + within_s
        self._count()
        while self.subscribers < number and time.monotonic() < deadline_s:
            self._socket.poll(50)
            self._count()
        return self.subscribers >= number

    def send(self, *parts: bytes) -> None:
        """Sends one message, of several parts if there are several, to whoever listens now."""
        self._count()
        self._socket.send_multipart(parts, copy=False)

    def send_to_newcomers(self, *parts: bytes) -> None:
        """Sends a message where somebody has come since the last one was sent."""
        self._count()
        if self._newcomers:
            self._newcomers = 0
            self.send(*parts)

    def flood(self, frames: Iterable[bytes], per_s: float, seconds: float) -> int:
        """Sends the frames round and round at a rate, and returns how many that were.

        Args:
            frames: What to send.
            per_s: Frames in a second.
            seconds: For how long.
        """
        queue, sent = deque(frames), 0
        began_s = time.monotonic()
        while (passed_s := time.monotonic() - began_s) < seconds:
            for _ in range(int(passed_s * per_s) - sent):
                self._socket.send(queue[0], copy=False)
                queue.rotate(-1)
                sent += 1
            self._count()
            time.sleep(_PACE_S)
        return sent

    def _count(self) -> None:
        with contextlib.suppress(zmq.Again):
            while message := self._socket.recv(zmq.NOBLOCK):
                came, went = message == b"\x01", message == b"\x00"
                self._newcomers += came
                self.subscribers += came - went


@contextlib.contextmanager
def connected(address: str) -> Iterator[tcp.socket]:
    """A plain connection to a tcp:// address of this machine."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with tcp.create_connection((host, int(port)), timeout=1) as connection:
        yield connection


def garbage(address: str, noise: bytes) -> None:
    """Sends noise instead of a greeting, and after one; the other end may close at any time."""
    for prefix in (b"", GREETING):
        with contextlib.suppress(OSError), connected(address) as connection:
            connection.sendall(prefix + noise)


@dataclass(frozen=True)
class Served:
    """What became of a connection.

    Attributes:
        seconds: How long it stood.
        cut_off: Whether the other end broke it before all was said, or was silent for long.
    """

    seconds: float
    cut_off: bool


@contextlib.contextmanager
def serving(address: str, serve: Callable[[tcp.socket], None]) -> Iterator[list[Served]]:
    """A plain server that treats each connection with `serve`, one after another; yields what became of each."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    done: list[Served] = []
    stop = threading.Event()

    def run(server: tcp.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                began_s, cut_off = time.monotonic(), False
                with connection:
                    connection.settimeout(_PATIENCE_S)
                    try:
                        serve(connection)
                    except OSError:
                        cut_off = True
                done.append(Served(time.monotonic() - began_s, cut_off))

    with tcp.create_server((host, int(port))) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=run, args=(server,), name="serving", daemon=True)
        thread.start()
        try:
            yield done
        finally:
            stop.set()
            thread.join()


def answer(data: bytes) -> Callable[[tcp.socket], None]:
    """For `serving`: says this, and listens until the other end closes or has been silent for a while."""

    def serve(connection: tcp.socket) -> None:
        connection.sendall(data)
        while connection.recv(4096):
            pass

    return serve


def endless_message(part_bytes: int, limit_bytes: int) -> Callable[[tcp.socket], None]:
    """For `serving`: an insecure publisher whose one message has part after part, until the other end closes."""

    def serve(connection: tcp.socket) -> None:
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\x05READY\x0bSocket-Type" + (4).to_bytes(4) + b"XPUB"
        connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
        connection.recv(4096)
        part = b"\x03" + part_bytes.to_bytes(8) + bytes(part_bytes)  # long, and more will follow
        for _ in range(limit_bytes // part_bytes):
            connection.sendall(part)

    return serve
