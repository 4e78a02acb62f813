"""Downloads from mirrors on this machine: good ones, bad ones, and none."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.downloads import SOURCES, Source, default_cache, fetch
from launcher.idx import FILES
from topology.errors import InputError

CONTENT = {name: gzip.compress(name.encode() * 1000, mtime=0) for name in FILES}
SHA256 = tuple(hashlib.sha256(CONTENT[name]).hexdigest() for name in FILES)


@dataclass
class Mirror:
    """A web server on the loopback, the folder it serves, and what it was asked for."""

    address: str
    folder: Path
    asked: list[str] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: object, asked: list[str], **kwargs: object) -> None:
        self.asked = asked
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # whatever the server hands over

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def serve(folder: Path, content: dict[str, bytes]) -> Iterator[Mirror]:
    """A mirror with these files, until the test ends."""
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder), asked=asked))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Mirror(f"http://127.0.0.1:{server.server_port}/", folder, asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback is asked directly, whatever this machine is set to."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def good(tmp_path: Path) -> Iterator[Mirror]:
    """A mirror with the four right files."""
    yield from serve(tmp_path / "good", CONTENT)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Mirror]:
    """A mirror that has none of the files."""
    yield from serve(tmp_path / "empty", {})


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[Mirror]:
    """A mirror whose files are others."""
    yield from serve(tmp_path / "wrong", dict.fromkeys(FILES, b"something else"))


@pytest.fixture
def dead() -> str:
    """An address at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


def test_four_files_come_from_the_first_mirror(tmp_path: Path, good: Mirror, wrong: Mirror) -> None:
    """Byte for byte, and the second mirror is never asked."""
    fetch("mnist", Source((good.address, wrong.address), SHA256), tmp_path / "cache", progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == CONTENT
    assert wrong.asked == []


@pytest.mark.parametrize("bad", ["dead", "empty", "wrong"])
def test_a_good_mirror_after_a_bad_one_is_enough(
    tmp_path: Path, good: Mirror, bad: str, request: pytest.FixtureRequest
) -> None:
    """And the bad one is asked once, not for every file."""
    first = request.getfixturevalue(bad)
    address = first.address if isinstance(first, Mirror) else first
    fetch("mnist", Source((address, good.address), SHA256), tmp_path / "cache", progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == CONTENT
    if isinstance(first, Mirror):
        assert len(first.asked) == 1


def test_no_good_mirror_is_one_line_that_names_the_folder(
    tmp_path: Path, dead: str, empty: Mirror, wrong: Mirror
) -> None:
    """It tells what each mirror did, which files are wanted, and where to put them; nothing wrong is kept."""
    folder = tmp_path / "cache"
    with pytest.raises(InputError) as caught:
        fetch("mnist", Source((dead, empty.address, wrong.address), SHA256), folder, progress=False)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("mnist: cannot be downloaded (127.0.0.1:")
    assert line.count("ConnectionError") == line.count("HTTP 404") == line.count("wrong checksum") == 1
    assert line.endswith(f"put the four files {', '.join(FILES)} into {folder}")
    assert list(folder.iterdir()) == []


def test_a_mirror_that_never_answers_is_left_soon(
    tmp_path: Path, good: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and is silent; the wait for it is short, and here shorter still."""
    monkeypatch.setattr("launcher.downloads._READ_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirrors = (f"http://127.0.0.1:{silent.getsockname()[1]}/", good.address)
        fetch("mnist", Source(mirrors, SHA256), tmp_path / "cache", progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == CONTENT


def test_files_that_are_there_are_not_fetched_again(tmp_path: Path, good: Mirror) -> None:
    """Under any spelling: somebody put them there by hand."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "train-images.idx3-ubyte").write_bytes(b"by hand")
    fetch("mnist", Source((good.address,), SHA256), folder, progress=False)
    assert sorted(good.asked) == sorted(f"/{name}" for name in FILES[1:])
    fetch("mnist", Source((), SHA256), folder, progress=True)


def test_a_cache_that_cannot_be_made_is_no_mirrors_fault(tmp_path: Path, good: Mirror) -> None:
    """The line names the folder and the variable; nothing is asked for."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/mnist: cannot be made \(Not a directory\); .* \$DGAN_CACHE"):
        fetch("mnist", Source((good.address,), SHA256), tmp_path / "file" / "mnist", progress=False)
    assert good.asked == []


def test_progress_is_shown_on_standard_error(
    tmp_path: Path, good: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished bar for each file; standard output stays empty."""
    fetch("mnist", Source((good.address,), SHA256), tmp_path / "cache", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(name in err for name in FILES)
    assert err.count("100%") == 4


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$DGAN_CACHE, else a folder of this user."""
    monkeypatch.setenv("DGAN_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("DGAN_CACHE")
    assert default_cache().name == "dgan"


def test_every_source_has_two_mirrors_and_four_checksums() -> None:
    """Addresses end in a slash, and files of different data sets differ."""
    for source in SOURCES.values():
        assert len(source.mirrors) >= 2
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        assert [len(bytes.fromhex(sha256)) for sha256 in source.sha256] == [32] * 4
    assert len({sha256 for source in SOURCES.values() for sha256 in source.sha256}) == 8
