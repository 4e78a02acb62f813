"""Waits for the nodes of a run to be done: finished, as their own status says, and not merely stopped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval.collect import standing
from topology.errors import InputError

POLL_S = 2.0


def wait(
    sources: Sequence[Path], tell: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Returns once every node has finished; a node that was stopped, failed or never started is waited for.

    Args:
        sources: As `eval.collect.standing` takes them.
        tell: Given a line whenever the nodes waited for, or what they are about, have changed.
        sleep: Waits so many seconds.

    Raises:
        InputError: As `eval.collect.standing`.
    """
    told = None
    while left := standing(sources).unfinished:
        line = _line(left)
        if line != told:
            tell(line)
            told = line
        sleep(POLL_S)


def check_writable(path: Path) -> None:
    """Refuses a place in which nothing can be made; leaves none of its tries behind.

    Raises:
        InputError: Names the nearest folder that is there.
    """
    folder = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise InputError(folder, problem, "a folder that belongs to the user who runs this") from None


def _line(left: Mapping[int, str]) -> str:
    by_state: dict[str, list[str]] = {}
    for node_id, state in left.items():
        by_state.setdefault(state, []).append(str(node_id))
    groups = [f"{', '.join(ids)} ({state})" for state, ids in by_state.items()]
    return f"not finished: {'; '.join(groups)}"
