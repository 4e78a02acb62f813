"""The network of nodes: who is whose single-hop neighbour (P1), checked once, never changed.

Undirected: an edge lets both ends read one another's discriminator. The generators at the end draw their graphs
with networkx; they number nodes from 1, always return a connected graph, and the same arguments and version of
networkx give the same graph.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from topology.checks import (
    check_address,
    check_id,
    check_name,
    endpoint,
    refuse_repeated_ids,
    refuse_repeats,
    shown_ids,
)
from topology.errors import InputError
from topology.lazily import load_lazily

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = load_lazily("networkx")

REWIRED_FRACTION = 0.2  # of a small world's edges; the middle of the small-world range of Watts and Strogatz
MAX_DRAWS = 1000  # of a random graph until a connected one comes


@dataclass(frozen=True)
class NodeSpec:
    """What a graph says of one node.

    Attributes:
        id: A whole number from 0.
        address: `tcp://host:port` as its neighbours reach it, or None where the launcher chooses.
        bind: `tcp://host:port` where it listens, or None for every interface and the address's port.
        architecture: Name of its structure, or None for the run's default (P3).
    """

    id: int
    address: str | None = None
    bind: str | None = None
    architecture: str | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes and undirected edges; made by `build`, which checks them.

    Attributes:
        name: Name of the graph, and by default of the run.
        nodes: In ascending order of id.
        edges: Pairs (a, b) of ids with a < b, in ascending order.
    """

    name: str
    nodes: tuple[NodeSpec, ...]
    edges: tuple[tuple[int, int], ...]

    @classmethod
    def build(
        cls, where: str | Path, name: str, nodes: Iterable[NodeSpec], edges: Iterable[tuple[int, int]]
    ) -> Self:
        """The graph of these nodes and edges, in any order. It need not be connected.

        Args:
            where: What an error names as the place, such as the path of the graph file.
            name: 1 to 128 printable characters.
            nodes: Every node of the graph.
            edges: Pairs of ids, each edge once.

        Raises:
            InputError: No node, a bad name, id, address or architecture, an id or address given twice, a
                self-loop, an edge given twice, or an edge to a node that does not exist.
        """
        check_name(where, "name", name)
        ordered = tuple(sorted(nodes, key=lambda node: node.id))
        _check_nodes(where, ordered)
        return cls(name, ordered, _checked_edges(where, [node.id for node in ordered], edges))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids in ascending order."""
        return tuple(node.id for node in self.nodes)

    def node(self, node_id: int) -> NodeSpec:
        """The node with this id; KeyError where there is none."""
        return self._by_id[node_id]

    def neighbors(self, node_id: int) -> tuple[int, ...]:
        """Ids of the single-hop neighbours in ascending order; KeyError where there is no such node."""
        return self._neighbors[node_id]

    @cached_property
    def _by_id(self) -> Mapping[int, NodeSpec]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _neighbors(self) -> Mapping[int, tuple[int, ...]]:
        found: dict[int, list[int]] = {node_id: [] for node_id in self.ids}
        for a, b in self.edges:
            found[a].append(b)
            found[b].append(a)
        return {node_id: tuple(sorted(ids)) for node_id, ids in found.items()}


def _check_nodes(where: str | Path, nodes: tuple[NodeSpec, ...]) -> None:
    if not nodes:
        raise InputError(where, "the graph has no nodes", "name at least one edge or one [[node]]")
    for node in nodes:
        check_id(where, node.id)
        if node.address is not None:
            check_address(where, f"node {node.id}: address", node.address)
        if node.bind is not None:
            check_address(where, f"node {node.id}: bind", node.bind, bind=True)
        if node.architecture is not None:
            check_name(where, f"node {node.id}: architecture", node.architecture)
    refuse_repeated_ids(where, (node.id for node in nodes))
    refuse_repeats(
        where, "address", ((n.id, endpoint(n.address), n.address) for n in nodes if n.address is not None)
    )


def _checked_edges(
    where: str | Path, ids: list[int], edges: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    known = set(ids)
    checked: set[tuple[int, int]] = set()
    for a, b in edges:
        for end in (a, b):
            if end not in known:
                raise InputError(
                    where, f"edge [{a}, {b}] names node {end}", f"ids that exist: {shown_ids(ids)}"
                )
        if a == b:
            raise InputError(where, f"edge [{a}, {b}] is a self-loop", "an edge joins two different nodes")
        edge = min(a, b), max(a, b)
        if edge in checked:
            raise InputError(where, f"edge [{a}, {b}] appears twice", "name each edge once, in one direction")
        checked.add(edge)
    return tuple(sorted(checked))


def ring(n: int) -> Graph:
    """The ring 1-2-…-n-1 of at least 3 nodes.

    Raises:
        InputError: Fewer than 3 nodes.
    """
    _at_least("ring", n, 3)
    return _numbered(f"ring-{n}", nx.cycle_graph(n))


def complete(n: int) -> Graph:
    """Every node joined to every other.

    Raises:
        InputError: Fewer than 1 node.
    """
    _at_least("complete", n, 1)
    return _numbered(f"complete-{n}", nx.complete_graph(n))


def grid(n: int) -> Graph:
    """A square lattice filled row by row; the last row may stay short.

    Raises:
        InputError: Fewer than 1 node.
    """
    _at_least("grid", n, 1)
    width = math.isqrt(n - 1) + 1
    lattice = nx.grid_2d_graph(-(-n // width), width)
    kept = sorted(lattice.nodes)[:n]
    return _numbered(
        f"grid-{n}", nx.convert_node_labels_to_integers(lattice.subgraph(kept), ordering="sorted")
    )


def regular(n: int, degree: int, seed: int) -> Graph:
    """A random connected graph whose nodes all have `degree` neighbours.

    Raises:
        InputError: There is no such graph.
    """
    where = _degree_fits("regular", n, degree)
    if n * degree % 2:
        raise InputError(where, "no graph has this form", "nodes times degree must be even")
    drawn = _connected(where, seed, lambda rng: nx.random_regular_graph(degree, n, seed=rng))
    return _numbered(f"regular-{n}-degree-{degree}-seed-{seed}", drawn)


def small_world(n: int, degree: int, seed: int) -> Graph:
    """A small world of Watts and Strogatz: a ring lattice of even `degree` with a fifth of its edges rewired.

    Raises:
        InputError: There is no such graph, or none drawn is connected.
    """
    where = _degree_fits("small-world", n, degree)
    if degree % 2:
        raise InputError(
            where, "a small world starts with equally many neighbours on each side", "an even degree"
        )
    drawn = _connected(
        where, seed, lambda rng: nx.watts_strogatz_graph(n, degree, REWIRED_FRACTION, seed=rng)
    )
    return _numbered(f"small-world-{n}-degree-{degree}-seed-{seed}", drawn)


def random_graph(n: int, degree: int, seed: int) -> Graph:
    """A random connected graph of mean degree `degree`: a random tree, and uniformly drawn edges beside it.

    The tree keeps large sparse graphs possible: of the graphs with n edges drawn without it hardly any is connected.

    Raises:
        InputError: There is no such graph.
    """
    _degree_fits("random", n, degree)
    rng = random.Random(seed)
    drawn = nx.random_labeled_tree(n, seed=rng)
    edges = n * degree // 2
    beside = [edge for edge in nx.gnm_random_graph(n, edges, seed=rng).edges if not drawn.has_edge(*edge)]
    drawn.add_edges_from(rng.sample(beside, edges - (n - 1)))
    return _numbered(f"random-{n}-degree-{degree}-seed-{seed}", drawn)


def _at_least(kind: str, n: int, least: int) -> None:
    if n < least:
        raise InputError(f"graph {kind}", f"nodes = {n} is too few", f"at least {least}")


def _degree_fits(kind: str, n: int, degree: int) -> str:
    """What errors call the graph, once n nodes of this degree can be connected."""
    _at_least(kind, n, 2)
    least = 1 if n == 2 else 2  # noqa: PLR2004 - two nodes are connected by one edge, more need degree 2
    if not least <= degree < n:
        problem = f"degree = {degree} connects no {n} nodes"
        raise InputError(f"graph {kind}", problem, f"a degree from {least} to {n - 1}")
    return f"graph {kind} of {n} nodes and degree {degree}"


def _connected(where: str, seed: int, draw: Callable[[random.Random], nx.Graph[int]]) -> nx.Graph[int]:
    """The first connected graph that the seed draws."""
    rng = random.Random(seed)
    for _ in range(MAX_DRAWS):
        drawn = draw(rng)
        if nx.is_connected(drawn):
            return drawn
    raise InputError(
        where, f"seed {seed} drew no connected graph (draws: {MAX_DRAWS})", "take a higher degree"
    )


def _numbered(name: str, drawn: nx.Graph[int]) -> Graph:
    """The drawn graph on 0 … n-1 with ids from 1."""
    nodes = [NodeSpec(number + 1) for number in drawn.nodes]
    return Graph.build(f"graph {name}", name, nodes, [(a + 1, b + 1) for a, b in drawn.edges])
