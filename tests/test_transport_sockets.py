"""transport.sockets: the reactor calls whose turn it is, and nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest

from transport.sockets import Reactor


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    """Two pipes, (end to read, end to write) each, that nothing was written to."""
    opened = [os.pipe(), os.pipe()]
    yield opened
    for end in (end for pipe in opened for end in pipe):
        os.close(end)


def test_the_handler_of_a_descriptor_is_called_while_it_can_be_read(pipes: list[tuple[int, int]]) -> None:
    """Once a turn, and of the descriptor that something came at; not before, and not after it was removed."""
    reactor, called = Reactor(), []
    for number, (near, _) in enumerate(pipes):
        reactor.add(near, partial(called.append, number))
    reactor.turn(0.0)
    assert called == []
    near, far = pipes[1]
    os.write(far, b"..")
    reactor.turn(10.0)
    os.read(near, 1)
    reactor.turn(10.0)
    assert called == [1, 1]
    os.read(near, 1)
    reactor.turn(0.0)
    os.write(far, b".")
    reactor.remove(near)
    reactor.turn(0.0)
    assert called == [1, 1]


def test_a_handler_may_remove_another_that_was_about_to_be_called(pipes: list[tuple[int, int]]) -> None:
    """A connection is given up while its frame waits: whichever comes first, the other one is left alone."""
    reactor, called = Reactor(), []

    def give_up(mine: int, other: int) -> None:
        called.append(mine)
        reactor.remove(other)

    (one, one_far), (two, two_far) = pipes
    reactor.add(one, lambda: give_up(one, two))
    reactor.add(two, lambda: give_up(two, one))
    for far in (one_far, two_far):
        os.write(far, b".")
    reactor.turn(10.0)
    assert len(called) == 1
