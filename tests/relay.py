"""A TCP relay between a publisher and its subscribers that keeps every byte it passes on."""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType
from typing import Self


class Relay:
    """Listens on a port of its own, passes everything on to `target`, and records what the target sends back.

    Args:
        target: (host, port) of the publisher.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._lock = threading.Lock()
        self.streams: list[bytearray] = []

    @property
    def address(self) -> str:
        """Where subscribers connect."""
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener.settimeout(0.1)
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                subscriber, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._pass_on, args=(subscriber,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, subscriber: socket.socket) -> None:
        with subscriber:
            try:
                publisher = socket.create_connection(self._target, timeout=1)
            except OSError:
                return  # the publisher is not up yet; the subscriber tries again
            stream = bytearray()
            with self._lock:
                self.streams.append(stream)
            with publisher:
                try:
                    self._shovel(subscriber, publisher, stream)
                except OSError:
                    return  # either side went away

    def _shovel(self, subscriber: socket.socket, publisher: socket.socket, stream: bytearray) -> None:
        while not self._closing.is_set():
            ready, _, _ = select.select([subscriber, publisher], [], [], 0.1)
            for side in ready:
                data = side.recv(1 << 16)
                if not data:
                    return
                if side is publisher:
                    stream += data
                    subscriber.sendall(data)
                else:
                    publisher.sendall(data)
