"""Whether the nodes of a folder are ready and alive, by their status.json: `python -m node.health nodes`.

For health checks of containers and services, which ask every few seconds: so the standard library alone, no start of
dgan-node. Exit status 0 with one line when every node in the folder is well; 1 with the reason when one is not.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.exits import EXIT_FAILURE, EXIT_INPUT, EXIT_OK

STALE_S = 60.0
"""A node at work writes its status about once a second, and rarer only when one cycle takes longer."""
_AT_WORK = ("training", "lingering")
_START_TICKS = 19  # field 22 of /proc/PID/stat, counted after the command's closing bracket


def ailment(status: Mapping[str, Any], now_s: float, process_age_s: float | None) -> str | None:
    """Why a node is not well, or None.

    Args:
        status: Its status.json.
        now_s: Wall time, as in the status.
        process_age_s: Age of the process that the status names; None where there is none. The status of an earlier
            process with the same number is older than that.
    """
    state, age_s = status.get("state"), now_s - float(status.get("updated_s", 0.0))
    if state not in _AT_WORK or not status.get("ready"):
        return f"{state}: {status['error']}" if status.get("error") else f"{state}, not at work"
    if process_age_s is None:
        return f"{state} at last, but its process is gone"
    if age_s > process_age_s:
        return "starting"
    return f"no sign of life for {age_s:.0f} s" if age_s > STALE_S else None


def main(arguments: list[str]) -> int:
    """Looks at every node in the folder given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m node.health DIRECTORY\n")
        return EXIT_INPUT
    files = sorted(Path(arguments[0]).glob("*/status.json"))
    found = {file.parent.name: _look(file) for file in files}
    lines = [f"node {name}: {reason or 'well'}" for name, reason in found.items()]
    sys.stdout.write("\n".join(lines or ["no node has started"]) + "\n")
    return EXIT_OK if found and not any(found.values()) else EXIT_FAILURE


def _look(file: Path) -> str | None:
    try:
        status = json.loads(file.read_bytes())
        return ailment(status, time.time(), _process_age_s(int(status["pid"])))
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"{file.name} cannot be read: {error!r}"


def _process_age_s(pid: int) -> float | None:
    """Seconds since a process began, None when it is gone; infinite where the system has no /proc to tell."""
    if not sys.platform.startswith("linux"):
        return float("inf")
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    began_s = int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
