"""`dgan-node --check`: what would keep a node from starting, told without starting it."""

from __future__ import annotations

import json
import os
import socket as tcp
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Never

import numpy as np
import pytest
from click.testing import CliRunner

from harness import started, write_run
from node import check
from node.__main__ import main
from node.check import Finding, examine
from node.checkpoint import list_checkpoints
from node.inputs import locked
from node.shards import Shard, save_shard
from topology.graph import complete, ring
from topology.peers import read_peers
from transport.reach import reach

pytestmark = pytest.mark.system


def nobody_answers(addresses: Sequence[str], _timeout_s: float) -> dict[str, str | None]:
    """A network in which no other node is up."""
    return dict.fromkeys(addresses, "nobody there")


def found(peers: Path, node_id: int = 1) -> dict[str, Finding]:
    """The findings by item."""
    return {finding.item: finding for finding in examine(peers, node_id, nobody_answers).findings}


def problems(peers: Path, node_id: int = 1) -> list[str]:
    """The lines that keep the node from starting."""
    report = examine(peers, node_id, nobody_answers)
    return [str(finding) for finding in report.findings if finding.state == "problem"]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder with the time of its last change, and what is in it."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def replace_in(path: Path, old: str, new: str) -> None:
    """Changes a text file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_node_that_could_start_is_all_ok_but_for_neighbours_that_are_not_up(tmp_path: Path) -> None:
    """Which is a note, and status 0; nothing on the disk is touched."""
    peers = write_run(tmp_path, ring(3))
    before = contents(tmp_path)
    done = CliRunner().invoke(main, ["--id", "1", "--peers", str(peers), "--check"])
    assert done.exit_code == 0, done.output
    states = [line.split(": ")[1] for line in done.output.splitlines()]
    assert states == ["ok"] * 9 + ["note"] * 2
    assert contents(tmp_path) == before


def test_every_item_is_looked_at_whatever_the_others_gave(tmp_path: Path) -> None:
    """A wrong setting, a missing shard, a key open to others and a taken port are four lines of one call."""
    peers = write_run(tmp_path, ring(3), epochs=1)
    replace_in(peers, "epochs = 1\n", "epochs = 0\n")
    (tmp_path / "shards" / "node-1.npz").unlink()
    (tmp_path / "keys" / "node-1.key").chmod(0o644)
    host, port = read_peers(peers).view(1).me.address.removeprefix("tcp://").split(":")
    with tcp.create_server((host, int(port))):
        lines = problems(peers)
    assert [line.split(":")[0] for line in lines] == ["settings", "shard", "key", "port"]
    for line, words in zip(lines, ("epochs = 0", "no such file", "chmod 600", "port is taken"), strict=True):
        assert words in line


@pytest.mark.parametrize(
    ("old", "new", "item", "words"),
    [
        ("batch_size = 10", "batch_size = 41", "shard", "at most 40"),
        ("size = 0", "size = 20", "shard", "images are 8x8x1"),
        ('device = "cpu"', 'device = "cuda:99"', "device", "cuda:99 is not here"),
        ('"tcp://127.0.0.1', '"tcp://192.0.2.1', "port", "cannot listen at"),
    ],
)
def test_what_does_not_fit_is_one_problem(tmp_path: Path, old: str, new: str, item: str, words: str) -> None:
    """The shard to the settings, the device and the address to this machine."""
    peers = write_run(tmp_path, ring(3))
    if item == "port":
        replace_in(peers, "[[peer]]\nid = 1\n", '[[peer]]\nid = 1\nbind = "tcp://192.0.2.1:7003"\n')
    else:
        replace_in(peers, old, new)
    (line,) = problems(peers)
    assert line.startswith(f"{item}: problem: ")
    assert words in line


def test_a_missing_key_or_another_nodes_is_a_problem(tmp_path: Path) -> None:
    """The secret is in no line."""
    peers = write_run(tmp_path, ring(3))
    key = tmp_path / "keys" / "node-1.key"
    secret = key.read_text(encoding="utf-8").split('"')[3]
    assert not any(secret in str(finding) for finding in found(peers).values())
    key.unlink()
    assert "cannot be read" in found(peers)["key"].text
    (tmp_path / "keys" / "node-2.key").rename(key)
    assert found(peers)["key"].state == "problem"
    assert "is not node 1's" in found(peers)["key"].text


@pytest.mark.parametrize("policy", ["alone", "alone-matched"])
def test_alone_needs_neither_key_nor_port(tmp_path: Path, policy: str) -> None:
    """As the node itself, which then opens no link."""
    peers = write_run(tmp_path, ring(3), policy=policy)
    (tmp_path / "keys" / "node-1.key").unlink()
    assert examine(peers, 1, nobody_answers).can_start
    assert "port" not in found(peers)


def test_a_peers_file_that_cannot_be_read_ends_the_check(tmp_path: Path) -> None:
    """Nothing else is known without it; the same for an id that it does not have."""
    (line,) = problems(tmp_path / "absent.toml")
    assert line.startswith("peers file: problem: ")
    (line,) = problems(write_run(tmp_path, ring(3)), node_id=9)
    assert "1, 2, 3" in line


def test_a_directory_in_use_is_a_problem_and_stays_in_use(tmp_path: Path) -> None:
    """The lock is asked for and not taken; once it is free, the check leaves it free."""
    peers = write_run(tmp_path, ring(3))
    view = read_peers(peers).view(1)
    view.directory.mkdir(parents=True)
    with locked(view):
        assert "another process" in found(peers)["lock"].text
        assert found(peers)["lock"].state == "problem"
    assert found(peers)["lock"].state == "ok"
    with locked(view):
        pass


def test_a_file_in_the_place_of_the_directory_is_a_problem(tmp_path: Path) -> None:
    """There, or on the way to it."""
    peers = write_run(tmp_path, ring(3))
    (tmp_path / "nodes").write_text("", encoding="utf-8")
    assert problems(peers) == [
        f"directory: problem: {tmp_path}/nodes: is no directory; a directory, for node files in {tmp_path}/nodes/1"
    ]


@pytest.mark.parametrize("closed", ["nodes/1", "nodes/1/log.jsonl", "nodes/1/checkpoints"])
def test_what_the_node_could_not_write_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """The directory, or a file that another user left in it."""
    peers = write_run(tmp_path, ring(3))
    (tmp_path / "nodes" / "1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "nodes" / "1" / "log.jsonl").touch()
    # Root may write anywhere, and the tests may run as root.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path / closed)
    (line,) = problems(peers)
    assert line.startswith(f"directory: problem: {tmp_path / closed}: cannot be written")


def test_a_torn_count_of_starts_is_a_problem(tmp_path: Path) -> None:
    """The node would refuse to guess it."""
    peers = write_run(tmp_path, ring(3))
    (tmp_path / "nodes" / "1").mkdir(parents=True)
    (tmp_path / "nodes" / "1" / "boot.json").write_text("{", encoding="utf-8")
    (line,) = problems(peers)
    assert line.startswith("starts: problem: ")


def test_the_newest_checkpoint_must_be_one_to_go_on_from(tmp_path: Path) -> None:
    """Whole, of this run, and of the same shard and settings; a torn one gives way to the one before, in a note."""
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=2, checkpoint={"every_epochs": 1})
    with started(peers, 1) as nodes:
        assert nodes[1].finish()[0] == 0
    assert found(peers)["checkpoint"].text.endswith("goes on from cycle 8")
    older, newest = list_checkpoints(tmp_path / "nodes" / "1")
    replace_in(peers, "momentum = 0.9", "momentum = 0.8")
    assert "a setting that training depends on changed" in problems(peers)[0]
    replace_in(peers, "momentum = 0.8", "momentum = 0.9")
    replace_in(peers, "epochs = 2", "epochs = 1")
    assert "at least 2 epochs" in problems(peers)[0]
    replace_in(peers, "epochs = 1", "epochs = 2")

    newest.write_bytes(b"torn")
    before = contents(tmp_path)
    report = examine(peers, 1, nobody_answers)
    notes = [(f.state, f.text) for f in report.findings if f.item == "checkpoint"]
    assert report.can_start
    assert [state for state, _ in notes] == ["note", "ok"]
    assert "would be passed over" in notes[0][1]
    assert str(older) in notes[1][1]
    assert contents(tmp_path) == before
    replace_in(peers, '"test-run"', '"other-run"')
    assert "run_id = 'test-run'" in problems(peers)[0]
    save_shard(tmp_path / "shards" / "node-1.npz", Shard(np.zeros((40, 8, 8, 1), np.uint8)))
    replace_in(peers, '"other-run"', '"test-run"')
    assert "the shard changed" in problems(peers)[0]


def test_a_neighbour_that_answers_is_ok(tmp_path: Path) -> None:
    """Each on its own: node 2 is there, node 3 is not."""
    peers = write_run(tmp_path, ring(3))
    two = read_peers(peers).view(2).me.address.removeprefix("tcp://").split(":")
    with tcp.create_server((two[0], int(two[1]))):
        findings = {finding.item: finding for finding in examine(peers, 1).findings}
    assert (findings["neighbour 2"].state, findings["neighbour 3"].state) == ("ok", "note")
    assert findings["neighbour 2"].text.endswith(" answers")
    assert "Connection refused" in findings["neighbour 3"].text


def test_the_command_tells_a_program_too(tmp_path: Path) -> None:
    """--json has every finding, and the status is 2 with any problem."""
    peers = write_run(tmp_path, ring(3))
    (tmp_path / "keys" / "node-1.key").unlink()
    done = CliRunner().invoke(main, ["--id", "1", "--peers", str(peers), "--check", "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 2
    assert (told["node_id"], told["can_start"]) == (1, False)
    assert {row["item"]: row["state"] for row in told["findings"]}["key"] == "problem"
    done = CliRunner().invoke(main, ["--id", "1", "--peers", str(peers), "--json"])
    assert done.exit_code == 2
    assert "--json goes with --check" in done.stderr


def test_a_new_node_is_checked_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes seconds to load; only a checkpoint or a GPU needs it."""

    def never(_settings: object) -> str:
        raise AssertionError

    monkeypatch.setattr(check, "_look_at_checkpoint", never)
    monkeypatch.setattr(check, "_device", never)
    assert examine(write_run(tmp_path, ring(3)), 1, nobody_answers).can_start


# --- reaching ---------------------------------------------------------------------------------------------------


def test_a_name_that_the_resolver_is_slow_about_is_given_up() -> None:
    """The call returns while its thread is still at it."""
    answered = threading.Event()

    def connect(*_: object, **__: object) -> Never:
        answered.wait()
        raise ConnectionRefusedError

    try:
        assert reach(["tcp://slow:1"], 0.05, connect) == {"tcp://slow:1": "no answer within 0.05 s"}
    finally:
        answered.set()


def test_every_address_has_an_answer_of_its_own() -> None:
    """No such name, nobody there, somebody there."""
    asked: list[tuple[str, int]] = []

    class Open:
        def __enter__(self) -> None:
            """Stands."""

        def __exit__(self, *_: object) -> None:
            """Closed at once."""

    def connect(address: tuple[str, int], timeout: float) -> Open:
        asked.append(address)
        if address[0] == "nowhere":
            raise tcp.gaierror(tcp.EAI_NONAME, "Name or service not known")
        if address[0] == "silent":
            raise TimeoutError
        assert timeout == 5.0
        return Open()

    names = ["tcp://nowhere:1", "tcp://silent:2", "tcp://here:3", "tcp://[::1]:4"]
    assert reach(names, 5.0, connect) == {
        "tcp://nowhere:1": "the name has no address: Name or service not known",
        "tcp://silent:2": "no answer within 5 s",
        "tcp://here:3": None,
        "tcp://[::1]:4": None,
    }
    assert sorted(asked) == [("::1", 4), ("here", 3), ("nowhere", 1), ("silent", 2)]
