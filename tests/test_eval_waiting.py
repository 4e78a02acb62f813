"""Waiting for the nodes of a run: until each has finished, with a line whenever something has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from eval.waiting import POLL_S, check_writable, wait
from topology.errors import InputError

ROOT = Path(__file__).parent.parent

Step = Callable[[], object]


@pytest.fixture
def run_dir(make_toy_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A run of three nodes that have all finished."""
    return make_toy_run(tmp_path / "run")


def says(nodes: Path, node_id: int, state: str, **changes: object) -> Step:
    """A step in which a node writes its status into its folder in `nodes`."""

    def write() -> None:
        status = {"run_id": "toy", "node_id": node_id, "boot": 1, "cycle": 30, "updated_s": 100.0}
        folder = nodes / str(node_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "status.json").write_text(json.dumps(status | {"state": state} | changes), encoding="utf-8")

    return write


def waited(sources: Sequence[Path], *steps: Step) -> list[str]:
    """The lines told while each sleep is one step; it must end after the last of them, and no earlier."""
    told: list[str] = []
    left: Iterator[Step] = iter(steps)

    def sleep(seconds: float) -> None:
        assert seconds == POLL_S
        next(left)()

    wait(sources, told.append, sleep)
    assert list(left) == []
    return told


def test_finished_nodes_are_not_waited_for(run_dir: Path) -> None:
    """Not a word, not a moment."""
    assert waited([run_dir]) == []


def test_every_node_is_waited_for_and_a_line_tells_what_has_changed(run_dir: Path) -> None:
    """And only that: cycles come and go without a word."""
    nodes = run_dir / "nodes"
    for node_id in (1, 2, 3):
        says(nodes, node_id, "training", cycle=1)()
    told = waited(
        [run_dir],
        says(nodes, 2, "training", cycle=2),
        says(nodes, 2, "training", cycle=3, updated_s=102.0),
        says(nodes, 2, "finished"),
        says(nodes, 3, "lingering"),
        says(nodes, 3, "lingering", updated_s=104.0),
        says(nodes, 3, "finished"),
        says(nodes, 1, "finished"),
    )
    assert told == [
        "not finished: 1, 2, 3 (training)",
        "not finished: 1, 3 (training)",
        "not finished: 1 (training); 3 (lingering)",
        "not finished: 1 (training)",
    ]


def test_a_stopped_or_failed_node_has_not_finished(run_dir: Path) -> None:
    """It is started again, and goes on from its checkpoint."""
    nodes = run_dir / "nodes"
    says(nodes, 1, "stopped")()
    says(nodes, 3, "failed")()
    told = waited(
        [run_dir],
        says(nodes, 1, "starting", boot=2),
        says(nodes, 1, "finished", boot=2),
        says(nodes, 3, "starting", boot=2),
        says(nodes, 3, "finished", boot=2),
    )
    assert told == [
        "not finished: 1 (stopped); 3 (failed)",
        "not finished: 1 (starting); 3 (failed)",
        "not finished: 3 (failed)",
        "not finished: 3 (starting)",
    ]


def test_a_node_that_never_started_is_waited_for(run_dir: Path) -> None:
    """Its folder comes first, its status a while later, and the folders of all may be named beforehand."""
    shutil.rmtree(run_dir / "nodes")
    nodes = run_dir.parent / "states"
    folders = [nodes / str(node_id) for node_id in (1, 2, 3)]
    told = waited(
        [run_dir, *folders],
        says(nodes, 1, "finished"),
        lambda: folders[1].mkdir(parents=True),
        (folders[1] / "log.jsonl").touch,
        says(nodes, 2, "finished"),
        says(nodes, 3, "finished"),
    )
    assert told == [
        "not finished: 1, 2, 3 (not started)",
        "not finished: 2, 3 (not started)",
        "not finished: 3 (not started)",
    ]


def test_a_folder_of_another_run_ends_the_waiting(run_dir: Path, tmp_path: Path) -> None:
    """At the start or later; so does the lack of peers.toml."""
    nodes = run_dir / "nodes"
    says(nodes, 2, "training")()
    with pytest.raises(InputError, match="belongs to run 'other'"):
        waited([run_dir], says(nodes, 2, "training", run_id="other"))
    with pytest.raises(InputError, match=r"holds no peers\.toml"):
        waited([tmp_path / "absent"])


@pytest.mark.system
def test_waiting_takes_no_torch() -> None:
    """Whoever waits for hours beside the nodes shall not hold its memory."""
    program = "import sys, eval.waiting; sys.exit('torch was loaded' if 'torch' in sys.modules else 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_place_that_cannot_be_written_is_told_before_the_wait(tmp_path: Path) -> None:
    """It names the folder that is there already; nothing is made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be written \(Not a directory\); a folder that"):
        check_writable(tmp_path / "file" / "run")
    check_writable(tmp_path / "reports" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
