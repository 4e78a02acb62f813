"""A graph as a file for Docker Compose: one service for each node, one network for each edge.

Two containers reach one another only over a network that both are on. With a network for each edge, nodes without an
edge have no route between them, whatever runs in them, and the name of a node resolves at its neighbours alone.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.prepare import plain_name
from topology.errors import InputError
from topology.files import write_graph
from topology.graph import Graph
from topology.lazily import load_lazily

if TYPE_CHECKING:
    import jinja2
else:
    jinja2 = load_lazily("jinja2")

PORT = 7000
_SUBNET_ADDRESSES = 8  # /29: the gateway, two nodes, three spare, the network's own and broadcast
_MAX_SUBNETS = 2**16 // _SUBNET_ADDRESSES


def compose_file(graph: Graph, path: Path) -> str:
    """The text of `docker-compose.yml`, to stand in the folder that holds the Dockerfile.

    Args:
        graph: The network; addresses in it are left out, since containers reach one another by their names.
        path: The graph's file, named in the first line and in errors; its content is part of the text.

    Raises:
        InputError: There are more edges than subnets, or the path holds a character that ends a line or is not shown.
    """
    if not path.as_posix().isprintable():
        problem = f"{path.as_posix()!a} does not fit into one line"
        raise InputError("graph", problem, "a name of printable characters")
    if len(graph.edges) >= _MAX_SUBNETS:
        problem = f"{len(graph.edges)} edges, and each takes a network"
        raise InputError(path, problem, f"at most {_MAX_SUBNETS - 1} edges for one machine")
    networks = [f"edge-{a}-{b}" for a, b in graph.edges]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("launcher"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("docker-compose.yml.j2").render(
        graph=graph,
        path=path.as_posix(),
        graph_text=write_graph(graph).strip().replace("$", "$$"),
        run_name=plain_name(graph.name),
        port=PORT,
        version=metadata.version("dgan"),
        edges={
            node.id: [name for name, edge in zip(networks, graph.edges, strict=True) if node.id in edge]
            for node in graph.nodes
        },
        subnets={name: _subnet(index) for index, name in enumerate(["outside", *networks])},
    )


def _subnet(index: int) -> str:
    high, low = divmod(index * _SUBNET_ADDRESSES, 256)
    return f"${{DGAN_SUBNET:-10.213}}.{high}.{low}/29"
