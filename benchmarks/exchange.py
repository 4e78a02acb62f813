"""A snapshot's way from one discriminator into another, against raw pyzmq that sends the same bytes, and other codecs.

Publisher and reader are processes of their own. A snapshot is usable when its numbers stand in the reader's network;
for raw pyzmq, which does less, a message is usable when it was received. Both are encrypted by CURVE.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Self

import torch
import zmq

from benchmarks.measure import Figure, alternate, figure, milliseconds, ratios, timed
from benchmarks.provenance import ROOT
from benchmarks.training import build_trainer, settings_in
from node.config import Architecture
from node.hardware import place, prepare_processor
from node.models import Discriminator
from node.snapshots import load_arrays, schema, to_arrays
from transport.keys import KeyPair, make_keys
from transport.link import Link, LinkSettings, Neighbor
from transport.wire import Block, Dtype, Expected, Schema, Snapshot, decode, draft, encode, seal

_SIZES = {"79k": (64, 64, 12), "1M": (177, 177, 177), "5M": (395, 395, 395)}
_BURST = 10  # snapshots of one kind in a row
_PAUSE_S = 0.03  # above the pace that a publisher keeps by itself
_IMAGE = 20
_LATENCY_TARGET, _CODEC_TARGET = 1.3, 8.0
_PUBLISH_MS = 0.2
_WIRE_TARGETS: Mapping[Dtype, float] = {"float32": 1.01, "bfloat16": 0.51}
_LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")
_P2PFL = "0.4.4"
_P2PFL_PROGRAM = """
import json, sys, time
import numpy as np
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel
rng, found = np.random.default_rng(0), {}
for name, shapes in json.loads(sys.argv[1]).items():
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    model, times = P2PFLModel(None), []
    for _ in range(int(sys.argv[2]) + 1):
        began = time.perf_counter()
        model.decode_parameters(model.encode_parameters(arrays))
        times.append(time.perf_counter() - began)
    found[name] = times[1:]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Job:
    """What a reader is told.

    Attributes:
        widths: Of the discriminator.
        address: The publisher's.
        reader: Own keys.
        publisher: The publisher's public key.
        raw: Plain pyzmq, without dgan's link.
        dtype: Number format of the payload.
    """

    widths: tuple[int, ...]
    address: str
    reader: KeyPair
    publisher: str
    raw: bool
    dtype: Dtype


def measure(*, full: bool) -> Iterator[Figure]:
    """Latency, processor time, wire bytes, and the codec against others."""
    torch.set_num_threads(1)
    rounds = 30 if full else 8
    for name, widths in _SIZES.items():
        yield from _latency(name, widths, rounds)
    yield from _codec(rounds)
    yield from _on_the_training_thread(rounds)
    yield from _wire_bytes(rounds)


def _form(widths: tuple[int, ...]) -> tuple[Discriminator, Schema]:
    architecture = Architecture(discriminator_widths=widths)
    network = place(Discriminator(architecture, _IMAGE, 1), torch.device("cpu"))
    return network, schema("benchmark", architecture, _IMAGE, 1)


def _latency(name: str, widths: tuple[int, ...], rounds: int) -> Iterator[Figure]:
    """Bursts of dgan's snapshots and of raw messages in turn."""
    with _Side(widths, raw=False) as ours, _Side(widths, raw=True) as raw:
        pairs = alternate(ours.burst, raw.burst, rounds)
        ours_s, raw_s = (
            side.latencies[_BURST:] for side in (ours, raw)
        )  # the first round pays for what later ones have
        cpu = [side.processor_s() / len(side.latencies) for side in (ours, raw)]
        beside_s = median(_beside_s(ours.parts()) for _ in range(rounds))
    size = sum(array.nbytes for array in to_arrays(_form(widths)[0].state_dict()).values())
    tails = ", ".join(
        f"{who} p50 {median(found) * 1e3:.3g} ms, p99 {quantiles(found, n=100)[98] * 1e3:.3g} ms"
        for who, found in (("dgan", ours_s), ("raw", raw_s))
    )
    yield figure(
        f"{name} parameters ({size / 1e6:.2g} MB): publish to usable over raw pyzmq with CURVE",
        ratios(pairs),
        target=_LATENCY_TARGET if name == "5M" else None,
        beside=tails,
    )
    yield figure(
        f"{name} parameters: the same, had dgan nothing to do but encode, check and take in what raw pyzmq carries",
        [(median(raw_s) + beside_s) / median(raw_s)],
        beside=f"{beside_s * 1e3:.3g} ms beside raw",
    )
    yield figure(
        f"{name} parameters: processor time of both ends for a snapshot over raw pyzmq with CURVE",
        [cpu[0] / cpu[1]],
        beside=f"dgan {cpu[0] * 1e3:.3g} ms, raw {cpu[1] * 1e3:.3g} ms",
    )


def _beside_s(parts: tuple[Snapshot, Schema, Discriminator]) -> float:
    """Seconds of what a snapshot needs but for its way: into a frame, out of it, and into a network."""
    snapshot, form, network = parts
    expected = Expected(snapshot.run_id, snapshot.node_id, form)

    def work() -> None:
        load_arrays(network, decode(seal(draft(snapshot, form)), expected).blocks[-1])

    return timed(work)


class _Side:
    """A publisher in this process, a reader in another one."""

    def __init__(self, widths: tuple[int, ...], *, raw: bool, dtype: Dtype = "float32") -> None:
        self._network, self._schema = _form(widths)
        self._weights = self._network.state_dict()
        self._raw, self._dtype = raw, dtype
        self._seq = 0
        self.latencies: list[float] = []
        self._own_s = 0.0
        keys, reader = make_keys(), make_keys()
        if raw:
            self._message = encode(self._snapshot(), self._schema)  # once: plain pyzmq has nothing to encode
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            self._socket = self._context.socket(zmq.PUB)
            self._socket.linger = 0
            self._socket.curve_server = True
            self._socket.curve_secretkey = keys.secret.encode()
            self._socket.bind("tcp://127.0.0.1:*")
            address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        else:
            other = Neighbor(2, "tcp://127.0.0.1:9", reader.public, Expected("run", 2, self._schema))
            self._link = Link(LinkSettings(1, "tcp://127.0.0.1:0", keys, (other,)))
            self._link.__enter__()
            address = self._link.address
        spawn = multiprocessing.get_context("spawn")
        self._pipe, far = spawn.Pipe()
        job = Job(widths, address, reader, keys.public, raw, dtype)
        self._reader = spawn.Process(target=read, args=(job, far), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        self._pipe.recv()  # it is up
        while not self._arrives(within_s=0.5):
            pass
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.terminate()
        self._reader.join()
        if self._raw:
            self._context.destroy(linger=0)
        else:
            self._link.__exit__(None, None, None)

    def burst(self) -> float:
        """Median seconds from the publish of a snapshot until it is usable."""
        found = []
        for _ in range(_BURST):
            time.sleep(_PAUSE_S)
            own_s = time.process_time()
            sent_s = self._send()
            found.append(float(self._pipe.recv()) - sent_s)
            self._own_s += time.process_time() - own_s
        self.latencies += found
        return median(found)

    def processor_s(self) -> float:
        """Processor time of all bursts, of this process and of the reader."""
        self._pipe.send("time")
        reader_s: float = self._pipe.recv()
        return self._own_s + reader_s

    def _arrives(self, within_s: float) -> bool:
        self._send()
        came = self._pipe.poll(within_s)
        while self._pipe.poll(0.1):
            self._pipe.recv()
        return came

    def _send(self) -> float:
        self._seq += 1
        if self._raw:
            sent_s = time.monotonic()
            self._socket.send(self._message, copy=False)
            return sent_s
        sent_s = time.monotonic()
        self._link.publish(draft(self._snapshot(), self._schema, self._dtype))
        return sent_s

    def _snapshot(self) -> Snapshot:
        blocks = (to_arrays(self._weights),)
        return Snapshot("run", 1, self._schema.arch_id, 1, self._seq, self._seq, done=False, blocks=blocks)

    def parts(self) -> tuple[Snapshot, Schema, Discriminator]:
        """A snapshot, its form, and a network that takes one in."""
        return self._snapshot(), self._schema, self._network


def read(job: Job, pipe: Connection) -> None:
    """The reader's process: says when each snapshot was usable, and its processor time when asked."""
    torch.set_num_threads(1)
    receive = _raw_reader(job) if job.raw else _link_reader(job)
    pipe.send("up")
    began_s = time.process_time()
    while True:
        if receive():
            pipe.send(time.monotonic())
        if pipe.poll():
            pipe.recv()
            pipe.send(time.process_time() - began_s)


def _raw_reader(job: Job) -> Callable[[], bool]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.curve_publickey, socket.curve_secretkey = job.reader.public.encode(), job.reader.secret.encode()
    socket.curve_serverkey = job.publisher.encode()
    socket.subscribe(b"")
    socket.connect(job.address)

    def receive() -> bool:
        if not socket.poll(100):
            return False
        socket.recv()
        return True

    return receive


def _link_reader(job: Job) -> Callable[[], bool]:
    network, form = _form(job.widths)
    expected = Expected("run", 1, form, dtype=job.dtype)
    publisher = Neighbor(1, job.address, job.publisher, expected)
    link = Link(LinkSettings(2, "tcp://127.0.0.1:0", job.reader, (publisher,)))
    link.__enter__()
    newest = (0, 0)

    def receive() -> bool:
        nonlocal newest
        delivery = link.latest(1, after=newest, timeout_s=0.1)
        if delivery is None:
            return False
        newest = delivery.snapshot.order
        load_arrays(network, delivery.snapshot.blocks[-1])
        return True

    return receive


# Codecs --------------------------------------------------------------------------------------------------------------


def _codec(rounds: int) -> Iterator[Figure]:
    """Encode and decode against pickle, in turn, and against p2pfl's in an environment of its own, just before."""
    theirs = _p2pfl(rounds)
    for name, widths in _SIZES.items():
        network, form = _form(widths)
        arrays = to_arrays(network.state_dict())
        expected = Expected("run", 1, form)
        snapshot = Snapshot("run", 1, form.arch_id, 1, 1, 1, done=False, blocks=(arrays,))
        pairs = alternate(
            partial(_pickled_s, arrays),
            partial(_coded_s, snapshot, form, expected),
            rounds * 10,
        )
        ours = [b for _, b in pairs]
        yield figure(
            f"{name} parameters: pickle's encode and decode, which check nothing, over dgan's",
            ratios(pairs),
            at_least=True,
            beside=f"{milliseconds('dgan', ours)}, {milliseconds('pickle', [a for a, _ in pairs])}",
        )
        if theirs:
            yield figure(
                f"{name} parameters: p2pfl's encode and decode over dgan's",
                [each / median(ours) for each in theirs[name]],
                target=_CODEC_TARGET,
                at_least=True,
                beside=f"{milliseconds('dgan', ours)}, {milliseconds(f'p2pfl {_P2PFL}', theirs[name])}",
            )
            pickled_s = median(a for a, _ in pairs)
            yield figure(
                f"{name} parameters: p2pfl's encode and decode over pickle's, which check nothing",
                [each / pickled_s for each in theirs[name]],
                at_least=True,
            )


def _pickled_s(arrays: Block) -> float:
    return timed(lambda: pickle.loads(pickle.dumps(arrays, protocol=5)))  # noqa: S301 - its own bytes


def _coded_s(snapshot: Snapshot, form: Schema, expected: Expected) -> float:
    return timed(lambda: decode(seal(draft(snapshot, form)), expected))


def _p2pfl(rounds: int) -> dict[str, list[float]]:
    """Seconds of p2pfl's own functions, by size; {} where it cannot be installed."""
    folder = ROOT / ".venv-p2pfl"
    python = folder / "bin" / "python"
    if not python.exists():
        install = [["python3", "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "-q", "numpy<2", "opendp"],
                   [str(python), "-m", "pip", "install", "-q", "--no-deps", f"p2pfl=={_P2PFL}"]]  # fmt: skip
        for command in install:
            if subprocess.run(command, check=False).returncode:
                print(f"p2pfl {_P2PFL} cannot be installed: left out")
                return {}
    shapes = {
        name: [a.shape for a in to_arrays(_form(widths)[0].state_dict()).values()]
        for name, widths in _SIZES.items()
    }
    words = [str(python), "-c", _P2PFL_PROGRAM, json.dumps(shapes), str(rounds * 10)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=folder)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


# The training thread, and the wire -----------------------------------------------------------------------------------


def _on_the_training_thread(rounds: int) -> Iterator[Figure]:
    """What a publish takes from training: copy and hand over. Between two of them the caches are used by training."""
    prepare_processor(1)  # as a node does
    settings = settings_in("auto")
    trainer = build_trainer(settings)
    weights = trainer.discriminator.state_dict()
    form = schema("paper", settings.architecture["paper"], _IMAGE, 1)
    keys, other = make_keys(), make_keys()
    expected = Expected("run", 2, form)
    publishes, cycles = [], []
    with Link(
        LinkSettings(
            1, "tcp://127.0.0.1:0", keys, (Neighbor(2, "tcp://127.0.0.1:9", other.public, expected),)
        )
    ) as link:
        address = link.address
        reader = Neighbor(1, address, keys.public, Expected("run", 1, form))
        with Link(LinkSettings(2, "tcp://127.0.0.1:0", other, (reader,))) as far:
            for seq in range(1, rounds * 2 + 2):
                cycles.append(
                    timed(
                        lambda: [trainer.cycle(dict) for _ in range(settings.exchange.publish_every_cycles)]
                    )
                )

                def publish(seq: int = seq) -> None:
                    blocks = (to_arrays(weights),)
                    snapshot = Snapshot("run", 1, form.arch_id, 1, seq, seq, done=False, blocks=blocks)
                    link.publish(draft(snapshot, form))

                publishes.append(timed(publish))
            if far.latest(1, after=(1, seq - 1), timeout_s=10) is None:
                raise RuntimeError(
                    "the neighbour did not get the last snapshot; the figures would mean nothing"
                )
    ms = [each * 1e3 for each in publishes[1:]]
    yield figure("publishing 79k parameters, on the training thread", ms, target=_PUBLISH_MS, unit="ms")
    blocks = (to_arrays(weights),)
    last = Snapshot("run", 1, form.arch_id, 1, seq, seq, done=False, blocks=blocks)
    copies = [timed(partial(draft, last, form)) * 1e3 for _ in ms]
    yield figure("its copy into a frame alone, repeated while nothing else is at work", copies, unit="ms")
    yield figure(
        "publishing, over the training between two publishes",
        [p / c for p, c in zip(publishes[1:], cycles[1:], strict=True)],
        target=0.005,
        beside=f"{settings.exchange.publish_every_cycles} cycles take {median(cycles) * 1e3:.0f} ms",
    )


def _wire_bytes(rounds: int) -> Iterator[Figure]:
    """All that crosses the loopback device for a snapshot, TCP's and IP's headers and answers too, over its weights."""
    widths = _SIZES["79k"]
    weights = sum(array.nbytes for array in to_arrays(_form(widths)[0].state_dict()).values())
    for dtype, target in _WIRE_TARGETS.items():
        found = []
        with _Side(widths, raw=False, dtype=dtype) as side:
            for _ in range(rounds):
                before = int(_LOOPBACK.read_text(encoding="utf-8"))
                side.burst()
                crossed = int(_LOOPBACK.read_text(encoding="utf-8")) - before
                found.append(crossed / (_BURST * weights))
        yield figure(f"bytes on the wire over those of the weights, payload {dtype}", found, target=target)
