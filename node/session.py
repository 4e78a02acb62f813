"""From a peers file to a running worker: everything is checked before anything is trained.

A session is one process' hold on a node's directory: it owns the directory's lock, the log, the boot counter and the
link, and turns whatever ends the training into an exit status.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import torch
import xxhash
from structlog.typing import FilteringBoundLogger

from node.boots import next_start
from node.checkpoint import Checkpoint, list_checkpoints, load_newest, set_aside
from node.config import DEFAULT_ARCHITECTURE, Settings, resolve
from node.exits import EXIT_FAILURE, EXIT_OK, EXIT_TEMPORARY
from node.files import make_directory
from node.logs import open_log
from node.metrics import Status
from node.models import Discriminator
from node.neighbors import LockstepNeighbors, NeighborTimeoutError, NewestNeighbors, build_modules
from node.publisher import Identity
from node.shards import Shard, load_shard
from node.snapshots import schema
from node.trainer import Trainer, TrainingError, place
from node.worker import StopRequestedError, Worker
from topology.errors import InputError
from topology.peers import NodeView, Peer
from transport.errors import LocalError
from transport.keys import load_keys
from transport.link import Link, LinkSettings, Neighbor
from transport.wire import Expected


def run_session(view: NodeView, peers_path: Path, stop: Event) -> int:
    """Runs a node until it is done, stopped or beaten, and returns the exit status.

    Args:
        view: The node's place in the graph and its files.
        peers_path: The file that it was read from, for error lines.
        stop: Set when the node shall save and stop.

    Raises:
        InputError: A file or setting is wrong; nothing was trained.
    """
    settings = resolve(peers_path, view.settings)
    shard = load_shard(view.data)
    settings = _with_image_shape(settings, shard, view.data)
    for peer in (view.me, *view.neighbors):
        _check_architecture(peers_path, settings, peer)
    torch.set_num_threads(settings.training.threads)
    # Weights that decay below float32's normal range would slow every convolution down many times.
    torch.set_flush_denormal(True)
    make_directory(view.directory)
    with _locked(view), (view.directory / "log.jsonl").open("a", encoding="utf-8") as file:
        log = open_log(file, view.me.id)
        saved = _newest_checkpoint(view.directory, log)
        start = next_start(view.directory, 0 if saved is None else saved.meta.boot)
        identity = Identity(
            view,
            settings,
            architecture_of(view.me),
            boot=start.boot,
            starts=start.starts,
            inputs=_digests(settings, shard, view),
        )
        return _train(identity, shard, saved, stop, log)


def _train(
    identity: Identity, shard: Shard, saved: Checkpoint | None, stop: Event, log: FilteringBoundLogger
) -> int:
    view, settings = identity.view, identity.settings
    fixed = {
        "run_id": view.run_id,
        "node_id": view.me.id,
        "pid": os.getpid(),
        "boot": identity.boot,
        "starts": identity.starts,
        "error": None,
    }
    status = Status(view.directory / "status.json", fixed)
    epoch, cycle = (0, 0) if saved is None else (saved.meta.epoch, saved.meta.cycle)
    status.update(
        state="starting",
        ready=False,
        epoch=epoch,
        epochs=settings.epochs,
        cycle=cycle,
        neighbors={},
        chosen={},
    )
    try:
        _live(identity, shard, saved, status, stop, log)
    except StopRequestedError:
        log.info("stopped; start again to resume")
        return EXIT_OK
    except InputError as error:
        status.update(state="failed", error=str(error))
        raise
    except (TrainingError, NeighborTimeoutError, LocalError, OSError) as error:
        status.update(state="failed", error=str(error))
        log.error("node failed", error=str(error))  # noqa: TRY400 - the line says it all
        return EXIT_TEMPORARY if isinstance(error, NeighborTimeoutError) else EXIT_FAILURE
    status.update(state="finished")
    return EXIT_OK


def _live(
    identity: Identity,
    shard: Shard,
    saved: Checkpoint | None,
    status: Status,
    stop: Event,
    log: FilteringBoundLogger,
) -> None:
    """The node between its first and its last cycle; the link's lifetime is this call."""
    trainer = Trainer(identity.settings, identity.architecture, identity.view.me.id, shard)
    with contextlib.ExitStack() as stack:
        link = None if identity.settings.policy == "alone" else _open_link(identity, log, stack)
        address = None if link is None else link.address
        worker = _build_worker(identity, trainer, link, status, log, stop)
        if saved is not None:
            worker.resume(saved)
        status.update(address=address)
        log.info(
            "node ready",
            boot=identity.boot,
            starts=identity.starts,
            cycle=trainer.cycle_count,
            images=len(shard),
            address=address,
        )
        worker.run()


def _build_worker(
    identity: Identity,
    trainer: Trainer,
    link: Link | None,
    status: Status,
    log: FilteringBoundLogger,
    stop: Event,
) -> Worker:
    settings = identity.settings
    if link is None:
        return Worker(identity, trainer, None, None, status, log, stop)
    image = settings.image
    modules = build_modules(
        (
            peer.id,
            place(
                Discriminator(settings.architecture[architecture_of(peer)], image.size, image.channels),
                trainer.device,
            ),
        )
        for peer in identity.view.neighbors
    )
    neighbors: LockstepNeighbors | NewestNeighbors
    if settings.lockstep:
        exchange = settings.exchange
        neighbors = LockstepNeighbors(
            modules, link.latest, exchange.publish_every_cycles, exchange.lockstep_timeout_s
        )
    else:
        neighbors = NewestNeighbors(modules, link.latest, settings.cooperation.max_age_s)
    worker = Worker(identity, trainer, neighbors, link, status, log, stop)
    if isinstance(neighbors, LockstepNeighbors):
        neighbors.keep_waiting = worker.keep_waiting
    return worker


def _open_link(identity: Identity, log: FilteringBoundLogger, stack: contextlib.ExitStack) -> Link:
    """The running link; a key file or an address that keeps it from starting is the user's to mend."""
    try:
        return stack.enter_context(Link(link_settings(identity, log)))
    except LocalError as error:
        raise InputError(
            f"node {identity.view.me.id}", str(error), "mend it and start the node again"
        ) from None


def link_settings(identity: Identity, log: FilteringBoundLogger) -> LinkSettings:
    """What the link needs: this node's door, and for each neighbour its address, key and the frames to expect."""
    view, settings = identity.view, identity.settings
    image = settings.image

    def neighbor(peer: Peer) -> Neighbor:
        name = architecture_of(peer)
        expected = Expected(
            run_id=view.run_id,
            node_id=peer.id,
            schema=schema(name, settings.architecture[name], image.size, image.channels),
            blocks=2 if settings.lockstep else 1,
            dtype=settings.exchange.payload,
        )
        return Neighbor(peer.id, peer.address, peer.public_key, expected)

    keys = load_keys(view.key)
    if keys.public != view.me.public_key:
        problem = f"public_key = {keys.public!r} is not node {view.me.id}'s in the peers file"
        raise InputError(view.key, problem, f"the key pair of {view.me.public_key!r}")
    return LinkSettings(
        node_id=view.me.id,
        bind=view.me.bind_address,
        keys=keys,
        neighbors=tuple(neighbor(peer) for peer in view.neighbors),
        republish_s=settings.exchange.republish_s,
        on_event=_event_log(log),
    )


def _digests(settings: Settings, shard: Shard, view: NodeView) -> dict[str, str]:
    """Digests of what a resumed node must find as it was; how often it saves or reports may change, and so may epochs."""
    free: dict[str, Any] = {
        "epochs": True,
        "checkpoint": True,
        "output": True,
        "exchange": {"republish_s", "lockstep_timeout_s", "linger_s"},
        "training": {"device", "threads"},
    }
    neighbors = " ".join(str(peer.id) for peer in view.neighbors)
    parts = {
        "the shard": shard.images.tobytes(),
        "the list of neighbours": neighbors.encode(),
        "a setting that training depends on": settings.model_dump_json(exclude=free).encode(),
    }
    return {name: xxhash.xxh3_128_hexdigest(data) for name, data in parts.items()}


def _event_log(log: FilteringBoundLogger) -> Callable[[str, dict[str, Any]], None]:
    """Logs the link's events: a connection that comes or goes is news, all else is a warning."""

    def write(name: str, fields: dict[str, Any]) -> None:
        level = log.info if name in ("connection_up", "connection_lost") else log.warning
        level(name.replace("_", " "), **fields)

    return write


def architecture_of(peer: Peer) -> str:
    """Name of a peer's architecture."""
    return peer.architecture or DEFAULT_ARCHITECTURE


def _check_architecture(where: Path, settings: Settings, peer: Peer) -> None:
    if architecture_of(peer) not in settings.architecture:
        known = ", ".join(sorted(settings.architecture))
        raise InputError(
            where, f"peer {peer.id}: architecture = {peer.architecture!r} is unknown", f"one of {known}"
        )


def _with_image_shape(settings: Settings, shard: Shard, path: Path) -> Settings:
    """The settings with the image shape filled in from the shard, which must agree where the settings name one."""
    size, channels = shard.image_shape
    wanted = (settings.image.size or size, settings.image.channels or channels)
    if wanted != (size, channels):
        mend = f"image.size = {wanted[0]} and image.channels = {wanted[1]} ask for {wanted[0]}x{wanted[0]}x{wanted[1]}"
        raise InputError(path, f"images are {size}x{size}x{channels}", mend)
    image = settings.image.model_copy(update={"size": size, "channels": channels})
    return settings.model_copy(update={"image": image})


@contextlib.contextmanager
def _locked(view: NodeView) -> Iterator[None]:
    """Holds the node's directory against a second process; the lock goes with the process, however it ends."""
    with (view.directory / "lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            problem = f"another process is running node {view.me.id} here"
            raise InputError(
                view.directory, problem, "stop that one first, or give this one its own directory"
            ) from None
        yield


def _newest_checkpoint(directory: Path, log: FilteringBoundLogger) -> Checkpoint | None:
    if not list_checkpoints(directory):
        return None
    invalid: list[Path] = []

    def pass_over(path: Path, reason: str) -> None:
        log.warning("checkpoint passed over", reason=reason)
        invalid.append(path)

    saved = load_newest(directory, pass_over)
    # Only now: where none is valid, the next start must refuse as this one does, not begin at cycle 0.
    for path in invalid:
        set_aside(path)
    return saved
