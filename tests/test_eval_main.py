"""dgan-eval: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eval.__main__ import main
from eval.classifier import Recipe
from eval.results import read_probe, read_quality
from node.shards import Shard, load_shard, save_shard

pytestmark = pytest.mark.system

MakeRun = Callable[..., Path]


def _eval(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def _assert_one_line(result: Result, *parts: str) -> None:
    """Status 2 and one line on standard error with all of the parts."""
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("dgan-eval: error: ")
    for part in parts:
        assert part in line


@pytest.fixture
def run_dir(make_toy_run: MakeRun, tmp_path: Path) -> Path:
    """A run of three nodes on tiny images."""
    return make_toy_run(tmp_path / "run")


def test_probe_writes_its_result_and_prints_a_table(run_dir: Path) -> None:
    """Each step is a plain line where there is no terminal, apart from the results."""
    result = _eval("probe", run_dir, "--seed", "4")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == "toy: node 1, trained D"
    assert len(result.stderr.splitlines()) == 9
    assert "run toy, policy uniform, data squares, seed 4" in result.stdout
    assert "* trained D, all layers" in result.stdout
    assert "raw pixels" in result.stdout
    saved = read_probe(run_dir / "eval")
    assert saved is not None
    assert saved.seed == 4
    assert f"{saved.headline.mean:.2f}" in result.stdout


def test_probe_prints_json_that_equals_the_file(run_dir: Path) -> None:
    """One result for each run, on standard output alone."""
    result = _eval("probe", run_dir, "--json", "--no-floors", "--node", "3", "--node", "1")
    assert result.exit_code == 0, result.output
    (printed,) = json.loads(result.stdout)
    assert printed == json.loads((run_dir / "eval" / "probe.json").read_text(encoding="utf-8"))
    assert {row["source"] for row in printed["rows"]} == {"discriminator"}
    assert [node["node"] for node in printed["rows"][0]["nodes"]] == [1, 3]


def test_probe_shows_the_neighbourhood_where_it_is_asked_for(run_dir: Path) -> None:
    """Rows of their own in the table, the file and the report; Table 1's row stays what it was."""
    result = _eval("probe", run_dir, "--node", "1", "--no-floors", "--neighborhood")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == ["toy: node 1, trained D", "toy: node 1, D and neighbours' D"]
    assert "  D and neighbours' D, all layers" in result.stdout
    assert "  D and neighbours' D, layers 1 and 2 pooled" in result.stdout
    saved = read_probe(run_dir / "eval")
    assert saved is not None
    assert {row.source for row in saved.rows} == {"discriminator", "neighborhood"}
    assert saved.headline.source == "discriminator"
    assert _eval("report", run_dir).exit_code == 0
    page = (run_dir / "eval" / "report.html").read_text(encoding="utf-8")
    assert "D and neighbours&#39; D, layers 1 and 2" in page
    shutil.rmtree(run_dir / "nodes" / "3")
    _assert_one_line(_eval("probe", run_dir, "--node", "1", "--neighborhood"), "no folder of node 3")


def test_quality_judges_several_runs(
    run_dir: Path, make_toy_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs on the same images share a classifier, so their figures can be compared."""
    monkeypatch.setattr("eval.quality.Recipe", lambda seed: Recipe(seed=seed, steps=60))
    other = make_toy_run(tmp_path / "other", run_id="other")
    result = _eval("quality", run_dir, other)
    assert result.exit_code == 0, result.output
    assert "real images" in result.stdout
    assert result.stdout.count("node 2") == 2
    assert len(result.stderr.splitlines()) == 10
    saved = [read_quality(path / "eval") for path in (run_dir, other)]
    assert saved[0] is not None
    assert saved[1] is not None
    assert saved[0].classifier == saved[1].classifier
    assert saved[0].run_id == "toy"
    assert len(list((run_dir / "eval" / "classifiers").iterdir())) == 1
    assert not (other / "eval" / "classifiers").exists()
    assert "unseen" not in result.stdout
    printed = json.loads(_eval("quality", run_dir, "--json", "--node", "1").stdout)
    assert printed[0]["real"] == dataclasses.asdict(saved[0])["real"] | {
        "class_shares": list(saved[0].real.class_shares)
    }


def test_quality_takes_the_classifier_from_a_folder(
    run_dir: Path, make_toy_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands over other runs of a study find there what the first has trained."""
    monkeypatch.setattr("eval.quality.Recipe", lambda seed: Recipe(seed=seed, steps=20))
    folder, words = tmp_path / "study", ("--node", "1")
    result = _eval("quality", run_dir, *words, "--classifiers", folder)
    assert result.exit_code == 0, result.output
    monkeypatch.setattr("eval.classifier.train", lambda *_: pytest.fail("trained again"))
    other = make_toy_run(tmp_path / "other", run_id="other")
    assert _eval("quality", other, *words, "--classifiers", folder).exit_code == 0
    assert not (run_dir / "eval" / "classifiers").exists()
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be", encoding="utf-8")
    _assert_one_line(_eval("quality", other, "--classifiers", folder), "--classifiers", "is a file")


def test_quality_tells_whose_classes_are_covered_where_a_node_lacks_some(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In columns of their own; not known where a neighbour's shard is elsewhere."""
    monkeypatch.setattr("eval.quality.Recipe", lambda seed: Recipe(seed=seed, steps=20))
    for node_id in (1, 2):
        path = run_dir / "shards" / f"node-{node_id}.npz"
        shard = load_shard(path)
        assert shard.labels is not None
        keep = shard.labels < node_id  # node 1 has the first class alone, node 2 the first two
        save_shard(path, Shard(shard.images[keep], shard.labels[keep], classes=shard.classes))
    result = _eval("quality", run_dir)
    assert result.exit_code == 0, result.output
    lines = {line[:6]: line.split()[-3:] for line in result.stdout.splitlines()}
    assert ["own", "neighbours'", "unseen"] in lines.values()
    for name, sizes in (("node 1", (1, 2, 0)), ("node 2", (2, 1, 0)), ("node 3", (3, 0, 0))):
        assert [cell.split("/")[1] for cell in lines[name]] == [str(size) for size in sizes]
    (run_dir / "shards" / "node-3.npz").unlink()
    assert "own" not in _eval("quality", run_dir).stdout.splitlines()[1].split()


def test_collect_says_what_it_took_and_what_is_missing(run_dir: Path, tmp_path: Path) -> None:
    """In words and as JSON."""
    shutil.rmtree(run_dir / "nodes" / "2")
    result = _eval("collect", run_dir, "-o", tmp_path / "joined")
    assert result.exit_code == 0, result.output
    assert f"node 1: taken from {run_dir / 'nodes' / '1'}" in result.stdout
    assert "node 2: missing" in result.stdout
    printed = json.loads(_eval("collect", run_dir, "-o", tmp_path / "joined", "--json").stdout)
    assert (printed["missing"], printed["kept"], printed["taken"]) == ([2], [1, 3], {})


def test_report_writes_its_file_into_the_only_run(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And beside the caller where there are several."""
    asked: list[tuple[int, Path]] = []

    def write(runs: list[object], output: Path) -> Path:
        asked.append((len(runs), output))
        return output

    monkeypatch.setattr("eval.report.write_report", write)
    result = _eval("report", run_dir)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(run_dir / "eval" / "report.html")
    shutil.copytree(run_dir, run_dir.with_name("again"))
    assert json.loads(_eval("report", run_dir, run_dir.with_name("again"), "--json").stdout) == {
        "report": "report.html"
    }
    assert asked == [(1, run_dir / "eval" / "report.html"), (2, Path("report.html"))]


@pytest.mark.parametrize(
    "command", [(), ("collect",), ("probe",), ("quality",), ("report",), ("judge",), ("table",), ("classes",)]
)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    """The first thing that a newcomer asks for."""
    result = _eval(*command, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert "dgan-eval" in result.stdout.split("Example:")[1]


@pytest.mark.parametrize("command", ["probe", "quality", "report"])
def test_a_wrong_directory_is_one_line(command: str, tmp_path: Path) -> None:
    """Without a traceback, and with status 2."""
    _assert_one_line(_eval(command, tmp_path / "nowhere"), "nowhere: no such directory")
    _assert_one_line(_eval(command, tmp_path), "not a run directory", "peers.toml")


def test_wrong_usage_is_one_line(run_dir: Path) -> None:
    """An unknown option or node, a seed that is no number."""
    _assert_one_line(_eval("probe", run_dir, "--sed", "1"), "No such option", "dgan-eval: error")
    _assert_one_line(_eval("probe", run_dir, "--seed", "x"), "--seed", "'x'")
    _assert_one_line(_eval("probe", run_dir, "--node", "8"), "there is no node 8; the nodes are 1, 2, 3")
    _assert_one_line(_eval("quality"), "Missing argument")


def test_a_shard_without_labels_is_one_line(run_dir: Path) -> None:
    """And nothing is written."""
    path = run_dir / "shards" / "node-2.npz"
    save_shard(path, dataclasses.replace(load_shard(path), labels=None))
    _assert_one_line(_eval("probe", run_dir), "node-2.npz", "no labels")
    assert not (run_dir / "eval").exists()


def test_nodes_of_another_run_are_one_line(run_dir: Path, make_toy_run: MakeRun, tmp_path: Path) -> None:
    """For the probe and for quality."""
    other = make_toy_run(tmp_path / "other", run_id="other")
    shutil.rmtree(run_dir / "nodes")
    shutil.copytree(other / "nodes", run_dir / "nodes")
    for command in ("probe", "quality"):
        _assert_one_line(
            _eval(command, run_dir), "of run 'other'", "use the run directory that belongs to that run"
        )


def test_a_disk_that_refuses_is_one_line_and_status_1(run_dir: Path) -> None:
    """It is no fault of the input."""
    (run_dir / "eval").write_text("a file where the folder should be", encoding="utf-8")
    result = _eval("probe", run_dir, "--no-floors", "--node", "1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("dgan-eval: error: ")


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier of `quality` in a few steps."""
    monkeypatch.setattr("eval.quality.Recipe", lambda seed: Recipe(seed=seed, steps=20))


RESULTS = {"probe.json", "quality.json", "report.html"}


@pytest.mark.usefixtures("quick_judge")
def test_judge_writes_every_result_into_the_run(run_dir: Path) -> None:
    """As the three commands would, with their words; nothing is waited for or copied."""
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    result = _eval("judge", run_dir, "--seed", "4", "--no-floors")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (run_dir / "eval").iterdir()} >= RESULTS
    assert "toy" in (run_dir / "eval" / "report.html").read_text(encoding="utf-8")
    probed, judged = read_probe(run_dir / "eval"), read_quality(run_dir / "eval")
    assert probed is not None
    assert judged is not None
    assert (probed.seed, judged.seed) == (4, 4)
    assert {row.source for row in probed.rows} == {"discriminator"}
    assert "* trained D, all layers" in result.stdout
    assert "real images" in result.stdout
    assert result.stdout.splitlines()[-1] == str(run_dir / "eval" / "report.html")
    assert "waiting" not in result.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("quick_judge")
def test_judge_collects_into_a_directory_named_by_the_run(run_dir: Path, tmp_path: Path) -> None:
    """From folders of several machines, which stay as they are."""
    machine = tmp_path / "machine-2"
    shutil.move(run_dir / "nodes" / "2", machine)
    result = _eval("judge", run_dir, machine, "-o", tmp_path / "reports" / "{run}", "--no-floors")
    assert result.exit_code == 0, result.output
    assert f"node 2: taken from {machine}" in result.stdout
    (made,) = (tmp_path / "reports").iterdir()
    assert made.name == "toy"
    assert {path.name for path in (made / "eval").iterdir()} >= RESULTS
    assert not (run_dir / "eval").exists()


@pytest.mark.usefixtures("quick_judge")
def test_judge_adds_a_nodes_folder_to_a_collected_run(run_dir: Path, tmp_path: Path) -> None:
    """Which has the peers file that the folder lacks; {run} could not be told without one."""
    own = tmp_path / "own"
    shutil.move(run_dir / "nodes" / "2", own)
    _assert_one_line(_eval("judge", own, "-o", tmp_path / "{run}"), "own: holds no peers.toml")
    result = _eval("judge", own, "-o", run_dir, "--no-floors")
    assert result.exit_code == 0, result.output
    assert "node 2: taken from" in result.stdout
    assert (run_dir / "eval" / "report.html").is_file()


def test_judge_of_several_directories_needs_an_output(run_dir: Path, tmp_path: Path) -> None:
    """Told before anything is waited for."""
    _assert_one_line(
        _eval("judge", run_dir, tmp_path / "other", "--wait"),
        "--output: not given, and there are 2 directories; -o RUN_DIR",
    )
    assert not (run_dir / "eval").exists()


def test_judge_leaves_a_directory_of_another_run_alone(
    run_dir: Path, make_toy_run: MakeRun, tmp_path: Path
) -> None:
    """As collect does, and nothing is judged."""
    other = make_toy_run(tmp_path / "toy", run_id="other")
    before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
    _assert_one_line(_eval("judge", run_dir, "-o", other), "belongs to run 'toy'", "run 'other'")
    _assert_one_line(_eval("judge", run_dir, other, "-o", tmp_path / "new"), "belongs to run 'other'")
    _assert_one_line(_eval("judge", run_dir, "-o", tmp_path / "{run}"), "belongs to run 'toy'", "run 'other'")
    assert not (tmp_path / "new").exists()
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before


@pytest.mark.usefixtures("quick_judge")
def test_judge_waits_where_it_is_told_to(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all of the directories, with its lines on standard error, before it judges."""
    asked: list[tuple[Path, ...]] = []

    def wait(dirs: tuple[Path, ...], tell: Callable[[str], None]) -> None:
        asked.append(dirs)
        tell("not finished: 2 (stopped)")
        assert not (run_dir / "eval").exists()

    monkeypatch.setattr("eval.__main__.wait_for", wait)
    result = _eval("judge", run_dir, "--wait", "--no-floors")
    assert result.exit_code == 0, result.output
    assert asked == [(run_dir,)]
    assert result.stderr.splitlines()[0] == "not finished: 2 (stopped)"
    assert "waiting" not in result.stdout
    assert (run_dir / "eval" / "report.html").is_file()


@pytest.mark.system
def test_a_wrong_directory_is_told_without_loading_scikit_learn(tmp_path: Path) -> None:
    """Answers to a slip of the keyboard come at once."""
    script = "import sys; sys.argv[0] = 'dgan-eval'\nfrom eval.__main__ import main\n"
    script += "try: main()\nfinally: print('sklearn' in sys.modules)"
    command = [sys.executable, "-c", script, "probe", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout.strip() == "False"
