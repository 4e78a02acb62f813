"""`--insecure`: only in words, only with its like, and never unnoticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner

from harness import NodeProcess, started, wait_until, write_run
from launcher.__main__ import main as dgan_launch
from nets import DEADLINE_S, KEYS, Net, frame, free_address, neighbor, order, until
from node.__main__ import main as dgan_node
from node.check import examine
from relay import Relay
from topology.graph import complete
from transport.errors import LocalError
from transport.link import LinkSettings
from transport.sockets import HANDSHAKE_FAILED

INSECURE: dict[str, Any] = {"keys": None, "insecure": True}
# Which one depends on whose end notices first.
REASONS = ("one end is insecure and the other is not", HANDSHAKE_FAILED[zmq.Event.HANDSHAKE_FAILED_NO_DETAIL])


def log_of(node: NodeProcess) -> list[dict[str, Any]]:
    """The lines of a node's log."""
    return [
        json.loads(line) for line in (node.directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("changes", [{"keys": None}, {"insecure": True}])
def test_a_link_without_keys_is_insecure_only_if_that_is_said(changes: dict[str, Any]) -> None:
    """Keys that are missing by mistake do not open the door, and keys that would not be used are a mistake."""
    with pytest.raises(LocalError, match="has a key pair, or is insecure and has none"):
        replace(LinkSettings(1, "tcp://127.0.0.1:0", KEYS[1]), **changes)


@pytest.mark.system
def test_insecure_links_talk_and_what_they_say_can_be_read(net: Net) -> None:
    """A tap between them sees the frame: that is what is given up."""
    one = net.link(1, neighbor(2, free_address()), **INSECURE)
    with Relay(one.address, record=True) as relay:
        two = net.link(2, neighbor(1, relay.address), **INSECURE)
        sent = frame(1, 0)
        one.publish(sent)
        assert order(two, 1, timeout_s=DEADLINE_S) == (1, 0)
        assert sent in relay.seen


@pytest.mark.system
@pytest.mark.parametrize("secure", [1, 2])
def test_a_secure_link_and_an_insecure_one_never_talk(net: Net, secure: int) -> None:
    """Whichever end is the insecure one; both ends are told why."""
    plain = 3 - secure
    secure_address, plain_address = free_address(), free_address()
    one = net.link(secure, neighbor(plain, plain_address), bind=secure_address)
    two = net.link(plain, neighbor(secure, secure_address), bind=plain_address, **INSECURE)
    one.publish(frame(secure, 0))
    two.publish(frame(plain, 0))
    for node, other in ((secure, plain), (plain, secure)):
        until(lambda: net.told(node, "connection_rebuilt"))  # noqa: B023 - called within this turn
        told = net.told(node, "connection_rebuilt")[0]
        assert told["neighbor"] == other
        assert told["reason"] in REASONS
        until(lambda: net.told(node, "handshake_refused"))  # noqa: B023 - called within this turn
    assert one.latest(plain) is None
    assert two.latest(secure) is None
    for link in (one, two):
        found = link.statistics()
        assert (found.bytes_in, found.bytes_out, found.subscribers) == (0, 0, 0)
        assert not any(row.connected for row in found.neighbors.values())


@pytest.mark.system
def test_without_a_key_a_node_does_not_start_whatever_files_and_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and status 2; a setting of that name is an unknown one."""
    peers = write_run(tmp_path, complete(2), policy="uniform")
    (tmp_path / "keys" / "node-1.key").unlink()
    for name in ("DGAN_INSECURE", "DGAN_NODE_INSECURE", "INSECURE"):
        monkeypatch.setenv(name, "1")
    code, errors = NodeProcess(peers, 1).finish()
    (last,) = [line for line in errors.splitlines() if "dgan-node: error: " in line]
    assert code == 2
    assert "keys/node-1.key: cannot be read" in last
    text = peers.read_text(encoding="utf-8")
    for old, new in (
        ("[run]\n", "[run]\ninsecure = true\n"),
        ("[run.exchange]\n", "[run.exchange]\ninsecure = true\n"),
    ):
        assert old in text
        peers.write_text(text.replace(old, new, 1), encoding="utf-8")
        code, errors = NodeProcess(peers, 1).finish()
        assert code == 2
        assert "unknown setting" in errors
        assert "insecure" in errors


@pytest.mark.system
def test_insecure_nodes_need_no_keys_and_say_what_they_are_everywhere(tmp_path: Path) -> None:
    """In every line of the log and of the metrics, and in status.json; they hear one another."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=40, lockstep=True)
    shutil.rmtree(tmp_path / "keys")
    report = examine(peers, 1, lambda addresses, _: dict.fromkeys(addresses), insecure=True)
    assert report.can_start
    assert [finding.state for finding in report.findings if finding.item == "key"] == ["note"]
    with started(peers, 1, 2, words=["--insecure"]) as nodes:
        for node in nodes.values():
            code, errors = node.finish()
            assert code == 0, errors
            assert all("insecure=True" in line for line in errors.splitlines())
            lines = log_of(node)
            assert lines
            assert all(line["insecure"] is True for line in lines)
            assert all(line["insecure"] is True for line in node.metrics())
            assert node.status()["insecure"] is True
            assert all(row["accepted"] > 0 for row in node.status()["neighbors"].values())


@pytest.mark.system
def test_a_secure_node_and_an_insecure_one_train_past_each_other(tmp_path: Path) -> None:
    """Neither accepts a snapshot of the other's, and the secure one says nothing of being insecure."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=100_000)
    with started(peers, 1) as nodes:
        nodes[2] = NodeProcess(peers, 2, "--insecure")

        def noticed(node: NodeProcess) -> bool:
            return any(line.get("reason") in REASONS for line in log_of(node))

        for node in nodes.values():
            wait_until(lambda: node.status().get("cycle", 0) > 20, what="both training")  # noqa: B023 - within this turn
            wait_until(lambda: noticed(node), what="the other kind noticed")  # noqa: B023 - within this turn
        for node in nodes.values():
            rows = node.status()["neighbors"].values()
            assert [(row["accepted"], row["connected"]) for row in rows] == [(0, False)]
        assert nodes[1].status()["insecure"] is False
        assert not any("insecure" in line for line in (*log_of(nodes[1]), *nodes[1].metrics()))


def test_only_the_node_itself_has_the_option() -> None:
    """A run of the launcher is never insecure; the node's help says what is given up."""
    for command in ("run", "prepare", "compose"):
        done = CliRunner().invoke(dgan_launch, [command, "graph.toml", "--insecure"])
        assert done.exit_code == 2
        assert "No such option" in done.stderr
    assert "read, change or forge" in " ".join(CliRunner().invoke(dgan_node, ["--help"]).output.split())
