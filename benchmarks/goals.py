"""What was aimed at before the first study was run, and how far it was reached, in one table.

Made of each study's `table.json` alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.answers import MISSING, read_table
from eval.columns import markdown
from eval.statistics import Estimate
from eval.table import StudyTable, VariantTable
from eval.table_text import estimate_text

Find: TypeAlias = Callable[[VariantTable], Estimate | None]


@dataclass(frozen=True)
class Goal:
    """A figure of a study, and what it is to reach.

    Attributes:
        what: In words.
        study: Its name.
        find: The figure, of the study's first variant; None where its cells are missing.
        limit: To reach.
        at_least: Whether that is the least; otherwise it is the most.
        digits: After the point.
    """

    what: str
    study: str
    find: Find
    limit: float
    at_least: bool = False
    digits: int = 2

    def row(self, table: StudyTable | None) -> list[str]:
        """What it is, the limit, the figure, and whether that, with all of Student's interval, reaches the limit."""
        found = self.find(table.variants[0]) if table else None
        told = [estimate_text(found, self.digits), self._verdict(found)] if found else [MISSING, ""]
        return [self.what, f"{'≥' if self.at_least else '≤'} {self.limit:g}", *told]

    def _verdict(self, found: Estimate) -> str:
        reaches = operator.ge if self.at_least else operator.le
        if not reaches(found.value, self.limit):
            return "no"
        if found.student is None:
            return "one seed does"
        ends = (found.student.low, found.student.high)
        return "yes" if all(reaches(end, self.limit) for end in ends) else "the mean alone"


def _error(arm: str, source: str) -> Find:
    kind = (source, "pooled", "rbf")
    return lambda variant: next(
        (row.overall for row in variant.errors if (row.arm, row.kind) == (arm, kind)), None
    )


def _score(arm: str, score: str) -> Find:
    return lambda variant: next(
        (row.overall for row in variant.scores if (row.arm, row.score) == (arm, score)), None
    )


def _change(ours: str, theirs: str, figure: str) -> Find:
    pair = (ours, theirs, figure)
    return lambda variant: next(
        (each.change for each in variant.comparisons if (each.ours, each.theirs, each.figure) == pair), None
    )


COOPERATIVE = {"table1": ("uniform", "info-gain"), "best": ("uniform", "eq6", "gossip")}
"""Study of a preset -> its arms that exchange, of whose nodes none is to collapse."""
GOALS = (
    *(
        Goal(f"`best`, `{arm}`: error, RBF, pooled, %", "best", _error(arm, "discriminator"), 1.8)
        for arm in COOPERATIVE["best"]
    ),
    *(
        Goal(f"`best`, `{arm}`, with its neighbours' D: the same", "best", _error(arm, "neighborhood"), 1.7)
        for arm in COOPERATIVE["best"]
    ),
    *(
        Goal(
            f"`best`, `{arm}`: KID less that of `alone-matched`, %",
            "best",
            _change(arm, "alone-matched", "kid"),
            -25,
            digits=1,
        )
        for arm in COOPERATIVE["best"]
    ),
    Goal(
        "two digits a node, `territories`: classes drawn",
        "finalists",
        _score("territories", "classes_covered"),
        4,
        at_least=True,
    ),
    Goal(
        "two digits a node: KID less that of `alone-matched`, %",
        "finalists",
        _change("territories", "alone-matched", "kid"),
        -30,
        digits=1,
    ),
)
LEAST_TRAINED = 75
MOST_HOURS = 4.5


def goals(results: Path) -> str:
    """A row for each: what it is, what was measured [95% by Student's t over seeds] (number of seeds), and whether it is reached.

    Args:
        results: The folder of the studies.
    """
    rows = [["what", "to reach", "measured", "reached"]]
    if table := read_table(results, "table1"):
        rows += _table_one(table)
    rows += [goal.row(read_table(results, goal.study)) for goal in GOALS]
    return markdown([*rows, _collapsed(results)])


def _table_one(table: StudyTable) -> Iterator[list[str]]:
    """Every policy's mean, by each kernel, against the paper's and raw pixels; and the time that it took."""
    targets = table.variants[0].targets
    for against, name in (("paper", "the paper's"), ("pixels", "raw pixels'")):
        gaps = [each.gap for each in targets if each.against == against]
        if not gaps:
            continue
        below = [gap for gap in gaps if gap.student and gap.student.high < 0]
        told = f"{len(below)} of {len(gaps)} intervals; the highest {estimate_text(max(gaps, key=_end), sign='+')}"
        what = f"Table 1: error less {name}, points, by policy and kernel"
        yield [what, "< 0", told, "yes" if len(below) == len(gaps) else "no"]
    hours = sum(origin.hours for origin in table.origins)
    done = "" if table.missing else "yes" if hours <= MOST_HOURS else "no"
    yield ["Table 1: hours on two cores", f"≤ {MOST_HOURS:g}", f"{hours:.1f}", done]


def _end(gap: Estimate) -> float:
    return gap.student.high if gap.student else gap.value


def _collapsed(results: Path) -> list[str]:
    """Of all nodes that cooperated under the two presets together."""
    collapsed = trained = 0
    for study, arms in COOPERATIVE.items():
        table = read_table(results, study)
        for arm in table.variants[0].arms if table else ():
            if arm.name in arms:
                collapsed, trained = collapsed + arm.collapsed, trained + arm.trained
    reached = "no" if collapsed else "yes" if trained >= LEAST_TRAINED else "not yet so many"
    what = "`paper` and `best`: cooperating nodes that collapsed"
    return [what, f"0 of {LEAST_TRAINED} or more", f"{collapsed} of {trained}", reached]
