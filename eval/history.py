"""What a node wrote down while it trained: metrics.jsonl as series over cycles and totals, and status.json.

Both may be missing, and the last line of a killed node may be torn: such a line is passed over. After a resume a
cycle may stand there twice; the later line counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class History:
    """The metrics of one node.

    Attributes:
        lines: One for each stretch of cycles, by cycle, as written.
        bytes_out: Sent in all boots together.
        bytes_in: Received in all boots together.
        seconds: Time that all boots took together.
        insecure: Whether the node exchanged without CURVE in any boot.
    """

    lines: tuple[Mapping[str, Any], ...]
    bytes_out: float
    bytes_in: float
    seconds: float
    insecure: bool = False

    def __bool__(self) -> bool:
        return bool(self.lines)

    @property
    def cycles(self) -> NDArray[np.float64]:
        """(N,) cycle at the end of each line."""
        return self.series("cycle")

    def series(self, key: str) -> NDArray[np.float64]:
        """(N,) values of one key; NaN where a line has no number for it."""
        return np.array([_number(line.get(key)) for line in self.lines], dtype=np.float64)

    def neighbor_series(self, key: str, neighbor: int) -> NDArray[np.float64]:
        """(N,) values of `key` for one neighbour, such as its mean divergence `kl`; NaN where there was none."""
        return np.array(
            [_number(_table(line, key).get(str(neighbor))) for line in self.lines], dtype=np.float64
        )

    def total(self, key: str) -> int:
        """Sum of a count over all cycles."""
        return int(np.nansum(self.series(key)))

    @property
    def d_steps(self) -> int:
        """Updates of the discriminator, lines 2-6; near that where a boot ended between two lines."""
        return round(np.nansum(self.series("inner_steps") * self._cycles_of_each))

    @property
    def own_loss(self) -> float | None:
        """G's loss by its own D, line 8, the mean over cycles; None where no line has it."""
        return _weighted(self.series("g_loss"), self._cycles_of_each)

    @property
    def chosen_loss(self) -> float | None:
        """G's loss by the D that it chose, line 12, the mean over choices; None where it chose none."""
        return _weighted(self.series("neighbor_loss"), self._choices_of_each)

    @property
    def clamped(self) -> float | None:
        """Share of the neighbours' values that the criterion had below 0, as Eq. (6) may; None where nothing was weighed."""
        weighed = np.nansum(self._choices_of_each * [len(_table(line, "kl")) for line in self.lines])
        return self.total("clamped") / float(weighed) if weighed else None

    @property
    def _cycles_of_each(self) -> NDArray[np.float64]:
        return np.diff(self.cycles, prepend=0)

    @property
    def _choices_of_each(self) -> NDArray[np.float64]:
        return self.series("considered") - self.series("skipped")

    def mean(self, key: str) -> float:
        """Mean of one key; NaN where no line has it."""
        return _mean(self.series(key))

    def neighbor_mean(self, key: str, neighbor: int) -> float:
        """Mean of `key` for one neighbour; NaN where there was none."""
        return _mean(self.neighbor_series(key, neighbor))

    def chosen(self, neighbor: int) -> int:
        """How often this node's generator learned from that neighbour's discriminator."""
        return int(np.nansum(self.neighbor_series("chosen", neighbor)))


def read_history(path: Path) -> History:
    """Reads metrics.jsonl; a missing file is an empty history."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        texts = []
    lines = [line for line in map(_object, texts) if math.isfinite(_number(line.get("cycle")))]
    by_cycle = {_number(line["cycle"]): line for line in lines}
    return History(
        lines=tuple(by_cycle[cycle] for cycle in sorted(by_cycle)),
        bytes_out=_over_boots(lines, "bytes_out"),
        bytes_in=_over_boots(lines, "bytes_in"),
        seconds=_over_boots(lines, "time_s"),
        insecure=any(line.get("insecure") is True for line in lines),
    )


def read_status(path: Path) -> Mapping[str, Any]:
    """Reads status.json; a missing or torn file is an empty status."""
    try:
        return _object(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return {}


def _over_boots(lines: list[Mapping[str, Any]], key: str) -> float:
    """A counter that begins at 0 in each boot, summed over the boots."""
    highest: dict[Any, float] = {}
    for line in lines:
        value, boot = _number(line.get(key)), str(line.get("boot"))
        if math.isfinite(value):
            highest[boot] = max(value, highest.get(boot, 0.0))
    return sum(highest.values())


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _table(line: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = line.get(key)
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan  # type: ignore[arg-type]  # narrowed by the line above


def _weighted(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else None


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
