"""What the README says is so."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.answers import ASKED, answers
from benchmarks.goals import COOPERATIVE, GOALS, goals
from eval.statistics import Estimate, Interval
from eval.table import (
    ArmSummary,
    Comparison,
    ErrorRow,
    Origin,
    ScoreRow,
    StudyTable,
    Target,
    VariantTable,
)
from launcher.study import read_study

ROOT = Path(__file__).parent.parent
PARTS = ("arms", "errors", "spreads", "floors", "scores", "comparisons", "targets", "collapsed", "unlike")


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
    """In the order asked for, under the variant's name where several are measured; a row for each pair; links are as seen from docs/."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "make study STUDY=rings" in tables.study("rings", "Generated")
    kid = Estimate(-30.0, None, None, (3,), (1,), 1)
    parts = {
        "scores": (ScoreRow("uniform", "kid", (), Estimate(1.0, None, None, (3,), (1,), 1)),),
        "comparisons": (Comparison("uniform", "alone", "kid", 1.0, 1.5, kid, None),),
    }
    write_table(tmp_path, "rings", {"iid": parts, "skewed": parts, "begun": {}})
    body = "### Comparisons, paired\n\nrows\n\n### Generated images\n\n{0} images\n\n![KID](kid.{0}.svg)\n"
    variants = "\n".join(f"## {name}\n\n{body.format(name)}" for name in ("iid", "skewed", "begun"))
    text = f"# rings\n\nTwo cells.\n\n{variants}\n### Where the figures come from\n\ncode\n"
    (tmp_path / "rings" / "table.md").write_text(text)

    def shown(name: str) -> list[str]:
        images = [f"**{name}**", "**Generated images**", f"{name} images"]
        return [*images, f"![KID](../results/rings/kid.{name}.svg)", "**Comparisons, paired**", pairs]

    pairs = "| pair | KID, % of theirs |\n|---|---:|\n| uniform - alone | -30.0 (one seed) |"
    words = tables.study("rings", "Generated", "Comparisons").split("\n\n")
    assert [each for each in words if each != tables.COMPARED_NOTE] == [
        "Two cells.",
        *shown("iid"),
        *shown("skewed"),
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
    write_table(tmp_path, "table1", {"all": {"comparisons": found}})
    rows = answers(tmp_path).splitlines()
    cells = ["", "-0.50 (one seed)", "-30.00 [-70.00, +10.00] (2)", "**-30.0 [-40.0, -20.0] (2)**", "", ""]
    assert f"| table1 | uniform - alone | {' | '.join(cells)} |" in rows
    measured = [row for row in rows if row.startswith("| table1")]
    assert len(measured) == len(ASKED["table1"])
    assert sum("not measured yet" in row for row in rows) == len(measured) - 1 + len(ASKED) - 1


def write_table(results: Path, study: str, variants: Mapping[str, Mapping[str, Any]]) -> None:
    """A table.json of these variants, empty but for these parts of them."""
    filled = tuple(
        VariantTable(name, (), comparable=False, **{**dict.fromkeys(PARTS, ()), **parts})
        for name, parts in variants.items()
    )
    table = StudyTable(study, "", filled, (), (Origin({}, {}, ("a cell",), 5.0),), {}, 0)
    (results / study).mkdir()
    (results / study / "table.json").write_text(json.dumps(dataclasses.asdict(table)))


def test_a_goal_is_reached_where_all_of_the_interval_reaches_it(tmp_path: Path) -> None:
    """By the mean alone where only that does; a study that is missing is said to be."""
    near, far = Interval(-45.0, -15.0), Interval(-32.0, -28.0)
    kid = Comparison(
        "gossip", "alone-matched", "kid", 0.7, 1.0, Estimate(-30.0, near, near, (1, 2), (1,), 2), None
    )
    classes = ScoreRow("territories", "classes_covered", (), Estimate(4.5, None, None, (1,), (1,), 1))
    led = Comparison(
        "territories", "alone-matched", "kid", 0.7, 1.0, Estimate(-30.0, far, far, (1, 2), (1,), 2), None
    )
    write_table(tmp_path, "best", {"all": {"comparisons": (kid,)}})
    write_table(tmp_path, "finalists", {"all": {"scores": (classes,), "comparisons": (led,)}})
    found = [[cell.strip() for cell in row.split("|")[2:-1]] for row in goals(tmp_path).splitlines()[2:]]
    assert found == [
        *[["≤ 1.8", "not measured yet", ""]] * 3,
        *[["≤ 1.7", "not measured yet", ""]] * 3,
        *[["≤ -25", "not measured yet", ""]] * 2,
        ["≤ -25", "-30.0 [-45.0, -15.0] (2)", "the mean alone"],
        ["≥ 4", "4.50 (1)", "one seed does"],
        ["≤ -30", "-30.0 [-32.0, -28.0] (2)", "the mean alone"],
        ["0 of 75 or more", "0 of 0", "not yet so many"],
    ]


def test_what_the_page_asks_of_a_study_is_what_the_study_compares() -> None:
    """A pair that a study does not have would stay "not measured yet" for good."""
    some = Estimate(1.0, None, None, (1,), (1,), 1)
    for name in {*ASKED, *(goal.study for goal in GOALS), *COOPERATIVE}:
        study = read_study(ROOT / f"examples/studies/{name}.toml", data="mnist", base_port=20_000)
        arms = {cell.arm for cell in study.cells}
        assert set(ASKED.get(name, ())) <= set(study.comparisons), name
        assert set(COOPERATIVE.get(name, ())) <= arms, name
        full = VariantTable(
            "all",
            (),
            comparable=False,
            **dict.fromkeys(PARTS, ())
            | {
                "errors": tuple(
                    ErrorRow(arm, source, "pooled", "rbf", (), some)
                    for arm in arms
                    for source in ("discriminator", "neighborhood")
                ),
                "scores": tuple(ScoreRow(arm, "classes_covered", (), some) for arm in arms),
                "comparisons": tuple(
                    Comparison(*pair, "kid", 1.0, 1.0, some, None) for pair in study.comparisons
                ),
            },
        )
        assert all(goal.find(full) for goal in GOALS if goal.study == name), name


def test_the_goals_of_table_1_count_what_is_below(tmp_path: Path) -> None:
    """Each gap with its interval, the time of all cells, and every node that cooperated."""
    gaps = [
        Estimate(value, None, Interval(value - 0.2, value + 0.2), (1, 2), (1,), 2) for value in (-0.5, -0.1)
    ]
    targets = tuple(
        Target("uniform", kernel, "paper", 3.0, 2.5, gap)
        for kernel, gap in zip(("linear", "rbf"), gaps, strict=True)
    )
    arms = tuple(
        ArmSummary(name, name, (1,), 80, collapsed, *(None,) * 6)
        for name, collapsed in (("alone", 3), ("uniform", 0), ("info-gain", 1))
    )
    write_table(tmp_path, "table1", {"all": {"targets": targets, "arms": arms}})
    first, hours, *_, nodes = goals(tmp_path).splitlines()[2:]
    assert "1 of 2 intervals; the highest -0.10 [-0.30, +0.10] (2) | no |" in first
    assert "| ≤ 4.5 | 5.0 | no |" in hours
    assert "| 1 of 160 | no |" in nodes


def test_every_question_is_one_that_its_study_asks() -> None:
    """A pair that the study's file does not compare would stay unanswered."""
    for name, pairs in ASKED.items():
        study = tomllib.loads((ROOT / "examples" / "studies" / f"{name}.toml").read_text(encoding="utf-8"))
        assert {*pairs} <= {tuple(pair) for pair in study["comparisons"]}
