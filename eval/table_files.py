"""Writes the table of a study: JSON, and from it Markdown and pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from eval.comparison import POLICIES, policy_name
from eval.plots import DotRow, Line, dot_plot, standalone
from eval.statistics import Estimate
from eval.table import HEADLINE, ErrorRow, ScoreRow, StudyTable, VariantTable
from eval.table_text import as_markdown
from node.files import write_atomically

MARKDOWN_FILE = "table.md"
_LINES = {("pixels", None, "chosen"): "raw pixels", ("untrained", "all", "chosen"): "untrained D"}


def write_table(table: StudyTable, directory: Path, output: Path) -> tuple[Path, ...]:
    """Writes the JSON to `output`, and table.md with its pictures into `directory`; older files are replaced.

    Returns:
        Every file written; nothing in them depends on the time or the place.

    Raises:
        OSError: A file cannot be written.
    """
    files = {output: json.dumps(dataclasses.asdict(table), indent=1) + "\n"}
    pictures: dict[tuple[str, str], tuple[str, str]] = {}
    for variant in table.variants:
        for kind, title, picture in _pictures(table, variant):
            name = f"{kind}.{variant.variant}.svg"
            files[directory / name] = picture
            pictures[variant.variant, kind] = (title, name)
    files[directory / MARKDOWN_FILE] = as_markdown(table, pictures)
    output.parent.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_atomically(path, text.encode())
    return tuple(files)


def _pictures(table: StudyTable, variant: VariantTable) -> list[tuple[str, str, str]]:
    """(kind, title, SVG) of each picture for which there are figures."""
    errors = [row for row in variant.errors if row.kind == HEADLINE]
    kids = [row for row in variant.scores if row.score == "kid" and row.arm]
    pictures = []
    if errors:
        paper = _paper(table) if variant.comparable else []
        dots = [_dots(variant, row) for row in errors]
        lines = [Line(_LINES[row.kind], row.overall.value) for row in variant.floors if row.kind in _LINES]
        picture = dot_plot([*dots, *paper], "error in %", lines)
        pictures.append(("errors", "Errors by arm", standalone(picture)))
    if kids:
        real = [row for row in variant.scores if row.score == "kid" and row.arm is None]
        lines = [Line("real images", row.overall.value) for row in real]
        picture = dot_plot([_dots(variant, row) for row in kids], "KID", lines)
        pictures.append(("kid", "KID by arm", standalone(picture)))
    return pictures


def _dots(variant: VariantTable, row: ErrorRow | ScoreRow) -> DotRow:
    policy = next(arm.policy for arm in variant.arms if arm.name == row.arm)
    return DotRow(
        label=f"{row.arm} ({len(row.overall.seeds)} seeds)",
        values=[node.value for node in row.nodes],
        colour=POLICIES.get(policy or "", ("", "ink"))[1],
        mean=row.overall.value,
        interval=_ends(row.overall),
    )


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    """Student's interval: the wider one where there are few seeds."""
    return (estimate.student.low, estimate.student.high) if estimate.student else None


def _paper(table: StudyTable) -> list[DotRow]:
    return [
        DotRow(f"paper: {policy_name(policy)[0]}", list(errors.values()), policy_name(policy)[1], hollow=True)
        for policy, errors in table.paper.items()
    ]
