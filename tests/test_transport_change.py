"""transport.link: neighbours that are taken away or have another key, while everything runs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from nets import (
    DEADLINE_S,
    KEYS,
    QUIET_S,
    Net,
    RawPublisher,
    frame,
    free_address,
    neighbor,
    order,
    until,
)
from transport.errors import LocalError
from transport.keys import make_keys
from transport.link import Link

pytestmark = pytest.mark.system


def star(net: Net, **changes: Any) -> tuple[Link, dict[int, str], dict[int, Link]]:
    """Node 1 with open connections to and from 2 and 3, and the latter's addresses and links."""
    addresses = {node: free_address() for node in (1, 2, 3)}
    one = net.link(1, neighbor(2, addresses[2]), neighbor(3, addresses[3]), bind=addresses[1], **changes)
    others = {node: net.link(node, neighbor(1, addresses[1]), bind=addresses[node]) for node in (2, 3)}
    one.publish(frame(1, 0))
    for node, link in others.items():
        link.publish(frame(node, 0))
        assert order(link, 1, timeout_s=DEADLINE_S) == (1, 0)
        assert order(one, node, timeout_s=DEADLINE_S) == (1, 0)
    until(lambda: one.statistics().subscribers == 2)
    return one, addresses, others


def test_a_neighbour_taken_away_gets_no_further_frame_on_its_open_connection(net: Net) -> None:
    """Nor is it heard any more; the others go on, through the very same links."""
    one, addresses, others = star(net)
    before = one.statistics().bytes_in
    one.change((neighbor(2, addresses[2]),))
    one.publish(frame(1, 1))
    assert order(others[2], 1, after=(1, 0), timeout_s=DEADLINE_S) == (1, 1)
    others[2].publish(frame(2, 1))
    assert order(one, 2, after=(1, 0), timeout_s=DEADLINE_S) == (1, 1)

    until(lambda: net.told(1, "key_refused"))  # node 3 has tried to come back
    assert net.told(1, "key_refused")[0]["public_key"] == KEYS[3].public
    one.publish(frame(1, 2))
    assert order(others[2], 1, after=(1, 1), timeout_s=DEADLINE_S) == (1, 2)
    assert order(others[3], 1) == (1, 0)
    assert others[3].statistics().neighbors[1].accepted == 1
    until(lambda: one.statistics().subscribers == 1)

    with pytest.raises(LocalError, match="node 3 is no neighbour"):
        one.latest(3)
    assert set(one.statistics().neighbors) == {2}
    until(lambda: others[3].statistics().subscribers == 0)
    assert one.statistics().bytes_in >= before  # what it had sent stays counted


def test_who_joins_after_a_change_is_welcomed_with_the_newest_frame(net: Net) -> None:
    """At the same address as before, though nothing is sent."""
    passed_s = 0.0
    one, addresses, others = star(net, clock=lambda: time.monotonic() + passed_s, republish_s=QUIET_S)
    one.change((neighbor(2, addresses[2]),))
    until(lambda: one.statistics().subscribers == 1)  # node 2 has come back by itself
    others[2].__exit__(None, None, None)
    passed_s = 10.0  # longer than a new frame is repeated for those who join
    until(lambda: one.statistics().subscribers == 0)
    sent = one.statistics().republishes
    again = net.link(2, neighbor(1, addresses[1]), bind=addresses[2])
    assert order(again, 1, timeout_s=DEADLINE_S) == (1, 0)
    assert (one.statistics().republishes, one.address) == (sent, addresses[1])


def test_with_another_key_the_old_one_is_refused_and_the_new_one_heard(net: Net) -> None:
    """In both directions, whatever (boot, seq) the holder of the old key sent last; the third node goes on."""
    one, addresses, others = star(net)
    others[2].publish(frame(2, 7, boot=2**62))  # a thief's attempt to shut the true node 2 out
    assert order(one, 2, after=(1, 0), timeout_s=DEADLINE_S) == (2**62, 7)
    fresh = make_keys()
    one.change((neighbor(2, addresses[2], fresh), neighbor(3, addresses[3])))
    assert one.latest(2) is None
    assert order(one, 3) == (1, 0)
    one.publish(frame(1, 1))
    assert order(others[3], 1, after=(1, 0), timeout_s=DEADLINE_S) == (1, 1)

    until(lambda: net.told(1, "key_refused"))  # the holder of the old key wants to listen
    assert net.told(1, "key_refused")[0]["public_key"] == KEYS[2].public
    until(lambda: net.told(1, "connection_rebuilt"))  # and answers at node 2's address
    assert "another key" in net.told(1, "connection_rebuilt")[0]["reason"]
    assert (one.latest(2), order(others[2], 1)) == (None, (1, 0))

    others[2].__exit__(None, None, None)
    true_two = net.link(2, neighbor(1, addresses[1]), bind=addresses[2], keys=fresh)
    true_two.publish(frame(2, 0))
    assert order(one, 2, timeout_s=DEADLINE_S) == (1, 0)
    assert order(true_two, 1, timeout_s=DEADLINE_S) == (1, 1)


def test_a_new_key_is_pinned_before_anybody_answers(net: Net) -> None:
    """Whoever holds the old key at the right address proves nothing."""
    address = free_address()
    with RawPublisher(2, address) as thief:
        one = net.link(1, neighbor(2, address))
        thief.wait_for_subscriber()
        one.change((neighbor(2, address, make_keys()),))
        thief.socket.send(frame(2, 5))
        until(lambda: net.told(1, "connection_rebuilt"))
        assert one.latest(2) is None
        assert one.statistics().neighbors[2].accepted == 0


def test_a_change_that_contradicts_itself_changes_nothing(net: Net) -> None:
    """It is refused at the door, and the link goes on."""
    one, addresses, others = star(net)
    with pytest.raises(LocalError, match="appears twice"):
        one.change((neighbor(2, addresses[2]), replace(neighbor(3, addresses[3]), public_key=KEYS[2].public)))
    one.publish(frame(1, 1))
    for link in others.values():
        assert order(link, 1, after=(1, 0), timeout_s=DEADLINE_S) == (1, 1)


def test_to_nobody_and_at_any_moment(net: Net) -> None:
    """The last neighbour can be taken away too; a link that has stopped says so."""
    one, _, others = star(net)
    one.change(())
    one.publish(frame(1, 1))
    until(
        lambda: {row["public_key"] for row in net.told(1, "key_refused")} & {KEYS[2].public, KEYS[3].public}
    )
    assert {order(link, 1) for link in others.values()} == {(1, 0)}
    one.__exit__(None, None, None)
    with pytest.raises(LocalError, match="not running"):
        one.change(())
