"""benchmarks.branches: what the report of a coverage run comes to, and what is too little."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import branches


def report(transport: int, node: int) -> dict[str, Any]:
    """As `coverage json` writes it: of 100 branches each, those that were taken, in two files of transport."""
    taken = {"transport/link.py": transport - 10, "transport/wire.py": 10, "node/trainer.py": node}
    of = {"transport/link.py": 80, "transport/wire.py": 20, "node/trainer.py": 100}
    return {
        "files": {
            path: {
                "summary": {
                    "num_statements": 200,
                    "covered_lines": 150,
                    "num_branches": of[path],
                    "covered_branches": taken[path],
                    "percent_covered": 7.0,
                }
            }
            for path in taken
        }
    }


def test_branches_are_added_up_for_each_package_and_for_all() -> None:
    """Statements have no say in the percentage."""
    found = branches.summary(report(transport=96, node=80))
    assert list(found) == ["node", "transport", "all"]
    assert found["transport"] == {
        "statements": 400,
        "covered_statements": 300,
        "branches": 100,
        "covered_branches": 96,
        "percent": 96.0,
        "limit": 95.0,
    }
    assert (found["all"]["percent"], found["all"]["limit"], found["node"]["limit"]) == (88.0, 85.0, None)


@pytest.mark.parametrize(
    ("transport", "node", "line"),
    [
        (95, 75, ""),
        (94, 90, "transport 94.00%, 95% must be"),
        (96, 73, "all 84.50%, 85% must be"),
        (90, 20, "transport 90.00%, 95% must be; all 55.00%, 85% must be"),
    ],
)
def test_what_is_below_its_limit_is_named(transport: int, node: int, line: str) -> None:
    """At its limit it passes."""
    assert branches.shortfall(branches.summary(report(transport, node))) == line


@pytest.mark.parametrize(("taken", "ends"), [(94, "transport 94.00%, 95% must be"), (96, None)])
def test_too_little_is_status_1_and_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, ends: str | None
) -> None:
    """The summary tells what was measured, whether or not that is enough."""
    (tmp_path / "report.json").write_text(json.dumps(report(taken, node=100)), encoding="utf-8")
    words = ["branches.py", str(tmp_path / "report.json"), "--output", str(tmp_path / "coverage.json")]
    monkeypatch.setattr(sys, "argv", words)
    if ends is None:
        branches.main()
    else:
        with pytest.raises(SystemExit, match=f"too few branches are covered: {ends}"):
            branches.main()
    written = json.loads((tmp_path / "coverage.json").read_text(encoding="utf-8"))
    assert written["packages"]["transport"]["covered_branches"] == taken
    assert {"command", "python", "torch"} < written.keys()
