"""dgan-launch: turns a graph file into running nodes."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from launcher.datasets import DATA_SETS
from launcher.live import open_view, read_status
from launcher.plan import Request
from launcher.prepare import Draft, default_run_dir, draft_run, locked, settings_layer, write_run
from launcher.processes import Outcome, supervise
from launcher.supervisor import RestartPolicy, Supervisor
from node.cli import Group, example
from node.config import PRESETS, Settings, parse_assignments, resolve
from node.exits import EXIT_OK
from topology import graph as graphs
from topology.errors import InputError
from topology.files import read_graph, write_graph

POLICIES = get_args(Settings.model_fields["policy"].annotation)
_DEGREE = 4


@click.group(
    "dgan-launch",
    cls=Group,
    epilog=example("dgan-launch graph ring --nodes 5 > ring.toml", "dgan-launch run ring.toml"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="dgan", message="%(version)s")
def main() -> None:
    """Turns a graph file into running nodes."""


_RUN_OPTIONS = (
    click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH"),
    click.option(
        "--data", default="digits", show_default=True, help=f"{', '.join(DATA_SETS)}, or a folder of images."
    ),
    click.option(
        "--policy", type=click.Choice(POLICIES), help="Whose discriminators a generator learns against."
    ),
    click.option(
        "--preset", type=click.Choice(PRESETS), help="Settings to start from; quick when not given."
    ),
    click.option("--epochs", type=int, help="Passes over each node's images."),
    click.option("--seed", type=int, help="Root of every random stream, of the split too."),
    click.option(
        "--run-dir",
        type=click.Path(path_type=Path),
        help="Directory of the run; runs/<graph>-<policy>-<time> when not given.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local"]),
        default="local",
        show_default=True,
        help="What runs the nodes: processes of this machine.",
    ),
    click.option(
        "--lockstep", is_flag=True, help="Exchange in blocks, so that a run can be repeated bit for bit."
    ),
    click.option(
        "--settings",
        "settings_file",
        type=click.Path(path_type=Path),
        help="TOML file of settings, under those given here.",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="One setting; may be given often, wins over all.",
    ),
    click.option(
        "--base-port",
        type=int,
        default=7000,
        show_default=True,
        help="A node without an address in the graph listens at this port + its id.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would run, and make no run directory."),
)


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that `run` and `prepare` share."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


@main.command(
    epilog=example("dgan-launch run examples/paper-ring.toml --data mnist --preset paper --run-dir runs/ig")
)
@_run_options
@click.pass_context
def run(ctx: click.Context, /, graph: Path, **options: Any) -> None:
    """Runs a node process for each node of GRAPH.

    They are watched to the end, and restarted where they fail. A run directory that exists already is resumed,
    given the same graph, data and settings. Exit status: 0 all nodes finished; 130 or 143 stopped by Ctrl-C or
    SIGTERM with everything saved; 1 a node failed; 2 bad input.
    """
    draft = _draft(graph, options)
    if options["dry_run"]:
        click.echo(draft.plan.describe())
        return
    run_dir = draft.plan.request.run_dir
    with locked(run_dir):
        write_run(draft)
        click.echo(f"{run_dir}: {'prepared' if draft.is_new else 'resumed'}, {len(draft.plan.nodes)} nodes")
        specs = [node.process for node in draft.plan.nodes]
        if all((status := read_status(spec.status)) and status.state == "finished" for spec in specs):
            click.echo(f"all nodes have finished already; next: dgan-eval probe {run_dir}")
            return
        supervisor = Supervisor([spec.node_id for spec in specs], RestartPolicy(), random.Random())
        with open_view(Console()) as view:
            outcome = supervise(specs, supervisor, view)
    _report(draft, outcome, run_dir_given=options["run_dir"] is not None)
    ctx.exit(outcome.exit_code)


@main.command(
    epilog=example(
        "dgan-launch prepare examples/paper-ring.toml --run-dir runs/by-hand",
        "dgan-node --id 3 --peers runs/by-hand/peers.toml",
    )
)
@_run_options
def prepare(graph: Path, **options: Any) -> None:
    """Makes a run directory and starts nothing.

    The nodes are then started by hand, on one machine or several. Safe to give twice: the same graph, data and settings change nothing in a run directory.
    """
    draft = _draft(graph, options)
    if options["dry_run"]:
        click.echo(draft.plan.describe())
        return
    run_dir = draft.plan.request.run_dir
    with locked(run_dir):
        write_run(draft)
    click.echo(f"{run_dir}: {'prepared' if draft.is_new else 'prepared already, nothing changed'}")
    for node in draft.plan.nodes:
        click.echo(f"dgan-node --id {node.id} --peers {run_dir / 'peers.toml'}")


@main.command(
    "graph", epilog=example("dgan-launch graph small-world --nodes 20 --degree 4 --seed 1 > graph.toml")
)
@click.argument("kind", type=click.Choice(["ring", "complete", "grid", "regular", "small-world", "random"]))
@click.option("--nodes", type=int, required=True, help="Number of nodes; their ids start at 1.")
@click.option(
    "--degree", type=int, help="Neighbours of a node, on average in a random graph; 4 when not given."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same graph.")
def draw_graph(kind: str, nodes: int, degree: int | None, seed: int) -> None:
    """Prints a connected graph as TOML.

    --degree and --seed shape regular, small-world and random graphs.
    """
    fixed = {"ring": graphs.ring, "complete": graphs.complete, "grid": graphs.grid}
    drawn = {"regular": graphs.regular, "small-world": graphs.small_world, "random": graphs.random_graph}
    if kind in drawn:
        graph = drawn[kind](nodes, _DEGREE if degree is None else degree, seed)
    elif degree is not None:
        raise InputError(
            "--degree",
            f"{degree} means nothing for a {kind}",
            f"leave it out, or draw one of {', '.join(drawn)}",
        )
    else:
        graph = fixed[kind](nodes)
    click.echo(write_graph(graph), nl=False)


def _draft(graph_file: Path, options: dict[str, Any]) -> Draft:
    graph = read_graph(graph_file)
    settings = _settings(options)
    data = options["data"]
    if not data:
        raise InputError("--data", "an empty text", f"{', '.join(DATA_SETS)}, or a folder")
    request = Request(
        graph=graph,
        data=data if data in DATA_SETS else str(Path(data).expanduser().resolve()),
        settings=settings,
        base_port=options["base_port"],
        run_dir=options["run_dir"]
        or default_run_dir(graph.name, settings.policy, datetime.now().astimezone()),
    )
    return draft_run(graph_file, request, progress=sys.stderr.isatty())


def _settings(options: dict[str, Any]) -> Settings:
    """The settings file, under the options, under `--set`; each place answers for its own mistakes."""
    named = {key: options[key] for key in ("preset", "policy", "epochs", "seed") if options[key] is not None}
    if options["lockstep"]:
        named["lockstep"] = True
    file = options["settings_file"]
    layers: list[dict[str, Any]] = []
    settings = Settings()
    for where, layer in (
        (file, settings_layer(file) if file else {}),
        ("command line", named),
        ("--set", parse_assignments(options["assignments"])),
    ):
        layers.append(layer)
        settings = resolve(where or "", *layers)
    return settings


def _report(draft: Draft, outcome: Outcome, *, run_dir_given: bool) -> None:
    """Says how the run ended, and what to do next."""
    run_dir = draft.plan.request.run_dir
    for node_id, words in sorted(outcome.errors.items()):
        log = run_dir / "nodes" / str(node_id) / "console.log"
        click.echo(
            f"dgan-launch: error: node {node_id} {outcome.states[node_id]}: {words}; see {log}", err=True
        )
    if outcome.exit_code == EXIT_OK:
        click.echo(f"finished: all {len(outcome.states)} nodes; next: dgan-eval probe {run_dir}")
        return
    again = "the same command" if run_dir_given else f"the same command with --run-dir {run_dir}"
    click.echo(f"stopped: run {again} to resume")


if __name__ == "__main__":
    main(prog_name="dgan-launch")
