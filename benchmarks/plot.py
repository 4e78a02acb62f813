"""Draws how far each figure of results/bench.json is from its target: docs/images/performance.svg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Picture

from benchmarks.provenance import ROOT

PATH = ROOT / "docs" / "images" / "performance.svg"
_MET, _MISSED = "#2a7f62", "#b5483a"
_LONGEST_LABEL = 88


def draw(results: dict[str, Any], path: Path = PATH) -> None:
    """A bar for each figure with a target: 1 is the target, what is longer does better.

    Args:
        results: What is in results/bench.json.
        path: Where the SVG goes.
    """
    rows = [
        (found["what"], *_margins(found))
        for section in results.values()
        for found in section["figures"]
        if found["target"]
    ][::-1]
    with mpl.rc_context({"svg.hashsalt": "dgan", "font.size": 8}):
        picture = Picture(figsize=(9, 0.32 * len(rows) + 0.8), layout="constrained")
        axes = picture.subplots()
        for height, (_, middle, low, high) in enumerate(rows):
            axes.barh(height, middle, color=_MET if middle >= 1 else _MISSED)
            axes.plot([low, high], [height, height], color="black", linewidth=1)
        axes.axvline(1, color="black", linestyle=":")
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), [_short(what) for what, *_ in rows])
        axes.set_xlabel("times better than the target (median, and range of the rounds)")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(path, metadata={"Date": None})


def _margins(found: dict[str, Any]) -> tuple[float, float, float]:
    """Median, lowest and highest, so that 1 is the target and more is better."""
    values = [max(found[key], 1e-9) for key in ("value", "lowest", "highest")]
    if found["at_least"]:
        middle, low, high = (value / found["target"] for value in values)
    else:
        middle, high, low = (found["target"] / value for value in values)
    return middle, low, high


def _short(what: str) -> str:
    plain = what.replace("`", "")
    return plain if len(plain) <= _LONGEST_LABEL else plain[: _LONGEST_LABEL - 1] + "…"
