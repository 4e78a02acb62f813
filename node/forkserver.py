"""Starts node processes that have their libraries loaded already: loads them once, and forks for each node.

    python -m node.forkserver DESCRIPTOR

DESCRIPTOR is a SOCK_SEQPACKET socket, and every message on it JSON. The first one says {"ready": true}, or {"error": "why"} where
the libraries do not load. A request is the list of words of `dgan-node`'s command line, with two descriptors: where the
node's output goes, and its lifeline. The answer is {"pid": 123}, or {"error": "why"} where the system refuses another
process. A node is no child of this process but of the launcher, which is the subreaper of all that it starts: it is forked
twice, and the process in between ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from node.exits import LIFELINE

_LONGEST_REQUEST = 1_000_000
_PR_SET_NAME = 15

Run = Callable[[], None]


def main() -> None:
    """Serves requests until the other end of the socket is closed."""
    door = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # who ignores it, as a parent may have, cannot wait for a child
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the launcher has gone
        try:
            import node.session  # noqa: F401, PLC0415 - what takes seconds to load; it may fail, which is told
            from node.__main__ import run  # noqa: PLC0415 - the same
        except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
            _say(door, error=f"{type(error).__name__}: {error}")
            return
        gc.collect()
        gc.freeze()  # what is loaded stays shared: collections would write into it
        _say(door, ready=True)
        _serve(door, run)


def _serve(door: socket.socket, run: Run) -> None:
    while True:
        request, descriptors, _, _ = socket.recv_fds(door, _LONGEST_REQUEST, 2)
        if not request:
            return
        try:
            pid = _fork_twice(json.loads(request), descriptors, door, run)
        except OSError as error:
            _say(door, error=str(error))
        else:
            _say(door, pid=pid)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _say(door: socket.socket, **message: object) -> None:
    door.send(json.dumps(message).encode())


def _fork_twice(words: Sequence[str], descriptors: Sequence[int], door: socket.socket, run: Run) -> int:
    """The process id of the new node, which has a session of its own by then.

    Raises:
        OSError: The system refuses another process.
    """
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb") as end:  # noqa: PTH123 - descriptors
        between = os.fork()
        if between == 0:
            try:
                if os.fork() == 0:
                    os.setsid()
                    end.write(str(os.getpid()).encode())
                    end.close()
                    pipe.close()
                    os.close(door.detach())
                    output, lifeline = descriptors
                    _become(words, output, lifeline, run)
            finally:
                os._exit(0)
        os.waitpid(between, 0)  # from now on the node is the launcher's child
        end.close()
        answer = pipe.read()
    if not answer:
        raise OSError("the system refuses another process")
    return int(answer)


def _become(words: Sequence[str], output: int, lifeline: int, run: Run) -> NoReturn:
    """Is `dgan-node` with these words from here on."""
    try:
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - for its descriptor
            os.dup2(nothing.fileno(), 0)
        for standard in (1, 2):
            os.dup2(output, standard)
        if output not in (1, 2):
            os.close(output)
        # The objects too: this process may have been started without any.
        sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115 - a descriptor, for good
        sys.stderr = open(  # noqa: SIM115 - the same
            2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
        )
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
    os._exit(0)  # without taking torch apart
