"""Starts node processes that have their libraries loaded already: loads them once, and forks for each node.

    python -m node.forkserver DESCRIPTOR

DESCRIPTOR is a SOCK_SEQPACKET socket. A request is a JSON list, the words of `dgan-node`'s command line, with two descriptors:
where the node's output goes, and its lifeline. The answer is the node's process id. A node is no child of this process but of the
launcher, which is the subreaper of all that it starts: it is forked twice, and the process in between ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import node.session  # noqa: F401 - what takes seconds to load, and is loaded here for all nodes
from node.__main__ import run
from node.exits import LIFELINE

_LONGEST_REQUEST = 1_000_000
_PR_SET_NAME = 15


def main() -> None:
    """Serves requests until the other end of the socket is closed."""
    door = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # what is loaded stays shared: collections would write into it
    while True:
        request, descriptors, _, _ = socket.recv_fds(door, _LONGEST_REQUEST, 2)
        if not request:
            return
        try:
            pid = _fork_twice(json.loads(request), descriptors, door)
            door.send(str(pid).encode())
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _fork_twice(words: Sequence[str], descriptors: Sequence[int], door: socket.socket) -> int:
    """The process id of the new node; 0 where the system refuses another process."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            child = os.fork()
            if child == 0:
                for descriptor in (reading, writing, door.detach()):
                    os.close(descriptor)
                _become(words, *descriptors)
            os.write(writing, str(child).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(between, 0)  # from now on the node is the launcher's child
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        return int(pipe.read() or 0)


def _become(words: Sequence[str], output: int, lifeline: int) -> NoReturn:
    """Is `dgan-node` with these words from here on, in a session of its own."""
    try:
        os.setsid()
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - for its descriptor
            os.dup2(nothing.fileno(), 0)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        os.environ[LIFELINE] = str(lifeline)
        sys.argv = ["dgan-node", *words]
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_NAME, b"dgan-node")
        run()
    except BaseException:  # noqa: BLE001 - nothing may return into the server's loop
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
