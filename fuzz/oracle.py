"""What an accepted frame must be, read from docs/protocol.md a second time and apart from transport/wire.py.

A decoder that accepts what it should refuse raises nothing, so a fuzzer that waits for exceptions would never see it.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs
import numpy as np
import xxhash

PREAMBLE = struct.Struct("<4sBBHIQ")
ITEM = {"float32": "<{}f", "bfloat16": "<{}H", "float16": "<{}e"}
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
COUNTERS = ("node_id", "boot", "seq", "cycle")


class ViolationError(Exception):
    """Something was accepted that its description forbids."""


def require(held: object, rule: str) -> None:
    """Raises ViolationError with the rule unless it held."""
    if not held:
        raise ViolationError(rule)


def payload_start(header_bytes: int) -> int:
    """Where the payload begins."""
    return math.ceil((PREAMBLE.size + header_bytes) / 64) * 64


def hold_to_protocol(frame: bytes, expected: Any, snapshot: Any) -> None:
    """Checks an accepted frame, and what came out of it, against each line of the protocol.

    Args:
        frame: What was accepted.
        expected: What `decode` was told to expect.
        snapshot: What it returned.

    Raises:
        ViolationError: Names the line that does not hold.
    """
    magic, major, _minor, flags, header_bytes, payload_bytes = PREAMBLE.unpack_from(frame)
    start = payload_start(header_bytes)
    values = expected.blocks * expected.schema.values
    require(magic == b"DGN1" and major == 1, "the magic or the major version is another")
    require(flags == expected.blocks - 1, "the flags are others")
    require(header_bytes <= 4096, "the header is longer than 4096 bytes")  # noqa: PLR2004 - as documented
    require(payload_bytes == values * ITEM_BYTES[expected.dtype], "the payload's length is not the schema's")
    require(len(frame) == start + payload_bytes, "the frame's length is not what it says")
    require(not any(frame[PREAMBLE.size + header_bytes : start]), "the padding is not zero")
    pairs = msgpack.unpackb(frame[PREAMBLE.size : PREAMBLE.size + header_bytes], object_pairs_hook=list)
    header = dict(pairs)
    require(len(header) == len(pairs), "a key stands twice in the header")
    require(all(type(key) is str for key in header), "a key of the header is no text")
    _hold_fields(header, expected, snapshot)
    require(header["digest"] == xxhash.xxh3_128_digest(frame[start:]), "the digest is not the payload's")
    _hold_numbers(frame[start:], expected, snapshot)


def _hold_fields(header: dict[Any, Any], expected: Any, snapshot: Any) -> None:
    right = {"run_id": expected.run_id, "node_id": expected.node_id, "arch_id": expected.schema.arch_id}
    for field, value in (right | {"dtype": expected.dtype}).items():
        require(header[field] == value, f"{field} is not this connection's")
    for field in COUNTERS:
        require(type(header[field]) is int and 0 <= header[field] < 2**63, f"{field} is out of bounds")
    require(type(header["done"]) is bool, "done is no boolean")
    for field in (*right, "boot", "seq", "cycle", "done"):
        require(getattr(snapshot, field) == header[field], f"{field} came out changed")


def _hold_numbers(payload: bytes, expected: Any, snapshot: Any) -> None:
    schema = expected.schema
    raw = struct.unpack(ITEM[expected.dtype].format(expected.blocks * schema.values), payload)
    if expected.dtype == "bfloat16":
        raw = struct.unpack(f"<{len(raw)}f", b"".join(struct.pack("<I", upper << 16) for upper in raw))
    numbers = iter(raw)
    require(len(snapshot.blocks) == expected.blocks, "the count of blocks is another")
    for block in snapshot.blocks:
        require(list(block) == [name for name, _ in schema.tensors], "the tensors are not the schema's")
        for name, shape in schema.tensors:
            array = block[name]
            require(array.dtype == np.float32 and array.shape == shape, f"{name} has another form")
            require(not array.flags.writeable, f"{name} can be written to")
            for value in array.ravel().tolist():
                sent = next(numbers)
                require(math.isfinite(sent), f"{name} holds a number that is not finite")
                require(value == sent, f"{name} came out changed")
                require(name not in schema.positive or value > 0, f"{name} holds a number not above 0")
