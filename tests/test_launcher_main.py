"""`dgan-launch`: its commands, its one-line errors, and runs of real nodes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from launcher.__main__ import main
from topology.files import read_graph
from topology.graph import ring
from topology.peers import read_peers

ROOT = Path(__file__).parent.parent
DEADLINE_S = 90.0


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(own_folder: Path) -> None:
    (own_folder / "ring.toml").write_text('name = "ring"\nedges = [[1, 2], [2, 3], [3, 1]]\n')


def launch(*arguments: str) -> Result:
    """One command, in this process."""
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", [[], ["run"], ["prepare"], ["compose"], ["graph"]])
def test_every_help_holds_an_example(command: list[str]) -> None:
    """With a line that can be typed."""
    result = launch(*command, "--help")
    assert result.exit_code == 0
    assert re.search(r"Example:\n +dgan-launch \w+", result.stdout)


def test_graph_prints_what_read_graph_reads() -> None:
    """A ring of five."""
    result = launch("graph", "ring", "--nodes", "5")
    assert result.exit_code == 0
    Path("five.toml").write_text(result.stdout)
    assert read_graph(Path("five.toml")) == ring(5)


@pytest.mark.parametrize("kind", ["regular", "small-world", "random"])
def test_random_graphs_follow_their_seed(kind: str) -> None:
    """Same seed, same text; another seed, another graph."""
    first, same, other = (launch("graph", kind, "--nodes", "20", "--seed", seed).stdout for seed in "112")
    assert first == same != other


def test_a_dry_run_shows_the_plan_and_touches_no_disk() -> None:
    """Not even the default run directory."""
    before = sorted(Path().rglob("*"))
    result = launch("run", "ring.toml", "--epochs", "2", "--base-port", "9000", "--dry-run")
    assert result.exit_code == 0
    assert "tcp://127.0.0.1:9003  paper         479     28" in result.stdout
    assert sorted(Path().rglob("*")) == before


def test_prepare_twice_says_that_nothing_changed() -> None:
    """And tells how each node is started by hand."""
    command = ["prepare", "ring.toml", "--run-dir", "runs/a"]
    first, second = launch(*command), launch(*command)
    assert first.exit_code == second.exit_code == 0
    assert first.stdout.splitlines()[0] == "runs/a: prepared"
    assert second.stdout.splitlines()[0] == "runs/a: prepared already, nothing changed"
    assert first.stdout.splitlines()[3] == "dgan-node --id 3 --peers runs/a/peers.toml"


def test_the_default_run_directory_names_graph_and_policy() -> None:
    """And the time."""
    launch("prepare", "ring.toml", "--policy", "uniform")
    (made,) = Path("runs").iterdir()
    assert re.fullmatch(r"ring-uniform-\d{8}-\d{6}", made.name)


def test_settings_come_from_the_file_then_the_options_then_set() -> None:
    """Later ones win, and settings that nobody names keep the preset's."""
    Path("mine.toml").write_text("epochs = 7\nseed = 7\n[training]\nthreads = 3\n")
    options = ["--settings", "mine.toml", "--epochs", "8", "--lockstep", "--set", "training.threads=2"]
    result = launch("prepare", "ring.toml", "--run-dir", "a", *options, "--policy", "alone")
    assert result.exit_code == 0, result.stderr
    record = json.loads(Path("a/run.json").read_text())["inputs"]["settings"]
    assert (record["epochs"], record["seed"], record["training"]["threads"]) == (8, 7, 2)
    assert (record["lockstep"], record["policy"], record["training"]["batch_size"]) == (True, "alone", 32)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "absent.toml"], r"absent.toml: no such file; .*"),
        (
            ["run", "ring.toml", "--data", "absent"],
            r"--data: .*absent' is neither a data set nor a folder; .*",
        ),
        (
            ["run", "ring.toml", "--set", "training.treads=2"],
            r"--set: unknown setting training.treads; did you mean training.threads\?",
        ),
        (["run", "ring.toml", "--set", "epochs"], r"--set: 'epochs' is no assignment; section.key=value"),
        (["run", "ring.toml", "--epochs", "0"], r"command line: epochs = 0; .*"),
        (
            ["run", "ring.toml", "--settings", "bad.toml"],
            r"bad.toml: unknown setting epoch; did you mean epochs\?",
        ),
        (["run", "ring.toml", "--settings", "absent.toml"], r"absent.toml: no such file; .*"),
        (["run", "ring.toml", "--settings", "ring.txt"], r"ring.txt: not TOML: .*"),
        (["run", "ring.toml", "--base-port", "65535"], r"--base-port: 65535 gives node 1 port 65536; .*"),
        (
            ["run", "ring.toml", "--set", "split.images_per_node=9999"],
            r"split.images_per_node: 9999 for each of 3 nodes, .*",
        ),
        (
            ["run", "ring.toml", "--policy", "none"],
            r"Invalid value for '--policy' \(env var: 'DGAN_POLICY'\): .*see `dgan-launch run --help`",
        ),
        (["run", "ring.toml", "--engine", "ray"], r"Invalid value for '--engine': .*"),
        (["run"], r"Missing argument 'GRAPH'; see .*"),
        (["graph", "ring", "--nodes", "2"], r"graph ring: nodes = 2 is too few; at least 3"),
        (["graph", "ring", "--nodes", "5", "--degree", "3"], r"--degree: 3 means nothing for a ring; .*"),
        (
            ["graph", "regular", "--nodes", "5", "--degree", "3"],
            r"graph regular of 5 nodes and degree 3: .* must be even",
        ),
        (
            ["prepare", "ring.toml", "--address", "tcp://machine:7000"],
            r"--address: address tcp://machine:7000 belongs to node 1 and to node 2; .*",
        ),
        (["run", "ring.toml", "--address", "node{id}"], r"--address: node 1: address = 'node1' is no .*"),
        (["prepare", "ring.toml", "--data", ""], r"--data: an empty text; digits, .*, or a folder"),
        (["compose", "absent.toml"], r"absent.toml: no such file; .*"),
        (["compose"], r"Missing argument 'GRAPH'; see .*"),
    ],
)
def test_wrong_input_is_one_clear_line_and_exit_2(arguments: list[str], line: str) -> None:
    """No traceback, and nothing is written."""
    Path("bad.toml").write_text("epoch = 3\n")
    Path("ring.txt").write_text("1 2\n2 3\n")
    result = launch(*arguments)
    assert result.exit_code == 2
    assert re.fullmatch(f"dgan-launch: error: {line}\n", result.stderr), result.stderr
    assert not Path("runs").exists()


def test_a_data_set_named_by_a_variable_is_refused_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by the option where that was given."""
    monkeypatch.setenv("DGAN_DATA", "absent")
    result = launch("prepare", "ring.toml")
    assert result.exit_code == 2
    assert re.fullmatch(r"dgan-launch: error: DGAN_DATA: '.*absent' is neither .*\n", result.stderr)
    result = launch("prepare", "ring.toml", "--data", "missing")
    assert re.fullmatch(r"dgan-launch: error: --data: '.*missing' is neither .*\n", result.stderr)


def test_an_address_for_all_nodes_stands_in_peers_toml() -> None:
    """Without a bind; another address, or none, is another run."""
    table = '[[node]]\nid = 2\naddress = "tcp://10.0.0.2:7000"\nbind = "tcp://*:7200"\n'
    Path("far.toml").write_text(f"edges = [[1, 2]]\n{table}")
    command = ["prepare", "far.toml", "--run-dir", "a"]
    assert launch(*command, "--address", "tcp://node{id}:7000").exit_code == 0
    peers = read_peers(Path("a/peers.toml")).peers
    assert [(peer.address, peer.bind) for peer in peers] == [
        ("tcp://node1:7000", None),
        ("tcp://node2:7000", None),
    ]
    before = Path("a/peers.toml").read_bytes()
    assert "nothing changed" in launch(*command, "--address", "tcp://node{id}:7000").stdout
    for other, told in ((["--address", "tcp://node{id}:7001"], '"tcp://node{id}:7001"'), ([], "not set")):
        result = launch(*command, *other)
        assert result.exit_code == 2
        assert f'another run: address is "tcp://node{{id}}:7000" there and {told} here' in result.stderr
    assert Path("a/peers.toml").read_bytes() == before


def test_prepare_hands_out_a_folder_for_each_node() -> None:
    """The commands that start nodes in the run directory are then of no use, and twice is once."""
    command = ["prepare", "ring.toml", "--run-dir", "a", "--hand-out", "machines"]
    for told in ("a: prepared", "a: prepared already, nothing changed"):
        result = launch(*command)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines() == [
            told,
            "machines: a folder for each of 3 nodes, and one for the evaluator",
        ]
    assert {path.name for path in Path("machines").iterdir()} == {"1", "2", "3", "evaluator"}
    assert not Path("machines/1/keys/node-2.key").exists()
    result = launch("prepare", "ring.toml", "--run-dir", "b", "--hand-out", "machines")
    assert result.exit_code == 2
    assert re.fullmatch(
        r"dgan-launch: error: machines/1/peers.toml: is not of the run in b; .*\n", result.stderr
    )


def test_compose_prints_what_docker_compose_reads() -> None:
    """Nothing but the file, which ends with a newline."""
    result = launch("compose", "ring.toml")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert {"init", "evaluator", "node1", "node3"} <= yaml.safe_load(result.stdout)["services"].keys()
    assert result.stdout.endswith(":\n")


def test_the_directory_of_another_run_is_refused_with_exit_2() -> None:
    """The line names the field and both values."""
    launch("prepare", "ring.toml", "--run-dir", "a")
    result = launch("run", "ring.toml", "--run-dir", "a", "--seed", "5")
    assert result.exit_code == 2
    assert result.stderr == (
        "dgan-launch: error: a/run.json: the run directory belongs to another run: "
        "seed is 0 there and 5 here; give the run's own, or another --run-dir\n"
    )


def test_a_disk_that_refuses_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, since nothing in the command is wrong."""

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launcher.prepare.prepare_shards", refuse)
    result = launch("prepare", "ring.toml", "--run-dir", "a")
    assert result.exit_code == 1
    assert result.stderr == "dgan-launch: error: [Errno 28] No space left on device\n"


def test_a_finished_run_is_not_started_again() -> None:
    """Every node's status says so."""
    launch("prepare", "ring.toml", "--run-dir", "a")
    for node_id in (1, 2, 3):
        status = Path(f"a/nodes/{node_id}/status.json")
        status.parent.mkdir(parents=True)
        status.write_text('{"state": "finished", "pid": 1}')
    result = launch("run", "ring.toml", "--run-dir", "a")
    assert result.exit_code == 0
    assert "all nodes have finished already" in result.stdout


# --- real nodes ------------------------------------------------------------------------------------------------


@pytest.fixture
def base_port() -> int:
    """A base whose next three ports are free."""
    while True:
        base = random.randrange(20_000, 30_000)
        try:
            for port in range(base + 1, base + 4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(base_port: int) -> Iterator[Start]:
    """`start(*options)` runs the ring of three in a process of its own; ends it in any case."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "launcher",
            "run",
            "ring.toml",
            "--run-dir",
            "a",
            "--base-port",
            str(base_port),
        ]
        small = [
            "--set",
            "split.images_per_node=64",
            "--set",
            "training.batch_size=16",
            "--set",
            "exchange.linger_s=5",
        ]
        started.append(
            subprocess.Popen(
                [*command, *small, *options], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ),
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def status(node_id: int) -> dict[str, Any]:
    """A node's status, empty before it has one."""
    try:
        return dict(json.loads(Path(f"a/nodes/{node_id}/status.json").read_text()))
    except FileNotFoundError:
        return {}


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Polls until the condition holds, and fails after the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.05)


def all_training() -> bool:
    """Whether every node has trained a cycle."""
    return all(
        status(node_id).get("state") == "training" and status(node_id)["cycle"] > 0 for node_id in (1, 2, 3)
    )


@pytest.mark.system
def test_three_nodes_train_to_the_end(start: Start) -> None:
    """Exit status 0, every node finished, in processes of their own."""
    process = start("--epochs", "3")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out + err
    assert [status(node_id)["state"] for node_id in (1, 2, 3)] == ["finished"] * 3
    assert len({status(node_id)["pid"] for node_id in (1, 2, 3)}) == 3
    assert "finished: all 3 nodes" in out


@pytest.mark.system
def test_ctrl_c_stops_a_run_and_the_same_command_resumes_it(start: Start) -> None:
    """Exit status 130 with everything saved; then to the end from there, with the same identities."""
    process = start("--epochs", "400")
    wait_for("three training nodes", all_training)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, out + err
    assert out.splitlines()[-1] == "stopped: run the same command to resume"
    assert [status(node_id)["state"] for node_id in (1, 2, 3)] == ["stopped"] * 3
    peers, boots = Path("a/peers.toml").read_bytes(), [status(node_id)["boot"] for node_id in (1, 2, 3)]
    process = start("--epochs", "400")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out + err
    assert out.splitlines()[0] == "a: resumed, 3 nodes"
    assert Path("a/peers.toml").read_bytes() == peers
    assert all(status(node_id)["boot"] > boot for node_id, boot in zip((1, 2, 3), boots, strict=True))


@pytest.mark.system
def test_a_node_killed_by_kill_9_comes_back_and_the_run_finishes(start: Start) -> None:
    """The launcher restarts it by itself."""
    process = start("--epochs", "400")
    wait_for("three training nodes", all_training)
    os.kill(status(2)["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out + err
    assert "node 2 was killed by SIGKILL; again in" in out
    assert [status(node_id)["starts"] for node_id in (1, 2, 3)] == [1, 2, 1]


@pytest.mark.system
def test_a_node_that_hangs_is_killed_and_comes_back(start: Start) -> None:
    """SIGSTOP: nothing but its silence tells, and nothing but SIGKILL ends it."""
    process = start("--epochs", "400", "--hang-after", "10")
    wait_for("three training nodes", all_training)
    os.kill(status(2)["pid"], signal.SIGSTOP)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out + err
    assert "node 2 killed: no sign of life for 10 s" in out
    assert status(2)["starts"] > 1


@pytest.mark.system
def test_a_port_that_is_taken_is_told_and_not_tried_again(start: Start, base_port: int) -> None:
    """Node 2 cannot bind: exit status 2 for it and, once the others are through, for the launcher."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", base_port + 2))
        squatter.listen()
        process = start("--epochs", "2")
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, out + err
    assert re.search(r"dgan-launch: error: node 2 refused: .*; see a/nodes/2/console.log", err)
    assert out.count("node 2 started") == 1
    assert status(1)["state"] == status(3)["state"] == "finished"
