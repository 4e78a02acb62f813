"""Changes to an input that keep enough of its structure to get behind the first check.

Each takes the bytes, the most that may come back, a random source and the fuzzer's own blind mutation.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs
import xxhash

from fuzz.oracle import PREAMBLE, payload_start

Blind = Callable[[bytes, int], bytes]
Mutator = Callable[[bytes, int, random.Random, Blind], bytes]

DIGEST_KEY = b"\xa6digest\xc4\x10"
INTEGERS = (0, 1, 2, 3, 127, 128, 255, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))
VALUES: tuple[object, ...] = (
    *INTEGERS,
    True,
    False,
    None,
    1.0,
    float("nan"),
    "",
    "paper-ring",
    "tiny",
    "float16",
    b"",
    bytes(16),
    [],
    {},
)
KEYS = ("run_id", "node_id", "arch_id", "boot", "seq", "cycle", "done", "dtype", "digest", "more")
NUMBERS = (
    *(struct.pack("<I", bits) for bits in (0, 1, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001)),
    *(struct.pack("<H", bits) for bits in (0, 1, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0x7F80, 0xFF80, 0x7FC0)),
)  # fmt: skip
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64,
    "F64": 64, "I64": 64, "U64": 64, "NONE": 8,
}  # fmt: skip
WHOLE_SHARE = 0.85  # of the changed frames whose lengths and digest are set right again


def frame(data: bytes, max_size: int, rng: random.Random, blind: Blind) -> bytes:
    """A frame with one part changed; most often its lengths and its digest are right again afterwards."""
    if len(data) < PREAMBLE.size or rng.random() < 0.1:  # noqa: PLR2004 - now and then anything at all
        return blind(data, max_size)
    start = PREAMBLE.size
    (size,) = struct.unpack_from("<I", data, 8)
    size = min(size, len(data) - start)
    preamble, header = data[:start], data[start : start + size]
    payload = data[payload_start(size) :]
    part = rng.choice(("preamble", "header", "field", "field", "padding", "payload", "payload", "length"))
    if part == "preamble":
        preamble = _set_preamble(preamble, rng)
    elif part == "header":
        header = blind(header, 512) if header else header
    elif part == "field":
        header = _set_field(header, rng)
    elif part == "payload":
        payload = _set_numbers(payload, rng)
    elif part == "length":
        payload = (payload + rng.randbytes(8))[: max(0, len(payload) + rng.choice((-4, -2, -1, 1, 2, 4, 8)))]
    return _join(preamble, header, payload, rng, part)[:max_size]


def _join(preamble: bytes, header: bytes, payload: bytes, rng: random.Random, part: str) -> bytes:
    whole = rng.random() < WHOLE_SHARE
    if whole and DIGEST_KEY in header:
        place = header.index(DIGEST_KEY) + len(DIGEST_KEY)
        header = header[:place] + xxhash.xxh3_128_digest(payload) + header[place + 16 :]
    if whole and part != "preamble":
        fields = list(PREAMBLE.unpack(preamble))
        fields[4] = len(header)
        if part != "length" or rng.random() < 0.5:  # noqa: PLR2004 - half of them lie about it
            fields[5] = len(payload) if part != "length" else fields[5]
        preamble = PREAMBLE.pack(*fields)
    padding = bytearray(payload_start(len(header)) - PREAMBLE.size - len(header))
    if part == "padding" and padding:
        padding[rng.choice((0, -1, rng.randrange(len(padding))))] = rng.randrange(1, 256)
    return preamble + header + bytes(padding) + payload


def _set_preamble(preamble: bytes, rng: random.Random) -> bytes:
    fields = list(PREAMBLE.unpack(preamble))
    place = rng.randrange(1, len(fields))
    largest = (0, 2**8, 2**8, 2**16, 2**32, 2**64)[place]
    fields[place] = (rng.choice((fields[place] + rng.randint(-4, 4), *INTEGERS))) % largest
    return PREAMBLE.pack(*fields)


def _set_field(header: bytes, rng: random.Random) -> bytes:
    """One key set to something else, taken out, or put in once more."""
    try:
        pairs: list[tuple[Any, Any]] = msgpack.unpackb(header, object_pairs_hook=list, strict_map_key=False)
        key, value = rng.choice(KEYS), rng.choice(VALUES)
        kept = [pair for pair in pairs if pair[0] != key or rng.random() < 0.1]  # noqa: PLR2004 - twice, now and then
        name: Any = key.encode() if rng.random() < 0.05 else key  # noqa: PLR2004 - the same
        added = [(name, value)] if rng.random() < 0.9 else []  # noqa: PLR2004 - else it is gone
        head = struct.pack(">BH", 0xDE, len(kept) + len(added))
        return head + b"".join(msgpack.packb(each) for pair in (*kept, *added) for each in pair)
    except (ValueError, TypeError, IndexError, msgpack.UnpackException):
        return header


def _set_numbers(payload: bytes, rng: random.Random) -> bytes:
    """Numbers that no snapshot holds, or random ones, in the place of one; the length stays."""
    number = rng.choice((*NUMBERS, rng.randbytes(2), rng.randbytes(4)))
    place = rng.randrange(max(1, len(payload) // len(number))) * len(number)
    return (payload[:place] + number + payload[place + len(number) :])[: len(payload)]


def text(data: bytes, max_size: int, rng: random.Random, blind: Blind) -> bytes:
    """Text with a change; now and then a piece of it comes many times, as no blind mutation makes it."""
    if data and rng.random() < 0.1:  # noqa: PLR2004 - now and then
        start = rng.randrange(len(data))
        piece = data[start : start + rng.choice((1, 1, 2, 3, 8, 30))]
        times = rng.choice((2, 10, 100, max_size)) if len(piece) > 1 else max_size
        return (data[:start] + (piece * times)[: max(0, max_size - len(data))] + data[start:])[:max_size]
    return blind(data, max_size)


def checkpoint(data: bytes, max_size: int, rng: random.Random, blind: Blind) -> bytes:
    """A record and tensors, one of them changed; most often the lengths and the digest are right again afterwards."""
    record, tensors = split_checkpoint(data)
    part = rng.choice(("record", "field", "header", "form", "form", "tensors", "anything"))
    if part == "anything":
        return blind(data, max_size)
    if part == "record":
        record = text(record, 2048, rng, blind)
    elif part == "tensors":
        tensors = blind(tensors, 2048)
    elif part in ("header", "form"):
        size = int.from_bytes(tensors[:8], "little")
        header = tensors[8 : 8 + size]
        header = text(header, 1024, rng, blind) if part == "header" else _set_form(header, rng)
        header += b" " * (-len(header) % 8)
        tensors = len(header).to_bytes(8, "little") + header + tensors[8 + size :]
    if part == "field" or rng.random() < WHOLE_SHARE:
        record = _set_record(record, tensors, rng, change=part == "field")
    return join_checkpoint(record, tensors)[:max_size]


def _set_form(header: bytes, rng: random.Random) -> bytes:
    """Another number format or shape for one tensor; the count of its bytes most often stays right."""
    try:
        fields = json.loads(header)
        tensor = fields[rng.choice(list(fields))]
        begin, end = tensor["data_offsets"]
        dtype, bits = rng.choice(list(DTYPE_BITS.items()))
        count = (end - begin) * 8 // bits
        shapes: tuple[object, ...] = (
            [count],
            [1, count],
            [count, 1],
            [],
            [0],
            [0, 2**40],
            [2**62, 4],
            [-1],
            [count // 2, 2],
            None,
        )
        tensor |= {"dtype": dtype, "shape": rng.choice(shapes)}
        return json.dumps(fields).encode()
    except (ValueError, TypeError, LookupError, RecursionError):
        return header


def _set_record(record: bytes, tensors: bytes, rng: random.Random, *, change: bool) -> bytes:
    """The record with the tensors' digest and, where asked for, another value under one of its keys."""
    try:
        fields = json.loads(record)
        fields["digest"] = xxhash.xxh3_128_hexdigest(tensors)
        if change:
            values: tuple[object, ...] = (
                *INTEGERS,
                True,
                False,
                None,
                1.5,
                "",
                "x",
                [],
                {},
                {"2": 5},
                {"2": "x"},
                "é\ud800",
            )
            fields[rng.choice(list(fields))] = rng.choice(values)
        return json.dumps(fields).encode()
    except (ValueError, TypeError, RecursionError):
        return record


def split_checkpoint(data: bytes) -> tuple[bytes, bytes]:
    """The record and the tensors of an input: the record's length in 4 bytes, the record, the tensors."""
    size = int.from_bytes(data[:4], "little")
    return data[4 : 4 + size], data[4 + size :]


def join_checkpoint(record: bytes, tensors: bytes) -> bytes:
    """The input of a record and tensors."""
    return len(record).to_bytes(4, "little") + record + tensors
