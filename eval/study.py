"""A study as `dgan-launch study` leaves it: STUDY_DIR/study.json and a file in STUDY_DIR/cells for each cell that has ended.

A cell is one training of all nodes: one arm (such as `uniform`) of one variant (such as `iid`) from one seed. Arms of one
variant and seed share their shards. A study may be read while it runs: cells without a file have not ended yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from eval.results import ProbeResult, QualityResult, read_json
from topology.errors import InputError

STUDY_FILE, CELLS = "study.json", "cells"
_COMMAND = "dgan-launch study"


@dataclass(frozen=True)
class Plan:
    """study.json: what shall be trained.

    Attributes:
        name: Of the study.
        command: What trains it.
        arms: What is compared, in the order of the columns.
        variants: Such as splits of the data; each makes a table of its own.
        seeds: Each trains every arm of every variant once.
        comparisons: Pairs of arms, the one that is hoped to be better first.
    """

    name: str
    command: str
    arms: Annotated[tuple[str, ...], Field(min_length=1)]
    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    comparisons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NodeEnd:
    """How one node's training ended.

    Attributes:
        state: `finished`, or why it did not.
        cycle: Last turn of Algorithm 1, where known.
        restarts: How often it was started again.
        error: What it said at the end, if it failed.
        d_steps: Updates of its discriminator, where they were counted.
        g_steps: The same of its generator.
        most_chosen: Share of the neighbour that it chose most often, where it chose.
        clamped: Share of the neighbours' values that the criterion had below 0, where it weighed.
        own_loss: Loss of its G by its own D, the mean over cycles, where they were counted.
        chosen_loss: The same by the neighbour's D that it chose, where it chose.
    """

    state: str
    cycle: int | None
    restarts: int
    error: str | None
    d_steps: int | None = None
    g_steps: int | None = None
    most_chosen: float | None = None
    clamped: float | None = None
    own_loss: float | None = None
    chosen_loss: float | None = None


@dataclass(frozen=True)
class Cell:
    """A file of cells/: one training of all nodes and what came of it.

    Attributes:
        arm: Name of the arm.
        variant: Name of the variant.
        seed: Of the split and of the training.
        command: What trained it.
        machine: Where it was trained.
        versions: By what code: versions of packages, and digests of the sources of `node/` and `eval/`.
        settings: Complete, as `node.config.Settings` dumps them.
        seconds: Time of each stage; None where it was interrupted.
        nodes: How each ended, by id.
        probe: Errors; None where nothing could be probed.
        quality: Of the generated images; None where nothing could be judged.
    """

    arm: str
    variant: str
    seed: int
    command: str
    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    seconds: dict[str, float | None]
    nodes: dict[int, NodeEnd]
    probe: ProbeResult | None
    quality: QualityResult | None

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return _name(self.arm, self.variant, self.seed)


@dataclass(frozen=True)
class Study:
    """What a directory holds so far.

    Attributes:
        plan: What shall be trained.
        cells: Those that have ended, by variant, then arm, then seed, each in the order of the plan.
        missing: Names of the others.
    """

    plan: Plan
    cells: tuple[Cell, ...]
    missing: tuple[str, ...]

    def of(self, variant: str, arm: str | None = None) -> tuple[Cell, ...]:
        """The cells of a variant, or of one arm of it."""
        return tuple(cell for cell in self.cells if cell.variant == variant and arm in (None, cell.arm))


def read_study(directory: Path) -> Study:
    """Reads a study, whether it has ended or not.

    Raises:
        InputError: The directory holds no study, or a file in it does not hold what it should.
    """
    plan = _read_plan(directory / STUDY_FILE)
    cells: list[Cell] = []
    missing: list[str] = []
    for arm, variant, seed in _places(plan):
        name = _name(arm, variant, seed)
        path = directory / CELLS / f"{name}.json"
        cell = read_json(path, Cell, _COMMAND)
        if cell is None:
            missing.append(name)
        elif cell.name != name:
            problem = f"is of cell {cell.name!r}, not of {name!r}"
            raise InputError(path, problem, "remove it and do `dgan-launch study` again")
        else:
            cells.append(cell)
    return Study(plan, tuple(cells), tuple(missing))


def _read_plan(path: Path) -> Plan:
    plan = read_json(path, Plan, _COMMAND)
    if plan is None:
        raise InputError(path, "no such file", "name the directory that `dgan-launch study` made")
    for arm in (arm for pair in plan.comparisons for arm in pair):
        if arm not in plan.arms:
            raise InputError(path, f"comparisons: {arm!r} is no arm", f"one of {', '.join(plan.arms)}")
    return plan


def _places(plan: Plan) -> Iterator[tuple[str, str, int]]:
    for variant in plan.variants:
        for arm in plan.arms:
            yield from ((arm, variant, seed) for seed in plan.seeds)


def _name(arm: str, variant: str, seed: int) -> str:
    return f"{arm}.{variant}.s{seed}"
