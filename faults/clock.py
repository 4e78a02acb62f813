"""A node whose clock is wrong: SIGUSR1 sets it a day ahead, SIGUSR2 a day back, and at the start DGAN_CLOCK_S says by how much.

`python -m faults.clock --id 3 --peers peers.toml`; the monotonic clock, as anywhere, goes on as it did.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time

DAY_S = 86_400.0
_true_time, _true_time_ns = time.time, time.time_ns
_ahead_s = float(os.environ.get("DGAN_CLOCK_S", "0"))


def _set(seconds: float) -> None:
    global _ahead_s  # noqa: PLW0603 - a process has one clock
    _ahead_s = seconds


time.time = lambda: _true_time() + _ahead_s
time.time_ns = lambda: _true_time_ns() + int(_ahead_s * 1e9)

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: _set(DAY_S))
    signal.signal(signal.SIGUSR2, lambda *_: _set(-DAY_S))
    sys.argv[0] = "dgan-node"
    runpy.run_module("node", run_name="__main__")
