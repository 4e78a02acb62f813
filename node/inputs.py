"""What a node starts from, read and checked: settings, shard, key pair, lock, boot counter, checkpoint.

A session and `dgan-node --check` both come here, so that the one refuses what the other finds wrong. No torch.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from node.config import DEFAULT_ARCHITECTURE, Settings, check_territories, resolve
from node.shards import Shard
from topology.errors import InputError
from topology.peers import NodeView, Peer
from transport.keys import KeyPair, load_keys

if TYPE_CHECKING:
    from node.checkpoint import Checkpoint
    from node.publisher import Identity

NEIGHBORS = "the list of neighbours"
"""The one of `digests` that may shrink; see `check_resumable`."""
_LOCK = "lock"


def read_settings(peers_path: Path, view: NodeView) -> Settings:
    """The run's settings, with the architecture of this node and of each neighbour among them.

    Raises:
        InputError: A setting is wrong, or an architecture unknown.
    """
    settings = resolve(peers_path, view.settings)
    for peer in (view.me, *view.neighbors):
        if architecture_of(peer) not in settings.architecture:
            problem = f"peer {peer.id}: architecture = {peer.architecture!r} is unknown"
            raise InputError(peers_path, problem, f"one of {', '.join(sorted(settings.architecture))}")
    check_territories(peers_path, settings, view.me.id, architecture_of(view.me), len(view.neighbors))
    return settings


def architecture_of(peer: Peer) -> str:
    """Name of a peer's architecture."""
    return peer.architecture or DEFAULT_ARCHITECTURE


def with_image_shape(settings: Settings, shard: Shard, path: Path) -> Settings:
    """The settings with the image shape filled in from the shard, which must agree where the settings name one.

    Raises:
        InputError: It does not.
    """
    size, channels = shard.image_shape
    wanted = (settings.image.size or size, settings.image.channels or channels)
    if wanted != (size, channels):
        mend = f"image.size = {wanted[0]} and image.channels = {wanted[1]} ask for {wanted[0]}x{wanted[0]}x{wanted[1]}"
        raise InputError(path, f"images are {size}x{size}x{channels}", mend)
    image = settings.image.model_copy(update={"size": size, "channels": channels})
    return settings.model_copy(update={"image": image})


def count_cycles(settings: Settings, shard: Shard, node_id: int) -> int:
    """Cycles of an epoch: floor(N / m).

    Raises:
        InputError: The shard is smaller than one batch.
    """
    m = settings.training.batch_size
    if len(shard) < m:
        problem = f"node {node_id}'s shard holds {len(shard)} images"
        raise InputError("training.batch_size", f"{m} is too large, {problem}", f"at most {len(shard)}")
    return len(shard) // m


def read_keys(view: NodeView) -> KeyPair:
    """The node's key pair, which must be the one that its neighbours know it by.

    Raises:
        InputError: The pair is another node's.
        LocalError: The file is missing, readable to others, or holds no pair.
    """
    keys = load_keys(view.key)
    if keys.public != view.me.public_key:
        problem = f"public_key = {keys.public!r} is not node {view.me.id}'s in the peers file"
        raise InputError(view.key, problem, f"the key pair of {view.me.public_key!r}")
    return keys


def digests(settings: Settings, shard: Shard, view: NodeView) -> dict[str, str]:
    """Digests of what a resumed node must find as it was; how often it saves or reports may change, and so may epochs.

    The list of neighbours stands in clear, so that one that was shortened can be told from another list.
    """
    free: dict[str, Any] = {
        "epochs": True,
        "checkpoint": True,
        "output": True,
        "exchange": {"republish_s", "lockstep_timeout_s", "linger_s"},
        "training": {"device", "threads", "cuda_graphs"},
    }
    parts = {
        "the shard": shard.images.tobytes(),
        "a setting that training depends on": settings.model_dump_json(exclude=free).encode(),
    }
    hashed = {name: xxhash.xxh3_128_hexdigest(data) for name, data in parts.items()}
    return {**hashed, NEIGHBORS: neighbor_list(view)}


def neighbor_list(view: NodeView) -> str:
    """The ids of a node's neighbours, as a checkpoint keeps them."""
    return " ".join(str(peer.id) for peer in view.neighbors)


def check_resumable(saved: Checkpoint, identity: Identity, cycles: int) -> None:
    """Refuses a checkpoint that this node cannot go on from.

    A neighbour that was revoked must not cost the others their training: a list of neighbours that has only become
    shorter is no obstacle. Each neighbour's state stands apart in a checkpoint, and what is left over is not read.

    Args:
        saved: The checkpoint.
        identity: The node as it is now.
        cycles: Cycles of the whole run.

    Raises:
        InputError: It belongs to another run, node or structure, or what training depends on has changed.
    """
    expected = {
        "run_id": identity.view.run_id,
        "node_id": identity.view.me.id,
        "arch_id": identity.schema.arch_id,
    }
    for name, value in expected.items():
        if (found := getattr(saved.meta, name)) != value:
            raise InputError(
                saved.path, f"{name} = {found!r}", f"{value!r}, or another directory for this run"
            )
    for name, digest in identity.inputs.items():
        found = saved.meta.inputs.get(name, "")
        if found != digest and not (name == NEIGHBORS and set(digest.split()) <= set(found.split())):
            mend = "undo the change, or give the node another directory to start from the beginning"
            raise InputError(saved.path, f"{name} changed since this checkpoint", mend)
    if saved.meta.cycle > cycles:
        problem = f"{saved.meta.cycle} cycles are done, and epochs = {identity.settings.epochs}"
        raise InputError(saved.path, problem, f"at least {saved.meta.epoch} epochs")


@contextlib.contextmanager
def locked(view: NodeView) -> Iterator[None]:
    """Holds the node's directory against a second process; the lock goes with the process, however it ends.

    Raises:
        InputError: Another process holds it.
    """
    with (view.directory / _LOCK).open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _taken(view) from None
        yield


def check_unlocked(view: NodeView) -> None:
    """Refuses a directory that another process holds; makes no file, and the lock is free again at once.

    Raises:
        InputError: Another process holds it.
    """
    try:
        file = (view.directory / _LOCK).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        try:
            # Shared: two that only look do not find each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            raise _taken(view) from None


def _taken(view: NodeView) -> InputError:
    problem = f"another process is running node {view.me.id} here"
    return InputError(view.directory, problem, "stop that one first, or give this one its own directory")
