"""Graph files: TOML, which holds everything; GraphML and edge lists, read through networkx.

name = "paper-ring"
edges = [[1, 2], [2, 3], [3, 4], [4, 5], [5, 1]]

[[node]]                      # only for what the edges cannot say
id = 3
address = "tcp://10.0.0.3:7000"
bind = "tcp://*:7000"
architecture = "wide"
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from xml.etree import ElementTree as ET

import tomli_w
from pydantic import AfterValidator, Field

from topology.errors import InputError
from topology.graph import Graph, NodeSpec
from topology.lazily import load_lazily
from topology.tables import Table, read_text, read_toml

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = load_lazily("networkx")

_EDGES_IN_A_LINE = 8
_NODE_TEXTS = ("address", "bind", "architecture")


def _edge(value: list[Any]) -> list[Any]:
    # Checked whole, so that the error shows the edge and not one of its ends.
    if len(value) != 2 or any(type(end) is not int for end in value):  # noqa: PLR2004 - an edge has two ends
        raise ValueError("an edge is a pair of ids, such as [1, 2]")
    return value


class _NodeTable(Table):
    id: int
    address: str | None = None
    bind: str | None = None
    architecture: str | None = None


class _GraphFile(Table):
    name: str | None = None
    edges: list[Annotated[list[Any], AfterValidator(_edge)]] = Field(default_factory=list)
    node: list[_NodeTable] = Field(default_factory=list)


def read_graph(path: Path) -> Graph:
    """The graph in a file, whose suffix tells the format.

    `.toml`; `.graphml`; `.edges`, `.edgelist` or `.txt` with one edge, two whole numbers, a line. Nodes that only
    edges name are part of the graph. A file without a name gives the graph its own, less the suffix.

    Raises:
        InputError: The suffix is unknown, the file is missing or malformed, a directed graph has an edge that goes
            one way only, or the graph fails a check of `Graph.build`.
    """
    readers = {".toml": _read_toml, ".graphml": _read_graphml}
    readers |= dict.fromkeys((".edges", ".edgelist", ".txt"), _read_edge_list)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            path, f"suffix {path.suffix!r} tells no graph format", f"one of {', '.join(readers)}"
        )
    return reader(path)


def write_graph(graph: Graph) -> str:
    """The graph as TOML, as `read_graph` reads it back."""
    pairs = [f"[{a}, {b}]" for a, b in graph.edges]
    lines = [
        "  " + ", ".join(pairs[start : start + _EDGES_IN_A_LINE]) + ","
        for start in range(0, len(pairs), _EDGES_IN_A_LINE)
    ]
    edges = "\n".join(["[", *lines, "]"]) if len(lines) > 1 else f"[{', '.join(pairs)}]"
    text = tomli_w.dumps({"name": graph.name}) + f"edges = {edges}\n"
    for node in graph.nodes:
        texts = {key: getattr(node, key) for key in _NODE_TEXTS if getattr(node, key) is not None}
        if texts or not graph.neighbors(node.id):
            text += "\n[[node]]\n" + tomli_w.dumps({"id": node.id} | texts)
    return text


def _read_toml(path: Path) -> Graph:
    file = read_toml(path, _GraphFile)
    nodes = [NodeSpec(**table.model_dump()) for table in file.node]
    edges = [(a, b) for a, b in file.edges]
    return Graph.build(path, path.stem if file.name is None else file.name, _with_ends(nodes, edges), edges)


def _read_edge_list(path: Path) -> Graph:
    edges: list[tuple[int, int]] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.partition("#")[0].strip():
            continue
        try:
            # Line by line: networkx neither names the line nor refuses one with a single word.
            edges.append(next(iter(nx.parse_edgelist([line], nodetype=int).edges)))
        except (TypeError, StopIteration):
            raise InputError(
                path, f"line {number}: {line.strip()[:40]!r} is no edge", "two whole numbers"
            ) from None
    return Graph.build(path, path.stem, _with_ends([], edges), edges)


def _read_graphml(path: Path) -> Graph:
    read_text(path)  # a missing or unreadable file is told in the same words as everywhere
    try:
        read = nx.read_graphml(path)
    # What networkx lets through: it does not look whether a text, a child or an encoding is there before it uses it.
    except (
        ET.ParseError,
        nx.NetworkXException,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(path, f"not GraphML ({error})", "one <graph> in a <graphml> document") from None
    if read.is_directed():
        for a, b in read.edges():
            if not read.has_edge(b, a):
                mend = f'add the edge {b} -> {a}, or say edgedefault="undirected"'
                raise InputError(path, f"edge {a} -> {b} goes one way only", mend)
    ids = {name: _whole_number(path, name) for name in read.nodes}
    nodes = [_graphml_node(path, ids[name], data) for name, data in read.nodes(data=True)]
    edges = [(ids[a], ids[b]) for a, b in read.edges()]
    if read.is_directed():
        edges = [(a, b) for a, b in edges if a <= b]
    name = read.graph.get("name", path.stem)
    return Graph.build(path, str(name), nodes, edges)


def _graphml_node(path: Path, node_id: int, data: dict[str, Any]) -> NodeSpec:
    texts = {key: data[key] for key in _NODE_TEXTS if key in data}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(
                path, f"node {node_id}: {key} = {value!r}", 'its key should say attr.type="string"'
            )
    return NodeSpec(node_id, **texts)


def _whole_number(path: Path, name: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", name):
        raise InputError(path, f"node id {name!r} is no whole number", "number the nodes, such as 1, 2, 3")
    return int(name)


def _with_ends(nodes: list[NodeSpec], edges: Iterable[tuple[int, int]]) -> list[NodeSpec]:
    """The nodes, and those that only edges name."""
    listed = {node.id for node in nodes}
    return nodes + [NodeSpec(end) for end in sorted({end for edge in edges for end in edge} - listed)]
