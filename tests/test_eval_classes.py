"""The picture of what a generator draws of each class."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from eval.__main__ import main
from eval.classes import SHOWN, sure_images
from eval.classifier import Recipe
from node.shards import load_shard, save_shard


def test_a_row_holds_the_first_images_that_are_surely_of_its_class() -> None:
    """In their order, never one that another class is likelier for, and black where there are no more."""
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] + np.ones((1, 2, 2, 1), np.uint8)
    probabilities = np.zeros((40, 3), np.float32)
    probabilities[:, 0] = 0.95
    probabilities[5] = (0.05, 0.92, 0.03)
    probabilities[7] = (0.10, 0.89, 0.01)
    shown = sure_images(images, probabilities)
    assert shown.shape == (3, SHOWN, 2, 2, 1)
    assert shown[0, :, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 7, 9, 10, 11, 12]
    assert shown[1, :, 0, 0, 0].tolist() == [6] + [0] * 9
    assert not shown[2].any()


@pytest.mark.system
def test_the_picture_names_runs_classes_and_who_holds_them(
    make_toy_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panel for each run, with names where they differ; of a shard that is elsewhere nobody knows what it holds."""
    monkeypatch.setattr("eval.quality.Recipe", lambda seed: Recipe(seed=seed, steps=60))
    runs = [make_toy_run(tmp_path / name, run_id=name) for name in ("one", "two")]
    for run in runs:
        for node_id, label in ((2, 0), (1, 1)):
            path = run / "shards" / f"node-{node_id}.npz"
            shard = load_shard(path)
            assert shard.labels is not None
            save_shard(path, replace(shard, labels=np.full_like(shard.labels, label)))
    output = tmp_path / "classes.svg"
    command = ["classes", *map(str, runs), "--node", "2", "-o", str(output)]
    rows = ["a, own", "b, neighbours'", "c, neighbours'"]
    for expected in (rows, [*rows, *rows[:2], "c, not own"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        page = output.read_text(encoding="utf-8")
        words = [html.unescape(word) for word in re.findall(r">([^<>]+)</text>", page)]
        assert {"one", "two"} <= set(words)
        assert [word for word in words if ", " in word] == expected
        assert sum(word.endswith("%") for word in words) == 6
        (runs[1] / "shards" / "node-3.npz").unlink(missing_ok=True)
    (runs[1] / "shards" / "node-2.npz").unlink()
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, "node-2.npz" in refused.output) == (2, True)
    refused = CliRunner().invoke(main, [*command[:2], "--node", "9", "-o", str(tmp_path / "none.svg")])
    assert refused.exit_code == 2
    assert len(refused.output.splitlines()) == 1
    assert not (tmp_path / "none.svg").exists()
