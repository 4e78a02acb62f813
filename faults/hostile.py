"""Rows about who means harm: floods, noise, other keys, and recorded frames."""

from __future__ import annotations

import contextlib
import math
import secrets
import socket as tcp
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faults.evidence import Evidence, worst
from faults.lab import HEARERS, Lab
from faults.processes import FRESH_S
from faults.strangers import (
    GREETING,
    Liar,
    Listener,
    answer,
    connected,
    endless_message,
    forge,
    garbage,
    header_of,
    keys_of,
    serving,
)
from faults.verdicts import Observation, Setting, named
from topology.graph import ring
from transport.inbox import QUARANTINE_S
from transport.keys import KeyPair, make_keys

_TIMES = 1000
_LEAST_RATE = 3.0
_OFTEN = {"publish_every_cycles": 3, "republish_s": 0.5}
_IO_SHARE = 0.25
_LARGE_BYTES = 64_000_000
_PARTS, _PART_BYTES = 10_000, 4_000  # each no longer than a frame
_IDLE = 200
_NEW_EDGES = ((1, 2), (3, 2), (2, 1), (2, 3))
_NOISE_S = 2.5  # a server that says nothing is left after 3 s
_TRY_S = 30.0
_ABSENCE_S = 5.0  # nobody answers: a cause that lasts is told once, and so the next one is told
_TRIES = 4  # connections on which recorded bytes are sent again


def flood(setting: Setting) -> list[Observation]:
    """Row 13: who holds node 2's key sends good frames a thousand times as fast as an honest node."""
    seconds = 12 if setting.quick else 30
    with Lab(setting.folder / "run", ring(3), exchange=_OFTEN) as lab:
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        newest = _record(lab, 2)[-1]
        lab.kill(2)
        # On a busy machine an honest node hardly publishes, and a thousand times hardly is no flood.
        rate = max(_publishes_per_s(lab.evidence(), 3), _LEAST_RATE)
        began_s = lab.note("begin")
        pool = [forge(newest, seq=header_of(newest)["seq"] + n) for n in range(1, _TIMES + 1)]
        with Liar(lab.address(2), keys_of(lab.folder, 2)) as liar:
            lab.wait("both listen", partial(liar.heard_by, 2, 0))
            sent = liar.flood(pool, _TIMES * rate, seconds)
        ended_s = lab.note("end", sent=sent)
        lab.start(2)
        lab.training(2)
        lab.until_heard(2, HEARERS, ended_s)
        lab.stop_all()
        evidence = lab.evidence()
    honest = ((1, 3), (3, 1))
    return [
        Observation("its frames a second, over those of an honest node", sent / (ended_s - began_s) / rate, 0.9 * _TIMES, at_least=True),
        Observation("times that each neighbour put it into quarantine", min(evidence[j].refused(2, "FloodError") for j in HEARERS), 1, at_least=True),
        Observation("share of a processor for a neighbour's connections meanwhile", worst(evidence[j].transport_cpu(began_s, ended_s) for j in HEARERS), _IO_SHARE),
        Observation("oldest snapshot that the others used of each other", worst(evidence[j].oldest_used_s(k, began_s, ended_s) for j, k in honest), FRESH_S, "s"),
        Observation("the honest node 2 is heard after the flood", worst(evidence[j].heard_after(2, evidence[2].ready_s) for j in HEARERS), QUARANTINE_S + FRESH_S, "s"),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


def noise(setting: Setting) -> list[Observation]:
    """Row 14: what is no frame, no message, no greeting, or nothing at all."""
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 3)
        lab.training(1, 3)
        address = lab.address(2)
        began_s = lab.note("begin")
        for what, parts, reason in (
            ("oversize frame", [bytes(_LARGE_BYTES)], "ended: oversize"),
            ("message of many parts", [bytes(_PART_BYTES)] * _PARTS, "sent a message of several parts"),
        ):
            time.sleep(_ABSENCE_S)
            with Liar(address, keys_of(lab.folder, 2)) as liar:
                _both_refuse(lab, what, (reason,), partial(liar.send_to_newcomers, *parts))
        served = []
        for what, prefix in (("noise for a greeting", b""), ("noise after the greeting", GREETING)):
            time.sleep(_ABSENCE_S)
            with serving(address, answer(prefix + bytes(range(1, 256)) * 100)) as done:
                _both_refuse(lab, what, ("handshake", "ended: oversize frame or garbage"))
            served += done
        for node in HEARERS:
            for _ in range(20):
                garbage(lab.address(node), secrets.token_bytes(100_000))
        _through_a_crowd(lab)
        lab.stop_all()
        evidence = lab.evidence()
    deeds = evidence.done("refuses")
    return [
        Observation("kinds of noise, each refused by both neighbours", sum(each["refused"] == len(HEARERS) for each in deeds), 4, at_least=True),
        Observation("longest that a neighbour listened to noise", worst(each.seconds for each in served), _NOISE_S, "s"),
        Observation("edges of node 2 that came about", len(_heard(evidence)), len(_NEW_EDGES), at_least=True),
        Observation("silent connections to each neighbour meanwhile", _crowd(evidence, began_s), _IDLE, at_least=True),
        Observation("the honest node 2 is heard through them, worst", worst(evidence[j].heard_after(2, evidence[2].ready_s) for j in HEARERS), FRESH_S, "s"),
        Observation("and hears the others, worst", worst(evidence[2].heard_after(j, evidence[2].ready_s) for j in HEARERS), FRESH_S, "s"),
        *_endless(setting),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


def _both_refuse(
    lab: Lab, what: str, reasons: tuple[str, ...], deed: Callable[[], None] = lambda: None
) -> None:
    """Does it until it was refused, and notes how many neighbours closed the connection for such a reason."""
    since_s = lab.note(what)

    def refused() -> int:
        deed()
        return _refusers(lab, 2, since_s, reasons)

    lab.wait(f"{what} refused by both", lambda: refused() == len(HEARERS), _TRY_S)
    lab.note("refuses", kind=what, refused=refused())


def _through_a_crowd(lab: Lab) -> None:
    """Starts node 2 while connections that say nothing stand at every door, always some new ones for those that are closed."""
    crowds: dict[int, deque[tcp.socket]] = {node: deque() for node in HEARERS}
    with contextlib.ExitStack() as stack:

        def heard(more: int = 40) -> bool:
            for node, crowd in crowds.items():
                crowd.extend(stack.enter_context(connected(lab.address(node))) for _ in range(more))
                while len(crowd) > _IDLE + more:
                    crowd.popleft().close()
            return len(_heard(lab.evidence())) == len(_NEW_EDGES)

        heard(_IDLE)
        lab.start(2)
        lab.wait("node 2 through the crowd", heard)
        time.sleep(1)  # for the samples
    lab.training(1, 2, 3)


def _heard(evidence: Evidence) -> list[float]:
    """When the first snapshot arrived over each of node 2's edges, those over which none did left out."""
    arrivals = [[at for _, at in evidence[j].used(k)] for j, k in _NEW_EDGES if j in evidence.nodes]
    return [min(times) for times in arrivals if times]


def _crowd(evidence: Evidence, began_s: float) -> float:
    """Descriptors of node 1 or 3 above those before, the fewer, while node 2's edges came about."""
    firsts = _heard(evidence)
    since_s, until_s = min(firsts, default=math.inf) - 1, max(firsts, default=-math.inf) + 1
    return -worst(
        evidence[j].descriptors(-math.inf, began_s) - evidence[j].descriptors(since_s, until_s)
        for j in HEARERS
    )


def _endless(setting: Setting) -> list[Observation]:
    """A message that never ends; by an insecure publisher, for libzmq itself sends none that has not ended."""
    with Lab(setting.folder / "insecure", ring(3)) as lab:
        lab.start(1, 3, words=["--insecure"])
        lab.training(1, 3)
        began_s = lab.note("begin")
        with serving(lab.address(2), endless_message(_PART_BYTES, 10 * _LARGE_BYTES)) as done:
            lab.wait(
                "both refuse",
                lambda: all(lab.node(j).told("snapshot refused", began_s, neighbor=2) for j in HEARERS),
            )
        lab.training(1, 3)
        lab.stop_all()
        evidence = lab.evidence()
    refused = [evidence[j].refused(2, "MalformedFrameError") for j in HEARERS]
    return [
        Observation(
            "endless messages that were cut off",
            sum(each.cut_off for each in done),
            len(HEARERS),
            at_least=True,
        ),
        Observation("endless messages that were not", sum(not each.cut_off for each in done), 0),
        Observation("each neighbour's refusals of them", min(refused), 1, at_least=True),
        *named("endless messages", evidence.invariants([1, 3], began_s, degree=2)),
    ]


def strangers(setting: Setting) -> list[Observation]:
    """Row 15: who has no key, another key or another node's asks for snapshots, and sends some."""
    seconds = 3 if setting.quick else 10
    with Lab(setting.folder / "run", ring(4)) as lab:
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        began_s = lab.note("begin")
        one, stranger = keys_of(lab.folder, 1).public, make_keys()
        listeners: list[tuple[str, KeyPair | None, str]] = [
            ("a stranger's key", stranger, one),
            ("no key", None, ""),
            ("the key of node 3, two hops away", keys_of(lab.folder, 3), one),
            ("a neighbour's key, meant for another node", keys_of(lab.folder, 2), stranger.public),
            ("a neighbour's key", keys_of(lab.folder, 2), one),
        ]
        for what, keys, server_key in listeners:
            since_s = lab.note(what)
            with Listener(lab.address(1), keys, server_key) as listener:
                time.sleep(seconds)
                got = len(listener.frames())
            shown = keys.public if keys and server_key == one else None
            lab.note("asked", kind=what, got=got, since_s=since_s, key=shown)
        lies = [forge(frame, node_id=4) for frame in _record(lab, 2)]
        for what, posing in (
            ("a stranger's key", stranger),
            ("no key", None),
            ("the key of node 2", keys_of(lab.folder, 2)),
        ):
            _pose(lab, what, posing, lies)
        lab.training(1, 2, 3)
        lab.stop_all()
        evidence = lab.evidence()
    *refused, let_in = evidence.done("asked")
    posed = evidence.done("posed")
    return [
        Observation("frames that a neighbour's key gets, to show that there were some", let_in["got"], 1, at_least=True),
        Observation("frames that the others got", sum(each["got"] for each in refused), 0),
        Observation("kinds of strangers whose refusal is in the log", sum(_logged(evidence, each) for each in refused), len(listeners) - 1, at_least=True),
        Observation("impostors in node 4's place whose refusal is in the logs of both neighbours", sum(each["refused"] == len(HEARERS) for each in posed), 3, at_least=True),
        Observation("their snapshots that were used", sum(len(evidence[j].used(4)) for j in HEARERS), 0),
        Observation("connections to them that stood", sum(len(evidence[j].told("connection up", neighbor=4)) for j in HEARERS), 0),
        *evidence.invariants([1, 2, 3], began_s, degree=2),
    ]  # fmt: skip


def _logged(evidence: Evidence, asked: dict[str, Any]) -> bool:
    """Whether node 1 told at that time that it refused this one: by its key, where the handshake came so far."""
    told = (
        evidence[1].told("key refused", asked["since_s"], public_key=asked["key"])
        if asked["key"]
        else evidence[1].told("handshake refused", asked["since_s"])
    )
    return any(line["unix_s"] <= asked["unix_s"] for line in told)


def _pose(lab: Lab, what: str, keys: KeyPair | None, frames: list[bytes]) -> None:
    """Answers in node 4's place, and notes how many neighbours refused that."""
    time.sleep(_ABSENCE_S)
    since_s = lab.note(what)
    with Liar(lab.address(4), keys) as liar:

        def refused() -> int:
            liar.send(frames[0])
            return _refusers(lab, 4, since_s, ("handshake", "one end is insecure"))

        lab.wait("both refuse", lambda: refused() == len(HEARERS), _TRY_S)
        lab.note("posed", kind=what, refused=refused())


def replay(setting: Setting) -> list[Observation]:
    """Row 16: what node 2 sent is recorded and sent again: its bytes on the line, and its frames by who holds its key."""
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.relay(2, record=True)
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        frames = _record(lab, 2, 20)
        streams = [bytes(stream) for stream in lab.relays[2].streams]
        killed_s = lab.kill(2)
        lab.wait(
            "the end is seen", lambda: all(lab.node(j).told("connection lost", killed_s) for j in HEARERS)
        )
        began_s = lab.note("begin")
        with serving(lab.address(2), answer(max(streams, key=len))) as done:
            lab.wait("bytes sent again", lambda: len(done) >= _TRIES, 60)
        older = frames[: len(frames) // 2]
        changed = [forge(frame, _double) for frame in older]
        with Liar(lab.address(2), keys_of(lab.folder, 2)) as liar:
            lab.wait("both listen", partial(liar.heard_by, 2, 0))
            sent = liar.flood([*older, *changed], per_s=20, seconds=3)
        ended_s = lab.note("end", sent=sent)
        lab.start(2)
        lab.training(2)
        lab.until_heard(2, HEARERS, ended_s)
        lab.stop_all()
        evidence = lab.evidence()
    ready_s = evidence[2].ready_s
    return [
        Observation("connections on which recorded bytes were sent again", len(done), _TRIES, at_least=True),
        Observation("recorded frames sent again with the right key", sent, 20, at_least=True),
        Observation("each neighbour's refusals of them, at least", min(evidence[j].refused(2, "StaleError") for j in HEARERS), 10, at_least=True),
        Observation("snapshots accepted between the end of the true node 2 and its return", sum(evidence[j].arrivals(2, began_s, ready_s) for j in HEARERS), 0),
        Observation("its own snapshot after its return, worst", worst(evidence[j].heard_after(2, ready_s) for j in HEARERS), FRESH_S, "s"),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


# What several rows share ---------------------------------------------------------------------------------------------


def _double(numbers: NDArray[np.float32]) -> None:
    numbers *= 2


def _record(lab: Lab, node: int, number: int = 3) -> list[bytes]:
    """Frames of a node, as its neighbour 1 or 3 gets them."""
    reader = keys_of(lab.folder, 1 if node != 1 else 3)
    frames: list[bytes] = []
    with Listener(lab.address(node), reader, keys_of(lab.folder, node).public) as listener:

        def enough() -> bool:
            frames.extend(listener.frames())
            return len(frames) >= number

        lab.wait("frames", enough)
    return frames


def _refusers(lab: Lab, node: int, since_s: float, reasons: tuple[str, ...]) -> int:
    """How many neighbours of a node gave up a connection to it for one of these reasons."""
    told = (lab.node(j).told("connection rebuilt", since_s, neighbor=node) for j in HEARERS)
    return sum(any(line["reason"].startswith(reasons) for line in lines) for lines in told)


def _publishes_per_s(evidence: Evidence, node: int) -> float:
    first, last = evidence[node].metrics[0], evidence[node].metrics[-1]
    return float((last["publishes"] - first["publishes"]) / (last["time_s"] - first["time_s"]))
