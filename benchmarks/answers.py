"""What the studies answer, in one table: whether cooperation pays, against which control, and how sure that is.

Made of the comparisons in each study's `table.json` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eval.columns import markdown
from eval.results import read_json
from eval.table import TABLE_FILE, StudyTable, VariantTable
from eval.table_text import FIGURES, change_text

_SHOWN = ("chosen", "linear", "rbf", "kid", "fid", "neighbors_covered")
_COMPARED = (
    "chosen",
    "pooled",
    "joined_pooled",
    "spread",
    "kid",
    "fid",
    "coverage",
    "recall",
    "own_covered",
    "neighbors_covered",
)
MISSING = "not measured yet"
_COOPERATION = (("uniform", "alone-matched"), ("eq6", "alone-matched"), ("eq6", "uniform"))
_GOSSIP = (("gossip", "alone-matched"), ("gossip", "uniform"))
_TERRITORIES = (
    ("territories", "preset-alone-matched"),
    ("territories", "alone-matched"),
    ("territories", "uniform"),
)
ASKED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "table1": (
        ("uniform", "alone"),
        ("info-gain", "alone"),
        ("alone-matched", "alone"),
        ("uniform", "alone-matched"),
        ("info-gain", "alone-matched"),
        ("info-gain", "uniform"),
    ),
    "averaged": (("uniform", "alone-matched"), ("info-gain", "alone-matched"), ("info-gain", "uniform")),
    "best": (*_COOPERATION, *_GOSSIP),
    "few": (*_COOPERATION, *_GOSSIP),
    "finalists": (*_COOPERATION, *_TERRITORIES),
}
"""Study -> the pairs of its arms that answer something, ours first."""


def answers(results: Path) -> str:
    """A row for each pair: how much ours lies above theirs, bold where both of the intervals exclude 0.

    Args:
        results: The folder of the studies.
    """
    rows = [["study", "pair", *(FIGURES[figure][0] for figure in _SHOWN)]]
    for name, pairs in ASKED.items():
        table = read_table(results, name)
        for variant in table.variants if table else ():
            study = name if variant.variant == "all" else f"{name}, {variant.variant}"
            rows += [[study, *row] for row in _changes(variant, pairs, _SHOWN)]
        if table is None:
            rows.append([name, MISSING, *[""] * len(_SHOWN)])
    return markdown(rows)


def compared(variant: VariantTable) -> str:
    """A row for each pair of a study that was measured, as in `answers`."""
    pairs = dict.fromkeys((each.ours, each.theirs) for each in variant.comparisons)
    there = {each.figure for each in variant.comparisons}
    figures = [figure for figure in _COMPARED if figure in there]
    return markdown(
        [["pair", *(FIGURES[figure][0] for figure in figures)], *_changes(variant, pairs, figures)]
    )


def read_table(results: Path, study: str) -> StudyTable | None:
    """A study's table.json; None where it has none yet."""
    return read_json(results / study / TABLE_FILE, StudyTable, "dgan-eval table")


def _changes(
    variant: VariantTable, pairs: Iterable[tuple[str, str]], figures: Sequence[str]
) -> list[list[str]]:
    """Each pair, and its change in each figure."""
    found = {(each.ours, each.theirs, each.figure): each for each in variant.comparisons}
    rows = []
    for ours, theirs in pairs:
        changes = [found.get((ours, theirs, figure)) for figure in figures]
        told = [change_text(each) if each else "" for each in changes]
        rows.append([f"{ours} - {theirs}", *(told if any(changes) else [MISSING, *told[1:]])])
    return rows
