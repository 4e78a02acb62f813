"""Whether something answers at an address: its name is looked up and one TCP connection made, and closed at once.

Who answers, and with which key, is not asked. Each address is tried on a daemon thread of its own, because a resolver
may block for longer than anybody cares to wait.
"""

from __future__ import annotations

import queue
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

Connect = Callable[..., AbstractContextManager[object]]
"""Called as socket.create_connection."""


def reach(
    addresses: Iterable[str], timeout_s: float, connect: Connect = tcp.create_connection
) -> dict[str, str | None]:
    """Tries all addresses at once.

    Args:
        addresses: tcp://host:port each.
        timeout_s: Time for all of them together, names included.
        connect: Opens a connection, on a thread that it may block.

    Returns:
        For each address None where something answers, else why not, in a few words.
    """
    silent = f"no answer within {timeout_s:g} s"
    found: dict[str, str | None] = dict.fromkeys(addresses, silent)
    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

    def attempt(address: str) -> None:
        answers.put((address, _fault(address, timeout_s, silent, connect)))

    for address in found:
        threading.Thread(target=attempt, args=(address,), name=f"reach-{address}", daemon=True).start()
    deadline_s = time.monotonic() + timeout_s
    for _ in range(len(found)):
        try:
            address, fault = answers.get(timeout=max(deadline_s - time.monotonic(), 0.0))
        except queue.Empty:
            break
        found[address] = fault
    return found


def _fault(address: str, timeout_s: float, silent: str, connect: Connect) -> str | None:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with connect((host.strip("[]"), int(port)), timeout=timeout_s):
            return None
    except tcp.gaierror as error:
        return f"the name has no address: {error.strerror}"
    except TimeoutError:
        return silent
    except (OSError, ValueError) as error:  # ValueError: a name that no encoding fits
        return getattr(error, "strerror", None) or str(error)
