"""One node's life: joins trainer, link, checkpoints and metrics. The only loop; Algorithm 1 itself is in trainer.py.

The main thread runs `Worker.run`; the link's I/O thread owns every socket. They meet in `link.publish` and
`link.latest` alone. In async mode nothing here waits for the network. In lockstep the loop waits before each block
for the neighbours' last one, and saves each block before it publishes it, so that a node killed at any moment can
come back to exactly the state that its neighbours know.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from threading import Event
from typing import Any

import psutil
import torch
from structlog.typing import FilteringBoundLogger
from torch import Tensor

from node import checkpoint, samples
from node.checkpoint import Checkpoint, CheckpointMeta, add_prefix
from node.inputs import check_resumable
from node.metrics import Status, Window, append_metrics
from node.models import Discriminator
from node.neighbors import Arrays, LockstepNeighbors, NewestNeighbors, stack_blocks
from node.publisher import Identity, Publisher
from node.records import CycleRecord
from node.snapshots import to_arrays, to_block
from node.trainer import Trainer
from transport.link import Link

_STATUS_EVERY_S = 1.0
_RETRY_S = (
    5.0  # pause after a checkpoint that the disk refused; shorter where nothing else can be done meanwhile
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GRACE_S = 1.0  # a finished node's last frame has this long to leave
_SAMPLE_SEED = 20201  # every grid of a run shows the same noise
_TRAFFIC = ("bytes_out", "bytes_in", "publishes", "republishes", "subscribers")
_SHOWN = ("d_loss", "g_loss", "cycles_per_s")


class StopRequestedError(Exception):
    """Somebody asked this node to stop; not a failure."""


class Worker:
    """Trains one node from where it stands to the end of the run.

    Args:
        identity: Who this node is.
        trainer: Algorithm 1, freshly initialised.
        neighbors: Line 10's source; None where the policy stands alone.
        link: The exchange with the neighbours; None where the policy stands alone.
        status: status.json.
        log: The node's log.
        stop: Set when the node shall save and stop.

    Attributes:
        follow_peers: Called now and then with who the node is, returns who it is from then on.
    """

    def __init__(
        self,
        identity: Identity,
        trainer: Trainer,
        neighbors: NewestNeighbors | LockstepNeighbors | None,
        link: Link | None,
        status: Status,
        log: FilteringBoundLogger,
        stop: Event,
    ) -> None:
        self._identity = identity
        self._settings = identity.settings
        self._directory = identity.view.directory
        self._trainer = trainer
        self._neighbors = neighbors
        self._link = link
        self._publisher = None if link is None else Publisher(identity, link)
        self._status = status
        self._log = log
        self._stop = stop
        self.follow_peers: Callable[[Identity], Identity] = lambda identity: identity
        self._window = Window()
        self._chosen: Counter[str] = Counter()
        self._weights = trainer.discriminator.state_dict()
        self._published: tuple[Arrays, Arrays] = (to_block(self._weights),) * 2
        self._degraded: dict[str, str] = {}
        self._not_averaged: set[int] = set()
        self._saved_cycle = -1
        self._saved_s = self._began_s = time.monotonic()

    def resume(self, saved: Checkpoint) -> None:
        """Goes back to a checkpoint of this node.

        Raises:
            InputError: It belongs to another run, node or structure, or what training depends on has changed.
        """
        check_resumable(saved, self._identity, self._trainer.cycles)
        self._trainer.load_state(saved.tensors)
        self._chosen = Counter(saved.meta.chosen)
        self._saved_cycle = saved.meta.cycle
        if saved.part("published"):
            self._published = stack_blocks(saved.part("published"))
        if isinstance(self._neighbors, LockstepNeighbors) and saved.part("inputs"):
            self._neighbors.load_state(saved.part("inputs"))

    def run(self) -> None:
        """Trains, publishes and saves until the run's last cycle, then serves neighbours that need longer.

        Raises:
            StopRequestedError: After a checkpoint, where a stop was asked for.
            TrainingError: A loss left the finite numbers.
            NeighborTimeoutError: In lockstep, a neighbour's block did not come.
        """
        self._publish()
        self._report("training", ready=True)
        try:
            while self._trainer.cycle_count < self._trainer.cycles:
                self._heed()
                self._wait_for_block()
                self._average()
                record = self._trainer.cycle(self._read_neighbors)
                self._observe(record)
                self._exchange()
                self._keep()
            self._save_when_there_is_room()
        except StopRequestedError:
            self._save(required=True)
            self._report("stopped")
            raise
        self._report("lingering")
        self._log.info("training finished", cycle=self._trainer.cycle_count, epochs=self._settings.epochs)
        self._linger()
        self._report("lingering")  # with what was heard up to the end

    def _read_neighbors(self) -> Mapping[int, Discriminator]:
        return {} if self._neighbors is None else self._neighbors.discriminators()

    def _average(self) -> None:
        if self._neighbors is not None and self._settings.averages:
            left_out = self._trainer.average(self._neighbors.take_fresh())
            for j in left_out - self._not_averaged:
                self._log.warning("its D is of another structure or far off, and not averaged", neighbor=j)
            self._not_averaged |= left_out

    # Lockstep's blocks -------------------------------------------------------------------------------------------

    @property
    def _lockstep(self) -> bool:
        return isinstance(self._neighbors, LockstepNeighbors)

    def _at_block_end(self) -> bool:
        count = self._trainer.cycle_count
        return count % self._settings.exchange.publish_every_cycles == 0 or count == self._trainer.cycles

    def _block_start(self) -> int:
        """Cycle at which the running block began; the neighbours' blocks in use ended there."""
        length = self._settings.exchange.publish_every_cycles
        return self._trainer.cycle_count // length * length

    def _wait_for_block(self) -> None:
        neighbors, count = self._neighbors, self._trainer.cycle_count
        if isinstance(neighbors, LockstepNeighbors) and count == self._block_start():
            neighbors.begin_block(count)

    # Publishing and saving ---------------------------------------------------------------------------------------

    def _exchange(self) -> None:
        if not self._at_block_end():
            return
        if self._lockstep:
            self._published = (self._published[1], to_block(self._weights))
            self._save_when_there_is_room()
        self._publish()

    def _publish(self) -> None:
        if self._publisher is None:
            return
        count = self._trainer.cycle_count
        done = count == self._trainer.cycles
        if self._lockstep:
            # In mid-block, after a resume, the frame tells of the block's start again.
            self._publisher.publish(self._published, count if done else self._block_start(), done=done)
        else:
            self._publisher.publish((to_arrays(self._weights),), count, done=done)

    def _keep(self) -> None:
        """Checkpoints and sample grids that are due."""
        count, per_epoch = self._trainer.cycle_count, self._trainer.cycles_per_epoch
        epoch, rest = divmod(count, per_epoch)
        every = self._settings.checkpoint
        due = rest == 0 and (epoch % every.every_epochs == 0 or epoch in every.keep_epochs)
        pause_s = min(every.every_s, _RETRY_S) if "checkpoint" in self._degraded else every.every_s
        if due or (not self._lockstep and time.monotonic() - self._saved_s >= pause_s):
            self._save()
        if rest == 0 and (
            epoch % self._settings.output.samples_every_epochs == 0 or epoch == self._settings.epochs
        ):
            self._draw_samples(epoch)

    def _save(self, *, required: bool = False) -> None:
        """Saves the state, once a cycle; a disk that refuses costs the checkpoint and, unless `required`, no more."""
        count = self._trainer.cycle_count
        if count == self._saved_cycle:
            return
        meta = CheckpointMeta(
            run_id=self._identity.view.run_id,
            node_id=self._identity.view.me.id,
            architecture=self._identity.architecture,
            arch_id=self._identity.schema.arch_id,
            image_size=self._settings.image.size,
            image_channels=self._settings.image.channels,
            cycle=count,
            cycles=self._trainer.cycles,
            epoch=self._trainer.epoch,
            epochs=self._settings.epochs,
            finished=count == self._trainer.cycles,
            chosen=dict(self._chosen),
            inputs=dict(self._identity.inputs),
            boot=self._identity.boot,
            saved_at_s=time.time(),
        )
        self._saved_s = time.monotonic()
        with self._degrading("checkpoint", required=required):
            path = checkpoint.save(self._directory, meta, self._state())
            self._saved_cycle = count  # before all else: a checkpoint that is there is not written again
            keep, kept = self._settings.checkpoint, self._trainer.cycles_per_epoch
            checkpoint.prune(self._directory, keep.keep, (epoch * kept for epoch in keep.keep_epochs))
            self._log.debug("checkpoint saved", path=path.name)

    def _save_when_there_is_room(self) -> None:
        """Saves what must not be lost before anything else is done: on a full disk the node waits.

        Raises:
            OSError: The disk refuses for another reason.
            StopRequestedError: Somebody asked for a stop meanwhile.
        """
        while True:
            try:
                return self._save(required=True)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
            self.keep_waiting()
            self._stop.wait(_STATUS_EVERY_S)

    @contextlib.contextmanager
    def _degrading(self, what: str, *, required: bool = False) -> Iterator[None]:
        """A disk that refuses costs what was to be written and a flag in status.json, not the training."""
        try:
            yield
        except OSError as error:
            if self._degraded.get(what) != str(error):
                self._log.error(f"{what} not written", error=str(error))
            self._degraded[what] = str(error)
            if required:
                raise
        else:
            if self._degraded.pop(what, None) is not None:
                self._log.info(f"{what} written again")

    def _state(self) -> dict[str, Tensor]:
        tensors = self._trainer.state()
        if isinstance(self._neighbors, LockstepNeighbors):
            older, newer = self._published
            tensors |= add_prefix(
                {name: torch.tensor(array) for name, array in older.items()}, "published.older"
            )
            tensors |= add_prefix(
                {name: torch.tensor(array) for name, array in newer.items()}, "published.newer"
            )
            tensors |= add_prefix(self._neighbors.state(), "inputs")
        return tensors

    # Reporting ---------------------------------------------------------------------------------------------------

    def _observe(self, record: CycleRecord) -> None:
        readings = {} if self._neighbors is None else self._neighbors.readings
        self._window.add(record, readings)
        if record.exchange is not None and record.exchange.chosen is not None:
            self._chosen[str(record.exchange.chosen)] += 1
        last = record.cycle == self._trainer.cycles
        if len(self._window) >= self._settings.output.metrics_every_cycles or last:
            self._write_metrics()
        self._report("training", every_s=_STATUS_EVERY_S)

    def _write_metrics(self) -> None:
        line = self._window.close()
        extra = {
            "boot": self._identity.boot,
            "time_s": time.monotonic() - self._began_s,
            "unix_s": time.time(),
            **self._traffic(),
            "refused": self._refusals(),
            "resident_bytes": psutil.Process().memory_info().rss,
            **({"insecure": True} if self._identity.insecure else {}),
        }
        with self._degrading("metrics"):
            append_metrics(self._directory / "metrics.jsonl", line | extra)
        self._status.note(**{key: line[key] for key in _SHOWN}, resident_bytes=extra["resident_bytes"])

    def _report(self, state: str, *, every_s: float = 0.0, **changes: Any) -> None:
        """Brings status.json up to date, unless that was done less than `every_s` ago."""
        if not self._status.is_due(every_s):
            return
        trainer = self._trainer
        self._status.update(
            state=state,
            epoch=trainer.epoch,
            epochs=self._settings.epochs,
            cycle=trainer.cycle_count,
            cycles=trainer.cycles,
            chosen=dict(self._chosen),
            neighbors=self._neighbor_status(),
            degraded=dict(self._degraded),
            **self._traffic(),
            **changes,
        )

    def _traffic(self) -> dict[str, int]:
        """What has crossed the link in this boot."""
        if self._link is None:
            return dict.fromkeys(_TRAFFIC, 0)
        found = self._link.statistics()
        return {name: getattr(found, name) for name in _TRAFFIC}

    def _refusals(self) -> dict[str, Mapping[str, int]]:
        """Frames of each neighbour that were refused in this boot, by the name of the error; neighbours with none are left out."""
        if self._link is None:
            return {}
        return {
            str(j): seen.refusals for j, seen in self._link.statistics().neighbors.items() if seen.refusals
        }

    def _neighbor_status(self) -> dict[str, dict[str, Any]]:
        if self._link is None:
            return {}
        now_s, rows = time.monotonic(), {}
        for neighbor_id, seen in self._link.statistics().neighbors.items():
            delivery = self._link.latest(neighbor_id)
            rows[str(neighbor_id)] = {
                "age_s": None if delivery is None else now_s - delivery.arrived_s,
                "silent_s": None if delivery is None else now_s - delivery.heard_s,
                "boot": None if delivery is None else delivery.snapshot.boot,
                "cycle": None if delivery is None else delivery.snapshot.cycle,
                "accepted": seen.accepted,
                "refused": seen.refused,
                "connected": seen.connected,
                "rebuilds": seen.rebuilds,
                "last_refusal": seen.last_refusal,
            }
        return rows

    def _draw_samples(self, epoch: int) -> None:
        noise = torch.Generator().manual_seed(_SAMPLE_SEED)
        count = self._settings.output.sample_images
        z_BZ = torch.randn(count, self._trainer.generator.latent_size, generator=noise).to(
            self._trainer.device
        )
        picture = samples.grid(samples.generate(self._trainer.average_generator, z_BZ))
        with self._degrading("samples"):
            samples.write_png(self._directory / "samples" / f"epoch-{epoch:04d}.png", picture)

    # Stopping ----------------------------------------------------------------------------------------------------

    def _heed(self) -> None:
        """Looks at what was asked of the node from outside: to stop, or to read its peers again."""
        if self._stop.is_set():
            raise StopRequestedError
        self._identity = self.follow_peers(self._identity)

    def keep_waiting(self) -> None:
        """For long waits: keeps status.json fresh and heeds what is asked meanwhile."""
        self._report("training", every_s=_STATUS_EVERY_S)
        self._heed()

    def _linger(self) -> None:
        """Serves the last snapshot until the neighbours have finished too, or `linger_s` has passed."""
        link = self._link
        if link is None:
            return
        began_s = time.monotonic()
        waiting = [peer.id for peer in self._identity.view.neighbors]
        while waiting or time.monotonic() - began_s < _GRACE_S:
            self._report("lingering", every_s=_STATUS_EVERY_S)
            if time.monotonic() - began_s > self._settings.exchange.linger_s:
                self._log.warning("neighbours still at work, leaving all the same", neighbors=waiting)
                return
            if self._stop.wait(0.1):
                return
            self._identity = self.follow_peers(self._identity)
            present = {peer.id for peer in self._identity.view.neighbors}
            heard = {j: link.latest(j) for j in waiting if j in present}
            waiting = [j for j, delivery in heard.items() if delivery is None or not delivery.snapshot.done]
