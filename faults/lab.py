"""Real nodes on this machine, with whatever shall go wrong around them, and a record of what was done to them when."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from faults.evidence import Evidence, NodeEvidence
from harness import write_run
from relay import Relay
from topology.files import write_graph
from topology.graph import Graph
from topology.peers import dump_peers, read_peers

SAMPLE_S = 0.25
SETTINGS: Mapping[str, Any] = {
    "policy": "info-gain",
    "epochs": 10_000_000,
    "cooperation": {"consider_probability": 1.0},
    "checkpoint": {"every_s": 2.0, "every_epochs": 1_000_000},
    "output": {"metrics_every_cycles": 1, "samples_every_epochs": 10_000_000},
}
"""Every cycle considers the neighbours and writes a line of metrics: so the lines tell when a snapshot arrived."""
HEARERS = (1, 3)
"""On a ring of three or four, who listens to the node, 2 or 4, whose line is bad or in whose place somebody speaks."""
_START_S = 120.0
_NICE = 5
NODE = (sys.executable, "-m", "node")


class Sampler:
    """Writes what the kernel says of the nodes' processes to samples.jsonl, four times a second."""

    def __init__(self, folder: Path, launcher_pid: int | None = None) -> None:
        self._folder = folder
        self._launcher_pid = launcher_pid
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if not self._ended:
            raise RuntimeError(f"the sampler of {self._folder} died")

    def _run(self) -> None:
        with (self._folder / "samples.jsonl").open("a", encoding="utf-8") as file:
            while not self._stop.wait(SAMPLE_S):
                for node, pid in self._processes():
                    with contextlib.suppress(psutil.Error):
                        file.write(json.dumps({"node": node} | _sample(psutil.Process(pid))) + "\n")
                file.flush()
        self._ended = True

    def _processes(self) -> Iterable[tuple[int | str, int]]:
        if self._launcher_pid is not None:
            yield "launcher", self._launcher_pid
        for path in self._folder.glob("nodes/*/status.json"):
            pid = status_of(path.parent).get("pid")
            if pid is not None:
                yield int(path.parent.name), pid


class Lab:
    """One run directory and its nodes; whatever still runs at the end of the `with` block is killed.

    Args:
        folder: The run directory to make.
        graph: Who knows whom.
        seed: Of the relays.
        settings: Over `SETTINGS`.
    """

    def __init__(self, folder: Path, graph: Graph, seed: int = 0, **settings: Any) -> None:
        self.folder = folder
        self.graph = graph
        self.peers = write_run(folder, graph, **{**SETTINGS, **settings})
        self.relays: dict[int, Relay] = {}
        self._seed = seed
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        (self.folder / "nodes").mkdir(exist_ok=True)
        self._stack.enter_context(Sampler(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self._stack.close()

    # Before the start ------------------------------------------------------------------------------------------------

    def relay(self, *nodes: int, record: bool = False) -> None:
        """Puts a relay in front of these nodes' publishers; `record` as in Relay."""
        for node in nodes:
            address = self.address(node)
            self.relays[node] = self._stack.enter_context(
                Relay(address, record=record, seed=self._seed + node)
            )
            self.move(node, self.relays[node].address, bind=address)

    def move(self, node: int, address: str, bind: str | None = None) -> None:
        """Gives a node another address in peers.toml."""
        peers = read_peers(self.peers)
        moved = tuple(replace(p, address=address, bind=bind) if p.id == node else p for p in peers.peers)
        self.peers.write_text(dump_peers(replace(peers, peers=moved)), encoding="utf-8")

    def address(self, node: int) -> str:
        """Where a node listens."""
        return next(peer.bind or peer.address for peer in read_peers(self.peers).peers if peer.id == node)

    # Deeds -----------------------------------------------------------------------------------------------------------

    def note(self, what: str, **fields: Any) -> float:
        """Writes a line of the journal, and returns its time."""
        return journal(self.folder, what, **fields)

    def start(
        self, *nodes: int, command: Iterable[str] = NODE, words: Iterable[str] = (), **environment: str
    ) -> None:
        """Starts nodes, or starts them again."""
        for node in nodes:
            directory = self.folder / "nodes" / str(node)
            directory.mkdir(parents=True, exist_ok=True)
            line = [*command, "--id", str(node), "--peers", str(self.peers), *words]
            with (directory / "console.log").open("ab") as console:
                self._processes[node] = subprocess.Popen(
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    env=os.environ | environment,
                )
            self.note("start", node=node, pid=self._processes[node].pid)

    def send(self, node: int, number: signal.Signals) -> float:
        """Sends a signal, and returns when."""
        now_s = self.note(number.name, node=node)
        self._processes[node].send_signal(number)
        return now_s

    def kill(self, node: int) -> float:
        """As `kill -9` does; returns when."""
        now_s = self.send(node, signal.SIGKILL)
        self._processes[node].wait()
        return now_s

    def end(self, node: int, within_s: float = 60) -> int:
        """Waits for a node's end, and returns its status."""
        code = self._processes[node].wait(within_s)
        self.note("end", node=node, code=code)
        return code

    def stop_all(self) -> None:
        """SIGTERM to all nodes that run; returns when they have ended."""
        running = [node for node, process in self._processes.items() if process.poll() is None]
        for node in running:
            self.send(node, signal.SIGTERM)
        for node in running:
            self.end(node)

    def pid(self, node: int) -> int:
        """Process id of a node."""
        return self._processes[node].pid

    # What is waited for ----------------------------------------------------------------------------------------------

    def status(self, node: int) -> dict[str, Any]:
        """status.json as the node's present process wrote it, {} before it did."""
        status = status_of(self.folder / "nodes" / str(node))
        return status if status.get("pid") == self._processes[node].pid else {}

    def evidence(self) -> Evidence:
        """What there is so far."""
        return Evidence(self.folder)

    def node(self, node: int) -> NodeEvidence:
        """What one node has left behind so far, without the samples."""
        return NodeEvidence(self.folder / "nodes" / str(node), [])

    def wait(self, what: str, condition: Callable[[], Any], within_s: float = 60) -> bool:
        """Waits for something that a log or a status tells; that it did not come about is noted, and fails the row."""
        deadline_s = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline_s:
                self.note("waited in vain", wanted=what)
                return False
            time.sleep(0.02)
        return True

    def training(self, *nodes: int, cycles: int = 20, within_s: float = 60) -> None:
        """Waits until these nodes have trained some cycles since they were started.

        Raises:
            RuntimeError: They do not.
        """
        for node in nodes:
            self.wait(f"node {node} ready", partial(self._has_trained, node, 0), _START_S)
            # Its main thread alone: what trains all the time shall not hold up nodes that start, on a machine of few processors.
            os.setpriority(os.PRIO_PROCESS, self.pid(node), _NICE)
            enough = self.status(node).get("cycle", 0) + cycles
            if not self.wait(f"node {node} trains", partial(self._has_trained, node, enough), within_s):
                raise RuntimeError(f"node {node} does not train: {self.folder}/nodes/{node}/console.log")

    def until_heard(self, node: int, hearers: Iterable[int], since_s: float) -> None:
        """Waits until a snapshot of a node that arrived after this time was used by its neighbours."""
        others = list(hearers)
        self.wait(
            f"node {node} is heard",
            lambda: all(self.node(j).heard_after(node, since_s) >= 0 for j in others),
        )

    def _has_trained(self, node: int, cycles: int) -> bool:
        status = self.status(node)
        return bool(status.get("ready")) and status["cycle"] >= cycles


@contextlib.contextmanager
def launched(
    folder: Path, graph: Graph, settings: Iterable[str] = (), *, wait: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """`dgan-launch run` in a fresh run directory, its words in a file beside it, with all nodes at work unless told otherwise.

    Raises:
        RuntimeError: The nodes do not start.
    """
    folder.mkdir(parents=True)
    file = folder.with_suffix(".toml")
    file.write_text(write_graph(graph), encoding="utf-8")
    words = [
        "run", str(file), "--policy", "info-gain", "--run-dir", str(folder), *(w for s in settings for w in ("--set", s))
    ]  # fmt: skip
    with folder.with_suffix(".log").open("wb") as console:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "launcher", *words],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
    try:
        deadline_s = time.monotonic() + _START_S
        nodes = [folder / "nodes" / str(node) for node in graph.ids] if wait else []
        while not ((folder / "run.json").exists() and all(status_of(n).get("cycle", 0) > 0 for n in nodes)):
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the nodes did not start: {folder.with_suffix('.log')}")
            time.sleep(0.1)
        with Sampler(folder, launcher.pid):
            yield launcher
    finally:
        if launcher.poll() is None:
            launcher.kill()  # the nodes see it and end
        launcher.wait()


def journal(folder: Path, what: str, **fields: Any) -> float:
    """Writes a line of a run's journal, and returns its time."""
    now_s = time.time()
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"unix_s": now_s, "what": what, **fields}) + "\n")
    return now_s


def status_of(directory: Path) -> dict[str, Any]:
    """status.json of a node's directory, {} where there is none."""
    try:
        found: dict[str, Any] = json.loads((directory / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _sample(process: psutil.Process) -> dict[str, Any]:
    with process.oneshot():
        return _most_resident(process.pid) | {
            "unix_s": time.time(),
            "pid": process.pid,
            "resident_bytes": process.memory_info().rss,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "cpu_s": sum(process.cpu_times()[:2]),
            # All but the main thread, which trains: the transport's.
            "other_cpu_s": sum(t.user_time + t.system_time for t in process.threads() if t.id != process.pid),
            "status": process.status(),
        }


def _most_resident(pid: int) -> dict[str, int]:
    """The most resident memory that a process ever had, where the kernel keeps it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return {"most_resident_bytes": int(line.split()[1]) * 1024}
    return {}
