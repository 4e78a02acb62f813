"""What the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parent.parent


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
