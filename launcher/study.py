"""A study: arms (who learns from whom) x variants (data, graphs, sizes) x seeds, each cell a run; pure.

    name = "table1"
    graph = "../paper-ring.toml"          # beside this file
    data = "mnist"
    seeds = [0, 1, 2, 3, 4]
    comparisons = [["info-gain", "uniform"]]
    neighborhood = true                   # probe own and neighbours' features together too
    [settings]                            # of every cell, as `dgan-launch run --settings` takes them
    preset = "paper"
    [arms.uniform]                        # on top of them; also `graph`, of the same nodes
    policy = "uniform"
    [variants.two-classes]                # may be left out; may name `graph` and `data`; an arm's settings win
    split = {rule = "classes"}

A cell's name, such as `uniform.two-classes.s3`, is its run's directory and its file's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field

from launcher.datasets import DATA_SETS
from node.config import Settings, merge, resolve
from topology.checks import MAX_PORT
from topology.errors import InputError
from topology.files import read_graph
from topology.graph import Graph
from topology.tables import Table, read_toml

ONLY_VARIANT = "all"
"""Name of the one variant of a study that lists none."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class StudyFile(Table):
    """What stands in a study's file; see the module."""

    name: str
    graph: str | None = None
    data: str = "digits"
    seeds: list[int] = Field(min_length=1)
    comparisons: list[list[str]] = Field(default_factory=list)
    neighborhood: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        arm: Name of its arm.
        variant: Name of its variant.
        seed: Of the split and of every stream.
        graph_file: Its network.
        graph: The same, read.
        data: A data set's name, or a folder.
        layer: Its settings as nested tables, without those that only defaults and the preset name.
        settings: All of them.
        base_port: Node `id` listens at `base_port + id`.
        floors: Whether its floors are probed: all arms of a variant and seed share them.
    """

    arm: str
    variant: str
    seed: int
    graph_file: Path
    graph: Graph
    data: str
    layer: Mapping[str, Any]
    settings: Settings
    base_port: int
    floors: bool

    @property
    def name(self) -> str:
        """`arm.variant.s0`."""
        return f"{self.arm}.{self.variant}.s{self.seed}"

    @property
    def inputs(self) -> dict[str, Any]:
        """What its outcome depends on, the place of the data left out, as JSON."""
        edges = [list(edge) for edge in self.graph.edges]
        nodes = {str(node.id): node.architecture for node in self.graph.nodes}
        settings = self.settings.model_dump(mode="json")
        return {"graph": {"edges": edges, "nodes": nodes}, "settings": settings}

    def settings_toml(self) -> str:
        """Its settings as a file for `dgan-launch run --settings`."""
        return tomli_w.dumps(self.layer)


@dataclass(frozen=True)
class Study:
    """All cells, in the order in which they are run: every arm of the first seed before the second seed's.

    Attributes:
        file: Where it stands.
        name: Its name.
        arms: Names, in the file's order.
        variants: The same.
        seeds: The same.
        comparisons: Pairs of arms: the first is compared with the second.
        neighborhood: Whether the features of neighbours' discriminators are probed too.
        cells: All of them.
    """

    file: Path
    name: str
    arms: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    comparisons: tuple[tuple[str, str], ...]
    neighborhood: bool
    cells: tuple[Cell, ...]

    def chosen(self, names: Sequence[str]) -> tuple[Cell, ...]:
        """The cells of these names; all of them where none is named.

        Raises:
            InputError: There is no such cell.
        """
        by_name = {cell.name: cell for cell in self.cells}
        for name in names:
            if name not in by_name:
                raise InputError(
                    "--only", f"{name!r} is no cell of this study", f"such as {next(iter(by_name))}"
                )
        return tuple(by_name[name] for name in names) if names else self.cells


def read_study(path: Path, *, data: str | None, base_port: int) -> Study:
    """The study in a file, every cell of it checked.

    Args:
        path: The file.
        data: Instead of the file's own `data`, where given; variants that name theirs keep it.
        base_port: Nodes of the first cell listen above this port, those of the next one above these.

    Raises:
        InputError: The file is none, something in it is not right, or arms of a variant are no pair.
    """
    found = read_toml(path, StudyFile)
    variants = found.variants or {ONLY_VARIANT: {}}
    _check_file(path, found)
    base = {"graph": found.graph, "data": data or found.data, **found.settings}
    cells: list[Cell] = []
    shared: dict[tuple[int, str], Cell] = {}
    for seed in found.seeds:
        for variant, over in variants.items():
            for arm, own in found.arms.items():
                table = merge(merge(base, over), {**own, "seed": seed})
                port = base_port + sum(max(cell.graph.ids) for cell in cells)
                cell = _cell(path, arm, variant, table, port)
                first = shared.setdefault((seed, variant), cell)
                _check_alike(path, cell, first)
                cells.append(replace(cell, floors=cell is first))
    if (highest := cells[-1].base_port + max(cells[-1].graph.ids)) > MAX_PORT:
        raise InputError(
            "--base-port", f"{base_port} and {len(cells)} cells need ports up to {highest}", "a lower one"
        )
    return Study(
        file=path,
        name=found.name,
        arms=tuple(found.arms),
        variants=tuple(variants),
        seeds=tuple(found.seeds),
        comparisons=_comparisons(path, found),
        neighborhood=found.neighborhood,
        cells=tuple(cells),
    )


def _check_file(path: Path, found: StudyFile) -> None:
    for field, names in (("name", [found.name]), ("arms", found.arms), ("variants", found.variants)):
        for name in names:
            if not _NAME.fullmatch(name):
                mend = "small letters, digits and hyphens, 32 at most"
                raise InputError(path, f"{field}: {name!r} is no name for files", mend)
    if misplaced := sorted({"data", "graph"} & found.settings.keys()):
        raise InputError(path, f"settings: {misplaced[0]} is no setting", "move it above the first [table]")
    if len(set(found.seeds)) < len(found.seeds):
        raise InputError(path, f"seeds = {found.seeds}", "name each once")


def _cell(path: Path, arm: str, variant: str, table: dict[str, Any], base_port: int) -> Cell:
    where = f"{path}: {arm}.{variant}"
    graph, data = table.pop("graph"), table.pop("data")
    if not isinstance(graph, str):
        raise InputError(where, f"graph = {graph!r}", "a graph file, named as seen from the study's own file")
    if not isinstance(data, str) or not data:
        raise InputError(where, f"data = {data!r}", f"{', '.join(DATA_SETS)}, or a folder")
    file = path.parent / graph
    settings = resolve(where, table)
    return Cell(
        arm=arm,
        variant=variant,
        seed=settings.seed,
        graph_file=file,
        graph=read_graph(file),
        data=data,
        layer=table,
        settings=settings,
        base_port=base_port,
        floors=True,
    )


def _check_alike(path: Path, cell: Cell, first: Cell) -> None:
    """Refuses arms of a variant that are no pair: of other shards or other networks, and so with other floors.

    Args:
        path: The study's file.
        cell: An arm.
        first: The first arm of the same variant and seed.
    """
    told, expected = _compared(cell), _compared(first)
    for name in told:
        if told[name] != expected[name]:
            raise InputError(
                path,
                f"{cell.arm}.{cell.variant}: {name} is not that of {first.arm}.{first.variant}",
                "arms of one variant are compared node by node: make what differs there a variant",
            )


def _compared(cell: Cell) -> dict[str, Any]:
    """What the shards and the floors of a cell depend on, but for its seed; by name."""
    settings = cell.settings
    return {
        "data": cell.data,
        "image": settings.image,
        "split": settings.split,
        "architecture": settings.architecture,
        "discriminator.initialisation": settings.discriminator.initialisation,
        "graph: nodes": [(node.id, node.architecture) for node in cell.graph.nodes],
    }


def _comparisons(path: Path, found: StudyFile) -> tuple[tuple[str, str], ...]:
    pairs = []
    for pair in found.comparisons:
        if len(pair) != 2 or len(set(pair) & set(found.arms)) != 2:  # noqa: PLR2004 - one arm and what it is compared with
            raise InputError(path, f"comparisons: {pair}", f"two of the arms {', '.join(found.arms)}")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)
