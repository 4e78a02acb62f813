"""Numbers a node's starts, so that its neighbours can tell the snapshots of this start from those of an earlier one."""

from __future__ import annotations

import json
import time
from pathlib import Path

from node.files import write_atomically
from topology.errors import InputError


def next_boot(directory: Path, saved_boot: int) -> int:
    """Counts this start, on disk before the first publish: neighbours refuse snapshots of an earlier boot.

    Args:
        directory: The node's own.
        saved_boot: That of the checkpoint that the node goes on from; 0 where there is none.

    Raises:
        InputError: boot.json cannot be read.
        OSError: The disk refuses; nothing was counted, or more than was used.
    """
    path = directory / "boot.json"
    try:
        before = int(json.loads(path.read_bytes())["boot"]) if path.exists() else 0
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, f"unreadable ({error})", 'an object such as {"boot": 7}, above every earlier start'
        ) from None
    boot = max(before, saved_boot) + 1
    write_atomically(path, json.dumps({"boot": boot, "started_s": time.time()}).encode(), point="boot")
    return boot
