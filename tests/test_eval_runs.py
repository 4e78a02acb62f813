"""Run directories as the evaluator reads them, and the results it leaves there."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.results import ProbeNode, ProbeResult, ProbeRow, read_probe, read_quality, write_result
from eval.runs import read_run, read_runs
from node.shards import Shard, load_shard, save_shard
from topology.errors import InputError

MakeRun = Callable[..., Path]


def test_a_run_directory_names_its_nodes_edges_and_files(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Everything that the evaluator needs follows from the directory alone."""
    run = read_run(make_toy_run(tmp_path / "run"))
    assert run.run_id == "toy"
    assert run.settings.policy == "uniform"
    assert run.edges == ((1, 2), (1, 3), (2, 3))
    assert [node.id for node in run.nodes] == [1, 2, 3]
    assert run.node(2).directory == tmp_path / "run" / "nodes" / "2"
    assert run.architecture(2) == run.settings.architecture["light"]
    assert run.checkpoint(3).meta.node_id == 3
    assert run.below(run.checkpoint(3).path) == "nodes/3/checkpoints/cycle-00000030.safetensors"
    assert run.test_images().classes == ("a", "b", "c")
    assert len(run.training_images(1).labels) == 40


def test_a_run_directory_can_be_copied_away(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Its paths are relative to itself."""
    shutil.move(make_toy_run(tmp_path / "run"), tmp_path / "elsewhere")
    assert read_run(tmp_path / "elsewhere").checkpoint(1).meta.cycle == 30


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """The first thing that can be wrong."""
    with pytest.raises(InputError, match="nowhere: no such directory"):
        read_run(tmp_path / "nowhere")


def test_a_directory_without_a_peers_file_is_no_run(tmp_path: Path) -> None:
    """Any folder can be named by mistake."""
    with pytest.raises(InputError, match=r"not a run directory: it holds no peers\.toml"):
        read_run(tmp_path)


def test_one_run_given_twice_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Twice in one table it would look like two seeds."""
    path = make_toy_run(tmp_path / "run")
    with pytest.raises(InputError, match="given twice"):
        read_runs([path, tmp_path / "." / "run"])


def test_an_unknown_node_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """With the ids that exist."""
    with pytest.raises(InputError, match="there is no node 7; the nodes are 1, 2, 3"):
        read_run(make_toy_run(tmp_path / "run")).node(7)


def test_a_missing_node_folder_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """As happens when a machine's folder was not yet copied."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shutil.rmtree(run.node(2).directory)
    with pytest.raises(InputError, match="no folder of node 2"):
        run.checkpoint(2)


def test_a_missing_checkpoint_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """As happens when a node was never trained."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shutil.rmtree(run.node(2).directory / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint"):
        run.checkpoint(2)


def test_a_run_directory_that_belongs_to_another_run_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Its figures would be filed under the wrong policy."""
    run = read_run(make_toy_run(tmp_path / "run"))
    other = make_toy_run(tmp_path / "other", run_id="other")
    shutil.rmtree(run.node(2).directory)
    shutil.copytree(other / "nodes" / "2", run.node(2).directory)
    with pytest.raises(InputError, match="of run 'other', and this is the run directory of 'toy'"):
        run.checkpoint(2)


def test_a_checkpoint_of_another_node_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Folders are easily swapped by hand."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shutil.rmtree(run.node(2).directory)
    run.node(3).directory.rename(run.node(2).directory)
    with pytest.raises(InputError, match="of node 3, in the folder of node 2"):
        run.checkpoint(2)


def test_an_architecture_that_the_settings_do_not_name_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """The checkpoint could not be read without it."""
    path = make_toy_run(tmp_path / "run")
    text = (path / "peers.toml").read_text(encoding="utf-8")
    (path / "peers.toml").write_text(
        text.replace('architecture = "light"', 'architecture = "odd"', 1), encoding="utf-8"
    )
    with pytest.raises(
        InputError, match="node 1 has the unknown architecture 'odd'; one of light, paper, wide"
    ):
        read_run(path).architecture(1)


def test_a_shard_without_labels_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Nodes train without labels, and the probe needs them."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shard = load_shard(run.node(1).shard)
    save_shard(run.node(1).shard, dataclasses.replace(shard, labels=None))
    with pytest.raises(InputError, match=r"node-1\.npz: the shard has no labels"):
        run.training_images(1)


def test_a_label_beyond_the_named_classes_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """It would count as an error of every classifier."""
    run = read_run(make_toy_run(tmp_path / "run"))
    images = np.zeros((3, 8, 8, 1), np.uint8)
    save_shard(run.node(1).shard, Shard(images, np.array([0, 1, 7]), classes=("a", "b", "c")))
    with pytest.raises(InputError, match="labels run from 0 to 7, and 3 classes are named"):
        run.training_images(1)


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """The report reads what the probe wrote."""
    node = ProbeNode(1, 2.5, 0.16, 10, 20, 2, 0.0, 8049, "rbf", 3.0, 0.5, "nodes/1/x", 30)
    row = ProbeRow("discriminator", "all", "chosen", True, 2.5, 2.5, 2.5, (node,))  # noqa: FBT003 - a record
    result = ProbeResult("toy", "uniform", "squares", 0, (row,))
    assert read_probe(tmp_path / "eval") is None
    write_result(tmp_path / "eval" / "probe.json", result)
    assert read_probe(tmp_path / "eval") == result
    assert result.headline is row
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["probe.json"]


def test_a_broken_result_is_told(tmp_path: Path) -> None:
    """With the field, and how to make it anew."""
    (tmp_path / "quality.json").write_text('{"run_id": 3}', encoding="utf-8")
    with pytest.raises(InputError, match=r"quality\.json: run_id: .*make it anew with `dgan-eval quality`"):
        read_quality(tmp_path)
