"""transport.subscription: what a connection survives, with real sockets and peers that misbehave."""

from __future__ import annotations

import socket as tcp
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from nets import (
    DEADLINE_S,
    SCHEMA,
    HoldUp,
    Net,
    RawPublisher,
    frame,
    free_address,
    neighbor,
    order,
    pair,
    until,
)
from relay import Relay, Weather
from transport.inbox import MAX_FRAMES_PER_S, QUARANTINE_S
from transport.link import Link
from transport.subscription import _data_age_s
from transport.wire import Expected, Schema

pytestmark = pytest.mark.system


def test_a_restarted_publisher_is_accepted_and_its_past_is_not(net: Net) -> None:
    """At the same port: boot + 1 counts although seq begins anew; the old boot is refused."""
    one = Link(net.settings(1, neighbor(2, free_address())))
    with one:
        address = one.address
        two = net.link(2, neighbor(1, address))
        one.publish(frame(1, 500, boot=1))
        assert order(two, 1, timeout_s=DEADLINE_S) == (1, 500)
    again = net.settings(1, neighbor(2, free_address()), bind=address)
    with Link(again) as one:
        one.publish(frame(1, 0, boot=2))
        assert order(two, 1, after=(1, 500), timeout_s=DEADLINE_S) == (2, 0)
    with Link(again) as one:
        one.publish(frame(1, 501, boot=1))
        until(lambda: two.statistics().neighbors[1].refused)
    assert order(two, 1) == (2, 0)
    assert (
        two.statistics().neighbors[1].last_refusal
        == "node 1 sent (boot, seq) = (1, 501), which is not above the accepted (2, 0)"
    )
    assert net.told(2, "snapshot_refused")[0]["kind"] == "StaleError"
    assert two.statistics().neighbors[1].rebuilds == 0


def test_a_refused_snapshot_costs_nothing_else(net: Net) -> None:
    """Of another run: counted and told; the next right one is accepted on the same connection."""
    one, two = pair(net)
    one.publish(frame(1, 0, run_id="other"))
    until(
        lambda: two.statistics().neighbors[1].refused
    )  # once more, where it was repeated for the late joiner
    assert net.told(2, "snapshot_refused")[0]["kind"] == "MismatchError"
    one.publish(frame(1, 1))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 1)
    assert two.statistics().neighbors[1].rebuilds == 0


def returns_to_honest(net: Net, two: Link, address: str, seq: int = 7) -> None:
    """Once the cause is gone, the honest node 1 at that address is heard again."""
    one = net.link(1, neighbor(2, free_address()), bind=address)
    one.publish(frame(1, seq))
    assert order(two, 1, timeout_s=5.0) == (1, seq)


def test_an_oversize_frame_is_not_taken_in_and_the_connection_returns(net: Net) -> None:
    """By itself libzmq would end it for good; the link builds it anew."""
    with RawPublisher(1, free_address()) as raw:
        address = raw.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        two = net.link(2, neighbor(1, address))
        raw.wait_for_subscriber()
        raw.socket.send(bytes(Expected("run", 1, SCHEMA).max_frame_bytes + 1))
        until(lambda: net.told(2, "connection_rebuilt"))
    assert (two.statistics().bytes_in, two.latest(1)) == (0, None)
    returns_to_honest(net, two, address)


def test_the_largest_frame_that_may_come_is_taken_in(net: Net) -> None:
    """The limit is exact: it is judged, not cut off."""
    with RawPublisher(1, free_address()) as raw:
        two = net.link(2, neighbor(1, raw.socket.getsockopt_string(zmq.LAST_ENDPOINT)))
        raw.wait_for_subscriber()
        raw.socket.send(bytes(Expected("run", 1, SCHEMA).max_frame_bytes))
        until(lambda: two.statistics().neighbors[1].refused == 1)
        assert two.statistics().neighbors[1].rebuilds == 0


@pytest.mark.system
def test_a_message_of_several_parts_is_survived(net: Net) -> None:
    """Parts that trickle in would make libzmq abort the process at the next look; the link never takes one."""
    with RawPublisher(1, free_address()) as raw:
        address = raw.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        two = net.link(2, neighbor(1, address))
        for _ in range(3):
            raw.wait_for_subscriber()
            rebuilds = two.statistics().neighbors[1].rebuilds
            raw.socket.send_multipart([bytes(20_000)] * 1000)
            until(lambda: two.statistics().neighbors[1].rebuilds > rebuilds)  # noqa: B023 - called within this turn
            assert raw.socket.recv() == b"\x00"
    assert "several parts" in net.told(2, "snapshot_refused")[0]["error"]
    returns_to_honest(net, two, address)


def test_a_flooding_neighbour_is_not_listened_to_for_a_while(net: Net) -> None:
    """Its connection is closed, and opened again when its quarantine is over."""
    passed_s = 0.0
    with RawPublisher(1, free_address()) as raw:
        address = raw.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        two = net.link(2, neighbor(1, address), clock=lambda: passed_s)  # all within a second of this clock
        raw.wait_for_subscriber()
        sent = frame(1, 0)
        until(lambda: raw.socket.send(sent) or net.told(2, "connection_rebuilt"))
        assert raw.socket.recv() == b"\x00"
        passed_s = QUARANTINE_S - 0.1
        assert two.statistics().bytes_in == (MAX_FRAMES_PER_S + 1) * len(sent)
        assert order(two, 1) == (1, 0)
    assert [row["reason"] for row in net.told(2, "connection_rebuilt")] == ["flooded"]
    assert [row["kind"] for row in net.told(2, "snapshot_refused")] == ["FloodError"]
    passed_s = QUARANTINE_S
    one = net.link(1, neighbor(2, free_address()), bind=address)
    one.publish(frame(1, 1))
    assert order(two, 1, after=(1, 0), timeout_s=DEADLINE_S) == (1, 1)


def test_garbage_instead_of_a_greeting_is_survived(net: Net) -> None:
    """Another server holds the port for a while."""
    with tcp.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        two = net.link(2, neighbor(1, address))
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
            until(lambda: net.told(2, "connection_rebuilt"))
    returns_to_honest(net, two, address)


def test_a_cause_is_told_once_while_it_lasts_and_again_when_it_is_back(net: Net) -> None:
    """Between two impostors nobody was there: the second is news."""
    address = free_address()
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    two = net.link(2, neighbor(1, address))
    for times in (1, 2):
        with tcp.create_server((host, int(port))) as server:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
                    rebuilds = two.statistics().neighbors[1].rebuilds
                    until(lambda: two.statistics().neighbors[1].rebuilds > rebuilds)  # noqa: B023 - called within this turn
        assert len(net.told(2, "connection_rebuilt")) == times
        (subscription,) = two._subscriptions  # no door tells that it tries in vain
        until(lambda: subscription._line and subscription._line.searching)  # noqa: B023 - called within this turn


def test_a_refused_node_returns_once_it_is_known(net: Net) -> None:
    """By itself libzmq never asks again; the link does."""
    with Link(net.settings(1, neighbor(3, free_address()))) as one:
        address = one.address
        two = net.link(2, neighbor(1, address))
        until(lambda: net.told(2, "connection_rebuilt"))
    returns_to_honest(net, two, address)


def test_a_silent_connection_is_built_anew(net: Net) -> None:
    """After three republish intervals without a frame; what then comes is heard."""
    one, two = pair(net, republish_s=0.1)
    until(lambda: two.statistics().neighbors[1].rebuilds)
    assert net.told(2, "connection_rebuilt")[0]["reason"] == "silent for 0.3 s"
    one.publish(frame(1, 0))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)


def test_how_long_a_connection_is_silent_cannot_be_told_of_what_is_none(tmp_path: Path) -> None:
    """ZeroMQ may have closed it meanwhile, and its number may be another file's or another socket's by then."""
    with (tmp_path / "file").open("w") as file:
        assert _data_age_s(file.fileno()) == float("inf")
    near, far = tcp.socketpair()
    with near, far:
        assert _data_age_s(near.fileno()) == float("inf")
        far.send(b".")
        assert near.recv(1) == b"."  # it is open still


def test_a_neighbour_that_cannot_be_reached_is_not_called_silent(net: Net) -> None:
    """Libzmq goes on trying; a fresh socket would come with a pause, and the neighbour be found later."""
    passed_s, address = 0.0, free_address()
    two = net.link(2, neighbor(1, address), clock=lambda: time.monotonic() + passed_s)
    for turn in range(1, 4):  # a publish tells that the clock was looked at
        passed_s += 1000
        two.publish(frame(2, turn))
        until(lambda: two.statistics().publishes == turn)  # noqa: B023 - called within this turn
    assert two.statistics().neighbors[1].rebuilds == 0
    returns_to_honest(net, two, address)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells whether bytes arrive")
def test_a_connection_for_large_frames_is_built_anew_as_soon_as_one_for_small_ones(net: Net) -> None:
    """A frame under way shows in its bytes. Where none arrive, waiting for it would only prolong an outage."""
    large = Schema("large", (("weight", (2_500_000,)),))
    one = net.link(1, neighbor(2, free_address()), republish_s=0.1)
    expected = Expected("run", 1, large)
    two = net.link(2, replace(neighbor(1, one.address), expected=expected), republish_s=0.1)
    until(lambda: two.statistics().neighbors[1].rebuilds)
    assert net.told(2, "connection_rebuilt")[0]["reason"] == "silent for 0.3 s"


def test_a_slow_transfer_is_not_taken_for_silence(net: Net) -> None:
    """A frame that takes twice the time allowed for silence arrives all the same: an unfinished one is no silence."""
    one = net.link(1, neighbor(2, free_address()), republish_s=0.1)
    with Relay(one.address) as relay:
        relay.weather = Weather(bytes_per_s=33_000)
        two = net.link(2, neighbor(1, relay.address), republish_s=0.1)
        one.publish(frame(1, 0))
        start_s = time.monotonic()
        assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
        assert time.monotonic() - start_s > 0.5
        assert two.statistics().neighbors[1].rebuilds == 0


def test_a_flood_is_seen_by_a_thread_that_hardly_gets_to_look(net: Net) -> None:
    """Conflation leaves it the last of thousands of frames; the kernel tells how much came."""
    hold_up = HoldUp(net, 2, "connection_up")
    with (
        RawPublisher(1, free_address()) as raw,
        Relay(raw.socket.getsockopt_string(zmq.LAST_ENDPOINT), record=True) as relay,
    ):
        two = net.link(2, neighbor(1, relay.address), on_event=hold_up)
        hold_up.wait()
        raw.wait_for_subscriber()
        flood = frame(1, 0)
        for _ in range(4000):
            raw.socket.send(flood, copy=False)
        until(lambda: sum(map(len, relay.streams)) > 4000 * len(flood))
        hold_up.go_on()
        until(lambda: net.told(2, "connection_rebuilt"))
    assert two.statistics().neighbors[1].refusals == {"FloodError": 1}
    assert net.told(2, "connection_rebuilt")[0]["reason"] == "flooded"
