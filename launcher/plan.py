"""From settings and a graph to the processes of a run; pure and printable, so that `--dry-run` shows all of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.config import DEFAULT_ARCHITECTURE, Settings, check_territories
from topology.checks import MAX_PORT, check_address, endpoint, refuse_repeats
from topology.errors import InputError
from topology.graph import Graph

_NODE = (sys.executable, "-m", "node")
# One thread pool each: the settings, not the machine's core count, say how many threads a node takes.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Request:
    """What the user asked for, complete and before any data was looked at.

    Attributes:
        graph: The network.
        data: The `--data` argument: a data set's name, or a folder as an absolute path.
        settings: Settings as asked; image size and channels may still be 0, "the data set's own".
        base_port: Node `id` listens at `base_port + id` where the graph gives it no address.
        run_dir: Directory of the run.
        address: Address of every node, `{id}` its id, instead of the graph's and of `base_port`; None leaves those.
    """

    graph: Graph
    data: str
    settings: Settings
    base_port: int
    run_dir: Path
    address: str | None = None


@dataclass(frozen=True)
class ProcessSpec:
    """One node process.

    Attributes:
        node_id: The node.
        argv: Its command.
        env: What its environment has beyond the launcher's own.
        directory: Where it keeps its state; `console_log` and `status` stand in it.
    """

    node_id: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    directory: Path

    @property
    def words(self) -> tuple[str, ...]:
        """The words of `dgan-node`'s command line."""
        return self.argv[len(_NODE) :]

    @property
    def console_log(self) -> Path:
        """File that the process's standard output and error are appended to."""
        return self.directory / "console.log"

    @property
    def status(self) -> Path:
        """File in which the node says how far it is."""
        return self.directory / "status.json"


@dataclass(frozen=True)
class NodePlan:
    """One node of a run: who it is, what it holds, how it is started.

    Attributes:
        id: The node.
        neighbors: The only nodes it exchanges snapshots with.
        address: As its neighbours reach it.
        bind: Where it listens; None is every interface at the address's port.
        architecture: Name of its generator's and discriminator's structure.
        images: Training images in its shard.
        cycles: Turns of Algorithm 1's outer loop, epochs x floor(images / batch size).
        process: How it is started.
    """

    id: int
    neighbors: tuple[int, ...]
    address: str
    bind: str | None
    architecture: str
    images: int
    cycles: int
    process: ProcessSpec


@dataclass(frozen=True)
class RunPlan:
    """All processes of a run."""

    request: Request
    settings: Settings
    nodes: tuple[NodePlan, ...]

    def describe(self) -> str:
        """The plan as text: the run's heading, then one line for each node."""
        settings, request = self.settings, self.request
        head = ("node", "neighbours", "address", "architecture", "images", "cycles", "command")
        rows = [
            (
                str(node.id),
                " ".join(map(str, node.neighbors)) or "-",
                node.address,
                node.architecture,
                str(node.images),
                str(node.cycles),
                shlex.join(node.process.argv),
            )
            for node in self.nodes
        ]
        exchange = "lockstep" if settings.lockstep else "asynchronous"
        image = f"{settings.image.size}x{settings.image.size}x{settings.image.channels}"
        heading = {
            "run": str(request.run_dir),
            "graph": f"{request.graph.name}, {len(self.nodes)} nodes, {len(request.graph.edges)} edges",
            "data": f"{request.data}, images {image}, split {settings.split.rule}",
            "settings": f"preset {settings.preset}, policy {settings.policy}, epochs {settings.epochs}, seed {settings.seed}, {exchange}",
        }
        return "\n".join([*_columns(list(heading.items())), "", *_columns([head, *rows])])


def build_plan(request: Request, settings: Settings, images: Mapping[int, int]) -> RunPlan:
    """The processes of a run.

    Args:
        request: What was asked for; `check_request` has passed.
        settings: The resolved settings.
        images: Training images of each node.

    Raises:
        InputError: A node has fewer images than one batch.
    """
    nodes = []
    for spec in request.graph.nodes:
        address, bind = _endpoint(request, spec.id)
        nodes.append(
            NodePlan(
                id=spec.id,
                neighbors=request.graph.neighbors(spec.id),
                address=address,
                bind=bind,
                architecture=spec.architecture or DEFAULT_ARCHITECTURE,
                images=images[spec.id],
                cycles=_cycles(spec.id, images[spec.id], settings),
                process=_process(request.run_dir, spec.id, settings.training.threads),
            ),
        )
    return RunPlan(request, settings, tuple(nodes))


def check_request(where: str | Path, request: Request) -> None:
    """Refuses what no run could be made from, before data is read or anything is written.

    Args:
        where: The graph file, named in errors about the graph.
        request: What was asked for.

    Raises:
        InputError: A node names an architecture that the settings lack, gets a port out of range, or an address
            that another node has already; or see `check_architectures`.
    """
    check_architectures(where, request.graph, request.settings)
    for spec in request.graph.nodes:
        port = request.base_port + spec.id
        if request.address is None and spec.address is None and not 1 <= port <= MAX_PORT:
            mend = f"a --base-port that keeps every base + id within 1 to {MAX_PORT}"
            raise InputError("--base-port", f"{request.base_port} gives node {spec.id} port {port}", mend)
    addresses = [(node_id, _endpoint(request, node_id)[0]) for node_id in request.graph.ids]
    if request.address is not None:
        where = "--address"
        for node_id, address in addresses:
            check_address(where, f"node {node_id}: address", address)
    refuse_repeats(
        where, "address", ((node_id, endpoint(address), address) for node_id, address in addresses)
    )


def check_architectures(where: str | Path, graph: Graph, settings: Settings) -> None:
    """Refuses a node whose architecture the settings do not describe, or that has too many neighbours for it.

    Raises:
        InputError: Names the node and the architectures that there are, or what is too small.
    """
    known = sorted(settings.architecture)
    for spec in graph.nodes:
        if spec.architecture is not None and spec.architecture not in known:
            mend = f"one of {', '.join(known)}, or a table [architecture.{spec.architecture}] in the settings"
            raise InputError(where, f"node {spec.id}: architecture = {spec.architecture!r} is unknown", mend)
        name = spec.architecture or DEFAULT_ARCHITECTURE
        check_territories(where, settings, spec.id, name, len(graph.neighbors(spec.id)))


def _endpoint(request: Request, node_id: int) -> tuple[str, str | None]:
    """(address, bind) of a node: as asked for all, else the graph's own, else this machine's loopback."""
    if request.address is not None:
        return request.address.replace("{id}", str(node_id)), None
    spec = request.graph.node(node_id)
    if spec.address is not None:
        return spec.address, spec.bind
    local = f"tcp://127.0.0.1:{request.base_port + node_id}"
    return local, spec.bind or local


def _cycles(node_id: int, images: int, settings: Settings) -> int:
    batches = images // settings.training.batch_size
    if batches == 0:
        problem = (
            f"training.batch_size = {settings.training.batch_size}, but node {node_id} gets {images} images"
        )
        raise InputError("settings", problem, f"a batch of at most {images}, more images, or fewer nodes")
    return settings.epochs * batches


def _process(run_dir: Path, node_id: int, threads: int) -> ProcessSpec:
    command = (*_NODE, "--id", str(node_id), "--peers", str(run_dir / "peers.toml"))
    environment = {name: str(threads) for name in THREAD_VARIABLES}
    # A killed node's last words are in its console.log only if they were not held back in a buffer.
    environment["PYTHONUNBUFFERED"] = "1"
    return ProcessSpec(node_id, command, environment, run_dir / "nodes" / str(node_id))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
