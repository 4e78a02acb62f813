"""What a node's id, name and address may be, and that no two nodes share one; the same for graphs and for peers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Hashable, Iterable
from pathlib import Path

from topology.errors import InputError

MAX_ID = 2**63 - 1  # TOML and msgpack both carry signed 64-bit integers everywhere
MAX_NAME_BYTES = 128  # a run's id travels in the header of every frame, which is bounded
MAX_PORT = 65535
MAX_HOST_CHARACTERS = 253  # RFC 1035

_SHAPE = re.compile(r"tcp://(\[[^\[\]]+\]|[^\[\]:/]+):([0-9]{1,5})")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_SHOWN_IDS = 12


def endpoint(address: str, *, bind: bool = False) -> tuple[str, int]:
    """Host and port of `tcp://host:port`, in a form in which equal endpoints are equal.

    Args:
        address: The text; an IPv6 host stands in brackets.
        bind: Whether a node listens there, which also allows the host `*` and the port 0 (any free port).

    Raises:
        ValueError: The text is no such address; the message says what would be right.
    """
    shape = _SHAPE.fullmatch(address)
    if shape is None:
        raise ValueError("tcp://host:port, with an IPv6 host in brackets")
    host, port = shape[1], int(shape[2])
    least = 0 if bind else 1
    if not least <= port <= MAX_PORT:
        raise ValueError(f"a port from {least} to {MAX_PORT}")
    if host == "*" and bind:
        return host, port
    if host == "*":
        raise ValueError("a host that neighbours can reach; * belongs into bind")
    return _host(host, bind=bind), port


def _host(host: str, *, bind: bool) -> str:
    """The host in its canonical spelling."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    if host.startswith("["):
        try:
            ip = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("an IPv6 address between the brackets") from None
    elif re.fullmatch(r"[0-9.]+", host):
        try:
            ip = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("an IPv4 address of four numbers from 0 to 255, or a host name") from None
    elif len(host) <= MAX_HOST_CHARACTERS and all(_LABEL.fullmatch(label) for label in host.split(".")):
        return host.lower()
    else:
        raise ValueError("a host name of letters, digits, dots and hyphens, or an IP address")
    if ip.is_unspecified and not bind:
        raise ValueError(f"a host that neighbours can reach; {host} belongs into bind")
    return str(ip)


def check_address(where: str | Path, field: str, address: str, *, bind: bool = False) -> None:
    """Refuses what `endpoint` cannot read.

    Raises:
        InputError: Names the field, the address and what would be right.
    """
    try:
        endpoint(address, bind=bind)
    except ValueError as error:
        raise InputError(where, f"{field} = {address!r} is no address", f"write {error}") from None


def check_id(where: str | Path, node_id: int) -> None:
    """Refuses ids outside 0 to 2^63 - 1.

    Raises:
        InputError: Names the id.
    """
    if not 0 <= node_id <= MAX_ID:
        raise InputError(where, f"id = {node_id} is out of bounds", "a whole number from 0 to 2^63 - 1")


def check_name(where: str | Path, field: str, name: str) -> None:
    """Refuses names that are empty, too long for a frame's header, or unfit for one line of output.

    Raises:
        InputError: Names the field and the name.
    """
    if not name.strip() or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        shown = f"{name[:40]!r}{'…' if len(name) > 40 else ''}"  # noqa: PLR2004 - enough of it to find it
        raise InputError(
            where, f"{field} = {shown} is no name", f"1 to {MAX_NAME_BYTES} printable characters"
        )


def refuse_repeats(where: str | Path, field: str, values: Iterable[tuple[int, Hashable, str]]) -> None:
    """Refuses two nodes with one value.

    Args:
        where: The place of the values.
        field: What the value is called.
        values: For each node its id, the value in canonical form, and as it was written.

    Raises:
        InputError: Names both nodes and the value.
    """
    holders: dict[Hashable, int] = {}
    for node_id, value, written in values:
        if value in holders:
            problem = f"{field} {written} belongs to node {holders[value]} and to node {node_id}"
            raise InputError(where, problem, f"give node {node_id} another")
        holders[value] = node_id


def refuse_repeated_ids(where: str | Path, ids: Iterable[int]) -> None:
    """Refuses two nodes with one id.

    Raises:
        InputError: Names the id.
    """
    seen: set[int] = set()
    for node_id in ids:
        if node_id in seen:
            raise InputError(where, f"id = {node_id} appears twice", "give every node an id of its own")
        seen.add(node_id)


def shown_ids(ids: Iterable[int]) -> str:
    """The ids as one short line for an error."""
    words = [str(node_id) for node_id in ids]
    if len(words) > _SHOWN_IDS:
        words[_SHOWN_IDS - 1 : -1] = ["…"]
    return ", ".join(words) or "none"
