"""Published data sets fetched once into a cache: by checksum, from the first mirror that works.

A mirror that fails once is not asked again, and every wait has a short limit, so that a machine without a network
is told so within seconds. Files that a person put into the cache by hand are taken as they are.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import Progress, TaskID

from launcher.idx import FILES, find_idx
from topology.errors import InputError
from topology.lazily import load_lazily

if TYPE_CHECKING:
    import pooch
else:
    pooch = load_lazily("pooch")

_CONNECT_S, _READ_S = 5.0, 15.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """Where the four IDX files of a data set come from.

    Attributes:
        mirrors: Addresses that end in `/`, the first one asked first.
        sha256: Checksum of each of `idx.FILES`, in that order.
    """

    mirrors: tuple[str, ...]
    sha256: tuple[str, ...]


SOURCES = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Source(
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        sha256=(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}
"""Data sets that are fetched by name."""


def default_cache() -> Path:
    """$DGAN_CACHE, else the user's cache folder of this system."""
    return Path(os.environ.get("DGAN_CACHE") or pooch.os_cache("dgan"))


def fetch(name: str, source: Source, folder: Path, *, progress: bool) -> None:
    """Completes the four IDX files of a data set in `folder`; what is there already is kept.

    Args:
        name: What an error calls the data set.
        source: Mirrors and checksums.
        folder: The cache of this data set; made where it is missing.
        progress: Whether to show a bar for each file on standard error.

    Raises:
        InputError: No mirror gave a file whose checksum is right; the line names the folder to fill by hand. Or that
            folder cannot be made.
    """
    # Pooch tells of each download on standard error; the bar and our one line of error do that here.
    pooch.get_logger().setLevel("ERROR")
    missing = [
        (file, sha256)
        for file, sha256 in zip(FILES, source.sha256, strict=True)
        if not find_idx(folder, file)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        told = f"cannot be made ({error.strerror})"
        raise InputError(folder, told, "a cache that can be written to, named by $DGAN_CACHE") from None
    mirrors = list(source.mirrors)
    failures: list[str] = []
    bars = Progress(console=Console(stderr=True)) if progress and missing else None
    context: AbstractContextManager[object] = bars if bars is not None else nullcontext()
    with context:
        for file, sha256 in missing:
            while find_idx(folder, file) is None:
                if not mirrors:
                    problem = f"cannot be downloaded ({'; '.join(failures)})"
                    raise InputError(
                        name, problem, f"put the four files {', '.join(FILES)} into {folder.absolute()}"
                    )
                failure = _download(mirrors[0] + file, sha256, folder / file, bars)
                if failure is not None:
                    failures.append(f"{urlsplit(mirrors.pop(0)).netloc}: {failure}")


def _download(url: str, sha256: str, path: Path, bars: Progress | None) -> str | None:
    """Fetches one file, whole or not at all; answers why it failed, or None."""
    bar = _Bar(bars, bars.add_task(path.name)) if bars is not None else False
    downloader = pooch.HTTPDownloader(
        progressbar=bar,
        chunk_size=_CHUNK_BYTES,
        timeout=(_CONNECT_S, _READ_S),
        # The checksum is that of the packed file: no unpacking on the way.
        headers={"Accept-Encoding": "identity"},
    )
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader)
    except OSError as error:  # also every error of the HTTP library, some of which are ValueErrors too
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"HTTP {status}" if status is not None else error.strerror or type(error).__name__
    except ValueError:
        return "wrong checksum"
    return None


class _Bar:
    """The face that pooch wants of a progress bar, shown by rich."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    @property
    def total(self) -> float:
        """Bytes of the whole file."""
        return self._bars.tasks[self._task].total or 0

    @total.setter
    def total(self, size_bytes: float) -> None:
        self._bars.update(self._task, total=size_bytes or None)

    def update(self, size_bytes: float) -> None:
        """So many bytes more have come."""
        self._bars.advance(self._task, size_bytes)

    def reset(self) -> None:
        """Back to nothing; pooch then reports the whole, since it counts in full chunks."""
        self._bars.update(self._task, completed=0)

    def close(self) -> None:
        """The file is here."""
        self._bars.stop_task(self._task)
