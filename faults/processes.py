"""Rows about processes: killed, stopped, suspended, late, in any order, with a wrong clock, twice, without a launcher."""

from __future__ import annotations

import math
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from faults.clock import DAY_S
from faults.evidence import Evidence, worst
from faults.lab import Lab, journal, launched, status_of
from faults.verdicts import Observation, Setting
from harness import free_ports
from node.checkpoint import load_newest
from node.exits import EXIT_INPUT, EXIT_OK
from topology.graph import Graph, NodeSpec, ring

FRESH_S = 5.0
_REPUBLISH_S = 3.0
_ENDS_S = 10.0
_INTO_A_CYCLE_S = 2.0


def crash(setting: Setting) -> list[Observation]:
    """Row 1: node 2 of three is killed again and again."""
    choice, times = random.Random(setting.seed), 2 if setting.quick else 50
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        began_s = lab.note("begin")
        for _ in range(times):
            time.sleep(choice.uniform(0, 2))
            lab.kill(2)
            lab.note("left", cycle=load_newest(lab.folder / "nodes" / "2").meta.cycle)
            lab.start(2)
            lab.training(2)
        lab.training(1, 3)
        lab.stop_all()
        evidence = lab.evidence()
    ready = evidence[2].told("node ready", began_s)
    lost = [left["cycle"] - back["cycle"] for left, back in zip(evidence.done("left"), ready, strict=False)]
    spans = zip(ready, [*ready[1:], {"unix_s": math.inf}], strict=True)
    fresh = [
        evidence[j].heard_after(2, line["unix_s"], after["unix_s"]) for line, after in spans for j in (1, 3)
    ]
    return [
        Observation("times killed and resumed", len(ready), times, at_least=True),
        Observation("cycles by which it resumed before its newest valid checkpoint", worst(lost), 0),
        Observation("its snapshot at a neighbour after it was ready, worst", worst(fresh), FRESH_S, "s"),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]


def stop(setting: Setting) -> list[Observation]:
    """Row 5: SIGTERM, again and again; and SIGTERM twice in the middle of a long cycle."""
    choice, times = random.Random(setting.seed), 2 if setting.quick else 20
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        began_s = lab.note("begin")
        for _ in range(times):
            time.sleep(choice.uniform(0, 2))
            asked_s = lab.send(2, signal.SIGTERM)
            code = lab.end(2)
            cycle = status_of(lab.folder / "nodes" / "2")["cycle"]
            left = load_newest(lab.folder / "nodes" / "2").meta.cycle
            lab.note("stopped", seconds=time.time() - asked_s, code=code, lost=cycle - left)
            lab.start(2)
            lab.training(2)
        lab.training(1, 3)
        lab.stop_all()
        evidence = lab.evidence()
    stops = evidence.done("stopped")
    return [
        Observation("times stopped", len(stops), times, at_least=True),
        Observation("ends with another status than 0", sum(each["code"] != EXIT_OK for each in stops), 0),
        Observation("from SIGTERM to the end", worst(each["seconds"] for each in stops), _ENDS_S, "s"),
        Observation("cycles not in its checkpoint", worst(each["lost"] for each in stops), 0),
        *_stopped_twice(setting.folder / "twice"),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]


def _stopped_twice(folder: Path) -> list[Observation]:
    """A node whose cycles have no end within the test: the first SIGTERM is heeded after the cycle, the second at once."""
    endless = {"max_steps": 10_000_000, "loss_threshold": 1e-9, "learning_rate": 1e-12}
    with Lab(folder, ring(3), policy="alone", discriminator=endless) as lab:
        lab.start(1)
        lab.wait("node 1 ready", lambda: lab.node(1).told("node ready"))
        time.sleep(_INTO_A_CYCLE_S)
        lab.send(1, signal.SIGTERM)
        time.sleep(1)
        still = _runs(lab.pid(1))
        second_s = lab.send(1, signal.SIGTERM)
        code = lab.end(1)
        took_s = time.time() - second_s
    return [
        Observation("in mid-cycle: ended by the first SIGTERM, without saving", float(not still), 0),
        Observation("in mid-cycle: from a second SIGTERM to the end", took_s, 1.0, "s"),
        Observation("in mid-cycle: status is not 143", float(code != 128 + signal.SIGTERM), 0),
    ]


def hang(setting: Setting) -> list[Observation]:
    """Row 6: node 2 is suspended, and goes on."""
    with Lab(setting.folder / "run", ring(3), exchange={"republish_s": _REPUBLISH_S}) as lab:
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        began_s = lab.send(2, signal.SIGSTOP)
        time.sleep(5 if setting.quick else 60)
        again_s = lab.send(2, signal.SIGCONT)
        for j in (1, 3):
            lab.wait(f"node {j} hears node 2", lambda j=j: lab.node(j).heard_after(2, again_s) >= 0, 30)  # type: ignore[misc]
        lab.stop_all()
        evidence = lab.evidence()
    fresh = [evidence[j].heard_after(2, again_s) for j in (1, 3)]
    return [
        Observation("its snapshot at a neighbour after SIGCONT, two republish intervals", worst(fresh), 2 * _REPUBLISH_S, "s"),
        Observation("its starts beside the first", len(evidence[2].told("node ready")) - 1, 0),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


def late(setting: Setting) -> list[Observation]:
    """Row 7: node 3 comes long after the others."""
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 2)
        lab.training(1, 2)
        time.sleep(3 if setting.quick else 60)
        began_s = lab.note("begin")
        lab.start(3)
        lab.training(3)
        lab.training(1, 2)
        lab.stop_all()
        evidence = lab.evidence()
    waits = []
    for j in (1, 2):
        up = evidence[3].told("connection up", neighbor=j)
        arrivals = [arrived for _, arrived in evidence[3].used(j)]
        waits.append(min(arrivals) - up[0]["unix_s"] if up and arrivals else math.nan)
    return [
        Observation("from connect to a neighbour's snapshot", worst(waits), 1.0, "s"),
        *evidence.invariants([1, 2], began_s, degree=2),
    ]


def order(setting: Setting) -> list[Observation]:
    """Row 8: five nodes on a ring, started in one order after another."""
    choice, times = random.Random(setting.seed), 1 if setting.quick else 20
    graph = ring(5)
    edges = [(j, k) for j in graph.ids for k in graph.neighbors(j)]
    up_s, invariants = [], []
    for number in range(times):
        with Lab(setting.folder / f"run-{number:02d}", graph) as lab:
            for node in choice.sample(graph.ids, len(graph.ids)):
                lab.start(node)
                time.sleep(choice.uniform(0, 0.5))
            lab.training(*graph.ids)
            for j, k in edges:
                lab.wait(f"{j} hears {k}", lambda j=j, k=k: lab.node(j).used(k), 30)  # type: ignore[misc]
            began_s = lab.note("all up")
            lab.training(*graph.ids)
            lab.stop_all()
            evidence = lab.evidence()
        last_s = max(evidence[j].told("node ready")[0]["unix_s"] for j in graph.ids)
        ups = [evidence[j].told("connection up", neighbor=k) for j, k in edges]
        up_s.append(worst(lines[0]["unix_s"] - last_s if lines else math.nan for lines in ups))
        invariants.append(evidence.invariants(graph.ids, began_s, degree=2))
    return [
        Observation("orders", len(up_s), times, at_least=True),
        Observation("from the last node's start to the last of ten connections, worst order", worst(up_s), 10.0, "s"),
        *(max(same, key=lambda each: math.inf if math.isnan(each.value) else each.value) for same in zip(*invariants, strict=True)),
    ]  # fmt: skip


def clock(setting: Setting) -> list[Observation]:
    """Row 17: node 2's clock jumps a day ahead and two days back, and it starts anew with a clock a day behind."""
    command = (sys.executable, "-m", "faults.clock")
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 3)
        lab.start(2, command=command)
        lab.training(1, 2, 3)
        since = [lab.send(2, signal.SIGUSR1)]
        lab.training(2, cycles=100)
        since.append(lab.send(2, signal.SIGUSR2))
        lab.training(2, cycles=100)
        lab.kill(2)
        lab.start(2, command=command, DGAN_CLOCK_S=str(-DAY_S))
        lab.training(2, cycles=100)
        lab.training(1, 3)
        lab.stop_all()
        evidence = lab.evidence()
    since.append(evidence[2].told("node ready")[1]["unix_s"])
    fresh = [evidence[j].heard_after(2, when) for j in (1, 3) for when in since]
    ahead = [line["unix_s"] - since[0] for line in evidence[2].metrics]
    return [
        Observation("most that its clock was ahead", max(ahead), 0.9 * DAY_S, "s", at_least=True),
        Observation("most that its clock was behind", -min(ahead), 0.9 * DAY_S, "s", at_least=True),
        Observation("its snapshot at a neighbour after a jump or a start, worst", worst(fresh), FRESH_S, "s"),
        Observation(
            "its snapshots refused", sum(len(evidence[j].told("snapshot refused")) for j in (1, 3)), 0
        ),
        Observation("its own longest pause beyond a cycle", evidence[2].longest_gap_s(-math.inf), 2.0, "s"),
        *evidence.invariants([1, 3], since[0], degree=2),
    ]


def orphans(setting: Setting) -> list[Observation]:
    """Row 18: the launcher is killed."""
    folder = setting.folder / "run"
    with launched(folder, ring(3)) as launcher:
        pids = [status_of(folder / "nodes" / str(node))["pid"] for node in (1, 2, 3)]
        killed_s = journal(folder, "kill launcher")
        launcher.kill()
        launcher.wait()
        deadline_s = time.monotonic() + 20
        while any(map(_runs, pids)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        gone_s = journal(folder, "gone")
    evidence = Evidence(folder)
    stopped = sum(bool(node.told("stopped; start again to resume")) for node in evidence.nodes.values())
    return [
        Observation("nodes that saved and stopped", stopped, len(pids), at_least=True),
        Observation("from the launcher's death to that of the last node", gone_s - killed_s, 2.0, "s"),
        Observation("uncaught errors", sum(node.outbursts() for node in evidence.nodes.values()), 0),
        Observation("saved cycles lost", max(node.lost_cycles() for node in evidence.nodes.values()), 0),
    ]


def refused(setting: Setting) -> list[Observation]:
    """Row 19: a taken port, one id twice, one directory twice; by hand, and the port under a launcher too."""
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 3)
        lab.training(1, 3)
        began_s = lab.note("begin")
        host, _, port = lab.address(2).removeprefix("tcp://").rpartition(":")
        with socket.create_server((host, int(port))):
            port_taken = _words(lab.peers, 2)
        directory_taken = _words(lab.peers, 1)
        twice = lab.peers.with_name("twice.toml")
        twice.write_text(_with_id_twice(lab.peers.read_text(encoding="utf-8")), encoding="utf-8")
        id_twice = _words(twice, 1)
        lab.training(1, 3)
        lab.stop_all()
        evidence = lab.evidence()
    seen = {"port taken": port_taken, "directory taken": directory_taken, "id twice": id_twice}
    return [
        *(
            Observation(f"{what}: status is not 2, or the words are not one line", float(code != EXIT_INPUT or len(lines) != 1), 0)
            for what, (code, lines) in seen.items()
        ),
        *_under_a_launcher(setting.folder / "launched"),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


def _under_a_launcher(folder: Path) -> list[Observation]:
    """Node 2's port is taken: it is started once, and the others finish."""
    first = free_ports(4)
    nodes = tuple(NodeSpec(node, f"tcp://127.0.0.1:{first + node}") for node in (1, 2, 3))
    graph = Graph.build("row 19", "taken", nodes, [(1, 2), (2, 3)])
    with (
        socket.create_server(("127.0.0.1", first + 2)),
        launched(folder, graph, ("epochs=2", "exchange.linger_s=1"), wait=False) as launcher,
    ):
        code = launcher.wait(120)
    text = folder.with_suffix(".log").read_text(encoding="utf-8")
    finished = [status_of(folder / "nodes" / str(node)).get("state") == "finished" for node in (1, 3)]
    return [
        Observation(
            "under a launcher: starts of the refused node, or of others more than once",
            float(sorted(re.findall(r"node (\d) started", text)) != ["1", "2", "3"]),
            0,
        ),
        Observation("under a launcher: other nodes that finished", sum(finished), 2, at_least=True),
        Observation("under a launcher: its own status is not 2", float(code != EXIT_INPUT), 0),
    ]


def _words(peers: Path, node: int) -> tuple[int, list[str]]:
    """Status of a node that is expected to refuse to start, and its lines of error."""
    done = subprocess.run(
        [sys.executable, "-m", "node", "--id", str(node), "--peers", str(peers)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, [line for line in done.stderr.splitlines() if "error" in line]


def _with_id_twice(text: str) -> str:
    """peers.toml with a second table for its first node."""
    head, *tables = text.split("[[peer]]")
    return "[[peer]]".join([head, *tables, tables[0]])


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
