"""Handing a prepared run out: each machine gets what it needs, and nothing of another's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

import launcher.prepare
from launcher.datasets import DataSet
from launcher.handout import hand_out
from launcher.plan import Request
from launcher.prepare import draft_run, locked, write_run
from node.config import resolve
from node.shards import load_shard
from topology.errors import InputError
from topology.files import read_graph
from topology.graph import ring
from topology.peers import read_peers
from transport.errors import LocalError
from transport.keys import load_keys, make_keys, save_keys

IDS = (1, 2, 3)


def prepared(run_dir: Path) -> Path:
    """A run of three on 40 noise images each."""
    request = Request(
        graph=ring(3),
        data="digits",
        settings=resolve("test", {"split": {"images_per_node": 40}}),
        base_port=7000,
        run_dir=run_dir,
    )
    draft = draft_run(Path("ring.toml"), request)
    with locked(run_dir):
        write_run(draft)
    return run_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two prepared run directories, which no test changes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (220, 8, 8, 1), dtype=np.uint8), rng.integers(0, 10, 220)
    noise = DataSet("digits", (images[:200], labels[:200]), (images[200:], labels[200:]), tuple("0123456789"))
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher.prepare, "load_data", lambda *_, **__: noise)
        return prepared(folder / "run"), prepared(folder / "other")


@pytest.fixture
def run_dir(runs: tuple[Path, Path]) -> Path:
    """The first of the two."""
    return runs[0]


@pytest.fixture
def machines(run_dir: Path, tmp_path: Path) -> Path:
    """The run handed out."""
    hand_out(run_dir, IDS, tmp_path / "machines")
    return tmp_path / "machines"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file in a folder, and every folder as None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def stamps(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What tells whether a file or folder was touched."""
    return {
        path: (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        for path in [folder, *folder.rglob("*")]
        for found in [path.stat()]
    }


def test_a_node_gets_its_own_three_files_and_a_folder_to_write_in(run_dir: Path, machines: Path) -> None:
    """Unchanged, and no other file."""
    for node_id in IDS:
        names = ("peers.toml", f"shards/node-{node_id}.npz", f"keys/node-{node_id}.key")
        folders = dict.fromkeys(("shards", "keys", "nodes"))
        assert contents(machines / str(node_id)) == folders | {
            name: (run_dir / name).read_bytes() for name in names
        }


def test_the_evaluator_gets_the_shards_and_what_describes_the_run(run_dir: Path, machines: Path) -> None:
    """Every shard with the test images, and no folder for keys."""
    names = {"peers.toml", "graph.toml", "settings.toml", "run.json", "shards/test.npz", "shards/split.json"}
    names |= {f"shards/node-{node_id}.npz" for node_id in IDS}
    assert contents(machines / "evaluator") == {"shards": None} | {
        name: (run_dir / name).read_bytes() for name in names
    }
    assert {path.name for path in machines.iterdir()} == {"1", "2", "3", "evaluator"}


def test_a_secret_key_reaches_its_own_node_alone(run_dir: Path, machines: Path) -> None:
    """In whatever file it might hide."""
    for node_id in IDS:
        secret = load_keys(run_dir / "keys" / f"node-{node_id}.key").secret.encode()
        holders = [path for path in machines.rglob("*") if path.is_file() and secret in path.read_bytes()]
        assert holders == [machines / str(node_id) / "keys" / f"node-{node_id}.key"]


def test_a_node_finds_all_it_needs_in_its_folder(run_dir: Path, machines: Path) -> None:
    """By the paths in peers.toml; the evaluator finds the shards and the graph."""
    for node_id in IDS:
        view = read_peers(machines / str(node_id) / "peers.toml").view(node_id)
        assert load_keys(view.key).public == view.me.public_key
        assert len(load_shard(view.data)) == 40
        assert view.directory.parent.is_dir()
        assert read_peers(machines / "evaluator" / "peers.toml").view(node_id).data.is_file()
    assert read_graph(machines / "evaluator" / "graph.toml") == read_graph(run_dir / "graph.toml")


@pytest.mark.parametrize(("user", "group", "mode"), [(0, 0, 0o600), (1000, 1000, 0o600), (0, 1000, 0o640)])
def test_keys_and_new_folders_are_private(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, group: int, mode: int
) -> None:
    """A key also opens to a service's group where root works in it; a folder already there keeps its mode."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: group)
    machines = tmp_path / "machines"
    (machines / "2").mkdir(parents=True)
    (machines / "2").chmod(0o755)
    hand_out(run_dir, IDS, machines)
    keys = [machines / str(node_id) / "keys" / f"node-{node_id}.key" for node_id in IDS]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {mode}
    folders = {path.name: stat.S_IMODE(path.stat().st_mode) for path in machines.iterdir()}
    assert folders == {"1": 0o700, "2": 0o755, "3": 0o700, "evaluator": 0o700}


def test_handing_out_twice_touches_nothing(run_dir: Path, machines: Path) -> None:
    """Not even the time of a file or folder; what a node has written meanwhile stays too."""
    (machines / "3" / "nodes" / "3").mkdir()
    (machines / "3" / "nodes" / "3" / "status.json").write_text("{}")
    before, run_before = stamps(machines), stamps(run_dir)
    hand_out(run_dir, IDS, machines)
    assert stamps(machines) == before
    assert stamps(run_dir) == run_before


@pytest.mark.parametrize(
    "name", ["1/peers.toml", "2/shards/node-2.npz", "3/keys/node-3.key", "evaluator/shards/test.npz"]
)
def test_what_a_failed_call_left_out_comes_with_the_next(run_dir: Path, machines: Path, name: str) -> None:
    """And nothing else is touched."""
    whole, before = contents(machines), stamps(machines)
    (machines / name).unlink()
    hand_out(run_dir, IDS, machines)
    assert contents(machines) == whole
    after = stamps(machines)
    changed = {path.relative_to(machines).as_posix() for path in before if before[path] != after[path]}
    assert changed == {name, Path(name).parent.as_posix()}


def test_a_damaged_shard_is_replaced(run_dir: Path, machines: Path) -> None:
    """A copy that was cut short."""
    whole = contents(machines)
    (machines / "2" / "shards" / "node-2.npz").write_bytes(b"short")
    hand_out(run_dir, IDS, machines)
    assert contents(machines) == whole


@pytest.mark.parametrize("folder", ["1", "3", "evaluator"])
def test_a_folder_of_another_run_is_refused_before_anything_is_written(
    runs: tuple[Path, Path], tmp_path: Path, folder: str
) -> None:
    """Whichever of them it is, none of the others is begun."""
    run_dir, other = runs
    hand_out(other, IDS, tmp_path / "of-other")
    machines = tmp_path / "machines"
    machines.mkdir()
    (tmp_path / "of-other" / folder).rename(machines / folder)
    before = stamps(machines)
    with pytest.raises(
        InputError,
        match=rf"machines/{folder}/peers\.toml: is not of the run in .*/run; hand out into another",
    ):
        hand_out(run_dir, IDS, machines)
    assert stamps(machines) == before


def test_another_key_is_never_overwritten(run_dir: Path, machines: Path) -> None:
    """Nor is one that others could read taken for the node's."""
    key = machines / "2" / "keys" / "node-2.key"
    key.unlink()
    save_keys(key, make_keys())
    before = key.read_bytes()
    with pytest.raises(LocalError, match=r"machines/2/keys/node-2\.key: holds another key than"):
        hand_out(run_dir, IDS, machines)
    assert key.read_bytes() == before
