"""Hands the parts of a prepared run out: to each node what its machine needs and no more, to the evaluator the rest.

One folder for each:

    DIR/3/          peers.toml  shards/node-3.npz  keys/node-3.key  nodes/
    DIR/evaluator/  peers.toml  graph.toml  settings.toml  run.json  shards/     every shard, no key
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from node.files import write_atomically
from topology.errors import InputError
from topology.peers import DEFAULT_DATA, DEFAULT_DIRECTORY, DEFAULT_KEY
from transport.keys import hand_over

EVALUATOR = "evaluator"
_PEERS = "peers.toml"
_FOLDER_MODE = 0o700  # a new folder holds private images


def hand_out(run_dir: Path, node_ids: Sequence[int], target: Path) -> None:
    """Copies the files of a prepared run into folders in `target`; those that are there already stay.

    Args:
        run_dir: The complete run directory.
        node_ids: Its nodes.
        target: Where the folders are made, or stand already as the mount points of a container.

    Raises:
        InputError: A folder holds the files of another run; nothing was copied.
        LocalError: A folder holds another key.
        OSError: A folder cannot be written.
    """
    folders = {target / str(node_id): node_id for node_id in node_ids}
    for folder in (*folders, target / EVALUATOR):
        _check_same_run(run_dir, folder)
    for folder, node_id in folders.items():
        _copy(run_dir, folder, [DEFAULT_DATA.format(id=node_id)])
        key = DEFAULT_KEY.format(id=node_id)
        hand_over(run_dir / key, folder / key)
        (folder / DEFAULT_DIRECTORY.format(id=node_id)).parent.mkdir(exist_ok=True)
        _copy(run_dir, folder, [_PEERS])
    shards = [path.relative_to(run_dir).as_posix() for path in sorted((run_dir / "shards").iterdir())]
    _copy(run_dir, target / EVALUATOR, ["graph.toml", "settings.toml", "run.json", *shards, _PEERS])


def _check_same_run(run_dir: Path, folder: Path) -> None:
    peers = folder / _PEERS
    if peers.exists() and peers.read_bytes() != (run_dir / _PEERS).read_bytes():
        raise InputError(
            peers, f"is not of the run in {run_dir}", "hand out into another folder, or remove this one"
        )


def _copy(run_dir: Path, folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    for name in names:
        place, data = folder / name, (run_dir / name).read_bytes()
        if place.exists() and place.read_bytes() == data:
            continue
        place.parent.mkdir(exist_ok=True)
        write_atomically(place, data)
