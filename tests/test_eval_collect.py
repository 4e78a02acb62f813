"""Node folders of several machines become one run directory."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.collect import Standing, collect, standing
from eval.runs import read_run
from node.shards import Shard, save_shard
from topology.errors import InputError
from topology.peers import dump_peers, read_peers

MakeRun = Callable[..., Path]
Machines = tuple[Path, Path, Path]


@pytest.fixture
def machines(make_toy_run: MakeRun, tmp_path: Path) -> Machines:
    """The run directories of three machines: each has the peers file and its own node's folder, shard and key."""
    whole = make_toy_run(tmp_path / "whole")
    folders = []
    for node_id in (1, 2, 3):
        folder = tmp_path / f"machine-{node_id}"
        for name in ("peers.toml", f"shards/node-{node_id}.npz"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / name, folder / name)
        shutil.copytree(whole / "nodes" / str(node_id), folder / "nodes" / str(node_id))
        (folder / "keys").mkdir()
        (folder / "keys" / f"node-{node_id}.key").write_text("secret", encoding="utf-8")
        folders.append(folder)
    shutil.rmtree(whole / "nodes")
    return folders[0], folders[1], folders[2]


def _set_status(folder: Path, **changes: object) -> None:
    path = folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


def test_folders_of_several_machines_become_one_run(machines: Machines, tmp_path: Path) -> None:
    """The result can be evaluated like a run of one machine."""
    found = collect([*machines, tmp_path / "whole"], tmp_path / "joined")
    assert (found.run_id, found.missing, found.kept) == ("toy", (), ())
    assert found.taken == {i: machines[i - 1] / "nodes" / str(i) for i in (1, 2, 3)}
    run = read_run(tmp_path / "joined")
    assert [run.checkpoint(i).meta.node_id for i in (1, 2, 3)] == [1, 2, 3]
    assert len(run.training_images(2).labels) == 40
    assert len(run.test_images().labels) == 60


def test_secret_keys_stay_where_they_are(machines: Machines, tmp_path: Path) -> None:
    """Whoever evaluates need not be able to pose as a node."""
    collect(machines, tmp_path / "joined")
    assert not list((tmp_path / "joined").rglob("*.key"))


def test_missing_nodes_are_named_and_can_follow(machines: Machines, tmp_path: Path) -> None:
    """Machines are copied one after the other."""
    found = collect([machines[0]], tmp_path / "joined")
    assert (list(found.taken), found.missing) == ([1], (2, 3))
    found = collect([machines[2]], tmp_path / "joined")
    assert (list(found.taken), found.kept, found.missing) == ([3], (1,), (2,))


def test_a_nodes_own_folder_is_enough_once_the_peers_file_is_there(
    machines: Machines, tmp_path: Path
) -> None:
    """What a node writes lies in one folder."""
    found = collect([machines[0], machines[1] / "nodes" / "2"], tmp_path / "joined")
    assert list(found.taken) == [1, 2]
    with pytest.raises(InputError, match=r"none of the directories holds peers\.toml"):
        collect([machines[1] / "nodes" / "2"], tmp_path / "other")


def test_paths_outside_the_directory_come_inside(machines: Machines, tmp_path: Path) -> None:
    """A machine may keep its node's folder anywhere; the joined directory holds all of it."""
    elsewhere = tmp_path / "var" / "node-1"
    shutil.move(machines[0] / "nodes" / "1", elsewhere)
    text = (machines[0] / "peers.toml").read_text(encoding="utf-8")
    (machines[0] / "peers.toml").write_text(
        text.replace('"nodes/{id}"', f'"{tmp_path}/var/node-{{id}}"'), encoding="utf-8"
    )
    collect([machines[0]], tmp_path / "joined")
    assert read_run(tmp_path / "joined").node(1).directory == tmp_path / "joined" / "nodes" / "1"
    assert read_run(tmp_path / "joined").checkpoint(1).meta.node_id == 1


@pytest.mark.parametrize("newer", [{"boot": 2, "cycle": 10}, {"cycle": 31}, {"updated_s": 101.0}])
def test_the_newer_copy_of_a_node_stays(machines: Machines, tmp_path: Path, newer: dict[str, float]) -> None:
    """By boot, then cycle, then time; whichever order the copies are named in."""
    old, new = machines[0], tmp_path / "again"
    shutil.copytree(old, new)
    _set_status(new / "nodes" / "1", **newer)
    for index, order in enumerate(([old, new], [new, old])):
        found = collect(order, tmp_path / f"joined-{index}")
        assert found.taken == {1: new / "nodes" / "1"}


def test_an_older_copy_never_replaces_a_newer_one(machines: Machines, tmp_path: Path) -> None:
    """Joining an old backup must not lose training."""
    joined = tmp_path / "joined"
    _set_status(machines[0] / "nodes" / "1", cycle=99)
    collect([machines[0]], joined)
    _set_status(machines[0] / "nodes" / "1", cycle=98)
    found = collect([machines[0]], joined)
    assert (found.taken, found.kept) == ({}, (1,))
    assert json.loads((joined / "nodes" / "1" / "status.json").read_bytes())["cycle"] == 99


def test_a_newer_copy_replaces_the_whole_folder(machines: Machines, tmp_path: Path) -> None:
    """No file of the older one is left among the newer ones."""
    joined, own = tmp_path / "joined", machines[0] / "nodes" / "1"
    (own / "old.txt").write_text("old", encoding="utf-8")
    collect([machines[0]], joined)
    (own / "old.txt").unlink()
    _set_status(own, boot=2)
    assert collect([machines[0]], joined).taken == {1: own}
    assert not (joined / "nodes" / "1" / "old.txt").exists()
    assert [path.name for path in (joined / "nodes").iterdir()] == ["1"]


def test_joining_a_directory_with_itself_changes_nothing(machines: Machines, tmp_path: Path) -> None:
    """A pattern such as runs/* names the output too."""
    joined = tmp_path / "joined"
    collect(machines, joined)
    found = collect([joined, *machines], joined)
    assert (found.taken, found.kept) == ({}, (1, 2, 3))


def test_a_directory_of_another_run_is_refused(
    machines: Machines, make_toy_run: MakeRun, tmp_path: Path
) -> None:
    """Before anything is copied."""
    other = make_toy_run(tmp_path / "other", run_id="other")
    with pytest.raises(
        InputError, match="belongs to run 'other'; only folders of run 'toy' with its 3 nodes"
    ):
        collect([machines[0], other], tmp_path / "joined")
    with pytest.raises(InputError, match=r"status\.json: belongs to run 'other'"):
        collect([machines[0], other / "nodes" / "2"], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_run_of_the_same_name_with_other_keys_is_refused(machines: Machines, tmp_path: Path) -> None:
    """Names repeat; public keys do not."""
    path = machines[1] / "peers.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"{2:040d}", f"{9:040d}"), encoding="utf-8")
    with pytest.raises(InputError, match="node 2 has another public key"):
        collect(machines, tmp_path / "joined")


def test_a_peers_file_that_lists_fewer_nodes_is_refused(machines: Machines, tmp_path: Path) -> None:
    """A node was revoked between the copies: which of the two runs is meant, a person must say."""
    peers = read_peers(machines[1] / "peers.toml")
    fewer = dataclasses.replace(
        peers, peers=tuple(dataclasses.replace(peer, neighbors=()) for peer in peers.peers if peer.id != 3)
    )
    (machines[1] / "peers.toml").write_text(dump_peers(fewer), encoding="utf-8")
    with pytest.raises(InputError, match=r"machine-2/peers\.toml: lists 2 nodes; only folders of run 'toy'"):
        collect(machines, tmp_path / "joined")


def test_what_a_join_that_was_killed_has_left_is_cleared_away(machines: Machines, tmp_path: Path) -> None:
    """Half a copy is no node; the next join makes a whole one."""
    nodes = tmp_path / "joined" / "nodes"
    collect([machines[0]], tmp_path / "joined")
    for name in (".1.part", ".1.old"):
        shutil.copytree(nodes / "1", nodes / name)
        (nodes / name / "torn").touch()
    _set_status(machines[0] / "nodes" / "1", boot=2)
    assert list(collect([machines[0]], tmp_path / "joined").taken) == [1]
    assert [path.name for path in nodes.iterdir()] == ["1"]
    assert not (nodes / "1" / "torn").exists()


def test_two_different_test_sets_are_refused(machines: Machines, tmp_path: Path) -> None:
    """Errors on different images cannot stand in one table."""
    shutil.copy(tmp_path / "whole" / "shards" / "test.npz", machines[0] / "shards" / "test.npz")
    save_shard(machines[1] / "shards" / "test.npz", Shard(np.zeros((1, 8, 8, 1), np.uint8)))
    with pytest.raises(
        InputError, match=r"machine-2/shards/test\.npz: differs from .*machine-1/shards/test\.npz"
    ):
        collect(machines, tmp_path / "joined")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "unreadable"),
        ('{"run_id": "toy", "node_id": 1, "boot": 1, "cycle": 3}', "no field updated_s"),
        ('{"run_id": "toy", "node_id": 1, "boot": 1, "cycle": 3, "updated_s": 1}', "no field state"),
        (
            '{"run_id": "toy", "node_id": 8, "boot": 1, "cycle": 3, "updated_s": 1, "state": "stopped"}',
            "the unknown node 8",
        ),
    ],
)
def test_a_status_that_says_nothing_usable_is_told(
    machines: Machines, tmp_path: Path, text: str, told: str
) -> None:
    """It is what tells whose folder it is and how new."""
    (machines[0] / "nodes" / "1" / "status.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        collect(machines, tmp_path / "joined")
    with pytest.raises(InputError, match=told):
        standing(machines)


def test_sources_and_outputs_that_are_something_else_are_told(machines: Machines, tmp_path: Path) -> None:
    """Nothing is written into a folder of something else."""
    with pytest.raises(InputError, match="nowhere: no such directory"):
        collect([tmp_path / "nowhere"], tmp_path / "joined")
    with pytest.raises(InputError, match=r"holds neither peers\.toml nor status\.json"):
        collect([machines[0] / "keys"], tmp_path / "joined")
    with pytest.raises(InputError, match=r"keys: is there already, without peers\.toml"):
        collect([machines[0]], machines[1] / "keys")


# --- how far the nodes are --------------------------------------------------------------------------------------


def test_a_run_whose_nodes_have_all_finished_has_none_unfinished(machines: Machines, tmp_path: Path) -> None:
    """Told from folders of several machines, of which nothing is changed."""
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert standing(machines) == Standing("toy", {})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("state", ["starting", "training", "lingering", "stopped", "failed"])
def test_a_node_in_any_other_state_is_unfinished(machines: Machines, state: str) -> None:
    """A stopped one above all: it may go on tomorrow."""
    _set_status(machines[1] / "nodes" / "2", state=state)
    assert standing(machines).unfinished == {2: state}


def test_a_node_without_a_status_has_not_started(machines: Machines, tmp_path: Path) -> None:
    """Whether its folder is missing, was not named, or was made just now, before the status."""
    (machines[1] / "nodes" / "2" / "status.json").unlink()
    assert standing(machines).unfinished == {2: "not started"}
    assert standing([machines[0], machines[1] / "nodes" / "2"]).unfinished == {
        2: "not started",
        3: "not started",
    }
    assert standing([machines[0], machines[2], tmp_path / "absent"]).unfinished == {2: "not started"}


def test_a_nodes_own_folder_tells_how_far_it_is(machines: Machines, tmp_path: Path) -> None:
    """As an evaluator sees them that has nothing but peers.toml of its own."""
    own = [folder / "nodes" / str(node_id) for node_id, folder in enumerate(machines, start=1)]
    _set_status(own[2], state="training")
    assert standing([*own, tmp_path / "whole"]) == Standing("toy", {3: "training"})


def test_the_newest_copy_tells_how_far_a_node_is(machines: Machines, tmp_path: Path) -> None:
    """Whichever order they are named in; a finished backup of a node that trains again is old."""
    again = tmp_path / "again"
    shutil.copytree(machines[0], again)
    _set_status(again / "nodes" / "1", boot=2, state="starting")
    assert standing([again, *machines]).unfinished == {1: "starting"}
    assert standing([*machines, again]).unfinished == {1: "starting"}


def test_the_standing_of_two_runs_is_refused(
    machines: Machines, make_toy_run: MakeRun, tmp_path: Path
) -> None:
    """And that of none: without peers.toml nobody knows how many there are."""
    other = make_toy_run(tmp_path / "other", run_id="other")
    with pytest.raises(
        InputError, match=r"other/peers\.toml: belongs to run 'other'; only folders of run 'toy'"
    ):
        standing([*machines, other])
    with pytest.raises(InputError, match=r"other/nodes/2/status\.json: belongs to run 'other'"):
        standing([machines[0], other / "nodes" / "2"])
    with pytest.raises(InputError, match=r"absent: holds no peers\.toml, and none of the others does"):
        standing([tmp_path / "absent", machines[0] / "nodes" / "1"])


def test_a_folder_that_leads_elsewhere_is_refused(machines: Machines, tmp_path: Path) -> None:
    """A site's folder is somebody else's: a link in it would bring any file of this machine into the run."""
    second = machines[1]
    secret = tmp_path / "secret"
    secret.write_text("mine")
    link = second / "nodes" / "2" / "samples"
    link.symlink_to(secret)
    with pytest.raises(InputError, match=r"samples: is no plain file or folder; take it out"):
        collect(machines, tmp_path / "joined")
    link.unlink()
    (second / "nodes" / "2" / "node-2.key").write_text("secret")
    with pytest.raises(InputError, match=r"node-2\.key: looks like a secret key; take it out"):
        collect(machines, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
