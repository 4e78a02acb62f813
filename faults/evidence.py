"""Reads what a run left behind: metrics, logs, checkpoints, and the samples and journal of the lab. Injects nothing.

Times are seconds since 1970 of the one machine that all nodes of a fault run share.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from faults.verdicts import Observation
from node.checkpoint import load_newest

MB = 1e6
GAP_S = 2.0
SPARE_BYTES = 64 * MB
_SAME_S = 0.005
_LOUD = ("Traceback", "Assertion failed", "Segmentation fault", "core dumped")


class NodeEvidence:
    """What one node left behind, over all of its starts.

    Args:
        directory: The node's own.
        samples: The lab's lines about this node's processes.
    """

    def __init__(self, directory: Path, samples: list[dict[str, Any]]) -> None:
        self.directory = directory
        self.samples = samples

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_lines(self.directory / "metrics.jsonl")

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, with the time as `unix_s`."""
        lines = read_lines(self.directory / "log.jsonl")
        return [line | {"unix_s": datetime.fromisoformat(line["timestamp"]).timestamp()} for line in lines]

    def told(self, event: str, since_s: float = -math.inf, **fields: Any) -> list[dict[str, Any]]:
        """Lines of the log about an event, with these fields, from a time on."""
        return [
            line
            for line in self.log
            if line["event"] == event
            and line["unix_s"] >= since_s
            and all(line.get(key) == value for key, value in fields.items())
        ]

    @property
    def ready_s(self) -> float:
        """When its last start was ready."""
        return float(self.told("node ready")[-1]["unix_s"])

    def refused(self, neighbor: int, kind: str) -> int:
        """Frames of a neighbour that the last start refused for one kind of error, as its last line of metrics counts them."""
        return int(self.metrics[-1]["refused"].get(str(neighbor), {}).get(kind, 0))

    def used(self, neighbor: int) -> list[tuple[float, float]]:
        """(when, when it had arrived) of each use of a neighbour's snapshot that a line of metrics tells of.

        A line is written some time after its cycle has looked how old the snapshot is, on a busy machine much later: of
        all lines about one snapshot, that with the earliest arrival is right.
        """
        key = str(neighbor)
        uses = [
            (line["unix_s"], line["age_s"][key], line["cycle"] - line["lag_cycles"][key])
            for line in self.metrics
            if key in line["age_s"]
        ]
        another = (now[2] != before[2] or now[1] < before[1] for before, now in pairwise(uses))
        snapshots = list(accumulate(another, initial=0)) if uses else []
        arrived: dict[int, float] = {}
        for snapshot, (when, age_s, _) in zip(snapshots, uses, strict=True):
            arrived[snapshot] = min(arrived.get(snapshot, math.inf), when - age_s)
        return [(when, arrived[snapshot]) for snapshot, (when, _, _) in zip(snapshots, uses, strict=True)]

    def heard_after(self, neighbor: int, since_s: float, until_s: float = math.inf) -> float:
        """Seconds from `since_s` to the arrival of the first snapshot of a neighbour in a stretch of time; NaN for none."""
        later = [arrived for _, arrived in self.used(neighbor) if since_s <= arrived <= until_s]
        return min(later) - since_s if later else math.nan

    def oldest_used_s(self, neighbor: int, since_s: float, until_s: float) -> float:
        """Greatest age of a neighbour's snapshot that was used in a stretch of time; NaN where none was."""
        ages = [at - arrived for at, arrived in self.used(neighbor) if since_s <= at <= until_s]
        return max(ages, default=math.nan)

    def arrivals(self, neighbor: int, since_s: float, until_s: float = math.inf) -> int:
        """How many snapshots of a neighbour arrived in a stretch of time and were used."""
        times = sorted(arrived for _, arrived in self.used(neighbor) if since_s <= arrived <= until_s)
        # The time of arrival is told anew at each use, and never to the millisecond.
        return len(times[:1]) + sum(after - before > _SAME_S for before, after in pairwise(times))

    def transport_cpu(self, since_s: float, until_s: float) -> float:
        """Share of a processor that the threads beside the training one took; NaN without two samples of one process."""
        seen = [s for s in self.samples if since_s <= s["unix_s"] <= until_s]
        first, last = (seen[0], seen[-1]) if len(seen) > 1 else ({"pid": 0}, {"pid": 1})
        if first["pid"] != last["pid"]:
            return math.nan
        return float((last["other_cpu_s"] - first["other_cpu_s"]) / (last["unix_s"] - first["unix_s"]))

    def unused_s(self, neighbor: int, since_s: float, until_s: float) -> float:
        """How long before `until_s` a neighbour's snapshot was last used within the two; NaN where none was."""
        uses = [when for when, _ in self.used(neighbor) if since_s <= when <= until_s]
        return until_s - max(uses) if uses else math.nan

    def ends(self, neighbor: int, since_s: float, until_s: float = math.inf) -> list[float]:
        """When its connections to a neighbour came to an end within the two: lost, or given up."""
        told = [
            line["unix_s"]
            for event in ("connection lost", "connection rebuilt")
            for line in self.told(event, since_s, neighbor=neighbor)
        ]
        return [when for when in told if when <= until_s]

    def longest_wait_s(self, neighbor: int, since_s: float, until_s: float) -> float:
        """Longest time within the two in which no snapshot of a neighbour arrived; NaN where none did at all."""
        arrivals = sorted(arrived for _, arrived in self.used(neighbor) if since_s <= arrived <= until_s)
        if not arrivals:
            return math.nan
        return max(after - before for before, after in pairwise([since_s, *arrivals, until_s]))

    def longest_transfer_s(self, since_s: float, until_s: float) -> float:
        """Longest time within the two in which no whole frame came, of whatever kind; NaN where none did at all."""
        lines = [line for line in self.metrics if since_s <= line["unix_s"] <= until_s]
        came = [
            after["unix_s"] for before, after in pairwise(lines) if after["bytes_in"] > before["bytes_in"]
        ]
        return (
            max(after - before for before, after in pairwise([since_s, *came, until_s])) if came else math.nan
        )

    def longest_gap_s(self, since_s: float, until_s: float = math.inf) -> float:
        """Longest time without a cycle within one start, beyond a cycle; NaN where nothing is told.

        A pause that had begun at `since_s` counts whole. A cycle is as long as the median of those before, where there are any.
        """
        steps = [
            (after["unix_s"], after["time_s"] - before["time_s"], after["cycle"] - before["cycle"])
            for before, after in pairwise(self.metrics)
            if before["boot"] == after["boot"] and before["unix_s"] <= until_s
        ]
        during = [(seconds, cycles) for at_s, seconds, cycles in steps if at_s >= since_s]
        if not during:
            return math.nan
        usual = [(seconds, cycles) for at_s, seconds, cycles in steps if at_s < since_s] or during
        cycle_s = median([seconds / cycles for seconds, cycles in usual])
        return float(max(0.0, *(seconds - cycles * cycle_s for seconds, cycles in during)))

    def resident_growth_bytes(self, since_s: float, until_s: float = math.inf) -> float:
        """Largest resident memory within the two above the largest before, of a process seen in both; NaN where there is none.

        Between two samples the kernel's own record of the most counts, where it keeps one.
        """
        before: dict[tuple[int, str], int] = {}
        grown: list[float] = []
        for sample in self.samples:
            for key in ("resident_bytes", "most_resident_bytes"):
                what, value = (sample["pid"], key), sample.get(key, sample["resident_bytes"])
                if sample["unix_s"] < since_s:
                    before[what] = max(before.get(what, 0), value)
                elif sample["unix_s"] <= until_s and what in before:
                    grown.append(value - before[what])
        return max(0.0, *grown) if grown else math.nan

    def descriptors(self, since_s: float, until_s: float = math.inf) -> float:
        """Median of the open file descriptors: a file that is written for a moment is none that stays open."""
        found = [each["descriptors"] for each in self.samples if since_s <= each["unix_s"] <= until_s]
        return float(median(found)) if found else math.nan

    def outbursts(self) -> int:
        """Lines of the console that tell of an error that nobody caught."""
        console = self.directory / "console.log"
        text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
        return sum(text.count(words) for words in _LOUD)

    def saved_cycles(self) -> list[int]:
        """The cycle of every checkpoint that the node said it had saved, in the order in which it said so."""
        return [int("".join(filter(str.isdigit, line["path"]))) for line in self.told("checkpoint saved")]

    def snapshot_bytes(self) -> int:
        """Size of the weights that the node sends."""
        weights = load_newest(self.directory).part("discriminator")
        return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())

    def lost_cycles(self) -> float:
        """How far the newest checkpoint that loads is behind the newest that was ever saved."""
        saved = self.saved_cycles()
        return max(saved) - load_newest(self.directory).meta.cycle if saved else 0


class Evidence:
    """What a whole run left behind.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = read_lines(folder / "journal.jsonl")
        samples = read_lines(folder / "samples.jsonl")
        self.nodes = {
            int(path.name): NodeEvidence(path, [s for s in samples if s["node"] == int(path.name)])
            for path in sorted((folder / "nodes").iterdir(), key=lambda path: int(path.name))
        }
        self.launcher = NodeEvidence(folder, [s for s in samples if s["node"] == "launcher"])

    def __getitem__(self, node: int) -> NodeEvidence:
        return self.nodes[node]

    def done(self, what: str) -> list[dict[str, Any]]:
        """The journal's lines about a deed."""
        return [line for line in self.journal if line["what"] == what]

    def invariants(
        self, honest: Iterable[int], since_s: float, degree: int, until_s: float = math.inf
    ) -> list[Observation]:
        """What must hold in every row.

        Args:
            honest: Nodes to which nothing was done.
            since_s: When the fault began.
            degree: Most neighbours of a node.
            until_s: Until when memory is looked at; a save, which comes with the stop, needs some of its own.
        """
        nodes = [self.nodes[node] for node in honest]
        room = (degree + 2) * max(node.snapshot_bytes() for node in nodes) + SPARE_BYTES
        gaps = [node.longest_gap_s(since_s) for node in nodes]
        grown = [node.resident_growth_bytes(since_s, until_s) for node in nodes]
        return [
            Observation("longest pause of an honest node beyond a cycle", worst(gaps), GAP_S, "s"),
            Observation("resident memory above the most before", worst(grown) / MB, room / MB, "MB"),
            Observation("uncaught errors", sum(node.outbursts() for node in self.nodes.values()), 0),
            Observation("conditions that the run waited for in vain", len(self.done("waited in vain")), 0),
            Observation("saved cycles lost", max(node.lost_cycles() for node in self.nodes.values()), 0),
        ]


def worst(values: Iterable[float]) -> float:
    """The largest; NaN where one is NaN or there is none."""
    found = list(values)
    return math.nan if not found or any(map(math.isnan, found)) else max(found)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; without those that a kill has torn, as any reader of them must do."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found
