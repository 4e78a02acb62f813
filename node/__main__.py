"""`dgan-node`: one GAN node as one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from node.cli import Command, example
from node.exits import EXIT_INPUT, EXIT_OK, LIFELINE
from topology.peers import read_peers

_LIFELINE_DEADLINE_S = 1.5


@click.command(
    "dgan-node",
    cls=Command,
    epilog=example("dgan-node --id 3 --peers peers.toml --check", "dgan-node --id 3 --peers peers.toml"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--id", "node_id", type=int, required=True, help="This node's id in the peers file.")
@click.option(
    "--peers",
    "peers_path",
    type=click.Path(path_type=Path),
    required=True,
    help="The peers file: addresses, public keys, edges and the run's settings.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Say whether the node could start, item by item; train nothing and change nothing. Status 2 if it could not.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: the findings as JSON.")
@click.option(
    "--insecure",
    is_flag=True,
    allow_from_autoenv=False,
    help="Exchange without keys: anybody on the way may read, change or forge what is sent. For experiments on one "
    "machine; neighbours must be insecure too.",
)
@click.version_option(package_name="dgan", message="%(version)s")
def main(node_id: int, peers_path: Path, *, check: bool, as_json: bool, insecure: bool) -> None:
    """Train one node of a decentralized GAN on its own private images.

    The peers file names the shard, the secret key and the directory of the node; all other settings have defaults.
    SIGTERM saves a checkpoint and ends with status 0; starting again resumes from it.
    SIGHUP reads the peers file again: neighbours that were taken away and other public keys of neighbours are followed.
    """
    if check:
        sys.exit(_check(peers_path, node_id, as_json=as_json, insecure=insecure))
    if as_json:
        raise click.UsageError("--json goes with --check")
    stop, reload = threading.Event(), threading.Event()
    _handle_signals(stop, reload)
    _watch_lifeline(stop)
    view = read_peers(peers_path).view(node_id)
    # torch takes seconds to load; a wrong peers file shall not.
    from node.session import run_session  # noqa: PLC0415

    sys.exit(run_session(view, peers_path, stop, reload=reload, insecure=insecure))


def _check(peers_path: Path, node_id: int, *, as_json: bool, insecure: bool) -> int:
    from node.check import examine  # noqa: PLC0415 - a start has no use for it

    report = examine(peers_path, node_id, insecure=insecure)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(str(finding) for finding in report.findings))
    return EXIT_OK if report.can_start else EXIT_INPUT


def _handle_signals(stop: threading.Event, reload: threading.Event) -> None:
    """The first SIGTERM or Ctrl-C asks for a checkpoint and a clean end, the second one ends at once.

    SIGHUP asks to read the peers file again.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGHUP, lambda *_: reload.set())


def _watch_lifeline(stop: threading.Event) -> None:
    """Saves and ends when the launcher dies, however it does: it holds the other end of a pipe and never writes.

    The kernel's parent-death signal would be no help: it comes once for every thread of a launcher that dies, and a second
    SIGTERM ends a node without saving.
    """
    descriptor = os.environ.pop(LIFELINE, None)
    if descriptor is None:
        return

    def watch() -> None:
        os.read(int(descriptor), 1)
        # The kernel's timer: on a busy machine an interpreter takes seconds to take itself apart, and no thread of its
        # own runs any more to cut that short.
        signal.setitimer(signal.ITIMER_REAL, _LIFELINE_DEADLINE_S)
        stop.set()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def run() -> None:
    """The command as a process of its own, which ends as soon as it is done.

    All is saved and closed by then. The interpreter would go on to take torch apart, for seconds on a busy machine, with no
    handler for signals any more.
    """
    try:
        main(prog_name="dgan-node")
    except SystemExit as end:
        with contextlib.suppress(OSError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else EXIT_OK)


if __name__ == "__main__":
    run()
