"""What the five-node cluster of docker-compose.yml costs: the image, the start, the memory of each container.

    make bench-compose        # writes results/containers.json and the table in docs/docker.md

Needs a Docker engine with the image built. Sizes are set against the base image, memory against a container of the
same image that only imports torch, and the time from the start to the exchange against the same nodes as processes of
`dgan-launch run` outside of containers, in alternating rounds of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.images import write_images
from cluster import IDS, IMAGE, Cluster, compose_command, docker, running

ROOT = Path(__file__).parent.parent
ROUNDS = 3
PATIENCE_S = 300.0
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "containers.json")
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        Cluster(Path(folder) / "reports").compose("build")
    result = {
        "command": "make bench-compose",
        "engine": docker("version", "--format", "{{.Server.Version}}"),
        "compose": " ".join(compose_command()),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "image": measure_image(),
        "start": measure_start(),
        "memory": measure_memory(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def measure_image() -> dict[str, float]:
    """Bytes of the image, and of what it adds to its base."""
    layers = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", IMAGE)
    size_bytes = int(docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
    added = sum(int(line.split()[0]) for line in layers.splitlines()[: _own_layers(layers)])
    return {
        "size_mb": size_bytes / 1e6,
        "base_mb": (size_bytes - added) / 1e6,
        "added_mb": added / 1e6,
        "torch_mb": _kib("/opt/dgan/lib/python3*/site-packages/torch") * 1024 / 1e6,
    }


def _own_layers(layers: str) -> int:
    """How many of an image's layers, newest first, come from our Dockerfile: those down to its first LABEL."""
    return 1 + max(
        number for number, line in enumerate(layers.splitlines()) if "org.opencontainers.image.title" in line
    )


def _kib(path: str) -> int:
    command = ("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", f"du -sk {path}")
    return int(docker(*command).split()[0])


def measure_start() -> dict[str, Any]:
    """Seconds from the command to the moment when every node has a snapshot of each neighbour."""
    contained, bare = [], []
    for _ in range(ROUNDS):
        contained.append(start_cluster())
        bare.append(start_processes())
    ratios = [one / other for one, other in zip(contained, bare, strict=True)]
    return {
        "rounds": ROUNDS,
        "cluster_s": median(contained),
        "processes_s": median(bare),
        "ratio": median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


def start_cluster() -> float:
    """Once with `docker compose up`, preparation included, from nothing but the image."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "reports") as cluster:
        began_s = time.monotonic()
        cluster.compose("up", "--detach")
        until(lambda: all(exchanged(cluster.status(i)) for i in IDS))
        return time.monotonic() - began_s


def start_processes() -> float:
    """Once with `dgan-launch run`, preparation included."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "launcher",
            "run",
            "examples/paper-ring.toml",
            "--base-port",
            "17600",
        ]
        began_s = time.monotonic()
        with subprocess.Popen(
            [*command, "--run-dir", str(run_dir)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            files = [run_dir / "nodes" / str(i) / "status.json" for i in IDS]
            until(lambda: all(file.exists() and exchanged(json.loads(file.read_bytes())) for file in files))
            took_s = time.monotonic() - began_s
            process.send_signal(signal.SIGTERM)
        return took_s


def exchanged(status: dict[str, Any]) -> bool:
    """Whether a node has accepted a snapshot of each neighbour."""
    rows = status.get("neighbors") or {}
    return bool(rows) and all(row["accepted"] for row in rows.values())


def measure_memory() -> dict[str, Any]:
    """Memory that the engine counts for a node's container after a minute at work, at two presets."""
    code = "import torch, time; time.sleep(3600)"
    idle = docker("run", "--detach", "--rm", "--entrypoint", "python", IMAGE, "-c", code)
    try:
        time.sleep(20)
        baseline = used_mb(idle)
    finally:
        docker("rm", "--force", idle)
    nodes = {}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data")
        for preset, variables in {
            "quick": {},
            "paper": {"DGAN_DATA": "/data", "DGAN_DATA_DIR": str(Path(folder) / "data")},
        }.items():
            with running(
                Path(folder) / preset, DGAN_PRESET=preset, DGAN_EPOCHS="1000", **variables
            ) as cluster:
                cluster.compose("up", "--detach")
                until(lambda cluster=cluster: all(exchanged(cluster.status(i)) for i in IDS))  # type: ignore[misc]  # the default binds cluster
                time.sleep(60)
                ids = cluster.containers()
                used = {
                    service: used_mb(ids[service]) for service in (*(f"node{i}" for i in IDS), "evaluator")
                }
            evaluator = used.pop("evaluator")
            largest = max(used.values())
            nodes[preset] = {
                "largest_mb": largest,
                "ratio": largest / baseline,
                "evaluator_waiting_mb": evaluator,
            }
    return {"import_torch_mb": baseline, **nodes}


def used_mb(container: str) -> float:
    """Memory of a container without what the kernel could drop at once, as `docker stats` shows it."""
    shown = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).split(" / ")[0]
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", shown).groups()  # type: ignore[union-attr]  # else let it fail
    return float(number) * UNITS[unit] / 1e6


def until(condition: Callable[[], bool]) -> None:
    """Polls five times a second."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"the cluster did not get there within {PATIENCE_S:g} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
