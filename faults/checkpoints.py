"""Rows about what is saved: killed in the middle of a save, torn, and a disk that is full."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from faults.evidence import worst
from faults.lab import Lab
from faults.verdicts import Observation, Setting
from node.checkpoint import list_checkpoints, load_newest
from topology.graph import ring

STEPS = ("begun", "half", "written", "synced", "renamed", "durable")
POINTS = (
    *(f"{part}.{step}" for part in ("boot", "tensors", "record") for step in STEPS),
    "prune.begun", "prune.record_gone", "prune.done",
)  # fmt: skip
_QUICK_POINTS = ("tensors.half", "record.written", "prune.record_gone")
_DISK_BYTES = 3_000_000
_OFTEN = {"every_s": 0.3, "every_epochs": 1_000_000, "keep": 2}
_RECOVERS_S = 10.0  # a refused checkpoint is tried again every 5 s


def save(setting: Setting) -> list[Observation]:
    """Row 2: a node is killed at each step of a save, and started again."""
    points = _QUICK_POINTS if setting.quick else POINTS
    with Lab(setting.folder / "run", ring(3), policy="alone", checkpoint=_OFTEN) as lab:
        directory = lab.folder / "nodes" / "1"
        lab.start(1)
        lab.wait("three checkpoints", lambda: len(lab.node(1).saved_cycles()) >= 3)  # noqa: PLR2004 - and one pruned
        lab.kill(1)
        lab.note("left", point="none", code=-signal.SIGKILL, cycle=load_newest(directory).meta.cycle)
        for point in points:
            # A boot number is written once in a start, all else again and again.
            lab.start(1, DGAN_FAILPOINT=f"{point}:kill:{1 if point.startswith('boot') else 2}")
            code = lab.end(1)
            cycle = load_newest(directory).meta.cycle if list_checkpoints(directory) else -1
            lab.note("left", point=point, code=code, cycle=cycle)
        lab.start(1)
        lab.training(1)
        lab.stop_all()
        evidence = lab.evidence()
    left, node = evidence.done("left"), evidence[1]
    saved = list(zip(node.saved_cycles(), node.told("checkpoint saved"), strict=True))
    behind = [
        max([0, *(cycle for cycle, line in saved if line["unix_s"] <= each["unix_s"])]) - each["cycle"]
        for each in left
    ]
    # A node that died while it counted its start never came to be ready; its successor is in the list.
    back = [line["cycle"] for line in node.told("node ready", left[0]["unix_s"])]
    expected = [
        each["cycle"]
        for each, after in zip(left, [*left[1:], {"point": ""}], strict=True)
        if not after["point"].startswith("boot")
    ]
    return [
        Observation("steps at which it was killed", sum(each["code"] == -signal.SIGKILL for each in left[1:]), len(points), at_least=True),
        Observation("starts without a valid checkpoint", sum(each["cycle"] < 0 for each in left), 0),
        Observation("cycles lost of those that were saved", worst(behind), 0),
        Observation("starts that did not go on from the newest valid one", float(sum(a != b for a, b in zip(back, expected, strict=True))), 0),
        Observation("uncaught errors", node.outbursts(), 0),
    ]  # fmt: skip


def torn(setting: Setting) -> list[Observation]:
    """Row 3: the newest checkpoint is cut or has flipped bits; read so many times, and by a node three times."""
    choice = random.Random(setting.seed)
    with Lab(setting.folder / "run", ring(3), policy="alone", checkpoint=_OFTEN) as lab:
        directory = lab.folder / "nodes" / "1"
        lab.start(1)
        lab.wait("three checkpoints", lambda: len(lab.node(1).saved_cycles()) >= 3)  # noqa: PLR2004 - and one pruned
        lab.send(1, signal.SIGTERM)
        lab.end(1)
        undetected = sum(
            not _falls_back(directory, setting.folder / "copy", choice)
            for _ in range(20 if setting.quick else 400)
        )
        for _ in range(1 if setting.quick else 3):
            older, newest = _two_newest(directory)
            lab.note("torn", how=_tear(directory, newest, choice), cycle=older)
            lab.start(1)
            lab.training(1)
            lab.wait("a newer checkpoint", lambda: max(lab.node(1).saved_cycles()[-2:]) > newest)  # noqa: B023 - at once
            lab.send(1, signal.SIGTERM)
            lab.end(1)
        evidence = lab.evidence()
    node, deeds = evidence[1], evidence.done("torn")
    back = [node.told("node ready", each["unix_s"])[0]["cycle"] - each["cycle"] for each in deeds]
    return [
        Observation("torn checkpoints that were taken for whole ones", undetected, 0),
        Observation("starts that did not go on from the one before", sum(map(bool, back)), 0),
        Observation(
            "starts that said so", len(node.told("checkpoint passed over")), len(deeds), at_least=True
        ),
        Observation("uncaught errors", node.outbursts(), 0),
    ]


def _two_newest(directory: Path) -> tuple[int, int]:
    older, newest = sorted(
        int("".join(filter(str.isdigit, path.name))) for path in list_checkpoints(directory)
    )[-2:]
    return older, newest


def _tear(directory: Path, cycle: int, choice: random.Random) -> str:
    """Cuts one of a checkpoint's two files, or flips a bit of it; returns what was done."""
    file = choice.choice(sorted((directory / "checkpoints").glob(f"cycle-{cycle:08d}.*")))
    data = bytearray(file.read_bytes())
    at = choice.randrange(len(data))
    if choice.random() < 0.5:  # noqa: PLR2004 - as often as not
        del data[at:]
    else:
        data[at] ^= 1 << choice.randrange(8)
    file.write_bytes(data)
    return f"{file.name} at {at} of {len(data)}"


def _falls_back(directory: Path, copy: Path, choice: random.Random) -> bool:
    """Whether a torn copy is passed over for the one before, with a reason."""
    shutil.copytree(directory, copy)
    try:
        older, newest = _two_newest(copy)
        _tear(copy, newest, choice)
        reasons: list[str] = []
        loaded = load_newest(copy, lambda _, reason: reasons.append(reason))
        return loaded.meta.cycle == older and bool(reasons)
    finally:
        shutil.rmtree(copy)


def no_small_disk() -> str | None:
    """Why no small disk can be made here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux, to mount a tmpfs"
    with contextlib.suppress(OSError), _small_disk(Path("/tmp") / f"dgan-disk-{os.getpid()}"):  # noqa: S108 - empty, and gone at once
        return None
    return "no tmpfs can be mounted here"


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 3 MB in memory, mounted there.

    Raises:
        OSError: It cannot be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - the system's own


def full(setting: Setting) -> list[Observation]:
    """Row 4: node 2 writes on a disk of 3 MB, which is filled up and has room again later."""
    run = setting.folder / "run"
    with _small_disk(run / "nodes" / "2") as disk, Lab(run, ring(3), checkpoint={"every_s": 1.0}) as lab:
        filler = disk / "filler"
        lab.start(1, 2, 3)
        lab.training(1, 2, 3)
        lab.wait("a checkpoint", lambda: lab.node(2).saved_cycles())
        before = load_newest(disk).meta.cycle
        began_s = lab.note("full")
        lab.wait("the flag", lambda: _fill(filler) and "checkpoint" in lab.status(2).get("degraded", {}))
        first, flag_s = lab.status(2)["cycle"], lab.note("flag")
        lab.wait("100 cycles on a full disk", lambda: _fill(filler) and lab.status(2)["cycle"] > first + 100)
        kept, last = load_newest(disk).meta.cycle, lab.status(2)["cycle"]
        filler.unlink()
        room_s = lab.note("room")
        lab.wait("no flag", lambda: not lab.status(2).get("degraded"))
        well_s = lab.note("well")
        lab.training(1, 2, 3)
        lab.stop_all()
        ended = lab.status(2)["cycle"]
        evidence = lab.evidence()
        return [
            Observation("cycles trained while it was full and said so", last - first, 100, at_least=True),
            Observation("cycles lost of those that were saved", max(0, before - kept), 0),
            Observation("from room to the flag's end", well_s - room_s, _RECOVERS_S, "s"),
            Observation("cycles not in its last checkpoint", ended - load_newest(disk).meta.cycle, 0),
            Observation("its snapshots that each neighbour used while it was full", min(evidence[j].arrivals(2, flag_s, room_s) for j in (1, 3)), 2, at_least=True),
            *evidence.invariants([1, 3], began_s, degree=2),
        ]  # fmt: skip


def _fill(file: Path) -> bool:
    """Leaves no room, however often that takes while a node works."""
    with contextlib.suppress(OSError), file.open("ab", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    return True
