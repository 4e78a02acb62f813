"""What a site and a coordinator make without one another's files: keys, one shard, peers.toml."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from launcher.__main__ import main
from launcher.datasets import load_data, prepare_shards
from node.config import resolve
from node.shards import load_shard
from topology.peers import is_public_key, read_peers
from transport.keys import load_keys, make_keys

FIXED = ["--set", "image.size=8", "--set", "image.channels=1"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def launch(*arguments: str) -> Result:
    """One command, in this process."""
    return CliRunner().invoke(main, arguments)


def refusal(*arguments: str) -> str:
    """The one line with which a command refuses, exit status 2; nothing else is printed."""
    result = launch(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("dgan-launch: error: ").rstrip("\n")


@pytest.mark.parametrize("command", [["keys"], ["keys", "make"], ["shard"], ["peers"]])
def test_every_help_holds_an_example(command: list[str]) -> None:
    """With a line that can be typed."""
    result = launch(*command, "--help")
    assert result.exit_code == 0
    assert re.search(r"Example:\n +dgan-launch \w+", result.stdout)


# --- keys ------------------------------------------------------------------------------------------------------


def test_a_key_pair_is_saved_for_its_owner_and_its_public_half_printed() -> None:
    """So that `> node-3.pub` holds what the coordinator needs and no more."""
    result = launch("keys", "make", "keys/node-3.key")
    assert result.exit_code == 0
    pair = load_keys(Path("keys/node-3.key"))
    assert result.output == f"{pair.public}\n"
    assert is_public_key(pair.public)
    assert Path("keys/node-3.key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_overwritten() -> None:
    """The line tells where the public key is, which the shell's `>` may just have wiped out."""
    launch("keys", "make", "node-3.key")
    before = Path("node-3.key").read_bytes()
    line = refusal("keys", "make", "node-3.key")
    assert line.startswith("node-3.key: exists already, and a key is never overwritten; its line public_key")
    assert Path("node-3.key").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_told() -> None:
    """As every mistake in an argument."""
    Path("keys").write_text("")
    assert refusal("keys", "make", "keys/node-3.key").startswith("keys/node-3.key: cannot be written")


# --- shard -----------------------------------------------------------------------------------------------------


def write_pictures(folder: Path, side: int, each: int = 10, mode: str = "L") -> None:
    """Noise in two classes."""
    rng = np.random.default_rng(side)
    shape = (side, side) if mode == "L" else (side, side, 3)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            picture.save(folder / name / f"{number}.png")


def test_a_shard_is_the_one_that_prepare_gives_a_runs_only_node() -> None:
    """The same bytes: one format, one order, one way to resize."""
    result = launch("shard", "digits", "-o", "shards/node-3.npz", "--set", "image.size=12")
    assert result.exit_code == 0
    assert result.output == "shards/node-3.npz: 1437 training images of 12x12x1\n"
    settings = resolve("test", {"image": {"size": 12}})
    prepare_shards(load_data("digits"), settings, (3,), Path("prepared"))
    assert Path("shards/node-3.npz").read_bytes() == Path("prepared/node-3.npz").read_bytes()
    assert not Path("shards/test.npz").exists()


def test_the_test_images_are_those_that_prepare_gives_the_evaluator() -> None:
    """On request, and none of them is in the shard."""
    result = launch("shard", "digits", "-o", "test.npz", "--test")
    assert result.output == "test.npz: 360 test images of 8x8x1\n"
    prepare_shards(load_data("digits"), resolve("test"), (3,), Path("prepared"))
    assert Path("test.npz").read_bytes() == Path("prepared/test.npz").read_bytes()


def test_a_folder_of_pictures_becomes_a_shard_and_what_is_left_a_test() -> None:
    """The folder's classes, the size and channels asked for, no picture in both."""
    write_pictures(Path("pictures"), side=30, mode="RGB")
    Path("site.toml").write_text("[image]\nsize = 20\nchannels = 1\n")
    for name, option, told in (("own.npz", [], "16 training"), ("test.npz", ["--test"], "4 test")):
        result = launch("shard", "pictures", "-o", name, "--settings", "site.toml", *option)
        assert result.output == f"{name}: {told} images of 20x20x1\n"
    own, test = load_shard(Path("own.npz")), load_shard(Path("test.npz"))
    assert own.classes == test.classes == ("cat", "dog")
    assert own.labels is not None
    assert np.bincount(own.labels).tolist() == [8, 8]
    seen = {image.tobytes() for image in (*own.images, *test.images)}
    assert len(seen) == 20


def test_the_presets_own_split_does_not_cut_a_sites_images() -> None:
    """Where `paper` gives each of a run's nodes 10,000 images, a site gives all that it has."""
    write_pictures(Path("pictures"), side=20)
    assert (
        "16 training images of 20x20x1"
        in launch("shard", "pictures", "-o", "own.npz", "--preset", "paper").output
    )


def test_making_the_same_shard_again_changes_nothing() -> None:
    """Not even the time of the file."""
    launch("shard", "digits", "-o", "own.npz")
    before = Path("own.npz").stat().st_mtime_ns
    result = launch("shard", "digits", "-o", "own.npz")
    assert result.exit_code == 0
    assert result.output == "own.npz: 1437 training images of 8x8x1, there already, nothing changed\n"
    assert Path("own.npz").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["size", "order", "something else"])
def test_another_shard_is_never_overwritten(change: str) -> None:
    """A node that has trained on it would refuse to go on."""
    launch("shard", "digits", "-o", "own.npz")
    if change == "something else":
        Path("own.npz").write_text("notes")
    before = Path("own.npz").read_bytes()
    word = {"size": "image.size=12", "order": "seed=1"}.get(change, "seed=0")
    line = refusal("shard", "digits", "-o", "own.npz", "--set", word)
    assert line == (
        "own.npz: exists already and holds something else; name another file, or remove this one first"
    )
    assert Path("own.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["absent", "-o", "a.npz"], r"DATA: 'absent' is neither a data set nor a folder; .*"),
        (["digits"], r"Missing option '-o' / '--output'; see `dgan-launch shard --help`"),
        (["digits", "-o", "."], r"Invalid value for '-o' / '--output': .*is a directory.*"),
        (["mixed", "-o", "a.npz"], r"mixed: images of 2 different sizes, .* --set image\.size=10"),
        (["digits", "-o", "a.npz", "--set", "image.sise=8"], r"--set: unknown setting image\.sise; .*"),
        (["digits", "-o", "a.npz", "--set", "image.resize=crop", "--set", "image.size=9"], r"digits: 8x8 .*"),
    ],
)
def test_what_makes_no_shard_is_one_line(arguments: list[str], line: str) -> None:
    """And no file."""
    write_pictures(Path("mixed"), side=10)
    write_pictures(Path("other"), side=12)
    Path("other/cat").rename("mixed/cow")
    assert re.fullmatch(line, refusal("shard", *arguments))
    assert not Path("a.npz").exists()


# --- peers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def public() -> dict[int, str]:
    """A ring of three with addresses in ring.toml, and the public keys of its nodes in the folder `keys`."""
    text = 'name = "three sites"\nedges = [[1, 2], [2, 3], [3, 1]]\n'
    text += "".join(f'[[node]]\nid = {i}\naddress = "tcp://host-{i}.example.org:7000"\n' for i in (1, 2, 3))
    text += 'bind = "tcp://*:7100"\narchitecture = "wide"\n'
    Path("ring.toml").write_text(text)
    Path("keys").mkdir()
    made = {node_id: make_keys().public for node_id in (1, 2, 3)}
    for node_id, key in made.items():
        Path(f"keys/node-{node_id}.pub").write_text(f"{key}\n")
    return made


def test_peers_are_complete_without_an_image_or_a_secret(public: dict[int, str]) -> None:
    """Addresses, keys, edges and settings, as a node reads them."""
    words = ["--preset", "paper", "--policy", "uniform", "--epochs", "3", "--seed", "5", "--lockstep"]
    result = launch("peers", "ring.toml", "--public-keys", "keys", *words, "--set", "training.batch_size=10")
    assert result.exit_code == 0
    Path("peers.toml").write_text(result.stdout)
    read = read_peers(Path("peers.toml"))
    view = read.view(3)
    assert {peer.id: peer.public_key for peer in read.peers} == public
    assert [peer.id for peer in view.neighbors] == [1, 2]
    assert (view.me.address, view.me.bind) == ("tcp://host-3.example.org:7000", "tcp://*:7100")
    assert (view.me.architecture, view.neighbors[0].architecture) == ("wide", None)
    assert (view.data, view.key) == (Path("shards/node-3.npz"), Path("keys/node-3.key"))
    settings = resolve("peers.toml", view.settings)
    assert (settings.preset, settings.policy, settings.epochs, settings.seed) == ("paper", "uniform", 3, 5)
    assert (settings.lockstep, settings.training.batch_size, settings.image.size) == (True, 10, 20)


@pytest.mark.usefixtures("public")
def test_every_call_makes_another_run() -> None:
    """Named for the graph."""
    ids = set()
    for _ in range(2):
        Path("peers.toml").write_text(launch("peers", "ring.toml", "--public-keys", "keys", *FIXED).stdout)
        ids.add(read_peers(Path("peers.toml")).run_id)
    assert len(ids) == 2
    assert all(re.fullmatch(r"three-sites-[0-9a-f]{8}", run_id) for run_id in ids)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, r"keys/node-2\.pub: no such file; node 2's public key: one line of 40 characters, .*"),
        ("", r"keys/node-2\.pub: holds no public key; one line of 40 characters, .*"),
        ("0" * 39, r"keys/node-2\.pub: holds no public key; .*"),
        ("~" * 40, r"keys/node-2\.pub: holds no public key; .*"),
        ("{1}\n{2}", r"keys/node-2\.pub: holds no public key; .*"),
        (
            "{1}",
            r"keys/node-2\.pub: holds the same key as keys/node-1\.pub; every node has a pair of its own",
        ),
        ('secret_key = "{2}"', r"keys/node-2\.pub: holds a secret key, which is secret no longer; .*"),
    ],
)
def test_a_public_key_that_is_none_is_one_line(
    public: dict[int, str], content: str | None, line: str
) -> None:
    """It names the file, and never quotes what may be a secret."""
    Path("keys/node-2.pub").unlink()
    if content is not None:
        Path("keys/node-2.pub").write_text(content.replace("{1}", public[1]).replace("{2}", public[2]))
    told = refusal("peers", "ring.toml", "--public-keys", "keys", *FIXED)
    assert re.fullmatch(line, told)
    assert all(key not in told for key in public.values())


@pytest.mark.usefixtures("public")
def test_a_node_without_an_address_is_named() -> None:
    """On other machines no port of this one would do."""
    Path("ring.toml").write_text("edges = [[1, 2], [2, 3], [3, 1]]\n")
    line = refusal("peers", "ring.toml", "--public-keys", "keys", *FIXED)
    assert line.startswith("ring.toml: node 1 has no address; a table [[node]] with id = 1 and address = ")


@pytest.mark.usefixtures("public")
def test_the_shape_of_the_images_must_be_said() -> None:
    """Nobody here has an image to take it from, and sites that differ would drop one another's snapshots."""
    line = refusal("peers", "ring.toml", "--public-keys", "keys")
    assert line == (
        "image.size: 0 takes the data set's own, and no data set is seen here; "
        "what the shards of all sites have, such as --set image.size=20"
    )
    line = refusal("peers", "ring.toml", "--public-keys", "keys", *FIXED[:2])
    assert line.startswith("image.channels: 0 takes the data set's own")


@pytest.mark.usefixtures("public")
def test_an_unknown_architecture_is_refused() -> None:
    """Here, and not at five sites."""
    text = Path("ring.toml").read_text()
    Path("ring.toml").write_text(text.replace('"wide"', '"huge"'))
    line = refusal("peers", "ring.toml", "--public-keys", "keys", *FIXED)
    assert line.startswith("ring.toml: node 3: architecture = 'huge' is unknown; one of light, paper, wide")
