"""Line 10 of Algorithm 1: the neighbours' discriminators, as they are to be used now.

Two ways to read them, one for each mode:

    async      the newest snapshot that has arrived from each neighbour, if it was vouched for within `max_age_s`
    lockstep   during block r+1 exactly block r of every neighbour; block r ends after r x `publish_every_cycles`
               cycles, block 0 is the initial weights, and a neighbour that has finished counts with its last block

In lockstep nobody can be more than one block ahead of a neighbour, because the next block needs that neighbour's.
A frame carries its publisher's last two blocks, so the one that is wanted is in the newest frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.checkpoint import add_prefix, strip_prefix
from node.models import Discriminator
from node.snapshots import load_arrays
from transport.inbox import Delivery
from transport.wire import Snapshot

Arrays = Mapping[str, NDArray[np.float32]]


class NeighborTimeoutError(RuntimeError):
    """A neighbour's block did not arrive in time; trying again later may help."""


class Latest(Protocol):
    """The receiving door of a link."""

    def __call__(
        self, neighbor_id: int, *, after: tuple[int, int] | None = None, timeout_s: float = 0.0
    ) -> Delivery | None:
        """The newest delivery of a neighbour, or None; with `after`, one newer than that (boot, seq)."""
        ...


@dataclass(frozen=True)
class Reading:
    """How fresh a used snapshot was.

    Attributes:
        age_s: Seconds since it first arrived.
        cycle: Its publisher's cycle.
    """

    age_s: float
    cycle: int


class NewestNeighbors:
    """Async mode: whatever arrived last.

    Args:
        modules: An own copy of each neighbour's discriminator, to load snapshots into.
        latest: The link's receiving door.
        max_age_s: A neighbour silent for longer is left out.
        clock: The clock of the deliveries' times, in seconds.
    """

    def __init__(
        self,
        modules: Mapping[int, Discriminator],
        latest: Latest,
        max_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._modules = dict(modules)
        self._latest = latest
        self._max_age_s = max_age_s
        self._clock = clock
        self._loaded: dict[int, tuple[int, int]] = {}
        self._fresh: set[int] = set()
        self.readings: dict[int, Reading] = {}

    def discriminators(self) -> Mapping[int, Discriminator]:
        """The discriminators of the neighbours that were heard recently, by node id."""
        now_s = self._clock()
        self.readings = {}
        for neighbor_id, module in self._modules.items():
            delivery = self._latest(neighbor_id)
            if delivery is None or now_s - delivery.heard_s > self._max_age_s:
                continue
            key = (delivery.snapshot.boot, delivery.snapshot.seq)
            if self._loaded.get(neighbor_id) != key:
                load_arrays(module, delivery.snapshot.blocks[-1])
                self._loaded[neighbor_id] = key
                self._fresh.add(neighbor_id)
            self.readings[neighbor_id] = Reading(
                max(now_s - delivery.arrived_s, 0.0), delivery.snapshot.cycle
            )
        return {neighbor_id: self._modules[neighbor_id] for neighbor_id in self.readings}

    def take_fresh(self) -> Mapping[int, Discriminator]:
        """Those of them that this process has not taken so since their snapshot came."""
        usable, fresh = self.discriminators(), self._fresh
        self._fresh = fresh - usable.keys()
        return {neighbor_id: module for neighbor_id, module in usable.items() if neighbor_id in fresh}

    def forget(self, gone: Iterable[int], rekeyed: Iterable[int]) -> None:
        """Does without some neighbours, and takes what others send from now on for new."""
        for neighbor_id in gone:
            del self._modules[neighbor_id]
        for neighbor_id in (*gone, *rekeyed):
            self._loaded.pop(neighbor_id, None)
            self._fresh.discard(neighbor_id)


class LockstepNeighbors:
    """Lockstep mode: one given block of every neighbour.

    Args:
        modules: An own copy of each neighbour's discriminator, to load snapshots into.
        latest: The link's receiving door.
        block_cycles: Length of a block in cycles.
        timeout_s: Longest wait for one neighbour's block.
        keep_waiting: Called now and then during a wait; it may raise to end it.
    """

    def __init__(
        self,
        modules: Mapping[int, Discriminator],
        latest: Latest,
        block_cycles: int,
        timeout_s: float,
        keep_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._modules = dict(modules)
        self._latest = latest
        self._block_cycles = block_cycles
        self._timeout_s = timeout_s
        self.keep_waiting = keep_waiting
        self._finished: set[int] = set()
        self._fresh: set[int] = set()
        self.readings: dict[int, Reading] = {}

    def discriminators(self) -> Mapping[int, Discriminator]:
        """The discriminators of all neighbours as the running block uses them, by node id."""
        return self._modules

    def take_fresh(self) -> Mapping[int, Discriminator]:
        """Those of them whose block has come since the last time; no checkpoint is between a block's coming and its first cycle."""
        fresh, self._fresh = self._fresh, set()
        return {neighbor_id: self._modules[neighbor_id] for neighbor_id in sorted(fresh)}

    def begin_block(self, cycle: int) -> None:
        """Waits for the block that ended at `cycle` from every neighbour and takes it into use.

        One that is taken away during the wait is waited for no longer.

        Raises:
            NeighborTimeoutError: One did not come in time.
        """
        for neighbor_id in self._modules.keys() - self._finished:
            found = self._wait_for(neighbor_id, cycle)
            if found is None:
                continue
            delivery, block = found
            load_arrays(self._modules[neighbor_id], block)
            self._fresh.add(neighbor_id)
            age_s = max(time.monotonic() - delivery.arrived_s, 0.0)
            self.readings[neighbor_id] = Reading(age_s, min(delivery.snapshot.cycle, cycle))
            if delivery.snapshot.done and delivery.snapshot.cycle <= cycle:
                # Nothing newer will come, and the neighbour may soon be gone.
                self._finished.add(neighbor_id)

    def forget(self, gone: Iterable[int], rekeyed: Iterable[int]) -> None:
        """Does without some neighbours; of those with another key nothing is kept beside the block in use."""
        for neighbor_id in gone:
            del self._modules[neighbor_id]
            self._fresh.discard(neighbor_id)
            self.readings.pop(neighbor_id, None)
        # That it had finished was said under the old key.
        self._finished -= {*gone, *rekeyed}

    def _wait_for(self, neighbor_id: int, cycle: int) -> tuple[Delivery, Arrays] | None:
        deadline_s = time.monotonic() + self._timeout_s
        while neighbor_id in self._modules:
            # Read anew in each turn: with another key a neighbour's snapshots begin anew.
            delivery = self._latest(neighbor_id)
            block = None if delivery is None else block_at(delivery.snapshot, cycle, self._block_cycles)
            if delivery is not None and block is not None:
                return delivery, block
            if time.monotonic() > deadline_s:
                last = "nothing" if delivery is None else f"cycle {delivery.snapshot.cycle}"
                problem = f"node {neighbor_id} has sent {last}, cycle {cycle} is needed"
                raise NeighborTimeoutError(f"no block within {self._timeout_s:g} s: {problem}")
            after = None if delivery is None else (delivery.snapshot.boot, delivery.snapshot.seq)
            self._latest(neighbor_id, after=after, timeout_s=0.2)
            self.keep_waiting()
        return None

    def state(self) -> dict[str, Tensor]:
        """The blocks in use, and whether they are a neighbour's last.

        A node resumed in mid-block goes on with the same ones, and does not wait for a neighbour that has finished.
        """
        tensors: dict[str, Tensor] = {}
        for neighbor_id, module in self._modules.items():
            tensors |= add_prefix(module.state_dict(), f"{neighbor_id}.block")
            tensors[f"{neighbor_id}.finished"] = torch.tensor(neighbor_id in self._finished)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the blocks of `state` into use again."""
        for neighbor_id, module in self._modules.items():
            module.load_state_dict(strip_prefix(tensors, f"{neighbor_id}.block"))
            if bool(tensors[f"{neighbor_id}.finished"]):
                self._finished.add(neighbor_id)


def block_at(snapshot: Snapshot, cycle: int, block_cycles: int) -> Arrays | None:
    """The weights that the publisher had after `cycle` cycles, or None where the snapshot does not hold them.

    A publisher that has finished before `cycle` counts with its final weights.
    """
    older, newer = snapshot.blocks
    if snapshot.cycle == cycle or (snapshot.done and snapshot.cycle < cycle):
        return newer
    before = max(0, (snapshot.cycle - 1) // block_cycles * block_cycles)
    return older if before == cycle else None


def build_modules(ids_and_modules: Iterable[tuple[int, Discriminator]]) -> dict[int, Discriminator]:
    """Neighbours' discriminators by id, in training mode (batch statistics) and closed to gradients of their weights."""
    modules = {}
    for neighbor_id, module in ids_and_modules:
        modules[neighbor_id] = module.train().requires_grad_(requires_grad=False)
    return modules


def stack_blocks(snapshot_tensors: Mapping[str, Tensor]) -> tuple[Arrays, Arrays]:
    """The two published blocks (older, newer) from a checkpoint's `published` part."""
    older, newer = (
        {name: torch.clone(t).numpy() for name, t in strip_prefix(snapshot_tensors, which).items()}
        for which in ("older", "newer")
    )
    return older, newer
