"""Shows a study while it goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from launcher.cells import WORK, Phase, Progress, estimate_s
from launcher.live import Drawing, duration, suited
from launcher.study_run import Manner, View

_LINE_S = 60.0
_STYLES = {Phase.DONE: "green", Phase.FAILED: "bold red", Phase.STOPPED: "yellow", Phase.WAITING: "dim"}


class PlainView:
    """Lines of text: events, and once a minute how far all of it is."""

    def __init__(self) -> None:
        self._shown_s: float | None = None

    def event(self, text: str) -> None:
        """One thing that happened."""
        click.echo(text)

    def update(self, cells: Sequence[Progress], manner: Manner) -> None:
        """Prints a line where one is due."""
        now_s = manner.clock()
        if self._shown_s is None or now_s - self._shown_s >= _LINE_S:
            self._shown_s = now_s
            click.echo(summary(cells, manner.jobs))


class TableView(Drawing):
    """A table of the cells."""

    def update(self, cells: Sequence[Progress], manner: Manner) -> None:
        """Redraws the table where it is due."""
        self.draw(lambda: Group(table(cells), Text(summary(cells, manner.jobs))), manner.clock())


def open_view(console: Console) -> AbstractContextManager[View]:
    """A table where the console is a terminal, plain lines elsewhere."""
    return suited(console, PlainView, TableView)


def table(cells: Sequence[Progress]) -> Table:
    """One line for each arm and variant, one column for each seed."""
    seeds = list(dict.fromkeys(each.cell.seed for each in cells))
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "variant", *(f"seed {seed}" for seed in seeds)):
        drawn.add_column(name, no_wrap=True)
    rows: dict[tuple[str, str], dict[int, Text]] = {}
    for each in cells:
        row = rows.setdefault((each.cell.arm, each.cell.variant), {})
        row[each.cell.seed] = Text(state(each), style=_STYLES.get(each.phase, ""))
    for (arm, variant), row in rows.items():
        drawn.add_row(arm, variant, *(row.get(seed, Text()) for seed in seeds))
    return drawn


def state(progress: Progress) -> str:
    """A cell's phase, and how far its training is."""
    if progress.phase is not Phase.TRAINING:
        return progress.phase.value
    return f"{progress.phase.value} {100 * progress.trained():.0f}%"


def summary(cells: Sequence[Progress], jobs: int) -> str:
    """How many cells are in which phase, what is at work, and the time left."""
    counts = Counter(each.phase.value for each in cells)
    at_work = [f"{each.cell.name} {state(each)}" for each in cells if each.phase in WORK]
    left_s = estimate_s(cells, jobs)
    left = "time left unknown yet" if left_s is None else f"about {duration(left_s)} left"
    return "; ".join([f"{counts['done']} of {len(cells)} cells done", *at_work, left])
