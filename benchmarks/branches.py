"""Branch coverage of each package, from the report of `coverage json`, and whether it is as high as it must be.

    make coverage    # writes results/coverage.json and the table in CONTRIBUTING.md

Exit status 1 where fewer branches than the limit were taken, of `transport` or of everything together.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIMITS = {"transport": 95.0, "all": 85.0}
"""Least percentage of branches."""
COUNTS = {
    "statements": "num_statements",
    "covered_statements": "covered_lines",
    "branches": "num_branches",
    "covered_branches": "covered_branches",
}
"""Name here -> name in the report of `coverage json`."""


def main() -> None:
    """Writes the summary; ends with status 1 where it is too low."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="what `coverage json` wrote")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "coverage.json")
    options = parser.parse_args()
    packages = summary(json.loads(options.report.read_text(encoding="utf-8")))
    result = {
        "command": "make coverage",
        "python": platform.python_version(),
        "torch": version("torch"),
        "packages": packages,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, counts in packages.items():
        print(
            f"{name}: {counts['covered_branches']} of {counts['branches']} branches, {counts['percent']:.1f}%"
        )
    if missed := shortfall(packages):
        sys.exit(f"too few branches are covered: {missed}")


def summary(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Package, and `all` for all of them -> its counts, percentage of branches and limit, if it has one."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, file in report["files"].items():
        for name in (path.split("/")[0], "all"):
            counts[name].update({ours: file["summary"][theirs] for ours, theirs in COUNTS.items()})
    names = [*sorted(counts.keys() - {"all"}), "all"]
    return {
        name: {
            **counts[name],
            "percent": 100 * counts[name]["covered_branches"] / counts[name]["branches"],
            "limit": LIMITS.get(name),
        }
        for name in names
    }


def shortfall(packages: dict[str, dict[str, Any]]) -> str:
    """What is below its limit, in words; empty where nothing is."""
    return "; ".join(
        f"{name} {packages[name]['percent']:.2f}%, {limit:g}% must be"
        for name, limit in LIMITS.items()
        if packages[name]["percent"] < limit
    )


if __name__ == "__main__":
    main()
