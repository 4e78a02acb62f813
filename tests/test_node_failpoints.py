"""Real processes killed at each step of a save: whatever was promised to be on the disk is there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from node import failpoints
from node.boots import next_start
from node.checkpoint import list_checkpoints, load_newest, prune, save
from node.failpoints import VARIABLE, reached
from saving import KEEP, STEP, meta, tensors
from topology.errors import InputError

STEPS = ("begun", "half", "written", "synced", "renamed", "durable")
POINTS = [f"{part}.{step}" for part in ("boot", "tensors", "record") for step in STEPS]
PRUNING = ["prune.begun", "prune.record_gone", "prune.done"]
KILLS = [f"{point}:kill:{count}" for point in (*POINTS, *PRUNING) for count in (1, 4)]
NEW_IS_THERE = ("record.renamed", "record.durable")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders in which a process each was killed at each point, the first and the fourth time it got there."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "saving.py"), str(folder), *KILLS],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(KILLS, -signal.SIGKILL)
    return folder


def promised(folder: Path) -> tuple[int, int]:
    """Boot and cycle that the process knew to be safe before it was killed."""
    try:
        boot, cycle = (folder / "said").read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return 0, 0
    return int(boot), int(cycle)


@pytest.mark.system
@pytest.mark.parametrize("kill", KILLS)
def test_a_process_killed_at_any_step_leaves_the_newest_or_the_one_before(killed: Path, kill: str) -> None:
    """The new one from its last rename on, the one before until then, and never none once one was saved."""
    folder = killed / kill
    _, cycle = promised(folder)
    expected = cycle + STEP if kill.startswith(NEW_IS_THERE) else cycle
    if expected == 0:
        assert kill.endswith(":1")
        with pytest.raises(InputError, match="no checkpoint"):
            load_newest(folder)
    else:
        found = load_newest(folder, lambda path, reason: pytest.fail(f"{path}: {reason}"))
        assert found.meta.cycle == expected
        assert torch.equal(found.tensors["discriminator.a.b"], tensors(expected)["discriminator.a.b"])
    save(folder, meta(990), tensors(990))
    prune(folder, KEEP, [])
    whole = {p.name for path in list_checkpoints(folder) for p in (path, path.with_suffix(".json"))}
    assert len(whole) <= 2 * KEEP
    assert {path.name for path in (folder / "checkpoints").iterdir()} == whole, "something was left behind"
    assert load_newest(folder).meta.cycle == 990


@pytest.mark.system
@pytest.mark.parametrize("kill", KILLS)
def test_a_process_killed_at_any_step_never_starts_twice_with_one_number(killed: Path, kill: str) -> None:
    """The next start counts above every start that went on to publish."""
    boot, _ = promised(killed / kill)
    assert next_start(killed / kill, 0, now_s=0).boot > boot


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("boot")])
def test_a_disk_that_refuses_at_any_step_costs_that_save_alone(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there still loads, no part is left, and the next save works."""
    save(tmp_path, meta(10), tensors(10))
    monkeypatch.setattr(failpoints, "_passed", Counter())
    monkeypatch.setenv(VARIABLE, f"{point}:error")
    with pytest.raises(OSError, match="No space") as caught:
        save(tmp_path, meta(20), tensors(20))
    assert caught.value.errno == errno.ENOSPC
    assert load_newest(tmp_path).meta.cycle == (20 if point in NEW_IS_THERE else 10)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    save(tmp_path, meta(20), tensors(20))
    assert load_newest(tmp_path).meta.cycle == 20


def test_a_failpoint_acts_where_and_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no other point, the third time only, and without the variable never."""
    monkeypatch.setattr(failpoints, "_passed", Counter())
    reached("a.b")
    monkeypatch.setenv(VARIABLE, "a.b:error:3")
    reached("a.c")
    reached("a.b")
    reached("a.b")
    with pytest.raises(OSError, match="No space left"):
        reached("a.b")
    reached("a.b")


@pytest.mark.parametrize("setting", ["a.b", "a.b:", "a.b:explode", "a.b:kill:x", "a.b:kill:-1"])
def test_a_failpoint_without_a_known_action_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must not make a test that finds nothing."""
    monkeypatch.setenv(VARIABLE, setting)
    with pytest.raises(InputError, match="kill or error"):
        reached("a.b")
