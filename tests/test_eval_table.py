"""dgan-eval table: what it makes of whole, unfinished, broken and collapsed studies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pydantic import TypeAdapter

from eval.__main__ import main
from eval.results import (
    ClassifierCard,
    Layers,
    ProbeNode,
    ProbeResult,
    ProbeRow,
    QualityNode,
    QualityResult,
    QualityScores,
    Source,
)
from eval.study import read_study
from eval.table import StudyTable
from eval.table_files import write_table
from eval.tabulate import ORIGINS, tabulate
from node.config import resolve

pytestmark = pytest.mark.system

ARMS = {"alone": "alone", "alone-matched": "alone-matched", "uniform": "uniform", "info-gain": "info-gain"}
LEVELS = {"alone": 2.6, "alone-matched": 2.4, "uniform": 2.3, "info-gain": 2.1}
SEEDS, NODES = (0, 1, 2), (1, 2, 3, 4, 5)
ENDED = {"state": "finished", "cycle": 40, "restarts": 0, "error": None}
Edit = Callable[[dict[str, Any]], None]


def make_study(path: Path, **changes: Any) -> Path:
    """A finished study whose errors are LEVELS plus a bit for seed and node; floors are probed in the first arm."""
    plan = {
        "name": "table1", "command": "dgan-launch study table1.toml", "arms": list(ARMS), "variants": ["iid"],
        "seeds": list(SEEDS), "comparisons": [["info-gain", "uniform"], ["info-gain", "alone-matched"]],
    } | changes  # fmt: skip
    (path / "cells").mkdir(parents=True)
    (path / "study.json").write_text(json.dumps(plan))
    for arm in plan["arms"]:
        for variant in plan["variants"]:
            for seed in plan["seeds"]:
                cell = make_cell(arm, variant, seed, floors=arm == plan["arms"][0])
                (path / "cells" / f"{arm}.{variant}.s{seed}.json").write_text(json.dumps(cell))
    return path


def make_cell(arm: str, variant: str, seed: int, *, floors: bool) -> dict[str, Any]:
    """A cell as the launcher leaves it."""
    rng = np.random.default_rng([seed, *arm.encode()])
    level = {node: LEVELS[arm] + 0.2 * seed + 0.01 * node + 0.02 * rng.normal() for node in NODES}
    kinds: list[tuple[Source, Layers | None, Mapping[int, float]]] = [
        ("discriminator", "all", level),
        ("discriminator", "pooled", {node: error - 0.1 for node, error in level.items()}),
    ]
    if floors:
        kinds += [
            ("untrained", "all", dict.fromkeys(NODES, 3.0 + 0.1 * seed)),
            ("pixels", None, dict.fromkeys(NODES, 2.63)),
        ]
    rows = [row for source, layers, errors in kinds for row in probe_rows(source, layers, errors)]
    policy = ARMS[arm]
    return {
        "arm": arm, "variant": variant, "seed": seed, "command": "dgan-launch run", "machine": {"processor": "Zen"},
        "versions": {"dgan": "0.1.0", "commit": "c0ffee"}, "seconds": {"training": 9.0, "evaluation": 1.0},
        "settings": resolve("test", {"policy": policy, "split": {"images_per_node": 10_000}}).model_dump(mode="json"),
        "nodes": {str(node): {**ENDED, "d_steps": 30 + node, "g_steps": 60} for node in NODES},
        "probe": dataclasses.asdict(ProbeResult("r", policy, "mnist", 0, tuple(rows))),
        "quality": dataclasses.asdict(make_quality(policy, {node: error / 10 for node, error in level.items()})),
    }  # fmt: skip


def probe_rows(source: Source, layers: Layers | None, errors: Mapping[int, float]) -> list[ProbeRow]:
    """The row of each kernel; the linear one has a point more."""
    rows = []
    for kernel in ("linear", "rbf", "chosen"):
        values = {node: error + (kernel == "linear") for node, error in errors.items()}
        nodes = tuple(
            ProbeNode(node, error, 0.16, 10_000, 9_000, 1_000, error, 80, "rbf", 10.0, 1.0, None, None)
            for node, error in values.items()
        )
        mean = sum(values.values()) / len(values)
        headline = (source, layers, kernel) == ("discriminator", "all", "chosen")
        rows.append(
            ProbeRow(
                source, layers, kernel, headline, mean, min(values.values()), max(values.values()), nodes
            )
        )
    return rows


def make_quality(policy: str, kids: Mapping[int, float]) -> QualityResult:
    """Scores that differ by their KID."""
    scores = QualityScores(
        images=1000, kid=0.1, kid_sd=0.001, kid_subsets=50, kid_subset_size=100, fid=12.5, precision=0.71, recall=0.43,
        density=0.8, coverage=0.6, neighbors=5, confident=0.85, class_shares=(0.1,) * 10, classes_covered=10,
        confidence_needed=0.9, class_share_needed=0.01,
    )  # fmt: skip
    return QualityResult(
        run_id="r", policy=policy, data_set="mnist", seed=0, classes=tuple("0123456789"), reference_images=300,
        classifier=ClassifierCard(0.6, 50_000, 64, "d1"), real=dataclasses.replace(scores, kid=0.0001),
        nodes=tuple(QualityNode(node, "x", 40, dataclasses.replace(scores, kid=kid)) for node, kid in kids.items()),
    )  # fmt: skip


def edit(study: Path, cell: str, change: Edit) -> None:
    """Changes the file of a cell."""
    path = study / "cells" / f"{cell}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def run(*words: str | Path) -> Result:
    """dgan-eval table."""
    return CliRunner().invoke(main, ["table", *(str(word) for word in words)])


def assert_one_line(result: Result, *parts: str) -> None:
    """Status 2 and one line with all of the parts."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    for part in ("dgan-eval: error: ", *parts):
        assert part in line


def table_of(study: Path) -> StudyTable:
    """The table of a study's files."""
    return tabulate(read_study(study))


def cells_of(text: str, beginning: str) -> Sequence[str]:
    """The cells of the first Markdown row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {beginning} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study."""
    return make_study(tmp_path / "study")


def test_table_one_has_its_form(study: Path) -> None:
    """Nodes and mean below one another, arms and the paper side by side; every part is there."""
    result = run(study)
    assert result.exit_code == 0, result.output
    text = (study / "table.md").read_text()
    assert cells_of(text, "node") == ["node", *ARMS, *(f"paper: {name}" for name in ("stand alone", "uniform", "inform.-gain"))]  # fmt: skip
    assert cells_of(text, "1")[5:] == ["3.15", "2.71", "2.22"]
    assert cells_of(text, "mean")[5:] == ["3.34", "2.96", "2.50"]
    assert float(cells_of(text, "mean")[1]) == pytest.approx(2.83, abs=0.03)
    assert cells_of(text, "seeds")[1:5] == ["3"] * 4
    for part in ("12 of 12 cells", "raw pixels", "KID", "info-gain - uniform", "0 of 15", "commit c0ffee"):
        assert part in text
        assert part in result.stdout
    written = ("table.json", "errors.iid.svg", "kid.iid.svg", "table.md")
    assert result.stderr.splitlines() == [str(study / name) for name in written]


def test_the_time_of_all_cells_is_told(study: Path) -> None:
    """By machine and code; what was interrupted has no time."""
    edit(study, "uniform.iid.s1", lambda cell: cell["seconds"].update(training=None, evaluation=3601.0))
    (origin,) = table_of(study).origins
    assert origin.hours == pytest.approx((11 * 10.0 + 3601.0) / 3600)
    run(study)
    assert (study / "table.md").read_text().splitlines()[-3].endswith("| 12 | 1.0 |")


def test_figures_name_their_seeds_and_nodes(study: Path) -> None:
    """Also those of the floors, which one arm has for all."""
    (variant,) = table_of(study).variants
    for row in (*variant.errors, *variant.floors):
        assert (row.overall.seeds, row.overall.nodes, row.overall.figures) == (SEEDS, NODES, 15)
    floor = next(row for row in variant.floors if row.kind == ("untrained", "all", "rbf"))
    assert floor.overall.value == pytest.approx(3.1)
    assert variant.errors[0].kind == ("discriminator", "all", "chosen")


def test_comparisons_are_paired(study: Path) -> None:
    """The seeds' own 0.2 falls out of the difference, and KID is told in percent."""
    (variant,) = table_of(study).variants
    found = [each for each in variant.comparisons if (each.ours, each.theirs) == ("info-gain", "uniform")]
    assert [each.figure for each in found] == [
        *("chosen", "linear", "rbf", "spread", "pooled"),
        *("kid", "fid", "coverage", "recall"),
    ]
    _, first, rbf, spread, pooled, kid, *_ = found
    assert spread.change is not None
    assert spread.change.figures == len(SEEDS)
    assert pooled.ours_mean == pytest.approx(rbf.ours_mean - 0.1)
    assert first.change is not None
    assert first.change.student is not None
    assert first.change.value == pytest.approx(-0.2, abs=0.03)
    assert first.change.student.excludes_zero
    assert first.effect is not None
    assert first.effect < -2
    assert kid.change is not None
    assert kid.change.value == pytest.approx(-100 * 0.2 / 2.53, abs=1.5)


def test_targets_are_the_papers_row_and_raw_pixels(study: Path) -> None:
    """The mean alone, and the interval's upper end; each kernel by itself, and the one that was chosen."""
    (variant,) = table_of(study).variants
    targets = {(target.arm, target.kernel, target.against): target for target in variant.targets}
    assert {kernel for _, kernel, _ in targets} == {"chosen", "linear", "rbf"}
    assert targets["alone", "chosen", "paper"].limit == pytest.approx(3.344)
    assert targets["alone", "chosen", "paper"].gap.value == pytest.approx(2.83 - 3.344, abs=0.03)
    assert targets["alone", "linear", "pixels"].limit == pytest.approx(3.63)
    assert targets["alone", "chosen", "pixels"].gap.value > 0
    # 2.33 +- 0.5 by Student, +- 0.2 by three seeds drawn again.
    close = targets["info-gain", "chosen", "pixels"]
    assert close.gap.bootstrap is not None
    assert close.gap.student is not None
    assert close.limit == pytest.approx(2.63)
    assert close.gap.bootstrap.high < 0 < close.gap.student.high
    assert "bootstrap only" in run(study).stdout


def test_raw_pixels_are_a_limit_seed_by_seed(study: Path) -> None:
    """A seed whose shards are hard is hard for raw pixels too: what they share is no doubt about who is better."""

    def harder(cell: dict[str, Any]) -> None:
        for row in cell["probe"]["rows"]:
            for node in row["nodes"] if row["source"] == "pixels" else ():
                node["error"] += 0.2 * cell["seed"]

    for seed in SEEDS:
        edit(study, f"alone.iid.s{seed}", harder)
    (variant,) = table_of(study).variants
    found = {(target.arm, target.kernel, target.against): target.gap for target in variant.targets}
    gap = found["info-gain", "chosen", "pixels"]
    assert gap.student is not None
    assert gap.value == pytest.approx(2.1 - 2.63, abs=0.05)
    assert gap.student.high < 0


def test_only_eq6_is_the_papers_information_gain(study: Path) -> None:
    """Another criterion has no row there."""
    for seed in SEEDS:
        edit(
            study,
            f"info-gain.iid.s{seed}",
            lambda cell: cell["settings"]["cooperation"].update(criterion="capped"),
        )
    against = {(target.arm, target.against) for target in table_of(study).variants[0].targets}
    assert ("uniform", "paper") in against
    assert ("info-gain", "paper") not in against


def test_the_spread_is_over_the_nodes_of_a_seed(study: Path) -> None:
    """The standard deviation in each seed, and then the mean: seeds that differ do not widen it."""

    def wider(cell: dict[str, Any]) -> None:
        for row in cell["probe"]["rows"]:
            for node in row["nodes"]:
                node["error"] = 2.0 + 0.1 * node["node"] + cell["seed"]

    for seed in SEEDS:
        edit(study, f"uniform.iid.s{seed}", wider)
    (variant,) = table_of(study).variants
    (spread,) = [each.overall for each in variant.spreads if each.arm == "uniform"]
    assert spread.value == pytest.approx(0.1 * np.std([1, 2, 3, 4, 5], ddof=1))
    (change,) = [
        each.change for each in variant.comparisons if (each.theirs, each.figure) == ("uniform", "spread")
    ]
    assert change is not None
    assert change.value < -0.1
    run(study)
    assert cells_of((study / "table.md").read_text(), "spread of nodes")[3] == "0.16 [0.16, 0.16] (3)"


def test_spreads_are_compared_over_the_nodes_that_both_have(study: Path) -> None:
    """An arm that lacks a node would else seem more alike, or less."""

    def extreme(cell: dict[str, Any]) -> None:
        for row in cell["probe"]["rows"]:
            row["nodes"][4]["error"] = 9.0

    def without(cell: dict[str, Any]) -> None:
        for row in cell["probe"]["rows"]:
            del row["nodes"][4]

    for seed in SEEDS:
        edit(study, f"uniform.iid.s{seed}", extreme)
        edit(study, f"info-gain.iid.s{seed}", without)
    (variant,) = table_of(study).variants
    (found,) = [each for each in variant.comparisons if (each.theirs, each.figure) == ("uniform", "spread")]
    assert found.theirs_mean < 0.1
    (alone,) = [each.overall for each in variant.spreads if each.arm == "uniform"]
    assert alone.value > 2


def test_updates_are_counted(study: Path) -> None:
    """Of D and G, the mean over nodes; a cell of a version that did not count them has none."""
    for node in NODES:
        for seed in SEEDS:
            edit(
                study,
                f"uniform.iid.s{seed}",
                lambda cell, node=node: cell["nodes"].update({str(node): ENDED}),
            )
    arms = {arm.name: (arm.d_steps, arm.g_steps) for arm in table_of(study).variants[0].arms}
    assert (arms["alone"], arms["uniform"]) == ((33, 60), (None, None))
    run(study)
    text = (study / "table.md").read_text()
    assert cells_of(text, "mean over nodes")[1:] == ["alone", "alone-matched", "info-gain"]
    assert cells_of(text, "updates of G")[1:] == ["60", "60", "60"]


def test_choices_are_told_where_there_were_any(study: Path) -> None:
    """The share of the neighbour chosen most, and of the values below 0, over the nodes that have one."""
    for seed in SEEDS:
        edit(
            study,
            f"info-gain.iid.s{seed}",
            lambda cell: cell["nodes"]["2"].update(
                most_chosen=0.9, clamped=0.25, own_loss=4.0, chosen_loss=2.5
            ),
        )
        edit(study, f"info-gain.iid.s{seed}", lambda cell: cell["nodes"]["3"].update(most_chosen=0.7))
    arms = {arm.name: (arm.most_chosen, arm.clamped) for arm in table_of(study).variants[0].arms}
    assert arms["info-gain"] == (pytest.approx(0.8), 0.25)
    assert arms["alone"] == (None, None)
    run(study)
    text = (study / "table.md").read_text()
    assert cells_of(text, "share of the neighbour chosen most")[1:] == ["", "", "", "0.80"]
    assert cells_of(text, "loss of G by the neighbour's D chosen")[1:] == ["", "", "", "2.50"]


def test_features_with_the_neighbours_are_compared_too(study: Path) -> None:
    """Where both arms have them."""
    for arm, level in (("uniform", 2.0), ("info-gain", 1.8)):
        for seed in SEEDS:
            errors = {node: level + 0.1 * seed + 0.01 * node for node in NODES}
            rows = [dataclasses.asdict(row) for row in probe_rows("neighborhood", "pooled", errors)]
            edit(study, f"{arm}.iid.s{seed}", lambda cell, rows=rows: cell["probe"]["rows"].extend(rows))
    found = [each for each in table_of(study).variants[0].comparisons if each.figure.startswith("joined")]
    assert [(each.ours, each.theirs, each.figure) for each in found] == [
        ("info-gain", "uniform", "joined_pooled")
    ]
    assert found[0].change is not None
    assert found[0].change.value == pytest.approx(-0.2)
    assert "with neighbours' D, pooled" in run(study).stdout


def test_an_unfinished_study_is_shown_as_far_as_it_is(study: Path) -> None:
    """What is missing is named; pairs are those that both arms have; one seed has no interval."""
    for name in ("uniform.iid.s1", "uniform.iid.s2", "alone-matched.iid.s0"):
        (study / "cells" / f"{name}.json").unlink()
    table = table_of(study)
    assert table.missing == ("alone-matched.iid.s0", "uniform.iid.s1", "uniform.iid.s2")
    against_uniform, against_matched = (
        each.change for each in table.variants[0].comparisons if each.figure == "rbf"
    )
    assert against_uniform is not None
    assert against_matched is not None
    assert (against_uniform.seeds, against_uniform.student) == ((0,), None)
    assert against_matched.seeds == (1, 2)
    result = run(study)
    assert "9 of 12 cells" in result.stdout
    assert "one seed" in result.stdout
    assert "Not finished: alone-matched.iid.s0, uniform.iid.s1, uniform.iid.s2." in result.stdout


def test_a_study_without_any_cell_is_a_table_without_figures(study: Path) -> None:
    """It can be asked for at once after the start."""
    for cell in (study / "cells").iterdir():
        cell.unlink()
    result = run(study)
    assert result.exit_code == 0, result.output
    assert "0 of 12 cells" in result.stdout
    assert not list(study.glob("*.svg"))


def test_a_collapsed_node_is_counted_and_stays_in_the_mean(study: Path) -> None:
    """By its state, by its classes and by its own floor; what has no figures is said to have none."""

    def gave_up(cell: dict[str, Any]) -> None:
        cell["nodes"]["2"] |= {"state": "gave up", "error": "the losses are not finite"}
        for row in cell["probe"]["rows"]:
            row["nodes"] = [node for node in row["nodes"] if node["node"] != 2]
        cell["quality"]["nodes"] = [node for node in cell["quality"]["nodes"] if node["node"] != 2]

    def bad(cell: dict[str, Any]) -> None:
        for row in cell["probe"]["rows"]:
            row["nodes"][2]["error"] = 30.0
        cell["quality"]["nodes"][3]["scores"]["classes_covered"] = 1

    def nothing(cell: dict[str, Any]) -> None:
        cell["probe"] = cell["quality"] = None

    edit(study, "uniform.iid.s0", gave_up)
    edit(study, "uniform.iid.s1", bad)
    edit(study, "uniform.iid.s2", nothing)
    (variant,) = table_of(study).variants
    found = [(each.seed, each.node, each.reasons, each.probed, each.judged) for each in variant.collapsed]
    assert found == [
        (0, 2, ('ended as "gave up" (the losses are not finite)',), False, False),
        (1, 3, ("error 30.00, untrained 3.10",), True, True),
        (1, 4, ("classes covered: 1",), True, True),
    ]
    uniform = next(row for row in variant.errors if row.arm == "uniform")
    assert (uniform.overall.figures, uniform.overall.seeds) == (9, (0, 1))
    assert uniform.overall.value > 5
    result = run(study)
    assert result.exit_code == 0, result.output
    assert "3 of 15" in result.stdout
    assert "uniform 3 of 15" in result.stdout


def test_a_node_that_holds_one_class_need_not_draw_two(study: Path) -> None:
    """It may be all that its images show; one that draws not even this one has collapsed."""

    def one_class(cell: dict[str, Any]) -> None:
        for node, covered in zip(cell["quality"]["nodes"], (1, 0, 1, 1, 1), strict=True):
            node["scores"]["classes_covered"] = covered
            node["origins"] = {
                "own": [node["node"]], "neighbors": [0], "own_covered": covered, "neighbors_covered": 0, "unseen_covered": 0,
            }  # fmt: skip

    edit(study, "uniform.iid.s0", one_class)
    (variant,) = table_of(study).variants
    assert [(each.seed, each.node, each.reasons) for each in variant.collapsed] == [
        (0, 2, ("classes covered: 0",))
    ]


def test_a_figure_that_is_no_number_is_none(study: Path) -> None:
    """A broken generator may have a KID that is not finite; the table stays one of numbers."""
    edit(study, "uniform.iid.s0", lambda cell: cell["quality"]["nodes"][0]["scores"].update(kid=float("nan")))
    assert "NaN" in (study / "cells" / "uniform.iid.s0.json").read_text()
    (variant,) = table_of(study).variants
    kid = next(row for row in variant.scores if (row.arm, row.score) == ("uniform", "kid"))
    assert kid.overall.figures == 14
    assert "NaN" not in run(study, "--json").stdout


def test_the_neighborhood_has_rows_of_its_own(study: Path) -> None:
    """Beside the others, and never the headline."""
    read = read_study(study)
    cells = []
    for cell in read.cells:
        assert cell.probe is not None
        rows = probe_rows("neighborhood", "all", dict.fromkeys(NODES, 1.5))
        probe = dataclasses.replace(cell.probe, rows=(*cell.probe.rows, *rows))
        cells.append(dataclasses.replace(cell, probe=probe))
    write_table(tabulate(dataclasses.replace(read, cells=tuple(cells))), study, study / "table.json")
    row = cells_of((study / "table.md").read_text(), "D and neighbours' D, all layers")
    assert row[1:3] == ["linear", "2.50 [2.50, 2.50] (3)"]


def test_other_data_stand_without_the_paper(study: Path) -> None:
    """Its figures are of MNIST."""
    for path in (study / "cells").iterdir():
        edit(study, path.stem, lambda cell: cell["probe"].update(data_set="digits"))
    result = run(study)
    assert "paper:" not in result.stdout
    assert "Not comparable with the paper's figures" in result.stdout
    assert {target.against for target in table_of(study).variants[0].targets} == {"pixels"}


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: cell["settings"]["split"].update(rule="classes"),
        lambda cell: cell["settings"]["split"].update(images_per_node=4000),
        lambda cell: cell["nodes"].pop("5"),
    ],
    ids=["split", "images", "nodes"],
)
def test_other_shards_stand_without_the_paper(study: Path, change: Edit) -> None:
    """Its figures are of five nodes with 10,000 images each, drawn alike."""
    assert "paper:" in run(study).stdout
    edit(study, "uniform.iid.s1", change)
    result = run(study)
    assert "paper:" not in result.stdout
    assert "Not comparable with the paper's figures" in result.stdout


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: cell["quality"]["classifier"].update(digest="d2"),
        lambda cell: cell["machine"].update(processor="other"),
        lambda cell: cell["versions"].update({"node/": "f00"}),
    ],
    ids=["classifier", "machine", "code"],
)
def test_arms_made_otherwise_are_told(study: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """By another classifier, machine or code than those of the same seed they cannot be compared."""
    assert "Not comparable" not in run(study).stdout
    edit(study, "uniform.iid.s1", change)
    assert run(study).stdout.count("arms of seed 1 were trained or judged differently") == 2


def test_variants_have_tables_of_their_own(tmp_path: Path) -> None:
    """And pictures."""
    study = make_study(tmp_path / "two", variants=["iid", "skewed"], seeds=[0, 1])
    result = run(study)
    assert result.exit_code == 0, result.output
    assert "skewed: Error in %, trained D" in result.stdout
    text = (study / "table.md").read_text()
    parts = [
        "Error in %, trained D",
        "![Errors by arm](errors.skewed.svg)",
        "Generated",
        "![KID by arm](kid.skewed.svg)",
    ]
    places = [text.index(part, text.index("## skewed")) for part in parts]
    assert places == sorted(places)  # each picture behind its table
    assert len(list(study.glob("*.svg"))) == 4


def test_the_same_study_gives_the_same_bytes(study: Path) -> None:
    """And the JSON alone gives the rest."""
    names = ("table.json", "table.md", "errors.iid.svg", "kid.iid.svg")
    assert run(study).exit_code == 0
    first = [(study / name).read_bytes() for name in names]
    printed = run(study, "--json").stdout
    assert [(study / name).read_bytes() for name in names] == first
    assert json.loads(printed) == json.loads(first[0])
    again = study / "again"
    write_table(
        TypeAdapter(StudyTable).validate_json(first[0]), again, again / "table.json"
    )  # makes the folder
    assert [(again / name).read_bytes() for name in names] == first


def test_the_pictures_stand_alone(study: Path) -> None:
    """With their namespace and their colours, in the report's two schemes."""
    assert run(study, "-o", study / "out" / "t.json").exit_code == 0
    assert (study / "out" / "t.json").is_file()
    for name in ("errors.iid.svg", "kid.iid.svg"):
        text = (study / name).read_text()
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own drawing
        assert "--gain: #" in text
        assert "prefers-color-scheme: dark" in text


def test_what_is_no_study_is_one_line(tmp_path: Path) -> None:
    """With the file that is missing."""
    assert_one_line(run(tmp_path), "study.json: no such file", "dgan-launch study")


def test_a_comparison_names_arms(tmp_path: Path) -> None:
    """An unknown one is told with those that there are."""
    study = make_study(tmp_path / "study", comparisons=[["info-gain", "unifrom"]])
    assert_one_line(run(study), "study.json: comparisons: 'unifrom' is no arm; one of alone, alone-matched,")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "the file: Invalid JSON"),
        ('{"arm": "uniform"}', "variant: Field required"),
        ("[]", "the file: Input should be"),
    ],
)
def test_a_bad_cell_is_one_line(study: Path, content: str, part: str) -> None:
    """With its file and what is wrong; nothing is written."""
    (study / "cells" / "uniform.iid.s1.json").write_text(content)
    assert_one_line(run(study), "uniform.iid.s1.json: ", part, "dgan-launch study")
    assert not (study / "table.json").exists()


def test_a_cell_of_another_place_is_one_line(study: Path) -> None:
    """A copied file must not count twice."""
    edit(study, "uniform.iid.s1", lambda cell: cell.update(seed=0))
    assert_one_line(run(study), "is of cell 'uniform.iid.s0', not of 'uniform.iid.s1'")


def test_cells_of_several_data_sets_are_said_not_to_compare(study: Path) -> None:
    """Files of one study may be brought together from anywhere."""
    edit(study, "uniform.iid.s1", lambda cell: cell["probe"].update(data_set="digits"))
    assert "Not comparable: these cells are of several data sets, digits, mnist." in run(study).stdout


def test_where_nodes_lack_classes_the_table_tells_whose_they_draw(tmp_path: Path) -> None:
    """Own, neighbours' and unseen classes apart, in the scores and in the comparisons; nowhere else."""
    study = make_study(tmp_path / "skewed", arms=["alone", "uniform"], comparisons=[["uniform", "alone"]])
    assert not {row.score for row in table_of(study).variants[0].scores} & set(ORIGINS)

    def two_classes(neighbors_covered: int) -> Edit:
        def change(cell: dict[str, Any]) -> None:
            for node in cell["quality"]["nodes"]:
                node["origins"] = {
                    "own": [0, 1], "neighbors": [2, 3, 4, 5], "own_covered": 2,
                    "neighbors_covered": neighbors_covered + cell["seed"] % 2, "unseen_covered": 0,
                }  # fmt: skip

        return change

    for seed in SEEDS:
        edit(study, f"alone.iid.s{seed}", two_classes(0))
        edit(study, f"uniform.iid.s{seed}", two_classes(3))
    (variant,) = table_of(study).variants
    means = {(row.arm, row.score): row.overall.value for row in variant.scores}
    assert means["uniform", "neighbors_covered"] == pytest.approx(3 + 1 / 3)
    assert (means["alone", "own_covered"], means["alone", "unseen_covered"]) == (2, 0)
    (change,) = [found.change for found in variant.comparisons if found.figure == "neighbors_covered"]
    assert change is not None
    assert change.value == pytest.approx(3)
    text = run(study).stdout
    assert "neighbours' classes covered" in text
    assert "own classes" in text
