"""The statistics of batch normalisation that lead a generator to what its judges have seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from node.config import Architecture
from node.judges import Divided
from node.models import GAP_CAP, BatchNorm, Discriminator
from node.trainer import Trainer
from trainers import always, build, same, weights

SMALL = Architecture(discriminator_widths=(4, 5, 6))


def gaps_of(judge: Discriminator | Divided, images: torch.Tensor) -> list[torch.Tensor]:
    """What a judge tells of the images."""
    gaps: list[torch.Tensor] = []
    with torch.no_grad():
        judge(images, gaps=gaps)
    return gaps


def neighbors() -> dict[int, Discriminator]:
    """Two that were trained for some cycles."""
    found = {}
    for j in (2, 3):
        other = build(node_id=j, policy="alone")
        for _ in range(10):
            other.cycle(dict)
        found[j] = other.discriminator.requires_grad_(requires_grad=False)
    return found


def led(weight: float, policy: str = "territories", **tables: Any) -> Trainer:
    """A node whose generator goes by the statistics with that weight, and learns fast."""
    return build(**always(policy, statistics_weight=weight), generator={"learning_rate": 2e-3}, **tables)


def test_a_batch_is_as_far_as_its_means_and_deviations_are() -> None:
    """Around mean 3 and deviation 2: one channel as it should be, the other a deviation too high and half as wide."""
    norm = BatchNorm(2)
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(4.0)
    unit = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    like, other = 3 + 2 * unit, 5 + unit
    assert float(norm.gap(torch.cat([like, like], dim=1))) == pytest.approx(0, abs=1e-6)
    assert float(norm.gap(torch.cat([like, other], dim=1))) == pytest.approx((1 + 0.25) / 2, rel=1e-4)


@pytest.mark.parametrize(("mean", "variance"), [(3e38, 1e-6), (-3e38, 3e38), (0.0, 1e-45), (1e30, 1.0)])
def test_no_statistics_make_a_gap_that_is_not_finite(mean: float, variance: float) -> None:
    """They come from a neighbour, as the weights that make of an image what is normalised; and a batch may have no spread."""
    norm = BatchNorm(3)
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(variance)
    for images in (torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.full((2, 3, 4, 4), 3e37)):
        images.requires_grad_()
        gap = norm.gap(images)
        gap.backward()
        assert 0 <= float(gap.detach()) <= 2 * GAP_CAP**2
        assert images.grad is not None
        assert bool(images.grad.isfinite().all())


def test_a_discriminator_tells_of_each_layer_that_has_statistics() -> None:
    """Only where it is asked; its logits stay the same."""
    images = torch.randn(4, 1, 20, 20)
    for first, layers in ((True, 3), (False, 2)):
        judge = Discriminator(SMALL.model_copy(update={"first_batchnorm": first}), 20, 1)
        told = gaps_of(judge, images)
        assert [tuple(gap.shape) for gap in told] == [()] * layers
        assert torch.equal(judge(images, gaps=told), judge(images))


def test_each_neighbour_of_a_divided_batch_tells_of_its_part() -> None:
    """By the share that the part has of the images. The own D, wherever it judges, tells nothing."""
    own, other = neighbors().values()
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = [gap * (2 / 7) for gap in gaps_of(other, images.tensor_split(3)[1])]
    assert len(expected) > 1
    torch.testing.assert_close(gaps_of(Divided((own, other, own)), images), expected)


def test_they_lead_the_generator_and_nobody_else() -> None:
    """The own D is the same with any weight, and a neighbour's stays as it came."""
    others = neighbors()
    before = [weights(each) for each in others.values()]
    nodes = [led(weight) for weight in (0.0, 1.0, 5.0)]
    for node in nodes:
        node.cycle(lambda: others)
    none, some, more = (weights(node.generator) for node in nodes)
    assert not same(none, some)
    assert not same(some, more)
    assert all(same(weights(node.discriminator), weights(nodes[0].discriminator)) for node in nodes)
    assert all(same(weights(each), state) for each, state in zip(others.values(), before, strict=True))


def test_a_weight_of_0_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks for what would count nothing."""

    def refuse(*_: Any) -> torch.Tensor:
        raise AssertionError("asked")

    monkeypatch.setattr(BatchNorm, "gap", refuse)
    led(0.0).cycle(neighbors)
    with pytest.raises(AssertionError, match="asked"):
        led(1.0).cycle(neighbors)


@pytest.mark.parametrize("policy", ["alone-matched", "uniform", "info-gain", "forgiving", "gossip"])
def test_other_policies_do_not_ask_for_them(policy: str) -> None:
    """The paper's rules stay the paper's."""
    first, second = led(0.0, policy), led(5.0, policy)
    for node in (first, second):
        node.cycle(neighbors)
    assert same(weights(first.generator), weights(second.generator))


def test_generated_images_come_nearer_to_what_neighbours_have_seen() -> None:
    """Those of each territory to its judge's, against those that nothing leads there."""
    others, found = neighbors(), []
    for weight in (0.0, 3.0):
        node = led(weight, epochs=40)
        for _ in range(50):
            node.cycle(lambda: others)
        with torch.no_grad():
            images = node.generate(node.sample_noise())
        found.append(float(sum(gaps_of(Divided((node.discriminator, *others.values())), images))))
    assert found[1] < found[0] / 2
