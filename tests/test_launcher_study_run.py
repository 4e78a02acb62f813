"""How a study's cells go through their commands, with commands that only say how they end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.cells import Phase, Progress, machine, progress_of, write_labelled
from launcher.prepare import source_digest
from launcher.study import read_study
from launcher.study_run import Manner, conduct
from node.shards import load_shard

STUDY = """
name = "small"
graph = "pair.toml"
seeds = [1, 2]
[settings]
preset = "quick"
[arms.alone]
policy = "alone"
[arms.uniform]
policy = "uniform"
"""
CELLS = [f"{arm}.all.s{seed}" for seed in (1, 2) for arm in ("alone", "uniform")]
# No metrics are there.
UNCOUNTED = dict.fromkeys(("d_steps", "most_chosen", "clamped", "own_loss", "chosen_loss"))


@dataclass
class Command:
    """One that ends as it is told to, at once or when it is asked to."""

    code: int
    waits: bool = False

    def poll(self) -> int | None:
        """Its exit status."""
        return None if self.waits else self.code

    def terminate(self) -> None:
        """Asks it to end."""
        self.waits = False


@dataclass
class Commands:
    """Starts commands and notes which; `codes` says how those of a cell end, 0 where it says nothing."""

    codes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    errors: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    missing: str | None = None
    hold: tuple[str, str] | None = None
    started: list[tuple[str, str]] = field(default_factory=list)
    words: list[Sequence[str]] = field(default_factory=list)

    def __call__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> Command:
        """One more."""
        which = (log.stem, words[1])
        self.started.append(which)
        self.words.append(words)
        run_dir = log.parent / log.stem
        if words[1] == "run":
            for node in ("1", "2"):
                status = {"state": "finished", "pid": 1, "cycle": 9, "cycles": 9, "starts": 1}
                if log.stem in self.errors and node == "2":
                    error, failure = self.errors[log.stem]
                    status |= {"state": "failed", "error": error, "failure": failure, "starts": 6, "cycle": 4}
                (run_dir / "nodes" / node).mkdir(parents=True, exist_ok=True)
                (run_dir / "nodes" / node / "status.json").write_text(json.dumps(status))
            (run_dir / "run.json").write_text('{"dgan": "0.1", "inputs": {"base_port": 20777}}')
        if self.codes.get(which, 0) == 0 and words[1] != "run" and words[1] != self.missing:
            (run_dir / "eval").mkdir(exist_ok=True)
            (run_dir / "eval" / f"{words[1]}.json").write_text("{}")
        with log.open("a") as lines:
            lines.write(f"{environment['OMP_NUM_THREADS']} threads\ndgan: error: the {words[1]}\n\n")
        if self.hold == which:
            os.kill(os.getpid(), signal.SIGINT)
        return Command(self.codes.get(which, 0), waits=self.hold == which)


class Events:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def event(self, text: str) -> None:
        """One thing that happened."""
        self.told.append(text)

    def update(self, cells: Sequence[Progress], manner: Manner) -> None:
        """How far every cell is."""


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    """Four cells, none of them begun."""
    monkeypatch.setattr("launcher.study_run._POLL_S", 0.0)
    (tmp_path / "pair.toml").write_text("edges = [[1, 2]]\n")
    (tmp_path / "small.toml").write_text(STUDY)
    study = read_study(tmp_path / "small.toml", data=None, base_port=20_000)
    return progress_of(study, study.cells, tmp_path / "out")


def run(cells: list[Progress], commands: Commands, jobs: int = 1) -> tuple[int, list[str]]:
    """Exit status and events."""
    view = Events()
    manner = Manner(jobs, neighborhood=True, again="dgan-launch study small.toml --only", spawn=commands)
    return conduct(cells, manner, view), view.told


def test_each_cell_is_trained_then_probed_then_judged(cells: list[Progress]) -> None:
    """In the study's order; a file says what was found."""
    commands = Commands()
    status, told = run(cells, commands)
    assert status == 0
    assert commands.started == [(cell, word) for cell in CELLS for word in ("run", "probe", "quality")]
    assert told[:3] == [f"{CELLS[0]}: started", f"{CELLS[0]}: done", f"{CELLS[1]}: started"]
    assert [each.phase for each in cells] == [Phase.DONE] * 4
    assert ["--floors" in words for words in commands.words if words[1] == "probe"] == [True, False] * 2
    assert all("--neighborhood" in words for words in commands.words if words[1] == "probe")
    judging = [words for words in commands.words if words[1] == "quality"]
    assert {words[words.index("--labelled") + 1] for words in judging} == {str(cells[0].labelled)}
    found = json.loads(cells[3].file.read_text())
    assert (found["arm"], found["variant"], found["seed"]) == ("uniform", "all", 2)
    assert found["command"] == "dgan-launch study small.toml --only uniform.all.s2"
    assert {name: found[name] for name in ("graph", "settings")} == cells[3].cell.inputs
    assert found["nodes"]["2"] == {
        "state": "finished",
        "cycle": 9,
        "restarts": 0,
        "error": None,
        **UNCOUNTED,
        "g_steps": 9,
    }


def test_classifiers_learn_from_all_images_of_the_data_set(cells: list[Progress]) -> None:
    """One file for all cells with the same images; it is made once, and not for cells that are done."""
    cells[0].phase = Phase.DONE
    write_labelled(cells[:1])
    assert not cells[0].classifiers.exists()
    write_labelled(cells)
    assert [each.name for each in cells[0].classifiers.iterdir()] == [cells[0].labelled.name]
    assert len(load_shard(cells[3].labelled)) == 1437
    cells[3].labelled.write_bytes(b"kept")
    write_labelled(cells)
    assert cells[3].labelled.read_bytes() == b"kept"


def test_a_cell_whose_data_cannot_be_read_has_failed(tmp_path: Path) -> None:
    """Its line names it; others go on."""
    (tmp_path / "pair.toml").write_text("edges = [[1, 2]]\n")
    (tmp_path / "small.toml").write_text(STUDY + '[variants.here]\n[variants.far]\ndata = "nowhere"\n')
    study = read_study(tmp_path / "small.toml", data=None, base_port=20_000)
    cells = progress_of(study, study.cells, tmp_path / "out")
    write_labelled(cells)
    assert [each.phase for each in cells[:4]] == [Phase.WAITING, Phase.WAITING, Phase.FAILED, Phase.FAILED]
    assert cells[2].words.startswith("alone.far.s1: data: 'nowhere'")
    commands = Commands()
    assert run(cells[:4], commands)[0] == 1
    assert {cell for cell, _ in commands.started} == {"alone.here.s1", "uniform.here.s1"}


def test_code_and_processor_are_told_by_more_than_a_name() -> None:
    """A version and a model name stay the same for a long time."""
    assert source_digest("node") == source_digest("node") != source_digest("eval")
    assert {"processor", "revision", "instructions", "cores"} == machine().keys()


def test_a_cell_that_is_done_is_left_alone(cells: list[Progress]) -> None:
    """In this call and in the next."""
    assert run(cells[:1], Commands())[0] == 0
    commands = Commands()
    assert run(cells, commands)[0] == 0
    assert {cell for cell, _ in commands.started} == set(CELLS[1:])


def test_several_cells_at_a_time_share_the_processors(cells: list[Progress]) -> None:
    """The first two begin before either is probed."""
    commands = Commands()
    assert run(cells, commands, jobs=2)[0] == 0
    assert commands.started[:2] == [(CELLS[0], "run"), (CELLS[1], "run")]
    assert f"{max(1, (os.cpu_count() or 1) // 2)} threads" in cells[0].log.read_text()


def test_a_command_that_fails_fails_its_cell_and_no_other(cells: list[Progress]) -> None:
    """Its last line tells why; the next call tries it again, at the port that its run was begun with."""
    status, told = run(cells, Commands({(CELLS[1], "probe"): 2}))
    assert status == 1
    assert f"{CELLS[1]}: failed (dgan: error: the probe; see {cells[1].log})" in told
    assert [each.phase for each in cells] == [Phase.DONE, Phase.FAILED, Phase.DONE, Phase.DONE]
    assert not cells[1].file.exists()
    cells[1].phase, commands = Phase.WAITING, Commands()
    assert run(cells, commands)[0] == 0
    assert commands.started == [(CELLS[1], word) for word in ("run", "probe", "quality")]
    assert (
        json.loads(cells[1].file.read_text())["seconds"]["training"] is None
    )  # that of this call is not all of it


def test_nodes_that_were_given_up_are_an_outcome(cells: list[Progress]) -> None:
    """The cell is judged as far as it goes, and its file names them."""
    codes = {(CELLS[0], word): 1 for word in ("run", "quality")}
    commands = Commands(codes, errors={CELLS[0]: ("cycle 5: loss of D nan", "TrainingError")})
    assert run(cells[:1], commands)[0] == 0
    assert [word for _, word in commands.started] == ["run", "probe", "quality"]
    found = json.loads(cells[0].file.read_text())
    assert found["nodes"]["1"]["state"] == "finished"
    lost = {"state": "gave up", "cycle": 4, "restarts": 5, "error": "cycle 5: loss of D nan"}
    assert found["nodes"]["2"] == lost | UNCOUNTED | {"g_steps": 4}
    assert (found["probe"], found["quality"]) == ({}, None)


@pytest.mark.parametrize(
    ("code", "failure"), [(2, "TrainingError"), (1, "LocalError"), (1, "NeighborTimeoutError")]
)
def test_what_training_has_not_brought_about_is_no_outcome(
    cells: list[Progress], code: int, failure: str
) -> None:
    """A port that is taken, a full disk, a neighbour that was lost to nobody's training: the cell is tried again."""
    commands = Commands({(CELLS[0], "run"): code}, errors={CELLS[0]: ("the port is taken", failure)})
    assert run(cells[:1], commands)[0] == 1
    assert not cells[0].file.exists()


def test_a_cell_without_its_figures_is_not_done(cells: list[Progress]) -> None:
    """Though every command says that all is well."""
    status, told = run(cells[:1], Commands(missing="quality"))
    assert (status, cells[0].file.exists()) == (1, False)
    assert f"quality.json is missing; see {cells[0].log}" in told[-1]


def test_a_run_that_was_begun_keeps_its_ports_and_no_other_takes_them(cells: list[Progress]) -> None:
    """Cells have moved in the study's file since."""
    study_dir, study_cells = cells[0].directory, [each.cell for each in cells]
    begun = cells[2]
    begun.run_dir.mkdir(parents=True)
    (begun.run_dir / "run.json").write_text('{"inputs": {"base_port": 20000}}')
    study = read_study(study_dir.parent / "small.toml", data=None, base_port=20_000)
    again = progress_of(study, study_cells, study_dir)
    assert again[2].base_port == 20_000
    ports = [port for each in again for port in each.ports]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("word", ["run", "quality"])
def test_a_signal_stops_what_is_at_work_and_starts_nothing_more(cells: list[Progress], word: str) -> None:
    """The status is the signal's; a command that was asked to stop ends with one of its own."""
    commands = Commands({(CELLS[1], word): 130}, hold=(CELLS[1], word))
    status, told = run(cells, commands)
    assert status == 130
    assert [each.phase for each in cells] == [Phase.DONE, Phase.STOPPED, Phase.WAITING, Phase.WAITING]
    assert commands.started[-1] == (CELLS[1], word)
    assert "stopping: the runs save their state" in told


def test_a_run_directory_in_use_is_waited_for(cells: list[Progress]) -> None:
    """A study that was killed leaves a run that is still saving."""
    cells[0].run_dir.mkdir(parents=True)
    commands = Commands()
    with (cells[0].run_dir / ".lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def let_go(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Command:
            fcntl.flock(held, fcntl.LOCK_UN)
            return commands(words, environment, log)

        manner = Manner(1, neighborhood=False, again="", spawn=let_go)
        assert conduct(cells[:2], manner, Events()) == 0
    assert list(dict.fromkeys(cell for cell, _ in commands.started)) == [CELLS[1], CELLS[0]]
