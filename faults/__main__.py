"""Does to real nodes what docs/reliability.md says they survive, and writes what came of it.

    python -m faults [--rows 1,5,20] [--quick] [--seed N] [--soak-s S] [--jobs N] [--folder DIR] [--output results/faults.json]

Ends with status 1 where a row did not pass. The folder keeps the logs of every row, from which all figures are read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.provenance import ROOT, commit
from faults.table import ROWS
from faults.verdicts import Row, Setting, as_json, observation
from node.files import write_json


def main() -> None:
    """Runs, prints and writes the rows."""
    options = _options()
    wanted = [row for row in ROWS if row.number in options.rows and (row.quick or not options.quick)]
    print(f"seed {options.seed}", flush=True)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done, origin = [], {"seed": options.seed, "commit": commit()}

    def do(row: Row) -> dict[str, Any]:
        folder = options.folder / f"row-{row.number:02d}"
        return record(row, Setting(folder, options.quick, options.seed, options.soak_s)) | origin

    with ThreadPoolExecutor(options.jobs) as pool:
        for future in as_completed(pool.submit(do, row) for row in wanted):
            done.append(future.result())
            print(lines(done[-1]), flush=True)
            # After each row: what was done in an hour is not lost with what is yet to come.
            save(options.output, _words(options), done)
    passed, skipped = (sum(bool(row.get(key)) for row in done) for key in ("passed", "skipped"))
    print(f"{passed} of {len(done)} rows passed, {skipped} skipped; {options.output}")
    sys.exit(passed + skipped < len(done))


def record(row: Row, setting: Setting) -> dict[str, Any]:
    """Does one row."""
    began_s = time.monotonic()
    if missing := row.needs():
        return {"row": row.number, "fault": row.fault, "injected": row.injected, "skipped": missing}
    setting.folder.mkdir(parents=True)
    try:
        return as_json(row, row.run(setting), time.monotonic() - began_s)
    except Exception:  # noqa: BLE001 - the other rows are done all the same
        return as_json(row, [], time.monotonic() - began_s) | {"error": traceback.format_exc()}


def save(output: Path, command: str, done: list[dict[str, Any]]) -> None:
    """Puts rows into a file of results; other rows that it holds stay."""
    try:
        before = json.loads(output.read_bytes())["rows"]
    except FileNotFoundError:
        before = []
    rows = {row["row"]: row for row in [*before, *done]}
    result = {
        "command": command,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "rows": [rows[number] for number in sorted(rows)],
    }
    write_json(output, result)


def lines(done: dict[str, Any]) -> str:
    """A row as it is printed."""
    head = f"{done['row']:2d} {done['fault']}: "
    if "skipped" in done:
        return f"{head}SKIPPED, {done['skipped']}"
    word = "pass" if done["passed"] else "FAIL"
    seen = [f"     {'' if each['passed'] else 'FAIL '}{observation(each)}" for each in done["observed"]]
    return "\n".join(
        [f"{head}{word} in {done['seconds']:.0f} s", f"     {done['injected']}", *seen, done.get("error", "")]
    ).rstrip()


def _words(options: argparse.Namespace) -> str:
    """The command that does this again."""
    all_of_them = options.rows == [row.number for row in ROWS]
    rows = "" if all_of_them else f"ROWS={','.join(map(str, options.rows))} "
    return f"make faults {rows}SEED={options.seed} SOAK_S={options.soak_s:g} JOBS={options.jobs}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = [row.number for row in ROWS]
    parser.add_argument(
        "--rows",
        type=lambda text: [int(n) for n in text.split(",")],
        default=numbers,
        help="numbers, with commas",
    )
    parser.add_argument("--quick", action="store_true", help="the selection of a few minutes")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of all choices"
    )
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--soak-s", type=float, default=120.0, help="length of the soak in seconds")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "runs" / "faults", help="for the logs; emptied first"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "faults.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
