"""The checker of the fault run: from lines of logs to figures, among them those that must not pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.__main__ import lines, record, save
from faults.evidence import MB, Evidence, NodeEvidence, read_lines, worst
from faults.verdicts import Observation, Row, Setting, as_json, observation
from node.checkpoint import load_newest


def write(path: Path, *records: dict[str, Any]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")


def cycle(number: int, at_s: float, boot: int = 1, **age_s: float) -> dict[str, Any]:
    """A line of metrics, one cycle each."""
    ages = {name.removeprefix("n"): age for name, age in age_s.items()}
    lags = dict.fromkeys(ages, number)  # all of cycle 0: their ages alone tell snapshots apart
    return {
        "cycle": number,
        "boot": boot,
        "time_s": at_s,
        "unix_s": 1000 + at_s,
        "age_s": ages,
        "lag_cycles": lags,
    }


def sample(at_s: float, megabytes: float, pid: int = 7) -> dict[str, Any]:
    """A line of samples."""
    return {"unix_s": 1000 + at_s, "pid": pid, "resident_bytes": megabytes * MB}


def test_a_limit_is_kept_at_its_value_and_what_never_happened_passes_nothing() -> None:
    """Upper and lower limits; NaN stands for never."""
    assert Observation("x", 5, 5).passed
    assert not Observation("x", 5.1, 5).passed
    assert Observation("x", 5, 5, at_least=True).passed
    assert not Observation("x", 4, 5, at_least=True).passed
    assert not Observation("x", math.nan, 5).passed
    assert not Observation("x", math.nan, 5, at_least=True).passed
    assert str(Observation("fresh", math.nan, 5, "s")) == "fresh: never s (<= 5)"


def test_a_snapshot_counts_from_its_arrival_not_from_its_use(tmp_path: Path) -> None:
    """What arrived before the time asked for is old, however late it is used."""
    write(
        tmp_path / "metrics.jsonl",
        cycle(1, 1, n2=0.5),
        cycle(2, 4, n2=3.5),
        cycle(3, 6, n2=0.25),
        cycle(4, 9, n3=1),
    )
    node = NodeEvidence(tmp_path, [])
    assert node.used(2) == [(1001, 1000.5), (1004, 1000.5), (1006, 1005.75)]
    assert node.heard_after(2, 1003) == pytest.approx(2.75)
    assert math.isnan(node.heard_after(2, 1006))
    assert math.isnan(node.heard_after(4, 0))


def test_the_use_of_an_old_snapshot_is_looked_for_within_the_fault(tmp_path: Path) -> None:
    """A use after it does not count, and where there was none nothing is known."""
    write(tmp_path / "metrics.jsonl", cycle(1, 1, n2=0), cycle(2, 4, n2=3), cycle(3, 6), cycle(4, 9, n2=1))
    node = NodeEvidence(tmp_path, [])
    assert (node.oldest_used_s(2, 1000, 1007), node.unused_s(2, 1000, 1007)) == (3, 3)
    assert (node.oldest_used_s(2, 1005, 1010), node.unused_s(2, 1005, 1010)) == (1, 1)
    assert math.isnan(node.oldest_used_s(2, 1005, 1007))
    assert math.isnan(node.unused_s(2, 1005, 1007))


def test_the_longest_wait_counts_from_the_first_moment_to_the_last(tmp_path: Path) -> None:
    """What never comes, at the beginning, between two or at the end, is waited for."""
    write(tmp_path / "metrics.jsonl", cycle(1, 3, n2=0), cycle(2, 4, n2=1), cycle(3, 8, n2=0.5))
    node = NodeEvidence(tmp_path, [])
    assert node.longest_wait_s(2, 1000, 1008) == 4.5
    assert node.longest_wait_s(2, 1002, 1020) == 12.5
    assert node.longest_wait_s(2, 998, 1008) == 5
    assert math.isnan(node.longest_wait_s(2, 1008, 1020))
    assert math.isnan(node.longest_wait_s(4, 1000, 1020))


def test_a_frame_shows_in_the_bytes_that_came_whatever_it_holds(tmp_path: Path) -> None:
    """A repeated one has no new age; until the end of the time counts too."""
    came = [0, 0, 20, 20, 20, 40, 40]
    write(tmp_path / "metrics.jsonl", *(cycle(at, at) | {"bytes_in": n} for at, n in enumerate(came)))
    node = NodeEvidence(tmp_path, [])
    assert node.longest_transfer_s(1000, 1006) == 3
    assert node.longest_transfer_s(1000, 1011) == 6
    assert math.isnan(node.longest_transfer_s(1005, 1006))


def test_a_descriptor_that_is_open_for_a_moment_does_not_count(tmp_path: Path) -> None:
    """One that stays does; where nothing was sampled nothing is known."""
    counts = [20, 20, 23, 20, 21, 21, 21]
    node = NodeEvidence(tmp_path, [sample(at, 90) | {"descriptors": n} for at, n in enumerate(counts)])
    assert node.descriptors(1000, 1003) == 20
    assert node.descriptors(1004) == 21
    assert math.isnan(node.descriptors(1007))


def test_a_pause_is_what_exceeds_a_cycle_within_one_start(tmp_path: Path) -> None:
    """The time between two starts is no pause; a window of several cycles is measured by its cycles."""
    write(
        tmp_path / "metrics.jsonl",
        *(cycle(n, n * 0.1) for n in range(10)),
        cycle(10, 4.0),
        cycle(11, 4.1),
        cycle(31, 6.1),
        cycle(32, 90.0, boot=2),
    )
    node = NodeEvidence(tmp_path, [])
    assert node.longest_gap_s(0) == pytest.approx(3.0)
    assert node.longest_gap_s(1004.05) == pytest.approx(0.0)
    assert node.longest_gap_s(1002, 1003) == pytest.approx(3.0), "it had begun by then, and goes on"
    assert math.isnan(node.longest_gap_s(1050))


def test_memory_is_compared_within_one_process(tmp_path: Path) -> None:
    """With the most that it had before; a process that came later has nothing to be compared with."""
    samples = [sample(0, 100), sample(1, 90), sample(3, 130), sample(4, 110), sample(5, 500, pid=8)]
    node = NodeEvidence(tmp_path, samples)
    assert node.resident_growth_bytes(1002) == 30 * MB
    assert math.isnan(node.resident_growth_bytes(1002, 1002.5))
    assert math.isnan(node.resident_growth_bytes(1006))


def test_memory_between_two_samples_is_told_by_the_kernel(tmp_path: Path) -> None:
    """Its record of the most grows with a peak that no sample saw."""
    peaks = [(0, 120), (1, 120), (3, 120), (4, 170)]
    samples = [sample(at_s, 100) | {"most_resident_bytes": most * MB} for at_s, most in peaks]
    node = NodeEvidence(tmp_path, samples)
    assert node.resident_growth_bytes(1002, 1003.5) == 0
    assert node.resident_growth_bytes(1002) == 50 * MB


def test_arrivals_are_counted_once_however_often_they_are_used(tmp_path: Path) -> None:
    """Its age is told anew at each use, never to the millisecond."""
    ages = [(1.0, 0.5), (1.1, 0.601), (1.2, 0.7), (1.3, 0.1), (1.4, 0.199), (9.0, 0.1)]
    write(tmp_path / "metrics.jsonl", *(cycle(n, at, n2=age) for n, (at, age) in enumerate(ages)))
    node = NodeEvidence(tmp_path, [])
    assert node.arrivals(2, 1000, 1005) == 2
    assert node.arrivals(2, 1000.6) == 2
    assert node.arrivals(3, 1000) == 0
    assert node.oldest_used_s(2, 1000, 1005) == pytest.approx(0.701)  # it came at 0.499, and was used at 1.2
    assert math.isnan(node.oldest_used_s(2, 1002, 1005))


def test_a_line_that_is_written_late_tells_of_no_other_arrival(tmp_path: Path) -> None:
    """The second one was held up for 0.3 s after its cycle had looked at the snapshot."""
    ages = [(1.0, 0.5), (1.5, 0.7), (1.6, 1.1)]
    write(tmp_path / "metrics.jsonl", *(cycle(n, at, n2=age) for n, (at, age) in enumerate(ages)))
    node = NodeEvidence(tmp_path, [])
    assert node.arrivals(2, 1000) == 1
    assert node.heard_after(2, 1000.4) == pytest.approx(0.1)


def test_the_transport_s_share_of_a_processor_is_told_of_one_process(tmp_path: Path) -> None:
    """Between the first and the last sample of a stretch; not over a restart, nor of a single sample."""
    samples = [
        sample(second, 90, pid) | {"other_cpu_s": busy_s}
        for second, pid, busy_s in ((0, 7, 1.0), (1, 7, 1.1), (5, 7, 1.5), (6, 8, 0.1))
    ]
    node = NodeEvidence(tmp_path, samples)
    assert node.transport_cpu(1000, 1005) == pytest.approx(0.1)
    assert math.isnan(node.transport_cpu(1000, 1006))
    assert math.isnan(node.transport_cpu(1000, 1000.5))


def test_an_uncaught_error_is_found_on_the_console(tmp_path: Path) -> None:
    """Python's and libzmq's; a node without a console has none."""
    assert NodeEvidence(tmp_path, []).outbursts() == 0
    (tmp_path / "console.log").write_text(
        "Traceback (most recent call last):\n...\nAssertion failed: !_more\n", encoding="utf-8"
    )
    assert NodeEvidence(tmp_path, []).outbursts() == 2


def test_a_promised_checkpoint_that_is_gone_is_a_loss(
    tmp_path: Path, make_toy_run: Callable[..., Path]
) -> None:
    """The log's promise beside what loads; without a promise nothing can be lost."""
    run = make_toy_run(tmp_path / "run")
    number, node = min(Evidence(run).nodes.items())
    assert node.lost_cycles() == 0
    cycle = load_newest(node.directory).meta.cycle
    line = {"event": "checkpoint saved", "timestamp": "2026-01-01T00:00:00Z"}
    names = [f"cycle-{cycle + more:08d}.safetensors" for more in (0, 7)]
    write(node.directory / "log.jsonl", *(line | {"path": name} for name in names))
    assert Evidence(run)[number].lost_cycles() == 7


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    """In the middle too, where the node was killed and started again."""
    (tmp_path / "x").write_text('{"a": 1}\n{"a": \n{"a": 2}\n{"a', encoding="utf-8")
    assert read_lines(tmp_path / "x") == [{"a": 1}, {"a": 2}]
    assert read_lines(tmp_path / "absent") == []


def test_the_worst_of_nothing_is_nothing() -> None:
    """So that a row whose events are missing does not pass."""
    assert math.isnan(worst([]))
    assert math.isnan(worst([1, math.nan]))
    assert worst([1, 3, 2]) == 3


def test_a_row_that_breaks_or_observes_nothing_does_not_pass(tmp_path: Path) -> None:
    """And the table says what broke."""

    def breaks(_setting: Setting) -> list[Observation]:
        raise RuntimeError("no such node")

    def setting(name: str) -> Setting:
        return Setting(tmp_path / name, quick=True, seed=1, soak_s=1)

    broken = record(Row(1, "crash", "something", breaks), setting("a"))
    assert not broken["passed"]
    assert "no such node" in lines(broken)
    assert not record(Row(1, "crash", "something", lambda _: []), setting("b"))["passed"]
    skipped = record(Row(1, "crash", "something", breaks, needs=lambda: "needs root"), setting("c"))
    assert "SKIPPED, needs root" in lines(skipped)


def test_a_row_survives_its_way_through_json() -> None:
    """`never` too."""
    row = Row(1, "crash", "something", lambda _: [])
    done = json.loads(
        json.dumps(as_json(row, [Observation("a", math.nan, 5, "s"), Observation("b", 1, 5)], 1.0))
    )
    assert not done["passed"]
    assert [observation(each).passed for each in done["observed"]] == [False, True]


def test_rows_that_were_not_done_again_stay_in_the_table(tmp_path: Path) -> None:
    """In order of their numbers, each once."""
    output = tmp_path / "faults.json"
    save(output, "make faults", [{"row": 2, "passed": True}, {"row": 5, "passed": False}])
    save(output, "make faults ROWS=1,5", [{"row": 1, "passed": True}, {"row": 5, "passed": True}])
    written = json.loads(output.read_text(encoding="utf-8"))
    assert [(row["row"], row["passed"]) for row in written["rows"]] == [(1, True), (2, True), (5, True)]
    assert written["command"] == "make faults ROWS=1,5"
