"""A frame's header: a msgpack map, written in one order, and read within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs

from transport.errors import LocalError, MalformedFrameError

if TYPE_CHECKING:
    from transport.wire import Dtype, Snapshot

MAX_INTEGER = 2**63 - 1
# Without these a header of 16 kB can cost 68 MB.
_LIMITS = {
    "strict_map_key": True,
    "max_map_len": 32,
    "max_array_len": 64,
    "max_str_len": 256,
    "max_bin_len": 64,
    "max_ext_len": 0,
}


def check_fields(snapshot: Snapshot) -> None:
    """Refuses a snapshot whose header no receiver would take.

    Raises:
        LocalError: A field is outside its range.
    """
    for field in ("node_id", "boot", "seq", "cycle"):
        value = getattr(snapshot, field)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise LocalError(f"snapshot's {field} is {value!r}, not a whole number from 0 to 2^63 - 1")
    for field in ("run_id", "arch_id"):
        if len(getattr(snapshot, field).encode()) > _LIMITS["max_str_len"]:
            raise LocalError(f"snapshot's {field} is longer than {_LIMITS['max_str_len']} bytes")


def pack_header(snapshot: Snapshot, dtype: Dtype, digest: bytes) -> bytes:
    """The header of a snapshot's frame; its fields are within their ranges."""
    header: bytes = msgpack.packb(
        {
            "run_id": snapshot.run_id,
            "node_id": snapshot.node_id,
            "arch_id": snapshot.arch_id,
            "boot": snapshot.boot,
            "seq": snapshot.seq,
            "cycle": snapshot.cycle,
            "done": snapshot.done,
            "dtype": dtype,
            "digest": digest,
        }
    )
    return header


def unpack_header(header: bytes, peer: int) -> dict[Any, Any]:
    """The fields of a header, of whatever kinds.

    Raises:
        MalformedFrameError: It is no map of texts to values within the limits.
    """
    try:
        fields = msgpack.unpackb(header, object_pairs_hook=_unique_keys, **_LIMITS)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedFrameError(
            peer, f"unreadable header ({type(error).__name__}: {error!s:.80})"
        ) from None
    if not isinstance(fields, dict):
        raise MalformedFrameError(peer, f"the header is a {type(fields).__name__}, not a map")
    return fields


def _unique_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    # Where readers disagree about which of two equal keys counts, a refusal is the only safe reading.
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    if any(type(key) is not str for key in fields):  # strict_map_key lets byte strings pass
        raise ValueError("a key is no text")
    return fields
