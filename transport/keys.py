"""CURVE key pairs: make, save readable to the owner alone, load.

A pair is kept in a small TOML file. Keys are Z85 text, 40 characters for 32 bytes, as ZeroMQ writes them.

Where root hands a key to a service that runs as somebody else, as containers do, the file may also be root's own and
readable to one group (0640), as PostgreSQL allows for its server's key: the service then cannot change it.
"""

from __future__ import annotations

import os
import secrets
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from transport.errors import LocalError

_MAX_FILE_BYTES = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ROOT = 0


@dataclass(frozen=True)
class KeyPair:
    """A node's identity.

    Attributes:
        public: What its neighbours know it by, 40 characters of Z85.
        secret: What proves it; never shown in a repr, a log or a message.
    """

    public: str
    secret: str = field(repr=False)


def make_keys() -> KeyPair:
    """A fresh pair from the system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def save_keys(path: Path, pair: KeyPair) -> None:
    """Writes the pair with mode 0600; the file is whole or absent, and an existing one stays.

    Raises:
        LocalError: The file exists already, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, _text(pair))
    except OSError as error:
        raise LocalError(f"{path}: cannot be written ({error.strerror}); name a folder that can") from None


def replace_keys(path: Path, pair: KeyPair) -> None:
    """Writes the pair in the place of another, of which nothing is kept; mode and owner stay, where there was one.

    Raises:
        LocalError: The file cannot be written; the old pair is still there.
    """
    try:
        # Behind a symbolic link lies the file whose secret must go.
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _write_part(path, _text(pair))
        try:
            if path.exists():
                _match(part, path.stat())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise LocalError(f"{path}: cannot be written ({error.strerror}); name a folder that can") from None


def hand_over(source: Path, target: Path) -> None:
    """Copies a key file for the machine or the service that owns it; an equal copy that is there already stays.

    The copy has mode 0600, or 0640 where root makes it as a member of another group than its own.

    Raises:
        LocalError: `source` holds no key pair, another key is at `target` already, or that cannot be written.
    """
    pair = load_keys(source)
    if not target.exists():
        save_keys(target, pair)
    elif load_keys(target) != pair:
        raise LocalError(f"{target}: holds another key than {source}; remove it, or name another folder")
    # Of an equal key too: a call before this one may have been killed just here.
    if stat.S_IMODE(target.stat().st_mode) != (mode := _handed_mode(os.geteuid(), os.getegid())):
        target.chmod(mode)


def load_keys(path: Path) -> KeyPair:
    """Reads a pair and checks that the two keys belong together.

    Raises:
        LocalError: The file is missing, is readable to others than its owner, or holds no key pair.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise LocalError(
            f"{path}: cannot be read ({error.strerror}); a node's key file is expected here"
        ) from None
    if not _is_private(status.st_mode, status.st_uid):
        mode = stat.S_IMODE(status.st_mode)
        raise LocalError(
            f"{path}: mode is {mode:04o}, readable or writable to others; run `chmod 600 {path}`"
        )
    return _parse(path, content)


def _handed_mode(user: int, group: int) -> int:
    return 0o640 if user == _ROOT and group != _ROOT else 0o600


def _is_private(mode: int, owner: int) -> bool:
    allowed = stat.S_IRGRP if owner == _ROOT else 0
    return not mode & _OTHERS & ~allowed


def _text(pair: KeyPair) -> str:
    return (
        "# CURVE key pair of one node. The secret key stays on the node's machine.\n"
        f'public_key = "{pair.public}"\n'
        f'secret_key = "{pair.secret}"\n'
    )


def _write_part(path: Path, text: str) -> Path:
    """The text in a file of its own beside `path`, readable to its owner alone."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _match(part: Path, before: os.stat_result) -> None:
    """Gives a new key file owner, group and mode of the one before, as far as that kept its secret."""
    if os.geteuid() == _ROOT:
        os.chown(part, before.st_uid, before.st_gid)
    if _is_private(before.st_mode, before.st_uid):
        part.chmod(stat.S_IMODE(before.st_mode))


def _write_new(path: Path, text: str) -> None:
    part = _write_part(path, text)
    try:
        # Unlike a rename, a link never replaces a key that somebody else made meanwhile.
        os.link(part, path)
    except FileExistsError:
        raise LocalError(
            f"{path}: exists already; a key is never overwritten, remove the file first"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _parse(path: Path, content: bytes) -> KeyPair:
    mend = "a key file holds public_key and secret_key of one pair"
    try:
        fields = tomllib.loads(content.decode())
    except ValueError:
        # The parser's message may quote the text, and with it the secret.
        raise LocalError(f"{path}: is not TOML; {mend}") from None
    public, secret = fields.get("public_key"), fields.get("secret_key")
    if not isinstance(public, str) or not isinstance(secret, str):
        raise LocalError(f"{path}: lacks the text public_key or secret_key; {mend}")
    try:
        derived = zmq.curve_public(secret.encode()).decode()
    except (ValueError, zmq.ZMQError):
        raise LocalError(f"{path}: secret_key is not 40 characters of Z85; {mend}") from None
    if derived != public:
        raise LocalError(f"{path}: public_key does not belong to secret_key; {mend}")
    return KeyPair(public, secret)
