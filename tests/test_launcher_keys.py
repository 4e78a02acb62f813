"""`dgan-launch keys rotate` and `keys revoke`: what they change, and what they leave as it was."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness import write_run
from launcher.__main__ import main
from topology.graph import complete, ring
from topology.peers import Peers, read_peers
from transport.keys import load_keys


@pytest.fixture
def peers_path(tmp_path: Path) -> Path:
    """A run of four nodes on a ring."""
    return write_run(tmp_path, ring(4))


def call(command: str, path: Path, node_id: int) -> Result:
    """`dgan-launch keys COMMAND`."""
    return CliRunner().invoke(main, ["keys", command, str(path), "--id", str(node_id)])


def without_peers(peers: Peers) -> Peers:
    """All but who takes part."""
    return dataclasses.replace(peers, peers=())


def test_rotate_replaces_the_pair_and_the_public_key_and_nothing_else(peers_path: Path) -> None:
    """The settings stay, the others' keys stay, and the command says who must know."""
    before, key = read_peers(peers_path), peers_path.parent / "keys" / "node-3.key"
    old = load_keys(key)
    done = call("rotate", peers_path, 3)
    assert done.exit_code == 0, done.output
    after, new = read_peers(peers_path), load_keys(key)
    assert (new.public, new.secret) != (old.public, old.secret)
    assert after.view(3).me.public_key == new.public
    assert without_peers(after) == without_peers(before)
    for was, now in zip(before.peers, after.peers, strict=True):
        assert dataclasses.replace(now, public_key=was.public_key) == was
        assert (now.public_key == was.public_key) is (was.id != 3)
    assert new.public in done.output
    assert "nodes 2, 4" in done.output
    assert new.secret not in done.output


def test_nothing_of_the_old_secret_is_left(peers_path: Path) -> None:
    """In no file of the run, under whatever name; the new one is private."""
    key = peers_path.parent / "keys" / "node-3.key"
    old = load_keys(key).secret.encode()
    assert call("rotate", peers_path, 3).exit_code == 0
    files = [path for path in peers_path.parent.rglob("*") if path.is_file()]
    assert not [path for path in files if old in path.read_bytes()]
    assert {path.name for path in key.parent.iterdir()} == {f"node-{i}.key" for i in (1, 2, 3, 4)}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_key_behind_a_link_is_replaced_where_it_lies(peers_path: Path, tmp_path: Path) -> None:
    """Else the old secret would stay there."""
    key, store = peers_path.parent / "keys" / "node-3.key", tmp_path / "store.key"
    old = load_keys(key).secret.encode()
    key.rename(store)
    key.symlink_to(store)
    assert call("rotate", peers_path, 3).exit_code == 0
    assert key.is_symlink()
    assert old not in store.read_bytes()
    assert load_keys(key).public == read_peers(peers_path).view(3).me.public_key


def test_a_lost_file_is_made_anew_and_an_open_one_is_closed(peers_path: Path) -> None:
    """The usual reasons to rotate."""
    for node_id, key in (
        (3, peers_path.parent / "keys" / "node-3.key"),
        (2, peers_path.parent / "keys" / "node-2.key"),
    ):
        key.unlink() if node_id == 3 else key.chmod(0o644)
        assert call("rotate", peers_path, node_id).exit_code == 0
        assert load_keys(key).public == read_peers(peers_path).view(node_id).me.public_key


def test_revoke_takes_the_node_and_its_edges_out(peers_path: Path) -> None:
    """Everybody else stays as before, with the settings."""
    before = read_peers(peers_path)
    done = call("revoke", peers_path, 3)
    assert done.exit_code == 0, done.output
    after = read_peers(peers_path)
    assert {peer.id: peer.neighbors for peer in after.peers} == {1: (2, 4), 2: (1,), 4: (1,)}
    assert without_peers(after) == without_peers(before)
    for peer in after.peers:
        was = before.view(peer.id).me
        assert dataclasses.replace(peer, neighbors=was.neighbors) == was
    assert before.view(3).me.public_key not in peers_path.read_text(encoding="utf-8")
    assert "nodes 2, 4" in done.output


def test_to_revoke_a_node_that_nobody_listens_to_any_more_needs_no_neighbour(tmp_path: Path) -> None:
    """Its only neighbour was revoked before it; the next step is the node's own."""
    path = write_run(tmp_path, complete(3))
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("neighbors = [1, 3]", "neighbors = [3]").replace(
            "neighbors = [2, 3]", "neighbors = [3]"
        ),
        encoding="utf-8",
    )
    assert "nodes 1, 2;" in call("revoke", path, 3).output
    assert call("revoke", path, 1).output.endswith("next: stop node 1; it has no neighbours\n")
    assert [peer.id for peer in read_peers(path).peers] == [2]


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_an_unknown_node_or_file_is_one_line_and_changes_nothing(
    peers_path: Path, tmp_path: Path, command: str
) -> None:
    """Status 2."""
    before = peers_path.read_bytes()
    done = call(command, peers_path, 9)
    assert done.exit_code == 2
    assert "1, 2, 3, 4" in done.stderr
    assert call(command, tmp_path / "absent.toml", 3).exit_code == 2
    assert peers_path.read_bytes() == before
    assert len(list((tmp_path / "keys").iterdir())) == 4


def test_the_last_node_cannot_be_revoked(tmp_path: Path) -> None:
    """A file without peers could not be read any more."""
    path = write_run(tmp_path, complete(2))
    assert call("revoke", path, 1).exit_code == 0
    assert read_peers(path).view(2).neighbors == ()
    done = call("revoke", path, 2)
    assert done.exit_code == 2
    assert "the only one" in done.stderr


def test_a_call_that_is_cut_short_leaves_no_node_with_the_old_key(
    peers_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public key is changed first, and giving the command again mends the rest."""

    def cut_short(*_: object) -> None:
        raise OSError(28, "No space left on device")

    key = peers_path.parent / "keys" / "node-3.key"
    old = load_keys(key)
    with monkeypatch.context() as patched:
        patched.setattr("launcher.keys.replace_keys", cut_short)
        assert call("rotate", peers_path, 3).exit_code == 1
    assert read_peers(peers_path).view(3).me.public_key != old.public
    assert call("rotate", peers_path, 3).exit_code == 0
    assert load_keys(key).public == read_peers(peers_path).view(3).me.public_key
