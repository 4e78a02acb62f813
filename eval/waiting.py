"""Waits for the nodes of a run to be done: finished, as their own status says, and not merely stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval.collect import standing

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


def _line(left: Mapping[int, str]) -> str:
    by_state: dict[str, list[str]] = {}
    for node_id, state in left.items():
        by_state.setdefault(state, []).append(str(node_id))
    groups = [f"{', '.join(ids)} ({state})" for state, ids in by_state.items()]
    return f"not finished: {'; '.join(groups)}"
