"""transport.keys: a key file is private, whole, and never overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from transport.errors import LocalError
from transport.keys import KeyPair, load_keys, make_keys, save_keys


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


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """The line says which mode it has and how to mend it."""
    path = tmp_path / "key"
    save_keys(path, make_keys())
    path.chmod(mode)
    with pytest.raises(
        LocalError, match=rf"mode is {mode:04o}, readable or writable to others; run `chmod 600"
    ):
        load_keys(path)


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
