"""Places where a test ends a node or lets its disk refuse; nothing happens unless DGAN_FAILPOINT names one.

`DGAN_FAILPOINT=tensors.half:kill` sends SIGKILL to the process as soon as it gets there, and
`DGAN_FAILPOINT=record.renamed:error:3` says "No space left on device" the third time, and only then.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

from topology.errors import InputError

VARIABLE = "DGAN_FAILPOINT"
_passed: Counter[str] = Counter()


def reached(point: str) -> None:
    """Tells that this process is at `point`, such as `tensors.half`.

    Raises:
        OSError: The variable asks for it.
        InputError: The variable names this point, and no action that there is.
    """
    name, _, rest = os.environ.get(VARIABLE, "").partition(":")
    if name != point:
        return
    action, _, count = rest.partition(":")
    if action not in ("kill", "error") or not (count or "1").isdecimal():
        raise InputError(VARIABLE, f"{rest!r} is no action", "kill or error, and :N for the N-th time")
    _passed[point] += 1
    if _passed[point] != int(count or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"failpoint {point}")
