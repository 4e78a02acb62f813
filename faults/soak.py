"""Row 20: a run of `dgan-launch run` to which something happens every few seconds, drawn from a seed.

Node 1 is never killed or paused: what it suffers comes from its neighbours and from its network. So its process lives
as long as the soak, and its memory, descriptors and threads show whether anything is left behind.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from faults.evidence import MB, Evidence, NodeEvidence, worst
from faults.lab import journal, launched, status_of
from faults.strangers import Listener, connected, garbage
from faults.verdicts import Observation, Setting
from harness import free_ports
from relay import FINE, Relay, Weather
from topology.graph import NodeSpec, ring
from transport.keys import make_keys

NODES = 4
SPARED = 1
FRESH_S = 5.0
GROWTH_BYTES = 8 * MB
_QUIET_S = 4.0
_NO_DEEDS, _KINDS, _LONG_S = {"begin", "calm", "end"}, 8, 600.0  # the weather, good or bad, is one kind
_KILLS_APART_S = 80.0  # the launcher gives up a node after five restarts in five minutes
_SETTINGS = ("checkpoint.every_s=3", "checkpoint.every_epochs=1000000", "output.samples_every_epochs=1000000",
             "exchange.republish_s=0.5", "cooperation.consider_probability=1", "epochs=10000000",
             "output.metrics_every_cycles=1")  # fmt: skip


class Soak:
    """The run and what is done to it.

    Args:
        folder: The run directory to make.
        seed: Of every choice.
        quick: Whether to leave little time between the deeds.
    """

    def __init__(self, folder: Path, seed: int, *, quick: bool) -> None:
        self.folder = folder
        self._random = random.Random(seed)
        self._pause_s = (0.2, 1.0) if quick else (1.0, 6.0)
        self._longest_s = 2.0 if quick else 8.0
        self._port = free_ports(NODES + 1)
        self._relays: dict[int, Relay] = {}
        self._killed: dict[int, tuple[float, int]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The launcher with all nodes at work."""
        with contextlib.ExitStack() as stack:
            specs = []
            for spec in ring(NODES).nodes:
                bind = self._address(spec.id)
                self._relays[spec.id] = stack.enter_context(Relay(bind, seed=spec.id))
                specs.append(NodeSpec(spec.id, self._relays[spec.id].address, bind))
            graph = replace(ring(NODES), nodes=tuple(specs))
            launcher = stack.enter_context(launched(self.folder, graph, _SETTINGS))
            time.sleep(_QUIET_S)
            yield launcher

    def harass(self, seconds: float) -> None:
        """Does one thing after another until the time is up: each kind once, in any order, and then whatever is drawn."""
        deeds: list[Callable[[int], None]] = [
            self._kill, self._pause, self._cut, self._silence, self._bad_weather, self._flip, self._garbage, self._idle,
            self._stranger, self._reload,
        ]  # fmt: skip
        first = self._random.sample(deeds, len(deeds))
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            deed = first.pop() if first else self._random.choice(deeds)
            deed(self._random.choice(sorted(self._relays)))
            time.sleep(self._random.uniform(*self._pause_s))

    def calm(self) -> float:
        """Fine weather; returns since when."""
        for relay in self._relays.values():
            relay.weather = FINE
        return journal(self.folder, "calm")

    def _status(self, node: int) -> dict[str, Any]:
        return status_of(self.folder / "nodes" / str(node))

    def _signal(self, node: int, number: signal.Signals) -> None:
        pid = self._status(node)["pid"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _for_a_while(self) -> None:
        time.sleep(self._random.uniform(0.5, self._longest_s))

    # Deeds -----------------------------------------------------------------------------------------------------------

    def _kill(self, node: int) -> None:
        node = NODES if node == SPARED else node
        killed_s, cycle = self._killed.get(node, (-_KILLS_APART_S, -1))
        now = self._status(node).get("cycle", 0)
        if time.monotonic() - killed_s < _KILLS_APART_S or now <= cycle:
            return
        self._killed[node] = time.monotonic(), now
        journal(self.folder, "kill", node=node)
        self._signal(node, signal.SIGKILL)

    def _pause(self, node: int) -> None:
        if node == SPARED:
            return
        journal(self.folder, "pause", node=node)
        self._signal(node, signal.SIGSTOP)
        self._for_a_while()
        self._signal(node, signal.SIGCONT)

    def _cut(self, node: int) -> None:
        journal(self.folder, "cut", node=node)
        self._relays[node].cut()

    def _silence(self, node: int) -> None:
        self._weather(node, Weather(silent=True))

    def _bad_weather(self, node: int) -> None:
        self._weather(node, Weather(delay_s=0.2, jitter_s=0.1, slice_bytes=self._random.choice([1000, 7])))

    def _flip(self, node: int) -> None:
        self._weather(node, Weather(flip_every_bytes=20_000))

    def _weather(self, node: int, weather: Weather) -> None:
        journal(self.folder, "weather", node=node, weather=str(weather))
        self._relays[node].weather = weather
        self._for_a_while()
        self._relays[node].weather = FINE

    def _garbage(self, node: int) -> None:
        journal(self.folder, "garbage", node=node)
        garbage(self._address(node), self._random.randbytes(10_000))

    def _idle(self, node: int) -> None:
        journal(self.folder, "idle connections", node=node)
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    stack.enter_context(connected(self._address(node)))
            self._for_a_while()

    def _stranger(self, node: int) -> None:
        journal(self.folder, "stranger", node=node)
        with Listener(self._address(node), make_keys(), make_keys().public):
            self._for_a_while()

    def _reload(self, node: int) -> None:
        journal(self.folder, "SIGHUP", node=node)
        self._signal(node, signal.SIGHUP)

    def _address(self, node: int) -> str:
        """Where a node itself listens, behind its relay."""
        return f"tcp://127.0.0.1:{self._port + node}"


def run(setting: Setting) -> list[Observation]:
    """The soak, and what it shows."""
    soak = Soak(setting.folder / "run", setting.seed, quick=setting.quick)
    with soak.running() as launcher:
        began_s = journal(soak.folder, "begin", seed=setting.seed)
        soak.harass(setting.soak_s)
        calm_s = soak.calm()
        time.sleep(2 * FRESH_S + 2)
        ended_s = journal(soak.folder, "end")
        launcher.send_signal(signal.SIGTERM)
        code = launcher.wait(60)
    return judge(soak.folder, began_s, calm_s, ended_s, code)


def judge(folder: Path, began_s: float, calm_s: float, ended_s: float, code: int) -> list[Observation]:
    """What the logs of a soak say."""
    evidence, edges = Evidence(folder), ring(NODES)
    kills = evidence.done("kill")
    returns = [_return(evidence[kill["node"]], kill["unix_s"]) for kill in kills]
    fresh = [
        evidence[node].heard_after(neighbor, calm_s)
        for node in edges.ids
        for neighbor in edges.neighbors(node)
    ]
    return [
        Observation("deeds", len(evidence.journal) - 3, 1, at_least=True),
        Observation("kills", len(kills), 1, at_least=True),
        Observation("kinds of deeds", len({line["what"] for line in evidence.journal} - _NO_DEEDS), _KINDS if ended_s - began_s > _LONG_S else 1, at_least=True),
        Observation("starts beside the first and those after kills", sum(len(node.told("node ready")) - 1 for node in evidence.nodes.values()) - len(kills), 0),
        Observation("starts of node 1 beside the first", len(evidence[SPARED].told("node ready")) - 1, 0),
        Observation("kills after which the node did not resume from its newest checkpoint", returns.count(False), 0),
        Observation("a snapshot on every edge after the last deed", worst(fresh), 2 * FRESH_S, "s"),
        *_flat("node 1", evidence[SPARED], began_s, ended_s),
        *_flat("launcher", evidence.launcher, began_s, ended_s),
        Observation("launcher's exit status is not that of a clean stop", float(code != 128 + signal.SIGTERM), 0),
        *evidence.invariants([SPARED], began_s, degree=2),
    ]  # fmt: skip


def _return(node: NodeEvidence, killed_s: float) -> bool:
    """Whether a killed node came back with all that it had saved."""
    saved = [
        cycle
        for cycle, line in zip(node.saved_cycles(), node.told("checkpoint saved"), strict=True)
        if line["unix_s"] < killed_s
    ]
    back = node.told("node ready", killed_s)
    return bool(back) and back[0]["cycle"] >= max([0, *saved])


def _flat(who: str, node: NodeEvidence, began_s: float, ended_s: float) -> list[Observation]:
    """Memory at the end beside that after the first fifth; descriptors and threads at the end beside the beginning."""

    def middle(what: str, start_s: float, seconds: float) -> float:
        seen = [s[what] for s in node.samples if start_s <= s["unix_s"] <= start_s + seconds]
        return float(median(seen))

    fifth_s = (ended_s - began_s) / 5
    grown = middle("resident_bytes", ended_s - fifth_s, fifth_s) - middle(
        "resident_bytes", began_s + fifth_s, fifth_s
    )
    counts = {
        what: middle(what, ended_s - _QUIET_S, _QUIET_S) - middle(what, began_s - _QUIET_S, _QUIET_S)
        for what in ("descriptors", "threads")
    }
    return [
        Observation(f"growth of {who}'s resident memory", grown / MB, GROWTH_BYTES / MB, "MB"),
        *(Observation(f"growth of {who}'s {what}", grown, 0) for what, grown in counts.items()),
    ]
