"""Graphs: their checks, and the generators' shapes, seeds and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import networkx as nx
import pytest

from topology.errors import InputError
from topology.graph import Graph, NodeSpec, complete, grid, random_graph, regular, ring, small_world

RANDOM = [regular, small_world, random_graph]


def build(*edges: tuple[int, int], ids: tuple[int, ...] = (1, 2, 3)) -> Graph:
    """A graph on nodes that have nothing but an id."""
    return Graph.build("graph.toml", "test", [NodeSpec(node_id) for node_id in ids], edges)


def build_nodes(*nodes: NodeSpec) -> Graph:
    """A graph without edges."""
    return Graph.build("graph.toml", "test", nodes, [])


def drawn(graph: Graph) -> nx.Graph[int]:
    """The same graph for networkx."""
    copy: nx.Graph[int] = nx.Graph(graph.edges)
    copy.add_nodes_from(graph.ids)
    return copy


def test_nodes_and_edges_are_sorted_whatever_their_order() -> None:
    """Edges become (a, b) with a < b."""
    graph = build((3, 2), (2, 1), ids=(3, 1, 2))
    assert graph.ids == (1, 2, 3)
    assert graph.edges == ((1, 2), (2, 3))


def test_neighbours_are_those_one_hop_away() -> None:
    """In ascending order, from either end of an edge."""
    graph = build((3, 2), (2, 1))
    assert [graph.neighbors(node_id) for node_id in graph.ids] == [(2,), (1, 3), (2,)]


def test_a_node_is_found_by_its_id() -> None:
    """An id that does not exist is a KeyError."""
    node = NodeSpec(7, "tcp://10.0.0.7:7000", "tcp://*:7000", "wide")
    assert build_nodes(NodeSpec(2), node).node(7) is node
    with pytest.raises(KeyError):
        build().node(4)
    with pytest.raises(KeyError):
        build().neighbors(4)


def test_a_graph_never_changes() -> None:
    """Neither the graph nor a node of it."""
    graph = build((1, 2))
    with pytest.raises(FrozenInstanceError):
        graph.name = "other"  # type: ignore[misc]  # the assignment that must fail
    with pytest.raises(FrozenInstanceError):
        graph.node(1).id = 5  # type: ignore[misc]  # the assignment that must fail


def test_a_graph_may_be_disconnected() -> None:
    """A node without neighbours trains alone."""
    assert build((1, 2)).neighbors(3) == ()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: build(ids=()), "graph.toml: the graph has no nodes; name at least one edge or one [[node]]"),
        (lambda: build(ids=(1, 2, 1)), "graph.toml: id = 1 appears twice; give every node an id of its own"),
        (
            lambda: build(ids=(-1, 2)),
            "graph.toml: id = -1 is out of bounds; a whole number from 0 to 2^63 - 1",
        ),
        (
            lambda: build((2, 2)),
            "graph.toml: edge [2, 2] is a self-loop; an edge joins two different nodes",
        ),
        (
            lambda: build((1, 2), (2, 1)),
            "graph.toml: edge [2, 1] appears twice; name each edge once, in one direction",
        ),
        (lambda: build((1, 9)), "graph.toml: edge [1, 9] names node 9; ids that exist: 1, 2, 3"),
        (
            lambda: build_nodes(NodeSpec(1, "tcp://Host:70"), NodeSpec(2, "tcp://host:70")),
            "graph.toml: address tcp://host:70 belongs to node 1 and to node 2; give node 2 another",
        ),
        (
            lambda: build_nodes(NodeSpec(1, bind="tcp://*:70000")),
            "graph.toml: node 1: bind = 'tcp://*:70000' is no address; write a port from 0 to 65535",
        ),
        (
            lambda: build_nodes(NodeSpec(1, architecture="")),
            "graph.toml: node 1: architecture = '' is no name; 1 to 128 printable characters",
        ),
        (
            lambda: Graph.build("graph.toml", "a\nb", [NodeSpec(1)], []),
            "graph.toml: name = 'a\\nb' is no name; 1 to 128 printable characters",
        ),
    ],
)
def test_a_bad_graph_is_refused_in_one_line(make: Callable[[], Graph], line: str) -> None:
    """Which names the place, the value and what would be right."""
    with pytest.raises(InputError) as refusal:
        make()
    assert str(refusal.value) == line


def test_a_line_about_a_large_graph_stays_short() -> None:
    """The ids that exist are not all listed."""
    with pytest.raises(InputError, match=r"1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …, 1000$"):
        build((1, 2000), ids=tuple(range(1, 1001)))


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:7001",
        "tcp://node-3.example.org:1",
        "tcp://node_3:65535",
        "tcp://[::1]:7001",
        "tcp://[fe80::1%eth0]:7001",
    ],
)
def test_hosts_may_be_names_or_addresses(address: str) -> None:
    """IPv6 stands in brackets."""
    assert build_nodes(NodeSpec(1, address)).node(1).address == address


@pytest.mark.parametrize(
    ("address", "mend"),
    [
        ("127.0.0.1:7001", "tcp://host:port"),
        ("udp://127.0.0.1:7001", "tcp://host:port"),
        ("tcp://127.0.0.1", "tcp://host:port"),
        ("tcp://:7001", "tcp://host:port"),
        ("tcp://::1:7001", "an IPv6 host in brackets"),
        ("tcp://127.0.0.1:7001 ", "tcp://host:port"),
        ("tcp://127.0.0.1:0", "a port from 1 to 65535"),
        ("tcp://127.0.0.1:65536", "a port from 1 to 65535"),
        ("tcp://127.0.0.256:7001", "an IPv4 address of four numbers"),
        ("tcp://[::g]:7001", "an IPv6 address between the brackets"),
        ("tcp://-host:7001", "a host name of letters, digits, dots and hyphens"),
        ("tcp://10.0.0.1;10.0.0.2:7001", "a host name of letters, digits, dots and hyphens"),
        ("tcp://*:7001", "a host that neighbours can reach"),
        ("tcp://0.0.0.0:7001", "a host that neighbours can reach"),
        ("tcp://[::]:7001", "a host that neighbours can reach"),
    ],
)
def test_a_bad_address_is_refused(address: str, mend: str) -> None:
    """With what would be right about it."""
    with pytest.raises(InputError, match="node 1: address = ") as refusal:
        build_nodes(NodeSpec(1, address))
    assert mend in str(refusal.value)


@pytest.mark.parametrize("bind", ["tcp://*:7001", "tcp://0.0.0.0:7001", "tcp://[::]:7001", "tcp://eth0:0"])
def test_a_node_may_listen_on_every_interface_and_any_port(bind: str) -> None:
    """What is no address for others is one to bind to."""
    assert build_nodes(NodeSpec(1, bind=bind)).node(1).bind == bind


def test_one_address_in_two_spellings_is_still_one() -> None:
    """IPv6 zeros may be left out."""
    with pytest.raises(InputError, match="belongs to node 1 and to node 2"):
        build_nodes(NodeSpec(1, "tcp://[::1]:7001"), NodeSpec(2, "tcp://[0:0::1]:7001"))


def test_a_ring_of_five_has_five_edges() -> None:
    """1-2-3-4-5-1, the default of this project."""
    assert ring(5).edges == ((1, 2), (1, 5), (2, 3), (3, 4), (4, 5))
    assert ring(5).name == "ring-5"


def test_in_a_complete_graph_everybody_is_a_neighbour() -> None:
    """One node alone is complete too."""
    assert complete(4).neighbors(2) == (1, 3, 4)
    assert complete(1).ids == (1,)


@pytest.mark.parametrize(("nodes", "edges"), [(1, 0), (2, 1), (4, 4), (5, 5), (9, 12)])
def test_a_grid_is_a_square_lattice(nodes: int, edges: int) -> None:
    """Whose last row may be short."""
    assert len(grid(nodes).edges) == edges
    assert grid(nodes).ids == tuple(range(1, nodes + 1))


def test_a_grid_of_nine_has_its_centre_in_the_middle() -> None:
    """Rows are filled from left to right."""
    assert grid(9).neighbors(5) == (2, 4, 6, 8)


@pytest.mark.parametrize("make", [ring, complete, grid])
def test_plain_generators_are_connected(make: Callable[[int], Graph]) -> None:
    """For every number of nodes."""
    for nodes in range(3, 30):
        assert nx.is_connected(drawn(make(nodes)))


@pytest.mark.parametrize("make", RANDOM)
@pytest.mark.parametrize(("nodes", "degree"), [(5, 2), (12, 2), (20, 4), (9, 8)])
def test_random_generators_are_connected(
    make: Callable[[int, int, int], Graph], nodes: int, degree: int
) -> None:
    """With the number of edges that the degree asks for, whatever the seed."""
    for seed in range(10):
        graph = make(nodes, degree, seed)
        assert nx.is_connected(drawn(graph))
        assert len(graph.edges) == nodes * degree // 2
        assert graph.ids == tuple(range(1, nodes + 1))


@pytest.mark.parametrize("make", RANDOM)
def test_a_seed_draws_its_own_graph_every_time(make: Callable[[int, int, int], Graph]) -> None:
    """Another seed draws another."""
    assert make(20, 4, 7) == make(20, 4, 7)
    assert make(20, 4, 7).edges != make(20, 4, 8).edges


def test_in_a_regular_graph_all_have_as_many_neighbours() -> None:
    """Also where a draw without the check would often fall apart."""
    graph = regular(30, 2, seed=3)
    assert {len(graph.neighbors(node_id)) for node_id in graph.ids} == {2}


def test_a_large_sparse_random_graph_is_connected() -> None:
    """Independent edges alone would leave nodes out."""
    graph = random_graph(1000, 2, seed=1)
    assert nx.is_connected(drawn(graph))
    assert len(graph.edges) == 1000


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ring(2), "graph ring: nodes = 2 is too few; at least 3"),
        (lambda: complete(0), "graph complete: nodes = 0 is too few; at least 1"),
        (lambda: grid(-4), "graph grid: nodes = -4 is too few; at least 1"),
        (lambda: regular(1, 0, 0), "graph regular: nodes = 1 is too few; at least 2"),
        (lambda: regular(5, 5, 0), "graph regular: degree = 5 connects no 5 nodes; a degree from 2 to 4"),
        (lambda: regular(6, 1, 0), "graph regular: degree = 1 connects no 6 nodes; a degree from 2 to 5"),
        (lambda: random_graph(9, 0, 0), "graph random: degree = 0 connects no 9 nodes; a degree from 2 to 8"),
        (
            lambda: regular(5, 3, 0),
            "graph regular of 5 nodes and degree 3: no graph has this form; nodes times degree must be even",
        ),
        (
            lambda: small_world(8, 3, 0),
            (
                "graph small-world of 8 nodes and degree 3: a small world starts with equally many neighbours "
                "on each side; an even degree"
            ),
        ),
    ],
)
def test_an_impossible_graph_is_refused_in_one_line(make: Callable[[], Graph], line: str) -> None:
    """Which says what is possible."""
    with pytest.raises(InputError) as refusal:
        make()
    assert str(refusal.value) == line


def test_a_hopeless_draw_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than never."""
    monkeypatch.setattr("topology.graph.MAX_DRAWS", 1)
    with pytest.raises(
        InputError, match=r"seed 1 drew no connected graph \(draws: 1\); take a higher degree"
    ):
        regular(2000, 2, seed=1)
