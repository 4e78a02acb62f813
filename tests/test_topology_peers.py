"""peers.toml: read, written, one node's view, and one line for whatever is wrong."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import zmq
from hypothesis import given
from hypothesis import strategies as st

from topology.errors import InputError
from topology.peers import Peer, Peers, dump_peers, read_peers

KEYS = {node_id: zmq.curve_keypair()[0].decode() for node_id in range(1, 6)}


def table(node_id: int, listed: list[int], **other: Any) -> dict[str, Any]:
    """A good [[peer]] table, or one made bad by `other`."""
    peer = {"id": node_id, "address": f"tcp://127.0.0.1:{7000 + node_id}", "public_key": KEYS[node_id]}
    return peer | {"neighbors": listed} | other


def ring_tables() -> list[dict[str, Any]]:
    """The ring 1-2-3-4-5-1."""
    return [table(i, [(i - 2) % 5 + 1, i % 5 + 1]) for i in range(1, 6)]


def written(folder: Path, *peers: dict[str, Any], **run: Any) -> Path:
    """peers.toml with these tables."""
    path = folder / "peers.toml"
    path.write_text(tomli_w.dumps({"run": {"id": "test"} | run, "peer": list(peers)}), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    """The one line that a bad file gets, less its path."""
    with pytest.raises(InputError) as caught:
        read_peers(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def test_peers_are_read_in_order_of_id(tmp_path: Path) -> None:
    """And so are each one's neighbours."""
    peers = read_peers(written(tmp_path, *reversed(ring_tables())))
    assert [peer.id for peer in peers.peers] == [1, 2, 3, 4, 5]
    assert [peer.neighbors for peer in peers.peers] == [(2, 5), (1, 3), (2, 4), (3, 5), (1, 4)]


def test_paths_have_defaults(tmp_path: Path) -> None:
    """Only the run's id must be given."""
    peers = read_peers(written(tmp_path, *ring_tables()))
    assert (peers.path, peers.run_id, peers.settings) == (tmp_path / "peers.toml", "test", {})
    assert (peers.data, peers.key, peers.directory) == (
        "shards/node-{id}.npz",
        "keys/node-{id}.key",
        "nodes/{id}",
    )


def test_every_other_key_of_the_run_is_a_setting(tmp_path: Path) -> None:
    """Tables included, unchecked."""
    run = {"policy": "uniform", "epochs": 3, "exchange": {"republish_s": 2.5}, "cooperation": {}}
    assert read_peers(written(tmp_path, *ring_tables(), **run)).settings == run


def test_a_node_sees_its_neighbours_and_its_own_paths(tmp_path: Path) -> None:
    """Relative paths start at the folder of the file; the rest of the network stays out of sight."""
    view = read_peers(written(tmp_path, *ring_tables(), directory="{id}/out-{id}", epochs=2)).view(3)
    assert view.run_id == "test"
    assert view.me.id == 3
    assert [peer.id for peer in view.neighbors] == [2, 4]
    assert [peer.public_key for peer in view.neighbors] == [KEYS[2], KEYS[4]]
    assert view.data == tmp_path / "shards/node-3.npz"
    assert view.key == tmp_path / "keys/node-3.key"
    assert view.directory == tmp_path / "3/out-3"
    assert view.settings == {"epochs": 2}


def test_an_absolute_path_stays_where_it_is(tmp_path: Path) -> None:
    """Only relative ones start at the file."""
    assert read_peers(written(tmp_path, *ring_tables(), data="/srv/{id}.npz")).view(1).data == Path(
        "/srv/1.npz"
    )


def test_an_unknown_id_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    """In one line that names the file."""
    peers = read_peers(written(tmp_path, *ring_tables()))
    with pytest.raises(InputError) as caught:
        peers.view(9)
    assert str(caught.value) == f"{tmp_path}/peers.toml: id 9 is unknown; ids that exist: 1, 2, 3, 4, 5"


def test_a_node_listens_on_every_interface_unless_told_otherwise() -> None:
    """At the port of its address."""
    peer = Peer(1, "tcp://[2001:db8::1]:7001", KEYS[1], ())
    assert peer.bind_address == "tcp://*:7001"
    assert replace(peer, bind="tcp://10.0.0.1:9").bind_address == "tcp://10.0.0.1:9"


def test_a_peer_may_have_no_neighbours(tmp_path: Path) -> None:
    """It trains alone."""
    assert read_peers(written(tmp_path, table(1, []))).view(1).neighbors == ()


def test_every_key_of_zeromq_is_a_key(tmp_path: Path) -> None:
    """The check of Z85 refuses none that curve_keypair makes."""
    for _ in range(50):
        key = zmq.curve_keypair()[0].decode()
        assert read_peers(written(tmp_path, table(1, [], public_key=key))).peers[0].public_key == key


@pytest.mark.parametrize("key", ["", "x" * 39, "x" * 41, "~" * 40, "x" * 39 + "é", "#" * 40])
def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    """Wrong lengths, characters outside Z85, and five characters worth more than four bytes."""
    line = f"peer with id 1: public_key = {key!r} is no CURVE key; 40 characters of Z85"
    assert refusal(written(tmp_path, table(1, [], public_key=key))) == line


def test_an_edge_at_one_end_only_is_refused_with_the_line_to_mend(tmp_path: Path) -> None:
    """It says which peer must add which id."""
    path = written(tmp_path, table(1, [2, 3]), table(2, [1]), table(3, []))
    assert refusal(path) == (
        "peer with id 1: neighbors = [2, 3] names 3, which does not name 1; "
        "add 1 to the neighbors of peer 3, or take 3 out of peer 1's"
    )


@pytest.mark.parametrize(
    ("peers", "line"),
    [
        (
            [table(1, [2, 9]), table(2, [1])],
            "peer with id 1: neighbors = [2, 9] names 9; ids that exist: 1, 2",
        ),
        ([table(1, [1])], "peer with id 1: neighbors = [1] names itself; take 1 out"),
        (
            [table(1, [2, 2]), table(2, [1])],
            "peer with id 1: neighbors = [2, 2] names one twice; name each neighbour once",
        ),
        ([table(1, []), table(1, [])], "id = 1 appears twice; give every node an id of its own"),
        ([table(1, [], id=-3)], "id = -3 is out of bounds; a whole number from 0 to 2^63 - 1"),
        (
            [table(1, []), table(2, [], address="tcp://127.0.0.1:7001")],
            "address tcp://127.0.0.1:7001 belongs to node 1 and to node 2; give node 2 another",
        ),
        (
            [table(1, []), table(2, [], public_key=KEYS[1])],
            f"public_key {KEYS[1]} belongs to node 1 and to node 2; give node 2 another",
        ),
        (
            [table(1, [], address="127.0.0.1:7001")],
            (
                "peer with id 1: address = '127.0.0.1:7001' is no address; "
                "write tcp://host:port, with an IPv6 host in brackets"
            ),
        ),
        (
            [table(1, [], bind="tcp://*:70000")],
            "peer with id 1: bind = 'tcp://*:70000' is no address; write a port from 0 to 65535",
        ),
        ([table(1, [], adress="x")], "peer with id 1: adress is an unknown key; did you mean address?"),
        (
            [table(1, [], colour="x")],
            (
                "peer with id 1: colour is an unknown key; "
                "known keys: id, address, public_key, neighbors, bind, architecture"
            ),
        ),
        ([table(1, [], id=True)], "peer with id True: id = True; should be a whole number"),
        ([table(1, [], id="1")], "peer, entry 1: id = '1'; should be a whole number"),
        ([table(1, [], neighbors=2)], "peer with id 1: neighbors = 2; should be a list in brackets"),
        (
            [table(1, [], neighbors=[2, False])],
            "peer with id 1: neighbors, entry 2 = False; should be a whole number",
        ),
        ([table(1, [], architecture=3)], "peer with id 1: architecture = 3; should be text in quotes"),
        (
            [table(1, [], architecture=" ")],
            "peer with id 1: architecture = ' ' is no name; 1 to 128 printable characters",
        ),
        ([{"id": 1}], "peer with id 1: address is missing; add it"),
        ([], "there is no peer; add a [[peer]] table for each node"),
    ],
)
def test_a_bad_peer_is_refused_in_one_line(tmp_path: Path, peers: list[dict[str, Any]], line: str) -> None:
    """Which names the peer, the field, the value and what would be right."""
    assert refusal(written(tmp_path, *peers)) == line


def test_a_misspelt_key_is_told_before_the_key_it_stands_for(tmp_path: Path) -> None:
    """Not as a missing one."""
    peer = table(1, [])
    peer["neighbours"] = peer.pop("neighbors")
    line = "peer with id 1: neighbours is an unknown key; did you mean neighbors?"
    assert refusal(written(tmp_path, peer)) == line


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"id": 5}, "run: id = 5; should be text in quotes"),
        ({"id": " "}, "run: id = ' ' is no name; 1 to 128 printable characters"),
        ({"id": "x" * 129}, f"run: id = '{'x' * 40}'… is no name; 1 to 128 printable characters"),
        ({"data": 5}, "run: data = 5; should be text in quotes"),
        (
            {"key": "keys/{node}.key"},
            (
                "run: key = 'keys/{node}.key' is no path; "
                "a path in which {id} stands for the node's id, and no other braces"
            ),
        ),
        (
            {"directory": ""},
            "run: directory = '' is no path; a path in which {id} stands for the node's id, and no other braces",
        ),
    ],
)
def test_a_bad_run_table_is_refused_in_one_line(tmp_path: Path, run: dict[str, Any], line: str) -> None:
    """Which names the field, the value and what would be right."""
    assert refusal(written(tmp_path, *ring_tables(), **run)) == line


@pytest.mark.parametrize("template", ["{id!r}", "{id:>9}", "{0}", "{}", "{{id}}", "node-}", "{ id }"])
def test_only_the_bare_id_is_a_placeholder(tmp_path: Path, template: str) -> None:
    """Nothing else of a format string is taken."""
    assert "no other braces" in refusal(written(tmp_path, *ring_tables(), directory=template))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[run]\nid = test\n", "not TOML: Invalid value (at line 2, column 6); mend the syntax there"),
        ("[[peer]]\nid = 1\n", "run is missing; add it"),
        ('[run]\nid = "a"\n', "peer is missing; add it"),
        ('[run]\nid = "a"\n[[peers]]\nid = 1\n', "peers is an unknown key; did you mean peer?"),
        ('[[run]]\nid = "a"\n', "run = [{'id': 'a'}]; should be a table"),
        (
            '[run]\nid = "a"\n[peer]\nid = 1\n',
            "peer = {'id': 1}; write [[peer]] in double brackets above each table",
        ),
        ("peer = [3]\n[run]\nid = 'a'\n", "peer, entry 1 = 3; should be a table"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    """With the line of a syntax error, or the table that is wrong."""
    path = tmp_path / "peers.toml"
    path.write_text(text, encoding="utf-8")
    assert refusal(path) == line


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """The path is the one that was given."""
    assert refusal(tmp_path / "none.toml") == "no such file; name a file that exists"


def test_peers_survive_their_file(tmp_path: Path) -> None:
    """What is written is read back equal, settings and their tables included."""
    settings = {
        "policy": "alone",
        "lockstep": True,
        "architecture": {"paper": {"slope": 0.2, "widths": [64, 12]}},
    }
    me = Peer(1, "tcp://h:1", KEYS[1], (2,), "tcp://*:1", "wide")
    peers = (me, Peer(2, "tcp://[::1]:2", KEYS[2], (1, 3)), Peer(3, "tcp://h:3", KEYS[3], (2,)))
    path = tmp_path / "peers.toml"
    made = Peers(path, "a run", "d/{id}", "k/{id}", "n/{id}", settings, peers)
    path.write_text(dump_peers(made), encoding="utf-8")
    assert read_peers(path) == made


def test_written_peers_read_well() -> None:
    """One [[peer]] a node, its neighbours on one line."""
    made = Peers(None, "r", "d", "k", "n", {"epochs": 2}, (Peer(1, "tcp://h:1", KEYS[1], ()),))
    assert dump_peers(made) == (
        '[run]\nid = "r"\ndata = "d"\nkey = "k"\ndirectory = "n"\nepochs = 2\n\n'
        f'[[peer]]\nid = 1\naddress = "tcp://h:1"\npublic_key = "{KEYS[1]}"\nneighbors = []\n'
    )


def test_a_setting_cannot_take_the_name_of_a_key_of_the_run() -> None:
    """It would silently replace it."""
    made = Peers(None, "r", "d", "k", "n", {"data": {"rule": "iid"}}, ())
    with pytest.raises(ValueError, match=r"\[run\] has its own key data"):
        dump_peers(made)


def test_without_a_file_paths_start_where_the_process_is() -> None:
    """A view can be taken before the file is written."""
    made = Peers(None, "r", "d/{id}", "k", "n", {}, (Peer(1, "tcp://h:1", KEYS[1], ()),))
    assert made.view(1).data == Path("d/1")
    with pytest.raises(InputError, match=r"^peers: id 2 is unknown; ids that exist: 1$"):
        made.view(2)


names = st.text(string.printable.split("\t")[0] + "äß—漢", min_size=1, max_size=40).filter(str.strip)


@given(
    run_id=names, architecture=names, data=st.text("ab/.-_ \\'\"", min_size=1, max_size=20).filter(str.strip)
)
def test_any_name_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, run_id: str, architecture: str, data: str
) -> None:
    """Quotes, backslashes and letters of every alphabet."""
    path = tmp_path_factory.getbasetemp() / "named.toml"
    peer = Peer(1, "tcp://h:1", KEYS[1], (), architecture=architecture)
    made = Peers(path, run_id, data, "k", "n", {"note": run_id}, (peer,))
    path.write_text(dump_peers(made), encoding="utf-8")
    assert read_peers(path) == made
