"""A power cut at any moment of a save: what was not on the disk is gone, what was promised is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.boots import next_start
from node.checkpoint import load_newest, prune, save
from node.files import make_directory, write_atomically
from saving import KEEP, STEP, meta, tensors
from topology.errors import InputError

CUTS = ("lazy", "eager")
CHANGES = ("fsync", "replace", "unlink", "mkdir")


class Disk:
    """Remembers what was really written of a folder.

    A file's content is on the disk as of its last fsync, empty before; its name as of its directory's last fsync
    (`lazy`), or at once (`eager`), as file systems may write names early or late.

    Args:
        root: The folder; it is there whatever happens.
        patch: Puts the recorder around the system's calls.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []  # an open file's number is given to no other
        self.after_each: Callable[[], object] = lambda: None
        for name in CHANGES:
            patch.setattr(os, name, self._recorded(getattr(os, name)))

    def _recorded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            answer = call(*arguments, **options)
            if call.__name__ == "fsync":
                self._note(arguments[0])
            self.after_each()
            return answer

        return do

    def _note(self, descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        if (path := self._path_of(number)) is None:
            return  # of another folder
        self._held.append(os.dup(descriptor))
        if path.is_dir():
            self._names[number] = names(path)
        else:
            self._contents[number] = path.read_bytes()

    def _path_of(self, number: int) -> Path | None:
        return next((p for p in (self._root, *self._root.rglob("*")) if p.stat().st_ino == number), None)

    def cut(self, cut: str, target: Path) -> Path:
        """Puts down what a power cut at this moment leaves."""
        self._put(self._root.stat().st_ino, cut, target)
        return target

    def _put(self, number: int, cut: str, target: Path) -> None:
        here = self._path_of(number)
        if here is None or here.is_file():  # None: deleted, and its name is on the disk still
            target.write_bytes(self._contents.get(number, b""))
            return
        target.mkdir()
        for name, one in (names(here) if cut == "eager" else self._names.get(number, {})).items():
            self._put(one, cut, target / name)

    def close(self) -> None:
        """Lets go of the files held."""
        for descriptor in self._held:
            os.close(descriptor)


def names(folder: Path) -> dict[str, int]:
    """The names in a folder and the numbers of their files."""
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A recorded folder `disk`."""
    (tmp_path / "disk").mkdir()
    with monkeypatch.context() as patch:
        recorded = Disk(tmp_path / "disk", patch)
        yield recorded
    recorded.close()


def newest_cycle(directory: Path) -> int:
    """Cycle of the newest valid checkpoint, 0 where there is none."""
    try:
        return load_newest(directory).meta.cycle
    except InputError:
        return 0


def test_a_power_cut_at_any_moment_leaves_the_newest_checkpoint_or_the_one_before(
    tmp_path: Path, disk: Disk
) -> None:
    """Looked at after every single call to the system, from the first save in a fresh folder to several prunes."""
    directory, left = tmp_path / "disk" / "nodes" / "3", tmp_path / "left"
    left.mkdir()
    saved, looks = 0, 0

    def look() -> None:
        nonlocal looks
        looks += 1
        disk.after_each = lambda: None  # what the look itself does is no event
        for cut in CUTS:
            found = newest_cycle(disk.cut(cut, left / f"{looks}-{cut}") / "nodes" / "3")
            assert found in (saved, saved + STEP), f"{cut} cut after call {looks}: {found}, {saved} was saved"
        disk.after_each = look

    disk.after_each = look
    for cycle in range(STEP, 6 * STEP, STEP):
        save(directory, meta(cycle), tensors(cycle))
        saved = cycle
        look()
        prune(directory, KEEP, [])
        look()
    assert looks > 50


def test_a_power_cut_at_any_moment_leaves_a_number_above_that_of_every_start(
    tmp_path: Path, disk: Disk
) -> None:
    """Boots are never given twice, and boot.json can always be read."""
    directory, left = tmp_path / "disk" / "nodes" / "3", tmp_path / "left"
    make_directory(directory)
    left.mkdir()
    used, looks = 0, 0

    def look() -> None:
        nonlocal looks
        looks += 1
        disk.after_each = lambda: None
        for cut in CUTS:
            here = disk.cut(cut, left / f"{looks}-{cut}") / "nodes" / "3"
            assert next_start(here, 0, now_s=0).boot > used
        disk.after_each = look

    disk.after_each = look
    for _ in range(3):
        used = next_start(directory, 0, now_s=0).boot
        look()
    assert looks > 10


def test_what_was_not_synced_is_lost_in_this_model(tmp_path: Path, disk: Disk) -> None:
    """So that the tests above can fail: a file without fsync is gone, or is there and empty."""
    file = tmp_path / "disk" / "file"
    write_atomically(file, b"old")
    write_atomically(file, b"new", durable=False)
    assert (disk.cut("lazy", tmp_path / "a") / "file").read_bytes() == b"old"
    assert (disk.cut("eager", tmp_path / "b") / "file").read_bytes() == b""
    (tmp_path / "disk" / "folder").mkdir()
    write_atomically(tmp_path / "disk" / "folder" / "file", b"in a folder whose name was not synced")
    assert not (disk.cut("lazy", tmp_path / "c") / "folder").exists()
