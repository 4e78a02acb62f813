"""docs/machines.md, done: five folders play five machines, and the commands are those of the page."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main as dgan_eval
from harness import free_ports, started
from launcher.__main__ import main as dgan_launch
from node.__main__ import main as dgan_node
from node.exits import EXIT_INPUT
from node.shards import load_shard
from topology.peers import read_peers
from transport.keys import load_keys

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "machines.md"
COMMANDS = {"dgan-launch": dgan_launch, "dgan-node": dgan_node, "dgan-eval": dgan_eval}
MACHINE = 3  # the one that the page follows
DEADLINE_S = 240

# The paper's preset made small. In lockstep no node ends before it has used its neighbours' snapshots.
SMALL = """
lockstep = true
epochs = 3
[architecture.paper]
discriminator_widths = [8, 8]
generator_widths = [8]
latent_size = 16
[split]
images_per_node = 40
[training]
batch_size = 8
[exchange]
publish_every_cycles = 2
lockstep_timeout_s = 240
"""


def blocks(document: Path) -> dict[str, str]:
    """The fenced blocks of a document by the last word after the backticks; those without one are left out."""
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"^```(?:\w+ )?([\w-]+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(dict(found)) == len(found), "two blocks of one name"
    return dict(found)


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    """The page's blocks."""
    return blocks(PAGE)


def addresses(graph: str, first_port: int) -> str:
    """The graph with its hosts on this machine, each at a port of its own."""
    for port, host in enumerate(re.findall(r"tcp://([^\"]+)", graph), start=first_port):
        graph = graph.replace(host, f"127.0.0.1:{port}")
    return graph


def do(folder: Path, text: str, node_id: int = MACHINE) -> str:
    """Runs a block of the page as another machine would, on less data; returns its standard output."""
    for word in ("node-{}", "nodes/{}", "--node {}"):
        text = text.replace(word.format(MACHINE), word.format(node_id))
    small = shlex.quote(str(folder.parent / "small.toml"))
    text = text.replace("--preset paper", f"--preset paper --settings {small}")
    text = text.replace("--data mnist", "--data digits")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-euc", text],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_pictures(folder: Path, seed: int) -> None:
    """Two classes, ten pictures each: a bright upper or lower half, with noise of the site's own."""
    rng = np.random.default_rng(seed)
    for name, half in (("above", slice(0, 10)), ("below", slice(10, 20))):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 90, (20, 20), dtype=np.uint8)
            pixels[half] += np.uint8(150)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def files(folder: Path) -> set[str]:
    """Every file in a folder but the site's pictures."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if "pictures" not in path.parts}


def files_named_in_the_page() -> set[str]:
    """The first column of the table of files, as paths; a folder ends with a slash."""
    table = PAGE.read_text(encoding="utf-8").split("## Files on machine 3")[1].split("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall("`([^`]+)`", row)}


@pytest.mark.system
def test_five_machines_train_together_and_none_sees_anothers_files(
    tmp_path: Path, page: dict[str, str]
) -> None:
    """Key and shard made at each site, peers.toml by a coordinator with neither, nodes, collect, a site's own probe."""
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    hosts = re.findall(r"id = (\d+)\naddress = \"tcp://(\w+)", page["toml"])
    sites = {int(node_id): tmp_path / host for node_id, host in hosts}
    coordinator = tmp_path / "coordinator"
    (coordinator / "public-keys").mkdir(parents=True)
    (coordinator / "ring.toml").write_text(addresses(page["toml"], free_ports(5)), encoding="utf-8")
    for node_id, site in sites.items():
        write_pictures(site / "pictures", seed=node_id)
        assert "16 training images of 20x20x1" in do(site, page["site"], node_id)
        shutil.copy(site / f"node-{node_id}.pub", coordinator / "public-keys")
    do(coordinator, page["coordinator"])
    for site in sites.values():
        shutil.copy(coordinator / "peers.toml", site)
    assert "problem" not in do(sites[MACHINE], page["check"])
    check_nodes(sites)

    for node_id, site in sites.items():
        own = {"peers.toml", f"shards/node-{node_id}.npz", f"keys/node-{node_id}.key", f"node-{node_id}.pub"}
        assert {name for name in files(site) if not name.startswith(f"nodes/{node_id}/")} == own
    check_table(files(sites[MACHINE]))
    held = [load_shard(site / "shards" / f"node-{i}.npz").images.tobytes() for i, site in sites.items()]
    assert len(set(held)) == 5

    assert "node 3" in do(sites[MACHINE], page["probe"])
    assert (sites[MACHINE] / "eval" / "probe.json").is_file()
    check_evaluator(tmp_path / "evaluator", sites, page)


def check_nodes(sites: dict[int, Path]) -> None:
    """Each node, started from its own folder, finishes and has heard its two neighbours."""
    with contextlib.ExitStack() as stack:
        nodes = {i: stack.enter_context(started(site / "peers.toml", i))[i] for i, site in sites.items()}
        for node_id, node in nodes.items():
            code, errors = node.finish(DEADLINE_S)
            assert code == 0, errors
            neighbors = read_peers(sites[node_id] / "peers.toml").view(node_id).neighbors
            heard = node.status()["neighbors"]
            assert len(neighbors) == 2
            assert set(heard) == {str(peer.id) for peer in neighbors}
            assert all(row["accepted"] > 0 for row in heard.values())


def check_table(found: set[str]) -> None:
    """The page's table names every file of machine 3, and none that is not there."""
    named = files_named_in_the_page()
    folders = tuple(name for name in named if name.endswith("/"))
    assert {name for name in found if not name.startswith(folders)} == named - set(folders)
    assert all(any(name.startswith(folder) for name in found) for folder in folders)


def check_evaluator(folder: Path, sites: dict[int, Path], page: dict[str, str]) -> None:
    """What the sites pack is joined to a run with all nodes in it, and holds neither an image nor a key."""
    folder.mkdir()
    for node_id, site in sites.items():
        do(site, page["pack"], node_id)
        inbox = folder / f"from-{site.name}"
        inbox.mkdir()
        with tarfile.open(site / f"node-{node_id}.tar.gz") as archive:
            archive.extractall(inbox, filter="data")
    told = do(folder, page["evaluator"])
    assert all(f"node {i}: taken from from-{site.name}/nodes/{i}" in told for i, site in sites.items())
    assert (folder / "runs" / "five" / "eval" / "report.html").is_file()
    assert not [name for name in files(folder) if name.endswith((".npz", ".key"))]


@pytest.mark.system
def test_prepare_hands_out_the_three_files_that_a_machine_needs(tmp_path: Path, page: dict[str, str]) -> None:
    """And no other node's; the evaluator's folder has no key."""
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    folder = tmp_path / "coordinator"
    folder.mkdir()
    (folder / "ring.toml").write_text(page["toml"], encoding="utf-8")
    do(folder, page["hand-out"])
    assert files(folder / "machines" / "3") == {"peers.toml", "shards/node-3.npz", "keys/node-3.key"}
    check_lost_key(folder / "machines" / "3", page)
    evaluators = files(folder / "machines" / "evaluator")
    assert {"shards/test.npz", *(f"shards/node-{i}.npz" for i in range(1, 6))} <= evaluators
    assert not [name for name in evaluators if name.endswith(".key")]


def check_lost_key(machine: Path, page: dict[str, str]) -> None:
    """Another key, then out of the run, by the page's commands."""
    before = read_peers(machine / "peers.toml").view(3).me
    do(machine, page["rotate"])
    now = read_peers(machine / "peers.toml").view(3).me
    assert now.public_key != before.public_key
    assert load_keys(machine / "keys" / "node-3.key").public == now.public_key
    do(machine, page["revoke"])
    assert {peer.id for peer in read_peers(machine / "peers.toml").peers} == {1, 2, 4, 5}


def test_a_node_is_started_as_the_tests_start_it(page: dict[str, str]) -> None:
    """By hand and by systemd: an id and the peers file, and no more."""
    assert page["node"] == "dgan-node --id 3 --peers peers.toml\n"
    assert service(page)["Service"]["ExecStart"].endswith("/bin/dgan-node --id %i --peers peers.toml")


def test_the_service_writes_below_nodes_only_and_does_not_retry_bad_input(page: dict[str, str]) -> None:
    """Where the table of files says that a node writes."""
    unit = service(page)["Service"]
    assert (unit["Restart"], unit["RestartPreventExitStatus"]) == ("on-failure", str(EXIT_INPUT))
    assert unit["ProtectSystem"] == "strict"
    assert unit["ReadWritePaths"] == f"{unit['WorkingDirectory']}/nodes"
    assert "MemoryDenyWriteExecute" not in unit


def service(page: dict[str, str]) -> configparser.ConfigParser:
    """The page's systemd unit."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # configparser's own way to keep upper case
    parser.read_string(page["ini"])
    return parser


@pytest.mark.parametrize("document", ["README.md", "docs/docker.md", "docs/machines.md"])
def test_every_command_in_the_documents_is_one(document: str) -> None:
    """Its name, its options and their values; what it does is for the tests above."""
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = re.findall(r"^dgan-.*$", text.replace("\\\n", " "), flags=re.MULTILINE)
    assert lines
    for line in lines:
        name, *words = shlex.split(line.partition(">")[0], comments=True)
        command: click.Command = COMMANDS[name]
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context(line, words)
