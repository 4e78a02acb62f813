"""dgan-eval: judges finished or running nodes by their checkpoints; never opens a socket."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval.collect import Collected, standing
from eval.collect import collect as join
from eval.columns import aligned
from eval.results import (
    PROBE_FILE,
    QUALITY_FILE,
    ClassOrigins,
    ProbeResult,
    QualityResult,
    QualityScores,
    features_name,
    write_result,
)
from eval.runs import RunDirectory, read_runs
from eval.study import read_study
from eval.table import TABLE_FILE, StudyTable
from eval.waiting import check_writable
from eval.waiting import wait as wait_for
from node.cli import Group, example
from node.files import write_atomically
from topology.errors import InputError

# scikit-learn and matplotlib take seconds to load; `--help` and a wrong directory shall not. So commands import them.

Tell = Callable[[str], None]

_runs_argument = click.argument(
    "run_dirs", metavar="RUN_DIR…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
_nodes_option = click.option(
    "--node", "node_ids", type=int, multiple=True, help="Only this node; may be given several times."
)
_seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the evaluation."
)
_floors_option = click.option(
    "--floors/--no-floors", default=True, show_default=True, help="Probe raw pixels and an untrained D too."
)
_classifiers_option = click.option(
    "--classifiers",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps classifiers: runs on the same images take one from it. "
    "By default eval/classifiers of the first RUN_DIR.",
)
_labelled_option = click.option(
    "--labelled",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Shard of labelled images that the classifier learns from, as `dgan-launch shard` makes it. "
    "By default all nodes' shards that are here.",
)


@click.group(
    "dgan-eval",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("dgan-eval judge runs/ring", "dgan-eval probe runs/alone runs/uniform runs/info-gain"),
)
@click.version_option(package_name="dgan", message="%(version)s")
def main() -> None:
    """Judges the nodes of a run by their checkpoints."""


@main.command(epilog=example("dgan-eval collect from-berlin/ring from-athens/ring -o runs/ring"))
@click.argument("dirs", metavar="DIR…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Run directory to make or add to."
)
@_json_option
def collect(dirs: tuple[Path, ...], output: Path, *, as_json: bool) -> None:
    """Join node folders copied from several machines into one run directory.

    A DIR is a run directory with whatever nodes it holds, or one node's own folder. All must be of one run; of two
    copies of a node the newer stays. Secret keys are not copied.
    """
    collected = join(dirs, output)
    click.echo(_to_json(collected) if as_json else _collected_text(collected))


@main.command(epilog=example("dgan-eval probe runs/alone runs/uniform runs/info-gain"))
@_runs_argument
@_nodes_option
@_seed_option
@_floors_option
@click.option(
    "--neighborhood", is_flag=True, help="Probe each node's D joined with its neighbours' newest D too."
)
@_json_option
def probe(
    run_dirs: tuple[Path, ...],
    node_ids: tuple[int, ...],
    seed: int,
    *,
    floors: bool,
    neighborhood: bool,
    as_json: bool,
) -> None:
    """Measure each node's features: the test error of an SVM on every layer of its D (Table 1).

    Kernel, C and gamma are chosen on a held-out tenth of the node's own training images. The floors are the same SVM
    on raw pixels and on a D that was never trained. Writes RUN_DIR/eval/probe.json.
    """
    runs = [(run, _chosen_nodes(run, node_ids)) for run in read_runs(run_dirs)]
    from eval import probe as probes  # noqa: PLC0415 - see the top of the file

    wanted = {"floors": floors, "neighborhood": neighborhood}
    steps = sum(len(ids) for _, ids in runs) * len(probes.sources(**wanted))
    results = []
    with _progress(steps) as tell:
        for run, ids in runs:
            result = probes.probe(run, ids, seed, **wanted, tell=tell)
            write_result(run.evaluation / PROBE_FILE, result)
            results.append(result)
    click.echo(_to_json(results) if as_json else "\n\n".join(_probe_text(result) for result in results))


@main.command(epilog=example("dgan-eval quality runs/info-gain"))
@_runs_argument
@_nodes_option
@_seed_option
@_classifiers_option
@_labelled_option
@_json_option
def quality(
    run_dirs: tuple[Path, ...],
    node_ids: tuple[int, ...],
    seed: int,
    classifiers: Path | None,
    labelled: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure each node's generated images: KID, FID, classes covered, precision, recall, density, coverage.

    Distances are taken in the features of a small classifier of labelled training images, against the test images.
    Where a node lacks classes, those covered are also told by who holds them. Writes RUN_DIR/eval/quality.json.
    """
    runs = [(run, _chosen_nodes(run, node_ids)) for run in read_runs(run_dirs)]
    from eval.quality import quality as judge  # noqa: PLC0415 - see the top of the file

    folder = classifiers or runs[0][0].evaluation / "classifiers"
    results = []
    with _progress(sum(len(ids) + 2 for _, ids in runs)) as tell:
        for run, ids in runs:
            result = judge(run, ids, seed, folder, tell, labelled)
            write_result(run.evaluation / QUALITY_FILE, result)
            results.append(result)
    click.echo(_to_json(results) if as_json else "\n\n".join(_quality_text(result) for result in results))


@main.command(epilog=example("dgan-eval classes runs/alone runs/territories --node 3 -o classes.svg"))
@_runs_argument
@click.option("--node", "node_id", type=int, required=True, help="Whose images; the same node of every run.")
@_seed_option
@_classifiers_option
@_labelled_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The picture, an SVG file."
)
def classes(
    run_dirs: tuple[Path, ...],
    *,
    node_id: int,
    seed: int,
    classifiers: Path | None,
    labelled: Path | None,
    output: Path,
) -> None:
    """Draw what a node's generator draws of each class, its own and those that it never saw, run beside run.

    For each class the first images that the classifier of `quality` is sure of, and the share of such images.
    """
    runs = read_runs(run_dirs)
    for run in runs:
        run.node(node_id)  # which must be there, before the long work begins
    check_writable(output.parent)
    from eval.classes import picture  # noqa: PLC0415 - see the top of the file

    with _progress(len(runs)) as tell:
        folder = classifiers or runs[0].evaluation / "classifiers"
        drawn = picture(runs, node_id, seed, folder, tell, labelled)
    write_atomically(output, drawn.encode())
    click.echo(str(output))


@main.command(epilog=example("dgan-eval report runs/alone runs/uniform runs/info-gain -o report.html"))
@_runs_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The HTML file; by default RUN_DIR/eval/report.html, or report.html here for several runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the path as JSON.")
def report(run_dirs: tuple[Path, ...], output: Path | None, *, as_json: bool) -> None:
    """Write one self-contained HTML file: Table 1's form, the graph, samples, curves, settings."""
    runs = read_runs(run_dirs)
    from eval.report import write_report  # noqa: PLC0415 - see the top of the file

    if output is None:
        output = runs[0].evaluation / "report.html" if len(runs) == 1 else Path("report.html")
    path = write_report(runs, output)
    click.echo(json.dumps({"report": str(path)}) if as_json else str(path))


@main.command(
    epilog=example("dgan-eval judge runs/ring", "dgan-eval judge from-*/ring -o 'runs/{run}' --wait")
)
@click.argument("dirs", metavar="DIR…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Run directory to collect into, {run} the run's id; else the one run directory given is judged as it is.",
)
@click.option("--wait", is_flag=True, help="First wait until every node has finished.")
@_seed_option
@_floors_option
@click.pass_context
def judge(
    ctx: click.Context, dirs: tuple[Path, ...], output: Path | None, seed: int, *, wait: bool, floors: bool
) -> None:
    """Collect, probe, quality and report in one go."""
    if output is None and len(dirs) > 1:
        raise InputError("--output", f"not given, and there are {len(dirs)} directories", "-o RUN_DIR")
    run_dir = dirs[0] if output is None else output
    if "{run}" in str(run_dir):
        run_dir = Path(str(run_dir).replace("{run}", standing(dirs).run_id))
    if wait:
        check_writable(run_dir)  # now, and not after hours of training
        wait_for(dirs, lambda line: click.echo(line, err=True))
    if output is not None:
        ctx.invoke(collect, dirs=dirs, output=run_dir)
    ctx.invoke(probe, run_dirs=(run_dir,), seed=seed, floors=floors)
    ctx.invoke(quality, run_dirs=(run_dir,), seed=seed)
    ctx.invoke(report, run_dirs=(run_dir,))


@main.command(epilog=example("dgan-eval table runs/table1"))
@click.argument("study_dir", metavar="STUDY_DIR", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The JSON file; by default STUDY_DIR/table.json."
)
@_json_option
def table(study_dir: Path, output: Path | None, *, as_json: bool) -> None:
    """Set a study's arms beside their controls, their floors and the paper: Table 1 with intervals over seeds.

    STUDY_DIR is what `dgan-launch study` left, whether it has ended or not. Writes the figures as JSON, and from them
    STUDY_DIR/table.md and pictures as SVG beside it.
    """
    study = read_study(study_dir)
    from eval.table_files import write_table  # noqa: PLC0415 - see the top of the file
    from eval.table_text import as_text  # noqa: PLC0415 - the same
    from eval.tabulate import tabulate  # noqa: PLC0415 - the same

    found = tabulate(study)
    written = write_table(found, study_dir, output or study_dir / TABLE_FILE)
    for path in written:
        click.echo(str(path), err=True)
    click.echo(_to_json(found) if as_json else as_text(found))


def _chosen_nodes(run: RunDirectory, node_ids: Sequence[int]) -> list[int]:
    """The nodes asked for, or all; each checked to exist."""
    return sorted({run.node(node_id).id for node_id in node_ids}) or [node.id for node in run.nodes]


@contextmanager
def _progress(steps: int) -> Iterator[Tell]:
    """A bar on a terminal, a plain line for each step elsewhere; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: click.echo(line, err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=steps)
        begun = False

        def tell(line: str) -> None:
            nonlocal begun
            bar.update(task, description=line, advance=int(begun))
            begun = True

        yield tell


def _to_json(found: Collected | StudyTable | Sequence[ProbeResult] | Sequence[QualityResult]) -> str:
    many = (
        [dataclasses.asdict(result) for result in found]
        if isinstance(found, Sequence)
        else dataclasses.asdict(found)
    )
    return json.dumps(many, indent=1, default=str)


def _collected_text(collected: Collected) -> str:
    lines = [f"run {collected.run_id} in {collected.output}"]
    lines += [f"node {node}: taken from {source}" for node, source in collected.taken.items()]
    lines += [f"node {node}: already there, as new as any" for node in collected.kept]
    lines += [f"node {node}: missing" for node in collected.missing]
    return "\n".join(lines)


def _probe_text(result: ProbeResult) -> str:
    """The errors of every row; the headline, Table 1's row, is marked."""
    ids = [node.node for node in result.rows[0].nodes]
    head = ["error in %", "kernel", *(f"node {node_id}" for node_id in ids), "mean", "range"]
    table = [head]
    for row in result.rows:
        name = features_name(row.source, row.layers)
        errors = [f"{node.error:.2f}" for node in row.nodes]
        span = f"{row.lowest:.2f}-{row.highest:.2f}"
        table.append(
            [f"{'* ' if row.headline else '  '}{name}", row.kernel, *errors, f"{row.mean:.2f}", span]
        )
    first = result.headline.nodes[0]
    return (
        f"run {result.run_id}, policy {result.policy}, data {result.data_set}, seed {result.seed}\n"
        f"{aligned(table)}\n"
        f"* the paper's features; {first.test_images} test images, one standard error {first.standard_error:.2f}; "
        "kernel, C and gamma chosen on held-out training images"
    )


def _quality_text(result: QualityResult) -> str:
    table = [["", "KID", "sd", "FID", "classes", "precision", "recall", "density", "coverage"]]
    table += [_quality_row("real images", result.real)]
    table += [_quality_row(f"node {node.node}", node.scores) for node in result.nodes]
    if result.is_skewed:
        kinds = [["own", "neighbours'", "unseen"], [""] * 3]
        kinds += [_origins_row(node.origins, len(result.classes)) for node in result.nodes]
        table = [row + more for row, more in zip(table, kinds, strict=True)]
    return (
        f"run {result.run_id}, policy {result.policy}, data {result.data_set}, seed {result.seed}\n"
        f"{aligned(table)}\n"
        f"{result.real.images} images each against {result.reference_images} test images, in the features of a "
        f"classifier with {result.classifier.test_error:.2f}% test error"
    )


def _quality_row(name: str, scores: QualityScores) -> list[str]:
    shares = [scores.precision, scores.recall, scores.density, scores.coverage]
    return [
        name,
        f"{scores.kid:.4f}",
        f"{scores.kid_sd:.4f}",
        f"{scores.fid:.2f}",
        f"{scores.classes_covered}/{len(scores.class_shares)}",
        *(f"{share:.3f}" for share in shares),
    ]


def _origins_row(origins: ClassOrigins | None, count: int) -> list[str]:
    """Classes covered of those that the node holds, that only its neighbours do, and that neither does."""
    if origins is None:
        return ["?"] * 3
    return [f"{covered}/{held}" for covered, held in origins.shares(count)]


if __name__ == "__main__":
    sys.exit(main())
