"""The generator that images are drawn with: a moving average of the one that learns, which never hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.features import generated_images, trained_generator
from eval.runs import read_run
from node.ema import follow
from node.models import Generator
from trainers import build, nobody, same, settings, weights


def flat(network: torch.nn.Module) -> torch.Tensor:
    """All of its numbers, running statistics among them."""
    return torch.cat([tensor.flatten() for tensor in network.state_dict().values()])


def generator(value: float) -> Generator:
    """A small one, all of whose numbers are this one."""
    made = Generator(settings().architecture["small"], 8, 1)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.fill_(value)
    return made


@pytest.mark.parametrize(
    ("cycle", "kept"),
    [(1, 2 / 11), (11, 12 / 21), (890, 0.99), (5000, 0.99)],
)
def test_the_average_keeps_its_decay_of_itself_and_less_while_it_is_young(cycle: int, kept: float) -> None:
    """By hand: (1 + n) / (10 + n) reaches 0.99 at n = 890."""
    average, learning = generator(1.0), generator(3.0)
    follow(average, learning, 0.99, cycle)
    torch.testing.assert_close(flat(average), torch.full_like(flat(average), kept + 3 * (1 - kept)))
    assert bool((flat(learning) == 3).all())


def test_training_does_not_hear_of_the_average() -> None:
    """The same generator, discriminator and random streams to the last bit; the average lies apart from both ends."""
    plain, averaged = (
        build(policy="alone-matched"),
        build(policy="alone-matched", generator={"ema_decay": 0.9}),
    )
    first = flat(averaged.average_generator)
    for _ in range(6):
        assert plain.cycle(nobody) == averaged.cycle(nobody)
    states = plain.state(), averaged.state()
    assert same(states[0], {name: states[1][name] for name in states[0]})
    added = states[1].keys() - states[0].keys()
    assert added == {f"average_generator.{name}" for name in weights(plain.generator)}
    assert plain.average_generator is plain.generator
    for other in (first, flat(averaged.generator)):
        assert not torch.equal(flat(averaged.average_generator), other)


def test_a_resumed_average_goes_on_bit_for_bit() -> None:
    """It is part of a checkpoint."""
    straight, first, second = (build(policy="alone", generator={"ema_decay": 0.9}) for _ in range(3))
    for _ in range(3):
        straight.cycle(nobody)
        first.cycle(nobody)
    second.load_state(first.state())
    for _ in range(3):
        straight.cycle(nobody)
        second.cycle(nobody)
    assert same(straight.state(), second.state())


def test_images_are_drawn_with_the_average_where_one_was_kept(
    make_toy_run: Callable[..., Path], tmp_path: Path
) -> None:
    """The last weights draw where none was."""
    run = read_run(make_toy_run(tmp_path / "run"))
    plain = run.checkpoint(1)
    other = {name: tensor + 0.1 for name, tensor in plain.part("generator").items()}
    kept = {f"average_generator.{name}": tensor for name, tensor in other.items()}
    averaged = replace(plain, tensors=plain.tensors | kept)
    assert same(plain.drawing, plain.part("generator"))
    assert same(weights(trained_generator(run, averaged)), other)
    images = [generated_images(trained_generator(run, each), 4, seed=0) for each in (plain, averaged)]
    assert (images[0] != images[1]).any()
