"""What a fault did, beside what it may do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_LARGE = 100


@dataclass(frozen=True)
class Observation:
    """One figure, read from logs, and its limit.

    Attributes:
        what: What was measured.
        value: The figure; NaN where what it tells of never happened, which passes nothing.
        limit: The most it may be, or the least where `at_least` is set.
        unit: Such as "s" or "MB"; "" for a count.
        at_least: Whether the limit is a lower one.
    """

    what: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        limit = "none" if self.limit == 0 and not self.at_least else _number(self.limit)
        bound = f"{'>= ' if self.at_least else '<= ' if self.limit else ''}{limit}"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what}: {_number(self.value)}{unit} ({bound})"


@dataclass(frozen=True)
class Setting:
    """How a row is run.

    Attributes:
        folder: An empty one, the row's own.
        quick: Whether a few repetitions are enough, as in `make test`.
        seed: Of every random choice.
        soak_s: Length of the soak.
    """

    folder: Path
    quick: bool
    seed: int
    soak_s: float


@dataclass(frozen=True)
class Row:
    """One line of the table of faults.

    Attributes:
        number: In the table of docs/reliability.md.
        fault: Its name.
        injected: What is done.
        run: Does it, and returns what was read from the logs.
        needs: Asks whether it can be done here; returns why not, or None.
        quick: Whether it belongs to the selection that `make test` runs.
    """

    number: int
    fault: str
    injected: str
    run: Callable[[Setting], list[Observation]]
    needs: Callable[[], str | None] = lambda: None
    quick: bool = False


def named(prefix: str, observations: Iterable[Observation]) -> list[Observation]:
    """The same figures, of a part of a row that is told apart by its name."""
    return [replace(each, what=f"{prefix}: {each.what}") for each in observations]


def as_json(row: Row, observations: Iterable[Observation], seconds: float) -> dict[str, Any]:
    """A row of results/faults.json."""
    seen = list(observations)
    return {
        "row": row.number,
        "fault": row.fault,
        "injected": row.injected,
        "observed": [
            {
                "what": each.what,
                "value": None if math.isnan(each.value) else round(each.value, 4),
                "limit": each.limit,
                "unit": each.unit,
                "at_least": each.at_least,
                "passed": each.passed,
            }
            for each in seen
        ],
        "passed": bool(seen) and all(each.passed for each in seen),
        "seconds": round(seconds, 1),
    }


def observation(record: Mapping[str, Any]) -> Observation:
    """An observation as it was written to results/faults.json."""
    value = math.nan if record["value"] is None else record["value"]
    return Observation(record["what"], value, record["limit"], record["unit"], record["at_least"])


def _number(value: float) -> str:
    if math.isnan(value):
        return "never"
    return f"{value:.3g}" if abs(value) < _LARGE else f"{value:,.0f}"
