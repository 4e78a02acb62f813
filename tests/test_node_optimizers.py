"""The optimisers against torch.optim's own, and what they leave out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from node.hardware import place
from node.optimizers import Adam, Momentum, Optimizer

Pair = Callable[[nn.Module], tuple[Optimizer, torch.optim.Optimizer]]


def sgd(momentum: float) -> Pair:
    """Both forms of SGD, of the same network's parameters."""
    return lambda net: (
        Momentum(net.parameters(), 0.1, momentum),
        torch.optim.SGD(net.parameters(), 0.1, momentum=momentum, fused=True),
    )


def adam(net: nn.Module) -> tuple[Optimizer, torch.optim.Optimizer]:
    """Both forms of Adam."""
    return (
        Adam(net.parameters(), 2e-4, 0.5, 0.999),
        torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999), fused=True),
    )


def network() -> nn.Module:
    """A convolution in channels_last memory and a bias, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Conv2d(3, 4, 4), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 1, bias=False))
    return place(net, torch.device("cpu"))


def losses(net: nn.Module, count: int) -> list[Callable[[], Tensor]]:
    """Losses on `count` batches, always the same."""
    source = torch.Generator().manual_seed(4)
    batches = [torch.randn(2, 3, 6, 6, generator=source) for _ in range(count)]
    return [lambda x=x: net(x).square().mean() for x in batches]  # type: ignore[misc]  # the default binds x


@pytest.mark.parametrize("pair", [sgd(0.9), sgd(0.0), adam], ids=["momentum", "plain", "adam"])
def test_steps_are_those_of_torch_optim(pair: Pair) -> None:
    """Bit for bit."""
    ours, theirs = network(), network()
    mine, reference = pair(ours)[0], pair(theirs)[1]
    for own, other in zip(losses(ours, 5), losses(theirs, 5), strict=True):
        mine.descend(own())
        reference.zero_grad()
        other().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(
            p, network().get_parameter(next(n for n, r in ours.named_parameters() if r is p))
        )


@pytest.mark.parametrize("pair", [sgd(0.9), sgd(0.0), adam], ids=["momentum", "plain", "adam"])
def test_a_restored_state_goes_on_bit_for_bit(pair: Pair) -> None:
    """State and weights in another network, and the same steps from there."""
    first, second = network(), network()
    one, two = pair(first)[0], pair(second)[0]
    for loss in losses(first, 3):
        one.descend(loss())
    second.load_state_dict(first.state_dict())
    two.load_state({name: tensor.clone() for name, tensor in one.state().items()})
    one.descend(losses(first, 4)[3]())
    two.descend(losses(second, 4)[3]())
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_only_the_gradients_of_its_own_parameters_are_computed() -> None:
    """The loss runs through both layers; the last one is no business of this optimiser."""
    net = network()
    first, *_, last = net.children()
    before = [p.clone() for p in last.parameters()]
    Momentum(first.parameters(), 0.1, 0.9).descend(losses(net, 1)[0]())
    assert all(p.grad is None for p in last.parameters())
    assert all(torch.equal(p, q) for p, q in zip(last.parameters(), before, strict=True))


@pytest.mark.system
def test_a_node_does_not_load_the_compiler() -> None:
    """It would cost every node 80 MB and more than a second of its start."""
    program = """
import sys, numpy as np
import node.session
from node.config import resolve
from node.shards import Shard
from node.trainer import Trainer
image = {"size": 8, "channels": 1}
settings = resolve("test", {"preset": "quick", "policy": "alone", "image": image})
Trainer(settings, "light", 1, Shard(np.zeros((200, 8, 8, 1), np.uint8))).cycle(dict)
print([name for name in ("torch._dynamo", "sympy", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("pair", [sgd(0.9), adam], ids=["momentum", "adam"])
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(pair: Pair, loss: float) -> None:
    """Neither parameters nor moments, and Adam does not count the step."""
    net = network()
    optimizer = pair(net)[0]
    optimizer.descend(losses(net, 1)[0]())
    before = [tensor.clone() for tensor in (*net.parameters(), *optimizer.state().values())]
    optimizer.descend(losses(net, 1)[0]() * loss)
    after = [*net.parameters(), *optimizer.state().values()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("pair", [sgd(0.9), adam], ids=["momentum", "adam"])
def test_a_loss_that_is_not_above_the_threshold_changes_nothing(pair: Pair) -> None:
    """One that is takes the step that it would take without a threshold."""
    net, other = network(), network()
    optimizer, free = pair(net)[0], pair(other)[0]
    loss = losses(net, 1)[0]
    before = [tensor.clone() for tensor in (*net.parameters(), *optimizer.state().values())]
    optimizer.descend(loss(), above=loss().detach())
    after = [*net.parameters(), *optimizer.state().values()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    optimizer.descend(loss(), above=loss().detach() - 0.1)
    free.descend(losses(other, 1)[0]())
    assert all(torch.equal(old, new) for old, new in zip(other.parameters(), net.parameters(), strict=True))
