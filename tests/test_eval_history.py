"""Reading metrics.jsonl and status.json, whole and damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eval.history import History, read_history, read_status


def history_of(path: Path, *lines: object) -> History:
    """Reads these lines back; text is written as it is."""
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts), encoding="utf-8")
    return read_history(path)


def test_the_later_of_two_lines_of_one_cycle_counts(tmp_path: Path) -> None:
    """A resumed node repeats cycles; their counts are not added twice."""
    history = history_of(
        tmp_path / "m",
        {"cycle": 10, "chosen": {"2": 3}},
        {"cycle": 20, "chosen": {"2": 1}},
        {"cycle": 20, "chosen": {"2": 4}},
    )
    assert history.cycles.tolist() == [10, 20]
    assert history.chosen(2) == 7
    assert history.chosen(9) == 0


def test_updates_are_counted(tmp_path: Path) -> None:
    """By the mean of each stretch and its length; the later of two lines counts."""
    history = history_of(
        tmp_path / "m",
        {"cycle": 10, "inner_steps": 1.5, "considered": 4, "skipped": 1},
        {"cycle": 20, "inner_steps": 0.0, "considered": 5, "skipped": 0},
        {"cycle": 30, "inner_steps": 2.0, "considered": 0, "skipped": 0},
        {"cycle": 30, "inner_steps": 0.1, "considered": 6, "skipped": 0},
    )
    assert history.d_steps == 16


def test_what_was_clamped_is_a_share(tmp_path: Path) -> None:
    """Of what was weighed."""
    history = history_of(
        tmp_path / "m",
        {
            "cycle": 10,
            "considered": 8,
            "skipped": 2,
            "chosen": {"2": 5, "5": 1},
            "kl": {"2": 1.0, "5": 0.0},
            "clamped": 6,
        },
        {
            "cycle": 20,
            "considered": 4,
            "skipped": 0,
            "chosen": {"5": 3, "1": 1},
            "kl": {"5": 0.5},
            "clamped": 0,
        },
    )
    assert history.clamped == pytest.approx(6 / (6 * 2 + 4 * 1))
    alone = history_of(
        tmp_path / "n",
        {"cycle": 10, "considered": 4, "skipped": 0, "chosen": {"1": 4}, "kl": {}, "clamped": 0},
    )
    assert alone.clamped is None


def test_losses_are_means_over_cycles_and_over_choices(tmp_path: Path) -> None:
    """A stretch counts as much as it has of them; one that chose none has no loss by a neighbour's D."""
    history = history_of(
        tmp_path / "m",
        {"cycle": 10, "g_loss": 1.0, "considered": 5, "skipped": 2, "neighbor_loss": 4.0},
        {"cycle": 40, "g_loss": 3.0, "considered": 1, "skipped": 0, "neighbor_loss": 8.0},
        {"cycle": 50, "considered": 2, "skipped": 2, "neighbor_loss": None},
    )
    assert history.own_loss == pytest.approx((10 * 1.0 + 30 * 3.0) / 40)
    assert history.chosen_loss == pytest.approx((3 * 4.0 + 1 * 8.0) / 4)
    nothing = history_of(tmp_path / "n", {"cycle": 10})
    assert (nothing.own_loss, nothing.chosen_loss) == (None, None)


def test_bytes_and_time_are_summed_over_boots(tmp_path: Path) -> None:
    """They count from the node's start, so each boot adds its highest; repeated cycles were sent all the same."""
    history = history_of(
        tmp_path / "m",
        {"cycle": 10, "boot": 1, "bytes_out": 100, "bytes_in": 10, "time_s": 1.0},
        {"cycle": 20, "boot": 1, "bytes_out": 200, "bytes_in": 20, "time_s": 2.0},
        {"cycle": 20, "boot": 2, "bytes_out": 50, "bytes_in": 5, "time_s": 0.5},
    )
    assert (history.bytes_out, history.bytes_in, history.seconds) == (250, 25, 2.5)


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    """A torn last line, other JSON, and a line without a cycle."""
    history = history_of(
        tmp_path / "m", {"cycle": 10, "d_loss": 1.5}, "[1]", {"d_loss": 2}, '{"cycle": 20, "d_l'
    )
    assert history.series("d_loss").tolist() == [1.5]


@pytest.mark.parametrize("value", [None, "text", True, [1]])
def test_what_is_no_number_is_missing(tmp_path: Path, value: object) -> None:
    """A null loss is a gap in the curve, not a crash."""
    history = history_of(tmp_path / "m", {"cycle": 10, "neighbor_loss": value, "kl": value})
    assert math.isnan(history.mean("neighbor_loss"))
    assert math.isnan(history.neighbor_mean("kl", 2))
    assert history.total("neighbor_loss") == 0


def test_means_leave_gaps_out(tmp_path: Path) -> None:
    """The mean is over the lines that have a value."""
    history = history_of(
        tmp_path / "m", {"cycle": 1, "kl": {"2": 1.0}}, {"cycle": 2, "kl": {}}, {"cycle": 3, "kl": {"2": 3.0}}
    )
    assert history.neighbor_mean("kl", 2) == 2.0


def test_missing_files_are_empty(tmp_path: Path) -> None:
    """A node that never ran has no history and no status."""
    assert not read_history(tmp_path / "none")
    assert read_status(tmp_path / "none") == {}


def test_a_torn_status_is_empty(tmp_path: Path) -> None:
    """Nothing is made up from half a file."""
    (tmp_path / "status.json").write_text('{"state": "trai')
    assert read_status(tmp_path / "status.json") == {}
