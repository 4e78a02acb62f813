"""Many nodes on one machine: how much they train together, what each sends, holds and needs to start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cluster_runs import Running, launched
from benchmarks.images import write_images
from benchmarks.measure import Figure, figure, timed
from topology.files import write_graph
from topology.graph import Graph, regular, ring

_RINGS = (5, 10, 20, 40)
_REGULAR = {False: (), True: ((20, 4), (20, 8), (40, 16))}  # (nodes, degree)
_WINDOW_S = 10.0
_CYCLES = 10  # of every node, before anything is measured
_OPTIONS = ("--preset", "paper", "--policy", "info-gain", "--epochs", "1000", "--base-port", "18000",
            "--set", "split.images_per_node=1000",
            "--set", "output.metrics_every_cycles=1")  # fmt: skip
_IMPORT_TORCH = "import torch, psutil; print(psutil.Process().memory_info().rss)"
_RATE_TARGET, _START_TARGET_S, _HELP_TARGET_S = 0.9, 6.0, 0.4
_MORE_RESIDENT_MB, _PROPORTIONAL_MB, _PROPORTIONAL_NODES = 100.0, 160.0, 20
_COMMANDS = {"dgan-node": "node", "dgan-launch": "launcher", "dgan-eval": "eval"}
MB = 1e6


def measure(*, full: bool) -> Iterator[Figure]:
    """Rings of 5 to 40 nodes, regular graphs with more edges, the start of five nodes, and `--help`."""
    rounds = 5 if full else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_images(folder / "data")
        yield from _starts(folder, data, rounds)
        found = {}
        for nodes in _RINGS:
            found[nodes] = _look(ring(nodes), f"ring-{nodes}", folder, data)
        yield from _rings(found)
        for nodes, degree in _REGULAR[full]:
            seen = _look(regular(nodes, degree, seed=1), f"regular-{nodes}-{degree}", folder, data)
            yield _one(
                f"{nodes} nodes, {degree} neighbours each: cycles/s of all together",
                seen["rate"],
                "/s",
                _told(seen),
                numbers=seen,
            )
    for command, module in _COMMANDS.items():
        words = [sys.executable, "-m", module, "--help"]
        help_s = partial(subprocess.run, words, check=True, stdout=subprocess.DEVNULL)
        times = [timed(help_s) for _ in range(rounds)]
        yield figure(f"`{command} --help`", times, target=_HELP_TARGET_S, unit="s")


def _starts(folder: Path, data: Path, rounds: int) -> Iterator[Figure]:
    graph_path = _write(ring(5), folder / "start.toml")
    times = []
    for number in range(rounds):
        with launched(graph_path, data, folder / f"start-{number}", ring(5).ids, *_OPTIONS) as running:
            running.wait_for_cycles(1)
            times.append(running.first_cycle_s())
    yield figure(
        "`dgan-launch run`, five nodes, until each has done its first cycle",
        times,
        target=_START_TARGET_S,
        unit="s",
    )


def _rings(found: dict[int, dict[str, float]]) -> Iterator[Figure]:
    few, many = min(found), max(found)
    for nodes, seen in found.items():
        yield _one(
            f"{nodes} nodes on a ring: cycles/s of all together",
            seen["rate"],
            "/s",
            _told(seen),
            numbers=seen,
        )
    yield _one(f"cycles/s of {many} nodes together over those of {few}", found[many]["rate"] / found[few]["rate"], "", "",
               target=_RATE_TARGET, at_least=True)  # fmt: skip
    traffic = [seen["bytes_per_frame"] for seen in found.values()]
    yield _one(
        "bytes that a node sends for a frame, new or repeated, largest over smallest of the rings",
        max(traffic) / min(traffic),
        "",
        f"{min(traffic) / 1e3:.3g} to {max(traffic) / 1e3:.3g} kB to two neighbours",
        target=1.01,
    )
    resident, import_mb = found[few]["resident_mb"], _import_torch_mb()
    yield _one(f"resident memory of a node over a process that only imports torch, largest of {few}", resident - import_mb, "MB",
               f"{resident:.0f} MB, {import_mb:.0f} MB", target=_MORE_RESIDENT_MB)  # fmt: skip
    yield _one(f"proportional memory of a node among {_PROPORTIONAL_NODES}", found[_PROPORTIONAL_NODES]["proportional_mb"], "MB", "",
               target=_PROPORTIONAL_MB)  # fmt: skip


def _look(graph: Graph, name: str, folder: Path, data: Path) -> dict[str, float]:
    """Starts a run, lets it train, and looks at it for a while."""
    path = _write(graph, folder / f"{name}.toml")
    with launched(path, data, folder / name, graph.ids, *_OPTIONS) as running:
        running.wait_for_cycles(_CYCLES)
        first_s = running.first_cycle_s()
        before, began_s = _counts(running), time.monotonic()
        time.sleep(_WINDOW_S)
        after, seconds = _counts(running), time.monotonic() - began_s
        memory = [process.memory_full_info() for process in running.processes()]
    cycles = after["cycle"] - before["cycle"]
    return {
        "nodes": len(graph.ids),
        "degree": max(len(graph.neighbors(node)) for node in graph.ids),
        "rate": cycles / seconds,
        "bytes_per_frame": (after["bytes_out"] - before["bytes_out"]) / (after["frames"] - before["frames"]),
        "resident_mb": max(each.rss for each in memory) / MB,
        "proportional_mb": median(each.pss for each in memory) / MB,
        "first_cycle_s": first_s,
    }


def _counts(running: Running) -> dict[str, float]:
    """Cycles done, frames and bytes sent by all nodes."""
    newest = [running.lines(node)[-1] for node in running.ids]
    return {
        "cycle": sum(line["cycle"] for line in newest),
        "frames": sum(line["publishes"] + line["republishes"] for line in newest),
        "bytes_out": sum(line["bytes_out"] for line in newest),
    }


def _import_torch_mb() -> float:
    """Resident memory of a process that only imports torch."""
    done = subprocess.run([sys.executable, "-c", _IMPORT_TORCH], check=True, capture_output=True)
    return int(done.stdout) / MB


def _told(seen: dict[str, float]) -> str:
    return (
        f"{seen['first_cycle_s']:.1f} s to every first cycle; a node holds {seen['resident_mb']:.0f} MB resident, "
        f"{seen['proportional_mb']:.0f} MB proportional"
    )


def _one(what: str, value: float, unit: str, beside: str, **fields: Any) -> Figure:
    return Figure(what, value, value, value, unit=unit, beside=beside, **fields)


def _write(graph: Graph, path: Path) -> Path:
    path.write_text(write_graph(graph), encoding="utf-8")
    return path
