"""`dgan-launch study`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from launcher.cells import Phase, progress_of, write_labelled, write_study
from launcher.datasets import DATA_SETS
from launcher.prepare import locked
from launcher.study import read_study
from launcher.study_run import Manner, conduct
from launcher.study_view import open_view
from node.cli import example
from node.exits import EXIT_OK

_BASE_PORT = 20_000


@click.command(
    epilog=example(
        "dgan-launch study examples/studies/table1.toml",
        "dgan-launch study examples/studies/table1.toml --only uniform.all.s3 --study-dir runs/again/table1",
    )
)
@click.argument("file", type=click.Path(path_type=Path), metavar="STUDY")
@click.option("--data", help=f"Instead of the study's own: {', '.join(DATA_SETS)}, or a folder.")
@click.option(
    "--study-dir", type=click.Path(path_type=Path), help="Where everything goes; runs/<name> when not given."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Cells at a time; half of this machine's processors, rounded up, when not given.",
)
@click.option("--only", multiple=True, metavar="CELL", help="Only this cell; may be given often.")
@click.option(
    "--base-port",
    type=click.IntRange(1024, 60_000),
    default=_BASE_PORT,
    show_default=True,
    help="Nodes listen at ports above this one.",
)
@click.option("--dry-run", is_flag=True, help="List the cells and how far they are, and start nothing.")
@click.pass_context
def study(ctx: click.Context, /, file: Path, only: tuple[str, ...], **options: Any) -> None:
    """Trains and judges every cell of STUDY: arms x variants x seeds.

    Cells that are done are left alone, others are gone on with: the same command after any interruption. Exit status:
    0 every cell is done; 1 a cell failed; 130 or 143 stopped by Ctrl-C or SIGTERM; 2 bad input.
    """
    data = options["data"]
    found = read_study(file, data=data, base_port=options["base_port"])
    directory: Path = options["study_dir"] or Path("runs") / found.name
    cells = progress_of(found, found.chosen(only), directory)
    if options["dry_run"]:
        for each in cells:
            click.echo(
                f"{each.cell.name}: {each.phase}, policy {each.cell.settings.policy}, {each.cell.settings.epochs} epochs"
            )
        return
    command = shlex.join(["dgan-launch", "study", str(file), *(["--data", data] if data else [])])
    jobs = options["jobs"] or -(-(os.cpu_count() or 1) // 2)
    manner = Manner(jobs, found.neighborhood, f"{command} --study-dir runs/again/{found.name} --only")
    with locked(directory):
        write_study(found, directory, f"{command} --study-dir {shlex.quote(str(directory))}")
        write_labelled(cells, progress=sys.stderr.isatty())
        for each in cells:
            if each.phase is Phase.FAILED:
                click.echo(f"{each.cell.name}: {each.phase} ({each.words})")
        with open_view(Console()) as view:
            status = conduct(cells, manner, view)
    done = sum(each.phase is Phase.DONE for each in cells)
    if status == EXIT_OK:
        click.echo(f"{directory}: all {done} cells done; next: dgan-eval table {directory}")
    else:
        click.echo(f"{directory}: {done} of {len(cells)} cells done; the same command goes on")
    ctx.exit(status)
