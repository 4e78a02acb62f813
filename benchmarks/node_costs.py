"""What a node costs at the paper preset: memory of a real process, and the training thread's time for publishing.

    python benchmarks/node_costs.py [--output results/node_costs.json]

Five node processes of the paper's ring train for one epoch on made-up images of MNIST's size; the largest resident set
that any of them reports is set against that of a process that only imports torch, in the same run. Publishing
(copy, encode, hand over) is timed in this process between real cycles, with two connected neighbours, and set against
the cycles it follows. Seconds are medians; the figures to quote are the ratios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from node.config import Settings, resolve
from node.shards import Shard
from node.snapshots import schema, to_arrays
from node.trainer import Trainer
from transport.keys import make_keys
from transport.link import Link, LinkSettings, Neighbor
from transport.wire import Expected, Snapshot, encode

ROOT = Path(__file__).parent.parent
ROUNDS = 15
IMPORT_TORCH = "import torch, psutil; print(psutil.Process().memory_info().rss)"


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "node_costs.json")
    output: Path = parser.parse_args().output
    result = {
        "command": "python benchmarks/node_costs.py",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "memory": measure_memory(),
        "publish": measure_publish(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def measure_memory() -> dict[str, Any]:
    """Largest resident set of five real nodes, and that of a process that only imports torch."""
    baseline = int(
        subprocess.run([sys.executable, "-c", IMPORT_TORCH], check=True, capture_output=True).stdout
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "data")
        graph, run_dir = ROOT / "examples" / "paper-ring.toml", folder / "run"
        options = ["--preset", "paper", "--epochs", "1", "--policy", "info-gain", "--base-port", "17600"]
        command = [
            sys.executable,
            "-m",
            "launcher",
            "run",
            str(graph),
            "--data",
            str(folder / "data"),
            *options,
        ]
        subprocess.run([*command, "--run-dir", str(run_dir)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        largest = max(
            json.loads(line)["resident_bytes"]
            for path in run_dir.glob("nodes/*/metrics.jsonl")
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    return {
        "largest_resident_mb": largest / 1e6,
        "import_torch_resident_mb": baseline / 1e6,
        "ratio": largest / baseline,
        "limit_mb": 450,
    }


def write_images(folder: Path) -> None:
    """Four IDX files in MNIST's form: 50,000 training images of 28x28 pixels, enough for five nodes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 50_000), ("t10k", 100)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            data = gzip.compress(header + array.tobytes(), compresslevel=1)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(data)


def measure_publish() -> dict[str, Any]:
    """Seconds of the training thread for one publish, over those of the cycles since the one before."""
    torch.set_num_threads(1)
    settings = resolve("benchmark", {"preset": "paper", "policy": "alone"})
    rng = np.random.default_rng(0)
    trainer = Trainer(settings, "paper", 1, Shard(rng.integers(0, 256, (2000, 20, 20, 1), dtype=np.uint8)))
    image, architecture = settings.image, settings.architecture["paper"]
    form = schema("paper", architecture, image.size, image.channels)
    keys = {node_id: make_keys() for node_id in (1, 2, 3)}

    def link(node_id: int, bind: str, *others: tuple[int, str]) -> Link:
        neighbors = tuple(
            Neighbor(j, address, keys[j].public, Expected("run", j, form, 1)) for j, address in others
        )
        return Link(LinkSettings(node_id, bind, keys[node_id], neighbors))

    hub_address = "tcp://127.0.0.1:17650"
    with (
        link(1, hub_address, (2, "tcp://127.0.0.1:17651"), (3, "tcp://127.0.0.1:17652")) as hub,
        link(2, "tcp://127.0.0.1:17651", (1, hub_address)) as second,
        link(3, "tcp://127.0.0.1:17652", (1, hub_address)) as third,
    ):
        publish_s, cycles_s = [], []
        for seq in range(1, ROUNDS + 2):
            cycles_s.append(timed(lambda: train(trainer, settings)))
            publish_s.append(timed(lambda seq=seq: publish(trainer, hub, form, seq)))  # type: ignore[misc]  # the default binds seq
        received = [other.latest(1, after=(1, ROUNDS), timeout_s=10) for other in (second, third)]
        if None in received:
            raise RuntimeError(
                "a neighbour did not receive the last snapshot; the figures would mean nothing"
            )
    # The first round pays for allocations that no later one makes.
    ratios = sorted(p / c for p, c in zip(publish_s[1:], cycles_s[1:], strict=True))
    return {
        "publish_ms": median(publish_s[1:]) * 1e3,
        "cycles_between_publishes_ms": median(cycles_s[1:]) * 1e3,
        "share_of_training_time": median(ratios),
        "share_lowest": ratios[0],
        "share_highest": ratios[-1],
        "rounds": ROUNDS,
        "limit": 0.01,
    }


def train(trainer: Trainer, settings: Settings) -> None:
    """The cycles between two publishes."""
    for _ in range(settings.exchange.publish_every_cycles):
        trainer.cycle(dict)


def publish(trainer: Trainer, link: Link, form: Any, seq: int) -> None:
    """All that the training thread does for one publish."""
    blocks = (to_arrays(trainer.discriminator),)
    snapshot = Snapshot("run", 1, form.arch_id, 1, seq, seq, done=False, blocks=blocks)
    link.publish(encode(snapshot, form, "float32"))


def timed(work: Any) -> float:
    """Seconds that `work()` takes."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
