"""`python -m node.health`: whether the nodes of a folder are well, told by their status.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from node import health
from node.health import STALE_S, ailment, main

ROOT = Path(__file__).parent.parent
NOBODY = 2**22 + 1  # above every process id of Linux
PROCESS_AGE_S = 500.0

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def status(**changes: Any) -> dict[str, Any]:
    """The status of a node at work, as far as its health is told by it."""
    return {
        "state": "training",
        "ready": True,
        "updated_s": 1000.0,
        "pid": os.getpid(),
        "error": None,
    } | changes


def written(folder: Path, node_id: int, **changes: Any) -> Path:
    """The status file of a node at work in this very process; returns the nodes' folder."""
    found = status(updated_s=time.time()) | changes
    (folder / str(node_id)).mkdir()
    (folder / str(node_id) / "status.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


@pytest.mark.parametrize("state", ["training", "lingering"])
@pytest.mark.parametrize("age_s", [0.0, 1.0, STALE_S])
def test_a_node_at_work_is_well(state: str, age_s: float) -> None:
    """While it trains, and while it serves the slower ones; up to a minute may pass without a word."""
    assert ailment(status(state=state), 1000.0 + age_s, PROCESS_AGE_S) is None


@pytest.mark.parametrize("state", ["starting", "stopped", "failed", "finished"])
def test_a_node_that_is_not_at_work_is_not_well(state: str) -> None:
    """In each of the other states, however fresh."""
    assert ailment(status(state=state), 1000.0, PROCESS_AGE_S) == f"{state}, not at work"


def test_a_node_that_is_not_ready_is_not_well() -> None:
    """Whatever it says that it does."""
    assert ailment(status(ready=False), 1000.0, PROCESS_AGE_S) == "training, not at work"
    assert ailment({"state": "training", "updated_s": 1000.0}, 1000.0, PROCESS_AGE_S) is not None
    assert ailment({}, 1000.0, PROCESS_AGE_S) is not None


def test_a_failed_node_says_why() -> None:
    """In its own words."""
    failed = status(state="failed", error="no space left on the disk")
    assert ailment(failed, 1000.0, None) == "failed: no space left on the disk"


def test_a_node_without_a_word_for_more_than_a_minute_is_not_well() -> None:
    """It hangs, or is starved."""
    assert ailment(status(), 1000.0 + STALE_S + 1, PROCESS_AGE_S) == "no sign of life for 61 s"


def test_a_node_whose_process_is_gone_is_not_well() -> None:
    """Its last status still says that it trains."""
    assert ailment(status(), 1000.0, None) == "training at last, but its process is gone"


@pytest.mark.parametrize("age_s", [6.0, 3600.0])
def test_a_status_older_than_its_process_is_of_an_earlier_one(age_s: float) -> None:
    """In a container every process has the same number: the new one has yet to speak."""
    assert ailment(status(), 1000.0 + age_s, 5.0) == "starting"


@on_linux
def test_every_node_of_a_folder_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, and status 1 as soon as one is not well."""
    written(tmp_path, 2)
    written(tmp_path, 5, state="lingering")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "node 2: well\nnode 5: well\n"
    written(tmp_path, 3, pid=NOBODY)
    assert main([str(tmp_path)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told == ["node 2: well", "node 3: training at last, but its process is gone", "node 5: well"]


def test_an_error_that_ends_well_is_an_error(tmp_path: Path) -> None:
    """What decides is the finding, not how its line ends."""
    assert main([str(written(tmp_path, 1, state="failed", error="all was: well"))]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"state": "training", "ready": tr',
        "[]",
        "7",
        '"training"',
        "null",
        "{}",
        '{"state": "training", "ready": true, "updated_s": 1.0}',
        '{"state": "training", "ready": true, "updated_s": 1.0, "pid": null}',
        '{"state": "training", "ready": true, "updated_s": 1.0, "pid": "x"}',
        '{"state": "training", "ready": true, "updated_s": null, "pid": 1}',
        '{"state": "training", "ready": true, "updated_s": [], "pid": 1}',
    ],
)
def test_a_torn_status_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Or one of another shape: no traceback, and the node is not well."""
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "status.json").write_text(text, encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("node 4: status.json cannot be read: ")


@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_folder_without_a_node_is_not_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    """Nothing has started there: an empty folder, one of a node without a status, or none."""
    (tmp_path / "3").mkdir()
    assert main([str(tmp_path / folder)]) == 1
    assert capsys.readouterr().out == "no node has started\n"


@pytest.mark.parametrize("arguments", [[], ["nodes", "more"]])
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """It takes the folder and nothing else."""
    assert main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m node.health DIRECTORY\n"


def test_without_proc_a_process_counts_as_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the status alone tells."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ailment(status(), 1000.0, health._process_age_s(NOBODY)) is None


# --- as a health check runs it ----------------------------------------------------------------------------------


@pytest.mark.system
def test_the_command_finds_a_node_in_this_process_well(tmp_path: Path) -> None:
    """Then, once the node says that it has stopped, not."""
    command = [sys.executable, "-m", "node.health", str(written(tmp_path, 3))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "node 3: well\n", "")
    (tmp_path / "3" / "status.json").write_text(json.dumps(status(state="stopped")), encoding="utf-8")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "node 3: stopped, not at work\n", "")


@on_linux
@pytest.mark.system
def test_a_process_is_as_old_as_the_clock_says() -> None:
    """Whatever its name: one may hold the brackets and spaces that part the fields behind it."""
    program = "open('/proc/self/comm', 'w').write('a) R 1 (2 3) x'); print(flush=True); input()"
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        spoke_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        asked_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        age_s = health._process_age_s(child.pid)
        after_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        child.communicate(b"\n")
    assert age_s is not None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")  # /proc counts in ticks
    assert asked_s - spoke_s <= age_s <= after_s - before_s + tick_s
    assert health._process_age_s(NOBODY) is None


@pytest.mark.system
def test_it_imports_the_standard_library_alone() -> None:
    """A check that comes every few seconds must not load what a node is made of."""
    program = (
        "import sys; before = set(sys.modules); import node.health; "
        "print(*sorted(name for name in sys.modules.keys() - before "
        "if name.split('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["node", "node.exits", "node.health"], done.stderr
