"""Joins node folders that were copied from several machines into one run directory.

A folder to join is a run directory (with peers.toml; whatever nodes and shards it holds are taken) or one node's own
folder (with status.json). Everything is checked before anything is copied: all must belong to one run, told by its id
and public keys. Of two copies of a node's folder the newer one stays: later boot, then later cycle, then later time.
Secret keys are never copied. Joining again, with more folders or newer ones, is safe.
"""

from __future__ import annotations

import dataclasses
import filecmp
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runs import PEERS_FILE
from topology.errors import InputError
from topology.peers import DEFAULT_DATA, DEFAULT_DIRECTORY, DEFAULT_KEY, Peers, dump_peers, read_peers

_STATUS = "status.json"
_FINISHED = "finished"
_SHARED = ("graph.toml", "settings.toml", "run.json", "shards/test.npz", "shards/split.json")
"""Files of a run directory beside peers.toml, the nodes' folders and their shards."""


@dataclass(frozen=True)
class Collected:
    """What joining did.

    Attributes:
        run_id: The run.
        output: The joined run directory.
        taken: Node -> folder that was copied.
        kept: Nodes whose folder was already there and as new as any other.
        missing: Nodes of the run that no folder holds.
    """

    run_id: str
    output: Path
    taken: dict[int, Path]
    kept: tuple[int, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Standing:
    """How far the nodes of a run are.

    Attributes:
        run_id: The run.
        unfinished: Nodes that have not finished -> their state, such as `training` or `stopped`.
    """

    run_id: str
    unfinished: dict[int, str]


@dataclass(frozen=True, order=True)
class _Folder:
    """A copy of one node's folder; the greater is the newer."""

    boot: int
    cycle: int
    updated_s: float
    node_id: int = dataclasses.field(compare=False)
    run_id: str = dataclasses.field(compare=False)
    path: Path = dataclasses.field(compare=False)
    state: str = dataclasses.field(compare=False)


def collect(sources: Sequence[Path], output: Path) -> Collected:
    """Joins node folders into one run directory.

    Args:
        sources: Run directories and nodes' own folders, at least one of them with the peers file unless `output`
            has it.
        output: The run directory to make or to complete.

    Raises:
        InputError: A source is missing or neither of the two, belongs to another run, holds a link or a key, or a
            shard that differs from the one already there; nothing was copied.
        OSError: Copying failed.
    """
    sources = [source for source in sources if source.resolve() != output.resolve()]
    runs = [peers for source in sources if (peers := _peers_of(source)) is not None]
    target = _target(output, runs)
    _refuse_other_runs(target, runs)
    copies = [folder for source in sources for folder in _folders_of(source, target)]
    own = _folders_of(output, target) if output.exists() and any(output.iterdir()) else []
    for copy in copies:
        _refuse_odd_files(copy.path)
    files = _files(runs, target)
    output.mkdir(parents=True, exist_ok=True)
    if not (output / PEERS_FILE).exists():
        (output / PEERS_FILE).write_text(dump_peers(target), encoding="utf-8")
    for source, place in files:
        if not place.exists():
            _copy_file(source, place)
    taken = _newer(copies, own)
    for node_id, folder in taken.items():
        _replace_folder(folder, target.view(node_id).directory)
    kept = tuple(folder.node_id for folder in own if folder.node_id not in taken)
    missing = tuple(peer.id for peer in target.peers if peer.id not in {*taken, *kept})
    return Collected(target.run_id, output, taken, kept, missing)


def standing(sources: Sequence[Path]) -> Standing:
    """How far the nodes of a run are, by the newest status of each; nothing is copied.

    Args:
        sources: As `collect` takes them, one of them with the peers file. A folder that is not there yet, or without
            a status, is a node's that has not started.

    Raises:
        InputError: No source holds the peers file, or one belongs to another run.
    """
    # A node makes its folder a while before its status.
    marks = (PEERS_FILE, _STATUS)
    there = [source for source in sources if any((source / mark).is_file() for mark in marks)]
    runs = [peers for source in there if (peers := _peers_of(source)) is not None]
    if not runs:
        mend = "a directory with the run's peers.toml among those given"
        raise InputError(sources[0], f"holds no {PEERS_FILE}, and none of the others does", mend)
    _refuse_other_runs(runs[0], runs)
    folders = sorted(folder for source in there for folder in _folders_of(source, runs[0]))
    states = {folder.node_id: folder.state for folder in folders}
    found = {peer.id: states.get(peer.id, "not started") for peer in runs[0].peers}
    return Standing(runs[0].run_id, {node: state for node, state in found.items() if state != _FINISHED})


def _newer(copies: Sequence[_Folder], own: Sequence[_Folder]) -> dict[int, Path]:
    """By node, the newest copy where it is newer than the folder already there."""
    there = {folder.node_id: folder for folder in own}
    newer: dict[int, _Folder] = {}
    for copy in copies:
        rival = newer.get(copy.node_id) or there.get(copy.node_id)
        if rival is None or copy > rival:
            newer[copy.node_id] = copy
    return {node_id: folder.path for node_id, folder in sorted(newer.items())}


def _peers_of(source: Path) -> Peers | None:
    """The peers file of a run directory; None for a node's own folder."""
    if not source.is_dir():
        raise InputError(
            source, "no such directory", "a run directory or one node's folder, as they were copied"
        )
    if (source / PEERS_FILE).is_file():
        return read_peers(source / PEERS_FILE)
    if (source / _STATUS).is_file():
        return None
    mend = "a run directory or one node's folder, as they were copied"
    raise InputError(source, f"holds neither {PEERS_FILE} nor {_STATUS}", mend)


def _target(output: Path, runs: Sequence[Peers]) -> Peers:
    """The peers file of the joined directory, with every path inside it."""
    path = output / PEERS_FILE
    if path.is_file():
        return read_peers(path)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            output, f"is there already, without {PEERS_FILE}", "a new directory or one of this run"
        )
    if not runs:
        mend = "copy the run's peers.toml into one of the directories"
        raise InputError(output, f"none of the directories holds {PEERS_FILE}", mend)
    return dataclasses.replace(
        runs[0], path=path, data=DEFAULT_DATA, key=DEFAULT_KEY, directory=DEFAULT_DIRECTORY
    )


def _refuse_other_runs(target: Peers, runs: Iterable[Peers]) -> None:
    keys = {peer.id: peer.public_key for peer in target.peers}
    for run in runs:
        if run.run_id != target.run_id:
            _refuse(run.path, f"belongs to run {run.run_id!r}", target)
        for peer in run.peers:
            if keys.get(peer.id) != peer.public_key:
                _refuse(run.path, f"node {peer.id} has another public key", target)
        if len(run.peers) != len(keys):
            _refuse(run.path, f"lists {len(run.peers)} nodes", target)


def _refuse(where: Path | None, problem: str, target: Peers) -> None:
    mend = f"only folders of run {target.run_id!r} with its {len(target.peers)} nodes can be joined here"
    raise InputError(where or "peers", problem, mend)


def _folders_of(source: Path, target: Peers) -> list[_Folder]:
    """The nodes' folders in a source, checked to be of the run."""
    peers = _peers_of(source)
    places = [source] if peers is None else [peers.view(peer.id).directory for peer in peers.peers]
    folders = [_read_folder(place) for place in places if (place / _STATUS).is_file()]
    ids = {peer.id for peer in target.peers}
    for folder in folders:
        if folder.run_id != target.run_id:
            _refuse(folder.path / _STATUS, f"belongs to run {folder.run_id!r}", target)
        if folder.node_id not in ids:
            _refuse(folder.path / _STATUS, f"belongs to the unknown node {folder.node_id}", target)
    return folders


def _read_folder(path: Path) -> _Folder:
    mend = "status.json as dgan-node writes it"
    try:
        status: Any = json.loads((path / _STATUS).read_bytes())
        return _Folder(
            boot=int(status["boot"]),
            cycle=int(status["cycle"]),
            updated_s=float(status["updated_s"]),
            node_id=int(status["node_id"]),
            run_id=str(status["run_id"]),
            path=path,
            state=str(status["state"]),
        )
    except KeyError as error:
        raise InputError(path / _STATUS, f"no field {error.args[0]}", mend) from None
    except (ValueError, TypeError) as error:
        raise InputError(path / _STATUS, f"unreadable ({error})", mend) from None


def _files(runs: Sequence[Peers], target: Peers) -> list[tuple[Path, Path]]:
    """Every shard and shared file to copy, with its place; two different shards for one place are refused."""
    pairs: list[tuple[Path, Path]] = []
    for run in runs:
        if run.path is None or target.path is None:
            continue
        pairs += [(run.path.parent / name, target.path.parent / name) for name in _SHARED]
        pairs += [(run.view(peer.id).data, target.view(peer.id).data) for peer in target.peers]
    pairs = [(source, place) for source, place in pairs if source.is_file()]
    first: dict[Path, Path] = {place: place for _, place in pairs if place.is_file()}
    for source, place in pairs:
        other = first.setdefault(place, source)
        if place.suffix == ".npz" and not filecmp.cmp(source, other, shallow=False):
            raise InputError(source, f"differs from {other}", "leave out the one that is not of this run")
    return pairs


def _refuse_odd_files(folder: Path) -> None:
    """A node's folder may come from somebody else: what a copy would follow out of it or never end is refused."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(path, "is no plain file or folder", "take it out: dgan-node makes none")
        if path.suffix == ".key":
            raise InputError(path, "looks like a secret key", "take it out, and make that node a new pair")


def _copy_file(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    shutil.copyfile(source, part)
    part.replace(place)


def _replace_folder(source: Path, place: Path) -> None:
    """Copies a folder whole; what was there before goes only once the copy is complete."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    for leftover in (part, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    shutil.copytree(source, part)
    if place.exists():
        place.replace(old)
    part.replace(place)
    if old.exists():
        shutil.rmtree(old)
