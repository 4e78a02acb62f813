"""One GPU: a cycle told kernel by kernel against the same cycle replayed as graphs, and five nodes on it for the paper's length.

    make bench-gpu

Writes results/bench-gpu.json, with the device's name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.__main__ import line
from benchmarks.cluster_runs import launched
from benchmarks.images import write_images
from benchmarks.measure import Figure, alternate, figure, machine, milliseconds, ratios, timed
from benchmarks.provenance import ROOT, commit
from benchmarks.training import cycle_s, images
from node.config import resolve
from node.files import write_json
from node.hardware import place
from node.models import Discriminator
from node.neighbors import build_modules
from node.shards import Shard
from node.trainer import Trainer
from topology.graph import ring

_TARGET = 4.0
_ROUNDS = 11
_EPOCHS = 80
_MB = 1e6


def main() -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench-gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is visible: nothing was measured")
    figures = []
    for found in measure(torch.device("cuda")):
        figures.append(found.as_json())
        print(line(figures[-1]), flush=True)
    result = {
        "command": "make bench-gpu",
        "commit": commit(),
        "machine": machine(torch.device("cuda")),
        "figures": figures,
    }
    write_json(options.output, result)


def measure(device: torch.device) -> Iterator[Figure]:
    """Cycles a second of one node, its memory, and a whole run of five."""
    eager, graphs = (build(device, cuda_graphs=graphs) for graphs in (False, True))
    pairs = alternate(eager, graphs, _ROUNDS)
    yield figure(
        "info-gain, two neighbours: cycles/s replayed as graphs over those told kernel by kernel",
        ratios(pairs),
        target=_TARGET,
        at_least=True,
        beside=f"a cycle: {milliseconds('eager', [a for a, _ in pairs])}, {milliseconds('graphs', [b for _, b in pairs])}",
    )
    yield figure("GPU memory that both of them hold", [torch.cuda.max_memory_reserved() / _MB], unit="MB")
    with tempfile.TemporaryDirectory() as name:
        data = write_images(Path(name) / "data")
        seconds = timed(partial(five_nodes, data, Path(name) / "run"))
    yield figure(f"five nodes on the GPU, {_EPOCHS} epochs of 10,000 images each", [seconds], unit="s")


def build(device: torch.device, *, cuda_graphs: bool) -> partial[float]:
    """What measures the seconds of a cycle of a node that considers two neighbours every time."""
    tables = {
        "cooperation": {"consider_probability": 1.0},
        "training": {"device": str(device), "cuda_graphs": cuda_graphs},
        "image": {"size": 20, "channels": 1},
    }
    settings = resolve("benchmark", {"preset": "paper", "policy": "info-gain"}, tables)
    trainer = Trainer(settings, "paper", 1, Shard(images()))
    structure = settings.architecture["paper"]
    neighbors = build_modules((j, place(Discriminator(structure, 20, 1), device)) for j in (2, 5))
    return partial(cycle_s, partial(trainer.cycle, lambda: neighbors))


def five_nodes(data: Path, run: Path) -> None:
    """A whole run, to its end."""
    words = ("--preset", "paper", "--policy", "info-gain", "--epochs", str(_EPOCHS), "--base-port", "17600",
             "--set", "training.device=cuda")  # fmt: skip
    with launched(ROOT / "examples" / "paper-ring.toml", data, run, ring(5).ids, *words) as running:
        running.wait_for_end()


if __name__ == "__main__":
    main()
