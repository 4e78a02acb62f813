"""A neighbour with a valid key whose snapshots are wrong: each is dropped with its reason, and nobody else loses anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from faults.lab import Lab
from faults.strangers import Liar, Listener, forge, header_of, keys_of
from harness import QUICK
from launcher.live import Row, read_status, refusals
from launcher.supervisor import State
from node.config import resolve
from node.snapshots import schema
from topology.graph import ring

HONEST = (1, 3)
LIAR = 2


def first_number(value: float, tensor: str = "") -> Callable[[NDArray[np.float32]], None]:
    """Puts a value in the place of a payload's first number, or of the first one of the first tensor of that name."""
    architecture = resolve("test", QUICK, {}).architecture["paper"]
    at = 0
    for name, shape in schema("paper", architecture, 8, 1).tensors:
        if tensor in name:
            break
        at += int(np.prod(shape))

    def edit(numbers: NDArray[np.float32]) -> None:
        numbers[at] = value

    return edit


def lies(good: bytes) -> Mapping[str, tuple[bytes, str]]:
    """Kind of error -> frame that is right in all but one thing, and words of the reason."""
    newer = header_of(good)["seq"] + 1000
    return {
        "not a number": (forge(good, first_number(np.nan), seq=newer), "with the value nan; every value there is finite"),
        "infinite": (forge(good, first_number(np.inf), seq=newer), "with the value inf; every value there is finite"),
        "negative variance": (
            forge(good, first_number(-1.0, "running_var"), seq=newer),
            "running_var with the value -1.0; every value there is above 0",
        ),
        "another architecture": (forge(good, arch_id="light", seq=newer), "sent arch_id = 'light'"),
        "an old number": (forge(good, first_number(0.5), boot=1), "which is not above the accepted"),
    }  # fmt: skip


def one_frame(lab: Lab) -> bytes:
    """A snapshot of the node that will lie, as it sends it while it is honest."""
    frames: list[bytes] = []
    with Listener(lab.address(LIAR), keys_of(lab.folder, 1), keys_of(lab.folder, LIAR).public) as listener:
        assert lab.wait("a frame", lambda: frames.extend(listener.frames()) or frames)  # type: ignore[func-returns-value]
    return frames[-1]


def last_refusal(lab: Lab, node: int) -> str:
    """What the live table says of the liar under a node's line."""
    row = Row(node, State.RUNNING, 0, read_status(lab.folder / "nodes" / str(node) / "status.json"))
    return "\n".join(refusals([row]))


@pytest.mark.system
def test_what_is_authentic_and_wrong_is_dropped_with_its_reason_and_others_lose_nothing(
    tmp_path: Path,
) -> None:
    """In the log, in the metrics and in the live table; the honest ones train on and hear one another."""
    with Lab(tmp_path / "run", ring(3)) as lab:
        lab.start(*HONEST, LIAR)
        lab.training(*HONEST, LIAR)
        wrong = lies(one_frame(lab))
        lab.kill(LIAR)
        began_s = lab.note("begin")
        with Liar(lab.address(LIAR), keys_of(lab.folder, LIAR)) as liar:
            for what, (frame, words) in wrong.items():

                def told(frame: bytes = frame, words: str = words) -> bool:
                    liar.send(frame)
                    return all(words in last_refusal(lab, node) for node in HONEST)

                assert liar.heard_by(len(HONEST)), what
                assert lab.wait(what, told), (what, [last_refusal(lab, node) for node in HONEST])
            assert lab.wait(
                "frames refused for a flood", lambda: liar.flood([frame], 3000, 0.5) and flooded(lab)
            )
        lab.training(*HONEST)
        lab.stop_all()
        evidence = lab.evidence()
    for node, other in (HONEST, HONEST[::-1]):
        counted = evidence[node].metrics[-1]["refused"]
        assert counted.keys() == {str(LIAR)}
        assert counted[str(LIAR)].keys() == {"BadValueError", "MismatchError", "StaleError", "FloodError"}
        assert evidence[node].arrivals(LIAR, began_s) == 0
        assert evidence[node].heard_after(other, began_s) >= 0
        assert not evidence[node].outbursts()


def flooded(lab: Lab) -> bool:
    """Whether both have put the liar into quarantine, and the live table says so."""
    return all("ignored for 10 s" in last_refusal(lab, node) for node in HONEST)
