"""`dgan-node --check`: whether this node could start, told item by item; trains nothing and changes nothing on disk.

Every item is looked at, whatever the others gave, so that one call finds all that is to be mended. That a neighbour
does not answer is no fault: it may simply not have been started yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from node.boots import read_start
from node.config import Settings
from node.inputs import (
    architecture_of,
    check_resumable,
    check_unlocked,
    count_cycles,
    digests,
    read_keys,
    read_settings,
    with_image_shape,
)
from node.shards import Shard, load_shard
from topology.errors import InputError
from topology.peers import NodeView, read_peers
from transport.errors import LocalError
from transport.keys import make_keys
from transport.link import Link, LinkSettings
from transport.reach import reach

Reach = Callable[[list[str], float], Mapping[str, str | None]]
State = Literal["ok", "problem", "note"]

_TIMEOUT_S = 3.0
_WRITTEN = ("lock", "log.jsonl", "metrics.jsonl", "checkpoints", "samples")
"""What a node opens to write in its directory; every other file there is replaced as a whole."""

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Finding:
    """What was found of one item.

    Attributes:
        item: Such as `shard`.
        state: `problem` keeps the node from starting, `note` does not.
        text: What was found; of a problem, with what would mend it.
    """

    item: str
    state: State
    text: str

    def __str__(self) -> str:
        return f"{self.item}: {self.state}: {self.text}"


@dataclass(frozen=True)
class Report:
    """Everything that was found.

    Attributes:
        node_id: The node.
        findings: In the order in which they were looked at.
    """

    node_id: int
    findings: tuple[Finding, ...]

    @property
    def can_start(self) -> bool:
        """Whether nothing keeps the node from starting."""
        return all(finding.state != "problem" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The same as an object of plain values."""
        findings = [asdict(finding) for finding in self.findings]
        return {"node_id": self.node_id, "can_start": self.can_start, "findings": findings}


class _Findings(list[Finding]):
    def look(self, item: str, at: Callable[[], _Found], tell: Callable[[_Found], str] = str) -> _Found | None:
        """Takes down what `at` returns, or the problem that it raises."""
        try:
            found = at()
        except (InputError, LocalError, OSError) as error:
            self.append(Finding(item, "problem", str(error)))
            return None
        self.append(Finding(item, "ok", tell(found)))
        return found


def examine(peers_path: Path, node_id: int, reach: Reach = reach, *, insecure: bool = False) -> Report:
    """Looks at everything that a start of the node would need.

    Args:
        peers_path: The peers file.
        node_id: The node.
        reach: Tries to connect to addresses, within so many seconds.
        insecure: Whether it would be started with --insecure, and so without a key.
    """
    found = _Findings()
    view = found.look("peers file", lambda: read_peers(peers_path).view(node_id), _tell_view)
    if view is None:
        return Report(node_id, tuple(found))
    settings = found.look("settings", lambda: read_settings(peers_path, view), _tell_settings)
    shard = found.look("shard", lambda: _shard(view, settings), lambda shard: _tell_shard(view, shard))
    if settings is not None and settings.training.device != "cpu":
        found.look("device", lambda: _device(settings, view))
    _look_at_directory(found, view, settings, shard)
    if settings is not None and settings.stands_alone:
        found.append(
            Finding(
                "key, port, neighbours",
                "ok",
                f"not needed: with policy = {settings.policy} nothing is exchanged",
            )
        )
    else:
        if insecure:
            found.append(
                Finding("key", "note", "not used: --insecure, nothing is encrypted, anybody is let in")
            )
        else:
            found.look("key", lambda: read_keys(view), lambda keys: f"{view.key}: the pair of {keys.public}")
        found.look("port", lambda: _bound(view), lambda address: f"{address} can be listened at")
        _look_at_neighbors(found, view, reach)
    return Report(node_id, tuple(found))


def _tell_view(view: NodeView) -> str:
    neighbors = ", ".join(str(peer.id) for peer in view.neighbors) or "none"
    return f"run {view.run_id}, node {view.me.id}, neighbours {neighbors}"


def _tell_settings(settings: Settings) -> str:
    return f"preset {settings.preset}, policy {settings.policy}, {settings.epochs} epochs"


def _shard(view: NodeView, settings: Settings | None) -> Shard:
    shard = load_shard(view.data)
    if settings is not None:
        with_image_shape(settings, shard, view.data)
        count_cycles(settings, shard, view.me.id)
    return shard


def _tell_shard(view: NodeView, shard: Shard) -> str:
    size, channels = shard.image_shape
    return f"{view.data}: {len(shard)} images of {size}x{size}x{channels}"


def _device(settings: Settings, view: NodeView) -> str:
    from node.hardware import choose_device  # noqa: PLC0415 - torch takes seconds to load

    return f"{settings.training.device} is {choose_device(settings.training.device, view.me.id)}"


def _look_at_directory(
    found: _Findings, view: NodeView, settings: Settings | None, shard: Shard | None
) -> None:
    directory = view.directory
    found.look("directory", lambda: _writable(directory))
    found.look("lock", lambda: check_unlocked(view), lambda _: "no other process runs this node here")
    found.look("starts", lambda: read_start(directory).starts, lambda starts: f"{starts} before this one")
    if not (directory / "checkpoints").is_dir():
        found.append(Finding("checkpoint", "ok", "none yet, the node starts from the beginning"))
    elif settings is None or shard is None:
        found.append(Finding("checkpoint", "note", "not looked at: that needs the settings and the shard"))
    else:
        _look_at_checkpoint(found, view, settings, shard)


def _writable(directory: Path) -> str:
    """Where the node would write.

    Raises:
        InputError: It could not, as this user.
    """
    place = directory
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise InputError(place, "is no directory", f"a directory, for node files in {directory}")
    written = (path for name in _WRITTEN if (path := directory / name).exists())
    for path in (place, *written):
        mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
        if not os.access(path, mode):
            raise InputError(path, "cannot be written by this user", "give it to the user that runs the node")
    return f"{directory} can be {'written' if place == directory else 'made'}"


def _look_at_checkpoint(found: _Findings, view: NodeView, settings: Settings, shard: Shard) -> None:
    # torch takes seconds to load, and a node that never ran needs none of it here.
    from node.checkpoint import Checkpoint, list_checkpoints, load_newest  # noqa: PLC0415
    from node.publisher import Identity  # noqa: PLC0415

    if not list_checkpoints(view.directory):
        found.append(Finding("checkpoint", "ok", "none yet, the node starts from the beginning"))
        return

    def pass_over(_path: Path, reason: str) -> None:
        found.append(Finding("checkpoint", "note", f"would be passed over: {reason}"))

    def resumable() -> Checkpoint:
        saved = load_newest(view.directory, pass_over)
        fitted = with_image_shape(settings, shard, view.data)
        inputs = digests(fitted, shard, view)
        identity = Identity(
            view, fitted, architecture_of(view.me), boot=saved.meta.boot, starts=0, inputs=inputs
        )
        check_resumable(saved, identity, fitted.epochs * count_cycles(fitted, shard, view.me.id))
        return saved

    found.look("checkpoint", resumable, lambda saved: f"{saved.path}: goes on from cycle {saved.meta.cycle}")


def _bound(view: NodeView) -> str:
    """Listens where the node would, for a moment and with a key made for it: nobody is let in."""
    settings = LinkSettings(node_id=view.me.id, bind=view.me.bind_address, keys=make_keys())
    with Link(settings) as link:
        return link.address


def _look_at_neighbors(found: _Findings, view: NodeView, reach: Reach) -> None:
    faults = reach([peer.address for peer in view.neighbors], _TIMEOUT_S)
    for peer in view.neighbors:
        fault = faults[peer.address]
        state: State = "note" if fault else "ok"
        text = f"does not answer ({fault}); the node starts all the same" if fault else "answers"
        found.append(Finding(f"neighbour {peer.id}", state, f"{peer.address} {text}"))
