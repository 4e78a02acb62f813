"""One GPU: a cycle told kernel by kernel against the same cycle replayed as graphs, and five nodes on it at once.

    make bench-gpu

Writes results/bench-gpu.json, with the device's name. Where NVIDIA's multi-process service (MPS) is installed, five nodes run
with it and without: a GPU otherwise works for one process at a time, however little of it that one needs.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.__main__ import line
from benchmarks.cluster_runs import Running, launched
from benchmarks.images import write_images
from benchmarks.measure import Figure, alternate, figure, machine, milliseconds, ratios
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
_EPOCHS, _FEW_EPOCHS = 80, 8
_LATER_CYCLE = 200  # every node has recorded its graphs by then
_MB = 1e6
_MPS = "nvidia-cuda-mps-control"


def main() -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench-gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is visible: nothing was measured")
    device, figures = torch.device("cuda"), []
    for found in measure(device):
        figures.append(found.as_json())
        print(line(figures[-1]), flush=True)
    result = {
        "command": "make bench-gpu",
        "commit": commit(),
        "machine": machine(device),
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
        folder = Path(name)
        data = write_images(folder / "data")
        if shutil.which(_MPS) is None:
            yield whole_run(five_nodes(data, folder / "run", _EPOCHS), "")
            return
        with multi_process_service():
            shared = five_nodes(data, folder / "shared", _EPOCHS)
        yield whole_run(shared, ", multi-process service")
        alone = five_nodes(data, folder / "alone", _FEW_EPOCHS)
        yield figure(
            "five nodes: cycles/s with the multi-process service over those without",
            [shared.cycles_s / alone.cycles_s],
            beside=f"{shared.cycles_s:.0f} and {alone.cycles_s:.0f} cycles/s, all nodes together",
        )


@dataclass(frozen=True)
class Run:
    """What came of five nodes on one GPU.

    Attributes:
        seconds: From the launcher's start to its end.
        cycles_s: Cycles a second of all nodes together, once all have recorded their graphs.
        gpu_mb: GPU memory of all of them.
    """

    seconds: float
    cycles_s: float
    gpu_mb: float


def whole_run(run: Run, how: str) -> Figure:
    """The paper's length, in seconds."""
    beside = f"{run.cycles_s:.0f} cycles/s together, {run.gpu_mb:.0f} MB of GPU memory"
    return figure(
        f"five nodes on the GPU, {_EPOCHS} epochs of 10,000 images each{how}",
        [run.seconds],
        unit="s",
        beside=beside,
    )


@contextlib.contextmanager
def multi_process_service() -> Iterator[None]:
    """Lets the processes that start meanwhile compute on the GPU at the same time."""
    subprocess.run([_MPS, "-d"], check=True)
    try:
        yield
    finally:
        subprocess.run([_MPS], input=b"quit\n", check=True)


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


def five_nodes(data: Path, run: Path, epochs: int) -> Run:
    """A whole run, to its end."""
    words = ("--preset", "paper", "--policy", "info-gain", "--epochs", str(epochs), "--base-port", "17600",
             "--set", "training.device=cuda")  # fmt: skip
    free, _ = torch.cuda.mem_get_info()
    with launched(ROOT / "examples" / "paper-ring.toml", data, run, ring(5).ids, *words) as running:
        running.wait_for_cycles(_LATER_CYCLE)
        later_free, _ = torch.cuda.mem_get_info()
        running.wait_for_end()
        return Run(time.time() - running.began_s, cycles_s(running), (free - later_free) / _MB)


def cycles_s(running: Running) -> float:
    """All nodes' cycles over the time that they took, without what came before the first graphs were recorded."""
    rate = 0.0
    for node in running.ids:
        lines = [each for each in running.lines(node) if each["cycle"] >= _LATER_CYCLE]
        rate += (lines[-1]["cycle"] - lines[0]["cycle"]) / (lines[-1]["unix_s"] - lines[0]["unix_s"])
    return rate


if __name__ == "__main__":
    main()
