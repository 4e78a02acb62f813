"""Rows about a bad line and about who means harm: changed bits, floods, noise, other keys, and recorded frames."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from faults.evidence import Evidence, worst
from faults.lab import Lab
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
from faults.verdicts import Observation, Setting
from relay import FINE, Weather
from topology.graph import ring
from transport.inbox import QUARANTINE_S
from transport.keys import KeyPair, make_keys

HEARERS = (1, 3)
"""Who listens to the node, 2 or 4, whose line is bad or in whose place somebody speaks."""
_FLIP_EVERY_BYTES = 5_000  # about one in every frame
_REBUILT_S = 10.0
_TIMES = 1000
_LEAST_RATE = 3.0
_OFTEN = {"publish_every_cycles": 3, "republish_s": 0.5}
_IO_SHARE = 0.25
_LARGE_BYTES = 64_000_000
_PARTS, _PART_BYTES = 10_000, 4_000  # each no longer than a frame
_IDLE = 200
_TRY_S = 30.0
_ABSENCE_S = 5.0  # nobody answers: a cause that lasts is told once, and so the next one is told
_TRIES = 4  # connections on which recorded bytes are sent again


def weather(setting: Setting) -> list[Observation]:
    """Row 12: node 2 is behind a bad line: late and in slices first, with flipped bits then."""
    seconds = 5 if setting.quick else 20
    with Lab(setting.folder / "run", ring(3), setting.seed) as lab:
        lab.relay(2)
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        late_s = lab.note("late")
        lab.relays[2].weather = Weather(delay_s=0.2, jitter_s=0.1, slice_bytes=7)
        time.sleep(seconds)
        flips_s = lab.note("flips")
        lab.relays[2].weather = Weather(flip_every_bytes=_FLIP_EVERY_BYTES)
        time.sleep(seconds)
        lab.relays[2].weather = FINE
        fine_s = lab.note("fine")
        _until_heard(lab, fine_s)
        lab.stop_all()
        evidence, flips = lab.evidence(), lab.relays[2].flips
    arrived = [evidence[j].arrivals(2, late_s + 1, flips_s) for j in HEARERS]
    lost = [
        line
        for j in HEARERS
        for line in evidence[j].told("connection lost", flips_s)
        if line["unix_s"] < fine_s
    ]
    return [
        Observation("snapshots of node 2 that each neighbour used in late and sliced traffic", min(arrived), seconds - 1, at_least=True),
        Observation("bits flipped", flips, seconds, at_least=True),
        Observation("connections that ended for it", len(lost), 1, at_least=True),
        Observation("from the end of a connection to the next, worst", worst(_back(evidence, line) for line in lost), _REBUILT_S, "s"),
        Observation("a snapshot after the last flip, worst", worst(evidence[j].heard_after(2, fine_s) for j in HEARERS), _REBUILT_S, "s"),
        *_flips_without_encryption(setting, seconds),
        *evidence.invariants([1, 3], late_s, degree=2),
    ]  # fmt: skip


def _back(evidence: Evidence, lost: dict[str, object]) -> float:
    """Seconds from the loss of a connection to its return."""
    node, neighbor, when = int(str(lost["node"])), lost["neighbor"], float(str(lost["unix_s"]))
    ups = evidence[node].told("connection up", when, neighbor=neighbor)
    return float(ups[0]["unix_s"] - when) if ups else math.nan


def _flips_without_encryption(setting: Setting, seconds: float) -> list[Observation]:
    """Under CURVE a changed bit ends the connection; without it the frame itself must tell."""
    with Lab(setting.folder / "insecure", ring(3), setting.seed) as lab:
        lab.relay(2)
        lab.start(1, 2, 3, words=["--insecure"])
        lab.training(1, 2, 3)
        began_s = lab.note("flips")
        lab.relays[2].weather = Weather(flip_every_bytes=_FLIP_EVERY_BYTES)
        time.sleep(seconds)
        lab.stop_all()
        evidence = lab.evidence()
    refused = [_refused(evidence, j, 2).get("DigestError", 0) for j in HEARERS]
    return [
        Observation("without encryption: frames refused for their digest", sum(refused), 1, at_least=True),
        *_named("without encryption: ", evidence.invariants([1, 3], began_s, degree=2)),
    ]


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
        _until_heard(lab, ended_s)
        lab.stop_all()
        evidence = lab.evidence()
    honest = ((1, 3), (3, 1))
    return [
        Observation("its frames a second, over those of an honest node", sent / (ended_s - began_s) / rate, 0.9 * _TIMES, at_least=True),
        Observation("times that each neighbour put it into quarantine", min(_refused(evidence, j, 2).get("FloodError", 0) for j in HEARERS), 1, at_least=True),
        Observation("share of a processor for a neighbour's connections meanwhile", worst(evidence[j].transport_cpu(began_s, ended_s) for j in HEARERS), _IO_SHARE),
        Observation("oldest snapshot that the others used of each other", worst(evidence[j].oldest_used_s(k, began_s, ended_s) for j, k in honest), FRESH_S, "s"),
        Observation("the honest node 2 is heard after the flood", worst(evidence[j].heard_after(2, _ready_s(evidence, 2)) for j in HEARERS), QUARANTINE_S + FRESH_S, "s"),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


def noise(setting: Setting) -> list[Observation]:
    """Row 14: what is no frame, no message, no greeting, or nothing at all."""
    with Lab(setting.folder / "run", ring(3)) as lab:
        lab.start(1, 3)
        lab.training(1, 3)
        address = lab.address(2)
        began_s = lab.note("begin")
        for what, parts in (
            ("oversize frame", [bytes(_LARGE_BYTES)]),
            ("message of many parts", [bytes(_PART_BYTES)] * _PARTS),
        ):
            time.sleep(_ABSENCE_S)
            with Liar(address, keys_of(lab.folder, 2)) as liar:
                _both_refuse(lab, what, partial(liar.send_to_newcomers, *parts))
        for what, prefix in (("noise for a greeting", b""), ("noise after the greeting", GREETING)):
            time.sleep(_ABSENCE_S)
            with serving(address, answer(prefix + bytes(range(1, 256)) * 100)):
                _both_refuse(lab, what, lambda: None)
        for node in HEARERS:
            for _ in range(20):
                garbage(lab.address(node), secrets.token_bytes(100_000))
        heard = _through_a_crowd(lab)
        lab.stop_all()
        evidence = lab.evidence()
    deeds = evidence.done("refuses")
    return [
        Observation("kinds of noise, each refused by both neighbours", sum(each["refused"] == len(HEARERS) for each in deeds), 4, at_least=True),
        Observation("connections to each node that say nothing while node 2 comes", heard, _IDLE, at_least=True),
        Observation("the honest node 2 is heard through them, worst", worst(evidence[j].heard_after(2, _ready_s(evidence, 2)) for j in HEARERS), FRESH_S, "s"),
        Observation("and hears the others, worst", worst(evidence[2].heard_after(j, _ready_s(evidence, 2)) for j in HEARERS), FRESH_S, "s"),
        *_endless(setting),
        *evidence.invariants([1, 3], began_s, degree=2),
    ]  # fmt: skip


def _both_refuse(lab: Lab, what: str, deed: Callable[[], None]) -> None:
    """Does it until it was refused, and notes how many neighbours closed the connection for it."""
    since_s = lab.note(what)

    def refused() -> list[int]:
        deed()
        return [j for j in HEARERS if lab.node(j).told("connection rebuilt", since_s, neighbor=2)]

    lab.wait(f"{what} refused by both", lambda: len(refused()) == len(HEARERS), _TRY_S)
    lab.note("refuses", kind=what, refused=len(refused()))


def _through_a_crowd(lab: Lab) -> int:
    """Starts node 2 while connections that say nothing stand at every door; returns how many stood at each."""
    lab.start(2)
    crowd, deadline_s = 0, time.monotonic() + 60

    def heard() -> bool:
        return all(lab.node(j).used(k) for j, k in ((1, 2), (3, 2), (2, 1), (2, 3)))

    while not heard() and time.monotonic() < deadline_s:
        with contextlib.ExitStack() as stack:
            for node in HEARERS:
                for _ in range(_IDLE):
                    stack.enter_context(connected(lab.address(node)))
            crowd = max(crowd, _IDLE)
            lab.wait("node 2 through the crowd", heard, 4)  # a node closes silent connections after 5 s
    lab.training(1, 2, 3)
    return crowd


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
    refused = [_refused(evidence, j, 2).get("MalformedFrameError", 0) for j in HEARERS]
    return [
        Observation("endless messages that were cut off", len(done), len(HEARERS), at_least=True),
        Observation("each neighbour's refusals of them", min(refused), 1, at_least=True),
        *_named("endless messages: ", evidence.invariants([1, 3], began_s, degree=2)),
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
            lab.note("asked", kind=what, got=got, since_s=since_s, key=keys.public if keys else "")
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


def _logged(evidence: Evidence, asked: dict[str, object]) -> bool:
    """Whether node 1 told that it refused this one: by its key, where it showed that."""
    since_s = float(str(asked["since_s"]))
    return bool(
        evidence[1].told("key refused", since_s, public_key=asked["key"])
        or evidence[1].told("handshake refused", since_s)
    )


def _pose(lab: Lab, what: str, keys: KeyPair | None, frames: list[bytes]) -> None:
    """Answers in node 4's place, and notes how many neighbours refused that."""
    time.sleep(_ABSENCE_S)
    since_s = lab.note(what)
    with Liar(lab.address(4), keys) as liar:

        def refused() -> list[int]:
            liar.send(frames[0])
            return [j for j in HEARERS if lab.node(j).told("connection rebuilt", since_s, neighbor=4)]

        lab.wait("both refuse", lambda: len(refused()) == len(HEARERS), _TRY_S)
        lab.note("posed", kind=what, refused=len(refused()))


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
        _until_heard(lab, ended_s)
        lab.stop_all()
        evidence = lab.evidence()
    ready_s = _ready_s(evidence, 2)
    return [
        Observation("connections on which recorded bytes were sent again", len(done), _TRIES, at_least=True),
        Observation("recorded frames sent again with the right key", sent, 20, at_least=True),
        Observation("each neighbour's refusals of them, at least", min(_refused(evidence, j, 2).get("StaleError", 0) for j in HEARERS), 10, at_least=True),
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


def _until_heard(lab: Lab, since_s: float) -> None:
    """Waits until its neighbours have heard node 2."""
    lab.wait("node 2 is heard", lambda: all(lab.node(j).heard_after(2, since_s) >= 0 for j in HEARERS), 60)


def _ready_s(evidence: Evidence, node: int) -> float:
    """When the last start of a node was ready."""
    return float(evidence[node].told("node ready")[-1]["unix_s"])


def _refused(evidence: Evidence, node: int, neighbor: int) -> dict[str, int]:
    """Frames of a neighbour that were refused, by the name of the error, as the last line of metrics counts them."""
    found: dict[str, int] = evidence[node].metrics[-1]["refused"].get(str(neighbor), {})
    return found


def _publishes_per_s(evidence: Evidence, node: int) -> float:
    first, last = evidence[node].metrics[0], evidence[node].metrics[-1]
    return float((last["publishes"] - first["publishes"]) / (last["time_s"] - first["time_s"]))


def _named(prefix: str, observations: list[Observation]) -> list[Observation]:
    return [Observation(f"{prefix}{o.what}", o.value, o.limit, o.unit, o.at_least) for o in observations]
