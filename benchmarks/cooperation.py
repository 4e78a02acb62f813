"""Five nodes on a ring that learn from each other, against the same updates in one process without any socket.

All sides share one processor, so that the ratio of their times is what processes, sockets, encryption and files cost. Five bare
processes that make the same updates, and neither exchange nor write anything, tell what of it is the processes'.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.cluster_runs import launched
from benchmarks.images import write_images
from benchmarks.measure import EVERY_CYCLE, Figure, figure, milliseconds, timed
from benchmarks.provenance import ROOT
from node.config import Settings, resolve
from node.hardware import place, prepare_processor
from node.models import Discriminator
from node.neighbors import build_modules
from node.shards import load_shard
from node.trainer import Trainer
from topology.graph import ring

_GRAPH = ROOT / "examples" / "paper-ring.toml"
_TARGET = 1.05
_PATIENCE_S = 300.0
_CYCLES = {False: 40, True: 200}
_OPTIONS = ("--preset", "paper", "--policy", "info-gain", "--epochs", "1000", "--set", "output.metrics_every_cycles=1",
            *(word for key, value in EVERY_CYCLE.items() for word in ("--set", f"discriminator.{key}={value}"))
            )  # fmt: skip


def measure(*, full: bool) -> Iterator[Figure]:
    """Seconds of a cycle with sockets over those without."""
    rounds, cycles = 5 if full else 3, _CYCLES[full]
    before = os.sched_getaffinity(0)
    core = {max(before)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_images(folder / "data")
        number = iter(range(100))
        shards = folder / "run-0"

        def with_sockets() -> float:
            return _with_sockets(data, folder / f"run-{next(number)}", cycles, core)

        def without() -> float:
            prepare_processor(1)
            os.sched_setaffinity(0, core)
            try:
                return _without_sockets(shards, cycles)
            finally:
                os.sched_setaffinity(0, before)

        # The first of them makes the shards, and does not count.
        found = [(with_sockets(), without(), _bare(shards, cycles, core)) for _ in range(rounds + 1)][1:]
    nodes, one, bare = zip(*found, strict=True)
    yield figure(
        "five nodes on a ring, info-gain: seconds of a cycle over those of the same updates in one process without sockets",
        [a / b for a, b in zip(nodes, one, strict=True)],
        target=_TARGET,
        beside=f"a cycle: {milliseconds('five nodes', nodes)}, {milliseconds('one process', one)}",
    )
    yield figure(
        "the same updates in five processes that exchange nothing, over those in one process",
        [a / b for a, b in zip(bare, one, strict=True)],
        beside=f"a cycle: {milliseconds('five bare processes', bare)}",
    )
    yield figure(
        "five nodes over five such processes: what sockets, encryption, files and the launcher cost",
        [a / b for a, b in zip(nodes, bare, strict=True)],
    )


def _with_sockets(data: Path, run: Path, cycles: int, core: set[int]) -> float:
    """Seconds of the processor for one node's cycle, while all five train."""
    graph = ring(5)
    with launched(_GRAPH, data, run, graph.ids, *_OPTIONS, "--base-port", "17600", cores=core) as running:
        running.wait_for_cycles(cycles)
        lines = {node: running.lines(node) for node in graph.ids}
    # From the moment when the last node trains to the moment when the first one stops being watched.
    since_s = max(float(each[0]["unix_s"]) for each in lines.values())
    until_s = min(float(each[-1]["unix_s"]) for each in lines.values())
    done = sum(since_s < float(line["unix_s"]) <= until_s for each in lines.values() for line in each)
    return (until_s - since_s) / done


def _without_sockets(run: Path, cycles: int) -> float:
    """Seconds for one node's cycle, five nodes taking turns; they read each other's weights as often as real ones."""
    settings = _settings()
    graph = ring(5)
    trainers = {
        node: Trainer(settings, "paper", node, load_shard(run / "shards" / f"node-{node}.npz"))
        for node in graph.ids
    }
    copies = {j: _modules(settings, trainers[j], graph.neighbors(j)) for j in graph.ids}
    block = settings.exchange.publish_every_cycles
    turns = cycles // block

    def train() -> None:
        for _ in range(turns):
            for j, trainer in trainers.items():
                for k, module in copies[j].items():
                    module.load_state_dict(trainers[k].discriminator.state_dict())
                for _ in range(block):
                    trainer.cycle(partial(_all, copies[j]))

    return timed(train) / (turns * block * len(trainers))


def _bare(run: Path, cycles: int, core: set[int]) -> float:
    """Seconds of the processor for one node's cycle, five processes at a time that know nothing of each other."""
    spawn, graph = get_context("spawn"), ring(5)
    ready, times = spawn.Barrier(len(graph.ids)), spawn.Queue()
    processes = [
        spawn.Process(target=_train_bare, args=(run, node, cycles, core, ready, times), daemon=True)
        for node in graph.ids
    ]
    for process in processes:
        process.start()
    seconds: list[float] = [times.get(timeout=_PATIENCE_S) for _ in processes]
    for process in processes:
        process.join()
    return max(seconds) / (cycles * len(processes))


def _train_bare(run: Path, node: int, cycles: int, core: set[int], ready: Any, times: Any) -> None:
    prepare_processor(1)
    os.sched_setaffinity(0, core)
    settings = _settings()
    trainer = Trainer(settings, "paper", node, load_shard(run / "shards" / f"node-{node}.npz"))
    neighbors = _modules(settings, trainer, ring(5).neighbors(node))
    trainer.cycle(partial(_all, neighbors))
    ready.wait(_PATIENCE_S)
    times.put(timed(lambda: [trainer.cycle(partial(_all, neighbors)) for _ in range(cycles)]))


def _settings() -> Settings:
    image = {"size": 20, "channels": 1}
    plain = {"preset": "paper", "policy": "info-gain", "epochs": 1000, "image": image}
    return resolve("benchmark", plain, {"discriminator": EVERY_CYCLE})


def _modules(settings: Settings, trainer: Trainer, neighbors: tuple[int, ...]) -> dict[int, Discriminator]:
    structure, image = settings.architecture["paper"], settings.image
    return build_modules(
        (k, place(Discriminator(structure, image.size, image.channels), trainer.device)) for k in neighbors
    )


def _all(copies: Mapping[int, Discriminator]) -> Mapping[int, Discriminator]:
    return copies
