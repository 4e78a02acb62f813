"""`dgan-launch compose`: what the file grants each container, for any graph; and the files that it builds from."""

from __future__ import annotations

import ipaddress
import itertools
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.__main__ import main
from launcher.compose import compose_file
from topology.errors import InputError
from topology.files import read_graph
from topology.graph import Graph, NodeSpec, complete, ring

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GRAPH_FILE = Path("graphs/any.toml")
LOADER = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # in C seven times as fast, where PyYAML was built with it
# What hands a container more of the host than the file grants.
GRANTS = {"ports", "expose", "cap_add", "privileged", "devices", "pid", "ipc", "userns_mode", "extra_hosts"}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to seven nodes with any ids, and any edges between them; isolated nodes are common."""
    ids = sorted(draw(st.sets(st.integers(0, 12) | st.integers(0, 2**63 - 1), min_size=1, max_size=7)))
    pairs = list(itertools.combinations(ids, 2))
    edges = draw(st.sets(st.sampled_from(pairs))) if pairs else set[tuple[int, int]]()
    return Graph.build("drawn", "drawn", [NodeSpec(node_id) for node_id in ids], edges)


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A parsed file as Compose sees it: every variable filled in, `$$` a dollar, any other dollar an error."""
    if isinstance(value, dict):
        return {key: interpolated(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        assert found["name"], f"a stray dollar in {value!r}"
        return variables.get(found["name"]) or found["default"]

    return re.sub(r"\$(?:\$|\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\})?", fill, value)


def composed(graph: Graph, path: Path = GRAPH_FILE, **variables: str) -> dict[str, Any]:
    """The file for a graph, read as Compose reads it."""
    found: dict[str, Any] = interpolated(yaml.load(compose_file(graph, path), LOADER), variables)  # noqa: S506 - a safe one
    return found


def members(found: dict[str, Any]) -> dict[str, set[str]]:
    """Network -> services on it."""
    services = found["services"].items()
    return {
        network: {name for name, service in services if network in service.get("networks", [])}
        for network in found["networks"]
    }


def test_the_file_in_the_repository_is_the_papers_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the letter what the command in its first line prints."""
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, ["compose", "examples/paper-ring.toml"])
    assert result.exit_code == 0, result.output
    assert result.stdout == (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "`dgan-launch compose examples/paper-ring.toml`" in result.stdout.splitlines()[0]


@settings(deadline=None, max_examples=25)
@given(graphs())
def test_nodes_share_a_network_exactly_where_they_share_an_edge(graph: Graph) -> None:
    """Each edge is an internal network of its own with its two nodes on it; an isolated node has none at all."""
    found = composed(graph)
    edges = {network: names for network, names in members(found).items() if network != "outside"}
    assert sorted(map(sorted, edges.values())) == sorted(
        sorted((f"node{a}", f"node{b}")) for a, b in graph.edges
    )
    assert all(found["networks"][network]["internal"] is True for network in edges)
    for a, b in itertools.combinations(graph.ids, 2):
        shared = [names for names in edges.values() if {f"node{a}", f"node{b}"} <= names]
        assert len(shared) == (b in graph.neighbors(a))
    for node_id in graph.ids:
        service = found["services"][f"node{node_id}"]
        assert service.get("network_mode") == (None if graph.neighbors(node_id) else "none")
        assert ("networks" in service) == bool(graph.neighbors(node_id))


@settings(deadline=None, max_examples=25)
@given(graphs())
def test_the_init_service_alone_reaches_the_outside(graph: Graph) -> None:
    """It downloads the data set; the evaluator reads volumes and needs no network."""
    found = composed(graph)
    assert members(found)["outside"] == {"init"}
    assert found["services"]["init"]["networks"] == ["outside"]
    assert found["services"]["evaluator"]["network_mode"] == "none"
    assert found["services"].keys() == {"init", "evaluator", *(f"node{node_id}" for node_id in graph.ids)}


@settings(deadline=None, max_examples=25)
@given(graphs())
def test_networks_have_disjoint_subnets_of_one_range(graph: Graph) -> None:
    """A /29 each in the /16 that the user may choose."""
    networks = composed(graph, DGAN_SUBNET="10.99")["networks"].values()
    subnets = [ipaddress.IPv4Network(network["ipam"]["config"][0]["subnet"]) for network in networks]
    assert len(subnets) == len(graph.edges) + 1
    assert {subnet.prefixlen for subnet in subnets} == {29}
    assert all(subnet.subnet_of(ipaddress.IPv4Network("10.99.0.0/16")) for subnet in subnets)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(subnets, 2))


@settings(deadline=None, max_examples=25)
@given(graphs())
def test_a_node_mounts_its_own_two_volumes_and_nobody_elses(graph: Graph) -> None:
    """Beside it, init fills the one that it may only read, and the evaluator reads the one that it writes."""
    found = composed(graph)
    mounts: dict[str, set[tuple[str, str]]] = {}
    for name, service in found["services"].items():
        for volume in service["volumes"]:
            if isinstance(volume, str):
                source, _, rest = volume.partition(":")
                mounts.setdefault(source, set()).add((name, rest))
    for node_id in graph.ids:
        name, state = f"node{node_id}", f"node{node_id}-state"
        assert found["services"][name]["volumes"] == [f"{name}:/dgan:ro", f"{state}:/dgan/nodes"]
        assert mounts[name] == {(name, "/dgan:ro"), ("init", f"/machines/{node_id}")}
        assert mounts[state] == {(name, "/dgan/nodes"), ("evaluator", f"/states/{node_id}:ro")}
        assert found["services"][name]["command"] == ["--id", str(node_id), "--peers", "peers.toml"]
    assert mounts["evaluator"] == {("init", "/machines/evaluator"), ("evaluator", "/machines/evaluator:ro")}
    assert mounts.keys() - {"./reports"} == found["volumes"].keys()


@settings(deadline=None, max_examples=25)
@given(graphs())
def test_every_service_is_locked_down(graph: Graph) -> None:
    """No capability, no new privilege, nothing to write on but its volumes, bounded memory, no port on the host."""
    for name, service in composed(graph)["services"].items():
        assert service["init"] is True, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert float(service["cpus"]) == 1, name
        assert service["pids_limit"] == 1024, name
        node = name.startswith("node")
        assert service.get("restart") == ("on-failure:5" if node else None), name
        assert service.get("stop_grace_period") == ("30s" if node else None), name
        assert service.get("user") == {"init": "0:1000", "evaluator": "0:1000"}.get(name), name
        assert not GRANTS & service.keys(), name
        assert service.get("network_mode", "none") == "none", name


def test_a_user_may_set_every_limit() -> None:
    """By the variables that the file names."""
    found = composed(ring(3), DGAN_MEMORY="300m", DGAN_TASK_MEMORY="2g", DGAN_CPUS="0.5", DGAN_IMAGE="mine")
    services = found["services"]
    assert [services[name]["mem_limit"] for name in ("node1", "init", "evaluator")] == ["300m", "2g", "2g"]
    assert services["node2"]["cpus"] == "0.5"
    assert {service["image"] for service in services.values()} == {"mine"}


def test_a_node_starts_after_init_and_is_told_its_neighbours_by_name() -> None:
    """Addresses of the graph are for other machines: here a service's name and one port serve all."""
    graph = Graph.build("test", "two", [NodeSpec(1, "tcp://10.0.0.1:7100"), NodeSpec(2)], [(1, 2)])
    services = composed(graph)["services"]
    command = shlex.split(services["init"]["command"][0])
    assert command[command.index("--address") + 1] == "tcp://node{id}:7000"
    assert command[command.index("--hand-out") + 1] == "/machines"
    for name in ("node1", "node2", "evaluator"):
        assert services[name]["depends_on"] == {"init": {"condition": "service_completed_successfully"}}


def test_the_evaluator_judges_every_node() -> None:
    """By the folder that init made for it and each node's own folder."""
    command = composed(ring(3))["services"]["evaluator"]["command"]
    folders = ["/machines/evaluator", "/states/1/1", "/states/2/2", "/states/3/3"]
    assert command == ["judge", *folders, "--wait", "--output", "reports/{run}"]


@pytest.mark.parametrize(
    "name",
    [
        "my own graph",
        """a "quoted" 'graph'""",
        "$HOME ${X} $$ ${Y:-z}",
        "a: b # c",
        "{id} {{ path }} {% if %}",
        "- [a, b] & *c !d |",
        "back\\slash \\n",
        "größer 図",
    ],
)
def test_init_is_given_the_whole_graph(name: str, tmp_path: Path) -> None:
    """Whatever it is called: architectures, addresses and all, without a file of the host."""
    nodes = [NodeSpec(1, "tcp://10.0.0.1:7100", architecture=name), NodeSpec(2)]
    graph = Graph.build("test", name, nodes, [(1, 2)])
    given_text = composed(graph)["services"]["init"]["environment"]["DGAN_GRAPH"]
    (tmp_path / "graph.toml").write_text(given_text, encoding="utf-8")
    assert read_graph(tmp_path / "graph.toml") == graph


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=30))
def test_a_file_name_never_writes_into_the_file(name: str) -> None:
    """It stands in a comment, or is refused in one line."""
    path = Path(f"{name}.toml")
    if not name.isprintable():
        with pytest.raises(InputError, match="does not fit into one line") as caught:
            compose_file(ring(3), path)
        assert str(caught.value).isprintable()
        return
    assert composed(ring(3), path) == composed(ring(3))


def test_a_graphs_name_becomes_a_plain_folder() -> None:
    """Of the volume that holds the run."""
    graph = Graph.build("test", 'of "us": $5 / {id}', ring(3).nodes, ring(3).edges)
    command = shlex.split(composed(graph)["services"]["init"]["command"][0])
    assert command[command.index("--run-dir") + 1] == "/prepared/of-us-5-id"


def test_as_many_edges_as_there_are_subnets_fit() -> None:
    """8191 beside the one that leads outside; one more is refused in one line."""
    drawn = complete(129)
    full = Graph(drawn.name, drawn.nodes, drawn.edges[:8191])
    subnets = re.findall(r'subnet: "\$\{DGAN_SUBNET:-(.+)\}(.+/29)"', compose_file(full, GRAPH_FILE))
    networks = sorted(ipaddress.IPv4Network("".join(parts)) for parts in subnets)
    assert len(set(networks)) == 8192
    assert networks[0].supernet(new_prefix=16) == networks[-1].supernet(new_prefix=16)
    with pytest.raises(
        InputError, match=r"any\.toml: 8192 edges, and each takes a network; at most 8191"
    ) as caught:
        compose_file(Graph(drawn.name, drawn.nodes, drawn.edges[:8192]), GRAPH_FILE)
    assert "\n" not in str(caught.value)


def test_dockerfile_and_compose_file_name_the_version_of_the_project() -> None:
    """A build fails where the installed package says another one."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    version = PROJECT["project"]["version"]
    assert re.findall(r"^ARG VERSION=(.*)$", dockerfile, flags=re.MULTILINE) == [version, version]
    built = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert built["services"]["init"]["build"]["args"]["VERSION"] == version


def test_the_image_is_made_of_the_packages_and_four_files() -> None:
    """Nothing else is sent to the builder: no key, no shard, no run."""
    text = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    first, *rest = [line for line in text.splitlines() if not line.startswith("#")]
    allowed = {line[1:] for line in rest if line.startswith("!")}
    project = PROJECT["project"]
    files = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert first == "*"
    assert allowed == {*PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], *files}
    assert all((ROOT / name).exists() for name in allowed)
    assert [line for line in rest if not line.startswith("!")] == ["**/__pycache__"]
