"""What a node reports while it runs: lines of metrics.jsonl, and status.json for whoever watches."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from node.files import append_line, overwrite, write_atomically
from node.neighbors import Reading
from node.records import CycleRecord, Exchange

_PAGE_BYTES, _SPARE_BYTES = 4096, 1024


class Window:
    """The cycles since the last line of metrics, summed up.

    Args:
        clock: Seconds, for the rate of cycles.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._records: list[CycleRecord] = []
        self._readings: dict[int, list[tuple[Reading, int]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: CycleRecord, readings: Mapping[int, Reading]) -> None:
        """Takes in one cycle, with the snapshots it could choose from."""
        self._records.append(record)
        if record.exchange is not None:
            for neighbor_id, reading in readings.items():
                self._readings[neighbor_id].append((reading, record.cycle - reading.cycle))

    def close(self) -> dict[str, Any]:
        """The summary of the window, means unless a count is more natural; the next window begins empty."""
        records, now_s = self._records, self._clock()
        exchanges = [record.exchange for record in records if record.exchange is not None]
        last = records[-1]
        line = {
            "cycle": last.cycle,
            "epoch": last.epoch,
            "cycles_per_s": len(records) / max(now_s - self._began_s, 1e-9),
            "loss_threshold": last.loss_threshold,
            "d_loss": fmean(record.d_loss for record in records),
            "g_loss": fmean(record.g_loss for record in records),
            "inner_steps": fmean(record.inner_steps for record in records),
            "cap_hits": sum(record.cap_hit for record in records),
            "considered": len(exchanges),
            **_summary(exchanges),
            "age_s": {str(j): fmean(r.age_s for r, _ in seen) for j, seen in sorted(self._readings.items())},
            "lag_cycles": {
                str(j): fmean(lag for _, lag in seen) for j, seen in sorted(self._readings.items())
            },
        }
        self._began_s, self._records, self._readings = now_s, [], defaultdict(list)
        return line


def _summary(exchanges: list[Exchange]) -> dict[str, Any]:
    made = [exchange for exchange in exchanges if exchange.loss is not None]
    measured = [exchange for exchange in made if exchange.divergences]
    by_neighbor: dict[int, list[float]] = defaultdict(list)
    for exchange in measured:
        for neighbor_id, divergence in exchange.divergences.items():
            by_neighbor[neighbor_id].append(divergence)
    return {
        "skipped": len(exchanges) - len(made),
        "neighbor_loss": fmean(e.loss for e in made if e.loss is not None) if made else None,
        "negative_terms": fmean(e.negative_terms for e in measured) if measured else None,
        "clamped": sum(e.clamped for e in measured),
        "all_clamped": sum(not any(e.divergences.values()) for e in measured),
        "kl": {str(j): fmean(values) for j, values in sorted(by_neighbor.items())},
        "chosen": {str(j): n for j, n in sorted(Counter(e.chosen for e in made).items(), key=str)},
    }


def append_metrics(path: Path, line: Mapping[str, Any]) -> None:
    """Appends one JSON line; a reader takes the later of two lines of one cycle, as a resumed node repeats some.

    Raises:
        OSError: The disk refuses; the file is as it was.
    """
    append_line(path, json.dumps(line).encode())


class Status:
    """status.json: the node's present state, replaced as a whole.

    Args:
        path: Where it lies.
        fixed: Fields that stay, such as the run's id and the process id.
    """

    def __init__(self, path: Path, fixed: Mapping[str, Any]) -> None:
        self._path = path
        self._fields: dict[str, Any] = dict(fixed)
        self._written_s = float("-inf")

    def note(self, **changes: Any) -> None:
        """Changes fields, which the next update writes."""
        self._fields.update(changes)

    def is_due(self, every_s: float) -> bool:
        """Whether the file was written `every_s` ago or more."""
        return time.monotonic() - self._written_s >= every_s

    def update(self, **changes: Any) -> None:
        """Changes fields and writes the file.

        On a full disk the file is written over in place. A disk that refuses that too costs the file, not the node:
        the next update writes it.
        """
        self.note(**changes)
        self._written_s = time.monotonic()
        record = {**self._fields, "updated_s": time.time()}
        data = json.dumps(record, indent=1).encode()
        # Blanks after the object keep room for a later state, which on a full disk has a complaint more to make.
        data = data.ljust(-(-(len(data) + _SPARE_BYTES) // _PAGE_BYTES) * _PAGE_BYTES - 1) + b"\n"
        try:
            write_atomically(self._path, data, durable=False, point="status")
        except OSError:
            with contextlib.suppress(OSError):
                overwrite(self._path, data)
