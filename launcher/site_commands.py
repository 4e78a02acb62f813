"""The commands of a run of sites: `keys` and `shard` for a site, `peers` for the coordinator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from launcher.datasets import load_data
from launcher.keys import revoke_node, rotate_key
from launcher.options import GRAPH, IMAGE_SETTINGS, RUN_SETTINGS, read_settings, takes
from launcher.site import make_key, make_peers, make_shard, read_public_keys, write_shard
from node.cli import example
from topology.files import read_graph
from topology.peers import dump_peers


@click.group(epilog=example("dgan-launch keys make keys/node-3.key > node-3.pub"))
def keys() -> None:
    """Makes, changes and revokes the key that a node proves its identity with."""


@keys.command(epilog=example("dgan-launch keys make keys/node-3.key > node-3.pub"))
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
def make(path: Path) -> None:
    """Makes a key pair and prints the public key.

    FILE holds both keys, is readable to you alone, and stays on the node's machine; a file that exists is never
    overwritten. The public key, 40 characters, is for the coordinator.
    """
    click.echo(make_key(path))


_PEERS = click.argument("path", metavar="PEERS", type=click.Path(path_type=Path))
_ID = click.option("--id", "node_id", type=int, required=True, help="The node's id in PEERS.")


@keys.command(epilog=example("dgan-launch keys rotate peers.toml --id 3"))
@_PEERS
@_ID
def rotate(path: Path, node_id: int) -> None:
    """Gives a node another key pair: the key file beside PEERS is replaced, and the public key in PEERS.

    Nothing is kept of the old pair. PEERS is written anew, without its comments; it holds no secret, and every neighbour
    needs the new copy. A neighbour's node follows it on SIGHUP; the node itself must be started again.
    """
    public_key, neighbors = rotate_key(path, node_id)
    click.echo(f"{path}: node {node_id} has the new public key {public_key}")
    click.echo(_next_steps(neighbors, f"start node {node_id} again"))


@keys.command(epilog=example("dgan-launch keys revoke peers.toml --id 3"))
@_PEERS
@_ID
def revoke(path: Path, node_id: int) -> None:
    """Takes a node out of PEERS, and out of everybody's neighbours.

    PEERS is written anew, without its comments; every neighbour needs the new copy. A neighbour's node follows it on
    SIGHUP, and the revoked node gets nothing more, not even on a connection that stands.
    """
    neighbors = revoke_node(path, node_id)
    click.echo(f"{path}: node {node_id} is taken out")
    click.echo(_next_steps(neighbors, f"stop node {node_id}"))


def _next_steps(neighbors: tuple[int, ...], last: str) -> str:
    if not neighbors:
        return f"next: {last}; it has no neighbours"
    ids = ", ".join(str(neighbor) for neighbor in neighbors)
    return f"next: give this file to its neighbours, nodes {ids}; kill -HUP each of their processes; {last}"


@click.command(
    epilog=example(
        "dgan-launch shard pictures/ --preset paper -o shards/node-3.npz",
        "dgan-launch shard pictures/ --preset paper -o shards/test.npz --test",
    )
)
@click.argument("data", metavar="DATA")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The shard; one that exists is never replaced by another.",
)
@click.option("--test", "is_test", is_flag=True, help="Take the test images instead, to judge the node by.")
@takes(*IMAGE_SETTINGS)
def shard(data: str, output: Path, *, is_test: bool, **options: Any) -> None:
    """Makes one node's shard of all training images of DATA.

    DATA is a folder with one sub-folder of pictures for each class, a folder of IDX files, or the name of a data set.
    Of class folders without train/ and test/ a fifth is kept out of the shard, for --test. The settings of `image`
    say what the images become; give the run's own.
    """
    found = load_data(data, progress=sys.stderr.isatty(), where="DATA")
    made = make_shard(found, read_settings(options), is_test=is_test)
    is_new = write_shard(output, made)
    size, channels = made.image_shape
    told = f"{len(made)} {'test' if is_test else 'training'} images of {size}x{size}x{channels}"
    click.echo(f"{output}: {told}{'' if is_new else ', there already, nothing changed'}")


@click.command(
    epilog=example("dgan-launch peers ring.toml --public-keys public-keys/ --preset paper > peers.toml")
)
@GRAPH
@click.option(
    "--public-keys",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder with the public key of each node, node-<id>.pub.",
)
@takes(*RUN_SETTINGS)
def peers(graph: Path, folder: Path, **options: Any) -> None:
    """Prints the peers.toml of a new run, without any image or secret key.

    GRAPH gives every node its address. All nodes need the same copy: each call makes another run.
    """
    read = read_graph(graph)
    settings = read_settings(options)
    made = make_peers(graph, read, settings, read_public_keys(folder, read.ids))
    click.echo(dump_peers(made), nl=False)
