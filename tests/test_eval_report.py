"""The report: what it shows of whole, partial and hostile run directories, and that it is one self-contained file."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import re
import shutil
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import torch

from eval import report as report_module
from eval.comparison import POLICIES, WEIGHED
from eval.history import History, read_history
from eval.portrait import NodePortrait
from eval.report import write_report
from eval.results import (
    ClassifierCard,
    ClassOrigins,
    Layers,
    ProbeNode,
    ProbeResult,
    ProbeRow,
    QualityNode,
    QualityResult,
    QualityScores,
    Source,
    read_quality,
    write_result,
)
from eval.runs import read_runs
from node import checkpoint
from node.checkpoint import CheckpointMeta, add_prefix
from node.config import Architecture, CooperationSettings, Settings, resolve
from node.models import Generator, initialise
from node.shards import Shard, save_shard
from topology.errors import InputError
from topology.files import write_graph
from topology.graph import ring
from topology.peers import Peer, Peers, dump_peers

pytestmark = pytest.mark.system

SIZE = 8
CYCLES, EVERY = 400, 10
CLASSES = tuple("0123456789")
FEATURES: tuple[tuple[Source, Layers | None], ...] = (
    ("discriminator", "all"),
    ("discriminator", "pooled"),
    ("untrained", "all"),
    ("pixels", None),
)
KERNELS: tuple[Literal["linear", "rbf", "chosen"], ...] = ("linear", "rbf", "chosen")
VOID = {"meta", "link", "br", "img"}


def make_run(path: Path, policy: str = "info-gain", nodes: int = 5, **changes: object) -> Path:
    """A plausible run directory of a ring, written by the project's own writers; its numbers mean nothing."""
    layer = {"policy": policy, "epochs": 20, "image": {"size": SIZE, "channels": 1}}
    settings = resolve("test", layer, changes)
    graph = ring(nodes)
    peers = Peers(
        path=None,
        run_id=f"test-{policy}",
        data="shards/node-{id}.npz",
        key="keys/node-{id}.key",
        directory="nodes/{id}",
        settings=settings.model_dump(mode="json"),
        peers=tuple(
            Peer(i, f"tcp://127.0.0.1:{7000 + i}", f"{i:040d}", graph.neighbors(i)) for i in graph.ids
        ),
    )
    path.mkdir(parents=True)
    (path / "peers.toml").write_text(dump_peers(peers))
    (path / "graph.toml").write_text(write_graph(graph))
    (path / "run.json").write_text(
        json.dumps({"run_id": peers.run_id, "created": "2026-01-02T03:04:05Z", "dgan": "0.1.0"})
    )
    rng = np.random.default_rng(0)
    for place, node in enumerate((*graph.ids, None)):
        labels = rng.integers(0, 10, 300)
        images = np.clip(rng.normal(90, 60, (300, SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
        index = np.arange(300) + 300 * place
        name = f"node-{node}" if node else "test"
        save_shard(path / "shards" / f"{name}.npz", Shard(images, labels, index, "digits", CLASSES))
    for node in graph.ids:
        make_node(path / "nodes" / str(node), node, graph.neighbors(node), settings)
    return path


def make_node(directory: Path, node: int, neighbors: tuple[int, ...], settings: Settings) -> None:
    """One node's folder: a checkpoint of untrained networks, metrics and status."""
    generator = Generator(Architecture(), SIZE, 1)
    initialise(generator, "he", torch.Generator().manual_seed(node))
    meta = CheckpointMeta(
        run_id=f"test-{settings.policy}", node_id=node, architecture="paper", arch_id="paper/8x8x1/0",
        image_size=SIZE, image_channels=1, cycle=CYCLES, cycles=CYCLES, epoch=20, epochs=20, finished=True,
        chosen={}, inputs={}, boot=1, saved_at_s=0.0,
    )  # fmt: skip
    checkpoint.save(directory, meta, add_prefix(generator.state_dict(), "generator"))
    rng = np.random.default_rng(node)
    listens, weighs = not settings.stands_alone, settings.policy == "info-gain"
    lines = []
    for cycle in range(EVERY, CYCLES + 1, EVERY):
        fade, epoch = math.exp(-cycle / 150), 1 + (cycle - 1) // 20
        heard = neighbors if listens else ()
        line = {
            "cycle": cycle, "epoch": epoch, "boot": 1, "time_s": cycle * 0.05, "cycles_per_s": 20 + rng.normal(),
            "loss_threshold": 1.0 / epoch, "d_loss": 0.8 + 0.6 * fade + 0.05 * rng.normal(),
            "g_loss": 1.4 - 0.6 * fade + 0.1 * rng.normal(),
            "neighbor_loss": 1.7 - 0.6 * fade + 0.15 * rng.normal() if listens else None,
            "inner_steps": 1 + rng.random(), "cap_hits": int(rng.integers(0, EVERY)), "considered": 5 * listens,
            "skipped": int(listens and cycle == EVERY), "negative_terms": 0.3 if weighs else None,
            "clamped": int(weighs), "all_clamped": 0,
            "kl": {str(j): float(rng.gamma(2) * (1 + fade) * j) for j in heard if weighs},
            "chosen": {str(j): int(rng.integers(0, 4)) for j in heard},
            "age_s": {str(j): float(rng.random()) for j in heard},
            "lag_cycles": {str(j): float(rng.normal(5)) for j in heard},
            "bytes_out": cycle * 20_000 * listens, "bytes_in": cycle * 19_000 * listens, "resident_bytes": 310_000_000,
        }  # fmt: skip
        lines.append(line)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    links = {str(j): {"age_s": 0.2, "accepted": 40, "refused": 0} for j in neighbors}
    (directory / "status.json").write_text(json.dumps({"state": "finished", "neighbors": links}))


def make_probe(run: Path, policy: str, base: float) -> None:
    """A probe.json with every row that `dgan-eval probe` leaves."""
    rows = []
    for source, layers in FEATURES:
        level = base if source == "discriminator" else 7.0
        for kernel in KERNELS:
            errors = [level + 0.1 * node + 0.5 * (kernel == "linear") for node in range(5)]
            nodes = tuple(
                ProbeNode(place + 1, error, 0.7, 400, 300, 30, error + 1, 1217, "linear" if kernel == "linear" else "rbf",
                          10.0, None if kernel == "linear" else 1.0, "nodes/1/x.safetensors", CYCLES)
                for place, error in enumerate(errors)
            )  # fmt: skip
            headline = (source, layers, kernel) == ("discriminator", "all", "chosen")
            rows.append(
                ProbeRow(source, layers, kernel, headline, sum(errors) / 5, min(errors), max(errors), nodes)
            )
    write_result(run / "eval" / "probe.json", ProbeResult(f"test-{policy}", policy, "digits", 0, tuple(rows)))


def make_quality(run: Path, policy: str) -> None:
    """A quality.json as `dgan-eval quality` leaves it."""
    scores = QualityScores(
        images=1000, kid=0.0123, kid_sd=0.001, kid_subsets=50, kid_subset_size=100, fid=12.5, precision=0.71, recall=0.43,
        density=0.8, coverage=0.6, neighbors=5, confident=0.85, class_shares=tuple(0.02 * k for k in range(10)),
        classes_covered=8, confidence_needed=0.9, class_share_needed=0.01,
    )  # fmt: skip
    result = QualityResult(
        run_id=f"test-{policy}", policy=policy, data_set="digits", seed=0, classes=CLASSES, reference_images=300,
        classifier=ClassifierCard(2.5, 1500, 64, "0" * 32),
        real=dataclasses.replace(scores, kid=0.0, fid=0.7, classes_covered=10),
        nodes=tuple(QualityNode(node, "x", CYCLES, scores) for node in range(1, 6)),
    )  # fmt: skip
    write_result(run / "eval" / "quality.json", result)


class Page(html.parser.HTMLParser):
    """A page taken apart: its visible text, its attributes, and whether its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an opened tag."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Holds the closing tag against the last one opened."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Notes visible text."""
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def images(self) -> list[str]:
        """Sources of the pictures."""
        return [value for name, value in self.attributes if name == "src"]


def report(*paths: Path) -> Page:
    """Writes and reads the report of these runs."""
    return Page(write_report(read_runs(paths), paths[0].parent / "out" / "report.html"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of three whole runs, probed and judged."""
    root = tmp_path_factory.mktemp("full")
    # Given in another order than the paper's.
    for policy, base in (("info-gain", 5.1), ("alone", 6.2), ("uniform", 5.3)):
        make_run(root / policy, policy)
        make_probe(root / policy, policy, base)
        make_quality(root / policy, policy)
    return report(root / "info-gain", root / "alone", root / "uniform")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A run of three nodes that nobody has evaluated, and its report."""
    run = make_run(tmp_path_factory.mktemp("plain") / "plain", nodes=3)
    return run, report(run)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The same run, for a test that changes it."""
    return make_run(tmp_path / "bare", nodes=3)


def test_the_report_is_one_file_that_asks_for_nothing_else(full: Page) -> None:
    """No script, no outside address, every picture inside, tags balanced."""
    assert not full.open
    assert "script" not in full.tags
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", full.source)
    assert all(source.startswith("data:image/png;base64,") for source in full.images())
    links = [value for name, value in full.attributes if name in ("href", "xlink:href")]
    targets = {value for name, value in full.attributes if name == "id"}
    assert all(link == "data:," or link.removeprefix("#") in targets for link in links)
    assert "url(" not in re.sub(r"url\(#\w+\)", "", full.source)


def test_table_one_sets_runs_floors_and_the_paper_side_by_side(full: Page) -> None:
    """Policies in the paper's order, the floors once, the paper's own figures and means."""
    heading = (
        "these runs floors the paper node stand alone uniform inform.-gain raw pixels untrained D stand alone"
    )
    assert heading in full.text
    assert "1 6.20 5.30 5.10 7.00 7.00 3.15 2.71 2.22" in full.text
    assert "mean 6.40 5.50 5.30 7.20 7.20 3.34 2.96 2.50" in full.text
    assert "linear kernel, mean 6.90 6.00 5.80 7.70 7.70" in full.text


def test_the_report_says_what_the_paper_lacks(full: Page) -> None:
    """The ring is our choice; one run, no seeds, no control; other data are not comparable."""
    for part in (
        "is our choice",
        "without seeds",
        "no control for the extra generator updates",
        "Not comparable",
    ):
        assert part in full.text


def test_every_node_of_every_run_shows_its_images(full: Page) -> None:
    """Five grids and the real images for each of three runs."""
    assert len(full.images()) == 3 * 6
    assert full.text.count("64 images of each node's generator") == 3


def test_quality_ends_with_the_reference_row(full: Page) -> None:
    """Real images close the table."""
    assert "0.0123 ± 0.0010 12.50 8 of 10 0.71 0.43" in full.text
    assert "real images 0.0000 ± 0.0010 0.70 10 of 10" in full.text


def test_where_a_node_lacks_classes_the_table_tells_whose_it_covers(tmp_path: Path, full: Page) -> None:
    """Of those it holds, of those that only its neighbours hold, of those of neither; elsewhere there are no such columns."""
    run = make_run(tmp_path / "skewed")
    make_quality(run, "info-gain")
    result = read_quality(run / "eval")
    assert result
    two_digits = ClassOrigins((0, 1), (1, 2, 3), own_covered=2, neighbors_covered=1, unseen_covered=5)
    first, *others = result.nodes
    nodes = (dataclasses.replace(first, origins=two_digits), *others)
    write_result(run / "eval" / "quality.json", dataclasses.replace(result, nodes=nodes))
    page = report(run)
    assert "classes own neighbours' unseen precision" in page.text
    assert "12.50 8 of 10 2 of 2 1 of 2 5 of 6 0.71" in page.text
    assert page.text.count("12.50 8 of 10 0.71") == len(others)
    assert "neighbours' unseen" not in full.text


def test_choices_are_counted_on_every_edge(plain: tuple[Path, Page]) -> None:
    """Who was chosen how often is the sum over the metrics' lines."""
    run, page = plain
    history = read_history(run / "nodes" / "1" / "metrics.jsonl")
    two, three = history.chosen(2), history.chosen(3)
    shares = [f"{100 * count / (two + three):.0f} %" for count in (two, three)]
    assert two > 0
    assert f"node 1 {two} {shares[0]} {three} {shares[1]} 200 1" in page.text


def test_a_run_without_results_names_the_commands(plain: tuple[Path, Page]) -> None:
    """Probe and quality are one line each, and everything else is there."""
    run, page = plain
    assert f"run dgan-eval probe {run}" in page.text
    assert f"run dgan-eval quality {run}" in page.text
    assert len(page.images()) == 4
    assert "LeakyReLU 0.2" in page.text


def test_only_settings_that_differ_stand_on_top(plain: tuple[Path, Page]) -> None:
    """With value, default and description; the rest is in the complete list."""
    _, page = plain
    assert "image.size 8 0 Height and width in pixels" in page.text
    assert "generator.learning_rate" not in page.text
    assert "learning_rate = 0.0002" in page.text


def test_a_run_that_never_trained_is_still_reported(bare: Path) -> None:
    """Without node folders, shards, graph.toml and run.json a line stands for each, and the graph is drawn."""
    for name in ("nodes", "shards"):
        shutil.rmtree(bare / name)
    (bare / "graph.toml").unlink()
    (bare / "run.json").unlink()
    page = report(bare)
    assert not page.images()
    for part in ("no folder of node 2", "No node left metrics", "no such file", "run.json", "3 not run"):
        assert part in page.text


def test_a_torn_checkpoint_costs_one_nodes_images(bare: Path) -> None:
    """The node says why; the others show theirs."""
    next((bare / "nodes" / "2" / "checkpoints").glob("*.safetensors")).write_bytes(b"torn")
    page = report(bare)
    assert len(page.images()) == 3
    assert "does not fit its digest" in page.text


def test_a_checkpoint_of_another_structure_is_named(bare: Path) -> None:
    """A generator that does not fit the settings is a line, not a traceback."""
    text = (bare / "peers.toml").read_text()
    (bare / "peers.toml").write_text(text.replace("latent_size = 100", "latent_size = 7"))
    assert "does not fit architecture 'paper'" in report(bare).text


def test_a_result_of_another_run_is_not_shown(bare: Path) -> None:
    """Its figures stay out of the table."""
    make_probe(bare, "uniform", 1.11)
    page = report(bare)
    assert "probe.json is of run 'test-uniform' with policy 'uniform', not of 'test-info-gain'" in page.text
    assert "1.11" not in page.text


def test_a_broken_result_is_named(bare: Path) -> None:
    """The line says which file and how to make it anew."""
    (bare / "eval").mkdir()
    (bare / "eval" / "quality.json").write_text('{"run_id": 3}')
    assert "make it anew with dgan-eval quality" in report(bare).text


def test_a_result_of_an_older_checkpoint_is_marked(bare: Path) -> None:
    """The node has trained on since."""
    make_quality(bare, "info-gain")
    older = checkpoint.load_newest(bare / "nodes" / "1")
    meta = dataclasses.replace(older.meta, cycle=CYCLES + 7)
    checkpoint.save(bare / "nodes" / "1", meta, older.tensors)
    assert (
        f"measured at cycle {CYCLES} of node 1, whose newest checkpoint is of cycle {CYCLES + 7}"
        in report(bare).text
    )


def test_everything_from_files_is_escaped(tmp_path: Path) -> None:
    """Names of directories, data sets and classes, states and versions cannot bring markup in."""
    bad = "<b onload=x>'\"&$z$"
    run = make_run(tmp_path / bad, nodes=3)
    make_probe(run, "info-gain", 5.0)
    shard = Shard(np.zeros((20, SIZE, SIZE, 1), np.uint8), np.zeros(20, np.int64), None, bad, (bad,))
    save_shard(run / "shards" / "node-1.npz", shard)
    (run / "nodes" / "1" / "status.json").write_text(json.dumps({"state": bad}))
    (run / "run.json").write_text(json.dumps({bad: bad}))
    page = report(run)
    assert "b" not in page.tags or not any(name == "onload" for name, _ in page.attributes)
    assert "<b onload" not in page.source
    assert page.text.count(bad) >= 6


@pytest.mark.parametrize("policy", ["alone", "alone-matched"])
def test_a_policy_that_stands_alone_tells_of_no_exchange(tmp_path: Path, policy: str) -> None:
    """Nothing was sent, chosen or weighed."""
    page = report(make_run(tmp_path / "x", policy, nodes=3))
    assert "Nothing was exchanged" in page.text
    assert "Divergence of the neighbours" not in page.text
    assert "never data" not in page.text


def test_images_in_two_shards_are_told(bare: Path) -> None:
    """Private data are disjoint, or the report says so."""
    assert "No image is held by two nodes." in report(bare).text
    shutil.copy(bare / "shards" / "node-1.npz", bare / "shards" / "node-2.npz")
    assert "300 images are held by more than one node." in report(bare).text


def test_shards_without_labels_show_their_sizes(bare: Path) -> None:
    """Labels are optional."""
    for path in (bare / "shards").glob("*.npz"):
        save_shard(path, Shard(np.zeros((20, SIZE, SIZE, 1), np.uint8)))
    assert "node 3 20 " in report(bare).text


def test_a_report_of_no_run_is_refused(tmp_path: Path) -> None:
    """One clear line."""
    with pytest.raises(InputError, match="no run is given"):
        write_report([], tmp_path / "report.html")


@pytest.mark.parametrize("told_by", ["status.json", "metrics.jsonl"])
def test_an_insecure_node_stands_at_the_top(tmp_path: Path, told_by: str) -> None:
    """Whether it is insecure now or was so in an earlier start; a secure run says nothing of it."""
    run = make_run(tmp_path / "run")
    assert "is insecure" not in write_report(read_runs([run]), tmp_path / "page.html").read_text(
        encoding="utf-8"
    )
    path = run / "nodes" / "3" / told_by
    path.write_text(path.read_text(encoding="utf-8").replace("{", '{"insecure": true, ', 1), encoding="utf-8")
    page = write_report(read_runs([run]), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>run is insecure.</b> Node 3 exchanged with <code>--insecure</code>" in page
    assert page.index("is insecure") < page.index('id="errors"')


def test_the_report_has_words_for_every_policy_and_criterion() -> None:
    """Runs are ordered, named and explained by these tables; a missing row would cost the whole page."""
    assert set(POLICIES) == set(get_args(Settings.model_fields["policy"].annotation))
    assert set(WEIGHED) == set(get_args(CooperationSettings.model_fields["criterion"].annotation))
    style = (Path(report_module.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    assert all(style.count(f"--{colour}: #") == 2 for _, colour in POLICIES.values())


@pytest.mark.parametrize("criterion", WEIGHED)
def test_a_run_tells_what_it_weighed(tmp_path: Path, criterion: str) -> None:
    """In the words of its criterion."""
    page = report(make_run(tmp_path / "x", nodes=3, cooperation={"criterion": criterion}))
    assert f"What Eq. (7) weighs: {WEIGHED[criterion]}, of each" in page.text


def test_a_step_against_the_own_d_counts_as_an_update_of_g() -> None:
    """Of `alone-matched` and `forgiving`, whose `chosen` may name the node itself."""
    lines = ({"cycle": 10, "chosen": {"1": 3, "2": 2}}, {"cycle": 20, "chosen": {"1": 4}})
    node = NodePortrait(1, "n0", (2, 5), "paper", {}, History(lines, 0, 0, 0), None, None, None)
    assert (node.choices, node.generator_updates) == (2, 29)
