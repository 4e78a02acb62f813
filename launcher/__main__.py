"""dgan-launch: turns a graph file into running nodes."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from launcher.compose import compose_file
from launcher.datasets import DATA_SETS
from launcher.forkserver import fork_server
from launcher.handout import hand_out as hand_out_files
from launcher.live import open_view, read_status
from launcher.options import DATA, GRAPH, RUN_SETTINGS, Parameter, blaming_variables, read_settings, takes
from launcher.plan import Request
from launcher.prepare import Draft, default_run_dir, draft_run, locked, write_run
from launcher.processes import Outcome, supervise
from launcher.site_commands import keys, peers, shard
from launcher.study_commands import study
from launcher.supervisor import RestartPolicy, Supervisor
from node.cli import Group, example
from node.exits import EXIT_OK
from topology import graph as graphs
from topology.errors import InputError
from topology.files import read_graph, write_graph

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


for command in (keys, shard, peers, study):
    main.add_command(command)

_RUN_OPTIONS: Sequence[Parameter] = (
    GRAPH,
    DATA,
    *RUN_SETTINGS,
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
        "--base-port",
        type=int,
        default=7000,
        show_default=True,
        help="A node without an address in the graph listens at this port + its id.",
    ),
    click.option(
        "--address",
        metavar="TCP://HOST:PORT",
        help="Address of every node, {id} its id, instead of the graph's; it then listens on every interface.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would run, and make no run directory."),
)


@main.command(
    epilog=example("dgan-launch run examples/paper-ring.toml --data mnist --preset paper --run-dir runs/ig")
)
@takes(*_RUN_OPTIONS)
@click.option(
    "--hang-after",
    type=click.FloatRange(min=0),
    default=RestartPolicy.hang_s,
    show_default=True,
    metavar="SECONDS",
    help="Kill and restart a node that gives no sign of life for this long; 0 for never.",
)
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
    specs = [node.process for node in draft.plan.nodes]
    # Before the data are prepared: the one does not wait for the other.
    with locked(run_dir), fork_server(specs[0].env) as server:
        write_run(draft)
        click.echo(f"{run_dir}: {'prepared' if draft.is_new else 'resumed'}, {len(draft.plan.nodes)} nodes")
        if all((status := read_status(spec.status)) and status.state == "finished" for spec in specs):
            click.echo(f"all nodes have finished already; next: dgan-eval probe {run_dir}")
            return
        policy = RestartPolicy(hang_s=options["hang_after"])
        supervisor = Supervisor([spec.node_id for spec in specs], policy, random.Random())
        with open_view(Console()) as view:
            outcome = supervise(specs, supervisor, view, server=server)
    _report(draft, outcome, run_dir_given=options["run_dir"] is not None)
    ctx.exit(outcome.exit_code)


@main.command(
    epilog=example(
        "dgan-launch prepare examples/paper-ring.toml --run-dir runs/by-hand",
        "dgan-node --id 3 --peers runs/by-hand/peers.toml",
    )
)
@takes(*_RUN_OPTIONS)
@click.option(
    "--hand-out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make a folder in DIR for each node with the files that its machine needs and no more, and one for the evaluator.",
)
def prepare(graph: Path, hand_out: Path | None, **options: Any) -> None:
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
        if hand_out is not None:
            hand_out_files(run_dir, draft.plan.request.graph.ids, hand_out)
    click.echo(f"{run_dir}: {'prepared' if draft.is_new else 'prepared already, nothing changed'}")
    if hand_out is not None:
        click.echo(
            f"{hand_out}: a folder for each of {len(draft.plan.nodes)} nodes, and one for the evaluator"
        )
        return
    for node in draft.plan.nodes:
        click.echo(f"dgan-node --id {node.id} --peers {run_dir / 'peers.toml'}")


@main.command(epilog=example("dgan-launch compose examples/paper-ring.toml > docker-compose.yml"))
@click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH")
def compose(graph: Path) -> None:
    """Prints GRAPH as a file for Docker Compose, for the folder that holds the Dockerfile.

    A container for each node, a network for each edge, an init service and an evaluator; docs/docker.md tells more.
    """
    click.echo(compose_file(read_graph(graph), graph), nl=False)


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


@blaming_variables()
def _draft(graph_file: Path, options: dict[str, Any]) -> Draft:
    graph = read_graph(graph_file)
    settings = read_settings(options)
    data = options["data"]
    if not data:
        raise InputError("--data", "an empty text", f"{', '.join(DATA_SETS)}, or a folder")
    request = Request(
        graph=graph,
        data=data if data in DATA_SETS else str(Path(data).expanduser().resolve()),
        settings=settings,
        base_port=options["base_port"],
        address=options["address"],
        run_dir=options["run_dir"]
        or default_run_dir(graph.name, settings.policy, datetime.now().astimezone()),
    )
    return draft_run(graph_file, request, progress=sys.stderr.isatty())


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
