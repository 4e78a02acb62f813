"""Run directories: made whole, made once, and refused to another run."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import launcher.prepare
from launcher.datasets import DataSet
from launcher.plan import Request
from launcher.prepare import draft_run, locked, write_run
from node.config import resolve
from topology.errors import InputError
from topology.files import read_graph
from topology.graph import NodeSpec, ring
from topology.peers import read_peers
from transport.keys import load_keys

GRAPH_FILE = Path("ring.toml")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A ring of three on a data set of 200 noise images."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (220, 8, 8, 1), dtype=np.uint8), rng.integers(0, 10, 220)
    noise = DataSet("digits", (images[:200], labels[:200]), (images[200:], labels[200:]), tuple("0123456789"))
    monkeypatch.setattr(launcher.prepare, "load_data", lambda *_, **__: noise)
    return Request(
        graph=ring(3),
        data="digits",
        settings=resolve("test", {"split": {"images_per_node": 40}}),
        base_port=7000,
        run_dir=tmp_path / "run",
    )


def make(request: Request) -> None:
    """Drafts and writes a run."""
    draft = draft_run(GRAPH_FILE, request)
    with locked(request.run_dir):
        write_run(draft)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file in a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_a_draft_touches_no_disk(asked: Request) -> None:
    """Everything is checked and counted before the first byte is written."""
    draft = draft_run(GRAPH_FILE, asked)
    assert [node.images for node in draft.plan.nodes] == [40, 40, 40]
    assert draft.is_new
    assert not asked.run_dir.exists()


def test_a_run_directory_holds_all_that_nodes_need(asked: Request) -> None:
    """Each node's view resolves to its own shard, key and folder, with complete settings."""
    make(asked)
    peers = read_peers(asked.run_dir / "peers.toml")
    view = peers.view(2)
    assert [peer.id for peer in view.neighbors] == [1, 3]
    assert view.me.public_key == load_keys(view.key).public
    assert view.key.stat().st_mode & 0o077 == 0
    with np.load(view.data) as shard:
        assert shard["images"].shape == (40, 8, 8, 1)
    settings = resolve("peers.toml", view.settings)
    assert (settings.image.size, settings.image.channels) == (8, 1)
    stored = resolve("settings.toml", launcher.prepare.settings_layer(asked.run_dir / "settings.toml"))
    assert stored == settings
    assert stored.split.images_per_node == 40
    assert read_graph(asked.run_dir / "graph.toml") == asked.graph
    record = json.loads((asked.run_dir / "run.json").read_text())
    assert record["run_id"] == peers.run_id
    assert record["run_id"].startswith("run-")
    assert record["data"] == {"name": "digits", "argument": "digits"}
    assert record["graph"] == "ring-3"
    assert {"created", "python", "torch"} <= record.keys()


def test_the_same_inputs_twice_change_nothing(asked: Request) -> None:
    """Not a byte; and the data set is not needed again."""
    make(asked)
    before = contents(asked.run_dir)
    draft = draft_run(GRAPH_FILE, asked)
    assert not draft.is_new
    assert [node.images for node in draft.plan.nodes] == [40, 40, 40]
    make(asked)
    assert contents(asked.run_dir) == before


def _other(asked: Request, field: str) -> Request:
    changes: dict[str, dict[str, Any]] = {
        "epochs": {"settings": resolve("t", {"epochs": 3, "split": {"images_per_node": 40}})},
        "split.images_per_node": {"settings": resolve("t", {"split": {"images_per_node": 50}})},
        "architecture.mine.latent_size": {
            "settings": resolve(
                "t", {"architecture": {"mine": {"latent_size": 7}}, "split": {"images_per_node": 40}}
            ),
        },
        "base_port": {"base_port": 8000},
        "data": {"data": "/elsewhere"},
        "graph.edges": {"graph": replace(asked.graph, edges=((1, 2), (2, 3)))},
        "graph.node.2.architecture": {
            "graph": replace(asked.graph, nodes=(NodeSpec(1), NodeSpec(2, architecture="wide"), NodeSpec(3))),
        },
    }
    return replace(asked, **changes[field])


@pytest.mark.parametrize(
    "field",
    [
        "epochs",
        "split.images_per_node",
        "architecture.mine",
        "base_port",
        "data",
        "graph.edges",
        "graph.node.2.architecture",
    ],
)
def test_another_run_is_refused_by_the_field_that_differs(asked: Request, field: str) -> None:
    """And nothing in the directory changes."""
    make(asked)
    before = contents(asked.run_dir)
    name = "architecture.mine.latent_size" if field == "architecture.mine" else field
    with pytest.raises(InputError, match=rf"belongs to another run: {field}[a-z_.]* is .* there and .* here"):
        draft_run(GRAPH_FILE, _other(asked, name))
    assert contents(asked.run_dir) == before


@pytest.mark.parametrize(
    ("step", "nodes"), [("prepare_shards", 4), ("save_keys", 3), ("dump_peers", 4), ("_versions", 3)]
)
def test_a_call_that_failed_half_way_does_not_hinder_the_next(
    asked: Request, monkeypatch: pytest.MonkeyPatch, step: str, nodes: int
) -> None:
    """Whatever was written when the disk was full: the next call, even for other nodes, makes a whole directory."""
    whole = getattr(launcher.prepare, step)

    def full_disk(*arguments: Any) -> None:
        if step == "prepare_shards":
            whole(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(launcher.prepare, step, full_disk)
        with pytest.raises(OSError, match="No space"):
            make(asked)
    assert not (asked.run_dir / "run.json").exists()
    keys = {path.name: path.read_bytes() for path in (asked.run_dir / "keys").glob("*.key")}
    again = replace(asked, graph=ring(nodes))
    make(again)
    assert read_peers(asked.run_dir / "peers.toml").view(nodes).data.exists()
    assert len(list((asked.run_dir / "shards").glob("node-*.npz"))) == nodes
    for name, key in keys.items():
        assert (asked.run_dir / "keys" / name).read_bytes() == key


def test_a_directory_of_somebody_else_is_refused(asked: Request) -> None:
    """Nothing is written beside files that no run made."""
    asked.run_dir.mkdir()
    (asked.run_dir / "peers.toml").write_text("by hand")
    with pytest.raises(InputError, match=r"not a run directory: it holds peers.toml and no run.json"):
        draft_run(GRAPH_FILE, asked)


def test_a_run_dir_that_is_a_file_is_refused(asked: Request) -> None:
    """A file is no directory."""
    asked.run_dir.write_text("")
    with pytest.raises(InputError, match="not a directory"):
        draft_run(GRAPH_FILE, asked)


def test_checkpoints_without_run_json_are_never_taken_for_a_new_run(asked: Request) -> None:
    """A lost run.json is to be restored; a fresh one would orphan the checkpoints."""
    make(asked)
    (asked.run_dir / "nodes").mkdir()
    (asked.run_dir / "run.json").unlink()
    with pytest.raises(InputError, match="missing although nodes have run here"):
        draft_run(GRAPH_FILE, asked)


@pytest.mark.parametrize(
    "name", ["keys/node-2.key", "shards/node-3.npz", "shards/split.json", "settings.toml", "peers.toml"]
)
def test_a_prepared_directory_with_a_file_missing_is_refused(asked: Request, name: str) -> None:
    """Before any node starts."""
    make(asked)
    (asked.run_dir / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: missing from a prepared run directory"):
        draft_run(GRAPH_FILE, asked)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"inputs": {"settings": {"epoch": 3}}}'])
def test_a_damaged_run_json_is_one_line(asked: Request, text: str) -> None:
    """Torn, of another shape, or with a setting that does not exist."""
    make(asked)
    (asked.run_dir / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json: "):
        draft_run(GRAPH_FILE, asked)


def test_two_launchers_on_one_directory_are_one_too_many(asked: Request) -> None:
    """The second is refused while the first works, and welcome afterwards."""
    second = locked(asked.run_dir)
    with locked(asked.run_dir), pytest.raises(InputError, match="another dgan-launch is at work"):
        second.__enter__()
    with locked(asked.run_dir):
        pass


def test_a_directory_made_since_the_draft_is_left_alone(asked: Request) -> None:
    """The slower of two first calls is told to come again."""
    draft = draft_run(GRAPH_FILE, asked)
    make(asked)
    before = contents(asked.run_dir)
    with pytest.raises(InputError, match="give the same command again"), locked(asked.run_dir):
        write_run(draft)
    assert contents(asked.run_dir) == before
