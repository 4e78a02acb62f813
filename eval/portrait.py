"""One run in the report: its network, generated images, curves and private data.

Whatever cannot be read (a node that never ran, a shard left behind, a torn checkpoint) becomes one line of text in
its place, and the rest of the run is shown all the same.

    B images, Z latent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from eval.features import trained_generator
from eval.history import History, read_history, read_status
from eval.plots import Curve, curve_panel, graph_picture, node_colour, png_uri, shared_range
from eval.runs import RunDirectory
from node.checkpoint import CheckpointMeta
from node.models import Generator
from node.samples import generate, grid
from node.shards import Shard, load_shard
from topology.errors import InputError

SAMPLES = 64
NOISE_SEED = 0
TEST = -1
"""Stands for the evaluator among the holders of images, which are node ids."""
_MATRIX_LIMIT = 16  # nodes up to which a square of who chose whom can be read


@dataclass(frozen=True)
class NodePortrait:
    """One node as far as its files tell.

    Attributes:
        id: Number in the graph.
        colour: Its colour on the page.
        neighbors: Ids of its neighbours.
        architecture: Name in the registry.
        status: status.json.
        history: metrics.jsonl.
        checkpoint: What the newest checkpoint says of itself; None where there is none.
        samples: Data URI of a grid of generated images (Fig. 3); None where there is no checkpoint.
        problem: Why there is no checkpoint, in one line.
        losses: Curves of the losses (SVG); None without metrics.
        divergences: Curves of the divergence of each neighbour (SVG); None where none was measured.
    """

    id: int
    colour: str
    neighbors: tuple[int, ...]
    architecture: str
    status: Mapping[str, Any]
    history: History
    checkpoint: CheckpointMeta | None
    samples: str | None
    problem: str | None
    losses: Markup | None = None
    divergences: Markup | None = None

    @property
    def cycle(self) -> int:
        """Cycles done, by the metrics or the checkpoint, whichever is further."""
        measured = int(self.history.cycles.max()) if self.history else 0
        return max(measured, self.checkpoint.cycle if self.checkpoint else 0)

    @property
    def insecure(self) -> bool:
        """Whether it exchanged without CURVE, now or in an earlier start."""
        return self.history.insecure or self.status.get("insecure") is True

    @property
    def choices(self) -> int:
        """Times that this node's generator learned from a neighbour's discriminator."""
        return sum(self.history.chosen(neighbor) for neighbor in self.neighbors)

    @property
    def generator_updates(self) -> int:
        """Steps of G: one a cycle, and one more for each time that it learned from a neighbour's D, or again from its own."""
        return self.cycle + self.choices + self.history.chosen(self.id)

    def link(self, neighbor: int, field: str) -> Any:
        """What status.json says of a neighbour, such as `refused`; None where it says nothing."""
        links = self.status.get("neighbors")
        link = links.get(str(neighbor)) if isinstance(links, dict) else None
        return link.get(field) if isinstance(link, dict) else None


@dataclass(frozen=True)
class DataPortrait:
    """The private shards.

    Attributes:
        data_set: Name of the data set.
        classes: Class names.
        counts: Images of each class by holder, a node id or TEST; only of holders with labels.
        sizes: Images by holder.
        shape: (size, channels) of the images.
        shared: Images that stand in more than one node's shard; None where the shards do not tell.
        examples: Data URI of a grid of test images, or of private ones where the test images are missing.
        problems: One line for each shard that could not be read.
    """

    data_set: str
    classes: tuple[str, ...]
    counts: Mapping[int, tuple[int, ...]]
    sizes: Mapping[int, int]
    shape: tuple[int, int] | None
    shared: int | None
    examples: str | None
    problems: tuple[str, ...]

    @property
    def private_sizes(self) -> tuple[int, ...]:
        """Images of each node whose shard could be read."""
        return tuple(size for holder, size in self.sizes.items() if holder != TEST)


@dataclass(frozen=True)
class Portrait:
    """One run.

    Attributes:
        run: The directory.
        label: Short name, unique in the report.
        anchor: Target of links.
        nodes: Every node of the graph.
        graph: The network drawn (Fig. 1).
        data: The private shards.
        steps: Inner steps of every node over the cycles; None without metrics.
    """

    run: RunDirectory
    label: str
    anchor: str
    nodes: tuple[NodePortrait, ...]
    graph: Markup
    data: DataPortrait
    steps: Markup | None

    @property
    def matrix(self) -> bool:
        """Whether a square of who chose whom is small enough to be read."""
        return len(self.nodes) <= _MATRIX_LIMIT

    @property
    def most_chosen(self) -> int:
        """Highest count of one node choosing one neighbour."""
        return max((n.history.chosen(other) for n in self.nodes for other in n.neighbors), default=0)

    @property
    def cycles(self) -> tuple[int, ...]:
        """Cycles done by each node."""
        return tuple(node.cycle for node in self.nodes)

    @property
    def seconds(self) -> float:
        """Training time of the slowest node."""
        return max((node.history.seconds for node in self.nodes), default=0.0)

    @property
    def insecure(self) -> tuple[int, ...]:
        """Nodes that exchanged without CURVE."""
        return tuple(node.id for node in self.nodes if node.insecure)

    @property
    def trained(self) -> bool:
        """Whether any node left metrics."""
        return any(node.history for node in self.nodes)


def portray(run: RunDirectory, label: str, anchor: str) -> Portrait:
    """Reads and draws one run."""
    histories = [read_history(node.directory / "metrics.jsonl") for node in run.nodes]
    colours = {node.id: node_colour(position) for position, node in enumerate(run.nodes)}
    losses = _panels([_loss_curves(history) for history in histories])
    divergences = _panels(
        [
            _divergence_curves(history, {other: colours[other] for other in node.neighbors})
            for node, history in zip(run.nodes, histories, strict=True)
        ]
    )
    nodes = tuple(
        _node(run, position, history, losses[position], divergences[position])
        for position, history in enumerate(histories)
    )
    chosen = {
        node.id: {other: node.history.chosen(other) for other in node.neighbors}
        for node in nodes
        if node.choices
    }
    return Portrait(
        run=run,
        label=label,
        anchor=anchor,
        nodes=nodes,
        graph=_drawn(graph_picture(list(colours), run.edges, chosen)),
        data=_data(run),
        steps=_steps(nodes),
    )


def _node(
    run: RunDirectory, position: int, history: History, losses: Markup | None, divergences: Markup | None
) -> NodePortrait:
    node = run.nodes[position]
    meta, samples, problem = None, None, None
    try:
        checkpoint = run.checkpoint(node.id)
        meta = checkpoint.meta
        samples = _samples(trained_generator(run, checkpoint))
    except InputError as error:
        problem = str(error)
    return NodePortrait(
        id=node.id,
        colour=node_colour(position),
        neighbors=node.neighbors,
        architecture=node.architecture,
        status=read_status(node.directory / "status.json"),
        history=history,
        checkpoint=meta,
        samples=samples,
        problem=problem,
        losses=losses,
        divergences=divergences,
    )


def _samples(generator: Generator) -> str:
    """A grid of generated images as a data URI, from noise that is the same for every node and run."""
    noise = torch.Generator().manual_seed(NOISE_SEED)
    z_BZ = torch.randn(SAMPLES, generator.latent_size, generator=noise)
    return png_uri(grid(generate(generator, z_BZ)))


def _panels(drawings: Sequence[list[Curve]]) -> list[Markup | None]:
    """A panel for each list of curves, all with one range of values; None for an empty list."""
    y_range = shared_range([curve for curves in drawings for curve in curves])
    return [_drawn(curve_panel(curves, y_range)) if curves else None for curves in drawings]


def _loss_curves(history: History) -> list[Curve]:
    x = history.cycles
    curves = [
        Curve(x, history.series("loss_threshold"), "muted", dashed=True),
        Curve(x, history.series("neighbor_loss"), "loss-n"),
        Curve(x, history.series("g_loss"), "loss-g"),
        Curve(x, history.series("d_loss"), "loss-d"),
    ]
    return curves if history else []


def _divergence_curves(history: History, colours: Mapping[int, str]) -> list[Curve]:
    x = history.cycles
    curves = [Curve(x, history.neighbor_series("kl", other), colour) for other, colour in colours.items()]
    return [curve for curve in curves if np.isfinite(curve.y).any()]


def _steps(nodes: Sequence[NodePortrait]) -> Markup | None:
    """Inner steps of line 2's loop, a curve for each node."""
    curves = [Curve(n.history.cycles, n.history.series("inner_steps"), n.colour) for n in nodes if n.history]
    low, high = shared_range(curves)
    return _drawn(curve_panel(curves, (min(low, 0.0), max(high, 1.2)), wide=True)) if curves else None


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - drawn by eval.plots from numbers alone


def _data(run: RunDirectory) -> DataPortrait:
    """Reads every shard once."""
    shards: dict[int, Shard] = {}
    problems = []
    places = [*((node.id, node.shard) for node in run.nodes), (TEST, run.path / "shards" / "test.npz")]
    for holder, path in places:
        try:
            shards[holder] = load_shard(path)
        except InputError as error:
            problems.append(str(error))
    first = next(iter(shards.values()), None)
    examples = shards.get(TEST, first)
    classes, counts = _class_counts(shards)
    return DataPortrait(
        data_set=first.data_set if first else "unknown",
        classes=classes,
        counts=counts,
        sizes={holder: len(shard) for holder, shard in shards.items()},
        shape=first.image_shape if first else None,
        shared=_shared([shard for holder, shard in shards.items() if holder != TEST]),
        examples=png_uri(grid(examples.images[:SAMPLES])) if examples else None,
        problems=tuple(problems),
    )


def _class_counts(shards: Mapping[int, Shard]) -> tuple[tuple[str, ...], dict[int, tuple[int, ...]]]:
    """Names of all classes, and how many images of each a holder has."""
    names = max((shard.classes for shard in shards.values()), key=len, default=())
    labels = {holder: shard.labels for holder, shard in shards.items() if shard.labels is not None}
    found = {int(label) for held in labels.values() for label in np.unique(held)}
    known = sorted(found | set(range(len(names))))
    counts = {holder: tuple(int((held == label).sum()) for label in known) for holder, held in labels.items()}
    return tuple(names[label] if 0 <= label < len(names) else str(label) for label in known), counts


def _shared(shards: Sequence[Shard]) -> int | None:
    """Images that more than one node holds, by their positions in the data set; None where a shard does not tell."""
    indices = [shard.index for shard in shards if shard.index is not None]
    if not indices or len(indices) < len(shards):
        return None
    _, holders = np.unique(np.concatenate([np.unique(index) for index in indices]), return_counts=True)
    return int((holders > 1).sum())
