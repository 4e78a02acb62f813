"""Cells of a study while it goes on, and the files that they leave.

STUDY_DIR/study.json          the study, for `dgan-eval table`
STUDY_DIR/cells/NAME.json     a finished cell: its settings and graph, what it ran on, probe and quality
STUDY_DIR/runs/NAME/          its run directory, which is not needed any more once the file is there
STUDY_DIR/runs/NAME.log       what its commands printed
STUDY_DIR/classifiers/        all training images of the data set, and the classifiers that learnt from them

A cell that has a file is never run again, wherever the file was made: files of one study may be brought together from
several machines.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.history import read_history
from launcher.datasets import load_data
from launcher.live import Status, read_status
from launcher.prepare import RUN_FILE, first_difference, plain_name, source_digest
from launcher.site import make_shard
from launcher.study import Cell, Study
from node.config import validated
from node.files import write_json
from node.shards import save_shard
from topology.errors import InputError
from topology.peers import DEFAULT_DIRECTORY

TRAINING_FAILED, NEIGHBOR_LOST = "TrainingError", "NeighborTimeoutError"
"""What a node's status calls the failures that training brings about: its own, and in lockstep a neighbour's."""
_ENDS = {TRAINING_FAILED: "gave up", NEIGHBOR_LOST: "lost a neighbour"}
_REVISION = ("cpu family", "model", "stepping")
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_fp16", "avx512_bf16", "amx_tile", "amx_bf16")
_ANOTHER = "give another --study-dir, or remove the file to run it again"


class Phase(enum.StrEnum):
    """How far a cell is."""

    WAITING = "waiting"
    TRAINING = "training"
    PROBING = "probing"
    JUDGING = "judging"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


WORK = (Phase.TRAINING, Phase.PROBING, Phase.JUDGING)
"""What is done to a cell, one after the other."""


@dataclass
class Progress:
    """One cell while the study goes on.

    Attributes:
        cell: The cell.
        directory: STUDY_DIR.
        phase: How far it is.
        words: Why it failed.
        base_port: Node `id` listens at `base_port + id`; the cell's own, unless its run was begun with another.
        seconds: What each phase took in this call.
    """

    cell: Cell
    directory: Path
    phase: Phase = Phase.WAITING
    words: str = ""
    base_port: int = 0
    seconds: dict[Phase, float] = field(default_factory=dict)

    @property
    def ports(self) -> set[int]:
        """Where its nodes listen."""
        return {self.base_port + node_id for node_id in self.cell.graph.ids}

    @property
    def run_dir(self) -> Path:
        """Of the cell's run."""
        return self.directory / "runs" / self.cell.name

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.directory / "runs" / f"{self.cell.name}.log"

    @property
    def file(self) -> Path:
        """What was found."""
        return self.directory / "cells" / f"{self.cell.name}.json"

    @property
    def classifiers(self) -> Path:
        """What judges generated images, by digest, for all cells of the study."""
        return self.directory / "classifiers"

    @property
    def labelled(self) -> Path:
        """What they learn from: all training images of the data set, as the cell's settings have them."""
        facts = [self.cell.data, self.cell.settings.image.model_dump(mode="json")]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
        return self.classifiers / f"{plain_name(self.cell.data)}-{digest}.npz"

    @property
    def probe_file(self) -> Path:
        """What `dgan-eval probe` leaves."""
        return self.run_dir / "eval" / "probe.json"

    @property
    def quality_file(self) -> Path:
        """What `dgan-eval quality` leaves."""
        return self.run_dir / "eval" / "quality.json"

    def node_dir(self, node_id: int) -> Path:
        """Where a node of it keeps what it has."""
        return self.run_dir / DEFAULT_DIRECTORY.format(id=node_id)

    def statuses(self) -> dict[int, Status | None]:
        """What each of its nodes says of itself."""
        return {
            node_id: read_status(self.node_dir(node_id) / "status.json") for node_id in self.cell.graph.ids
        }

    def trained(self) -> float:
        """Share of the training that its slowest node has done, 0 to 1."""
        if self.phase in (Phase.PROBING, Phase.JUDGING, Phase.DONE):
            return 1.0
        shares = [
            each.cycle / each.cycles if each and each.cycles else 0.0 for each in self.statuses().values()
        ]
        return min(shares)


def progress_of(study: Study, cells: Sequence[Cell], directory: Path) -> list[Progress]:
    """Where each cell stands before anything is started: those with a file are done.

    Raises:
        InputError: A file in `cells/` belongs to other settings than the study's, or is no such file.
    """
    found = [Progress(cell, directory) for cell in cells]
    _settle_ports(found)
    for each in found:
        if each.file.exists():
            _check_same(study, each)
            each.phase = Phase.DONE
    return found


def write_labelled(cells: Sequence[Progress], *, progress: bool = False) -> None:
    """Makes what classifiers learn from, for the cells that are to be judged; a file that is there is kept.

    A cell whose data set cannot be read, or does not suit its settings, has failed.

    Args:
        cells: Those of a study.
        progress: Whether to show downloads on standard error.
    """
    for each in cells:
        if each.phase is Phase.DONE or each.labelled.exists():
            continue
        try:
            data = load_data(each.cell.data, progress=progress, where=f"{each.cell.name}: data")
            save_shard(each.labelled, make_shard(data, each.cell.settings))
        except InputError as error:
            each.phase, each.words = Phase.FAILED, str(error)


def _settle_ports(cells: Sequence[Progress]) -> None:
    """A run that was begun keeps its ports, although the study's file has changed since; others take none of these."""
    fresh, taken = [], set[int]()
    for each in cells:
        recorded = _recorded_port(each.run_dir)
        each.base_port = each.cell.base_port if recorded is None else recorded
        if recorded is None:
            fresh.append(each)
        else:
            taken |= each.ports
    for each in fresh:
        while taken & each.ports:
            each.base_port = max(taken)
        taken |= each.ports


def _recorded_port(run_dir: Path) -> int | None:
    try:
        return int(json.loads((run_dir / RUN_FILE).read_bytes())["inputs"]["base_port"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_same(study: Study, progress: Progress) -> None:
    """Refuses the file of a cell that was found with other settings, or with another graph, than the study has now."""
    file, now = progress.file, progress.cell.inputs
    try:
        found = json.loads(file.read_bytes())
        recorded = {name: {**found[name]} for name in now}  # each of them a table
    except (ValueError, TypeError, KeyError):
        raise InputError(
            file,
            "no file of a finished cell as this version writes it",
            "remove it, and the cell is run again",
        ) from None
    try:
        difference = first_difference(file, recorded, now, validated)
    except InputError as error:
        raise InputError(file, f"settings that this version does not have ({error})", _ANOTHER) from None
    if difference:
        name, there, here = difference
        problem = f"not what {study.file} gives this cell now: {name} is {there} there and {here} here"
        raise InputError(file, problem, _ANOTHER)


def estimate_s(cells: Sequence[Progress], jobs: int) -> float | None:
    """Seconds until the last cell is done, by what cells took that this call has seen done; None before there is one."""
    times = [sum(each.seconds.values()) for each in cells if each.phase is Phase.DONE and each.seconds]
    if not times:
        return None
    todo: Mapping[Phase, Callable[[Progress], float]] = {
        Phase.WAITING: lambda _: 1.0,
        Phase.TRAINING: lambda each: 1.0 - each.trained(),
    }
    left = sum(todo[each.phase](each) for each in cells if each.phase in todo)
    return left * sum(times) / len(times) / jobs


def write_study(study: Study, directory: Path, command: str) -> None:
    """STUDY_DIR/study.json."""
    found = {
        "name": study.name,
        "command": command,
        "arms": study.arms,
        "variants": study.variants,
        "seeds": study.seeds,
        "comparisons": study.comparisons,
    }
    write_json(directory / "study.json", found)


def write_cell(progress: Progress, command: str, *, whole: bool) -> None:
    """The file of a cell that was trained and judged.

    Args:
        progress: The cell.
        command: What a user types to run it again.
        whole: Whether it was begun in this call, so that its times are known.
    """
    cell, seconds = progress.cell, progress.seconds
    record = json.loads((progress.run_dir / RUN_FILE).read_bytes())
    found = {
        "arm": cell.arm,
        "variant": cell.variant,
        "seed": cell.seed,
        "command": command,
        "machine": machine(),
        "versions": {
            **{name: record.get(name) for name in ("dgan", "python", "torch", "node/")},
            "eval/": source_digest("eval"),
        },
        "seconds": {
            "training": round(seconds[Phase.TRAINING], 1) if whole else None,
            "evaluation": round(seconds[Phase.PROBING] + seconds[Phase.JUDGING], 1),
        },
        "nodes": {
            str(node_id): {**_end(status), **_work(node_id, status, progress.node_dir(node_id))}
            for node_id, status in progress.statuses().items()
        },
        **cell.inputs,
        "probe": _read(progress.probe_file),
        "quality": _read(progress.quality_file),
    }
    write_json(progress.file, found)


def machine() -> dict[str, Any]:
    """What a cell ran on: training is repeated bit for bit only where all of this, but for the cores, is the same."""
    facts: dict[str, str] = {}
    if (file := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":") for line in file.read_text(encoding="utf-8").splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = facts.get("flags", "").split()
    return {
        "processor": facts.get("model name", platform.machine()),
        "revision": [facts[name] for name in _REVISION if name in facts],  # names may be the same for years
        "instructions": [flag for flag in _TELLING_FLAGS if flag in flags],
        "cores": os.cpu_count(),
    }


def _work(node_id: int, status: Status | None, node_dir: Path) -> dict[str, Any]:
    """What its training consisted of; under some policies a node chooses itself, which is an update of G and no choice."""
    history = read_history(node_dir / "metrics.jsonl")
    chosen = status.chosen if status else {}
    neighbors = [count for j, count in chosen.items() if j != node_id]
    return {
        "d_steps": history.d_steps if history else None,
        "g_steps": status.cycle + sum(chosen.values()) if status else None,
        "most_chosen": max(neighbors) / sum(neighbors) if neighbors else None,
        "clamped": history.clamped,
        "own_loss": history.own_loss,
        "chosen_loss": history.chosen_loss if neighbors else None,
    }


def _end(status: Status | None) -> dict[str, Any]:
    if status is None:
        return {"state": "never started", "cycle": 0, "restarts": 0, "error": None}
    state = _ENDS.get(status.failure or "", "failed") if status.error else status.state
    return {
        "state": state,
        "cycle": status.cycle,
        "restarts": max(status.starts - 1, 0),
        "error": status.error,
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.exists() else None
