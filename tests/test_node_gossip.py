"""Averaged discriminators, and the territories of the noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from node.config import Architecture, check_territories
from node.judges import Divided, average, divide
from node.models import Discriminator, initialise
from node.trainer import Trainer
from topology.errors import InputError
from topology.graph import ring
from trainers import always, build, nobody, same, settings, weights

POLICIES = pytest.mark.parametrize("policy", ["gossip", "territories"])


def drawn(seed: int, widths: tuple[int, ...] = (4, 6), **structure: Any) -> Discriminator:
    """A discriminator with weights and running statistics of its own."""
    found = Discriminator(Architecture(discriminator_widths=widths, **structure), 8, 1)
    stream = torch.Generator().manual_seed(seed)
    initialise(found, "he", stream)
    for name, tensor in found.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5, generator=stream)
    return found


def distance(discriminators: list[Discriminator]) -> float:
    """Of the weights from their mean, squared and summed up."""
    rows = torch.stack([torch.cat([p.detach().flatten() for p in d.parameters()]) for d in discriminators])
    return float((rows - rows.mean(dim=0)).square().sum())


def test_averaging_is_the_mean_of_all_weights_and_of_no_statistics() -> None:
    """In place, and nothing of the others moves."""
    own, *others = (drawn(seed) for seed in range(3))
    before = [weights(each) for each in (own, *others)]
    pointers = [parameter.data_ptr() for parameter in own.parameters()]
    average(own, dict(enumerate(others)), 3)
    trained = dict(own.named_parameters()).keys()
    for name, tensor in own.state_dict().items():
        mean = torch.stack([state[name] for state in before]).mean(dim=0)
        torch.testing.assert_close(tensor, mean if name in trained else before[0][name])
    assert trained < own.state_dict().keys()
    assert all(same(weights(each), state) for each, state in zip(others, before[1:], strict=True))
    assert pointers == [parameter.data_ptr() for parameter in own.parameters()]


def test_who_is_missing_or_built_otherwise_leaves_its_share_to_the_own_weights() -> None:
    """Of four, one is there: three quarters stay. How the other's generator is built is no matter."""
    own, other, slope = drawn(1), drawn(2, generator_widths=(5,)), drawn(4, slope=0.3)
    before = [weights(each) for each in (own, other)]
    assert average(own, {2: other, 3: drawn(3, widths=(5, 6)), 4: slope}, 4) == {3, 4}
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.detach(), (3 * before[0][name] + before[1][name]) / 4)
    before[0] = weights(own)
    assert average(own, {}, 3) == set()
    assert same(weights(own), before[0])


@pytest.mark.parametrize(("factor", "far"), [(8.0, False), (15.0, True), (3e38, True), (float("nan"), True)])
def test_weights_that_are_far_off_are_left_out(factor: float, far: bool) -> None:  # noqa: FBT001 - a column of the table
    """Ten times the own norm and more, or no numbers: they would end the training."""
    own, other = drawn(1), drawn(2)
    before = weights(own)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(factor)
    assert average(own, {2: other}, 2) == ({2} if far else set())
    assert same(weights(own), before) is far


def test_on_a_ring_averaging_draws_all_together_and_keeps_their_mean() -> None:
    """By (1 + 2 cos 72°) / 3 in the worst direction of five nodes, squared in the sum of squares."""
    graph = ring(5)
    nodes = {node_id: drawn(node_id) for node_id in graph.ids}
    mean = torch.stack([node.last.weight.detach() for node in nodes.values()]).mean(dim=0)
    apart = [distance(list(nodes.values()))]
    for _ in range(4):
        published = {node_id: drawn(0) for node_id in nodes}
        for node_id, copy in published.items():
            copy.load_state_dict(nodes[node_id].state_dict())
        for node_id, node in nodes.items():
            average(node, {j: published[j] for j in graph.neighbors(node_id)}, 3)
        apart.append(distance(list(nodes.values())))
    assert all(after < 0.291 * before for before, after in pairwise(apart))
    torch.testing.assert_close(
        torch.stack([n.last.weight.detach() for n in nodes.values()]).mean(dim=0), mean
    )


@POLICIES
def test_all_nodes_of_a_run_begin_with_one_discriminator(policy: str) -> None:
    """And with generators of their own; another seed begins with another."""
    one, two, other = (build(node_id, policy=policy, seed=seed) for node_id, seed in ((1, 5), (2, 5), (1, 6)))
    assert same(weights(one.discriminator), weights(two.discriminator))
    assert not same(weights(one.generator), weights(two.generator))
    assert not torch.equal(one.discriminator.last.weight, other.discriminator.last.weight)
    usual = build(policy="uniform", seed=5)
    assert same(weights(one.generator), weights(usual.generator))
    assert not torch.equal(one.discriminator.last.weight, usual.discriminator.last.weight)


def test_only_these_policies_average() -> None:
    """One question for whoever reads the neighbours."""
    averaging = {
        name for name in ("alone", "uniform", "gossip", "territories") if settings(policy=name).averages
    }
    assert averaging == {"gossip", "territories"}


@POLICIES
def test_an_average_changes_the_weights_of_d_and_nothing_else(policy: str) -> None:
    """Momentum, G and random streams stay; every neighbour in the graph has its share, heard or not."""
    node, neighbor = build(neighbor_ids=(2, 3, 4), policy=policy), build(2, policy="alone").discriminator
    node.cycle(nobody)
    before, state = weights(node.discriminator), {name: t.clone() for name, t in node.state().items()}
    assert node.average({3: neighbor}) == set()
    for name, parameter in node.discriminator.named_parameters():
        wanted = before[name] + (neighbor.get_parameter(name).detach() - before[name]) / 4
        torch.testing.assert_close(parameter.detach(), wanted)
    parameters = {f"discriminator.{name}" for name, _ in node.discriminator.named_parameters()}
    changed = {name for name, t in node.state().items() if not torch.equal(t, state[name])}
    assert changed == parameters


def test_gossip_without_neighbours_learns_as_the_matched_control_does() -> None:
    """From the same weights: averaging is all that it adds."""
    tables: dict[str, Any] = {"discriminator": {"max_steps": 1}}
    gossip, matched = build(policy="gossip", **tables), build(policy="alone-matched", **tables)
    matched.discriminator.load_state_dict(gossip.discriminator.state_dict())
    for _ in range(6):
        assert gossip.cycle(nobody) == matched.cycle(nobody)
    one, two = gossip.state(), matched.state()
    # The matched control drew its own D from this stream, and has no neighbours to remember.
    del one["random.weights"], one["progress.neighbors"], two["random.weights"]
    assert same(one, two)


def test_divided_noise_is_the_same_noise_in_its_territories() -> None:
    """Rows keep their numbers; those of a part have their largest at its place; the rest does not move."""
    z_mZ = torch.randn(10, 5, generator=torch.Generator().manual_seed(1))
    for parts in (1, 2, 3, 5):
        found_mZ = divide(z_mZ, parts)
        torch.testing.assert_close(found_mZ.sort(dim=1).values, z_mZ.sort(dim=1).values)
        assert torch.equal(found_mZ[:, parts:], z_mZ[:, parts:])
        places = [part[:, :parts].argmax(dim=1) for part in found_mZ.tensor_split(parts)]
        assert all(bool((place == i).all()) for i, place in enumerate(places))
    assert torch.equal(divide(z_mZ, 1), z_mZ)


def test_all_territories_together_are_normal_noise() -> None:
    """So a generator that learned with divided noise is asked with any: moments of a number that is exchanged."""
    z_mZ = torch.randn(60_000, 3, generator=torch.Generator().manual_seed(2))
    first_m, plain_m = divide(z_mZ, 3)[:, 0], z_mZ[:, 0]
    for power, moment in enumerate((0.0, 1.0, 0.0, 3.0), start=1):
        assert float(plain_m.pow(power).mean()) == pytest.approx(moment, abs=0.15)
        assert float(first_m.pow(power).mean()) == pytest.approx(moment, abs=0.15)


def test_each_judge_of_a_divided_batch_sees_its_part_alone() -> None:
    """Batch normalisation included."""
    one, two = drawn(1), drawn(2)
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    first, second, third = images.tensor_split(3)
    assert torch.equal(Divided((one, two, one))(images), torch.cat([one(first), two(second), one(third)]))
    assert not torch.allclose(Divided((one, one))(images), one(images))


def test_in_its_territory_each_discriminator_judges_both_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own D in the first part, neighbours by id; that of one who is silent or answers with nan is the own D's."""
    neighbors = {j: build(node_id=j).discriminator for j in (2, 3, 5)}
    for tensor in neighbors[3].state_dict().values():
        tensor.fill_(float("nan"))
    node = build(neighbor_ids=(5, 4, 3, 2), **always("territories"), discriminator={"max_steps": 1})
    seen, judge = [], Trainer._judge

    def judging(self: Trainer, d: Any, images: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(d)
        return judge(self, d, images, **options)

    monkeypatch.setattr(Trainer, "_judge", judging)
    found = node.cycle(lambda: neighbors).exchange
    own = node.discriminator
    everybody = Divided((own, neighbors[2], own, own, neighbors[5]))
    assert [d for d in seen if isinstance(d, Divided)] == [Divided((own,) * 5), everybody, everybody]
    assert found is not None
    assert (found.chosen, found.loss is None) == (1, False)


@pytest.mark.parametrize(("probability", "steps"), [(0.0, 1), (1.0, 2)])
def test_line_9_decides_on_the_second_step_alone(probability: float, steps: int) -> None:
    """Territories are territories in every cycle, whoever can be heard."""
    node = build(policy="territories", cooperation={"consider_probability": probability})
    assert (node.cycle(nobody).exchange is None) == (steps == 1)
    assert int(node.g_optimizer.state()["0.step"]) == steps


@POLICIES
def test_a_neighbour_that_was_taken_away_leaves_weights_and_territories_as_they_were(policy: str) -> None:
    """For the node that was started again without it, too: as for one that went on."""
    node, again = (
        build(neighbor_ids=(2, 3, 4), **always(policy)),
        build(neighbor_ids=(3, 4), **always(policy)),
    )
    left = {j: build(node_id=j).discriminator for j in (3, 4)}
    node.cycle(lambda: left)
    again.load_state({name: tensor.clone() for name, tensor in node.state().items()})
    for each in (node, again):
        each.average(left)
        each.cycle(lambda: left)
    assert same(node.state(), again.state())


@pytest.mark.parametrize(
    ("tables", "neighbors", "error"),
    [
        ({}, 4, None),
        ({"policy": "uniform"}, 5, None),
        (
            {},
            5,
            r"x: architecture.small.latent_size = 5 is too small for node 7, which has 5 neighbours; at least 6 ",
        ),
        ({"training": {"batch_size": 9}}, 4, r"x: training.batch_size = 9 .*; at least 10 "),
    ],
)
def test_what_cannot_be_divided_is_refused(tables: dict[str, Any], neighbors: int, error: str | None) -> None:
    """One number of the noise and two images for each."""
    asked = settings(**{"policy": "territories", **tables})
    if error is None:
        check_territories("x", asked, 7, "small", neighbors)
    else:
        with pytest.raises(InputError, match=error):
            check_territories("x", asked, 7, "small", neighbors)
