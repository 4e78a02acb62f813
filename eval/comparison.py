"""Runs side by side in the report: Table 1's form with its floors and the paper's numbers, and the generators' quality.

The floors (the same SVM on raw pixels and on an untrained D) come from the nodes' own images, so runs over one split
share them: equal columns stand once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from markupsafe import Markup

from eval.plots import DotRow, dot_plot
from eval.results import ProbeResult, ProbeRow, QualityResult, features_name

Errors: TypeAlias = Mapping[str, Mapping[int, float]]
"""Errors in % by kernel (`chosen`, `linear`, `rbf`) and node."""
POLICIES = {
    "alone": ("stand alone", "alone"),
    "uniform": ("uniform", "uniform"),
    "info-gain": ("inform.-gain", "gain"),
    "alone-matched": ("alone, G matched", "matched"),
    "uniform-untrained": ("unif., untrained", "untrained"),
    "forgiving": ("forgiving", "forgiving"),
    "gossip": ("gossip", "gossip"),
    "territories": ("territories", "territories"),
}
"""Policy -> (Table 1's heading, colour of the page); the paper's, and then the controls and rules that it lacks."""
WEIGHED = {
    "eq6": "Eq. (6) with negative values clamped to 0",
    "bernoulli": "the Bernoulli KL divergence",
    "capped": "the Bernoulli KL divergence with no image above log 2",
    "tempered": "the square root of the Bernoulli KL divergence",
    "objection": "Eq. (6) the other way round, over images that the neighbour's D takes for real less than the own",
    "competence": "the Bernoulli KL divergence times 2 AUC - 1 of the neighbour's D on the node's real and generated images",
    "novelty": "1 - cosine of the changes asked for",
}
"""Criterion -> what Eq. (7) weighs, as the report tells it."""
PAPER_ERRORS: Mapping[str, Mapping[int, float]] = {
    "alone": {1: 3.15, 2: 3.35, 3: 3.45, 4: 3.22, 5: 3.55},
    "uniform": {1: 2.71, 2: 3.12, 3: 3.14, 4: 2.72, 5: 3.12},
    "info-gain": {1: 2.22, 2: 2.41, 3: 2.73, 4: 2.54, 5: 2.60},
}
"""Table 1 of the paper: errors in % of five nodes on MNIST, by policy and node."""


@dataclass(frozen=True)
class Column:
    """One column of Table 1's form.

    Attributes:
        group: Heading over neighbouring columns: `these runs`, `floors` or `the paper`.
        heading: Policy or kind of floor.
        run: Label of the run; empty where it is clear.
        colour: Colour of the page.
        errors: Errors in % by kernel and node.
    """

    group: str
    heading: str
    run: str
    colour: str
    errors: Errors

    def error(self, kernel: str, node: int) -> float:
        """Error in % of one node; NaN where there is none."""
        return self.errors.get(kernel, {}).get(node, math.nan)

    def mean(self, kernel: str) -> float:
        """Mean over the nodes; NaN where there is none."""
        values = list(self.errors.get(kernel, {}).values())
        return float(np.mean(values)) if values else math.nan

    def range(self, kernel: str) -> tuple[float, ...]:
        """Lowest and highest error of a node; empty where there is none."""
        values = self.errors.get(kernel, {}).values()
        return (min(values), max(values)) if values else ()


@dataclass(frozen=True)
class ErrorTable:
    """Everything that the report's first table shows.

    Attributes:
        columns: From left to right.
        nodes: Rows: every node of a run, by id.
        picture: The columns as a dot plot (SVG).
        standard_error: Mean binomial standard error of one node's figure, in percentage points.
        rows: (run, features, probe row), for the complete table.
        foreign: Data sets other than the paper's.
    """

    columns: tuple[Column, ...]
    nodes: tuple[int, ...]
    picture: Markup
    standard_error: float
    rows: tuple[tuple[str, str, ProbeRow], ...]
    foreign: tuple[str, ...]

    @property
    def leaders(self) -> tuple[Column, ...]:
        """The first column of every group."""
        return tuple(next(c for c in self.columns if c.group == name) for name, _ in self.groups)

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """(heading, columns under it), from left to right."""
        names = [column.group for column in self.columns]
        return tuple((name, names.count(name)) for name in dict.fromkeys(names))


def error_table(probes: Sequence[tuple[str, ProbeResult]]) -> ErrorTable | None:
    """Table 1's form over the probed runs, given as (label, result); None where there is none."""
    if not probes:
        return None
    order = list(POLICIES)
    ranked = sorted(probes, key=lambda item: order.index(item[1].policy))
    columns = (*_run_columns(ranked), *_floor_columns(ranked), *_paper_columns())
    headlines = [probe.headline for _, probe in probes]
    nodes = sorted({node.node for row in headlines for node in row.nodes})
    return ErrorTable(
        columns=columns,
        nodes=tuple(nodes),
        picture=Markup(dot_plot([_dots(column) for column in columns], "error in %")),  # noqa: S704 - escaped by matplotlib
        standard_error=float(np.mean([node.standard_error for row in headlines for node in row.nodes])),
        rows=tuple(
            (label, features_name(row.source, row.layers), row)
            for label, probe in ranked
            for row in probe.rows
        ),
        foreign=tuple(sorted({probe.data_set for _, probe in probes} - {"mnist"})),
    )


def policy_name(policy: str) -> tuple[str, str]:
    """(Table 1's heading, colour of the page) of a policy."""
    return POLICIES[policy]


def _run_columns(probes: Sequence[tuple[str, ProbeResult]]) -> list[Column]:
    columns = []
    for label, probe in probes:
        heading, colour = policy_name(probe.policy)
        run = label if label != probe.policy else ""
        columns.append(Column("these runs", heading, run, colour, _errors(probe, "discriminator", "all")))
    return columns


def _floor_columns(probes: Sequence[tuple[str, ProbeResult]]) -> list[Column]:
    columns: list[Column] = []
    for source, layers, heading in (("pixels", None, "raw pixels"), ("untrained", "all", "untrained D")):
        different: dict[str, Errors] = {}
        for label, probe in probes:
            errors = _errors(probe, source, layers)
            if errors and errors not in different.values():
                different[label] = errors
        for label, errors in different.items():
            columns.append(Column("floors", heading, label if len(different) > 1 else "", "floor", errors))
    return columns


def _paper_columns() -> list[Column]:
    return [
        Column("the paper", POLICIES[policy][0], "", POLICIES[policy][1], {"chosen": errors})
        for policy, errors in PAPER_ERRORS.items()
    ]


def _dots(column: Column) -> DotRow:
    is_paper = column.group == "the paper"
    label = f"paper: {column.heading}" if is_paper else column.heading
    label = f"{label} ({column.run})" if column.run else label
    return DotRow(label, list(column.errors.get("chosen", {}).values()), column.colour, hollow=is_paper)


def _errors(probe: ProbeResult, source: str, layers: str | None) -> Errors:
    """Errors of one kind of features, by kernel and node; empty where the probe left them out."""
    rows = [row for row in probe.rows if (row.source, row.layers) == (source, layers)]
    return {row.kernel: {node.node: node.error for node in row.nodes} for row in rows}


@dataclass(frozen=True)
class QualityTable:
    """The generators' quality, runs below one another.

    Attributes:
        runs: (label, colour, result).
        unlike: What the runs were not judged alike by, such as the classifier; then their figures cannot be compared.
        is_skewed: Whether a node of some run lacks a class.
    """

    runs: tuple[tuple[str, str, QualityResult], ...]
    unlike: tuple[str, ...]
    is_skewed: bool


def quality_table(results: Sequence[tuple[str, QualityResult]]) -> QualityTable | None:
    """The quality of every judged run, given as (label, result); None where there is none."""
    if not results:
        return None
    alike: dict[str, set[str] | set[int]] = {
        "the classifier": {result.classifier.digest for _, result in results},
        "the number of test images": {result.reference_images for _, result in results},
        "the number of images judged": {node.scores.images for _, result in results for node in result.nodes},
    }
    return QualityTable(
        runs=tuple((label, policy_name(result.policy)[1], result) for label, result in results),
        unlike=tuple(name for name, values in alike.items() if len(values) > 1),
        is_skewed=any(result.is_skewed for _, result in results),
    )
