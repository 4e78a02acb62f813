"""The policies and criteria that the paper does not have: two controls, the forgiving judge, and what they must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest
import torch

from node.config import CooperationSettings, Settings
from node.judges import Forgiving, Judge, most_forgiving, untrained
from node.models import Discriminator
from node.selection import CRITERIA
from node.streams import seed_streams, untrained_stream
from node.trainer import Trainer
from recording import record
from trainers import always, build, nobody, same, weights


def name_of(tables: dict[str, Any]) -> str:
    """Policy and criterion."""
    return f"{tables['policy']} {tables['cooperation'].get('criterion', '')}"


NEW = [
    *(always(policy) for policy in ("alone-matched", "uniform-untrained", "forgiving")),
    *(
        always("info-gain", criterion=name)
        for name in CRITERIA
        if name not in ("eq6", "bernoulli")  # test_node_trainer.py has them
    ),
]
new_rules = pytest.mark.parametrize("tables", NEW, ids=name_of)
all_rules = pytest.mark.parametrize("tables", [*NEW, always("gossip"), always("territories")], ids=name_of)


def others(*ids: int) -> dict[int, Discriminator]:
    """Discriminators of other nodes as a link would hold them."""
    return {j: build(node_id=j).discriminator.requires_grad_(requires_grad=False) for j in ids}


def reading(neighbors: Mapping[int, Discriminator]) -> Callable[[], Mapping[int, Discriminator]]:
    """What line 10 reads."""
    return lambda: neighbors


def steps_of_g(node: Trainer) -> int:
    """As the optimiser of G counts them."""
    return int(node.g_optimizer.state()["0.step"])


def judges_of(node: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[Judge]:
    """A list that takes down whom each step of G is made against."""
    seen: list[Judge] = []
    update = node._update_generator

    def updating(z: torch.Tensor, judge: Judge, *drawn: torch.Tensor) -> float:
        seen.append(judge)
        return update(z, judge, *drawn)

    monkeypatch.setattr(node, "_update_generator", updating)
    return seen


def test_every_criterion_that_the_settings_allow_is_there() -> None:
    """And no other."""
    assert set(CRITERIA) == set(get_args(CooperationSettings.model_fields["criterion"].annotation))


def test_two_policies_stand_alone() -> None:
    """One question for all who would open a link."""
    policies = get_args(Settings.model_fields["policy"].annotation)
    alone = {policy for policy in policies if Settings(policy=policy).stands_alone}
    assert alone == {"alone", "alone-matched"}


@new_rules
def test_nothing_but_g_is_changed(tables: dict[str, Any]) -> None:
    """Neighbours' weights, statistics and gradients, the own D, and every stream but the one of line 9."""
    alone, node, neighbors = build(policy="alone"), build(**tables), others(2, 3)
    for neighbor in neighbors.values():
        neighbor.requires_grad_()
    before = {j: weights(neighbor) for j, neighbor in neighbors.items()}
    alone.cycle(nobody)
    found = node.cycle(reading(neighbors)).exchange
    assert found is not None
    assert found.chosen is not None
    assert all(same(weights(neighbors[j]), before[j]) for j in neighbors)
    assert all(parameter.grad is None for d in neighbors.values() for parameter in d.parameters())
    assert same(weights(node.discriminator), weights(alone.discriminator))
    assert not same(weights(node.generator), weights(alone.generator))
    for name in ("weights", "data", "noise", "labels"):
        assert torch.equal(node.streams[name].get_state(), alone.streams[name].get_state())


@all_rules
def test_a_recording_learns_what_the_calls_learn(tables: dict[str, Any]) -> None:
    """As a GPU replays: bit for bit, with a neighbour that changes and one that comes later."""
    plain, recorded, neighbors = build(**tables), build(recorder=record, **tables), others(2, 3)
    for cycle, ids in enumerate([(2,), (2, 3), (2, 3)]):
        if cycle == 2:
            for tensor in neighbors[3].state_dict().values():
                tensor.mul_(1.25)
        there = {j: neighbors[j] for j in ids}
        assert plain.cycle(reading(there)) == recorded.cycle(reading(there))
        assert same(plain.state(), recorded.state())


@all_rules
def test_a_resumed_node_goes_on_bit_for_bit(tables: dict[str, Any]) -> None:
    """Whatever a rule needs beside the checkpoint is derived again."""
    straight, first, second = (build(**tables) for _ in range(3))
    neighbors = others(2, 3)
    for node in (straight, straight, first):
        node.cycle(reading(neighbors))
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    second.cycle(reading(neighbors))
    assert same(straight.state(), second.state())


@pytest.mark.parametrize("degree", [1, 3])
def test_the_matched_control_makes_as_many_steps_of_g_as_uniform(degree: int) -> None:
    """In the same cycles, whatever the number of neighbours; they are its own D's."""
    tables = {"discriminator": {"max_steps": 1}}
    listening = build(policy="uniform", **tables)
    matched = build(neighbor_ids=range(2, 2 + degree), policy="alone-matched", **tables)
    neighbors = others(*range(2, 2 + degree))
    for _ in range(10):
        one, two = listening.cycle(reading(neighbors)).exchange, matched.cycle(nobody).exchange
        assert (one is None) == (two is None)
        assert two is None or two.chosen == 1
    assert steps_of_g(listening) == steps_of_g(matched) > 10


def test_the_matched_control_repeats_line_12_against_its_own_d(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the z of line 7, and without looking at a neighbour."""
    alone, matched = build(policy="alone"), build(**always("alone-matched"))
    noise, sample = [], alone.sample_noise
    monkeypatch.setattr(alone, "sample_noise", lambda: noise.append(sample()) or noise[-1])

    def read() -> Mapping[int, Discriminator]:
        raise AssertionError("a neighbour was looked at")

    alone.cycle(nobody)
    found = matched.cycle(read).exchange
    loss = alone._update_generator(noise[-1], alone.discriminator)
    assert same(weights(alone.generator), weights(matched.generator))
    assert found is not None
    assert (found.chosen, found.loss) == (1, loss)


def test_untrained_stand_ins_know_nothing_of_the_neighbour() -> None:
    """What the neighbour has learned makes no difference, as it does under `uniform`."""
    neighbors, learned = others(2), others(2)
    for tensor in learned[2].state_dict().values():
        tensor.mul_(1.5)
    for policy, differs in (("uniform", True), ("uniform-untrained", False)):
        one, two = build(**always(policy)), build(**always(policy))
        one.cycle(reading(neighbors))
        two.cycle(reading(learned))
        assert same(weights(one.generator), weights(two.generator)) is not differs


def test_an_untrained_stand_in_stays_the_same_during_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every cycle, and for every node that has this neighbour."""
    node, elsewhere, neighbors = (
        build(**always("uniform-untrained")),
        build(node_id=3, **always("uniform-untrained")),
        others(2),
    )
    seen, there = judges_of(node, monkeypatch), judges_of(elsewhere, monkeypatch)
    node.cycle(reading(neighbors))
    first = weights(seen[1])
    node.cycle(reading(neighbors))
    elsewhere.cycle(reading(neighbors))
    assert same(weights(seen[3]), first)
    assert same(weights(there[1]), first)
    assert not same(weights(neighbors[2]), first)


def test_untrained_weights_are_of_the_seed_and_the_neighbour() -> None:
    """By the run's rule, with batch normalisation as it begins, and from none of the neighbour's own streams."""
    like = others(2)[2]
    with torch.no_grad():
        for tensor in like.state_dict().values():
            tensor.fill_(7.0)
    drawn = [weights(untrained(like, "dcgan", untrained_stream(*key))) for key in ((0, 2), (0, 3), (1, 2))]
    assert same(drawn[0], weights(untrained(like, "dcgan", untrained_stream(0, 2))))
    assert drawn[0].keys() == like.state_dict().keys()
    assert all(tensor.shape == like.state_dict()[name].shape for name, tensor in drawn[0].items())
    assert not any(bool((tensor == 7.0).any()) for tensor in drawn[0].values())
    assert float(drawn[0]["convolutions.1.weight"].std()) == pytest.approx(0.02, rel=0.3)
    own = [weights(untrained(like, "dcgan", stream)) for stream in seed_streams(0, 2).values()]
    for other in (*drawn[1:], *own):
        assert not torch.equal(other["last.weight"], drawn[0]["last.weight"])


def test_the_forgiving_judge_takes_the_largest_logit_of_each_image() -> None:
    """And its gradient goes to the one who gave it."""
    judge = Forgiving((lambda x, **_: 2 * x[:, 0], lambda x, **_: x[:, 1]))
    images = torch.tensor([[1.0, 0.0], [1.0, 5.0], [-3.0, -2.0]], requires_grad=True)
    logits = judge(images)
    logits.sum().backward()
    assert logits.tolist() == [2.0, 5.0, -2.0]
    assert images.grad.tolist() == [[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert most_forgiving(torch.tensor([[2.0, 2.0, -6.0], [0.0, 5.0, -2.0]])) == 1


def test_in_a_cycle_that_considers_neighbours_both_steps_are_forgiving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the own D and all that answer with finite numbers; otherwise line 8 is the paper's."""
    neighbors = others(2, 3, 4)
    for tensor in neighbors[3].state_dict().values():
        tensor.fill_(float("nan"))
    node = build(**always("forgiving"))
    seen = judges_of(node, monkeypatch)
    found = node.cycle(reading(neighbors)).exchange
    everybody = Forgiving((node.discriminator, neighbors[2], neighbors[4]))
    assert seen == [everybody, everybody]
    assert found is not None
    assert found.chosen in (1, 2, 4)
    never = build(policy="forgiving", cooperation={"consider_probability": 0.0})
    seen = judges_of(never, monkeypatch)
    assert never.cycle(reading(neighbors)).exchange is None
    assert seen == [never.discriminator]


def test_the_loss_of_a_forgiving_step_is_that_of_the_largest_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line 8, over the images as the step finds them."""
    node, neighbors = build(**always("forgiving")), others(2, 3)
    heard, hear = [], node._hear

    def hearing(*arguments: Any) -> Any:
        heard.append(hear(*arguments))
        return heard[-1]

    monkeypatch.setattr(node, "_hear", hearing)
    found = node.cycle(reading(neighbors))
    own, theirs = heard[0]
    largest = torch.maximum(own, torch.maximum(theirs[2], theirs[3]))
    assert not torch.equal(largest, own)
    assert found.g_loss == pytest.approx(float(torch.nn.functional.softplus(-largest).mean()), rel=1e-5)


@pytest.mark.parametrize("neighbors", [(), (2,)])
def test_a_forgiving_node_that_hears_nobody_learns_as_one_alone(neighbors: tuple[int, ...]) -> None:
    """The second step is skipped and counted; nobody who answers with nan is forgiving."""
    alone, node, there = build(policy="alone"), build(**always("forgiving")), others(*neighbors)
    for neighbor in there.values():
        for tensor in neighbor.state_dict().values():
            tensor.fill_(float("nan"))
    alone.cycle(nobody)
    found = node.cycle(reading(there)).exchange
    assert found is not None
    assert (found.chosen, found.loss) == (None, None)
    assert same(weights(alone.generator), weights(node.generator))


def test_competence_is_judged_on_the_latest_real_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of line 4, after the generated images of line 8's noise."""
    endless = {"discriminator": {"loss_threshold": 1e-6, "max_steps": 2}}
    node, other = build(**always("info-gain", criterion="competence"), **endless), others(2)[2]
    real, seen, sample, judge = [], [], node.batches.sample, node._judge

    def judging(d: Discriminator, images: torch.Tensor, **options: bool) -> torch.Tensor:
        if d is other:
            seen.append(images.detach().clone())
        return judge(d, images, **options)

    monkeypatch.setattr(node.batches, "sample", lambda: real.append(sample()) or real[-1])
    monkeypatch.setattr(node, "_judge", judging)
    node.cycle(reading({2: other}))
    generated, latest, stepped = seen
    assert not torch.equal(real[0], real[1])
    assert torch.equal(latest, real[1])
    assert torch.equal(generated, stepped)


def test_novelty_is_0_for_a_discriminator_that_asks_for_the_same() -> None:
    """A copy of the own D is never chosen beside another."""
    node, neighbors = build(**always("info-gain", criterion="novelty")), others(7)
    for _ in range(2):
        found = node.cycle(lambda: {4: node.discriminator, **neighbors}).exchange
        assert found is not None
        assert found.divergences[4] == pytest.approx(0, abs=1e-9)
        assert found.divergences[7] > 0.1
        assert found.chosen == 7
