"""One snapshot <-> one frame. Pure: bytes and arrays, no sockets and no clock.

    "DGN1" | u8 major | u8 minor | u16 flags | u32 header_bytes | u64 payload_bytes | msgpack header | zeros to 64 | tensors

All integers and numbers are little-endian. The receiver owns the schema: which tensors follow, in which order and
shape, is known on both sides by `arch_id`, so that no count, shape or length is ever taken from the wire. Limits come
before parsing: sizes first, then the header, then its fields, then the digest, then the numbers. `decode` raises
RemoteError and nothing else, whatever the bytes. docs/protocol.md tells it byte by byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from transport.errors import (
    DigestError,
    FrameSizeError,
    LocalError,
    MalformedFrameError,
    MismatchError,
    VersionError,
)
from transport.header import MAX_INTEGER, check_fields, pack_header, unpack_header
from transport.payload import check_values, from_payload, gather, to_blocks, to_payload

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
Block = Mapping[str, NDArray[np.float32]]
Frame = bytes | memoryview

MAGIC = b"DGN1"
MAJOR, MINOR = 1, 0
TWO_BLOCKS = 1  # bit 0 of the flags; the others are 0
MAX_HEADER_BYTES = 4096
ALIGNMENT_BYTES = 64

_PREAMBLE = struct.Struct("<4sBBHIQ")
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Schema:
    """What an architecture's snapshot holds, in the order of the payload.

    Attributes:
        arch_id: Name that both sides know the architecture by.
        tensors: (name, shape) of each tensor.
        positive: Names of tensors whose every value is above 0 (batch normalisation's variances).

    Raises:
        LocalError: A name appears twice, a shape has a negative side, or `positive` names no tensor of these.
    """

    arch_id: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    positive: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.tensors]
        if len(set(names)) != len(names):
            raise LocalError(f"schema {self.arch_id}: a tensor's name appears twice in {names}")
        if any(side < 0 for _, shape in self.tensors for side in shape):
            raise LocalError(f"schema {self.arch_id}: a shape has a negative side")
        if unknown := sorted(self.positive - set(names)):
            raise LocalError(f"schema {self.arch_id}: positive names {unknown}, which are no tensors of it")

    @cached_property
    def layout(self) -> tuple[tuple[str, tuple[int, ...], slice], ...]:
        """(name, shape, place among the numbers of a block) of each tensor, in the order of the payload."""
        ends = tuple(accumulate(math.prod(shape) for _, shape in self.tensors))
        starts = (0, *ends)
        return tuple(
            (name, shape, slice(start, end))
            for (name, shape), start, end in zip(self.tensors, starts, ends, strict=False)
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Of its tensors."""
        return frozenset(name for name, _ in self.tensors)

    @cached_property
    def values(self) -> int:
        """Numbers in one block."""
        return sum(math.prod(shape) for _, shape in self.tensors)


@dataclass(frozen=True)
class Snapshot:
    """A node's discriminator at one moment.

    Attributes:
        run_id: The run it belongs to.
        node_id: Who publishes it.
        arch_id: Architecture, by the name in the schema.
        boot: Number of the publisher's start, above that of every earlier one.
        seq: Number of the publish within this boot.
        cycle: The publisher's cycle when it was taken; of the newer block in lockstep.
        done: The publisher has finished training.
        blocks: One mapping from tensor name to float32 array; in lockstep two, the older first.
    """

    run_id: str
    node_id: int
    arch_id: str
    boot: int
    seq: int
    cycle: int
    done: bool
    blocks: tuple[Block, ...]

    @property
    def order(self) -> tuple[int, int]:
        """(boot, seq): what grows from one publish to the next."""
        return self.boot, self.seq


@dataclass(frozen=True)
class Expected:
    """The one kind of frame that is right on a connection; everything else is refused.

    Attributes:
        run_id: The run of both nodes.
        node_id: The neighbour on that connection.
        schema: Its architecture.
        blocks: 1, or 2 in lockstep.
        dtype: Number format of the payload.

    Raises:
        LocalError: `blocks` or `dtype` is none of those that exist.
    """

    run_id: str
    node_id: int
    schema: Schema
    blocks: int = 1
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        _check_format(self.blocks, self.dtype)

    @property
    def payload_bytes(self) -> int:
        """Exact length of the tensors."""
        return self.blocks * self.schema.values * _ITEM_BYTES[self.dtype]

    @property
    def max_frame_bytes(self) -> int:
        """Length of the frame with the longest header allowed."""
        return _payload_start(MAX_HEADER_BYTES) + self.payload_bytes


@dataclass(frozen=True)
class Draft:
    """A snapshot on its way into a frame: its numbers copied to where they will be sent from, nothing checked yet.

    Attributes:
        snapshot: Its fields, without the blocks.
        schema: Its architecture.
        dtype: Number format of the payload.
        blocks: How many there are.
        buffer: Room for the longest header, then the payload.
        values: Its numbers: a view of the buffer where the format is float32.
    """

    snapshot: Snapshot
    schema: Schema
    dtype: Dtype
    blocks: int
    buffer: NDArray[np.uint8]
    values: NDArray[np.float32]


def encode(snapshot: Snapshot, schema: Schema, dtype: Dtype = "float32") -> bytes:
    """The frame of a snapshot, as one private bytes object that nothing else can change.

    Raises:
        LocalError: As `draft` and `seal`.
    """
    return bytes(seal(draft(snapshot, schema, dtype)))


def draft(snapshot: Snapshot, schema: Schema, dtype: Dtype = "float32") -> Draft:
    """The first half of `encode`, the one that must be done before a number of the snapshot changes: copying.

    Args:
        snapshot: One block, or two in lockstep; float32 arrays of the schema's names and shapes.
        schema: The architecture; its order of tensors is the payload's.
        dtype: Number format of the payload.

    Raises:
        LocalError: The snapshot does not fit the schema, or a field is outside its range.
    """
    blocks = len(snapshot.blocks)
    _check_format(blocks, dtype)
    if snapshot.arch_id != schema.arch_id:
        raise LocalError(f"snapshot of {snapshot.arch_id} does not fit the schema {schema.arch_id}")
    check_fields(snapshot)
    count = blocks * schema.values
    buffer = np.empty(_HEAD_BYTES + count * _ITEM_BYTES[dtype], np.uint8)
    values = buffer[_HEAD_BYTES:].view("<f4") if dtype == "float32" else np.empty(count, np.float32)
    gather(snapshot.blocks, schema, values)
    return Draft(snapshot, schema, dtype, blocks, buffer, values)


def seal(waiting: Draft) -> memoryview:
    """The second half of `encode`: the numbers are checked and rounded, and the header is written with their digest.

    Numbers are rounded to the nearest of the payload's format, ties to even. Those beyond its range become its
    largest; in positive tensors those that would become 0 become its smallest above 0.

    Returns:
        The frame, read-only; it lies in the draft's buffer.

    Raises:
        LocalError: A number is not finite, or a variance is not positive.
    """
    check_values(waiting.values, waiting.schema, waiting.blocks)
    payload = waiting.buffer[_HEAD_BYTES:]
    if waiting.dtype != "float32":
        payload[...] = to_payload(waiting.values, waiting.schema, waiting.blocks, waiting.dtype).view(
            np.uint8
        )
    header = pack_header(waiting.snapshot, waiting.dtype, xxhash.xxh3_128_digest(payload.data))
    flags = TWO_BLOCKS if waiting.blocks > 1 else 0
    preamble = _PREAMBLE.pack(MAGIC, MAJOR, MINOR, flags, len(header), payload.nbytes)
    head = (preamble + header).ljust(_payload_start(len(header)), b"\0")
    frame = waiting.buffer[_HEAD_BYTES - len(head) :]
    frame[: len(head)] = np.frombuffer(head, np.uint8)
    return frame.data.toreadonly()


@dataclass(frozen=True)
class Verified:
    """A frame about which everything is right but, perhaps, its numbers.

    Attributes:
        head: All of it up to the tensors. Frames of equal heads hold equal tensors: the head names their digest.
        header: The fields of the header.
    """

    head: bytes
    header: Mapping[str, Any]


def decode(frame: Frame, expected: Expected) -> Snapshot:
    """The snapshot in a frame, once everything about it is right.

    Args:
        frame: Any bytes.
        expected: What must be in it.

    Returns:
        The snapshot. Its arrays are read-only float32; with a float32 payload they are views of `frame`.

    Raises:
        RemoteError: The frame is not exactly what is expected; the subclass and its fields say why.
    """
    return read(frame, verify(frame, expected), expected)


def verify(frame: Frame, expected: Expected) -> Verified:
    """The first half of `decode`: sizes, header, fields and digest.

    Raises:
        RemoteError: One of them is wrong.
    """
    peer = expected.node_id
    header_bytes = _check_sizes(frame, expected)
    head = bytes(frame[: _payload_start(header_bytes)])
    header = unpack_header(head[_PREAMBLE.size : _PREAMBLE.size + header_bytes], peer)
    if any(head[_PREAMBLE.size + header_bytes :]):
        raise MalformedFrameError(peer, "the padding is not zero")
    _check_fields(header, expected)
    digest = xxhash.xxh3_128_digest(memoryview(frame)[len(head) :])
    if header["digest"] != digest:
        raise DigestError(peer, header["digest"].hex(), digest.hex())
    return Verified(head, header)


def read(frame: Frame, verified: Verified, expected: Expected) -> Snapshot:
    """The second half of `decode`: the numbers.

    Raises:
        RemoteError: One is not finite, or a variance is not positive.
    """
    header = verified.header
    values = from_payload(frame, len(verified.head), expected.dtype)
    return Snapshot(
        run_id=header["run_id"],
        node_id=header["node_id"],
        arch_id=header["arch_id"],
        boot=header["boot"],
        seq=header["seq"],
        cycle=header["cycle"],
        done=header["done"],
        blocks=to_blocks(values, expected),
    )


def _check_format(blocks: int, dtype: str) -> None:
    if blocks not in (1, 2):
        raise LocalError(f"a frame holds 1 block, or 2 in lockstep, not {blocks}")
    if dtype not in DTYPES:
        raise LocalError(f"payload format {dtype!r} is none of {', '.join(DTYPES)}")


def _payload_start(header_bytes: int) -> int:
    return -(-(_PREAMBLE.size + header_bytes) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


_HEAD_BYTES = _payload_start(MAX_HEADER_BYTES)


def _check_sizes(frame: Frame, expected: Expected) -> int:
    """The header's length, once every length in the frame is right."""
    peer = expected.node_id
    if len(frame) < _PREAMBLE.size:
        raise FrameSizeError(peer, "frame", len(frame), "at least", _PREAMBLE.size)
    magic, major, _minor, flags, header_bytes, payload_bytes = _PREAMBLE.unpack_from(frame)
    if magic != MAGIC:
        raise MalformedFrameError(peer, f"it begins with {magic!r}, not {MAGIC!r}")
    if major != MAJOR:
        raise VersionError(peer, major, MAJOR)
    if flags & ~TWO_BLOCKS:
        raise MalformedFrameError(peer, f"unknown flags {flags:#06x}")
    if flags + 1 != expected.blocks:
        raise MismatchError(peer, "blocks", flags + 1, expected.blocks)
    if header_bytes > MAX_HEADER_BYTES:
        raise FrameSizeError(peer, "header", header_bytes, "at most", MAX_HEADER_BYTES)
    if payload_bytes != expected.payload_bytes:
        raise FrameSizeError(peer, "payload", payload_bytes, "exactly", expected.payload_bytes)
    whole = _payload_start(header_bytes) + payload_bytes
    if len(frame) != whole:
        raise FrameSizeError(peer, "frame", len(frame), "exactly", whole)
    return int(header_bytes)


def _check_fields(header: Mapping[str, Any], expected: Expected) -> None:
    peer = expected.node_id
    types: dict[str, type] = dict.fromkeys(("boot", "seq", "cycle", "node_id"), int)
    types |= {"done": bool, "digest": bytes} | dict.fromkeys(("run_id", "arch_id", "dtype"), str)
    for field, kind in types.items():
        if field not in header:
            raise MalformedFrameError(peer, f"the header lacks {field}")
        value = header[field]
        # type() and not isinstance(): True is an instance of int.
        if type(value) is not kind:
            raise MalformedFrameError(peer, f"{field} is a {type(value).__name__}, not {kind.__name__}")
        if isinstance(value, int) and not 0 <= value <= MAX_INTEGER:
            raise MalformedFrameError(peer, f"{field} is {value}, not from 0 to 2^63 - 1")
    right = {
        "run_id": expected.run_id,
        "node_id": peer,
        "arch_id": expected.schema.arch_id,
        "dtype": expected.dtype,
    }
    for field, value in right.items():
        if header[field] != value:
            raise MismatchError(peer, field, header[field], value)
