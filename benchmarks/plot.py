"""Draws what is in results/bench.json: how far each figure is from its target, and what becomes of many nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Picture

from benchmarks.provenance import ROOT

PATH = ROOT / "docs" / "images" / "performance.svg"
SCALE_PATH = PATH.with_name("scale.svg")
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
        _save(picture, path)


def draw_scale(results: dict[str, Any], path: Path = SCALE_PATH) -> None:
    """Cycles a second of all nodes together, seconds to the first cycle and memory of a node, by nodes and degree.

    Args:
        results: What is in results/bench.json; without the section on scale nothing is drawn.
        path: Where the SVG goes.
    """
    section = results.get("scale", {"figures": []})
    seen = [found["numbers"] for found in section["figures"] if found.get("numbers")]
    if not seen:
        return
    with mpl.rc_context({"svg.hashsalt": "dgan", "font.size": 8}):
        picture = Picture(figsize=(9, 2.6), layout="constrained")
        rate, start, memory = picture.subplots(1, 3)
        for degree in sorted({each["degree"] for each in seen}):
            part = sorted((each for each in seen if each["degree"] == degree), key=lambda each: each["nodes"])
            nodes, label = [each["nodes"] for each in part], f"{degree:.0f} neighbours"
            rate.plot(nodes, [each["rate"] for each in part], "o-", label=label)
            start.plot(nodes, [each["first_cycle_s"] for each in part], "o-")
            memory.plot(nodes, [each["proportional_mb"] for each in part], "o-")
        for axes, what in ((rate, "cycles/s, all together"), (start, "s to every first cycle"),
                           (memory, "MB of a node, proportional")):  # fmt: skip
            axes.set_ylim(bottom=0)
            axes.set_xlabel("nodes")
            axes.set_title(what)
        rate.legend()
        _save(picture, path)


def _save(picture: Picture, path: Path) -> None:
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
