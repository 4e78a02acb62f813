"""Real node processes, each started with nothing but `--id` and `--peers`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from harness import NodeProcess, free_ports, started, wait_until, write_run
from node.check import examine
from node.checkpoint import list_checkpoints, load_newest
from node.config import Architecture
from node.hardware import prepare_processor
from node.inputs import read_settings, with_image_shape
from node.shards import Shard, load_shard, save_shard
from node.snapshots import schema
from node.trainer import Trainer
from relay import Relay
from topology.files import write_graph
from topology.graph import complete, ring
from topology.peers import read_peers
from trainers import same
from transport.wire import MAGIC, Snapshot, encode

pytestmark = pytest.mark.system


def read(path: Path) -> dict[str, Any]:
    """A JSON file's object, {} where there is none yet."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not merely waiting to be buried."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def finish_all(nodes: dict[int, NodeProcess]) -> None:
    """Every node ends by itself with status 0 and the state `finished`."""
    for node in nodes.values():
        code, errors = node.finish()
        assert code == 0, errors
        assert node.status()["state"] == "finished"


def test_nodes_started_in_any_order_exchange_with_their_neighbours_only(tmp_path: Path) -> None:
    """A ring of four: each node is late for somebody, all finish, and 1 never hears of 3."""
    peers = write_run(tmp_path, ring(4), policy="uniform", epochs=60)
    with started(peers, 3, 1) as nodes:
        wait_until(lambda: nodes[1].status().get("ready"), what="node 1 ready")
        for node_id in (4, 2):
            nodes[node_id] = NodeProcess(peers, node_id)
        finish_all(nodes)
        for node_id, node in nodes.items():
            status = node.status()
            expected = {str(j) for j in ring(4).neighbors(node_id)}
            assert set(status["neighbors"]) == expected
            assert set(status["chosen"]) <= expected
            assert all(row["accepted"] > 0 for row in status["neighbors"].values())


def test_a_node_that_comes_late_finds_its_neighbours_snapshots_at_once(tmp_path: Path) -> None:
    """It uses one in its very first lines of metrics, though the others have finished training."""
    peers = write_run(
        tmp_path, ring(3), policy="uniform", epochs=10, cooperation={"consider_probability": 1.0}
    )
    with started(peers, 1, 2) as nodes:
        wait_until(
            lambda: all(n.status().get("state") == "lingering" for n in nodes.values()), what="two finished"
        )
        nodes[3] = NodeProcess(peers, 3)
        finish_all(nodes)
        lines = nodes[3].metrics()
        assert sum(line["skipped"] for line in lines) < 10
        assert sum(sum(line["chosen"].values()) for line in lines) > 30


def test_a_killed_node_resumes_and_is_heard_again(tmp_path: Path) -> None:
    """`kill -9` in mid-run: it comes back from its checkpoint with a higher boot, and its neighbour accepts it."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=200, checkpoint={"every_epochs": 5})
    with started(peers, 1, 2) as nodes:

        def heard() -> int:
            """Snapshots of node 2 that node 1 has accepted."""
            return int(nodes[1].status().get("neighbors", {}).get("2", {}).get("accepted", 0))

        wait_until(lambda: heard() > 0, what="node 2 heard")
        wait_until(lambda: list_checkpoints(nodes[2].directory), what="a checkpoint of node 2")
        nodes[2].kill()
        saved, before = load_newest(nodes[2].directory).meta, heard()
        nodes[2] = NodeProcess(peers, 2)
        wait_until(lambda: heard() > before + 2, what="node 2 heard again")
        finish_all(nodes)
        boot = nodes[2].status()["boot"]
        assert boot > saved.boot
        assert nodes[2].status()["starts"] == 2
        cycles = [line["cycle"] for line in nodes[2].metrics() if line["boot"] == boot]
        assert saved.cycle < cycles[0] <= saved.cycle + 10


def test_a_node_whose_folder_was_deleted_is_heard_again(tmp_path: Path) -> None:
    """It begins at cycle 0, and its neighbour, which has seen more of it, accepts it all the same."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=100_000)
    with started(peers, 1, 2) as nodes:

        def heard() -> dict[str, Any]:
            """What node 1 has of node 2."""
            return dict(nodes[1].status().get("neighbors", {}).get("2", {}))

        wait_until(lambda: (heard().get("cycle") or 0) >= 50, what="50 cycles of node 2 heard")
        nodes[2].kill()
        before = heard()
        shutil.rmtree(nodes[2].directory)
        nodes[2] = NodeProcess(peers, 2)
        wait_until(lambda: heard()["accepted"] > before["accepted"] + 2, what="node 2 heard again")
        assert heard()["boot"] == nodes[2].status()["boot"] > before["boot"]
        assert heard()["refused"] == before["refused"]
        assert nodes[2].status()["starts"] == 1


def test_sigterm_saves_and_the_next_start_goes_on_from_there(tmp_path: Path) -> None:
    """Exit status 0, state `stopped`, not one cycle lost."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=400)
    with started(peers, 1, 2) as nodes:
        wait_until(lambda: nodes[1].status().get("cycle", 0) >= 20, what="20 cycles")
        nodes[1].process.send_signal(signal.SIGTERM)
        code, errors = nodes[1].finish(10)
        assert code == 0, errors
        assert nodes[1].status()["state"] == "stopped"
        stopped = load_newest(nodes[1].directory).meta.cycle
        assert stopped >= 20
        nodes[1] = NodeProcess(peers, 1)
        finish_all(nodes)
        boot = nodes[1].status()["boot"]
        assert min(line["cycle"] for line in nodes[1].metrics() if line["boot"] == boot) <= stopped + 10


def test_a_status_is_fresh_however_rarely_metrics_are_written(tmp_path: Path) -> None:
    """Whoever looks whether a node lives sees it move; no line of metrics is due before the last cycle."""
    output = {"metrics_every_cycles": 1_000_000, "samples_every_epochs": 1000}
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=100_000, output=output)
    with started(peers, 1) as nodes:
        seen: set[int] = set()
        wait_until(
            lambda: seen.add(nodes[1].status().get("cycle", 0)) or len(seen) > 3, what="a moving cycle"
        )
        assert not (nodes[1].directory / "metrics.jsonl").exists()


def test_pictures_are_drawn_with_the_average_where_one_is_kept(tmp_path: Path) -> None:
    """The same training draws others without."""
    pictures, learnt = [], []
    for decay in (0.0, 0.9):
        settings = {"generator": {"ema_decay": decay}, "output": {"samples_every_epochs": 5}}
        peers = write_run(tmp_path / str(decay), complete(2), policy="alone", epochs=5, **settings)
        with started(peers, 1) as nodes:
            finish_all(nodes)
        pictures.append((nodes[1].directory / "samples" / "epoch-0005.png").read_bytes())
        learnt.append(load_newest(nodes[1].directory).part("generator"))
    assert same(*learnt)
    assert pictures[0] != pictures[1]


def final_files(folder: Path, node_ids: tuple[int, ...]) -> dict[int, tuple[str, bytes]]:
    """Name and content of each node's last checkpoint."""
    newest = {node_id: list_checkpoints(folder / "nodes" / str(node_id))[-1] for node_id in node_ids}
    return {node_id: (path.name, path.read_bytes()) for node_id, path in newest.items()}


@pytest.mark.parametrize("policy", ["info-gain", "territories"])
def test_lockstep_runs_with_one_seed_end_in_equal_files_even_after_kill_9(
    tmp_path: Path, policy: str
) -> None:
    """Weights, optimiser and random states of all nodes, bit for bit: twice undisturbed, once with a node killed.

    37 cycles in blocks of 10 end in a short block; nodes of unequal size run through different numbers of cycles.
    """
    settings: dict[str, Any] = {
        "policy": policy,
        "lockstep": True,
        "epochs": 37,
        "exchange": {"publish_every_cycles": 10},
    }
    graph, files = ring(3), []
    for name in ("first", "second", "killed"):
        peers = write_run(tmp_path / name, graph, images=20, **settings)
        save_shard(tmp_path / name / "shards" / "node-2.npz", Shard(np.full((35, 8, 8, 1), 9, np.uint8)))
        with started(peers, *graph.ids) as nodes:
            if name == "killed":
                wait_until(
                    lambda nodes=nodes: len(list_checkpoints(nodes[1].directory)) >= 2,
                    what="two blocks of node 1",
                )
                nodes[1].kill()
                nodes[1] = NodeProcess(peers, 1)
            finish_all(nodes)
            assert all(
                node.status()["starts"] == (2 if name == "killed" and i == 1 else 1)
                for i, node in nodes.items()
            )
        files.append(final_files(tmp_path / name, graph.ids))
    assert files[0][2][0] == "cycle-00000111.safetensors"
    assert files[0] == files[1]
    assert files[0] == files[2]


def in_one_process(peers: Path, node_ids: tuple[int, int], block_cycles: int) -> dict[int, Trainer]:
    """What two nodes do in lockstep, done without sockets, processes or files; on one thread, as a node computes."""
    prepare_processor(1)
    trainers, published = {}, {}
    for node_id in node_ids:
        view = read_peers(peers).view(node_id)
        shard = load_shard(view.data)
        settings = with_image_shape(read_settings(peers, view), shard, view.data)
        neighbor_ids = [peer.id for peer in view.neighbors]
        trainers[node_id] = Trainer(settings, "paper", node_id, shard, neighbor_ids=neighbor_ids)
        published[node_id] = deepcopy(trainers[node_id].discriminator).requires_grad_(requires_grad=False)
    for cycle in range(trainers[node_ids[0]].cycles):
        if cycle % block_cycles == 0:
            for node_id, trainer in trainers.items():
                published[node_id].load_state_dict(trainer.discriminator.state_dict())
            for node_id, trainer in trainers.items():
                trainer.average({j: published[j] for j in node_ids if j != node_id})
        for node_id, trainer in trainers.items():
            trainer.cycle(lambda node_id=node_id: {j: published[j] for j in node_ids if j != node_id})
    return trainers


def test_a_lockstep_node_stopped_in_mid_block_resumes_to_the_same_end(tmp_path: Path) -> None:
    """SIGTERM saves between two publishes; the blocks in use come back from the checkpoint, and are not averaged again.

    It is the end that the algorithm alone comes to, in one process.
    """
    settings: dict[str, Any] = {"lockstep": True, "epochs": 20, "exchange": {"publish_every_cycles": 25}}
    files = []
    for name in ("straight", "stopped"):
        peers = write_run(tmp_path / name, complete(2), policy="territories", **settings)
        with started(peers, 1, 2) as nodes:
            if name == "stopped":
                wait_until(lambda nodes=nodes: nodes[1].status().get("cycle", 0) > 0, what="the first cycles")
                nodes[1].process.send_signal(signal.SIGTERM)
                assert nodes[1].finish(10)[0] == 0
                nodes[1] = NodeProcess(peers, 1)
            finish_all(nodes)
        files.append(final_files(tmp_path / name, (1, 2)))
    assert files[0] == files[1]
    threads = torch.get_num_threads()
    trainers = in_one_process(tmp_path / "stopped" / "peers.toml", (1, 2), 25)
    torch.set_num_threads(threads)
    for node_id, trainer in trainers.items():
        saved = load_newest(tmp_path / "stopped" / "nodes" / str(node_id)).tensors
        assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.state().items())


def test_nodes_of_different_architectures_train_together(tmp_path: Path) -> None:
    """Each keeps its own structure and uses the other's."""
    wide = {"discriminator_widths": [6, 12], "generator_widths": [6], "latent_size": 12}
    peers = write_run(
        tmp_path, complete(2), policy="info-gain", epochs=20, lockstep=True, architecture={"wide": wide}
    )
    text = peers.read_text(encoding="utf-8")
    peers.write_text(
        text.replace("[[peer]]\nid = 2\n", '[[peer]]\nid = 2\narchitecture = "wide"\n'), encoding="utf-8"
    )
    with started(peers, 1, 2) as nodes:
        finish_all(nodes)
        assert load_newest(nodes[1].directory).meta.architecture == "paper"
        assert load_newest(nodes[2].directory).meta.architecture == "wide"
        for node in nodes.values():
            assert sum(node.status()["chosen"].values()) > 0


def frame_bytes(architecture: Architecture, weights: dict[str, torch.Tensor]) -> int:
    """Size of a frame of node 1 in the test run, whose discriminator has these weights."""
    expected = schema("paper", architecture, 8, 1)
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    snapshot = Snapshot("test-run", 1, expected.arch_id, 1, 1, 1, done=False, blocks=(arrays,))
    return len(encode(snapshot, expected, "float32"))


def test_what_crosses_the_wire_is_snapshots_and_none_of_it_is_plain(tmp_path: Path) -> None:
    """Node 1 publishes to two neighbours through a relay: bytes = frame x publishes x neighbours, within 2%.

    The discriminator is the paper's at 8x8, 55 kB, since a handshake of 1 kB would drown out a smaller one.
    """
    architecture = Architecture(discriminator_widths=(64, 64, 12), generator_widths=(8,))
    tables = {"paper": architecture.model_dump(mode="json")}
    peers = write_run(tmp_path, complete(3), policy="uniform", epochs=25, architecture=tables)
    text = peers.read_text(encoding="utf-8")
    address = next(line for line in text.splitlines() if line.startswith("address = ")).split('"')[1]
    port = int(address.rpartition(":")[2])
    with Relay(f"tcp://127.0.0.1:{port}", record=True) as relay:
        relayed = text.replace(f'"{address}"', f'"{relay.address}"\nbind = "{address}"', 1)
        peers.write_text(relayed, encoding="utf-8")
        with started(peers, 1, 2, 3) as nodes:
            finish_all(nodes)
            reported = nodes[1].metrics()[-1]["bytes_out"]
            status, weights = nodes[1].status(), load_newest(nodes[1].directory).part("discriminator")
    passed = sum(len(stream) for stream in relay.streams)
    assert len(status["neighbors"]) == 2
    assert passed >= reported > 0
    # What followed the last line of metrics is the final frame, its repeats while lingering, and nothing else.
    frame = frame_bytes(architecture, weights)
    assert reported % frame == 0, f"{reported} bytes are no whole number of frames"
    assert (passed - reported) % frame < 0.02 * passed
    needle = weights["last.weight"].numpy().tobytes()[:64]
    assert len(set(needle)) > 16
    assert all(needle not in stream and MAGIC not in stream for stream in relay.streams)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (('"test-run"', '"test-run"\npolcy = "alone"'), ("peers.toml", "polcy", "policy?")),
        (("epochs = 1\n", "epochs = 0\n"), ("peers.toml", "epochs = 0")),
        (("shards/node-{id}.npz", "nowhere/{id}.npz"), ("nowhere/1.npz", "no such file")),
        (("keys/node-{id}.key", "nokeys/{id}.key"), ("nokeys/1.key",)),
        (("size = 0", "size = 20"), ("node-1.npz", "8x8x1", "20x20x1")),
        (("batch_size = 10", "batch_size = 1000"), ("batch_size", "1000", "40")),
        (("neighbors = [2]", "neighbors = []"), ("peers.toml", "1", "2")),
        (("[[peer]]\nid = 1\n", '[[peer]]\nid = 1\narchitecture = "huge"\n'), ("huge", "paper")),
    ],
)
def test_a_wrong_file_or_setting_is_one_line_and_status_2(
    tmp_path: Path, change: tuple[str, str], parts: tuple[str, ...]
) -> None:
    """No traceback, and nothing is trained."""
    peers = write_run(tmp_path, complete(2), epochs=1)
    text = peers.read_text(encoding="utf-8")
    assert change[0] in text
    peers.write_text(text.replace(*change, 1), encoding="utf-8")
    with started(peers, 1) as nodes:
        code, errors = nodes[1].finish()
    assert code == 2
    assert errors.startswith("dgan-node: error: ")
    assert errors.count("\n") == 1
    # `--check` says the same, for all that is wrong at once.
    found = "\n".join(str(finding) for finding in examine(peers, 1).findings if finding.state == "problem")
    for part in parts:
        assert part in errors
        assert part in found


def test_an_unknown_id_is_one_line_and_status_2(tmp_path: Path) -> None:
    """It names the ids that exist."""
    with started(write_run(tmp_path, ring(3)), 9) as nodes:
        code, errors = nodes[9].finish()
    assert code == 2
    assert errors.count("\n") == 1
    assert "9" in errors
    assert "1, 2, 3" in errors


def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    """The line names the file and both runs."""
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=2)
    with started(peers, 1) as nodes:
        finish_all(nodes)
    peers.write_text(peers.read_text(encoding="utf-8").replace('"test-run"', '"other-run"'), encoding="utf-8")
    with started(peers, 1) as nodes:
        code, errors = nodes[1].finish()
        assert code == 2
        assert "test-run" in errors
        assert "other-run" in errors
        assert load_newest(nodes[1].directory).meta.run_id == "test-run"


@pytest.mark.parametrize("change", ["shard", "setting"])
def test_a_node_does_not_resume_on_what_its_checkpoint_did_not_see(tmp_path: Path, change: str) -> None:
    """Another shard or another learning rate: one line that names which, and nothing is trained."""
    peers = write_run(tmp_path, complete(2), policy="alone", epochs=2)
    with started(peers, 1) as nodes:
        finish_all(nodes)
    if change == "shard":
        save_shard(tmp_path / "shards" / "node-1.npz", Shard(np.zeros((40, 8, 8, 1), np.uint8)))
    else:
        text = peers.read_text(encoding="utf-8")
        peers.write_text(text.replace("momentum = 0.9", "momentum = 0.8"), encoding="utf-8")
    with started(peers, 1) as nodes:
        code, errors = nodes[1].finish()
    assert code == 2
    assert change in errors
    assert "changed since this checkpoint" in errors


def test_another_nodes_key_is_noticed(tmp_path: Path) -> None:
    """The likeliest mistake when files are copied to machines by hand."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=1)
    (tmp_path / "keys" / "node-1.key").unlink()
    (tmp_path / "keys" / "node-2.key").rename(tmp_path / "keys" / "node-1.key")
    with started(peers, 1) as nodes:
        code, errors = nodes[1].finish()
    assert code == 2
    assert "node-1.key" in errors
    assert "is not node 1's" in errors


def test_no_node_outlives_its_launcher(tmp_path: Path) -> None:
    """`kill -9` of the launcher: every node is gone soon, and those that had the time to save can be resumed."""
    options = ["--run-dir", str(tmp_path / "run"), "--epochs", "100000", "--base-port", str(free_ports(4))]
    graph = tmp_path / "ring.toml"
    graph.write_text(write_graph(ring(3)), encoding="utf-8")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "launcher", "run", str(graph), *options], stdout=subprocess.DEVNULL
    )
    statuses = [tmp_path / "run" / "nodes" / str(node_id) / "status.json" for node_id in (1, 2, 3)]
    try:
        wait_until(
            lambda: all(read(path).get("cycle", 0) > 0 for path in statuses), what="three nodes training"
        )
    finally:
        launcher.kill()
        launcher.wait()
    pids = [read(path)["pid"] for path in statuses]
    wait_until(lambda: not any(is_running(pid) for pid in pids), timeout_s=20, what="all nodes gone")
    stopped = [path for path in statuses if read(path)["state"] == "stopped"]
    assert all(load_newest(path.parent).meta.cycle == read(path)["cycle"] for path in stopped)


def test_a_taken_port_and_a_taken_directory_are_one_line_each(tmp_path: Path) -> None:
    """A second process of the same node changes nothing for the first."""
    peers = write_run(tmp_path, complete(2), policy="uniform", epochs=100_000)
    with started(peers, 1) as nodes:
        wait_until(lambda: nodes[1].status().get("ready"), what="node 1 ready")
        second = NodeProcess(peers, 1)
        code, errors = second.finish()
        assert code == 2
        assert "another process" in errors
        text = peers.read_text(encoding="utf-8").replace("nodes/{id}", "elsewhere/{id}")
        (tmp_path / "copy.toml").write_text(text, encoding="utf-8")
        code, errors = NodeProcess(tmp_path / "copy.toml", 1).finish()
        assert code == 2
        assert errors.count("dgan-node: error") == 1
        assert nodes[1].process.poll() is None
