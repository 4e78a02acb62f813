"""transport.link: its doors, who may listen, and what is counted, with real sockets on the loopback."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq

from nets import (
    DEADLINE_S,
    KEYS,
    QUIET_S,
    SCHEMA,
    HoldUp,
    Net,
    frame,
    free_address,
    neighbor,
    order,
    pair,
    until,
)
from relay import Relay
from transport import link as link_module
from transport.errors import LocalError
from transport.link import Link, LinkSettings
from transport.wire import Snapshot, draft

pytestmark = pytest.mark.system


def test_a_neighbour_gets_the_snapshot(net: Net) -> None:
    """From one door to the other, with the time it arrived."""
    one, two = pair(net)
    assert two.latest(1) is None
    before_s = time.monotonic()
    one.publish(frame(1, 0))
    delivery = two.latest(1, timeout_s=DEADLINE_S)
    assert delivery
    assert delivery.snapshot.order == (1, 0)
    assert before_s <= delivery.arrived_s == delivery.heard_s <= time.monotonic()
    until(lambda: two.statistics().neighbors[1].connected)


def test_both_ends_of_an_edge_hear_each_other(net: Net) -> None:
    """Each is publisher and subscriber, whoever starts first."""
    address = free_address()
    one = net.link(1, neighbor(2, address))
    one.publish(frame(1, 4))
    two = net.link(2, neighbor(1, one.address), bind=address)
    two.publish(frame(2, 9))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 4)
    assert order(one, 2, timeout_s=DEADLINE_S) == (1, 9)


def test_a_late_joiner_gets_the_newest_at_once(net: Net) -> None:
    """Without waiting for another publish: nothing is sent again for 60 s here."""
    one = net.link(1, neighbor(2, free_address()))
    for seq in range(3):
        one.publish(frame(1, seq))
        until(lambda: one.statistics().publishes == seq + 1)  # noqa: B023 - called within this turn
    two = net.link(2, neighbor(1, one.address))
    assert order(two, 1, timeout_s=1.0) == (1, 2)
    assert two.statistics().neighbors[1].accepted == 1


def test_a_stranger_gets_nothing(net: Net) -> None:
    """A key that is no neighbour's is refused at the handshake, and its key is told."""
    one = net.link(1, neighbor(2, free_address()))
    one.publish(frame(1, 0))
    stranger = net.link(3, neighbor(1, one.address))
    until(lambda: net.told(1, "key_refused"))
    assert net.told(1, "key_refused")[0]["public_key"] == KEYS[3].public
    until(lambda: net.told(3, "connection_rebuilt"))
    assert net.told(3, "connection_rebuilt")[0] == {
        "neighbor": 1,
        "reason": "the neighbour refused this node's key",
    }
    assert (stranger.latest(1), stranger.statistics().bytes_in, one.statistics().subscribers) == (None, 0, 0)
    assert one.statistics().bytes_out == 0


def test_a_node_two_hops_away_gets_nothing(net: Net) -> None:
    """On the line 1 - 2 - 3, node 3 hears 2 and not 1, although 2 hears 1."""
    two_address = free_address()
    one = net.link(1, neighbor(2, two_address))
    two = net.link(2, neighbor(1, one.address), neighbor(3, free_address()), bind=two_address)
    three = net.link(3, neighbor(2, two_address), neighbor(1, one.address))
    one.publish(frame(1, 0))
    two.publish(frame(2, 0))
    assert order(three, 2, timeout_s=DEADLINE_S) == (1, 0)
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    until(lambda: net.told(1, "key_refused"))
    assert net.told(1, "key_refused")[0]["public_key"] == KEYS[3].public
    assert three.latest(1) is None
    until(
        lambda: one.statistics().subscribers == 1
    )  # the welcome may come before the subscription is counted


def test_who_has_no_key_gets_nothing(net: Net) -> None:
    """A subscriber without CURVE is refused, and that is told."""
    one = net.link(1, neighbor(2, free_address()))
    one.publish(frame(1, 0))
    with zmq.Context() as context, context.socket(zmq.SUB) as plain:
        plain.linger = 0
        plain.subscribe(b"")
        plain.connect(one.address)
        until(lambda: net.told(1, "handshake_refused"))
        assert plain.poll(0) == 0
    assert one.statistics().subscribers == 0


def test_an_impostor_on_the_right_port_is_not_heard(net: Net) -> None:
    """Node 4 answers at node 1's address: its key is not the one that node 2 pinned."""
    impostor = net.link(4, neighbor(2, free_address()))
    impostor.publish(frame(1, 0))
    two = net.link(2, neighbor(1, impostor.address))
    until(lambda: net.told(2, "connection_rebuilt"))
    assert "handshake" in net.told(2, "connection_rebuilt")[0]["reason"]
    until(lambda: net.told(4, "handshake_refused"))
    assert (two.latest(1), two.statistics().bytes_in) == (None, 0)


def test_with_no_neighbours_nobody_is_let_in(net: Net) -> None:
    """An empty allow-list is closed, not open."""
    one = net.link(1)
    one.publish(frame(1, 0))
    two = net.link(2, neighbor(1, one.address))
    until(lambda: net.told(1, "key_refused"))
    assert two.latest(1) is None


def test_a_slow_receiver_gets_the_newest_and_no_backlog(net: Net) -> None:
    """While its I/O thread is held up, twenty snapshots come; it reads the last ones only."""
    hold_up = HoldUp(net, 2, "connection_up")
    one = net.link(1, neighbor(2, free_address()))
    two = net.link(2, neighbor(1, one.address), on_event=hold_up)
    hold_up.wait()
    until(lambda: one.statistics().subscribers == 1)
    for seq in range(20):
        one.publish(frame(1, seq))
        until(lambda: one.statistics().publishes == seq + 1)  # noqa: B023 - called within this turn
    hold_up.go_on()
    assert order(two, 1, after=(1, 18), timeout_s=DEADLINE_S) == (1, 19)
    assert two.statistics().neighbors[1].accepted <= 3


def test_a_publisher_sends_the_newest_of_a_burst(net: Net) -> None:
    """Frames handed over faster than they may be sent give way to the last one."""
    one, two = pair(net)
    until(lambda: one.statistics().subscribers == 1)
    for seq in range(100):
        one.publish(frame(1, seq))
    assert order(two, 1, after=(1, 98), timeout_s=DEADLINE_S) == (1, 99)
    assert one.statistics().publishes < 100
    assert two.statistics().neighbors[1].refused == 0


def test_a_frame_is_sent_again_while_there_is_no_new_one(net: Net) -> None:
    """The receiver counts repeats and knows that the neighbour lives; the snapshot stays."""
    one, two = pair(net, republish_s=0.05)
    one.publish(frame(1, 0))
    first = two.latest(1, timeout_s=DEADLINE_S)
    until(lambda: two.statistics().neighbors[1].repeated >= 2)
    again = two.latest(1)
    assert first
    assert again
    assert again.snapshot is first.snapshot
    assert again.arrived_s == first.arrived_s < again.heard_s
    assert (two.statistics().neighbors[1].accepted, one.statistics().publishes) == (1, 1)
    assert one.statistics().republishes >= 2


def test_latest_waits_for_one_that_is_newer(net: Net) -> None:
    """With `after` the wait ends at the snapshot or at the deadline, not before."""
    one, two = pair(net)
    one.publish(frame(1, 0))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    start_s = time.monotonic()
    assert two.latest(1, after=(1, 0), timeout_s=0.05) is None
    assert time.monotonic() - start_s >= 0.05
    timer = threading.Timer(0.05, one.publish, [frame(1, 1)])
    timer.start()
    assert order(two, 1, after=(1, 0), timeout_s=DEADLINE_S) == (1, 1)
    timer.join()


def test_port_zero_is_reported_as_the_real_one(net: Net) -> None:
    """The address can be given to neighbours as it stands."""
    one = net.link(1)
    scheme, host, port = one.address.rpartition(":")[0][:6], one.address[6:15], one.address.rpartition(":")[2]
    assert (scheme, host) == ("tcp://", "127.0.0.1")
    assert int(port) > 0


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        (None, "the port is taken; stop what holds it, or bind another port"),
        ("tcp://192.0.2.1:7003", "an address of this machine is right"),
        ("tcp://127.0.0.1:port", "an address of this machine is right"),
    ],
)
def test_an_address_that_cannot_be_bound_is_one_line(net: Net, bind: str | None, words: str) -> None:
    """It names the address and what would be right, and leaves nothing running."""
    bind = bind or net.link(1).address
    with pytest.raises(LocalError) as caught, Link(net.settings(2, bind=bind)):
        pass
    assert f"cannot listen at '{bind}'" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_plain_crosses_the_wire(net: Net) -> None:
    """A tap between two nodes sees as many bytes as the frame has, and none of its tensors or of its header."""
    one = net.link(1, neighbor(2, free_address()))
    with Relay(one.address, record=True) as relay:
        two = net.link(2, neighbor(1, relay.address))
        sent = frame(1, 0)
        one.publish(sent)
        assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
        until(lambda: one.statistics().bytes_out >= len(sent))  # its subscription may still be on the way
        seen = relay.seen
    # On a busy machine the frame is perhaps repeated, for one who joins while it is sent.
    assert len(sent) < len(seen) < one.statistics().bytes_out + 2000
    plain = {sent[start : start + 8] for start in range(0, len(sent), 8)} - {bytes(8)}
    assert not any(piece in seen for piece in plain)


def test_bytes_out_are_frame_times_subscribers(net: Net) -> None:
    """One encoded frame for two neighbours; a third that joins later costs one more."""
    passed_s = 0.0
    one = net.link(
        1,
        *(neighbor(node, free_address()) for node in (2, 3, 4)),
        republish_s=QUIET_S,
        clock=lambda: time.monotonic() + passed_s,
    )
    two, three = (net.link(node, neighbor(1, one.address)) for node in (2, 3))
    until(lambda: one.statistics().subscribers == 2)
    sent = frame(1, 0)
    one.publish(sent)
    assert order(two, 1, timeout_s=DEADLINE_S) == order(three, 1, timeout_s=DEADLINE_S) == (1, 0)
    assert one.statistics().bytes_out == 2 * len(sent)
    passed_s = 10.0
    four = net.link(4, neighbor(1, one.address))
    assert order(four, 1, timeout_s=DEADLINE_S) == (1, 0)
    until(lambda: one.statistics().bytes_out == 3 * len(sent))
    assert [link.statistics().bytes_in for link in (two, three, four)] == [len(sent)] * 3


def test_who_joins_during_a_publish_does_not_wait_for_the_next(net: Net) -> None:
    """A subscription may be on its way while a frame is sent; the frame is repeated soon, and once."""
    one = net.link(1, neighbor(2, free_address()), republish_s=QUIET_S)
    sent = frame(1, 0)
    one.publish(sent)
    until(lambda: one.statistics().publishes)
    two = net.link(2, neighbor(1, one.address))
    until(lambda: two.statistics().neighbors[1].repeated == 1)
    assert one.statistics().republishes == 1
    assert one.statistics().bytes_out == two.statistics().bytes_in == 2 * len(sent)


def test_a_neighbour_that_sends_without_end_does_not_hold_up_the_others(net: Net) -> None:
    """Subscribers have nothing to say but that they subscribe: the rest is dropped, some at a time, and not counted."""
    one = net.link(1, neighbor(2, free_address()), neighbor(3, free_address()))
    with zmq.Context() as context, context.socket(zmq.XSUB) as chatty:
        chatty.linger, chatty.sndhwm = 0, 10_000
        chatty.curve_serverkey = KEYS[1].public.encode()
        chatty.curve_publickey, chatty.curve_secretkey = KEYS[2].public.encode(), KEYS[2].secret.encode()
        chatty.connect(one.address)
        enough = threading.Event()

        def chatter() -> None:
            while not enough.is_set():
                with contextlib.suppress(zmq.Again):
                    chatty.send(b"chatter", zmq.NOBLOCK)

        talking = threading.Thread(target=chatter)
        talking.start()
        try:
            three = net.link(3, neighbor(1, one.address))
            for seq in range(20):
                one.publish(frame(1, seq))
                assert order(three, 1, after=(1, seq - 1), timeout_s=DEADLINE_S) == (1, seq)
        finally:
            enough.set()
            talking.join()
    until(lambda: one.statistics().subscribers == 1)


def test_a_subscriber_that_leaves_is_no_longer_counted(net: Net) -> None:
    """Each one is counted, although all subscribe to the same."""
    one = net.link(1, neighbor(2, free_address()), neighbor(3, free_address()))
    net.link(2, neighbor(1, one.address))
    with Link(net.settings(3, neighbor(1, one.address))):
        until(lambda: one.statistics().subscribers == 2)
    until(lambda: one.statistics().subscribers == 1)


def test_it_stops_within_a_second(net: Net) -> None:
    """With connections up, one refused, one never answered, and a frame just handed over."""
    one, _ = pair(net)
    two = Link(net.settings(3, neighbor(1, one.address), neighbor(4, free_address())))
    with two:
        until(lambda: net.told(3, "connection_rebuilt"))
        two.publish(frame(3, 0))
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 1


def test_publishing_does_not_wait_for_the_network(net: Net) -> None:
    """While the I/O thread is held up, a thousand frames are handed over at once."""
    hold_up = HoldUp(net, 1)
    one = net.link(1, neighbor(2, free_address()), on_event=hold_up)
    net.link(3, neighbor(1, one.address))
    hold_up.wait()
    sent = frame(1, 0)
    start_s = time.monotonic()
    for _ in range(1000):
        one.publish(sent)
    assert time.monotonic() - start_s < 1


def test_a_link_rests_once_what_it_was_woken_for_is_done(net: Net) -> None:
    """Its thread takes what wakes it out of the pipe; a byte left there would end every wait from then on."""
    one, two = pair(net)
    one.publish(frame(1, 0))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    # No door tells whether the thread waits or spins.
    until(lambda: not select.select([one._wakened], [], [], 0)[0])


def test_an_error_on_the_io_thread_is_raised_at_the_doors(net: Net) -> None:
    """It is not lost with its thread."""

    def fail(_name: str, _fields: dict[str, Any]) -> None:
        raise RuntimeError("a callback broke its promise")

    one = net.link(1, neighbor(2, free_address()), on_event=fail)
    net.link(3, neighbor(1, one.address))
    with pytest.raises(LocalError, match="a callback broke its promise"):
        one.latest(2, timeout_s=DEADLINE_S)
    with pytest.raises(LocalError, match="a callback broke its promise"):
        one.publish(frame(1, 0))


def test_a_thread_that_hangs_is_told_at_the_doors_that_wait_for_it(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that is not taken up, a stop that does not come: both in words, and the stop may be asked for again."""
    hold_up = HoldUp(net, 1)
    one = net.link(1, neighbor(2, free_address()), on_event=hold_up)
    net.link(3, neighbor(1, one.address))
    hold_up.wait()
    for wait in ("_CHANGE_S", "_STOP_S"):
        monkeypatch.setattr(link_module, wait, 0.01)
    with pytest.raises(LocalError, match=r"did not take up its new neighbours within 0\.01 s"):
        one.change(())
    with pytest.raises(LocalError, match=r"did not stop within 0\.01 s"):
        one.__exit__(None, None, None)
    monkeypatch.undo()
    hold_up.go_on()
    one.__exit__(None, None, None)
    with pytest.raises(LocalError, match="not running"):
        one.publish(frame(1, 0))


def test_a_link_that_does_not_start_in_time_says_so(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is stopped, as soon as it lets itself be."""
    monkeypatch.setattr(link_module, "_START_S", 0.01)
    link = Link(net.settings(1))

    def clock() -> float:
        until(lambda: link._stopping)  # only `__enter__` tells when it has given up
        return time.monotonic()

    link.settings = replace(link.settings, neighbors=(neighbor(2, free_address()),), clock=clock)
    with pytest.raises(LocalError, match=r"did not start within 0\.01 s"):
        link.__enter__()


def test_a_link_outside_its_block_says_so(net: Net) -> None:
    """Before and after; what it counted stays readable after."""
    link = Link(net.settings(1))
    for door in (lambda: link.publish(b""), lambda: link.latest(2), lambda: link.address):
        with pytest.raises(LocalError, match="not running"):
            door()
    with pytest.raises(LocalError, match="not started"):
        link.statistics()
    with link, pytest.raises(LocalError, match="node 2 is no neighbour"):
        link.latest(2)
    assert link.statistics().publishes == 0
    with pytest.raises(LocalError, match="started once"):
        link.__enter__()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"neighbors": (neighbor(1, "tcp://h:1"),)}, "an id appears twice"),
        ({"neighbors": (neighbor(2, "tcp://h:1"), neighbor(3, "tcp://h:1"))}, "an address appears twice"),
        ({"neighbors": (neighbor(2, "tcp://h:1", KEYS[1]),)}, "a public key appears twice"),
        (
            {"neighbors": (neighbor(2, "ipc:///tmp/x"),)},
            "address 'ipc:///tmp/x' is not one; tcp://HOST:PORT is right",
        ),
        ({"bind": "7003"}, "address '7003' is not one"),
        ({"neighbors": (replace(neighbor(2, "tcp://h:1"), id=3),)}, "frames of node 2 are expected of it"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(changes: dict[str, Any], words: str) -> None:
    """Before anything runs, in one line."""
    with pytest.raises(LocalError) as caught:
        replace(LinkSettings(1, "tcp://127.0.0.1:0", KEYS[1]), **changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("changes", [{"address": "tcp://127.0.0.1"}, {"public_key": "short"}])
def test_a_neighbour_that_cannot_be_reached_at_all_is_one_line(net: Net, changes: dict[str, Any]) -> None:
    """An endpoint without a port, a key that is none."""
    wrong = replace(neighbor(2, "tcp://127.0.0.1:7003"), **changes)
    with (
        pytest.raises(LocalError, match="cannot connect to node 2 at 'tcp://127"),
        Link(net.settings(1, wrong)),
    ):
        pass


def test_a_draft_is_sealed_on_the_way_and_one_that_may_not_be_sent_is_told_at_the_next_call(net: Net) -> None:
    """Whatever becomes of the arrays after the call; training hears of numbers that are none."""
    one, two = pair(net)
    weights = {"weight": np.full(5000, 2, np.float32)}
    fields: tuple[Any, ...] = ("run", 1, "tiny", 1, 1, 10, False)
    one.publish(draft(Snapshot(*fields, (weights,)), SCHEMA))
    weights["weight"][:] = np.nan
    delivery = two.latest(1, timeout_s=DEADLINE_S)
    assert delivery
    assert (delivery.snapshot.blocks[0]["weight"] == 2).all()
    one.publish(draft(Snapshot(*fields, (weights,)), SCHEMA))
    with pytest.raises(LocalError, match="weight holds a number that is not finite"):
        one.latest(2, after=(0, 0), timeout_s=DEADLINE_S)
