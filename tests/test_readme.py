"""What the README says is so."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.answers import ASKED, answers
from eval.statistics import Estimate, Interval
from eval.table import Comparison, StudyTable, VariantTable

ROOT = Path(__file__).parent.parent
UNUSED = ("arms", "errors", "spreads", "floors", "scores", "targets", "collapsed", "unlike")


def test_the_tables_of_the_readme_hold_what_the_results_say() -> None:
    """Nobody types a figure in."""
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_of_errors_is_what_the_code_says() -> None:
    """Every line of error that a user can cause, with its mend."""
    command = [sys.executable, "docs/errors.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_file_that_the_documents_point_to_is_there() -> None:
    """Links between our own files."""
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"


def test_a_page_shows_the_chosen_sections_of_each_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order asked for, under the variant's name where there are several; links are as seen from docs/."""
    path = tmp_path / "rings" / "table.md"
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "make study STUDY=rings" in tables.study("rings", "Generated")
    path.parent.mkdir()
    body = "### Error in %\n\nerrors\n\n### Generated images\n\n{0} images\n\n### Comparisons, paired\n\n{0} pairs\n\n![KID](kid.{0}.svg)\n"
    variants = "\n".join(f"## {name}\n\n{body.format(name)}" for name in ("iid", "skewed"))
    path.write_text(f"# rings\n\nTwo cells.\n\n{variants}\n### Where the figures come from\n\ncode\n")

    def shown(name: str) -> list[str]:
        pairs = ["**Comparisons, paired**", f"{name} pairs", f"![KID](../results/rings/kid.{name}.svg)"]
        return [*pairs, "**Generated images**", f"{name} images"]

    words = tables.study("rings", "Comparisons", "Generated").split("\n\n")
    assert words == [
        "Two cells.",
        *("**iid**", *shown("iid")),
        *("**skewed**", *shown("skewed")),
        "All of it: [results/rings/table.md](../results/rings/table.md).",
    ]


def test_the_answers_are_bold_where_both_intervals_tell_them_from_0(tmp_path: Path) -> None:
    """A change without an interval is never bold, nor one that the bootstrap's alone tells from 0."""
    sure, unsure = Interval(-40.0, -20.0), Interval(-70.0, 10.0)
    changes = {
        "linear": Estimate(-0.5, None, None, (3,), (1,), 1),
        "rbf": Estimate(-30.0, sure, unsure, (3, 4), (1,), 2),
        "kid": Estimate(-30.0, sure, sure, (3, 4), (1,), 2),
    }
    found = tuple(
        Comparison("uniform", "alone", name, 1.0, 1.5, each, None) for name, each in changes.items()
    )
    variant = VariantTable("all", (), comparable=False, comparisons=found, **dict.fromkeys(UNUSED, ()))
    (tmp_path / "table1").mkdir()
    table = StudyTable("table1", "", (variant,), (), (), {}, 0)
    (tmp_path / "table1" / "table.json").write_text(json.dumps(dataclasses.asdict(table)))
    rows = answers(tmp_path).splitlines()
    cells = ["-0.50 (one seed)", "-30.00 [-70.00, +10.00] (2)", "**-30.0 [-40.0, -20.0] (2)**", ""]
    assert f"| table1 | uniform - alone | {' | '.join(cells)} |" in rows
    measured = [row for row in rows if row.startswith("| table1")]
    assert len(measured) == len(ASKED["table1"])
    assert sum("not measured yet" in row for row in rows) == len(measured) - 1 + len(ASKED) - 1


def test_every_question_is_one_that_its_study_asks() -> None:
    """A pair that the study's file does not compare would stay unanswered."""
    for name, pairs in ASKED.items():
        study = tomllib.loads((ROOT / "examples" / "studies" / f"{name}.toml").read_text(encoding="utf-8"))
        assert {*pairs} <= {tuple(pair) for pair in study["comparisons"]}
