"""Tiny checkpoints that tests save, and a program that saves them until it is killed.

`python saving.py FOLDER POINT:ACTION:N ...` runs a process for each failpoint and prints how each of them ended.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from node.boots import next_start
from node.checkpoint import CheckpointMeta, prune, save
from node.failpoints import VARIABLE

STEP = 10
KEEP = 2


def meta(cycle: int, boot: int = 1) -> CheckpointMeta:
    """A record for that cycle."""
    return CheckpointMeta(
        run_id="run", node_id=3, architecture="paper", arch_id="paper/20", image_size=20, image_channels=1, cycle=cycle,
        cycles=100, epoch=1, epochs=2, finished=False, chosen={"2": 5}, inputs={}, boot=boot, saved_at_s=1.5,
    )  # fmt: skip


def tensors(cycle: int) -> dict[str, Tensor]:
    """A state that tells its cycle."""
    return {"discriminator.a.b": torch.full((2, 3), float(cycle)), "random.x": torch.arange(4)}


def _save_for_ever(folder: Path) -> None:
    """Starts, saves and prunes; `said` holds the last boot and the last cycle that were promised to be there."""
    cycle = 0
    while True:
        boot = next_start(folder, 0, now_s=0).boot  # the number must grow by the disk alone
        (folder / "said").write_text(f"{boot} {cycle}", encoding="utf-8")
        cycle += STEP
        save(folder, meta(cycle, boot), tensors(cycle))
        (folder / "said").write_text(f"{boot} {cycle}", encoding="utf-8")
        prune(folder, KEEP, [])


def _main(parent: Path, *failpoints: str) -> None:
    ended = {}
    for failpoint in failpoints:
        folder = parent / failpoint
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            os.environ[VARIABLE] = failpoint
            _save_for_ever(folder)
        ended[failpoint] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps(ended))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
