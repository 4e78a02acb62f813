"""The numeric address behind a neighbour's name, looked up where a slow resolver holds up nobody.

libzmq would resolve a name itself, at each try to connect, on the one thread that carries all connections of a node: a
name that the resolver is slow about stalls every other neighbour, and the stop as well. So libzmq is given numbers only.
Each question is asked on a daemon thread of its own, which nobody waits for and which ends with its answer.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import re
import socket as tcp
import threading
from collections.abc import Callable, Sequence
from typing import Any

_AGAIN_S = 1.0  # from one question to the next
_SHAPE = re.compile(r"tcp://(\[.+\]|[^\[\]]+):([0-9]+)")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")

Resolve = Callable[..., Sequence[tuple[Any, Any, Any, Any, tuple[Any, ...]]]]
"""Called and answering as socket.getaddrinfo."""


class Lookup:
    """The endpoints behind one address. A host that is a number is its own answer, and no thread is started for it.

    Args:
        address: tcp://host:port.
        resolve: Called on a thread that it may block.
        wake: Called on that thread when there is an answer to be taken.

    Attributes:
        name: The host.
        error: Why the last question taken was not answered, or None if it was.
        due_s: When `ask` asks again; never while a question is open, or for a number.

    Raises:
        ValueError: The address is not of that form.
    """

    def __init__(self, address: str, resolve: Resolve, wake: Callable[[], None]) -> None:
        shape = _SHAPE.fullmatch(address)
        number = shape is not None and _is_number(shape[1])
        if shape is None or not (number or _NAME.fullmatch(shape[1])):
            raise ValueError(os.strerror(errno.EINVAL))
        self.name, self._port = shape[1], shape[2]
        self.error: str | None = None
        self._resolve, self._wake = resolve, wake
        self._asked_s = -math.inf
        # Set by the thread once, at its end. The next question waits until it is taken, so there are never two at once.
        self._answer: tuple[tuple[str, ...], str | None] | None = None
        self._endpoints: tuple[str, ...] = (address,) if number else ()
        self.due_s = math.inf if number else -math.inf

    def ask(self, now_s: float) -> None:
        """Asks for the addresses if that is due, and does not wait for the answer."""
        if now_s < self.due_s:
            return
        self._asked_s, self.due_s = now_s, math.inf
        try:
            threading.Thread(target=self._look_up, name=f"lookup-{self.name}", daemon=True).start()
        except RuntimeError as error:  # the system has no thread to give just now
            self._answer = (), str(error)

    def take(self) -> bool:
        """Takes in the answer, if there is a new one. One without addresses leaves the earlier ones in force."""
        if self._answer is None:
            return False
        endpoints, self.error = self._answer
        self._endpoints = endpoints or self._endpoints
        self._answer, self.due_s = None, self._asked_s + _AGAIN_S
        return True

    def after(self, endpoint: str | None) -> str | None:
        """The endpoint to try after this one, in the resolver's order and round again; None while none is known."""
        if not self._endpoints:
            return None
        following = self._endpoints.index(endpoint) + 1 if endpoint in self._endpoints else 0
        return self._endpoints[following % len(self._endpoints)]

    def _look_up(self) -> None:
        try:
            found = self._resolve(self.name, None, type=tcp.SOCK_STREAM)
            self._answer = tuple(dict.fromkeys(self._endpoint(*to) for *_, to in found)), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the name has no address, and this says why
            self._answer = (), getattr(error, "strerror", None) or repr(error)
        self._wake()

    def _endpoint(self, host: str, _port: int, _flow: int = 0, scope: int = 0) -> str:
        zone = f"%{scope}" if scope else ""
        return f"tcp://[{host}{zone}]:{self._port}" if ":" in host else f"tcp://{host}:{self._port}"


def _is_number(host: str) -> bool:
    """Whether libzmq takes the host for an IP address, and asks no resolver."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
