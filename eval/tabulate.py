"""Makes the table of a study from its cells; pure.

Every figure is kept by seed and node until the last moment, so that intervals resample whole seeds and comparisons pair
what was trained on the same shards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TypeAlias

import numpy as np

from eval.comparison import PAPER_ERRORS
from eval.results import ProbeRow
from eval.statistics import RESAMPLES, Figures, difference, effect_size, mean, paired, relative_change
from eval.study import Cell, Study
from eval.table import (
    FLOOR_MARGIN,
    HEADLINE,
    LEAST_CLASSES,
    ArmSummary,
    Collapse,
    Comparison,
    ErrorRow,
    NodeMean,
    Origin,
    ScoreRow,
    Spread,
    StudyTable,
    Target,
    VariantTable,
)

SCORES = ("kid", "fid", "classes_covered", "coverage", "precision", "recall")
ORIGINS = ("own_covered", "neighbors_covered", "unseen_covered")
"""Scores of variants in which some node lacks a class."""
_Kind: TypeAlias = tuple[str, str | None, str]  # source, layers, kernel
_FLOORS = ("untrained", "pixels")
_TRAINED, _POOLED = ("discriminator", "all"), ("discriminator", "pooled")
_JOINED, _JOINED_POOLED = ("neighborhood", "all"), ("neighborhood", "pooled")
_COMPARED_ERRORS: Mapping[str, _Kind] = {
    "chosen": HEADLINE,
    "linear": (*_TRAINED, "linear"),
    "rbf": (*_TRAINED, "rbf"),
    "spread": HEADLINE,
    "pooled": (*_POOLED, "rbf"),
    "joined": (*_JOINED, "rbf"),
    "joined_pooled": (*_JOINED_POOLED, "rbf"),
}
_COMPARED_SCORES, _COMPARED_ORIGINS = (
    ("kid", "fid", "coverage", "recall"),
    ("own_covered", "neighbors_covered"),
)
_KERNELS = ("chosen", "linear", "rbf")
_PAPERS_CASE = (5, "iid", 10_000)


def tabulate(study: Study) -> StudyTable:
    """The table of everything that a study has so far."""
    return StudyTable(
        study=study.plan.name,
        command=study.plan.command,
        variants=tuple(_variant(study, variant) for variant in study.plan.variants),
        missing=study.missing,
        origins=_origins(study.cells),
        paper=PAPER_ERRORS,
        resamples=RESAMPLES,
    )


def _variant(study: Study, variant: str) -> VariantTable:
    cells = study.of(variant)
    arms = [(arm, study.of(variant, arm)) for arm in study.plan.arms]
    kinds = sorted(_kinds(cells), key=HEADLINE.__ne__)
    data_sets = sorted({cell.probe.data_set for cell in cells if cell.probe})
    comparable = data_sets == ["mnist"] and all(map(_is_the_papers, cells))
    errors = tuple(
        row
        for arm, own in arms
        for kind in kinds
        if kind[0] not in _FLOORS and (row := _error_row(arm, kind, _errors(own, kind)))
    )
    floors = tuple(
        row for kind in kinds if kind[0] in _FLOORS and (row := _error_row(None, kind, _errors(cells, kind)))
    )
    collapsed = tuple(_collapses(cells))
    return VariantTable(
        variant=variant,
        data_sets=tuple(data_sets),
        comparable=comparable,
        arms=tuple(_summary(arm, own, collapsed) for arm, own in arms),
        errors=errors,
        spreads=tuple(_spreads(arms)),
        floors=floors,
        scores=tuple(_score_rows(arms, cells)),
        comparisons=tuple(
            found
            for ours, theirs in study.plan.comparisons
            for found in _comparisons((ours, study.of(variant, ours)), (theirs, study.of(variant, theirs)))
        ),
        targets=tuple(_targets(cells, arms, comparable=comparable)),
        collapsed=collapsed,
        unlike=_unlike(cells),
    )


def _is_the_papers(cell: Cell) -> bool:
    """Whether its nodes and shards are those of Table 1: five, with as many images each, drawn alike."""
    split = cell.settings["split"]
    return (len(cell.nodes), split["rule"], split["images_per_node"]) == _PAPERS_CASE


def _kinds(cells: Sequence[Cell]) -> list[_Kind]:
    """Every row that a probe has, in the order of the probes."""
    return list(dict.fromkeys(_kind(row) for cell in cells if cell.probe for row in cell.probe.rows))


def _kind(row: ProbeRow) -> _Kind:
    return row.source, row.layers, row.kernel


def _errors(cells: Sequence[Cell], kind: _Kind) -> Figures:
    """Errors in % by seed and node; where several arms have one, as they may of a floor, the first arm's."""
    found: dict[int, dict[int, float]] = {}
    for cell in cells:
        for row in cell.probe.rows if cell.probe else ():
            if _kind(row) == kind:
                for node in row.nodes:
                    _note(found, cell.seed, node.node, node.error)
    return found


def _scores(cells: Sequence[Cell], score: str) -> Figures:
    """One score by seed and node."""
    found: dict[int, dict[int, float]] = {}
    for cell in cells:
        for node in cell.quality.nodes if cell.quality else ():
            holder = node.origins if score in ORIGINS else node.scores
            if holder is not None:
                _note(found, cell.seed, node.node, float(getattr(holder, score)))
    return found


def _is_skewed(cells: Sequence[Cell]) -> bool:
    """Whether some node lacks a class."""
    return any(cell.quality.is_skewed for cell in cells if cell.quality)


def _note(found: dict[int, dict[int, float]], seed: int, node: int, figure: float) -> None:
    """Keeps the first figure of a place; one that is no number, as of a broken generator, is none."""
    if math.isfinite(figure):
        found.setdefault(seed, {}).setdefault(node, figure)


def _error_row(arm: str | None, kind: _Kind, figures: Figures) -> ErrorRow | None:
    overall = mean(figures)
    return ErrorRow(arm, *kind, _node_means(figures), overall) if overall else None


def _spread(figures: Figures) -> Figures:
    """The standard deviation over the nodes of each seed, as the figure of one node, 0; none of a seed with one node."""
    return {
        seed: {0: float(np.std(list(values.values()), ddof=1))}
        for seed, values in figures.items()
        if len(values) > 1
    }


def _spreads(arms: Sequence[tuple[str, Sequence[Cell]]]) -> Iterator[Spread]:
    for arm, own in arms:
        if overall := mean(_spread(_errors(own, HEADLINE))):
            yield Spread(arm, overall)


def _node_means(figures: Figures) -> tuple[NodeMean, ...]:
    found = []
    for node in sorted({node for values in figures.values() for node in values}):
        values = {seed: figures[seed][node] for seed in sorted(figures) if node in figures[seed]}
        found.append(NodeMean(node, float(np.mean(list(values.values()))), tuple(values)))
    return tuple(found)


def _score_rows(arms: Sequence[tuple[str, Sequence[Cell]]], cells: Sequence[Cell]) -> Iterator[ScoreRow]:
    for arm, own in arms:
        for score in (*SCORES, *ORIGINS) if _is_skewed(cells) else SCORES:
            figures = _scores(own, score)
            if overall := mean(figures):
                yield ScoreRow(arm, score, _node_means(figures), overall)
    for score in SCORES:
        real: dict[int, dict[int, float]] = {}
        for cell in cells:
            if cell.quality:
                _note(real, cell.seed, 0, float(getattr(cell.quality.real, score)))
        if overall := mean(real):
            yield ScoreRow(None, score, (), overall)


def _collapses(cells: Sequence[Cell]) -> Iterator[Collapse]:
    shared = _errors(cells, ("untrained", "all", "rbf"))
    for cell in cells:
        floors = _errors([cell], ("untrained", "all", "rbf")) or shared
        errors = _errors([cell], (*_TRAINED, "rbf")).get(cell.seed, {})
        classes = _scores([cell], "classes_covered").get(cell.seed, {})
        judged = cell.quality.nodes if cell.quality else ()
        held = {node.node: len(node.origins.own) for node in judged if node.origins}
        for node, end in sorted(cell.nodes.items()):
            reasons = []
            if end.state != "finished":
                reasons.append(f'ended as "{end.state}"' + (f" ({end.error})" if end.error else ""))
            if classes.get(node, math.inf) < min(LEAST_CLASSES, held.get(node, LEAST_CLASSES)):
                reasons.append(f"classes covered: {classes[node]:.0f}")
            floor = floors.get(cell.seed, {}).get(node, math.inf)
            if errors.get(node, -math.inf) > floor + FLOOR_MARGIN:
                reasons.append(f"error {errors[node]:.2f}, untrained {floor:.2f}")
            if reasons:
                yield Collapse(cell.arm, cell.seed, node, tuple(reasons), node in errors, node in classes)


def _summary(arm: str, cells: Sequence[Cell], collapsed: Sequence[Collapse]) -> ArmSummary:
    ends = [end for cell in cells for end in cell.nodes.values()]

    def over_nodes(fact: str) -> float | None:
        known = [value for end in ends if (value := getattr(end, fact)) is not None]
        return float(np.mean(known)) if known else None

    return ArmSummary(
        name=arm,
        policy=_policy(cells),
        seeds=tuple(cell.seed for cell in cells),
        trained=sum(len(cell.nodes) for cell in cells),
        collapsed=sum(node.arm == arm for node in collapsed),
        d_steps=over_nodes("d_steps"),
        g_steps=over_nodes("g_steps"),
        most_chosen=over_nodes("most_chosen"),
        clamped=over_nodes("clamped"),
        own_loss=over_nodes("own_loss"),
        chosen_loss=over_nodes("chosen_loss"),
    )


def _policy(cells: Sequence[Cell]) -> str | None:
    return str(cells[0].settings.get("policy")) if cells else None


def _comparisons(
    ours: tuple[str, Sequence[Cell]], theirs: tuple[str, Sequence[Cell]]
) -> Iterator[Comparison]:
    """The pair by each figure for which both have some."""
    scores = (*_COMPARED_SCORES, *(_COMPARED_ORIGINS if _is_skewed(ours[1]) else ()))
    by_figure: dict[str, Callable[[Sequence[Cell]], Figures]] = {
        **{figure: partial(_errors, kind=kind) for figure, kind in _COMPARED_ERRORS.items()},
        **{score: partial(_scores, score=score) for score in scores},
    }
    for figure, of in by_figure.items():
        left, right = paired(of(ours[1]), of(theirs[1]))
        if figure == "spread":
            left, right = _spread(left), _spread(right)
        if not left:
            continue
        change = relative_change(left, right) if figure == "kid" else mean(difference(left, right))
        yield Comparison(
            ours=ours[0],
            theirs=theirs[0],
            figure=figure,
            ours_mean=_mean(left),
            theirs_mean=_mean(right),
            change=change,
            effect=effect_size(change) if change else None,
        )


def _mean(figures: Figures) -> float:
    return float(np.mean([value for nodes in figures.values() for value in nodes.values()]))


def _targets(
    cells: Sequence[Cell], arms: Sequence[tuple[str, Sequence[Cell]]], *, comparable: bool
) -> Iterator[Target]:
    pixels = {kernel: _errors(cells, ("pixels", None, kernel)) for kernel in _KERNELS}
    for (arm, own), kernel in product(arms, _KERNELS):
        errors = _errors(own, (*_TRAINED, kernel))
        limits = {"pixels": pixels[kernel]}
        if comparable and (paper := PAPER_ERRORS.get(_paper_row(own))):
            row = float(np.mean(list(paper.values())))
            limits = {"paper": {seed: dict.fromkeys(nodes, row) for seed, nodes in errors.items()}, **limits}
        for against, limit in limits.items():
            ours, theirs = paired(errors, limit)
            if gap := mean(difference(ours, theirs)):
                yield Target(arm, kernel, against, _mean(theirs), _mean(ours), gap)


def _paper_row(cells: Sequence[Cell]) -> str:
    """Which of the paper's rows an arm is; its information gain is Eq. (6) and no other criterion."""
    policy, weighed = _policy(cells), {cell.settings["cooperation"]["criterion"] for cell in cells}
    return policy if policy and (policy != "info-gain" or weighed == {"eq6"}) else ""


def _unlike(cells: Sequence[Cell]) -> tuple[int, ...]:
    """Seeds whose arms were trained by different code, or where numbers are rounded otherwise, or judged by different classifiers."""
    makers: dict[int, set[str]] = {}
    for cell in cells:
        machine = {name: fact for name, fact in cell.machine.items() if name != "cores"}
        facts = [machine, *(cell.versions.get(name) for name in ("torch", "node/"))]
        facts += [cell.quality.classifier.digest] if cell.quality else []
        makers.setdefault(cell.seed, set()).add(json.dumps(facts, sort_keys=True))
    return tuple(sorted(seed for seed, made in makers.items() if len(made) > 1))


def _origins(cells: Sequence[Cell]) -> tuple[Origin, ...]:
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(json.dumps([cell.versions, cell.machine], sort_keys=True), []).append(cell)
    return tuple(
        Origin(
            versions=group[0].versions,
            machine=group[0].machine,
            cells=tuple(cell.name for cell in group),
            hours=sum(took or 0.0 for cell in group for took in cell.seconds.values()) / 3600,
        )
        for group in alike.values()
    )
