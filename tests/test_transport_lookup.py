"""transport.lookup: names become numbers beside the thread that carries the connections, and it waits for none."""

from __future__ import annotations

import socket as tcp
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import zmq

from nets import DEADLINE_S, KEYS, Net, frame, free_address, neighbor, order, until
from transport.errors import LocalError
from transport.link import Link
from transport.lookup import Lookup
from transport.sockets import HANDSHAKE_FAILED

NO_SUCH_NAME = tcp.gaierror(tcp.EAI_NONAME, "Name or service not known")


class Resolver:
    """Stands for socket.getaddrinfo: a test says what it answers, and can hold it up."""

    def __init__(self, **hosts: list[str] | OSError) -> None:
        self.hosts: dict[str, list[str] | OSError] = dict(hosts)
        self.asked: list[str] = []
        self.held: dict[str, threading.Event] = {}

    def __call__(self, host: str, _port: None, **_options: Any) -> list[tuple[Any, ...]]:
        """The answer, as socket.getaddrinfo gives it."""
        self.asked.append(host)
        if host in self.held:
            assert self.held[host].wait(2 * DEADLINE_S)
        answer = self.hosts[host]
        if isinstance(answer, OSError):
            raise answer
        return [(tcp.AF_INET, tcp.SOCK_STREAM, 6, "", (number, 0)) for number in answer]

    def hold(self, net: Net, host: str) -> threading.Event:
        """Answers about that host from now on once the event is set; at the end of the test at the latest."""
        self.held[host] = threading.Event()
        net.stack.callback(self.held[host].set)
        return self.held[host]


def looking_up() -> list[threading.Thread]:
    """The lookups that run now."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("lookup-")]


def answered(resolve: Callable[..., Any], address: str = "tcp://node2:7003") -> Lookup:
    """A lookup that was asked once and has taken the answer."""
    woken = threading.Event()
    lookup = Lookup(address, resolve, woken.set)
    lookup.ask(0.0)
    assert woken.wait(DEADLINE_S)
    assert lookup.take()
    return lookup


def named(link: Link, host: str) -> str:
    """The address of a link as its neighbours would write it, with a name."""
    return f"tcp://{host}:{link.address.rpartition(':')[2]}"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "::1", "[fe80::1%eth0]"])
def test_a_number_is_its_own_answer(host: str) -> None:
    """As it was written, at once, and nobody is ever asked."""
    lookup = Lookup(f"tcp://{host}:7003", Resolver(), pytest.fail)
    assert lookup.after(None) == lookup.after(f"tcp://{host}:7003") == f"tcp://{host}:7003"
    lookup.ask(1e9)
    assert (lookup.take(), lookup.due_s, looking_up()) == (False, float("inf"), [])


@pytest.mark.parametrize(
    "address",
    [
        "tcp://node2",
        "tcp://node2:",
        "tcp://node2:port",
        "tcp://node2:7003x",
        "tcp://:7003",
        "tcp://no de:7003",
        "tcp://a;b:7003",
        "tcp://[node2]:7003",
        "tcp://[::1:7003",
        "tcp://127.0.0.1",
        "node2:7003",
    ],
)
def test_what_is_no_endpoint_is_refused(address: str) -> None:
    """Before anything is looked up; libzmq would resolve some of these by itself."""
    with pytest.raises(ValueError, match="Invalid argument"):
        Lookup(address, Resolver(), pytest.fail)


def test_several_addresses_take_turns() -> None:
    """In the resolver's order, each once; an address that is no longer among them gives way to the first."""
    lookup = answered(Resolver(node2=["10.0.0.1", "10.0.0.2", "10.0.0.1"]))
    first, second = "tcp://10.0.0.1:7003", "tcp://10.0.0.2:7003"
    assert [lookup.after(endpoint) for endpoint in (None, first, second)] == [first, second, first]
    assert lookup.after("tcp://10.0.0.9:7003") == first


def test_an_ipv6_address_stands_in_brackets() -> None:
    """With the zone of a link-local one, as libzmq reads it."""
    found = [(tcp.AF_INET6, tcp.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, zone)) for zone in (0, 3)]
    lookup = answered(lambda *_, **__: found)
    assert lookup.after(None) == "tcp://[fe80::1]:7003"
    assert lookup.after("tcp://[fe80::1]:7003") == "tcp://[fe80::1%3]:7003"


def test_the_systems_resolver_is_understood() -> None:
    """Its answers, and what it raises for a name that cannot be one; neither asks the network here."""
    assert answered(tcp.getaddrinfo, "tcp://127.1:7003").after(None) == "tcp://127.0.0.1:7003"
    assert "label too long" in str(answered(tcp.getaddrinfo, f"tcp://{'a' * 64}:7003").error)


def test_one_question_is_open_at_a_time() -> None:
    """However often it is asked; the next one begins a second after the last, once that is answered and taken."""
    resolver, go_on, woken = Resolver(node2=["10.0.0.1"]), threading.Event(), threading.Event()
    resolver.held["node2"] = go_on
    lookup = Lookup("tcp://node2:7003", resolver, woken.set)
    for now_s in (0.0, 0.5, 50.0):
        lookup.ask(now_s)
        assert (lookup.take(), lookup.after(None), lookup.due_s) == (False, None, float("inf"))
    go_on.set()
    assert woken.wait(DEADLINE_S)
    lookup.ask(60.0)  # not taken yet
    assert (lookup.take(), lookup.take(), lookup.due_s) == (True, False, 1.0)
    lookup.ask(0.9)
    assert (resolver.asked, lookup.due_s) == (["node2"], 1.0)
    woken.clear()
    lookup.ask(1.0)
    assert woken.wait(DEADLINE_S)
    assert resolver.asked == ["node2", "node2"]


def test_a_failure_leaves_the_earlier_answer() -> None:
    """The resolver may be down for a while, the neighbour not; why is told, and forgotten at the next answer."""
    woken, resolver = threading.Semaphore(0), Resolver()
    lookup = Lookup("tcp://node2:7003", resolver, woken.release)
    told = []
    answers: tuple[list[str] | OSError, ...] = (NO_SUCH_NAME, ["10.0.0.1"], NO_SUCH_NAME, ["10.0.0.2"])
    for now_s, answer in enumerate(answers):
        resolver.hosts["node2"] = answer
        lookup.ask(float(now_s))
        assert woken.acquire(timeout=DEADLINE_S)
        assert lookup.take()
        told.append((lookup.error, lookup.after(None)))
    one, two = "tcp://10.0.0.1:7003", "tcp://10.0.0.2:7003"
    words = "Name or service not known"
    assert told == [(words, None), (None, one), (words, one), (None, two)]


def test_a_machine_without_a_thread_to_spare_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this question, not of the link."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    lookup = Lookup("tcp://node2:7003", Resolver(), pytest.fail)
    lookup.ask(0.0)
    assert (lookup.take(), lookup.error, lookup.due_s) == (True, "can't start new thread", 1.0)


@pytest.mark.system
def test_a_name_that_is_being_looked_up_holds_up_nobody(net: Net) -> None:
    """Not the other neighbour's snapshots, nor the stop; an answer after that goes nowhere."""
    resolver = Resolver(alive=["127.0.0.1"], stuck=["127.0.0.1"])
    go_on = resolver.hold(net, "stuck")
    one = net.link(1, neighbor(2, free_address()))
    settings = net.settings(
        2, neighbor(3, "tcp://stuck:7003"), neighbor(1, named(one, "alive")), resolve=resolver
    )
    with Link(settings) as two:
        for seq in range(20):
            one.publish(frame(1, seq))
            assert order(two, 1, after=(1, seq - 1), timeout_s=DEADLINE_S) == (1, seq)
    assert resolver.asked.count("stuck") == len(looking_up()) == 1
    assert net.told(2, "name_unresolved") == []
    go_on.set()
    until(lambda: not looking_up())


@pytest.mark.system
def test_a_neighbour_that_comes_back_under_another_address_is_heard(net: Net) -> None:
    """Its name leads there by then; the first address stays dead."""
    resolver = Resolver(node1=["127.0.0.1"])
    with Link(net.settings(1, neighbor(2, free_address()))) as one:
        address = named(one, "node1")
        two = net.link(2, neighbor(1, address), resolve=resolver)
        one.publish(frame(1, 0))
        assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    resolver.hosts["node1"] = ["127.0.0.2"]
    one = net.link(1, neighbor(2, free_address()), bind=address.replace("node1", "127.0.0.2"))
    one.publish(frame(1, 0, boot=2))
    assert order(two, 1, after=(1, 0), timeout_s=DEADLINE_S) == (2, 0)


@pytest.mark.system
def test_an_unknown_name_is_told_once_and_asked_again(net: Net) -> None:
    """When it begins to resolve, the neighbour is heard."""
    resolver = Resolver(node1=NO_SUCH_NAME)
    one = net.link(1, neighbor(2, free_address()))
    one.publish(frame(1, 0))
    two = net.link(2, neighbor(1, named(one, "node1")), resolve=resolver)
    until(lambda: len(resolver.asked) >= 3)
    resolver.hosts["node1"] = ["127.0.0.1"]
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    assert net.told(2, "name_unresolved") == [
        {"neighbor": 1, "name": "node1", "error": "Name or service not known"}
    ]
    assert two.statistics().neighbors[1].rebuilds == 0


@pytest.mark.system
@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        (False, "its name leads to another address"),
        (True, HANDSHAKE_FAILED[zmq.Event.HANDSHAKE_FAILED_NO_DETAIL]),
    ],
)
def test_a_neighbour_is_heard_at_the_second_of_two_addresses(net: Net, taken: bool, reason: str) -> None:  # noqa: FBT001 - a parameter of the test
    """Nobody listens at the first one, or somebody with another key."""
    one = net.link(1, neighbor(2, free_address()))
    one.publish(frame(1, 0))
    if taken:
        net.link(4, neighbor(2, free_address()), bind=named(one, "127.0.0.3"))
    two = net.link(2, neighbor(1, named(one, "node1")), resolve=Resolver(node1=["127.0.0.3", "127.0.0.1"]))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    assert net.told(2, "connection_rebuilt") == [{"neighbor": 1, "reason": reason}]


@pytest.mark.system
def test_a_standing_connection_is_not_disturbed_by_a_lookup(net: Net) -> None:
    """A question from before it stood is answered with another address."""
    resolver, address = Resolver(node1=["127.0.0.1"]), free_address()
    two = net.link(2, neighbor(1, address.replace("127.0.0.1", "node1")), resolve=resolver)
    until(lambda: resolver.asked and not looking_up())
    go_on = resolver.hold(net, "node1")
    until(looking_up)
    one = net.link(1, neighbor(2, free_address()), bind=address)
    one.publish(frame(1, 0))
    assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
    resolver.hosts["node1"] = ["127.0.0.3"]
    go_on.set()
    until(lambda: not looking_up())
    for seq in range(1, 4):
        one.publish(frame(1, seq))
        assert order(two, 1, after=(1, seq - 1), timeout_s=DEADLINE_S) == (1, seq)
    assert (two.statistics().neighbors[1].rebuilds, net.told(2, "connection_lost")) == (0, [])


@pytest.mark.system
@pytest.mark.parametrize(("address", "key"), [("tcp://node2", KEYS[2].public), ("tcp://node2:7003", "short")])
def test_a_neighbour_that_no_lookup_can_help_is_one_line_at_the_start(
    net: Net, address: str, key: str
) -> None:
    """A name without a port, a key that is none: the link does not wait for an answer to say so."""
    resolver = Resolver(node2=NO_SUCH_NAME)
    wrong = replace(neighbor(2, address), public_key=key)
    with pytest.raises(LocalError) as caught, Link(net.settings(1, wrong, resolve=resolver)):
        pass
    assert str(caught.value) == (
        f"cannot connect to node 2 at '{address}': Invalid argument; "
        "tcp://HOST:PORT and a public key of 40 characters are right"
    )
    assert not resolver.asked
