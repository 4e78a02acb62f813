"""`dgan-launch study`: what a study's file says, what is left to do, and a study of real runs."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.recheck import verdict
from launcher.__main__ import main
from launcher.cells import Phase, Progress, estimate_s, progress_of
from launcher.study import Study, read_study
from launcher.study_view import summary, table
from topology.errors import InputError

ROOT = Path(__file__).parent.parent
DEADLINE_S = 240.0
STUDY = """
name = "small"
graph = "ring.toml"
data = "digits"
seeds = [3, 4]
comparisons = [["uniform", "alone"]]
[settings]
preset = "quick"
epochs = 30
lockstep = true
discriminator = {max_steps = 2}
[arms.alone]
policy = "alone"
[arms.uniform]
policy = "uniform"
discriminator = {learning_rate = 0.05}
[variants.iid]
[variants.pairs]
graph = "pair.toml"
split = {rule = "classes"}
"""


@pytest.mark.parametrize(
    "file", sorted((ROOT / "results").glob("*/cells/*.json")), ids=lambda file: file.stem
)
def test_a_stored_cell_is_of_the_study_as_it_stands(file: Path) -> None:
    """Whoever changes a study makes its cells again, or takes them out."""
    cell = json.loads(file.read_text(encoding="utf-8"))
    study = read_study(ROOT / shlex.split(cell["command"])[2], data="mnist", base_port=20_000)
    (found,) = study.chosen([file.stem])
    (progress,) = progress_of(study, [found], file.parent.parent)
    assert progress.phase is Phase.DONE


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(own_folder: Path) -> None:
    (own_folder / "ring.toml").write_text("edges = [[1, 2], [2, 3], [3, 1]]\n")
    (own_folder / "pair.toml").write_text("edges = [[1, 2]]\n")
    (own_folder / "small.toml").write_text(STUDY)


def read(text: str = STUDY, **changes: Any) -> Study:
    """The study in a text."""
    Path("small.toml").write_text(text)
    return read_study(Path("small.toml"), **{"data": None, "base_port": 20_000, **changes})


def test_cells_are_arms_by_variants_by_seeds_and_the_first_seed_comes_first() -> None:
    """So that whoever stops early has whole comparisons."""
    assert [cell.name for cell in read().cells] == [
        f"{arm}.{variant}.s{seed}"
        for seed in (3, 4)
        for variant in ("iid", "pairs")
        for arm in ("alone", "uniform")
    ]


def test_a_cell_takes_the_studys_settings_then_its_variants_then_its_arms() -> None:
    """Nested tables are joined; graph and data go the same way."""
    cell = next(cell for cell in read().cells if cell.name == "uniform.pairs.s4")
    settings = cell.settings
    assert (settings.policy, settings.seed, settings.epochs, settings.lockstep) == ("uniform", 4, 30, True)
    assert (settings.discriminator.max_steps, settings.discriminator.learning_rate) == (2, 0.05)
    assert settings.split.rule == "classes"
    assert (cell.graph.ids, cell.data) == ((1, 2), "digits")
    assert {cell.data for cell in read(data="elsewhere").cells} == {"elsewhere"}


def test_no_two_cells_share_a_port_and_floors_are_probed_once_for_shards_that_are_alike() -> None:
    """Ports lie above that of the first cell."""
    cells = read().cells
    ports = [cell.base_port + node for cell in cells for node in cell.graph.ids]
    assert len(set(ports)) == len(ports)
    assert min(ports) == 20_001
    assert [cell.name for cell in cells if cell.floors] == [
        f"alone.{variant}.s{seed}" for seed in (3, 4) for variant in ("iid", "pairs")
    ]


def test_each_variant_has_floors_of_its_own() -> None:
    """A variant's table is by itself, though its shards may be another's."""
    text = STUDY.replace(
        '[variants.pairs]\ngraph = "pair.toml"\nsplit = {rule = "classes"}', "[variants.longer]\nepochs = 40"
    )
    assert [cell.name for cell in read(text).cells if cell.floors] == [
        f"alone.{variant}.s{seed}" for seed in (3, 4) for variant in ("iid", "longer")
    ]


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ('data = "mnist"', "data"),
        ('graph = "pair.toml"', "graph: nodes"),
        ("split = {images_per_node = 20}", "split"),
        ("architecture = {paper = {slope = 0.1}}", "architecture"),
        ("image = {size = 16}", "image"),
        ('discriminator = {initialisation = "dcgan"}', "discriminator.initialisation"),
    ],
)
def test_arms_that_are_no_pair_are_one_line(own: str, name: str) -> None:
    """Their nodes, shards and floors differ: a table that set them side by side would be wrong."""
    with pytest.raises(InputError) as caught:
        read(STUDY.replace("[arms.alone]", f"[arms.alone]\n{own}"))
    assert (
        f"uniform.iid: {name} is not that of alone.iid; arms of one variant are compared node by node"
        in str(caught.value)
    )


def test_ports_beyond_the_last_are_one_line() -> None:
    """Before anything is started."""
    with pytest.raises(
        InputError, match=r"--base-port: 65530 and 8 cells need ports up to 655\d\d; a lower one"
    ):
        read(base_port=65_530)


def test_inputs_differ_with_settings_and_graph_and_not_with_where_the_data_lie() -> None:
    """The same cell may be run on another machine."""
    cells, elsewhere = read().cells, read(data="elsewhere", base_port=30_000).cells
    assert [cell.inputs for cell in cells] == [cell.inputs for cell in elsewhere]
    assert len({json.dumps(cell.inputs) for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('["uniform", "alone"]', '["uniform", "unifrom"]', "comparisons: .*two of the arms alone, uniform"),
        ("[arms.alone]", "[arms.Alone]", "arms: 'Alone' is no name for files; small letters"),
        ("seeds = [3, 4]", "seeds = [3, 3]", "seeds = .*name each once"),
        ("seeds = [3, 4]", "seeds = []", "seeds = "),
        ("seeds", "sedes", "did you mean seeds"),
        ("epochs = 30", "epoch = 30", "alone.iid: unknown setting epoch; did you mean epochs"),
        ('graph = "ring.toml"', 'graph = "rng.toml"', "rng.toml: no such file"),
        ('graph = "ring.toml"', "", "graph = None; a graph file"),
        ('data = "digits"', 'data = ""', "data = ''; digits"),
        ("[settings]", '[settings]\ndata = "mnist"', "settings: data is no setting; move it above"),
        ('["uniform", "alone"]', '["alone", "alone"]', "comparisons: .*two of the arms"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_field(old: str, new: str, error: str) -> None:
    """Before anything is started."""
    with pytest.raises(InputError, match=error) as caught:
        read(STUDY.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_a_cell_that_has_a_file_is_done_and_one_of_other_settings_is_refused() -> None:
    """The file may come from another machine; that of another study must not be taken for this one's."""
    study, directory = read(), Path("out")
    first, second = study.cells[:2]
    (directory / "cells").mkdir(parents=True)
    file = directory / "cells" / f"{first.name}.json"
    file.write_text(json.dumps(first.inputs))
    assert [each.phase for each in progress_of(study, (first, second), directory)] == [
        Phase.DONE,
        Phase.WAITING,
    ]
    for text, error in (
        (
            json.dumps(second.inputs),
            'alone.iid.s3.json: not what small.toml gives .*: policy is "uniform" there and "alone" here',
        ),
        (
            json.dumps({**first.inputs, "graph": {"edges": [], "nodes": {}}}),
            r"graph\.edges is \[\] there and \[\[1, 2\], \[1, 3\], \[2, 3\]\] here",
        ),
        (
            json.dumps({**first.inputs, "settings": {"polcy": "alone"}}),
            "alone.iid.s3.json: settings that this version does not have .*polcy.*another --study-dir",
        ),
        (json.dumps({**first.inputs, "settings": []}), "no file of a finished"),
        (json.dumps({"settings": first.inputs["settings"]}), "no file of a finished cell as this version"),
        ("{}", "no file of a finished"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=error):
            progress_of(study, (first,), directory)


def test_a_setting_that_came_later_has_its_default_in_older_cells() -> None:
    """Which must be what was done before, as here: all test images are kept. Any other value is told."""
    study = read()
    first, file = study.cells[0], Path("out/cells") / f"{study.cells[0].name}.json"
    file.parent.mkdir(parents=True)
    older = json.loads(json.dumps(first.inputs))
    del older["settings"]["split"]["test_images"]
    file.write_text(json.dumps(older))
    assert progress_of(study, (first,), Path("out"))[0].phase is Phase.DONE
    older["settings"]["split"]["test_images"] = 2
    file.write_text(json.dumps(older))
    with pytest.raises(InputError, match=r"split\.test_images is 2 there and 0 here"):
        progress_of(study, (first,), Path("out"))


def test_a_setting_of_a_preset_that_came_later_has_its_default_too() -> None:
    """The training was done without it, whatever the preset says by now."""
    study = read(STUDY.replace('preset = "quick"', 'preset = "best"'))
    first, file = study.cells[0], Path("out/cells") / f"{study.cells[0].name}.json"
    file.parent.mkdir(parents=True)
    older = json.loads(json.dumps(first.inputs))
    assert older["settings"]["generator"].pop("ema_decay") == 0.995
    file.write_text(json.dumps(older))
    with pytest.raises(InputError, match=r"generator\.ema_decay is 0\.0 there and 0\.995 here"):
        progress_of(study, (first,), Path("out"))


def test_the_time_left_follows_from_what_cells_took() -> None:
    """Cells that were done before say nothing of it."""
    cells = [Progress(cell, Path("out")) for cell in read().cells[:4]]
    cells[0].phase = Phase.DONE
    assert estimate_s(cells, 1) is None
    cells[1].phase, cells[1].seconds = Phase.DONE, {Phase.TRAINING: 50.0, Phase.PROBING: 10.0}
    assert estimate_s(cells, 1) == 120.0
    assert estimate_s(cells, 2) == 60.0
    assert summary(cells, 2) == "2 of 4 cells done; about 60 s left"


def test_the_table_has_a_row_for_each_arm_and_variant() -> None:
    """And a column for each seed."""
    cells = [Progress(cell, Path("out")) for cell in read().cells]
    cells[1].phase = Phase.FAILED
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(cells))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[0] == ["arm", "variant", "seed", "3", "seed", "4"]
    assert lines[2] == ["uniform", "iid", "failed", "waiting"]
    assert len(lines) == 5


def test_a_dry_run_lists_the_cells_and_writes_nothing() -> None:
    """And an unknown cell is one line."""
    before = sorted(Path().rglob("*"))
    result = CliRunner().invoke(main, ["study", "small.toml", "--dry-run", "--only", "alone.pairs.s3"])
    assert result.exit_code == 0
    assert result.stdout == "alone.pairs.s3: waiting, policy alone, 30 epochs\n"
    result = CliRunner().invoke(main, ["study", "small.toml", "--only", "alone.s3"])
    assert result.exit_code == 2
    assert (
        result.stderr
        == "dgan-launch: error: --only: 'alone.s3' is no cell of this study; such as alone.iid.s3\n"
    )
    assert sorted(Path().rglob("*")) == before


def study(*words: str) -> subprocess.Popen[str]:
    """The command, in a process."""
    command = [sys.executable, "-m", "launcher", "study", "small.toml", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def statuses() -> list[dict[str, Any]]:
    """What the nodes of the cell say of themselves."""
    files = Path("out/runs/uniform.pairs.s3/nodes").glob("*/status.json")
    return [json.loads(file.read_text()) for file in files]


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status and what it printed."""
    text, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, text


@pytest.mark.system
def test_a_study_goes_on_after_an_interruption_and_its_cells_can_be_made_again() -> None:
    """In lockstep, bit for bit: a cell that was interrupted finds what one finds that was not."""
    one = ["--only", "uniform.pairs.s3"]
    first = study("--study-dir", "out", *one)
    metrics, deadline_s = (
        Path("out/runs/uniform.pairs.s3/nodes/1/metrics.jsonl"),
        time.monotonic() + DEADLINE_S,
    )
    while not (metrics.exists() and metrics.stat().st_size):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    status, text = finish(first)
    assert (status, "0 of 1 cells done; the same command goes on" in text) == (143, True), text
    assert not list(Path("out/cells").iterdir())
    assert any(each["cycle"] < each["cycles"] for each in statuses()), (
        "training was over before it was stopped"
    )

    killed = study("--study-dir", "out", *one)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "uniform.pairs.s3: started\n"
    killed.kill()  # its run must not be left behind
    killed.communicate()
    status, text = finish(study("--study-dir", "out", *one))
    assert (status, "all 1 cells done; next: dgan-eval table out" in text) == (0, True), text
    shutil.copytree("out/classifiers", "again/classifiers")  # what takes longest, and is no part of the cell
    assert finish(study("--study-dir", "again", *one))[0] == 0
    found, again = (
        json.loads(Path(out, "cells", "uniform.pairs.s3.json").read_text()) for out in ("out", "again")
    )
    assert verdict(found, again) == ("every figure is the same", False)
    assert (found["settings"], found["machine"]) == (again["settings"], again["machine"])
    assert {node["state"] for node in found["nodes"].values()} == {"finished"}
    assert (
        found["quality"]["classifier"]["training_images"] == 1437
    )  # all, and not the four digits of two nodes
    assert {"torch", "node/", "eval/"} <= found["versions"].keys()
    assert found["command"].endswith("small.toml --study-dir runs/again/small --only uniform.pairs.s3")
    assert all(node["g_steps"] > node["cycle"] for node in found["nodes"].values())
    plan = json.loads(Path("out/study.json").read_text())
    assert (plan["comparisons"], plan["command"]) == (
        [["uniform", "alone"]],
        "dgan-launch study small.toml --study-dir out",
    )

    status, text = finish(study("--study-dir", "out", *one))
    assert (status, "started" in text) == (0, False)


@pytest.mark.system
def test_a_cell_that_cannot_be_run_fails_in_one_line() -> None:
    """With the log that tells more, if anything was started; status 1."""
    variants = '[variants.iid]\nsplit = {images_per_node = 5000}\n[variants.far]\ndata = "nowhere"'
    Path("small.toml").write_text(STUDY.replace("[variants.iid]", variants))
    status, printed = finish(study("--study-dir", "out", "--only", "alone.iid.s3", "--only", "alone.far.s3"))
    assert status == 1
    assert "alone.iid.s3: failed (dgan-launch: error: " in printed
    assert "see out/runs/alone.iid.s3.log)" in printed
    assert "alone.far.s3: failed (alone.far.s3: data: 'nowhere' is neither" in printed
    assert "0 of 2 cells done" in printed


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples" / "studies").glob("*.toml")), ids=lambda file: file.stem
)
def test_every_example_can_be_run(file: Path) -> None:
    """Each cell's settings are right, and no two cells are the same run."""
    cells = read_study(file, data=None, base_port=20_000).cells
    assert len({json.dumps(cell.inputs) for cell in cells}) == len(cells)
    assert (
        max(cell.base_port + max(cell.graph.ids) for cell in cells) < 32_768
    )  # below what systems give out themselves
