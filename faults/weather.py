"""Row 12: a bad line, by a relay: late, in slices, and with changed bits."""

from __future__ import annotations

import math
import time

from faults.evidence import NodeEvidence, worst
from faults.lab import HEARERS, Lab
from faults.verdicts import Observation, Setting, named
from relay import FINE, Weather
from topology.graph import ring

_FLIP_EVERY_BYTES = 5_000  # about one in every frame
_REBUILT_S = 10.0


def bad_line(setting: Setting) -> list[Observation]:
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
        lab.until_heard(2, HEARERS, fine_s)
        lab.stop_all()
        evidence, flips = lab.evidence(), lab.relays[2].flips
    arrived = [evidence[j].arrivals(2, late_s + 1, flips_s) for j in HEARERS]
    # Under CURVE a changed bit breaks the protocol; a connection that only closes is lost.
    ends = [(j, end_s) for j in HEARERS for end_s in evidence[j].ends(2, flips_s, fine_s)]
    return [
        Observation("snapshots of node 2 that each neighbour used in late and sliced traffic", min(arrived), seconds - 1, at_least=True),
        Observation("bits flipped", flips, seconds, at_least=True),
        Observation("ends of connections that it brought about", len(ends), 2, at_least=True),
        Observation("from an end to the next connection or snapshot, worst", worst(_back(evidence[j], end_s) for j, end_s in ends), _REBUILT_S, "s"),
        Observation("a snapshot after the last flip, worst", worst(evidence[j].heard_after(2, fine_s) for j in HEARERS), _REBUILT_S, "s"),
        *_flips_without_encryption(setting, seconds),
        *evidence.invariants([1, 3], late_s, degree=2),
    ]  # fmt: skip


def _back(node: NodeEvidence, end_s: float) -> float:
    """Seconds from the end of a connection to node 2 to the next one, which the log tells of or which a snapshot proves."""
    ups = [float(line["unix_s"]) for line in node.told("connection up", end_s, neighbor=2)]
    arrived = [at_s for _, at_s in node.used(2) if at_s >= end_s]
    return min([*ups, *arrived], default=math.nan) - end_s


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
    refused = [evidence[j].refused(2, "DigestError") for j in HEARERS]
    return [
        Observation("without encryption: frames refused for their digest", sum(refused), 1, at_least=True),
        *named("without encryption", evidence.invariants([1, 3], began_s, degree=2)),
    ]
