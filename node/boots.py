"""Numbers a node's starts, so that its neighbours can tell the snapshots of this start from those of an earlier one.

The number is one above every earlier one that is known, and at least the node's clock in milliseconds since 1970: so it
grows even where the folder that knew was deleted, put back from an older copy, or left behind on another machine.
Neighbours compare numbers and never look at a clock. A clock that was set back matters only together with such a loss:
then they refuse the node until its numbers have passed the old ones, or until they start anew themselves.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from node.files import write_atomically
from topology.errors import InputError

_FILE = "boot.json"
_MS = 1000


@dataclass(frozen=True)
class Start:
    """One start of a node.

    Attributes:
        boot: Its number, above that of every earlier start.
        starts: How often the node has started in this folder, this start included; for people.
    """

    boot: int
    starts: int


def read_start(directory: Path) -> Start:
    """The newest start in a node's folder; 0 and 0 before the first.

    Raises:
        InputError: boot.json cannot be read.
    """
    path = directory / _FILE
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {"boot": 0}
        return Start(int(found["boot"]), int(found.get("starts", 0)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            path, f"unreadable ({error})", 'an object such as {"boot": 7}, above every earlier start'
        ) from None


def next_start(directory: Path, saved_boot: int, now_s: float | None = None) -> Start:
    """Counts this start, on disk before the first publish: neighbours refuse snapshots of an earlier boot.

    Args:
        directory: The node's own.
        saved_boot: That of the checkpoint that the node goes on from; 0 where there is none.
        now_s: Unix time; asked of the system where it is None.

    Raises:
        InputError: boot.json cannot be read.
        OSError: The disk refuses; nothing was counted, or more than was used.
    """
    now_s = time.time() if now_s is None else now_s
    before = read_start(directory)
    start = Start(max(before.boot + 1, saved_boot + 1, int(now_s * _MS)), before.starts + 1)
    record = {"boot": start.boot, "starts": start.starts, "started_s": now_s}
    write_atomically(directory / _FILE, json.dumps(record).encode(), point="boot")
    return start
