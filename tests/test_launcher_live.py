"""What a run looks like on a terminal and in plain lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from launcher.live import (
    PlainView,
    Row,
    Status,
    TableView,
    node_line,
    open_view,
    read_status,
    refusals,
    summary,
    table,
)
from launcher.supervisor import State

FIELDS: dict[str, Any] = {
    "run_id": "r",
    "node_id": 1,
    "state": "training",
    "ready": True,
    "pid": 10,
    "boot": 1,
    "epoch": 2,
    "epochs": 4,
    "cycle": 20,
    "cycles": 40,
    "cycles_per_s": 4.0,
    "d_loss": 0.5,
    "g_loss": 1.25,
    "neighbors": {
        "2": {"age_s": 0.4, "silent_s": 0.4, "cycle": 19, "accepted": 2, "refused": 0},
        "5": {"age_s": None, "silent_s": None, "cycle": None, "accepted": 0, "refused": 0},
    },
    "chosen": {"5": 3, "2": 7},
    "resident_bytes": 363_000_000,
    "address": "tcp://127.0.0.1:7001",
    "error": None,
    "updated_s": 1.0,
}


def row(node_id: int = 1, process: State = State.RUNNING, restarts: int = 0, **changes: object) -> Row:
    """A node in the middle of its training."""
    return Row(node_id, process, restarts, Status.model_validate(FIELDS | changes))


def test_a_status_file_of_a_node_is_read(tmp_path: Path) -> None:
    """Fields that the launcher does not show are ignored; ids become numbers."""
    path = tmp_path / "status.json"
    path.write_text(json.dumps(FIELDS))
    status = read_status(path)
    assert status == row().status
    assert status is not None
    assert status.chosen == {5: 3, 2: 7}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"state": "training"}', b"\xff"])
def test_an_unreadable_status_is_no_status(tmp_path: Path, content: bytes) -> None:
    """A torn, foreign or missing file shows as a node that has not spoken."""
    path = tmp_path / "status.json"
    assert read_status(path) is None
    path.write_bytes(content)
    assert read_status(path) is None


def test_one_line_tells_all_of_a_node() -> None:
    """Epoch, pace, losses, choices, ages, restarts and memory."""
    assert node_line(row(restarts=2)) == (
        "node 1 training: epoch 2/4, cycle 20/40, 4.0 cycles/s, D loss 0.500, G loss 1.250, "
        "listens to 2:7 5:3, ages 2:0.4 s, restarts 2, 363 MB"
    )


def lying_neighbors() -> dict[str, object]:
    """What a node says of one neighbour whose frames it refuses, and of one whose frames are right."""
    words = "node 5 sent layer.weight with the value nan; every value there is finite"
    return {
        "2": FIELDS["neighbors"]["2"],
        "5": {"age_s": 8.0, "refused": 1203, "last_refusal": words},
    }


def test_refused_frames_are_counted_and_the_reason_is_told() -> None:
    """In the plain line the count, under the table the reason; nothing where nothing was refused."""
    lied_to = row(neighbors=lying_neighbors())
    assert "ages 2:0.4 5:8.0 s, refused 5:1203, 363 MB" in node_line(lied_to)
    assert refusals([row(3), lied_to, Row(2, State.GAVE_UP, 5, None)]) == [
        "node 1 refused: node 5 sent layer.weight with the value nan; every value there is finite"
    ]
    terminal = io.StringIO()
    with open_view(Console(file=terminal, force_terminal=True, width=120)) as view:
        view.update([lied_to], 0.0, last=True)
    assert "5:1203" in terminal.getvalue()
    assert "node 1 refused: node 5 sent layer.weight with the value nan" in terminal.getvalue()


def test_a_line_leaves_out_what_there_is_not() -> None:
    """Nothing heard and nobody chosen yet; a node that never spoke is its state."""
    quiet = row(neighbors={"2": FIELDS["neighbors"]["5"]}, chosen={})
    assert node_line(quiet).endswith("D loss 0.500, G loss 1.250, 363 MB")
    assert node_line(Row(2, State.GAVE_UP, 5, None)) == "node 2 gave up"


def test_the_table_warns_by_its_colours() -> None:
    """Red for a node that is lost, yellow for one that was started again, green for one that has finished."""
    rows = [
        row(),
        row(restarts=1),
        row(process=State.WAITING),
        row(process=State.FINISHED),
        *(Row(2, state, 0, None) for state in (State.REFUSED, State.GAVE_UP, State.KILLED)),
    ]
    styles = [cell.style for cell in table(rows).columns[1].cells if isinstance(cell, Text)]
    assert styles == ["", "yellow", "yellow", "green", "bold red", "bold red", "bold red"]


def test_the_table_is_redrawn_twice_a_second_at_most_and_at_the_end() -> None:
    """However often the run is looked at."""
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    with Live(console=console, auto_refresh=False) as live:
        view = TableView(console, live)

        def drawn(now_s: float, cycle: int, *, last: bool = False) -> bool:
            before = terminal.tell()
            view.update([row(epoch=cycle)], now_s, last=last)
            return f"{cycle}/4" in terminal.getvalue()[before:]

        assert [drawn(0.0, 10), drawn(0.4, 11), drawn(0.5, 12), drawn(0.9, 13)] == [True, False, True, False]
        assert drawn(0.91, 14, last=True)


def test_the_table_shows_every_node() -> None:
    """A node that has not spoken has a line too."""
    console = Console(file=io.StringIO(), width=100)
    console.print(table([row(), Row(2, State.GAVE_UP, 5, None)]))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[1].split() == [
        "1",
        "training",
        "2/4",
        "4.0",
        "0.500",
        "1.250",
        "2:7",
        "5:3",
        "2:0.4",
        "0",
        "363",
    ]
    assert lines[2].split() == ["2", "gave", "up", "5"]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row(), row(2, cycle=36)], "2 training; about 5 s left"),
        ([row(cycles=40_000)], "1 training; about 2.8 h left"),
        ([row(cycles=4_000)], "1 training; about 17 min left"),
        ([row(), Row(2, State.RUNNING, 0, None)], "1 training, 1 starting; time left unknown yet"),
        ([row(process=State.FINISHED), row(2, State.REFUSED)], "1 finished, 1 refused; training over"),
        ([row(cycle=40, state="lingering")], "1 lingering; training over"),
    ],
)
def test_the_summary_waits_for_the_slowest(rows: list[Row], text: str) -> None:
    """Nodes that ended are not waited for."""
    assert summary(rows) == text


def test_plain_lines_come_with_a_new_epoch_but_not_more_often_than_every_10_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Within one long epoch, a line a minute."""
    view = PlainView()

    def lines(now_s: float, epoch: int, *, last: bool = False) -> int:
        view.update([row(epoch=epoch)], now_s, last=last)
        return len(capsys.readouterr().out.splitlines())

    assert [lines(0.0, 1), lines(5.0, 2), lines(10.0, 2), lines(15.0, 3), lines(20.0, 3)] == [0, 0, 1, 0, 1]
    assert [lines(79.0, 3), lines(80.0, 3)] == [0, 1]
    assert [lines(81.0, 3, last=True), lines(82.0, 4, last=True)] == [0, 1]


def test_plain_lines_leave_the_end_of_a_node_to_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    """However long ago its last line was."""
    view = PlainView()
    for now_s in (0.0, 1000.0):
        view.update([row(process=State.FINISHED)], now_s)
    assert capsys.readouterr().out == ""


def test_a_stream_gets_plain_lines_and_a_terminal_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Events are told in both."""
    with open_view(Console(file=io.StringIO())) as view:
        view.event("node 1 started")
    assert capsys.readouterr().out == "node 1 started\n"
    terminal = io.StringIO()
    with open_view(Console(file=terminal, force_terminal=True, width=100)) as view:
        view.event("node 1 started")
        view.update([row()], 0.0, last=True)
    assert "node 1 started" in terminal.getvalue()
    assert "about 5 s left" in terminal.getvalue()
