"""The five-node cluster of docker-compose.yml, really built and run. Needs a Docker engine: `make test-compose`.

The first `up` builds the image, and the last test's end takes it away. The tests of the endless cluster leave it healthy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster import IDS, IMAGE, PORT, USER, Cluster, docker, running
from harness import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

EDGES = {(1, 2), (2, 3), (3, 4), (4, 5), (1, 5)}
PATIENCE_S = 240.0
# Prints at which of the hosts given the port opens.
KNOCK = """
import concurrent.futures, json, socket, sys
def opens(host):
    try:
        with socket.create_connection((host, int(sys.argv[1])), 5): return True
    except OSError: return False
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps([host for host, opened in zip(sys.argv[2:], pool.map(opens, sys.argv[2:])) if opened]))
"""
PRIVATE = """
import json, os, pathlib
files = [p for top in ("/dgan", "/machines", "/prepared", "/run", "/tmp") for p in pathlib.Path(top).rglob("*")
         if p.suffix in (".npz", ".key")]
def writable(path):
    try: open(path, "ab").close(); return True
    except OSError: return False
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({"files": sorted(map(str, files)), "user": os.getuid(), "capabilities": int(status["CapBnd"], 16),
                  "writable": [str(p) for p in (*files, "/dgan/peers.toml", "/opt/x", "/x") if writable(p)]}))
"""


def neighbors(node_id: int) -> set[int]:
    """Of a node of examples/paper-ring.toml."""
    return {a if node_id == b else b for a, b in EDGES if node_id in (a, b)}


def edge(a: int, b: int) -> str:
    """The network of an edge."""
    return f"edge-{min(a, b)}-{max(a, b)}"


def is_ready(cluster: Cluster, node_id: int, starts: int) -> bool:
    """Whether a node has said that this start of it is ready."""
    return any("node ready" in line and f"starts={starts}" in line for line in cluster.logs(f"node{node_id}"))


@pytest.fixture(scope="module", autouse=True)
def no_image() -> Iterator[None]:
    """No image at the start, as on a fresh clone, and none left behind."""
    docker("rmi", "--force", IMAGE, check=False)
    yield
    docker("rmi", "--force", IMAGE, check=False)


def test_a_wrong_setting_is_one_line_and_starts_no_node(tmp_path: Path) -> None:
    """`up` builds the image; the init service names the variable, and `up` fails."""
    with running(tmp_path / "reports", DGAN_POLICY="best-friend") as cluster:
        assert cluster.compose("up", "--detach", check=False).returncode != 0
        (line,) = cluster.logs("init")
        assert "(env var: 'DGAN_POLICY'): 'best-friend' is not one of 'alone', 'uniform', 'info-gain'" in line
        states = [cluster.inspect(service)["State"] for service in cluster.containers() if service != "init"]
        assert all(state["Status"] == "created" for state in states)


def test_a_run_that_was_stopped_ends_with_a_report_of_five_nodes(tmp_path: Path) -> None:
    """Stopped nodes are not done, so the evaluator waits for their return."""
    with running(tmp_path / "reports", DGAN_EPOCHS="80") as cluster:
        cluster.compose("up", "--detach")
        wait_until(
            lambda: all(cluster.status(i).get("cycle", 0) > 0 for i in IDS), PATIENCE_S, "first cycles", 0.2
        )
        cluster.compose("stop")
        cluster.compose("up", "--detach", "evaluator")
        wait_until(
            lambda: "(stopped)" in cluster.logs("evaluator")[-1], PATIENCE_S, "a look at the nodes", 0.5
        )
        assert list(cluster.reports.iterdir()) == []
        cluster.compose("up")
        states = {service: cluster.inspect(service)["State"]["ExitCode"] for service in cluster.containers()}
        assert states == dict.fromkeys(["init", "evaluator", *(f"node{i}" for i in IDS)], 0)
    (run,) = cluster.reports.iterdir()
    assert run.stat().st_uid == USER
    assert five_nodes(run) == [*IDS]
    assert all(json.loads((run / f"nodes/{i}/status.json").read_bytes())["starts"] == 2 for i in IDS)
    assert not list(run.rglob("*.key"))
    report = (run / "eval" / "report.html").read_text(encoding="utf-8")
    assert all(re.search(rf"\bnode {i}\b", report, re.IGNORECASE) for i in IDS)


def five_nodes(run: Path) -> list[Any]:
    """Nodes in the headline row of a run's probe."""
    (headline,) = [
        row for row in json.loads((run / "eval" / "probe.json").read_bytes())["rows"] if row["headline"]
    ]
    return [node["node"] for node in headline["nodes"]]


def test_a_part_of_the_graph_works_while_the_rest_is_missing(tmp_path: Path) -> None:
    """`up node1 node2`: their edge carries snapshots although the names of the other neighbours resolve to nothing."""
    with running(tmp_path / "reports", DGAN_EPOCHS="100000") as cluster:
        cluster.compose("up", "--detach", "node1", "node2")
        assert set(cluster.containers()) == {"init", "node1", "node2"}

        def accepted(node_id: int, neighbor: int) -> int:
            rows = cluster.status(node_id).get("neighbors") or {}
            return int(rows.get(str(neighbor), {}).get("accepted", 0))

        wait_until(lambda: accepted(1, 2) > 5 < accepted(2, 1), PATIENCE_S, "an exchange", 0.5)
        assert accepted(1, 5) == accepted(2, 3) == 0


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Five healthy nodes whose training outlasts every test."""
    reports = tmp_path_factory.mktemp("reports")
    with running(reports, DGAN_EPOCHS="100000", DGAN_POLICY="uniform") as cluster:
        cluster.compose("up", "--detach")
        wait_until(cluster.healthy, PATIENCE_S, "health of all five nodes", 0.5)
        yield cluster


def test_ps_shows_all_nodes_healthy(endless: Cluster) -> None:
    """Nodes are ready and alive, and said to be."""
    shown = endless.compose("ps").stdout
    assert len(re.findall(r"node[1-5].*\(healthy\)", shown)) == len(IDS), shown


def test_every_node_uses_its_ring_neighbours_and_nobody_else(endless: Cluster) -> None:
    """Each generator has learned against a snapshot of both neighbours."""

    def chosen(node_id: int) -> set[str]:
        return set(endless.status(node_id).get("chosen", {}))

    wait_until(lambda: all(len(chosen(i)) >= 2 for i in IDS), PATIENCE_S, "use of every neighbour", 0.5)
    for node_id in IDS:
        expected = {str(neighbor) for neighbor in neighbors(node_id)}
        status = endless.status(node_id)
        assert chosen(node_id) == expected == set(status["neighbors"])
        assert all(row["accepted"] >= 1 and row["refused"] == 0 for row in status["neighbors"].values())


def test_nodes_without_an_edge_cannot_connect(endless: Cluster) -> None:
    """A node's port is open to its neighbours, each on their own network, and to no other container."""
    addresses = {i: endless.addresses(f"node{i}") for i in IDS}

    def opened(a: int) -> set[str]:
        hosts = [host for b in IDS if b != a for host in (f"node{b}", *addresses[b].values())]
        return set(endless.python(f"node{a}", KNOCK, str(PORT), *hosts))

    with ThreadPoolExecutor(len(IDS)) as pool:  # names without an answer take the resolver's time
        found = dict(zip(IDS, pool.map(opened, IDS), strict=True))
    assert found == {
        a: {host for b in neighbors(a) for host in (f"node{b}", addresses[b][edge(a, b)])} for a in IDS
    }


def test_a_stranger_cannot_connect(endless: Cluster) -> None:
    """Nor can a container beside the cluster."""
    hosts = [address for i in IDS for address in endless.addresses(f"node{i}").values()]
    stranger = ("run", "--rm", "--entrypoint", "python", IMAGE, "-c", KNOCK)
    assert json.loads(docker(*stranger, str(PORT), *hosts)) == []


def test_a_node_holds_its_own_shard_and_key_and_can_change_neither(endless: Cluster) -> None:
    """No other node's are anywhere in its container; it is not root and has no capability."""
    for node_id in IDS:
        found = endless.python(f"node{node_id}", PRIVATE)
        own = [f"/dgan/keys/node-{node_id}.key", f"/dgan/shards/node-{node_id}.npz"]
        assert found == {"files": own, "user": 1000, "capabilities": 0, "writable": []}


def test_a_node_killed_is_heard_again_under_a_new_address(endless: Cluster) -> None:
    """Its neighbours have its fresh snapshot within 10 s of its being ready."""
    before, status = endless.addresses("node3"), endless.status(3)
    starts, boot = status["starts"], status["boot"]
    endless.compose("kill", "node3")
    # Somebody else takes its addresses meanwhile.
    squatters = [
        docker(
            *("run", "--detach", "--network", endless.network(name), "--ip", address),
            *("--entrypoint", "sleep", IMAGE, "600"),
        )
        for name, address in before.items()
    ]
    try:
        endless.compose("up", "--detach", "node3")
        after = endless.addresses("node3")
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())
        wait_until(lambda: is_ready(endless, 3, starts + 1), PATIENCE_S, "node 3's new start", 0.2)

        def fresh(node_id: int) -> bool:
            return bool(endless.status(node_id)["neighbors"]["3"]["boot"] > boot)

        # The protocol's own bound, and what has to be shown: not the speed of a machine.
        wait_until(lambda: all(fresh(i) for i in neighbors(3)), 10, "a fresh snapshot of node 3", 0.2)
    finally:
        docker("rm", "--force", *squatters)
    wait_until(endless.healthy, PATIENCE_S, "health of all five nodes", 0.5)


def test_a_log_has_one_line_an_event_and_names_the_node(endless: Cluster) -> None:
    """Whatever collects the lines can tell the nodes apart."""
    for node_id in IDS:
        lines = endless.logs(f"node{node_id}")
        assert lines
        for line in lines:
            assert re.match(r"\S+Z \[\w+ *\] \w", line), line
            assert re.search(rf"\bnode={node_id}\b", line), line
    assert "connection up" in endless.compose("logs").stdout


def test_stop_saves_and_up_resumes(endless: Cluster) -> None:
    """Every node ends with status 0, and goes on from the cycle at which it was stopped."""
    endless.compose("stop")
    assert {endless.inspect(f"node{i}")["State"]["ExitCode"] for i in IDS} == {0}
    saved = {}
    for node_id in IDS:
        lines = endless.logs(f"node{node_id}")
        assert "stopped; start again to resume" in lines[-1]
        saved[node_id] = int(re.findall(r"checkpoint saved.*cycle-(\d+)", "\n".join(lines))[-1])
        assert saved[node_id] > 0
    endless.compose("up", "--detach")
    wait_until(endless.healthy, PATIENCE_S, "health of all five nodes", 0.5)
    for node_id in IDS:
        resumed = re.findall(r"node ready.* cycle=(\d+)", "\n".join(endless.logs(f"node{node_id}")))
        assert int(resumed[-1]) == saved[node_id]
