"""The whole way, by the commands alone: graph, run, kill, probe, quality, collect, report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import free_ports
from node.shards import load_shard

pytestmark = pytest.mark.system


def command(folder: Path, package: str, *words: str) -> str:
    """Standard output of one of the project's commands, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", package, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_a_graph_to_a_report(tmp_path: Path) -> None:
    """Four nodes on the embedded digits: disjoint shards, features of every layer, a report with every node in it."""
    (tmp_path / "ring.toml").write_text(
        command(tmp_path, "launcher", "graph", "ring", "--nodes", "4"), encoding="utf-8"
    )
    ports = str(free_ports(5))
    words = [
        "run",
        "ring.toml",
        "--epochs",
        "4",
        "--run-dir",
        "runs/ring",
        "--base-port",
        ports,
        "--lockstep",
    ]
    assert "finished: all 4 nodes" in command(tmp_path, "launcher", *words)

    run = tmp_path / "runs" / "ring"
    held = [load_shard(run / "shards" / f"node-{node_id}.npz").index for node_id in (1, 2, 3, 4)]
    positions = np.concatenate([index for index in held if index is not None])
    assert len(set(positions.tolist())) == len(positions) == 1437
    status = json.loads((run / "nodes" / "1" / "status.json").read_text(encoding="utf-8"))
    assert set(status["neighbors"]) == {"2", "4"}
    assert set(status["chosen"]) <= {"2", "4"}

    found = json.loads(command(tmp_path, "eval", "probe", "runs/ring", "--json"))[0]
    headline = next(row for row in found["rows"] if row["headline"])
    assert [node["node"] for node in headline["nodes"]] == [1, 2, 3, 4]
    assert {node["features"] for node in headline["nodes"]} == {1024 + 48 + 1}
    assert {row["source"] for row in found["rows"]} == {"discriminator", "untrained", "pixels"}
    assert all(0 < node["error"] < 50 for node in headline["nodes"])
    quality = json.loads(command(tmp_path, "eval", "quality", "runs/ring", "--json"))[0]
    assert [node["node"] for node in quality["nodes"]] == [1, 2, 3, 4]
    command(tmp_path, "eval", "report", "runs/ring")
    page = (run / "eval" / "report.html").read_text(encoding="utf-8")
    assert all(f"node {node_id}" in page for node_id in (1, 2, 3, 4))
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:' in page


def test_folders_of_two_machines_are_joined_and_judged(tmp_path: Path) -> None:
    """Each machine has the peers file and its own node; the join holds both, and says who is missing before."""
    (tmp_path / "pair.toml").write_text('name = "pair"\nedges = [[3, 4]]\n', encoding="utf-8")
    ports = str(free_ports(6))
    words = [
        "run",
        "pair.toml",
        "--epochs",
        "2",
        "--run-dir",
        "whole",
        "--base-port",
        ports,
        "--policy",
        "uniform",
    ]
    command(tmp_path, "launcher", *words)
    for mine, other in ((3, 4), (4, 3)):
        shutil.copytree(tmp_path / "whole", tmp_path / f"machine-{mine}")
        shutil.rmtree(tmp_path / f"machine-{mine}" / "nodes" / str(other))
        (tmp_path / f"machine-{mine}" / "keys" / f"node-{other}.key").unlink()
        (tmp_path / f"machine-{mine}" / "shards" / f"node-{other}.npz").unlink()
    assert "4" in command(tmp_path, "eval", "collect", "machine-3", "-o", "joined")
    command(tmp_path, "eval", "collect", "machine-4", "-o", "joined")
    found = json.loads(command(tmp_path, "eval", "probe", "joined", "--json", "--no-floors"))[0]
    assert [node["node"] for node in found["rows"][0]["nodes"]] == [3, 4]
    assert not list((tmp_path / "joined").glob("keys/*"))
