"""Shows a run while it goes on: a live table on a terminal, plain lines elsewhere.

What is shown comes from each node's `status.json`; a missing or unreadable file shows as a node that has not spoken.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import click
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launcher.supervisor import State

_QUIETEST_S = 10.0  # shortest time between two plain lines of a node
_LONGEST_S = 60.0  # a plain line comes at least this often, so that a long epoch is not taken for a hang
_TABLE_S = 0.5
_MEGABYTE = 1e6
_MINUTE_S, _HOUR_S = 60, 3600
_View = TypeVar("_View")


class _Heard(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    age_s: float | None = None
    refused: int = 0
    last_refusal: str | None = None


class Status(BaseModel):
    """What a node says of itself in `status.json`, as far as the launcher uses it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: str = "starting"
    pid: int
    updated_s: float = 0.0
    epoch: int = 0
    epochs: int = 0
    cycle: int = 0
    cycles: int = 0
    cycles_per_s: float | None = None
    d_loss: float | None = None
    g_loss: float | None = None
    neighbors: Mapping[int, _Heard] = {}
    chosen: Mapping[int, int] = {}
    resident_bytes: int | None = None
    starts: int = 1
    error: str | None = None
    failure: str | None = None


def read_status(path: Path) -> Status | None:
    """The status in a file, or None where there is none that can be read."""
    try:
        return Status.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


@dataclass(frozen=True)
class Row:
    """One node as it is shown.

    Attributes:
        node_id: The node.
        process: Where its process stands.
        restarts: How often it was started again.
        status: What it says of itself, or None before its process has spoken.
    """

    node_id: int
    process: State
    restarts: int
    status: Status | None

    @property
    def state(self) -> str:
        """The node's own word while its process runs, else the process's state."""
        if self.process is not State.RUNNING:
            return self.process.value
        return self.status.state if self.status else "starting"

    @property
    def sign_of_life(self) -> tuple[int, float] | None:
        """What changes as long as the node lives; None before it is at work, when it may be silent for long."""
        if self.process is not State.RUNNING or self.status is None or self.status.state == "starting":
            return None
        return self.status.cycle, self.status.updated_s

    @property
    def seconds_left(self) -> float | None:
        """Time to the end of training at the present pace; 0 when it is over, None when unknown."""
        if self.process not in (State.RUNNING, State.WAITING):
            return 0.0
        if self.status is None or not self.status.cycles:
            return None
        left = self.status.cycles - self.status.cycle
        if left <= 0:
            return 0.0
        return left / self.status.cycles_per_s if self.status.cycles_per_s else None


class View(Protocol):
    """Where a supervised run is shown."""

    def event(self, text: str) -> None:
        """One thing that happened, told once."""

    def update(self, rows: Sequence[Row], now_s: float, *, last: bool = False) -> None:
        """The newest figures of every node; `last` when no more will come."""


class PlainView:
    """Lines of text: events, and each node at most every 10 s when its epoch changed or 60 s have passed."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[float, int, str]] = {}

    def event(self, text: str) -> None:
        """One thing that happened."""
        click.echo(text)

    def update(self, rows: Sequence[Row], now_s: float, *, last: bool = False) -> None:
        """Prints the nodes that are due."""
        for row in rows:
            if row.status is not None and self._due(row, row.status, now_s, last=last):
                self._shown[row.node_id] = (now_s, row.status.epoch, row.state)
                click.echo(node_line(row))

    def _due(self, row: Row, status: Status, now_s: float, *, last: bool) -> bool:
        shown_s, epoch, state = self._shown.setdefault(row.node_id, (now_s, -1, ""))
        if last:
            return (epoch, state) != (status.epoch, row.state)
        if row.process is not State.RUNNING:
            return False  # an event tells it
        quiet_s = now_s - shown_s
        return quiet_s >= _LONGEST_S or (quiet_s >= _QUIETEST_S and status.epoch != epoch)


class Drawing:
    """Something that is redrawn in place, with the events scrolling by above it."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._drawn_s = float("-inf")

    def event(self, text: str) -> None:
        """One thing that happened."""
        self._console.print(Text(text))

    def draw(self, make: Callable[[], Group], now_s: float, *, last: bool = False) -> None:
        """Draws what `make` returns, twice a second at most."""
        if last or now_s - self._drawn_s >= _TABLE_S:
            self._drawn_s = now_s
            self._live.update(make(), refresh=True)


class TableView(Drawing):
    """A table of the nodes."""

    def update(self, rows: Sequence[Row], now_s: float, *, last: bool = False) -> None:
        """Redraws the table where it is due."""
        self.draw(lambda: Group(table(rows), *map(Text, [*refusals(rows), summary(rows)])), now_s, last=last)


def open_view(console: Console) -> AbstractContextManager[View]:
    """The view that suits the console, for the length of a `with` block."""
    return suited(console, PlainView, TableView)


@contextlib.contextmanager
def suited(
    console: Console, plain: Callable[[], _View], drawing: Callable[[Console, Live], _View]
) -> Iterator[_View]:
    """A drawing where the console is a terminal, something plain elsewhere; for the length of a `with` block."""
    if not console.is_terminal:
        yield plain()
        return
    with Live(console=console, auto_refresh=False) as live:
        yield drawing(console, live)


def table(rows: Sequence[Row]) -> Table:
    """One line for each node.

    `listens to` counts how often it learned from each neighbour; `age, s` tells how old their snapshots are; `refused`
    counts the frames of each that were dropped, and `refusals` tells why.
    """
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("node", justify="right", no_wrap=True)
    drawn.add_column("state", no_wrap=True)
    for name in ("epoch", "cycles/s", "D loss", "G loss"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("listens to")
    drawn.add_column("age, s")
    drawn.add_column("refused")
    drawn.add_column("restarts", justify="right", no_wrap=True)
    drawn.add_column("MB", justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(
            str(row.node_id), Text(row.state, style=_style(row)), *_figures(row.status, row.restarts)
        )
    return drawn


def summary(rows: Sequence[Row]) -> str:
    """How many nodes are in which state, and the time left until the slowest has finished training."""
    states = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in rows).items())
    times = [row.seconds_left for row in rows]
    known = [time_s for time_s in times if time_s is not None]
    if len(known) < len(times):
        left = "time left unknown yet"
    else:
        left = f"about {duration(max(known))} left" if max(known, default=0) > 0 else "training over"
    return f"{states}; {left}"


def refusals(rows: Sequence[Row]) -> list[str]:
    """Why each node last refused a frame of each of its neighbours, a line for each that it did."""
    return [
        f"node {row.node_id} refused: {one.last_refusal}"
        for row in rows
        if row.status is not None
        for _, one in sorted(row.status.neighbors.items())
        if one.last_refusal is not None
    ]


def node_line(row: Row) -> str:
    """One node as one plain line."""
    status = row.status
    if status is None:
        return f"node {row.node_id} {row.state}"
    parts = [
        f"node {row.node_id} {row.state}: epoch {status.epoch}/{status.epochs}, cycle {status.cycle}/{status.cycles}",
        f"{_number(status.cycles_per_s, 1)} cycles/s, D loss {_number(status.d_loss, 3)}, G loss {_number(status.g_loss, 3)}",
    ]
    if status.chosen:
        parts.append(f"listens to {_counts(status.chosen)}")
    if ages := _ages(status):
        parts.append(f"ages {ages} s")
    if refused := _refused(status):
        parts.append(f"refused {refused}")
    if row.restarts:
        parts.append(f"restarts {row.restarts}")
    parts.append(f"{_megabytes(status)} MB")
    return ", ".join(parts)


def _figures(status: Status | None, restarts: int) -> tuple[str, ...]:
    if status is None:
        return (*[""] * 7, str(restarts), "")
    return (
        f"{status.epoch}/{status.epochs}",
        _number(status.cycles_per_s, 1),
        _number(status.d_loss, 3),
        _number(status.g_loss, 3),
        _counts(status.chosen),
        _ages(status),
        _refused(status),
        str(restarts),
        _megabytes(status),
    )


def _style(row: Row) -> str:
    if row.process in (State.REFUSED, State.GAVE_UP, State.KILLED):
        return "bold red"
    if row.process is State.WAITING or row.restarts:
        return "yellow"
    return "green" if row.process is State.FINISHED else ""


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _counts(chosen: Mapping[int, int]) -> str:
    return " ".join(f"{node_id}:{count}" for node_id, count in sorted(chosen.items()))


def _ages(status: Status) -> str:
    heard = sorted(status.neighbors.items())
    return " ".join(f"{node_id}:{one.age_s:.1f}" for node_id, one in heard if one.age_s is not None)


def _refused(status: Status) -> str:
    return _counts({node_id: one.refused for node_id, one in status.neighbors.items() if one.refused})


def _megabytes(status: Status) -> str:
    return "-" if status.resident_bytes is None else f"{status.resident_bytes / _MEGABYTE:.0f}"


def duration(seconds: float) -> str:
    """In the largest unit that there are two of."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"
