"""From a peers file to a running worker: everything is checked before anything is trained.

A session is one process' hold on a node's directory: it owns the directory's lock, the log, the boot counter and the
link, and turns whatever ends the training into an exit status.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from structlog.typing import FilteringBoundLogger

from node.boots import next_start
from node.checkpoint import Checkpoint, list_checkpoints, load_newest, set_aside
from node.exits import EXIT_FAILURE, EXIT_OK, EXIT_TEMPORARY
from node.files import make_directory
from node.hardware import place, prepare_processor
from node.inputs import (
    architecture_of,
    digests,
    locked,
    read_keys,
    read_settings,
    with_image_shape,
)
from node.logs import open_log
from node.metrics import Status
from node.models import Discriminator
from node.neighbors import LockstepNeighbors, NeighborTimeoutError, NewestNeighbors, build_modules
from node.publisher import Identity, neighbor_of
from node.reload import PeersFollower, Requests
from node.shards import Shard, load_shard
from node.trainer import Trainer, TrainingError
from node.worker import StopRequestedError, Worker
from topology.errors import InputError
from topology.peers import NodeView
from transport.errors import LocalError
from transport.link import Link, LinkSettings


def run_session(
    view: NodeView,
    peers_path: Path,
    stop: Event,
    *,
    reload: Event | None = None,
    insecure: bool = False,
) -> int:
    """Runs a node until it is done, stopped or beaten, and returns the exit status.

    Args:
        view: The node's place in the graph and its files.
        peers_path: The file that it was read from, for error lines.
        stop: Set when the node shall save and stop.
        reload: Set when the node shall read the file again.
        insecure: Whether to exchange without CURVE; from the command line alone, never from a file.

    Raises:
        InputError: A file or setting is wrong; nothing was trained.
    """
    settings, shard = read_settings(peers_path, view), load_shard(view.data)
    settings = with_image_shape(settings, shard, view.data)
    prepare_processor(settings.training.threads)
    make_directory(view.directory)
    with locked(view), (view.directory / "log.jsonl").open("a", encoding="utf-8") as file:
        log = open_log(file, view.me.id, insecure=insecure)
        saved = _newest_checkpoint(view.directory, log)
        start = next_start(view.directory, 0 if saved is None else saved.meta.boot)
        identity = Identity(
            view,
            settings,
            architecture_of(view.me),
            boot=start.boot,
            starts=start.starts,
            inputs=digests(settings, shard, view),
            insecure=insecure,
        )
        return _train(identity, shard, saved, Requests(stop, reload or Event(), peers_path), log)


def _train(
    identity: Identity, shard: Shard, saved: Checkpoint | None, requests: Requests, log: FilteringBoundLogger
) -> int:
    view, settings = identity.view, identity.settings
    fixed = {
        "run_id": view.run_id,
        "node_id": view.me.id,
        "pid": os.getpid(),
        "boot": identity.boot,
        "insecure": identity.insecure,
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
        _live(identity, shard, saved, status, requests, log)
    except StopRequestedError:
        log.info("stopped; start again to resume")
        return EXIT_OK
    except InputError as error:
        status.update(state="failed", error=str(error), failure=type(error).__name__)
        raise
    except (TrainingError, NeighborTimeoutError, LocalError, OSError) as error:
        status.update(state="failed", error=str(error), failure=type(error).__name__)
        log.error("node failed", error=str(error))  # noqa: TRY400 - the line says it all
        return EXIT_TEMPORARY if isinstance(error, NeighborTimeoutError) else EXIT_FAILURE
    status.update(state="finished")
    return EXIT_OK


def _live(
    identity: Identity,
    shard: Shard,
    saved: Checkpoint | None,
    status: Status,
    requests: Requests,
    log: FilteringBoundLogger,
) -> None:
    """The node between its first and its last cycle; the link's lifetime is this call."""
    if identity.insecure:
        log.warning("no encryption and no authentication: started with --insecure")
    view = identity.view
    neighbor_ids = [peer.id for peer in view.neighbors]
    trainer = Trainer(identity.settings, identity.architecture, view.me.id, shard, neighbor_ids=neighbor_ids)
    with contextlib.ExitStack() as stack:
        link = None if identity.settings.stands_alone else _open_link(identity, log, stack)
        address = None if link is None else link.address
        worker = _build_worker(identity, trainer, link, status, log, requests)
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
            precision=str(trainer.precision).removeprefix("torch."),
        )
        worker.run()


def _build_worker(
    identity: Identity,
    trainer: Trainer,
    link: Link | None,
    status: Status,
    log: FilteringBoundLogger,
    requests: Requests,
) -> Worker:
    settings = identity.settings
    if link is None:
        worker = Worker(identity, trainer, None, None, status, log, requests.stop)
        worker.follow_peers = PeersFollower(requests, None, None, log)
        return worker
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
    worker = Worker(identity, trainer, neighbors, link, status, log, requests.stop)
    worker.follow_peers = PeersFollower(requests, link, neighbors, log)
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
    return LinkSettings(
        node_id=view.me.id,
        bind=view.me.bind_address,
        keys=None if identity.insecure else read_keys(view),
        neighbors=tuple(neighbor_of(identity, peer) for peer in view.neighbors),
        republish_s=settings.exchange.republish_s,
        on_event=_event_log(log),
        insecure=identity.insecure,
    )


def _event_log(log: FilteringBoundLogger) -> Callable[[str, dict[str, Any]], None]:
    """Logs the link's events: a connection that comes or goes is news, all else is a warning."""

    def write(name: str, fields: dict[str, Any]) -> None:
        level = log.info if name in ("connection_up", "connection_lost") else log.warning
        level(name.replace("_", " "), **fields)

    return write


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
