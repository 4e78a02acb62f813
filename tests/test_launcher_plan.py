"""From settings and a graph to process specs, without a disk or a process."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.plan import Request, build_plan, check_request
from node.config import Settings, resolve
from topology.errors import InputError
from topology.graph import Graph, NodeSpec, complete, ring

GRAPH_FILE = "ring.toml"


def request(
    graph: Graph | None = None, *, settings: Settings | None = None, base_port: int = 7000
) -> Request:
    """A request for a ring of three on digits."""
    return Request(
        graph=graph or ring(3),
        data="digits",
        settings=settings or resolve("test", {"epochs": 4, "training": {"batch_size": 50, "threads": 2}}),
        base_port=base_port,
        run_dir=Path("runs/x"),
    )


def of(*nodes: NodeSpec) -> Graph:
    """A graph of these nodes in a line."""
    ids = [node.id for node in nodes]
    return Graph.build(GRAPH_FILE, "line", nodes, itertools.pairwise(ids))


def test_each_node_gets_its_own_command_environment_and_files() -> None:
    """`--id` and `--peers` are all a node is given; its threads come from the settings."""
    asked = request()
    plan = build_plan(asked, asked.settings, {1: 100, 2: 100, 3: 149})
    process = plan.nodes[1].process
    assert process.argv == (sys.executable, "-m", "node", "--id", "2", "--peers", "runs/x/peers.toml")
    assert process.env["OMP_NUM_THREADS"] == process.env["MKL_NUM_THREADS"] == "2"
    assert process.console_log == Path("runs/x/nodes/2/console.log")
    assert process.status == Path("runs/x/nodes/2/status.json")
    assert [node.process.node_id for node in plan.nodes] == [1, 2, 3]


def test_cycles_are_epochs_times_whole_batches() -> None:
    """floor(149 / 50) = 2 batches in each of 4 epochs."""
    asked = request()
    plan = build_plan(asked, asked.settings, {1: 100, 2: 50, 3: 149})
    assert [node.cycles for node in plan.nodes] == [8, 4, 8]


def test_a_node_with_less_than_one_batch_is_refused() -> None:
    """No cycle could be trained."""
    asked = request()
    with pytest.raises(InputError, match=r"batch_size = 50, but node 3 gets 49 images"):
        build_plan(asked, asked.settings, {1: 100, 2: 100, 3: 49})


def test_nodes_without_an_address_listen_on_loopback_at_base_plus_id() -> None:
    """The graph's own address and bind win, and an address without a bind keeps every interface."""
    graph = of(
        NodeSpec(1),
        NodeSpec(2, address="tcp://10.0.0.2:7100"),
        NodeSpec(3, address="tcp://10.0.0.3:7100", bind="tcp://*:7200"),
        NodeSpec(4, bind="tcp://*:9004"),
    )
    asked = request(graph, base_port=9000)
    plan = build_plan(asked, asked.settings, dict.fromkeys(graph.ids, 100))
    assert [(node.address, node.bind) for node in plan.nodes] == [
        ("tcp://127.0.0.1:9001", "tcp://127.0.0.1:9001"),
        ("tcp://10.0.0.2:7100", None),
        ("tcp://10.0.0.3:7100", "tcp://*:7200"),
        ("tcp://127.0.0.1:9004", "tcp://*:9004"),
    ]


def test_a_plan_shows_every_node_with_its_command() -> None:
    """One heading and one line for each node."""
    asked = request()
    text = build_plan(asked, asked.settings, dict.fromkeys((1, 2, 3), 100)).describe()
    lines = text.splitlines()
    assert lines[1] == "graph     ring-3, 3 nodes, 3 edges"
    assert "policy info-gain, epochs 4, seed 0, asynchronous" in lines[3]
    assert lines[-1].split()[:7] == ["3", "1", "2", "tcp://127.0.0.1:7003", "paper", "100", "8"]
    assert lines[-1].endswith("-m node --id 3 --peers runs/x/peers.toml")


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    """The graph file, the node and the name are told."""
    with pytest.raises(
        InputError, match=r"ring.toml: node 2: architecture = 'huge' is unknown; one of light, paper, wide"
    ):
        check_request(GRAPH_FILE, request(of(NodeSpec(1), NodeSpec(2, architecture="huge"))))


def test_a_node_with_too_many_neighbours_for_territories_is_refused_before_anything_is_made() -> None:
    """Its noise and its batch go to all of them."""
    settings = resolve("test", {"policy": "territories", "training": {"batch_size": 8}})
    with pytest.raises(
        InputError, match=r"ring.toml: training.batch_size = 8 is too small for node 1, .*; at least 10"
    ):
        check_request(GRAPH_FILE, request(complete(5), settings=settings))


def test_an_architecture_of_the_settings_is_known() -> None:
    """A table [architecture.huge] in the settings is enough."""
    settings = resolve("test", {"architecture": {"huge": {"discriminator_widths": [128, 128, 12]}}})
    check_request(GRAPH_FILE, request(of(NodeSpec(1), NodeSpec(2, architecture="huge")), settings=settings))


@pytest.mark.parametrize("base_port", [-5, 65533])
def test_ports_out_of_range_are_refused(base_port: int) -> None:
    """Port = base + id must lie within 1 to 65535."""
    with pytest.raises(InputError, match=rf"--base-port: {base_port} gives node \d port"):
        check_request(GRAPH_FILE, request(base_port=base_port))


def test_a_default_address_that_another_node_has_already_is_refused() -> None:
    """Node 2 would get what the graph gives to node 1."""
    with pytest.raises(InputError, match=r"address tcp://127.0.0.1:7002 belongs to node 1 and to node 2"):
        check_request(GRAPH_FILE, request(of(NodeSpec(1, address="tcp://127.0.0.1:7002"), NodeSpec(2))))


def test_an_address_asked_for_holds_for_every_node() -> None:
    """`{id}` is the node's; the graph's own addresses and binds are for other machines and count no more."""
    graph = of(
        NodeSpec(1),
        NodeSpec(2, address="tcp://10.0.0.2:7100", bind="tcp://10.0.0.2:7200"),
        NodeSpec(30, bind="tcp://*:9004"),
    )
    asked = replace(request(graph), address="tcp://node{id}:7000")
    check_request(GRAPH_FILE, asked)
    plan = build_plan(asked, asked.settings, dict.fromkeys(graph.ids, 100))
    assert [(node.address, node.bind) for node in plan.nodes] == [
        ("tcp://node1:7000", None),
        ("tcp://node2:7000", None),
        ("tcp://node30:7000", None),
    ]


def test_an_address_asked_for_needs_no_base_port() -> None:
    """Ports that nobody listens at cannot be out of range."""
    asked = request(base_port=65533)
    check_request(GRAPH_FILE, replace(asked, address="tcp://[fd00::{id}]:7000"))
    check_request(GRAPH_FILE, replace(asked, address="tcp://10.0.0.1:700{id}"))


def test_an_address_without_the_id_is_refused() -> None:
    """All nodes would get the same; a single node may."""
    asked = replace(request(), address="tcp://machine:7000")
    with pytest.raises(
        InputError, match=r"^--address: address tcp://machine:7000 belongs to node 1 and to node 2; "
    ):
        check_request(GRAPH_FILE, asked)
    check_request(GRAPH_FILE, replace(asked, graph=of(NodeSpec(1))))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "node{id}:7000",
        "tcp://node{id}",
        "tcp://node{id}:0",
        "tcp://node{id}:7000{id}",
        "tcp://*:700{id}",
        "tcp://{node}{id}:7000",
        "tcp://10.0.0.{id}.5:7000",
        "tcp://node {id}:7000",
        "udp://node{id}:7000",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """By the option that it came with."""
    with pytest.raises(InputError, match=r"^--address: node 1: address = '.*' is no address; write "):
        check_request(GRAPH_FILE, replace(request(), address=address))
