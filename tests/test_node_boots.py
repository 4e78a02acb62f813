"""Numbers of starts: always above every earlier one, whatever became of the folder that knew it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.boots import Start, next_start
from topology.errors import InputError

NOW_S = 1_800_000_000.5
NOW = 1_800_000_000_500


def test_the_first_start_is_numbered_by_the_clock(tmp_path: Path) -> None:
    """In milliseconds; people see a 1."""
    assert next_start(tmp_path, 0, NOW_S) == Start(NOW, 1)


@pytest.mark.parametrize("now_s", [NOW_S, NOW_S - 86400.0, NOW_S + 0.0004, -5.0])
def test_the_next_start_counts_on_whatever_the_clock_says(tmp_path: Path, now_s: float) -> None:
    """Also where it was set back by a day, or before 1970."""
    next_start(tmp_path, 0, NOW_S)
    assert next_start(tmp_path, 0, now_s) == Start(NOW + 1, 2)
    assert next_start(tmp_path, 0, now_s) == Start(NOW + 2, 3)


def test_a_later_start_is_numbered_by_the_clock_again(tmp_path: Path) -> None:
    """So a number that is lost with the folder is soon exceeded, however many starts it counted."""
    for _ in range(5):
        next_start(tmp_path, 0, NOW_S)
    assert next_start(tmp_path, 0, NOW_S + 1) == Start(NOW + 1000, 6)


def test_a_deleted_folder_and_an_old_copy_of_it_count_on(tmp_path: Path) -> None:
    """What the neighbours have accepted is below."""
    next_start(tmp_path, 0, NOW_S)
    copy = (tmp_path / "boot.json").read_bytes()
    last = [next_start(tmp_path, 0, NOW_S + day * 86400).boot for day in range(1, 4)][-1]
    (tmp_path / "boot.json").write_bytes(copy)
    assert next_start(tmp_path, 0, NOW_S + 4 * 86400).boot > last
    (tmp_path / "boot.json").unlink()
    assert next_start(tmp_path, 0, NOW_S + 5 * 86400) == Start(NOW + 5 * 86_400_000, 1)


def test_a_checkpoint_that_was_copied_in_counts_too(tmp_path: Path) -> None:
    """Its start may lie ahead of this machine's clock."""
    assert next_start(tmp_path, NOW + 7, NOW_S).boot == NOW + 8


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"boot": "x"}', '{"boot": null}', '{"boot": 1, "starts": []}'])  # fmt: skip
def test_an_unreadable_count_is_refused(tmp_path: Path, text: str) -> None:
    """In one line that says what to write; a guess could lock the node out."""
    (tmp_path / "boot.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r'boot\.json: unreadable .*; an object such as {"boot": 7}'):
        next_start(tmp_path, 0, NOW_S)


def test_a_count_put_right_by_hand_needs_the_boot_alone(tmp_path: Path) -> None:
    """As the line says."""
    (tmp_path / "boot.json").write_text(json.dumps({"boot": NOW + 5}), encoding="utf-8")
    assert next_start(tmp_path, 0, NOW_S) == Start(NOW + 6, 1)
