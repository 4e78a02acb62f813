"""Node processes out of one that has loaded their libraries: torch alone takes more than a second and 100 MB a process.

Where the system knows no subreapers, which is everywhere but on Linux, nodes are started as any program is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from node.exits import EXIT_FAILURE

_PR_SET_CHILD_SUBREAPER = 36
_ANSWER_S = 60.0
_LONGEST_ANSWER = 10_000
_POLL_S = 0.01


class Forked:
    """A node process, as far as subprocess.Popen is one too.

    Args:
        pid: Its process id; it is a child of this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit status, that of a signal negative; None while it runs."""
        if self._code is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                self._code = EXIT_FAILURE
            else:
                self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not, within as many seconds.
        """
        began_s = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began_s >= timeout:
                raise subprocess.TimeoutExpired("dgan-node", timeout)
            time.sleep(_POLL_S)
        return code

    def terminate(self) -> None:
        """Asks it to save and stop."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class ForkServer:
    """The process that node processes are forked from. It loads what it needs while the caller goes on.

    Args:
        environment: What its environment, and that of every node, has beyond this process' own.
    """

    _door: socket.socket
    _process: subprocess.Popen[bytes]
    _loading: bool
    _error: str | None

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self._open()

    def is_ready(self) -> bool:
        """Whether `start` would answer at once, be it with an error; never waits."""
        if self._loading and select.select([self._door], [], [], 0)[0]:
            self._error = self._receive().get("error")
            self._loading = False
        return not self._loading

    def start(self, words: Sequence[str], *, output: int, lifeline: int) -> Forked:
        """A new node process, once the server is ready.

        Args:
            words: Of `dgan-node`'s command line.
            output: Descriptor that its standard output and error go to.
            lifeline: Descriptor at whose end it stops.

        Raises:
            OSError: The system refuses another process, or the server could not load or has ended; the next call finds
                a fresh one.
        """
        while not self.is_ready():
            select.select([self._door], [], [], _ANSWER_S)
        if self._error is None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._door, [json.dumps(words).encode()], [output, lifeline])
            answer = self._receive()
            if "pid" in answer:
                return Forked(int(answer["pid"]))
            self._error = answer["error"]
        error = self._error
        # An answer that comes too late must not be taken for the next one's.
        self.close()
        self._open()
        raise OSError(error)

    def close(self) -> None:
        """Ends it; the nodes go on."""
        self._door.close()
        self._process.kill()
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        try:
            message = self._door.recv(_LONGEST_ANSWER)
        except OSError as error:
            return {"error": f"what nodes are forked from does not answer: {error}"}
        if not message:
            return {"error": "what nodes are forked from has ended"}
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _open(self) -> None:
        self._loading, self._error = True, None
        self._door, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.settimeout(_ANSWER_S)
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - this project's own module
                [sys.executable, "-m", "node.forkserver", str(far.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(far.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone
            )


@contextlib.contextmanager
def fork_server(environment: Mapping[str, str]) -> Iterator[ForkServer | None]:
    """One for the length of the block, in the main thread; None where the system has no subreapers."""
    if sys.platform != "linux":
        yield None
        return
    # A node's parent ends at once: nodes become children of this process, which learns how they end.
    adopt = ctypes.CDLL(None).prctl
    if adopt(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        yield None
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it cannot wait for a child
    server = ForkServer(environment)
    try:
        yield server
    finally:
        server.close()
        signal.signal(signal.SIGCHLD, before)
        adopt(_PR_SET_CHILD_SUBREAPER, 0)
