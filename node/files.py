"""Files that a crash leaves whole. No torch."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from node.failpoints import reached


def write_atomically(path: Path, data: bytes, *, durable: bool = True, point: str = "file") -> None:
    """Writes a file so that a reader finds the old or the new content, never a part.

    Args:
        path: The file.
        data: Its new content.
        durable: Whether the new content must also be on the disk before this returns.
        point: First word of the failpoints on the way: POINT.begun, .half, .written, .synced, .renamed, .durable.

    Raises:
        OSError: The disk refuses; the old content is still there, or already the new one.
    """
    reached(f"{point}.begun")
    part = path.with_name(f".{path.name}.part")
    half = len(data) // 2
    try:
        with part.open("wb", buffering=0) as file:
            _write_all(file.fileno(), memoryview(data)[:half])
            reached(f"{point}.half")
            _write_all(file.fileno(), memoryview(data)[half:])
            reached(f"{point}.written")
            if durable:
                os.fsync(file.fileno())
        reached(f"{point}.synced")
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    reached(f"{point}.renamed")
    if durable:
        sync_directory(path.parent)
    reached(f"{point}.durable")


def write_json(path: Path, found: Any) -> None:
    """Writes what JSON can say, for people to read too.

    Raises:
        OSError: The disk refuses; the old content is still there, or already the new one.
    """
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())


def overwrite(path: Path, data: bytes) -> None:
    """Writes into the room that a file has already, for a disk without any left; a crash or a reader may see a mix.

    Raises:
        OSError: There is no such file, or the disk refuses all the same.
    """
    with path.open("r+b", buffering=0) as file:
        _write_all(file.fileno(), memoryview(data))
        file.truncate()


def append_line(path: Path, line: bytes) -> None:
    """Appends a line, or leaves the file as it was; what a crash left of the line before does not run into this one.

    Raises:
        OSError: The disk refuses.
    """
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            _write_all(file.fileno(), memoryview(line + b"\n"))
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def make_directory(path: Path) -> None:
    """Makes a directory with its missing parents; their names are on the disk before this returns.

    Raises:
        OSError: The disk refuses.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_directory(folder.parent)


def sync_directory(path: Path) -> None:
    """Returns once the names in a directory are on the disk.

    Raises:
        OSError: The disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
