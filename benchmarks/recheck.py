"""Whether a study's cells, made again, find what the stored ones found: bit for bit on the same type of machine.

    python -m benchmarks.recheck STORED_STUDY_DIR FRESH_STUDY_DIR

Compared are the errors and scores of every cell of the fresh study that is stored too. Exit status: 0 all is equal, or was made
on another type of machine or by another torch, which rounds otherwise, and is only shown; 1 something differs that should not,
or there is nothing to compare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.prepare import first_difference
from node.config import validated
from topology.errors import InputError

_NUMBERS = ("probe", "quality")
_NAMES = {"run_id", "data_set"}  # the one ends at random, the other is perhaps a folder's


def main(stored: Path, fresh: Path) -> int:
    """Compares the cells that both have; prints a line for each."""
    files = [
        file for file in sorted((fresh / "cells").glob("*.json")) if (stored / "cells" / file.name).exists()
    ]
    if not files:
        print(f"{stored / 'cells'} and {fresh / 'cells'} hold no cell in common")
    status = 0 if files else 1
    for file in files:
        before, now = (json.loads((each / "cells" / file.name).read_bytes()) for each in (stored, fresh))
        words, is_wrong = verdict(before, now)
        print(f"{file.stem}: {words}; made by `{before['command']}`")
        status = max(status, int(is_wrong))
    return status


def verdict(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, bool]:
    """What two files of one cell show, and whether that is wrong."""
    there, here = ({name: each.get(name) for name in ("graph", "settings")} for each in (before, now))
    try:
        difference = first_difference(Path("settings"), there, here, validated)
    except InputError as error:
        return f"of another version: {error}", True
    if difference:
        return "made otherwise: {} was {} and is {} now".format(*difference), True
    odd = list(differences({key: before[key] for key in _NUMBERS}, {key: now[key] for key in _NUMBERS}))
    if not odd:
        return "every figure is the same", False
    types = [
        {
            **{key: value for key, value in cell["machine"].items() if key != "cores"},
            "torch": cell["versions"]["torch"],
        }
        for cell in (before, now)
    ]
    told = f"{len(odd)} of the figures differ, such as {odd[0]}"
    if types[0] != types[1]:
        return (
            f"made on another type of machine or by another torch, {types[0]} and {types[1]}: {told}",
            False,
        )
    return told, True


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Each leaf of two nested JSON values that is not the same in both."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted((before.keys() | now.keys()) - _NAMES):
            yield from differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif before != now:
        yield f"{where}: {before} and {now}"


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
