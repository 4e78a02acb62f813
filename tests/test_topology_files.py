"""Graph files: three formats in, TOML out, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from topology.errors import InputError
from topology.files import read_graph, write_graph
from topology.graph import Graph, NodeSpec, complete, ring

EXAMPLES = Path(__file__).parent.parent / "examples"


def written(folder: Path, name: str, text: str) -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    """The one line that a bad file gets, less its path."""
    with pytest.raises(InputError) as caught:
        read_graph(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def test_the_paper_ring_is_the_ring_of_five() -> None:
    """And says that the ring is this project's choice."""
    path = EXAMPLES / "paper-ring.toml"
    graph = read_graph(path)
    assert graph.name == "paper-ring"
    assert graph.edges == ring(5).edges
    assert "Fig. 1 cannot be read" in path.read_text(encoding="utf-8")


def test_the_mixed_ring_names_different_architectures() -> None:
    """On the same edges."""
    graph = read_graph(EXAMPLES / "mixed-ring.toml")
    assert graph.edges == ring(5).edges
    assert {node.architecture for node in graph.nodes} == {"paper", "wide", "light"}


def test_edges_name_the_nodes_that_have_no_table(tmp_path: Path) -> None:
    """A table adds what edges cannot say, or a node without edges."""
    text = 'edges = [[2, 1]]\n[[node]]\nid = 2\naddress = "tcp://h:1"\n[[node]]\nid = 9\n'
    graph = read_graph(written(tmp_path, "net.toml", text))
    assert graph == Graph("net", (NodeSpec(1), NodeSpec(2, "tcp://h:1"), NodeSpec(9)), ((1, 2),))


@pytest.mark.parametrize(
    "graph",
    [
        ring(5),
        complete(12),
        complete(1),
        Graph.build(
            "test",
            'quoted "name" — ü',
            [
                NodeSpec(0),
                NodeSpec(3, "tcp://[::1]:7", "tcp://*:7", "wide"),
                NodeSpec(4, architecture="light"),
            ],
            [(0, 3)],
        ),
    ],
    ids=lambda graph: str(graph.name),
)
def test_a_graph_survives_its_file(tmp_path: Path, graph: Graph) -> None:
    """What is written is read back equal."""
    assert read_graph(written(tmp_path, "graph.toml", write_graph(graph))) == graph


def test_a_written_graph_reads_well() -> None:
    """Edges stand side by side, and only nodes with something to say have a table."""
    assert write_graph(ring(3)) == 'name = "ring-3"\nedges = [[1, 2], [1, 3], [2, 3]]\n'


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Some editors write one."""
    assert read_graph(written(tmp_path, "g.toml", "\ufeffedges = [[1, 2]]")).edges == ((1, 2),)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("edges = [[1, 2]\n", "not TOML: Unclosed array (at end of document); mend the syntax there"),
        (
            "name = 'x'\nedges = [[1 2]]\n",
            "not TOML: Unclosed array (at line 2, column 13); mend the syntax there",
        ),
        ("edgs = [[1, 2]]", "edgs is an unknown key; did you mean edges?"),
        ("colour = 3", "colour is an unknown key; known keys: name, edges, node"),
        (
            "[[node]]\nid = 1\nedges = [[1, 2]]",
            "node with id 1: edges is an unknown key; move edges to the top of the file, above the first [table]",
        ),
        ("[[node]]\nid = 1\nadress = 'x'", "node with id 1: adress is an unknown key; did you mean address?"),
        ("[[node]]\naddress = 'tcp://h:1'", "node, entry 1: id is missing; add it"),
        ("[[node]]\nid = true", "node with id True: id = True; should be a whole number"),
        ("[[node]]\nid = 1.0", "node, entry 1: id = 1.0; should be a whole number"),
        ("[[node]]\nid = 1\nbind = 7001", "node with id 1: bind = 7001; should be text in quotes"),
        ("[node]\nid = 1", "node = {'id': 1}; write [[node]] in double brackets above each table"),
        ("name = 5", "name = 5; should be text in quotes"),
        ("edges = 5", "edges = 5; should be a list in brackets"),
        ("edges = [1, 2]", "edges, entry 1 = 1; should be a list in brackets"),
        (
            "edges = [[1, 2], [1, 2, 3]]",
            "edges, entry 2 = [1, 2, 3]; an edge is a pair of ids, such as [1, 2]",
        ),
        ("edges = [[1, true]]", "edges, entry 1 = [1, True]; an edge is a pair of ids, such as [1, 2]"),
        ("edges = [[1, '2']]", "edges, entry 1 = [1, '2']; an edge is a pair of ids, such as [1, 2]"),
        ("edges = [[1, 1]]", "edge [1, 1] is a self-loop; an edge joins two different nodes"),
        ("edges = [[1, -1]]", "id = -1 is out of bounds; a whole number from 0 to 2^63 - 1"),
        (
            "edges = [[1, 9223372036854775808]]",
            "a whole number is beyond 64 bits; a number from -2^63 to 2^63 - 1",
        ),
        (
            f"edges = [[1, {'1' * 5000}]]",
            "a whole number is beyond 64 bits; a number from -2^63 to 2^63 - 1",
        ),
        *(
            (
                f"edges = {'[' * depth}{']' * depth}",
                "tables and lists stand more than 64 deep in one another; take some out",
            )
            for depth in (65, 5000)
        ),
        ("", "the graph has no nodes; name at least one edge or one [[node]]"),
        ("name = ''\nedges = [[1, 2]]", "name = '' is no name; 1 to 128 printable characters"),
        ("[[node]]\nid = 1\n[[node]]\nid = 1", "id = 1 appears twice; give every node an id of its own"),
    ],
)
def test_a_bad_toml_file_is_refused_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    """Which names the key, the value and what would be right."""
    assert refusal(written(tmp_path, "graph.toml", text)) == line


def test_a_long_value_is_cut_in_the_line(tmp_path: Path) -> None:
    """The line stays readable."""
    assert len(refusal(written(tmp_path, "graph.toml", f"edges = '{'x' * 5000}'"))) < 200


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    """In every format."""
    for name in ("none.toml", "none.graphml", "none.edges"):
        assert refusal(tmp_path / name) == "no such file; name a file that exists"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """The system's reason is given."""
    folder = tmp_path / "graph.toml"
    folder.mkdir()
    assert refusal(folder) == "cannot be read (Is a directory); name a readable file"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """With the first bad byte."""
    path = tmp_path / "graph.toml"
    path.write_bytes(b"name = '\xff'")
    assert refusal(path) == "byte 8 is not UTF-8; save the file as UTF-8 text"


def test_an_unknown_suffix_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    """Before the file is opened."""
    line = "suffix '.json' tells no graph format; one of .toml, .graphml, .edges, .edgelist, .txt"
    assert refusal(tmp_path / "graph.json") == line


@pytest.mark.parametrize("suffix", ["edges", "edgelist", "txt"])
def test_an_edge_list_has_one_edge_a_line(tmp_path: Path, suffix: str) -> None:
    """Comments, empty lines and networkx's edge data are passed over."""
    text = "# five nodes\n1 2\n\n3\t2  # joined\n4 5 {}\n 5 1 {'weight': 3}\n"
    graph = read_graph(written(tmp_path, f"net.{suffix}", text))
    assert graph.edges == ((1, 2), (1, 5), (2, 3), (4, 5))
    assert graph.name == "net"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 2\none two\n", "line 2: 'one two' is no edge; two whole numbers"),
        ("# c\n1\n", "line 2: '1' is no edge; two whole numbers"),
        ("1 2 3\n", "line 1: '1 2 3' is no edge; two whole numbers"),
        ("1 2.5\n", "line 1: '1 2.5' is no edge; two whole numbers"),
        ("1 2\n2 1\n", "edge [2, 1] appears twice; name each edge once, in one direction"),
        ("", "the graph has no nodes; name at least one edge or one [[node]]"),
    ],
)
def test_a_bad_edge_list_is_refused_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    """A line that is no edge is never passed over."""
    assert refusal(written(tmp_path, "net.edges", text)) == line


def test_graphml_keeps_edges_names_and_addresses(tmp_path: Path) -> None:
    """As networkx writes it."""
    source: nx.Graph[int] = nx.Graph(name="campus")
    source.add_node(3, address="tcp://h:3", architecture="wide")
    source.add_edges_from([(1, 2), (3, 2)])
    path = tmp_path / "net.graphml"
    nx.write_graphml(source, path)
    graph = read_graph(path)
    nodes = (NodeSpec(1), NodeSpec(2), NodeSpec(3, "tcp://h:3", architecture="wide"))
    assert graph == Graph("campus", nodes, ((1, 2), (2, 3)))


def test_directed_graphml_with_both_ways_is_undirected(tmp_path: Path) -> None:
    """An edge that goes both ways is one edge."""
    path = tmp_path / "net.graphml"
    nx.write_graphml(nx.DiGraph([(1, 2), (2, 1), (3, 2), (2, 3)]), path)
    assert read_graph(path).edges == ((1, 2), (2, 3))


def test_directed_graphml_with_a_one_way_edge_is_refused(tmp_path: Path) -> None:
    """With the edge that is missing."""
    path = tmp_path / "net.graphml"
    nx.write_graphml(nx.DiGraph([(1, 2), (2, 1), (3, 2)]), path)
    assert (
        refusal(path) == 'edge 3 -> 2 goes one way only; add the edge 2 -> 3, or say edgedefault="undirected"'
    )


def test_graphml_loops_and_parallel_edges_are_refused(tmp_path: Path) -> None:
    """Directed or not."""
    path = tmp_path / "net.graphml"
    nx.write_graphml(nx.DiGraph([(1, 1)]), path)
    assert refusal(path) == "edge [1, 1] is a self-loop; an edge joins two different nodes"
    nx.write_graphml(nx.MultiGraph([(1, 2), (1, 2)]), path)
    assert refusal(path) == "edge [1, 2] appears twice; name each edge once, in one direction"


def test_graphml_ids_must_be_numbers(tmp_path: Path) -> None:
    """The id in question is named."""
    path = tmp_path / "net.graphml"
    nx.write_graphml(nx.Graph([("n0", "n1")]), path)
    assert refusal(path) == "node id 'n0' is no whole number; number the nodes, such as 1, 2, 3"


def test_a_graphml_address_must_be_text(tmp_path: Path) -> None:
    """Types are declared in the file."""
    source: nx.Graph[int] = nx.Graph()
    source.add_node(1, address=7001)
    path = tmp_path / "net.graphml"
    nx.write_graphml(source, path)
    assert refusal(path) == 'node 1: address = 7001; its key should say attr.type="string"'


GRAPHML = "<graphml xmlns='http://graphml.graphdrawing.org/xmlns'>"
GROUP = "<graph><node id='1' yfiles.foldertype='group'>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<graphml",
        "<html/>",
        f"{GRAPHML}</graphml>",
        "<?xml version='1.0' encoding='uft-8'?><graphml/>",
        f"{GRAPHML}<key id='k' attr.name='x' attr.type='boolean'><default/></key></graphml>",
        f"{GRAPHML}{GROUP}</node></graph></graphml>",
        f"{GRAPHML}{GROUP * 999}<graph/>{'</node></graph>' * 999}</graphml>",
    ],
    ids=[
        "empty",
        "cut",
        "html",
        "no graph",
        "encoding",
        "default without text",
        "group without graph",
        "groups",
    ],
)
def test_what_is_no_graphml_is_refused(tmp_path: Path, text: str) -> None:
    """Without a traceback of the XML reader."""
    assert refusal(written(tmp_path, "net.graphml", text)).startswith("not GraphML (")
