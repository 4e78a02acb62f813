"""Node processes out of one that has loaded their libraries: torch alone takes more than a second and 100 MB a process.

Where the system has no such thing as a subreaper, which is everywhere but on Linux, nodes are started as any program is.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

AVAILABLE = sys.platform == "linux"
_PR_SET_CHILD_SUBREAPER = 36
_ANSWER_S = 60.0
_LONGEST_ANSWER = 32
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
            ended, status = os.waitpid(self.pid, os.WNOHANG)
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
    """The process that node processes are forked from, for the length of a `with` block; they may outlive it.

    It loads what it needs while the caller goes on: `start` waits for that.

    Args:
        environment: What its environment, and that of every node, has beyond this process' own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Self:
        # The nodes' parent ends at once: they become children of this process, which learns how they end.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def start(self, words: Sequence[str], *, output: int, lifeline: int) -> Forked:
        """A new node process.

        Args:
            words: Of `dgan-node`'s command line.
            output: Descriptor that its standard output and error go to.
            lifeline: Descriptor at whose end it stops.

        Raises:
            OSError: The system refuses another process, or the fork server has ended.
        """
        if self._process.poll() is not None:
            self._close()
            self._open()
        socket.send_fds(self._door, [json.dumps(words).encode()], [output, lifeline])
        answer = self._door.recv(_LONGEST_ANSWER)
        if not answer:
            raise OSError("what node processes are forked from has ended")
        if (pid := int(answer)) == 0:
            raise OSError("the system refuses another process")
        return Forked(pid)

    def _open(self) -> None:
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

    def _close(self) -> None:
        self._door.close()
        self._process.wait()
