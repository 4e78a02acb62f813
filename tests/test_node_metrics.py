"""Metrics lines, status.json and sample grids."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from node import failpoints
from node.config import Architecture
from node.logs import open_log
from node.metrics import Status, Window, append_metrics
from node.models import Generator
from node.neighbors import Reading
from node.samples import generate, grid, write_png
from node.trainer import CycleRecord, Exchange


def record(cycle: int, exchange: Exchange | None = None, **changes: float) -> CycleRecord:
    """One cycle."""
    return CycleRecord(cycle, 1, 0.5, changes.get("d_loss", 1.0), 2.0, 2, cap_hit=True, exchange=exchange)


def test_a_line_sums_up_its_window() -> None:
    """Means of losses, counts of events, ages and lags of what could be chosen."""
    times = iter([10.0, 12.0, 13.0])
    window = Window(lambda: next(times))
    window.add(record(11, d_loss=1.0), {})
    window.add(record(12, Exchange(5, 0.5, {2: 0.0, 5: 3.0}, clamped=1, negative_terms=0.5), d_loss=2.0),
               {2: Reading(1.0, 10), 5: Reading(3.0, 4)})  # fmt: skip
    window.add(
        record(13, Exchange(2, 1.5, {2: 0.0, 5: 0.0}, clamped=2, negative_terms=1.0)), {2: Reading(2.0, 10)}
    )
    window.add(record(14, Exchange()), {})
    line = window.close()
    assert line["cycle"] == 14
    assert line["d_loss"] == pytest.approx(1.25)
    assert line["cycles_per_s"] == pytest.approx(2.0)
    assert (line["considered"], line["skipped"], line["cap_hits"], line["inner_steps"]) == (3, 1, 4, 2)
    assert line["neighbor_loss"] == pytest.approx(1.0)
    assert (line["clamped"], line["all_clamped"], line["negative_terms"]) == (3, 1, pytest.approx(0.75))
    assert line["kl"] == {"2": 0.0, "5": 1.5}
    assert line["chosen"] == {"2": 1, "5": 1}
    assert line["age_s"] == {"2": 1.5, "5": 3.0}
    assert line["lag_cycles"] == {"2": 2.5, "5": 8.0}
    assert len(window) == 0


def test_a_window_without_exchange_has_nulls_and_empty_tables() -> None:
    """Never a made-up 0 for something that was not measured."""
    window = Window()
    window.add(record(1), {})
    line = window.close()
    assert line["neighbor_loss"] is None
    assert line["negative_terms"] is None
    assert line["kl"] == line["chosen"] == {}


def test_lines_are_appended_as_json(tmp_path: Path) -> None:
    """One object a line."""
    for cycle in (1, 2):
        append_metrics(tmp_path / "metrics.jsonl", {"cycle": cycle})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["cycle"] for line in lines] == [1, 2]


def test_a_line_torn_by_a_crash_does_not_run_into_the_next(tmp_path: Path) -> None:
    """The next line begins on a line of its own."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"cycle": 1}\n{"cyc')
    append_metrics(file, {"cycle": 2})
    assert file.read_text() == '{"cycle": 1}\n{"cyc\n{"cycle": 2}\n'


def test_a_full_disk_does_not_reach_whoever_logs() -> None:
    """What the log tells of goes on without it."""
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        open_log(full, 3).info("something", detail="x" * 100)
        with contextlib.suppress(OSError):  # what is left in the buffer
            full.close()


def test_status_is_replaced_as_a_whole_and_not_too_often(tmp_path: Path) -> None:
    """What was noted meanwhile is there with the next write."""
    status = Status(tmp_path / "status.json", {"node_id": 3})
    status.update(state="training", cycle=1)
    status.note(cycle=2)
    assert not status.is_due(3600)
    assert status.is_due(0)
    assert json.loads((tmp_path / "status.json").read_text())["cycle"] == 1
    status.update(state="finished")
    found = json.loads((tmp_path / "status.json").read_text())
    assert (found["node_id"], found["state"], found["cycle"]) == (3, "finished", 2)


@pytest.mark.parametrize("point", ["begun", "half", "written", "synced"])
def test_a_status_that_has_no_room_is_written_over_in_place(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the size that it had, so that a full disk can be told from a node that hangs."""
    path = tmp_path / "status.json"
    status = Status(path, {"node_id": 3})
    status.update(state="training", cycle=1, degraded={})
    before = path.stat()
    monkeypatch.setattr(failpoints, "_passed", Counter())
    monkeypatch.setenv(failpoints.VARIABLE, f"status.{point}:error")
    complaints = dict.fromkeys(("checkpoint", "metrics", "samples"), "[Errno 28] No space left on device")
    status.update(cycle=2, degraded=complaints)
    found = json.loads(path.read_text())
    assert (found["cycle"], found["degraded"]) == (2, complaints)
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
    status.update(cycle=3, degraded={})
    assert json.loads(path.read_text())["cycle"] == 3


def test_a_status_that_cannot_be_written_at_all_costs_the_file_alone(tmp_path: Path) -> None:
    """The next one is written."""
    status = Status(tmp_path / "node" / "status.json", {"node_id": 3})
    status.update(cycle=1)
    (tmp_path / "node").mkdir()
    status.update(cycle=2)
    assert json.loads((tmp_path / "node" / "status.json").read_text())["cycle"] == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_drawn_from_the_generator_in_evaluation_mode(tmp_path: Path, channels: int) -> None:
    """Its statistics and its mode stay; the picture on disk is the grid."""
    generator = Generator(Architecture(generator_widths=(4,), latent_size=5), 8, channels)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    images = generate(generator, torch.randn(5, 5))
    picture = grid(images)
    assert picture.shape == (17, 26, channels)
    assert np.array_equal(picture[9:17, 9:17], images[4])
    assert generator.training
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    write_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image).reshape(picture.shape), picture)
