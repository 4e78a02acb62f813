"""Rows about what lies between the nodes: cut off, one way or both, resetting every connection, losing packets, slow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from faults.evidence import MB, Evidence, NodeEvidence, worst
from faults.lab import Lab
from faults.namespaces import Network, link
from faults.processes import FRESH_S
from faults.verdicts import Observation, Setting, named
from topology.graph import Graph, complete, ring

NODES = (1, 2, 3)
_TO_IT, _FROM_IT = f'oifname "{link(2)}"', f'iifname "{link(2)}"'
_EDGES = ((1, 2), (3, 2), (2, 1), (2, 3))  # (who hears, whom), those of node 2
_ALL_EDGES = (*_EDGES, (1, 3), (3, 1))
_EXCHANGE = {"republish_s": 3.0, "publish_every_cycles": 1}  # news often, though cycles be slow
_WAYS = {"both ways": (_TO_IT, _FROM_IT), "towards it": (_TO_IT,), "from it": (_FROM_IT,)}
_MAX_AGE_S = 5.0
_LATE_S = 1.0  # a line of metrics is written at the end of a cycle, whose beginning chose what to use
_STORMS_S = (2, 10)  # a short one is over before its silence tells of it
_LOSS_PERCENT = 5
_BITS_PER_S = 8_000_000
_WIDE = {"paper": {"discriminator_widths": [560, 560], "generator_widths": [8], "latent_size": 16}}  # 20 MB
_LARGE_MB = 20


def partition(setting: Setting) -> list[Observation]:
    """Row 9: node 2 is cut off from both neighbours, in both directions and in one."""
    # In a short one a snapshot must be too old while it lasts, too.
    ways, long_s, max_age_s = (["from it"], 6.0, 2.0) if setting.quick else (list(_WAYS), 30.0, _MAX_AGE_S)
    cooperation = {"consider_probability": 1.0, "max_age_s": max_age_s}
    with _nodes(setting.folder / "run", ring(3), exchange=_EXCHANGE, cooperation=cooperation) as (
        network,
        lab,
    ):
        lab.training(*NODES)
        for way in ways:
            network.filter(*(f"{packets} drop" for packets in _WAYS[way]))
            lab.note("cut", way=way)
            time.sleep(long_s)
            lab.note("healed")
            network.filter()
            _wait_for_news(lab, _EDGES)
        lab.stop_all()
        evidence = lab.evidence()
    cuts, heals = (_times(evidence, what) for what in ("cut", "healed"))
    during = list(zip(ways, cuts, heals, strict=True))
    return [
        *(
            Observation(f"cut off {way}: age at which a silent neighbour's snapshot was still used, worst of 4 edges", worst(evidence[j].oldest_used_s(k, cut_s, healed_s) for j, k in _EDGES), max_age_s + _LATE_S, "s")
            for way, cut_s, healed_s in during
        ),
        *(
            Observation(f"cut off {way}: its use ended before the fault did by, least of 4 edges", -worst(-evidence[j].unused_s(k, cut_s, healed_s) for j, k in _EDGES), long_s - 2 * max_age_s, "s", at_least=True)
            for way, cut_s, healed_s in during
        ),
        *(
            Observation(f"cut off {way}: a new snapshot after the end, worst of 4 edges", worst(evidence[j].heard_after(k, healed_s) for j, k in _EDGES), FRESH_S, "s")
            for way, _, healed_s in during
        ),
        *evidence.invariants(NODES, cuts[0], degree=2),
    ]  # fmt: skip


def storm(setting: Setting) -> list[Observation]:
    """Row 10: every packet between node 2 and its neighbours is answered with a reset; the one end that sent it learns of it."""
    storms_s = _STORMS_S[:1] if setting.quick else _STORMS_S
    with _nodes(setting.folder / "run", ring(3), exchange=_EXCHANGE) as (network, lab):
        lab.training(*NODES)
        lab.note("calm")
        lab.training(*NODES, cycles=40)
        for long_s in storms_s:
            network.filter(
                *(
                    f"{packets} meta l4proto tcp counter reject with tcp reset"
                    for packets in _WAYS["both ways"]
                )
            )
            lab.note("storm")
            time.sleep(long_s)
            lab.note("over", resets=network.counted())
            network.filter()
            _wait_for_news(lab, _EDGES)
        recovered_s = lab.note("recovered")
        lab.training(*NODES, cycles=40)
        stopped_s = lab.note("stop")
        lab.stop_all()
        evidence = lab.evidence()
    begins, ends = (_times(evidence, what) for what in ("storm", "over"))
    [calm_s] = _times(evidence, "calm")
    nodes = evidence.nodes.values()
    return [
        Observation("packets answered with a reset, fewest of a storm", min(each["resets"] for each in evidence.done("over")), 1, at_least=True),
        Observation("edges that broke in each storm, fewest", min(sum(bool(evidence[j].ends(k, since_s, until_s)) for j, k in _EDGES) for since_s, until_s in pairwise([*begins, stopped_s])), 1, at_least=True),
        *(
            Observation(f"a new snapshot after {long_s} s of it, worst of 4 edges", worst(evidence[j].heard_after(k, over_s) for j, k in _EDGES), FRESH_S, "s")
            for long_s, over_s in zip(storms_s, ends, strict=True)
        ),
        Observation("file descriptors above those before, worst of 3 nodes", worst(node.descriptors(recovered_s, stopped_s) - node.descriptors(calm_s, begins[0]) for node in nodes), 0),
        *evidence.invariants(NODES, begins[0], degree=2),
    ]  # fmt: skip


def poor(setting: Setting) -> list[Observation]:
    """Row 11: each packet may be lost, and then a line that is slow for what it has to carry."""
    return [*_loss(setting), *_slow(setting)]


def _loss(setting: Setting) -> list[Observation]:
    with _nodes(setting.folder / "loss", ring(3), exchange=_EXCHANGE) as (network, lab):
        lab.training(*NODES)
        network.filter(f"numgen random mod 100 < {_LOSS_PERCENT} counter drop")
        began_s = lab.note("begin")
        time.sleep(6 if setting.quick else 30)
        ended_s = lab.note("end", dropped=network.counted())
        lab.stop_all()
        evidence = lab.evidence()
    cycles = [
        sum(began_s <= line["unix_s"] <= ended_s for line in node.metrics) for node in evidence.nodes.values()
    ]
    return [
        Observation("loss: packets dropped", evidence.done("end")[0]["dropped"], 1, at_least=True),
        Observation("loss: cycles trained meanwhile, fewest of 3 nodes", min(cycles), 100, at_least=True),
        Observation("loss: longest wait for a neighbour's next snapshot, worst of 6 edges", worst(evidence[j].longest_wait_s(k, began_s, ended_s) for j, k in _ALL_EDGES), FRESH_S, "s"),
        *named("loss", evidence.invariants(NODES, began_s, degree=2)),
    ]  # fmt: skip


def _slow(setting: Setting) -> list[Observation]:
    """Two nodes; each way between them is slow by itself."""
    graph, edges = complete(2), ((1, 2), (2, 1))
    wide: dict[str, Any] = {
        "architecture": _WIDE,
        "exchange": _EXCHANGE,
        "training": {"batch_size": 2, "precision": "float32"},
        "checkpoint": {"every_s": 1e6, "every_epochs": 1_000_000},
    }
    with _nodes(setting.folder / "slow", graph, **wide) as (network, lab):
        lab.training(1, 2, cycles=30, within_s=300)  # memory is as it stays
        _wait_for_news(lab, edges)
        began_s = lab.note("begin")
        for node in graph.ids:
            network.slow_down(node, _BITS_PER_S)
        for _ in range(1 if setting.quick else 3):
            _wait_for_news(lab, edges, within_s=120)
        ended_s = lab.note("end")
        lab.stop_all()
        evidence = lab.evidence()
    size_bytes = evidence[1].snapshot_bytes()
    limit_s = 2 * 8 * size_bytes / _BITS_PER_S + FRESH_S
    sent = [_grown(node, "publishes", began_s, ended_s) for node in evidence.nodes.values()]
    return [
        Observation("8 Mbit/s: size of a snapshot", size_bytes / MB, _LARGE_MB, "MB", at_least=True),
        Observation("8 Mbit/s: longest time until the next whole snapshot had come, worst of 2 edges", worst(evidence[j].longest_transfer_s(began_s, ended_s) for j, _ in edges), limit_s, "s"),
        Observation("8 Mbit/s: longest time until a new one had come, perhaps after a repeated one", worst(evidence[j].longest_wait_s(k, began_s, ended_s) for j, k in edges), 2 * limit_s, "s"),
        Observation("8 Mbit/s: newer snapshots that it sent meanwhile, fewer of 2 nodes", min(sent), 10, at_least=True),
        Observation("8 Mbit/s: connections lost or built anew", sum(len(evidence[j].ends(k, began_s, ended_s)) for j, k in edges), 0),
        *named("8 Mbit/s", evidence.invariants((1, 2), began_s, degree=1, until_s=ended_s)),
    ]  # fmt: skip


@contextlib.contextmanager
def _nodes(folder: Path, graph: Graph, **settings: Any) -> Iterator[tuple[Network, Lab]]:
    """Every node of a graph, started in a namespace of its own."""
    with Network(graph.ids) as network, Lab(folder, graph, **settings) as lab:
        for node in graph.ids:
            lab.move(node, network.address(node))
        for node in graph.ids:
            lab.start(node, command=network.command(node))
        yield network, lab


def _wait_for_news(lab: Lab, edges: Iterable[tuple[int, int]], within_s: float = 30) -> None:
    """Waits until each has accepted another snapshot over its edge."""
    before = {(j, k): _accepted(lab, j, k) for j, k in edges}
    for (j, k), number in before.items():
        lab.wait(f"node {j} hears node {k}", lambda j=j, k=k, n=number: _accepted(lab, j, k) > n, within_s)  # type: ignore[misc]


def _accepted(lab: Lab, node: int, neighbor: int) -> int:
    return int(lab.status(node).get("neighbors", {}).get(str(neighbor), {}).get("accepted", 0))


def _grown(node: NodeEvidence, counter: str, since_s: float, until_s: float) -> int:
    """By how much a counter in the lines of metrics has grown; 0 where none was written."""
    counts = [line[counter] for line in node.metrics if since_s <= line["unix_s"] <= until_s]
    return counts[-1] - counts[0] if counts else 0


def _times(evidence: Evidence, what: str) -> list[float]:
    return [line["unix_s"] for line in evidence.done(what)]
