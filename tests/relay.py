"""A TCP relay in front of a publisher, with the weather of a bad network: late, slow, sliced, silent, cut or changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_PIECE_BYTES = 1 << 16
_MOMENT_S = 0.03
_NO_LINGER = struct.pack("ii", 1, 0)  # a socket closed with it sends a reset


@dataclass(frozen=True)
class Weather:
    """What becomes of the bytes on their way; it may change while they travel.

    Attributes:
        delay_s: How late each piece arrives, in both directions.
        jitter_s: Each piece's delay is drawn from delay_s - jitter_s to delay_s + jitter_s; none overtakes another.
        slice_bytes: Longest piece that is written at once; 0 for any.
        bytes_per_s: Rate of what the publisher sends.
        flip_every_bytes: One bit is flipped in every so many bytes that the publisher sends; 0 for none.
        silent: Whether bytes are held back, though connections stand.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    slice_bytes: int = 0
    bytes_per_s: float = float("inf")
    flip_every_bytes: int = 0
    silent: bool = False


FINE = Weather()


class Relay:
    """Listens on a port of its own and passes everything on to `target`, through the weather of the moment.

    Args:
        target: tcp:// address of the publisher.
        port: Where to listen; 0 for any.
        record: Whether to keep what the publisher sends, in `streams`, one for each connection.
        seed: Of delays and flips.

    Attributes:
        weather: Of the moment; any thread may set it.
        connections: Connections that were made so far.
        flips: Bits that were flipped so far.
    """

    def __init__(self, target: str, *, port: int = 0, record: bool = False, seed: int = 0) -> None:
        host, _, target_port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(target_port))
        self._listener = socket.create_server(("127.0.0.1", port))
        self._record = record
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self.weather = FINE
        self.streams: list[bytearray] = []
        self.connections = self.flips = 0

    @property
    def address(self) -> str:
        """Where subscribers connect."""
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def seen(self) -> bytes:
        """All that the publisher sent, over every connection."""
        return b"".join(map(bytes, self.streams))

    def cut(self) -> None:
        """Resets every connection."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        ends = [near_out]
        try:
            # A publisher that is not up yet: the subscriber tries again.
            with contextlib.suppress(OSError):
                far_in, far_out = await asyncio.open_connection(*self._target)
                ends.append(far_out)
                self._writers.update(ends)
                self.connections += 1
                kept = bytearray() if self._record else None
                if kept is not None:
                    self.streams.append(kept)
                ways = [self._way(near_in, far_out), self._way(far_in, near_out, kept, from_publisher=True)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                _, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in others:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for writer in ends:
                writer.close()
                self._writers.discard(writer)

    async def _way(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        kept: bytearray | None = None,
        *,
        from_publisher: bool = False,
    ) -> None:
        """One direction of one connection, until an end of it is closed."""
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        arriving = asyncio.ensure_future(self._arrive(travelling, sink))
        due_s = 0.0
        try:
            while data := await source.read(self._piece_bytes(from_publisher=from_publisher)):
                weather = self.weather
                if from_publisher:
                    if kept is not None:
                        kept += data
                    data = self._flipped(data, weather.flip_every_bytes)
                    await asyncio.sleep(len(data) / weather.bytes_per_s)
                delay_s = max(0.0, weather.delay_s + self._random.uniform(-1, 1) * weather.jitter_s)
                due_s = max(due_s, self._loop.time() + delay_s)
                await travelling.put((due_s, data))
            await travelling.put((due_s, b""))
            await arriving
        except OSError:
            return  # one end went away
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    def _piece_bytes(self, *, from_publisher: bool) -> int:
        """As much as a slow line brings in a moment."""
        return (
            int(min(_PIECE_BYTES, max(1.0, self.weather.bytes_per_s * _MOMENT_S)))
            if from_publisher
            else _PIECE_BYTES
        )

    async def _arrive(
        self, travelling: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await travelling.get()
                if not data:
                    return
                await asyncio.sleep(due_s - self._loop.time())
                while self.weather.silent:  # noqa: ASYNC110 - set from another thread
                    await asyncio.sleep(0.02)
                size = self.weather.slice_bytes or len(data)
                for at in range(0, len(data), size):
                    sink.write(data[at : at + size])
                    await sink.drain()

    def _flipped(self, data: bytes, every_bytes: int) -> bytes:
        if not every_bytes:
            return data
        changed = bytearray(data)
        for at in range(len(changed)):
            if self._random.random() * every_bytes < 1:
                changed[at] ^= 1 << self._random.randrange(8)
                self.flips += 1
        return bytes(changed)
