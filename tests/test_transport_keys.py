"""transport.keys: a key file is private, whole, and never overwritten."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from transport.errors import LocalError
from transport.keys import (
    KeyPair,
    _handed_mode,
    _is_private,
    hand_over,
    load_keys,
    make_keys,
    replace_keys,
    save_keys,
)

ROOT = Path(__file__).parent.parent
IS_ROOT = os.geteuid() == 0
USER, GROUP = 1000, 1001  # anybody but root


def written(path: Path, text: str) -> Path:
    """A key file of any content, with the right mode."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_pair_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    """Folders on the way are made; nothing but the file is left behind."""
    pair = make_keys()
    path = tmp_path / "keys" / "node-3.key"
    save_keys(path, pair)
    assert load_keys(path) == pair
    assert [file.name for file in path.parent.iterdir()] == ["node-3.key"]


def test_a_key_file_is_readable_to_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0600 from the first byte."""
    save_keys(tmp_path / "key", make_keys())
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_pairs_differ() -> None:
    """Each node has its own; keys are 40 characters."""
    one, other = make_keys(), make_keys()
    assert len({one.public, one.secret, other.public, other.secret}) == 4
    assert {len(key) for key in (one.public, one.secret)} == {40}


def test_a_secret_is_not_shown() -> None:
    """A pair that ends up in a log keeps its secret."""
    pair = make_keys()
    assert pair.secret not in repr(pair)
    assert pair.public in repr(pair)


def test_an_existing_key_is_not_overwritten(tmp_path: Path) -> None:
    """Losing an identity takes more than running a command twice."""
    path = tmp_path / "key"
    pair = make_keys()
    save_keys(path, pair)
    with pytest.raises(LocalError, match="key: exists already; a key is never overwritten"):
        save_keys(path, make_keys())
    assert load_keys(path) == pair
    assert list(tmp_path.iterdir()) == [path]


def assert_refused(path: Path, mode: int) -> None:
    """A key file with this mode is refused, and the line says which mode it has and how to mend it."""
    path.chmod(mode)
    with pytest.raises(
        LocalError, match=rf"mode is {mode:04o}, readable or writable to others; run `chmod 600"
    ):
        load_keys(path)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o650, 0o660, 0o666])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever runs the tests, root too."""
    save_keys(tmp_path / "key", make_keys())
    assert_refused(tmp_path / "key", mode)


@pytest.mark.parametrize("mode", [0o640, 0o440])
def test_a_key_of_a_user_that_a_group_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A user's group may hold others, and nobody has handed the file over."""
    save_keys(tmp_path / "key", make_keys())
    if IS_ROOT:
        os.chown(tmp_path / "key", USER, -1)
    assert_refused(tmp_path / "key", mode)


@pytest.mark.skipif(not IS_ROOT, reason="takes a file of root's")
@pytest.mark.parametrize("mode", [0o640, 0o440])
def test_a_key_of_root_may_be_readable_to_a_group(tmp_path: Path, mode: int) -> None:
    """To the service's, which then cannot change it: PostgreSQL's rule."""
    pair = make_keys()
    save_keys(tmp_path / "key", pair)
    os.chown(tmp_path / "key", -1, GROUP)
    (tmp_path / "key").chmod(mode)
    assert load_keys(tmp_path / "key") == pair


def test_of_all_modes_those_without_another_reader_are_private() -> None:
    """Only where root owns the file is one bit more allowed, reading by the group."""
    modes = range(0o1000)
    of_a_user = [mode for mode in modes if _is_private(stat.S_IFREG | mode, USER)]
    of_root = [mode for mode in modes if _is_private(stat.S_IFREG | mode, 0)]
    assert of_a_user == [mode for mode in modes if mode & 0o077 == 0]
    assert of_root == [mode for mode in modes if mode & 0o037 == 0]


def test_a_read_only_key_is_fine(tmp_path: Path) -> None:
    """0400 is as private as 0600."""
    pair = make_keys()
    save_keys(tmp_path / "key", pair)
    (tmp_path / "key").chmod(0o400)
    assert load_keys(tmp_path / "key") == pair


def test_a_missing_key_is_one_line(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(LocalError, match=r"node-9\.key: cannot be read \(No such file or directory\)"):
        load_keys(tmp_path / "node-9.key")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file stands where the folder should."""
    (tmp_path / "keys").write_text("")
    with pytest.raises(LocalError, match="cannot be written"):
        save_keys(tmp_path / "keys" / "node-1.key", make_keys())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("public_key = ", "is not TOML"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin1"), "is not TOML"),
        ('public_key = "x"', "lacks the text public_key or secret_key"),
        ("public_key = 1\nsecret_key = 2", "lacks the text public_key or secret_key"),
        ('public_key = "x"\nsecret_key = "short"', "secret_key is not 40 characters of Z85"),
        ('public_key = "x"\nsecret_key = "' + "~" * 40 + '"', "secret_key is not 40 characters of Z85"),
    ],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Each line names the file and what a right one holds."""
    with pytest.raises(LocalError) as caught:
        load_keys(written(tmp_path / "key", text))
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "key"))


def test_keys_of_two_pairs_are_refused_without_showing_the_secret(tmp_path: Path) -> None:
    """A public key pasted from another node would make every neighbour refuse this one."""
    mixed = KeyPair(make_keys().public, make_keys().secret)
    save_keys(tmp_path / "key", mixed)
    with pytest.raises(LocalError, match="public_key does not belong to secret_key") as caught:
        load_keys(tmp_path / "key")
    assert mixed.secret not in str(caught.value)


# --- handed over -----------------------------------------------------------------------------------------------


def test_a_key_is_handed_over_as_a_copy(tmp_path: Path) -> None:
    """A key file as any other, private, with nothing beside it; the source stays."""
    source, target = tmp_path / "run" / "node-3.key", tmp_path / "3" / "keys" / "node-3.key"
    save_keys(source, make_keys())
    hand_over(source, target)
    assert load_keys(target) == load_keys(source)
    assert target.read_bytes() == source.read_bytes()
    assert [file.name for file in target.parent.iterdir()] == ["node-3.key"]
    assert not target.samefile(source)
    assert stat.S_IMODE(target.stat().st_mode) == _handed_mode(os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    ("user", "group", "mode"),
    [(0, 0, 0o600), (0, GROUP, 0o640), (USER, USER, 0o600), (USER, GROUP, 0o600), (USER, 0, 0o600)],
)
def test_only_root_in_anothers_group_makes_a_key_readable_to_it(user: int, group: int, mode: int) -> None:
    """It is then the group of the service that the key is for."""
    assert _handed_mode(user, group) == mode


@pytest.mark.system
@pytest.mark.skipif(not IS_ROOT, reason="only root can join a group at will")
def test_root_in_a_services_group_hands_a_key_to_it(tmp_path: Path) -> None:
    """The file is root's own and the group's to read, whatever the umask; and so it is accepted."""
    source, target = tmp_path / "node-1.key", tmp_path / "1" / "node-1.key"
    save_keys(source, make_keys())
    program = "import sys; from pathlib import Path; from transport.keys import hand_over; "
    program += "hand_over(*map(Path, sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(source), str(target)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        group=GROUP,
        extra_groups=[],
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = target.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, GROUP, 0o640)
    assert load_keys(target) == load_keys(source)


def test_a_key_handed_over_twice_is_left_as_it_is(tmp_path: Path) -> None:
    """Not even written again."""
    source, target = tmp_path / "source", tmp_path / "target"
    save_keys(source, make_keys())
    hand_over(source, target)
    before = target.stat()
    hand_over(source, target)
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_another_key_at_the_place_is_not_overwritten(tmp_path: Path) -> None:
    """Nor is what is no key at all."""
    source, other, broken = tmp_path / "source", tmp_path / "other", tmp_path / "broken"
    save_keys(source, make_keys())
    save_keys(other, make_keys())
    written(broken, "by hand")
    before = other.read_bytes()
    with pytest.raises(
        LocalError, match=r"other: holds another key than .*source; remove it, or name another"
    ):
        hand_over(source, other)
    with pytest.raises(LocalError, match="broken: is not TOML"):
        hand_over(source, broken)
    assert (other.read_bytes(), broken.read_text()) == (before, "by hand")


def test_what_is_no_private_key_is_not_handed_over(tmp_path: Path) -> None:
    """Missing, or readable to others: nothing is made."""
    with pytest.raises(LocalError, match="absent: cannot be read"):
        hand_over(tmp_path / "absent", tmp_path / "3" / "key")
    save_keys(tmp_path / "source", make_keys())
    (tmp_path / "source").chmod(0o644)
    with pytest.raises(LocalError, match="mode is 0644"):
        hand_over(tmp_path / "source", tmp_path / "3" / "key")
    assert not (tmp_path / "3").exists()


def test_handing_over_again_mends_the_mode(tmp_path: Path) -> None:
    """A call may be killed between writing a key and letting the group read it, or a person may have changed it."""
    save_keys(tmp_path / "source", make_keys())
    hand_over(tmp_path / "source", tmp_path / "target")
    handed = stat.S_IMODE((tmp_path / "target").stat().st_mode)
    (tmp_path / "target").chmod(0o400)
    hand_over(tmp_path / "source", tmp_path / "target")
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == handed


def test_a_disk_that_fills_up_leaves_the_old_pair_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a new file nor a replaced one is ever half there."""
    path, pair = tmp_path / "key", make_keys()
    save_keys(path, pair)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (save_keys, replace_keys):
        name = "new" if write is save_keys else "key"
        with pytest.raises(LocalError, match=f"{name}: cannot be written .No space left on device."):
            write(tmp_path / name, make_keys())
    assert load_keys(path) == pair
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_user_who_replaces_a_key_gives_it_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root may choose an owner; the mode stays all the same."""
    path, pair = tmp_path / "key", make_keys()
    save_keys(path, make_keys())
    path.chmod(0o400)
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    monkeypatch.setattr(os, "chown", pytest.fail)
    replace_keys(path, pair)
    assert (load_keys(path), stat.S_IMODE(path.stat().st_mode)) == (pair, 0o400)
