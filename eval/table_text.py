"""The table of a study in words: aligned for a terminal, or as Markdown. Made from `StudyTable` alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from eval.columns import aligned, markdown
from eval.comparison import POLICIES
from eval.results import features_name
from eval.statistics import Estimate, Interval
from eval.table import HEADLINE, Comparison, ErrorRow, ScoreRow, StudyTable, VariantTable

_SCORES = {
    "kid": ("KID", 4),
    "fid": ("FID", 2),
    "classes_covered": ("classes", 2),
    "coverage": ("coverage", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "own_covered": ("own classes", 2),
    "neighbors_covered": ("neighbours'", 2),
    "unseen_covered": ("unseen", 2),
}  # score -> (heading, digits after the point)
FIGURES = {
    "chosen": ("error, kernel chosen, points", 2),
    "linear": ("error, linear, points", 2),
    "rbf": ("error, RBF, points", 2),
    "pooled": ("error, RBF, pooled, points", 2),
    "joined": ("error, RBF, with neighbours' D, points", 2),
    "joined_pooled": ("error, RBF, with neighbours' D, pooled, points", 2),
    "spread": ("spread of a training's nodes, points", 2),
    "kid": ("KID, % of theirs", 1),
    "fid": ("FID", 2),
    "coverage": ("coverage", 3),
    "recall": ("recall", 3),
    "own_covered": ("own classes covered", 2),
    "neighbors_covered": ("neighbours' classes covered", 2),
}
"""Figure of a comparison -> what to call it, and digits after the point."""
_WORK = (
    ("updates of D", "d_steps", 0),
    ("updates of G", "g_steps", 0),
    ("share of the neighbour chosen most", "most_chosen", 2),
    ("share of values below 0, clamped", "clamped", 2),
    ("loss of G by its own D", "own_loss", 2),
    ("loss of G by the neighbour's D chosen", "chosen_loss", 2),
)
_AGAINST = {"paper": "the paper's mean", "pixels": "raw pixels here"}
_INTERVALS = "Mean [95% by Student's t over seeds] (number of seeds)."
_HEADLINE = (
    "Test images that an SVM on a node's D gets wrong; a node's row is its mean over seeds. The spread is the standard "
    "deviation over the nodes of a seed, in points."
)
_JOINED = (
    "With the neighbours' D: under a policy that exchanges nothing no node could have these, and they are what the features "
    "of more nodes bring by themselves."
)
_SCORED = (
    f"{_INTERVALS} KID, FID, coverage, precision and recall are taken in the 64 features of a classifier of these images, "
    "not in Inception's, and from the whole test set; a class is covered where enough of a node's images are surely of it."
)

_PAIRED = (
    "Change: ours less theirs [95% by resampling seeds] (number of seeds); with few seeds that interval is too narrow. "
    'd_z: the change over the standard deviation of what the seeds have of it. "excludes 0": both intervals do; "bootstrap only" is no '
    "evidence from few seeds. Below 0 the first of the pair is better, or its nodes more alike; of coverage, recall and classes "
    "covered, above 0."
)


@dataclass(frozen=True)
class Section:
    """A part of the table.

    Attributes:
        title: Heading.
        rows: Cells, the first row the heading; may be empty.
        notes: Lines below.
        picture: Kind of the picture that shows it, where there is one.
    """

    title: str
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()
    picture: str = ""


def as_text(table: StudyTable) -> str:
    """Everything for a terminal."""
    parts = [f"study {table.study}, {_progress(table)}"]
    for variant in table.variants:
        parts += [_plain(section, variant.variant) for section in _sections(table, variant)]
    return "\n\n".join([*parts, _plain(_origins(table))])


def as_markdown(table: StudyTable, pictures: Mapping[tuple[str, str], tuple[str, str]]) -> str:
    """Everything as a Markdown document.

    Args:
        table: The table.
        pictures: (variant, kind) of each picture to show: its title and file.
    """
    parts = [f"# {table.study}", f"`{table.command}`; {_progress(table)}. Made by `dgan-eval table`."]
    for variant in table.variants:
        parts.append(f"## {variant.variant}")
        for section in _sections(table, variant):
            parts.append(_marked(section))
            if shown := pictures.get((variant.variant, section.picture)):
                parts.append("![{}]({})".format(*shown))
    return "\n\n".join([*parts, _marked(_origins(table))]) + "\n"


def _plain(section: Section, variant: str = "") -> str:
    title = f"{variant}: {section.title}" if variant else section.title
    return "\n".join(filter(None, [title, aligned(section.rows) if section.rows else "", *section.notes]))


def _marked(section: Section) -> str:
    table = markdown(section.rows) if section.rows else ""
    return "\n\n".join(filter(None, [f"### {section.title}", table, *section.notes]))


def _progress(table: StudyTable) -> str:
    done = sum(len(origin.cells) for origin in table.origins)
    return f"{done} of {done + len(table.missing)} cells"


def _sections(table: StudyTable, variant: VariantTable) -> Iterator[Section]:
    """The parts that have something to show, and always the one on collapsed nodes."""
    yield from filter(
        lambda section: len(section.rows) > 1,
        (
            _table_one(table, variant),
            _all_errors(variant),
            _floors(variant),
            _generators(variant),
            _comparisons(variant),
            _targets(variant),
            _work(variant),
        ),
    )
    yield _collapsed(table, variant)


def _table_one(table: StudyTable, variant: VariantTable) -> Section:
    """Table 1's form: a row for each node and the mean, a column for each arm, the paper's beside them."""
    headlines = {row.arm: row for row in variant.errors if row.kind == HEADLINE}
    arms = [(arm.name, headlines.get(arm.name)) for arm in variant.arms]
    paper = table.paper if variant.comparable else {}
    spreads = {spread.arm: spread.overall for spread in variant.spreads}
    nodes = sorted({node.node for row in headlines.values() for node in row.nodes})
    rows = [["node", *(name for name, _ in arms), *(f"paper: {POLICIES[policy][0]}" for policy in paper)]]
    for node in nodes:
        ours = [_number(_of_node(row, node)) for _, row in arms]
        rows.append([str(node), *ours, *(_number(errors.get(node)) for errors in paper.values())])
    blank = [""] * len(paper)
    overall = [row.overall if row else None for _, row in arms]
    if nodes:
        means = (f"{fmean(errors.values()):.2f}" for errors in paper.values())
        rows += [
            ["mean", *(_number(each.value if each else None) for each in overall), *means],
            ["95%, bootstrap", *(_interval(each.bootstrap if each else None) for each in overall), *blank],
            ["95%, Student", *(_student(each) for each in overall), *blank],
            ["spread of nodes", *(estimate_text(spreads.get(arm)) for arm, _ in arms), *blank],
            ["seeds", *(str(len(each.seeds)) if each else "" for each in overall), *blank],
            ["nodes collapsed", *(f"{arm.collapsed} of {arm.trained}" for arm in variant.arms), *blank],
        ]
    notes = [_HEADLINE]
    if len(variant.data_sets) > 1:
        notes.append(f"Not comparable: these cells are of several data sets, {', '.join(variant.data_sets)}.")
    elif not paper and variant.data_sets:
        notes.append(
            "Not comparable with the paper's figures: MNIST, drawn alike, 10,000 images for each of five nodes."
        )
    return Section(
        "Error in %, trained D, all layers, kernel chosen on held-out images", rows, tuple(notes), "errors"
    )


def _of_node(row: ErrorRow | None, node: int) -> float | None:
    return next((mean.value for mean in row.nodes if mean.node == node), None) if row else None


def _all_errors(variant: VariantTable) -> Section:
    """Every row of the probe, its overall means by arm."""
    by_place = {(row.arm, row.kind): row for row in variant.errors}
    names = [arm.name for arm in variant.arms]
    rows = [["features", "kernel", *names]]
    for kind in dict.fromkeys(row.kind for row in variant.errors):
        found = [by_place.get((name, kind)) for name in names]
        rows.append([*_kind_cells(kind), *(estimate_text(row.overall if row else None) for row in found)])
    joined = any(row.source == "neighborhood" for row in variant.errors)
    notes = (_INTERVALS, *((_JOINED,) if joined else ()))
    return Section("Error in %, every kind of features", rows, notes)


def _floors(variant: VariantTable) -> Section:
    nodes = sorted({node.node for row in variant.floors for node in row.nodes})
    rows = [["floor", "kernel", *(f"node {node}" for node in nodes), "mean"]]
    rows += [
        [
            *_kind_cells(row.kind),
            *(_number(_of_node(row, node)) for node in nodes),
            estimate_text(row.overall),
        ]
        for row in variant.floors
    ]
    return Section("Error in % without any training of D", rows)


def _generators(variant: VariantTable) -> Section:
    by_arm: dict[str | None, dict[str, ScoreRow]] = {}
    for row in variant.scores:
        by_arm.setdefault(row.arm, {})[row.score] = row
    found = {row.score for row in variant.scores}
    shown = {score: how for score, how in _SCORES.items() if score in found}
    rows = [["images", *(heading for heading, _ in shown.values())]]
    for arm, scores in by_arm.items():
        cells = [
            estimate_text(scores[score].overall, digits) if score in scores else ""
            for score, (_, digits) in shown.items()
        ]
        rows.append([arm or "real images", *cells])
    return Section("Generated images", rows, (_SCORED, *_unlike(variant)), "kid")


def _unlike(variant: VariantTable) -> tuple[str, ...]:
    """A warning, where there is reason for one."""
    if not variant.unlike:
        return ()
    seeds = ", ".join(map(str, variant.unlike))
    causes = "code, machine and classifier are not the same"
    return (f"Not comparable: arms of seed {seeds} were trained or judged differently ({causes}).",)


def _comparisons(variant: VariantTable) -> Section:
    head = ["pair", "figure", "ours", "theirs", "change", "95%, Student", "d_z", "excludes 0"]
    return Section(
        "Comparisons, paired by seed and node",
        [head, *(_comparison(found) for found in variant.comparisons)],
        (_PAIRED, *_unlike(variant)),
    )


def _comparison(found: Comparison) -> list[str]:
    figure, digits = FIGURES[found.figure]
    means = 4 if found.figure == "kid" else digits
    change = found.change
    return [
        f"{found.ours} - {found.theirs}",
        figure,
        _number(found.ours_mean, means),
        _number(found.theirs_mean, means),
        estimate_text(change, digits, sign="+", resampled=True),
        _student(change, digits, sign="+"),
        _number(found.effect, sign="+"),
        _verdict(change, lambda interval: interval.excludes_zero) if change else "",
    ]


def change_text(found: Comparison) -> str:
    """Its change [95% by Student's t over seeds] (number of seeds), in bold Markdown where both intervals exclude 0."""
    change, (_, digits) = found.change, FIGURES[found.figure]
    if change is None:
        return ""
    if change.student is None:
        return f"{_number(change.value, digits, '+')} (one seed)"
    told = estimate_text(change, digits, "+")
    return f"**{told}**" if _verdict(change, lambda interval: interval.excludes_zero) == "yes" else told


def _targets(variant: VariantTable) -> Section:
    rows = [
        ["arm", "kernel", "to be below", "limit", "mean", "mean less limit", "mean below", "interval below"]
    ]
    for target in variant.targets:
        gap = target.gap
        rows.append(
            [
                target.arm,
                target.kernel,
                _AGAINST[target.against],
                _number(target.limit),
                _number(target.error),
                estimate_text(gap, sign="+"),
                "yes" if gap.value < 0 else "no",
                _verdict(gap, lambda interval: interval.high < 0),
            ]
        )
    return Section("Targets", rows, (_INTERVALS,))


def _work(variant: VariantTable) -> Section:
    """What training consisted of: a control that makes as many updates of G may make another number of D's."""
    counted = [arm for arm in variant.arms if arm.d_steps is not None]
    rows = [["mean over nodes", *(arm.name for arm in counted)]]
    for name, fact, digits in _WORK:
        found = [getattr(arm, fact) for arm in counted]
        if any(value is not None for value in found):
            rows.append([name, *(_number(value, digits) for value in found)])
    return Section("Work of a node", rows)


def _verdict(estimate: Estimate, holds: Callable[[Interval], bool]) -> str:
    """Whether something holds of both intervals, or of which."""
    if estimate.bootstrap is None or estimate.student is None:
        return "one seed"
    bootstrap, student = holds(estimate.bootstrap), holds(estimate.student)
    if bootstrap != student:
        return "bootstrap only" if bootstrap else "Student only"
    return "yes" if bootstrap else "no"


def _collapsed(table: StudyTable, variant: VariantTable) -> Section:
    rows = [["arm", "seed", "node", "why", "figures"]] if variant.collapsed else []
    for node in variant.collapsed:
        figures = [name for name, there in (("errors", node.probed), ("scores", node.judged)) if there]
        why = "; ".join(node.reasons)
        rows.append([node.arm, str(node.seed), str(node.node), why, " and ".join(figures) or "none"])
    counts = ", ".join(f"{arm.name} {arm.collapsed} of {arm.trained}" for arm in variant.arms)
    definition = table.collapse_definition
    return Section("Collapsed nodes", rows, (f"{counts}: {definition}.",))


def _origins(table: StudyTable) -> Section:
    rows = [["code", "machine", "cells", "hours"]] if table.origins else []
    rows += [
        [_brief(each.versions), _brief(each.machine), str(len(each.cells)), _number(each.hours, 1)]
        for each in table.origins
    ]
    missing = f"Not finished: {', '.join(table.missing)}." if table.missing else "Every cell has ended."
    return Section("Where the figures come from", rows, (missing,))


def _brief(record: Any) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in record.items()
    )


def _kind_cells(kind: tuple[str, str | None, str]) -> tuple[str, str]:
    source, layers, kernel = kind
    return features_name(source, layers), "RBF" if kernel == "rbf" else kernel


def estimate_text(
    estimate: Estimate | None, digits: int = 2, sign: str = "", *, resampled: bool = False
) -> str:
    """`2.25 [2.18, 2.33] (5)`: value, Student's interval or the bootstrap's, seeds."""
    if estimate is None:
        return ""
    interval = estimate.bootstrap if resampled else estimate.student
    between = f" {_interval(interval, digits, sign)}" if interval else ""
    return f"{estimate.value:{sign}.{digits}f}{between} ({len(estimate.seeds)})"


def _student(estimate: Estimate | None, digits: int = 2, sign: str = "") -> str:
    return _interval(estimate.student, digits, sign) if estimate else ""


def _interval(interval: Interval | None, digits: int = 2, sign: str = "") -> str:
    return f"[{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]" if interval else ""


def _number(value: float | None, digits: int = 2, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"
