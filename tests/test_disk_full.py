"""Real nodes on a small disk that fills up: they go on, say so, and recover when there is room."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import NodeProcess, started, wait_until, write_run
from node.checkpoint import list_checkpoints, load_newest
from node.files import append_line
from topology.graph import complete

SIZE_BYTES = 2_000_000

pytestmark = pytest.mark.system


class SmallDisk:
    """A disk of 2 MB in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self) -> None:
        """Leaves no room, however often that takes while a node works."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Makes room."""
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mounted where node 1 of a run in `tmp_path` writes."""
    root = tmp_path / "nodes" / "1"
    root.mkdir(parents=True)
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(root)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def degraded(node: NodeProcess) -> dict[str, Any]:
    """What a node cannot write."""
    return dict(node.status().get("degraded", {}))


def fill(disk: SmallDisk, node: NodeProcess, *what: str) -> None:
    """Fills the disk until the node says that it cannot write these."""

    def complains() -> bool:
        disk.fill()
        return set(what) <= degraded(node).keys()

    wait_until(complains, what=f"{what} in degraded")


def test_a_node_on_a_full_disk_trains_on_and_saves_again_once_there_is_room(
    tmp_path: Path, disk: SmallDisk
) -> None:
    """What was saved before stays valid; the flag comes and goes; no line of metrics is torn."""
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=100_000, checkpoint={"every_epochs": 1})
    with started(peers, 1) as nodes:
        node = nodes[1]
        wait_until(lambda: list_checkpoints(disk.root), what="a checkpoint")
        fill(disk, node, "checkpoint", "metrics")
        saved, cycle = load_newest(disk.root).meta.cycle, node.status()["cycle"]
        assert "No space left" in degraded(node)["checkpoint"]
        wait_until(lambda: node.status()["cycle"] > cycle + 50, what="50 cycles on a full disk")
        assert load_newest(disk.root).meta.cycle == saved
        assert degraded(node).keys() >= {"checkpoint", "metrics"}
        disk.free()
        wait_until(lambda: not degraded(node), what="a node that is well again")
        assert load_newest(disk.root).meta.cycle > saved
        node.process.send_signal(signal.SIGTERM)
        code, errors = node.finish(20)
        assert code == 0, errors
        assert load_newest(disk.root).meta.cycle == node.status()["cycle"]
        assert all(line["cycle"] for line in node.metrics())
        assert "checkpoint not written" in errors
        assert "checkpoint written again" in errors


def test_a_node_that_ends_on_a_full_disk_waits_for_room(tmp_path: Path, disk: SmallDisk) -> None:
    """The end of its training is not lost."""
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=400)
    with started(peers, 1) as nodes:
        node = nodes[1]
        wait_until(lambda: node.status().get("ready"), what="a start", every_s=0.001)
        fill(disk, node, "checkpoint")
        wait_until(lambda: node.status()["cycle"] == 1600, what="the last cycle")
        first = node.status()["updated_s"]
        wait_until(lambda: node.status()["updated_s"] > first, what="a sign of life")
        assert node.status()["state"] == "training"
        disk.free()
        code, errors = node.finish()
        assert code == 0, errors
        assert load_newest(disk.root).meta.finished


def test_a_lockstep_node_on_a_full_disk_waits_and_its_neighbour_with_it(
    tmp_path: Path, disk: SmallDisk
) -> None:
    """It publishes no block that it could not come back to; none of them starts anew."""
    peers = write_run(tmp_path, complete(2), policy="uniform", lockstep=True, epochs=400)
    with started(peers, 1, 2) as nodes:
        wait_until(lambda: list_checkpoints(disk.root), what="a first block", every_s=0.001)
        fill(disk, nodes[1], "checkpoint")
        assert nodes[1].status()["cycle"] == load_newest(disk.root).meta.cycle + 10
        first = nodes[1].status()["updated_s"]
        wait_until(lambda: nodes[1].status()["updated_s"] > first + 1, what="signs of life")
        assert nodes[2].status()["cycle"] <= nodes[1].status()["cycle"]
        disk.free()
        starts = [node.status()["starts"] for node in nodes.values()]
        for node in nodes.values():
            code, errors = node.finish()
            assert code == 0, errors
        assert [node.status()["starts"] for node in nodes.values()] == starts


def test_a_line_that_has_no_room_leaves_the_file_as_it_was(tmp_path: Path, disk: SmallDisk) -> None:
    """Not a part of it: the next one would run into that."""
    del tmp_path
    file = disk.root / "lines"
    append_line(file, b"one")
    disk.fill()
    with pytest.raises(OSError, match="No space"):
        append_line(file, bytes(10_000))
    assert file.read_bytes() == b"one\n"
    disk.free()
    append_line(file, b"two")
    assert json.loads(b"[" + file.read_bytes().replace(b"one", b"1,").replace(b"two", b"2") + b"]") == [1, 2]


def test_metrics_on_a_full_disk_cost_the_metrics_and_set_a_flag(tmp_path: Path) -> None:
    """Training goes on to its end; status.json says what is missing."""
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=5)
    (tmp_path / "nodes" / "1").mkdir(parents=True)
    (tmp_path / "nodes" / "1" / "metrics.jsonl").symlink_to("/dev/full")
    with started(peers, 1) as nodes:
        code, errors = nodes[1].finish()
        assert code == 0, errors
        assert "No space left" in nodes[1].status()["degraded"]["metrics"]
