"""peers.toml read again by a running node: what is followed, and what is refused in one line."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import NodeProcess, started, wait_until, write_run
from node.check import examine
from node.inputs import NEIGHBORS, check_resumable, neighbor_list
from node.reload import compare
from topology.errors import InputError
from topology.graph import complete
from topology.peers import NodeView, Peer, Peers, dump_peers, read_peers
from transport.keys import make_keys, save_keys

FILE = Path("peers.toml")
LOCKSTEP = {"lockstep": True, "exchange": {"publish_every_cycles": 2, "lockstep_timeout_s": 120}}


def made(*neighbors: int, **changes: Any) -> NodeView:
    """Node 1's view of a run in which everybody has a key of its own."""
    everybody = {i: Peer(i, f"tcp://h:{7000 + i}", f"{i:040d}", (1,)) for i in (2, 3, 4)}
    me = Peer(1, "tcp://h:7001", f"{1:040d}", neighbors)
    view = NodeView("run", me, tuple(everybody[i] for i in neighbors), FILE, FILE, FILE, {"epochs": 3})
    return replace(view, **changes)


def with_peer(view: NodeView, node_id: int, **changes: Any) -> NodeView:
    """The view with one neighbour changed."""
    peers = (replace(peer, **changes) if peer.id == node_id else peer for peer in view.neighbors)
    return replace(view, neighbors=tuple(peers))


def test_a_file_that_is_as_it_was_changes_nothing() -> None:
    """Nor does one in which only the neighbours' own neighbours are others."""
    assert not compare(FILE, made(2, 3), made(2, 3))
    assert not compare(FILE, made(2, 3), with_peer(made(2, 3), 2, neighbors=(1, 4)))


def test_fewer_neighbours_and_other_keys_of_theirs_are_followed() -> None:
    """Both at once, too."""
    change = compare(FILE, made(2, 3, 4), with_peer(made(2, 4), 4, public_key="9" * 40))
    assert (change.gone, change.rekeyed) == ((3,), (4,))
    assert [peer.id for peer in change.view.neighbors] == [2, 4]
    assert compare(FILE, made(2), made()).gone == (2,)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (made(2, 3, 4), "node 4 has become a neighbour"),
        (made(2, 4), "node 4 has become a neighbour"),
        (with_peer(made(2, 3), 3, address="tcp://elsewhere:7003"), "node 3 has changed in more than"),
        (with_peer(made(2), 2, architecture="wide"), "node 2 has changed in more than"),
        (made(2, me=replace(made(2).me, public_key="9" * 40)), "node 1 itself has another public key"),
        (made(2, me=replace(made(2).me, bind="tcp://*:9")), "node 1 itself has changed"),
        (made(2, settings={"epochs": 4}), "[run] has changed"),
        (made(2, run_id="other"), "[run] has changed"),
        (made(2, data=Path("other.npz")), "[run] has changed"),
    ],
)
def test_everything_else_that_changed_is_refused(new: NodeView, words: str) -> None:
    """Even beside a neighbour that is gone: all of the file or none of it."""
    with pytest.raises(InputError) as caught:
        compare(FILE, made(2, 3), new)
    assert words in str(caught.value)


def checkpoint_of(neighbors: str) -> Any:
    """What a checkpoint says of itself, as far as going on from it asks."""
    meta = SimpleNamespace(
        run_id="run", node_id=1, arch_id="a", cycle=1, epoch=1, inputs={NEIGHBORS: neighbors}
    )
    return SimpleNamespace(path=FILE, meta=meta)


def node_with(*neighbors: int) -> Any:
    """A node with these neighbours, as far as going on from a checkpoint asks."""
    view = made(*neighbors)
    schema, settings = SimpleNamespace(arch_id="a"), SimpleNamespace(epochs=1)
    return SimpleNamespace(
        view=view, schema=schema, settings=settings, inputs={NEIGHBORS: neighbor_list(view)}
    )


@pytest.mark.parametrize("left", [(2, 3, 4), (2, 4), (3,), ()])
def test_a_node_goes_on_from_its_checkpoint_with_fewer_neighbours(left: tuple[int, ...]) -> None:
    """A neighbour that was revoked locks nobody out."""
    check_resumable(checkpoint_of("2 3 4"), node_with(*left), cycles=9)


@pytest.mark.parametrize(("saved", "now"), [("2 3", (2, 3, 4)), ("2 3", (2, 4)), ("", (2,)), ("23", (2, 3))])
def test_a_node_does_not_go_on_with_a_neighbour_that_its_checkpoint_does_not_know(
    saved: str, now: tuple[int, ...]
) -> None:
    """Added, or put in another's place."""
    with pytest.raises(InputError, match="the list of neighbours changed"):
        check_resumable(checkpoint_of(saved), node_with(*now), cycles=9)


# --- running nodes ----------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[Peers], Peers]) -> None:
    """Replaces the peers file while nodes run."""
    part = path.with_suffix(".new")
    part.write_text(dump_peers(change(read_peers(path))), encoding="utf-8")
    part.replace(path)


def without(node_id: int) -> Callable[[Peers], Peers]:
    """Takes a node out of everybody's neighbours."""

    def change(peers: Peers) -> Peers:
        rest = (peer for peer in peers.peers if peer.id != node_id)
        shorter = (replace(peer, neighbors=tuple(j for j in peer.neighbors if j != node_id)) for peer in rest)
        return replace(peers, peers=tuple(shorter))

    return change


def with_key(node_id: int, public_key: str) -> Callable[[Peers], Peers]:
    """Gives a node another public key."""

    def change(peers: Peers) -> Peers:
        return replace(
            peers,
            peers=tuple(replace(p, public_key=public_key) if p.id == node_id else p for p in peers.peers),
        )

    return change


def said(node: NodeProcess, event: str) -> list[dict[str, Any]]:
    """The events of that name in a node's log."""
    lines = (node.directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def accepted(node: NodeProcess, neighbor: int) -> int:
    """Snapshots that a node has accepted of a neighbour, by its status."""
    return int(node.status().get("neighbors", {}).get(str(neighbor), {}).get("accepted", 0))


@pytest.mark.system
@pytest.mark.parametrize("settings", [{}, LOCKSTEP], ids=["async", "lockstep"])
def test_a_revoked_node_is_out_while_the_others_train_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    """It hears nothing new though it still runs, the others hear each other, and later resume without it."""
    peers = write_run(tmp_path, complete(3), policy="uniform", epochs=100_000, **settings)
    with started(peers, 1, 2, 3) as nodes:
        for i, node in nodes.items():
            wait_until(lambda: all(accepted(node, j) > 1 for j in {1, 2, 3} - {i}), what="all heard")  # noqa: B023
        rewrite(peers, without(3))
        for i in (1, 2):
            nodes[i].process.send_signal(signal.SIGHUP)
        for i in (1, 2):
            wait_until(lambda: said(nodes[i], "peers file followed"), what="the file followed")  # noqa: B023
            assert said(nodes[i], "peers file followed")[0]["gone"] == [3]
            wait_until(lambda: set(nodes[i].status()["neighbors"]) == {str(3 - i)}, what="3 gone")  # noqa: B023
        heard = {i: accepted(nodes[i], 3 - i) for i in (1, 2)}
        cycles = {i: nodes[i].status()["cycle"] for i in (1, 2)}
        wait_until(lambda: said(nodes[1], "key refused"), what="node 3 refused")
        for i in (1, 2):
            wait_until(lambda: accepted(nodes[i], 3 - i) > heard[i] + 3, what="the others heard")  # noqa: B023
            wait_until(lambda: nodes[i].status()["cycle"] > cycles[i] + 20, what="trained on")  # noqa: B023
        status = nodes[3].status()["neighbors"]
        assert all(status[str(i)]["cycle"] <= cycles[i] for i in (1, 2))
        nodes[1].process.send_signal(signal.SIGTERM)
        assert nodes[1].finish()[0] == 0
        assert examine(peers, 1, lambda addresses, _: dict.fromkeys(addresses)).can_start
        nodes[1] = NodeProcess(peers, 1)
        wait_until(lambda: nodes[1].own_status().get("ready"), what="node 1 resumed")
        assert nodes[1].status()["cycle"] > cycles[1]


@pytest.mark.system
def test_a_node_with_a_new_key_is_heard_again_and_the_old_key_is_not(tmp_path: Path) -> None:
    """Node 2 goes on from its checkpoint under the new key; started with the old one, nobody lets it in."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=100_000)
    with started(peers, 1, 2) as nodes:
        wait_until(lambda: accepted(nodes[1], 2) > 1, what="node 2 heard")
        fresh = make_keys()
        rewrite(peers, with_key(2, fresh.public))
        nodes[1].process.send_signal(signal.SIGHUP)
        wait_until(lambda: said(nodes[1], "peers file followed"), what="the file followed")
        assert said(nodes[1], "peers file followed")[0]["rekeyed"] == [2]
        wait_until(lambda: said(nodes[1], "key refused"), what="the old key refused")
        wait_until(lambda: accepted(nodes[1], 2) == 0, what="what came under the old key forgotten")

        nodes[2].process.send_signal(signal.SIGHUP)  # of its own key a node is told at its start only
        wait_until(lambda: said(nodes[2], "peers file not followed, going on as before"), what="refused")
        assert nodes[2].process.poll() is None
        nodes[2].process.send_signal(signal.SIGTERM)
        assert nodes[2].finish()[0] == 0
        (tmp_path / "keys" / "node-2.key").unlink()
        save_keys(tmp_path / "keys" / "node-2.key", fresh)
        nodes[2] = NodeProcess(peers, 2)
        wait_until(lambda: nodes[2].own_status().get("starts") == 2, what="node 2 back")
        boot = nodes[2].own_status()["boot"]
        wait_until(lambda: nodes[1].status()["neighbors"]["2"]["boot"] == boot, what="node 2 heard again")
        wait_until(lambda: accepted(nodes[2], 1) > 1, what="node 1 heard under the new key")


@pytest.mark.system
def test_a_file_that_cannot_be_followed_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    """A changed setting, then no TOML at all; the node goes on."""
    peers = write_run(tmp_path, complete(3), policy="uniform", epochs=100_000)
    event = "peers file not followed, going on as before"
    whole = peers.read_text(encoding="utf-8")
    with started(peers, 1) as nodes:
        wait_until(lambda: nodes[1].status().get("cycle", 0) > 0, what="training")
        wrong = whole.replace("epochs = 100000", "epochs = 7")
        for count, (text, words) in enumerate([(wrong, "[run] has changed"), ("[", "not TOML")], start=1):
            assert text != whole
            peers.write_text(text, encoding="utf-8")
            nodes[1].process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(said(nodes[1], event)) == count, what="a line in the log")  # noqa: B023
            assert words in said(nodes[1], event)[-1]["error"]
        cycle = nodes[1].status()["cycle"]
        wait_until(lambda: nodes[1].status()["cycle"] > cycle, what="training on")
        assert set(nodes[1].status()["neighbors"]) == {"2", "3"}
