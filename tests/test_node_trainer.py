"""Algorithm 1, line by line."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from node import trainer as module
from node.losses import discriminator_loss, loss_threshold
from node.models import Discriminator
from node.selection import CRITERIA
from node.trainer import TrainingError
from recording import record
from topology.errors import InputError
from trainers import always, build, nobody, same, weights


def test_the_threshold_falls_as_1_over_n() -> None:
    """Section 4: from its initial value, with n the epoch."""
    assert [loss_threshold(1.2, n) for n in (1, 2, 3, 4)] == pytest.approx([1.2, 0.6, 0.4, 0.3])


def test_an_epoch_is_floor_n_over_m_cycles() -> None:
    """40 images in batches of 10 are 4 cycles, whatever the inner loop does; the threshold follows the epoch."""
    node = build(policy="alone", discriminator={"loss_threshold": 1.2, "max_steps": 2})
    records = [node.cycle(nobody) for _ in range(node.cycles)]
    assert node.cycles == 12
    assert [record.epoch for record in records] == [1] * 4 + [2] * 4 + [3] * 4
    assert [record.loss_threshold for record in records[::4]] == pytest.approx([1.2, 0.6, 0.4])


def test_the_inner_loop_ends_at_its_cap_and_says_so() -> None:
    """A threshold that no loss reaches: exactly max_steps steps."""
    record = build(policy="alone", discriminator={"loss_threshold": 1e-6, "max_steps": 4}).cycle(nobody)
    assert (record.inner_steps, record.cap_hit) == (4, True)


def test_a_discriminator_that_is_ahead_waits_for_the_generator() -> None:
    """A threshold above every loss: D is looked at in every cycle and stays as it is, momentum and all; G learns."""
    node = build(policy="alone", discriminator={"loss_threshold": 1e6, "max_steps": 4})
    d, g = ([p.detach().clone() for p in net.parameters()] for net in (node.discriminator, node.generator))
    records = [node.cycle(nobody) for _ in range(3)]
    assert [(record.inner_steps, record.cap_hit) for record in records] == [(0, False)] * 3
    assert len({record.d_loss for record in records}) == 3
    assert all(map(torch.equal, d, node.discriminator.parameters()))
    assert not any(map(torch.equal, g, node.generator.parameters()))
    assert not any(moment.any() for moment in node.d_optimizer.state().values())


def test_the_inner_loop_ends_where_the_loss_falls_to_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line 2: two batches above it ask for a step each, the third for none, whatever the cap."""
    node, losses = (
        build(policy="alone", discriminator={"loss_threshold": 1.0, "max_steps": 9}),
        iter([1.4, 1.1, 1.0]),
    )
    monkeypatch.setattr(node, "_update_discriminator", lambda *_: next(losses))
    record = node.cycle(nobody)
    assert (record.inner_steps, record.d_loss, record.cap_hit) == (2, 1.0, False)


def test_batches_are_all_real_or_all_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: D sees the shard's images and G's images in separate calls, each labelled as one kind."""
    node = build(policy="alone", discriminator={"label_noise": 0.0, "max_steps": 1})
    real, seen = [], []
    sample, judge = node.batches.sample, node._judge

    def sampling() -> torch.Tensor:
        real.append(sample())
        return real[-1]

    def judging(d: Discriminator, images: torch.Tensor, **options: bool) -> torch.Tensor:
        seen.append(images)
        return judge(d, images, **options)

    labels: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        labels.append(given)
        return discriminator_loss(logits, given)

    monkeypatch.setattr(node.batches, "sample", sampling)
    monkeypatch.setattr(node, "_judge", judging)
    monkeypatch.setattr(module, "discriminator_loss", loss)
    node.cycle(nobody)
    assert torch.equal(seen[0], real[0])
    assert not any(torch.equal(image, r) for image in seen[1] for r in real[0])
    assert [set(given.tolist()) for given in labels] == [{1.0}, {0.0}]


def test_line_5_changes_only_d_and_line_8_changes_only_g() -> None:
    """The running statistics of D follow real images and stay put while G learns."""
    node = build(policy="alone")
    g, d = weights(node.generator), weights(node.discriminator)
    node._update_discriminator(node.batches.sample(), node.sample_noise(), 0.0)
    assert same(weights(node.generator), g)
    assert not same(weights(node.discriminator), d)
    d = weights(node.discriminator)
    node._update_generator(node.sample_noise(), node.discriminator)
    assert same(weights(node.discriminator), d)
    assert not same(weights(node.generator), g)


def test_d_descends_its_loss_and_g_its_own() -> None:
    """Repeated steps against a fixed opponent bring each loss down."""
    node = build(policy="alone", discriminator={"label_noise": 0.0})
    images, noise = node.batches.sample(), node.sample_noise()
    d_losses = [node._update_discriminator(images, noise, 0.0) for _ in range(30)]
    g_losses = [node._update_generator(noise, node.discriminator) for _ in range(30)]
    assert d_losses[-1] < d_losses[0]
    assert g_losses[-1] < g_losses[0]


@pytest.mark.parametrize("policy", ["uniform", "info-gain"])
def test_a_neighbours_discriminator_is_unchanged_by_use(policy: str) -> None:
    """Weights, running statistics and gradients alike."""
    node, other = build(**always(policy)), build(node_id=2).discriminator
    before = weights(other)
    for _ in range(3):
        record = node.cycle(lambda: {2: other})
        assert record.exchange is not None
        assert record.exchange.chosen == 2
    assert same(weights(other), before)
    assert all(parameter.grad is None for parameter in other.parameters())


def test_with_no_candidate_the_second_step_is_skipped_and_recorded() -> None:
    """G is then where a node alone would be."""
    alone, lonely = build(policy="alone"), build(**always("info-gain"))
    alone.cycle(nobody)
    record = lonely.cycle(nobody)
    assert record.exchange is not None
    assert record.exchange.chosen is None
    assert same(weights(alone.generator), weights(lonely.generator))


def test_a_neighbour_adds_one_generator_step() -> None:
    """Line 12 moves G beyond line 8, and D not at all."""
    alone, listening = build(policy="alone"), build(**always("uniform"))
    other = build(node_id=2).discriminator
    alone.cycle(nobody)
    listening.cycle(lambda: {2: other})
    assert same(weights(alone.discriminator), weights(listening.discriminator))
    assert not same(weights(alone.generator), weights(listening.generator))


def test_neighbours_are_read_only_when_line_9_says_so() -> None:
    """`alone` never reads, probability 0 never reads, 0.5 reads about every second cycle."""
    calls = 0

    def reading() -> Mapping[int, Discriminator]:
        nonlocal calls
        calls += 1
        return {}

    for tables in ({"policy": "alone"}, {"policy": "uniform", "cooperation": {"consider_probability": 0.0}}):
        build(**tables).cycle(reading)
    assert calls == 0
    node = build(policy="uniform", discriminator={"max_steps": 1})
    records = [node.cycle(reading) for _ in range(12)]
    assert calls == sum(record.exchange is not None for record in records)
    assert (
        900 <= sum(node._consider_neighbors() for _ in range(2000)) <= 1100
    )  # 4.5 standard deviations around 1000


def test_selection_uses_the_noise_of_line_7_through_the_updated_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P6: Eq. (6) sees G(z) with the z of line 8's step, after that step."""
    endless = {"loss_threshold": 1e-6, "max_steps": 2}
    node, other = build(**always("info-gain"), discriminator=endless), build(node_id=2).discriminator
    noise, judged = [], []
    sample, judge = node.sample_noise, node._judge

    def sampling() -> torch.Tensor:
        noise.append(sample())
        return noise[-1]

    def judging(d: Discriminator, images: torch.Tensor, **options: bool) -> torch.Tensor:
        if d is other and not judged:
            judged.append(images.detach().clone())
            judged.append(node.generate(noise[-1], track=False).detach())
        return judge(d, images, **options)

    monkeypatch.setattr(node, "sample_noise", sampling)
    monkeypatch.setattr(node, "_judge", judging)
    record = node.cycle(lambda: {2: other})
    assert len(noise) == record.inner_steps + 1 == 3
    torch.testing.assert_close(judged[0], judged[1])


def test_information_gain_prefers_the_deviating_neighbour() -> None:
    """One neighbour equals the own D and diverges by 0: the other is always chosen."""
    node, other = build(**always("info-gain", criterion="bernoulli")), build(node_id=2).discriminator
    for _ in range(5):
        record = node.cycle(lambda: {4: node.discriminator, 7: other})
        assert record.exchange is not None
        assert record.exchange.divergences[4] == pytest.approx(0, abs=1e-9)
        assert record.exchange.chosen == 7


def test_a_neighbour_that_answers_without_finite_numbers_is_no_candidate() -> None:
    """It costs that exchange a candidate, not the node its generator."""
    node, bad, good = (
        build(**always("info-gain")),
        build(node_id=2).discriminator,
        build(node_id=3).discriminator,
    )
    with torch.no_grad():
        for parameter in bad.parameters():
            parameter.fill_(float("inf"))
    record = node.cycle(lambda: {2: bad, 3: good})
    assert record.exchange is not None
    assert record.exchange.chosen == 3
    assert all(bool(tensor.isfinite().all()) for tensor in node.generator.state_dict().values())
    uniform = build(**always("uniform"))
    for _ in range(3):
        exchange = uniform.cycle(lambda: {2: bad}).exchange
        assert exchange is not None
        assert exchange.chosen is None
    assert all(bool(tensor.isfinite().all()) for tensor in uniform.generator.state_dict().values())


def test_where_no_neighbour_answers_with_finite_numbers_the_second_step_is_skipped() -> None:
    """As if nobody had sent anything."""
    alone, listening, bad = (
        build(policy="alone"),
        build(**always("info-gain")),
        build(node_id=2).discriminator,
    )
    with torch.no_grad():
        for parameter in bad.parameters():
            parameter.fill_(float("nan"))
    alone.cycle(nobody)
    exchange = listening.cycle(lambda: {2: bad, 3: bad}).exchange
    assert exchange is not None
    assert (exchange.chosen, exchange.divergences) == (None, {})
    pairs = zip(alone.generator.parameters(), listening.generator.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_policies_start_from_equal_weights_and_see_equal_images() -> None:
    """Everything but the selection is identical between the settings that are compared (P7)."""
    nodes = [build(**always(policy)) for policy in ("alone", "uniform", "info-gain")]
    other = build(node_id=2).discriminator
    for node in nodes:
        for _ in range(3):
            node.cycle(lambda: {2: other})
    states = [node.batches.state() for node in nodes]
    assert same(states[0], states[1])
    assert same(states[1], states[2])
    assert not same(weights(build(node_id=2).generator), weights(build().generator))


def test_a_restored_state_continues_bit_for_bit() -> None:
    """Weights, optimiser moments and random streams, through another object."""
    other = build(node_id=2).discriminator
    straight, first, second = (build(**always("info-gain")) for _ in range(3))
    for _ in range(6):
        straight.cycle(lambda: {2: other})
    for _ in range(3):
        first.cycle(lambda: {2: other})
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for _ in range(3):
        second.cycle(lambda: {2: other})
    assert same(straight.state(), second.state())


def test_a_shard_smaller_than_a_batch_is_refused() -> None:
    """The line names both numbers."""
    with pytest.raises(InputError, match="40"):
        build(training={"batch_size": 41})


def test_a_loss_that_is_not_finite_ends_training() -> None:
    """The newest checkpoint stays the last word."""
    endless = {"loss_threshold": 1e-6, "max_steps": 3}
    node = build(policy="alone", discriminator={"learning_rate": 1e30, **endless})
    with pytest.raises(TrainingError, match="loss of D"):
        deque((node.cycle(nobody) for _ in range(4)), maxlen=0)


def test_an_infinite_loss_of_d_is_not_covered_by_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner loop goes on while the loss is large, and infinity is."""
    node, losses = build(policy="alone", discriminator={"max_steps": 3}), iter([float("inf"), 0.1])
    monkeypatch.setattr(node, "_update_discriminator", lambda *_: next(losses))
    with pytest.raises(TrainingError, match="loss of D inf"):
        node.cycle(nobody)


def test_a_state_that_is_not_finite_is_not_handed_out() -> None:
    """Training would be over at the next cycle; a checkpoint of it would be worth less than the one before."""
    node = build(policy="alone")
    with torch.no_grad():
        next(node.generator.parameters())[0] = float("inf")
    with pytest.raises(TrainingError, match=r"cycle 0: .* is not finite; lower the learning rates"):
        node.state()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("policy", ["alone", "uniform", "info-gain", "territories"])
def test_a_recorded_node_learns_what_one_that_calls_everything_learns(policy: str, precision: str) -> None:
    """Bit for bit, as a GPU replays: neighbours' snapshots arrive in mid-run, another neighbour appears, a state is loaded."""
    tables = always(policy) | {"discriminator": {"max_steps": 2}, "training": {"precision": precision}}
    tables |= {"generator": {"ema_decay": 0.9}}
    plain, recorded = build(**tables), build(recorder=record, **tables)
    others = {j: build(node_id=j).discriminator.requires_grad_(requires_grad=False) for j in (2, 3, 4)}
    saved: dict[str, torch.Tensor] = {}
    for cycle, ids in enumerate([(2,), (2, 3), (2, 3), (3, 4), (2, 3, 4), (2, 3, 4)]):
        for node in (plain, recorded):
            if cycle == 4:
                node.load_state(saved)
        if cycle == 3:
            for tensor in others[3].state_dict().values():
                tensor.mul_(1.25)
        neighbors = {j: others[j] for j in ids}
        assert plain.cycle(lambda: neighbors) == recorded.cycle(lambda: neighbors)  # noqa: B023 - within this turn
        assert same(plain.state(), recorded.state())
        if cycle == 2:
            saved = {name: tensor.clone() for name, tensor in plain.state().items()}


def test_a_recording_that_looks_at_a_number_is_noticed() -> None:
    """The recorder of these tests is as strict as a GPU's graph."""
    with pytest.raises(AssertionError, match="looks at a number"):
        record(lambda: torch.ones(2) * torch.ones(2).sum().item())


def test_a_recorded_node_leaves_a_neighbour_alone_that_answers_with_nan() -> None:
    """As one that calls everything does: no step against it, and G as it was."""
    broken = build(node_id=2).discriminator.requires_grad_(requires_grad=False)
    for tensor in broken.state_dict().values():
        tensor.fill_(float("nan"))
    node, reference = build(recorder=record, **always("uniform")), build(policy="alone")
    for _ in range(2):
        found = node.cycle(lambda: {2: broken}).exchange
        assert found is not None
        assert found.chosen is None
        reference.cycle(nobody)
    assert all(
        torch.equal(p, q)
        for p, q in zip(node.generator.parameters(), reference.generator.parameters(), strict=True)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
@pytest.mark.parametrize(
    "tables",
    [
        *(
            {"policy": policy}
            for policy in ("uniform", "uniform-untrained", "forgiving", "gossip", "territories")
        ),
        *({"policy": "info-gain", "cooperation": {"criterion": name}} for name in CRITERIA),
    ],
    ids=str,
)
def test_a_gpu_replays_what_it_would_otherwise_be_told(tables: dict[str, Any]) -> None:
    """The same node with graphs and without, on a GPU."""
    cooperation = {"consider_probability": 1.0, **tables.get("cooperation", {})}
    device = {"device": "cuda", "precision": "float32"}
    told, replayed = (
        build(**{**tables, "cooperation": cooperation, "training": {**device, "cuda_graphs": graphs}})
        for graphs in (False, True)
    )
    others = {
        j: build(node_id=j, training=device).discriminator.requires_grad_(requires_grad=False) for j in (2, 3)
    }
    for _ in range(4):
        one, two = told.cycle(lambda: others), replayed.cycle(lambda: others)
        assert (one.d_loss, one.g_loss) == pytest.approx((two.d_loss, two.g_loss), rel=1e-3)
        for node in (told, replayed):
            node.average(others if node.settings.averages else {})
