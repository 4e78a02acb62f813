"""What the studies answer, in one table: whether cooperation pays, against which control, and how sure that is.

Made of the comparisons in each study's `table.json` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FIGURES = {
    "linear": ("error, linear, points", 2),
    "rbf": ("error, RBF, points", 2),
    "kid": ("KID, %", 1),
    "neighbors_covered": ("neighbours' classes", 2),
}  # figure of a comparison -> (heading, digits after the point)
_COOPERATION = (("uniform", "alone-matched"), ("eq6", "alone-matched"), ("eq6", "uniform"))
_TERRITORIES = (("territories", "alone-matched"), ("territories", "uniform"))
ASKED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "table1": (
        ("uniform", "alone"),
        ("uniform", "alone-matched"),
        ("info-gain", "alone-matched"),
        ("info-gain", "uniform"),
    ),
    "best": (*_COOPERATION, ("gossip", "alone-matched"), ("gossip", "uniform")),
    "finalists": (*_COOPERATION, *_TERRITORIES),
    "dirichlet": (*_COOPERATION, *_TERRITORIES),
}
"""Study -> the pairs of its arms that answer something, ours first."""


def answers(results: Path) -> str:
    """A row for each pair: how much ours lies above theirs, bold where both of the intervals exclude 0.

    Args:
        results: The folder of the studies.
    """
    lines = ["| study | pair | " + " | ".join(heading for heading, _ in _FIGURES.values()) + " |"]
    lines.append("|---|---|" + "---:|" * len(_FIGURES))
    for name, pairs in ASKED.items():
        path = results / name / "table.json"
        if not path.exists():
            lines.append(f"| {name} | not measured yet |{' |' * len(_FIGURES)}")
            continue
        for variant in json.loads(path.read_text(encoding="utf-8"))["variants"]:
            study = name if variant["variant"] == "all" else f"{name}, {variant['variant']}"
            for ours, theirs in pairs:
                cells = _cells(variant["comparisons"], ours, theirs)
                lines.append(f"| {study} | {ours} - {theirs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(comparisons: list[dict[str, Any]], ours: str, theirs: str) -> Iterator[str]:
    """The pair's change in each figure."""
    found = {
        each["figure"]: each["change"]
        for each in comparisons
        if (each["ours"], each["theirs"]) == (ours, theirs)
    }
    if not found:
        yield from ("not measured yet", *[""] * (len(_FIGURES) - 1))
        return
    for figure, (_, digits) in _FIGURES.items():
        yield _change(found.get(figure), digits)


def _change(change: dict[str, Any] | None, digits: int) -> str:
    if change is None:
        return ""
    seeds = len(change["seeds"])
    value = f"{change['value']:+.{digits}f}"
    between, resampled = change["student"], change["bootstrap"]
    if between is None or resampled is None:
        return f"{value} (one seed)"
    told = f"{value} [{between['low']:+.{digits}f}, {between['high']:+.{digits}f}] ({seeds})"
    sure = all(each["low"] > 0 or each["high"] < 0 for each in (between, resampled))
    return f"**{told}**" if sure else told
