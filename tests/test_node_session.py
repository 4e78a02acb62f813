"""A node's session before its first cycle: what status.json says from the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from eval.collect import collect, standing
from node import session
from node.checkpoint import list_checkpoints, load_newest, save
from node.health import main as health
from node.worker import StopRequestedError
from topology.errors import InputError
from topology.peers import read_peers

MakeRun = Callable[..., Path]


@pytest.fixture
def run_dir(make_toy_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose nodes have saved cycle 30 in epoch 3; a session is told to stop before it goes on."""

    def stop_at_once(*_: object) -> None:
        raise StopRequestedError

    monkeypatch.setattr(session, "_live", stop_at_once)
    # They hold for the whole process, and so for other tests.
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda _: None)
    return make_toy_run(tmp_path / "run")


def started(run_dir: Path, node_id: int) -> dict[str, Any]:
    """The status with which a node starts."""
    peers = run_dir / "peers.toml"
    assert session.run_session(read_peers(peers).view(node_id), peers, Event()) == 0
    return dict(json.loads((run_dir / "nodes" / str(node_id) / "status.json").read_bytes()))


def test_a_new_node_starts_at_cycle_0(run_dir: Path) -> None:
    """And is not ready."""
    shutil.rmtree(run_dir / "nodes")
    status = started(run_dir, 2)
    assert (status["state"], status["ready"], status["starts"]) == ("starting", False, 1)
    assert (status["epoch"], status["cycle"]) == (0, 0)


def test_a_node_that_starts_again_is_where_its_checkpoint_is(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So its folder can be joined and judged from the first moment, and counts as not finished."""
    status = started(run_dir, 2)
    assert (status["state"], status["ready"], status["starts"]) == ("starting", False, 1)
    assert status["boot"] > load_newest(run_dir / "nodes" / "2").meta.boot
    assert (status["epoch"], status["cycle"]) == (3, 30)
    assert standing([run_dir]).unfinished == {2: "starting"}
    assert collect([run_dir], tmp_path / "joined").missing == ()
    assert health([str(run_dir / "nodes")]) == 1
    assert "node 2: starting, not at work\n" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_passed_over_and_the_log_says_so(run_dir: Path) -> None:
    """The node goes on from the one before; the damaged one is set aside for whoever looks at it."""
    directory = run_dir / "nodes" / "2"
    older = load_newest(directory)
    newer = save(directory, replace(older.meta, cycle=40), older.tensors)
    newer.write_bytes(newer.read_bytes()[:-1])
    assert started(run_dir, 2)["cycle"] == 30
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    told = [line["reason"] for line in lines if line["event"] == "checkpoint passed over"]
    assert len(told) == 1
    assert told[0].startswith(f"{newer}: the content does not fit its digest")
    assert list_checkpoints(directory) == [older.path]
    assert newer.with_suffix(".json.torn").exists()


def test_a_node_without_a_valid_checkpoint_refuses_each_time(run_dir: Path) -> None:
    """It would begin at cycle 0 and forget what it has done, which nobody asked for."""
    directory = run_dir / "nodes" / "2"
    (path,) = list_checkpoints(directory)
    path.write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(InputError, match=r"does not fit its digest.*begins at cycle 0"):
            started(run_dir, 2)
    assert list_checkpoints(directory) == [path]
