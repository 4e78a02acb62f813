"""Which discriminators a cycle may use: newest in async mode, one given block in lockstep."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from node.config import Architecture
from node.hardware import place
from node.models import Discriminator
from node.neighbors import LockstepNeighbors, NeighborTimeoutError, NewestNeighbors, block_at, build_modules
from node.snapshots import fetch, load_arrays, schema, send, to_arrays
from transport.inbox import Delivery
from transport.wire import Snapshot

SMALL = Architecture(discriminator_widths=(3,))
SCHEMA = schema("small", SMALL, 8, 1)


def arrays(value: float) -> dict[str, np.ndarray]:
    """Weights that all hold one value."""
    return {name: np.full(shape, value, np.float32) for name, shape in SCHEMA.tensors}


def snapshot(cycle: int, *values: float, seq: int = 1, done: bool = False) -> Snapshot:
    """A snapshot of node 2."""
    blocks = tuple(arrays(value) for value in values)
    return Snapshot("run", 2, SCHEMA.arch_id, 1, seq, cycle, done, blocks)


def modules() -> dict[int, Discriminator]:
    """An own copy for neighbour 2."""
    return build_modules([(2, Discriminator(SMALL, 8, 1))])


def value(discriminator: Discriminator) -> float:
    """The value that all of its weights hold."""
    found = {float(v) for tensor in discriminator.state_dict().values() for v in tensor.unique()}
    assert len(found) == 1
    return found.pop()


class Post:
    """Stands for the link's receiving door: deliveries are put in by hand."""

    def __init__(self, *deliveries: Delivery | None) -> None:
        self.queue = list(deliveries)

    def __call__(
        self, neighbor_id: int, *, after: tuple[int, int] | None = None, timeout_s: float = 0.0
    ) -> Delivery | None:
        """The next delivery, the last one again and again."""
        del neighbor_id, after, timeout_s
        return self.queue.pop(0) if len(self.queue) > 1 else self.queue[0]


def test_a_neighbour_that_never_spoke_is_no_candidate() -> None:
    """So that the trainer can skip the step."""
    assert NewestNeighbors(modules(), Post(None), 60, lambda: 0.0).discriminators() == {}


def test_the_newest_snapshot_is_loaded_with_its_age() -> None:
    """The age counts from its first arrival, usability from when the neighbour was last heard."""
    post = Post(Delivery(snapshot(40, 0.5), arrived_s=100, heard_s=150))
    neighbors = NewestNeighbors(modules(), post, 60, lambda: 170.0)
    assert value(neighbors.discriminators()[2]) == 0.5
    assert (neighbors.readings[2].age_s, neighbors.readings[2].cycle) == (70, 40)


def test_a_silent_neighbour_is_left_out_until_it_speaks_again() -> None:
    """Beyond max_age_s of the receiver's own clock."""
    old, new = Delivery(snapshot(40, 0.5), 100, 100), Delivery(snapshot(50, 0.7, seq=2), 161, 161)
    neighbors = NewestNeighbors(modules(), Post(old, new), 60, lambda: 161.0)
    assert neighbors.discriminators() == {}
    assert value(neighbors.discriminators()[2]) == pytest.approx(0.7)


def test_a_frame_holds_the_publishers_last_two_blocks() -> None:
    """After 30 cycles in blocks of 10: those that ended at 20 and at 30; after 33 of 33: at 30 and at 33."""
    assert block_at(snapshot(30, 0.2, 0.3), 30, 10) is not None
    wanted: dict[int, float | None] = {10: None, 20: 0.2, 30: 0.3, 40: None}
    for cycle, expected in wanted.items():
        found = block_at(snapshot(30, 0.2, 0.3), cycle, 10)
        assert (None if found is None else float(next(iter(found.values())).flat[0])) == (
            None if expected is None else pytest.approx(expected)
        )
    last = snapshot(33, 0.3, 0.33, done=True)
    for cycle, expected in {30: 0.3, 33: 0.33, 40: 0.33, 90: 0.33}.items():
        found = block_at(last, cycle, 10)
        assert found is not None
        assert float(next(iter(found.values())).flat[0]) == pytest.approx(expected)
    assert block_at(snapshot(0, 0.1, 0.1), 0, 10) is not None


def test_lockstep_waits_for_exactly_the_block_it_needs() -> None:
    """An older frame is not taken, and neither is the newer block of a frame that is one ahead."""
    post = Post(Delivery(snapshot(10, 0.0, 0.1), 1, 1), None, Delivery(snapshot(30, 0.2, 0.3, seq=2), 2, 2))
    neighbors = LockstepNeighbors(modules(), post, 10, timeout_s=5)
    neighbors.begin_block(20)
    assert value(neighbors.discriminators()[2]) == pytest.approx(0.2)


def test_lockstep_gives_up_after_its_time() -> None:
    """The line says what came and what was needed."""
    post = Post(Delivery(snapshot(10, 0.0, 0.1), 1, 1))
    neighbors = LockstepNeighbors(modules(), post, 10, timeout_s=0)
    with pytest.raises(NeighborTimeoutError, match="node 2 has sent cycle 10, cycle 20 is needed"):
        neighbors.begin_block(20)


def test_lockstep_state_brings_the_blocks_back() -> None:
    """A node resumed in mid-block goes on with the ones it had."""
    first, second = (
        LockstepNeighbors(modules(), Post(Delivery(snapshot(0, 0.4, 0.4), 1, 1)), 10, 1) for _ in range(2)
    )
    first.begin_block(0)
    second.load_state(first.state())
    assert value(second.discriminators()[2]) == pytest.approx(0.4)


def test_lockstep_does_not_wait_for_a_neighbour_that_has_finished_and_gone() -> None:
    """Its last block counts for good, also for a node that is resumed after it left."""
    last = Delivery(snapshot(20, 0.1, 0.2, seq=3, done=True), 1, 1)
    first = LockstepNeighbors(modules(), Post(last), 10, timeout_s=0)
    first.begin_block(20)
    resumed = LockstepNeighbors(modules(), Post(None), 10, timeout_s=0)
    resumed.load_state(first.state())
    resumed.begin_block(30)
    assert value(resumed.discriminators()[2]) == pytest.approx(0.2)


def test_lockstep_goes_on_waiting_for_a_neighbour_whose_last_block_is_not_needed_yet() -> None:
    """It has finished at 20, and the block that ended at 10 is in use: there is one more to come."""
    last = Delivery(snapshot(20, 0.1, 0.2, seq=3, done=True), 1, 1)
    neighbors = LockstepNeighbors(modules(), Post(last), 10, timeout_s=0)
    neighbors.begin_block(10)
    assert value(neighbors.discriminators()[2]) == pytest.approx(0.1)
    neighbors.begin_block(20)
    assert value(neighbors.discriminators()[2]) == pytest.approx(0.2)


def test_a_neighbour_that_is_gone_is_no_candidate_and_not_waited_for() -> None:
    """In both modes; in lockstep even where it is taken away during the wait for it."""
    heard = Delivery(snapshot(10, 0.0, 0.1), 1, 1)
    newest = NewestNeighbors(modules(), Post(heard), 60, lambda: 1.0)
    assert newest.discriminators().keys() == {2}
    newest.forget([2], [])
    assert newest.discriminators() == {}

    lockstep = LockstepNeighbors(modules(), Post(heard), 10, timeout_s=60)
    lockstep.keep_waiting = lambda: lockstep.forget([2], [])
    lockstep.begin_block(20)
    assert lockstep.discriminators() == {}
    assert lockstep.state() == {}


def test_what_a_neighbour_said_under_another_key_is_forgotten() -> None:
    """The same (boot, seq) is loaded anew, and it is not finished any more only because the old key said so."""
    one, other = snapshot(10, 0.5), snapshot(10, 0.7)
    newest = NewestNeighbors(modules(), Post(Delivery(one, 1, 1), Delivery(other, 1, 1)), 60, lambda: 1.0)
    assert value(newest.discriminators()[2]) == 0.5
    newest.forget([], [2])
    assert value(newest.discriminators()[2]) == pytest.approx(0.7)

    lockstep = LockstepNeighbors(modules(), Post(Delivery(snapshot(20, 0.1, 0.2, done=True), 1, 1)), 10, 0)
    lockstep.begin_block(20)
    lockstep.begin_block(30)
    assert bool(lockstep.state()["2.finished"])
    lockstep.forget([], [2])
    assert not bool(lockstep.state()["2.finished"])
    assert value(lockstep.discriminators()[2]) == pytest.approx(0.2)


def test_a_snapshot_of_a_discriminator_loads_into_another_bit_for_bit() -> None:
    """Weights and running statistics; a dead channel's variance is published above 0."""
    source, target = Discriminator(SMALL, 8, 1), Discriminator(SMALL, 8, 1)
    source(torch.randn(4, 1, 8, 8), track=True)
    load_arrays(target, to_arrays(source.state_dict()))
    states: tuple[Mapping[str, torch.Tensor], ...] = (source.state_dict(), target.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    source.get_submodule("norms.0").get_buffer("running_var").zero_()
    assert float(to_arrays(source.state_dict())["norms.0.running_var"].min()) > 0


def test_weights_go_to_a_device_and_come_back_in_one_piece() -> None:
    """As for a GPU, in whatever order the numbers lie in memory; what came back stays as it is."""
    source, target = (place(Discriminator(SMALL, 8, 1), torch.device("cpu")) for _ in range(2))
    source(torch.randn(4, 1, 8, 8), track=True)
    there, here = source.state_dict(), target.state_dict()
    arrays = fetch(there)
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in there.items())
    send(here, arrays)
    assert all(torch.equal(there[name], here[name]) for name in there)
    before = {name: array.copy() for name, array in arrays.items()}
    for tensor in there.values():
        tensor.add_(1)
    assert all(np.array_equal(arrays[name], before[name]) for name in before)


def test_the_schema_names_variances_as_positive_and_structures_differ_by_id() -> None:
    """Another width, size or slope is another arch_id."""
    assert SCHEMA.positive == {"norms.0.running_var", "norms.1.running_var"}
    others = [
        schema("small", Architecture(discriminator_widths=(4,)), 8, 1),
        schema("small", SMALL, 16, 1),
        schema("small", SMALL.model_copy(update={"slope": 0.1}), 8, 1),
    ]
    assert len({SCHEMA.arch_id, *(other.arch_id for other in others)}) == 4


def test_a_snapshot_is_fresh_once() -> None:
    """In both modes, and again when the next one has come; a finished neighbour's last block is not averaged for ever."""
    first, second = Delivery(snapshot(40, 0.5), 1, 1), Delivery(snapshot(50, 0.7, seq=2), 2, 2)
    newest = NewestNeighbors(modules(), Post(first, first, second), 60, lambda: 2.0)
    assert [newest.take_fresh().keys() for _ in range(4)] == [{2}, set(), {2}, set()]
    last = Delivery(snapshot(20, 0.1, 0.2, seq=3, done=True), 1, 1)
    lockstep = LockstepNeighbors(modules(), Post(last), 10, timeout_s=0)
    for cycle, expected in ((10, {2}), (20, {2}), (30, set())):
        lockstep.begin_block(cycle)
        assert lockstep.take_fresh().keys() == expected
        assert lockstep.take_fresh() == {}


def test_what_came_under_another_key_or_from_one_that_is_gone_is_not_fresh() -> None:
    """In both modes."""
    heard = Delivery(snapshot(10, 0.0, 0.1), 1, 1)
    for gone, rekeyed in (([2], []), ([], [2])):
        newest = NewestNeighbors(modules(), Post(heard, None), 60, lambda: 1.0)
        newest.discriminators()
        newest.forget(gone, rekeyed)
        assert newest.take_fresh() == {}
    lockstep = LockstepNeighbors(modules(), Post(heard), 10, timeout_s=0)
    lockstep.begin_block(10)
    lockstep.forget([2], [])
    assert lockstep.take_fresh() == {}


def test_what_a_silent_neighbour_sent_is_fresh_when_it_is_heard_again() -> None:
    """And what was read by line 10 in the meantime counts all the same."""
    silent, heard = Delivery(snapshot(40, 0.5), 1, 1), Delivery(snapshot(40, 0.5), 1, 100)
    now = iter((1.0, 100.0, 100.0, 100.0))
    newest = NewestNeighbors(modules(), Post(silent, silent, heard), 60, lambda: next(now))
    assert newest.discriminators().keys() == {2}
    assert [newest.take_fresh().keys() for _ in range(3)] == [set(), {2}, set()]
