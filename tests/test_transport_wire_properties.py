"""transport.wire, whatever the snapshot and whatever the bytes: what comes back, what is refused, what it costs."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import msgpack  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from transport.errors import BadValueError, DigestError, FrameSizeError, MalformedFrameError, RemoteError
from transport.wire import DTYPES, MAX_INTEGER, Dtype, Expected, Schema, Snapshot, decode, encode

GOLDEN = Path(__file__).parent / "golden"
TINY = Schema("tiny", (("weight", (2, 3)), ("bias", (1,)), ("variance", (2,))), frozenset({"variance"}))
FRAMES = {
    "float32.frame": Expected("paper-ring", 3, TINY),
    "bfloat16.frame": Expected("paper-ring", 3, TINY, 1, "bfloat16"),
    "lockstep-float16.frame": Expected("paper-ring", 3, TINY, 2, "float16"),
}
# The digest covers the payload; CURVE keeps the header from everyone but the neighbour itself.
UNCOVERED = {"boot", "seq", "cycle", "done"}
MINOR_VERSION = 5  # its offset; any value is accepted
EDGES = {0, 1, 2**8, 2**16, 2**31, 2**32, 2**63, 2**64}


@dataclass(frozen=True)
class Case:
    """A snapshot, what it is sent as, and what its receiver expects."""

    snapshot: Snapshot
    schema: Schema
    expected: Expected


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], *, positive: bool) -> NDArray[np.float32]:
    """Any finite numbers, small, large and subnormal; above 0 where they must be."""
    low = {"min_value": 0, "exclude_min": True} if positive else {}
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False, **low)
    return draw(hnp.arrays(np.float32, shape, elements=elements))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any schema of up to three tensors, none of them and empty ones included, in any format."""
    text = st.text(max_size=64)
    shapes = st.lists(
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), max_size=3, unique=False
    )
    named = [(f"t{index}", shape) for index, shape in enumerate(draw(shapes))]
    positive = frozenset(name for name, _ in named if draw(st.booleans()))
    schema = Schema(draw(text), tuple(named), positive)
    blocks = tuple(
        {name: draw(tensors(shape, positive=name in positive)) for name, shape in named}
        for _ in range(draw(st.integers(1, 2)))
    )
    counter = st.integers(0, MAX_INTEGER)
    snapshot = Snapshot(
        run_id=draw(text),
        node_id=draw(counter),
        arch_id=schema.arch_id,
        boot=draw(counter),
        seq=draw(counter),
        cycle=draw(counter),
        done=draw(st.booleans()),
        blocks=blocks,
    )
    dtype: Dtype = draw(st.sampled_from(DTYPES))  # type: ignore[assignment]  # DTYPES holds the literals
    return Case(snapshot, schema, Expected(snapshot.run_id, snapshot.node_id, schema, len(blocks), dtype))


def differing(one: Snapshot, other: Snapshot) -> set[str]:
    """Names of the fields in which two snapshots differ, bit for bit; those of the blocks by the tensor."""
    found = {
        field for field in vars(one) if field != "blocks" and getattr(one, field) != getattr(other, field)
    }
    assert len(one.blocks) == len(other.blocks)
    for left, right in zip(one.blocks, other.blocks, strict=True):
        assert left.keys() == right.keys()
        found |= {name for name in left if left[name].shape != right[name].shape}
        found |= {name for name in left if left[name].tobytes() != right[name].tobytes()}
    return found


def payload_start(frame: bytes) -> int:
    """Where the payload begins, by docs/protocol.md."""
    return -(-(20 + struct.unpack_from("<I", frame, 8)[0]) // 64) * 64


def with_payload(frame: bytes, payload: bytes) -> bytes:
    """The frame with another payload of the same length and its digest."""
    assert len(frame) == payload_start(frame) + len(payload)
    digest = frame.index(b"\xa6digest\xc4\x10") + 9
    head = frame[:digest] + xxhash.xxh3_128_digest(payload) + frame[digest + 16 : payload_start(frame)]
    return head + payload


@given(cases())
def test_any_snapshot_comes_out_as_it_went_in(case: Case) -> None:
    """Fields exactly, float32 bit for bit, the other formats once rounded; the frame of what came is the same frame."""
    frame = encode(case.snapshot, case.schema, case.expected.dtype)
    assert len(frame) <= case.expected.max_frame_bytes
    received = decode(frame, case.expected)
    changed = differing(case.snapshot, received)
    if case.expected.dtype == "float32":
        assert not changed
    assert changed <= {name for name, _ in case.schema.tensors}
    assert encode(received, case.schema, case.expected.dtype) == frame


@given(cases(), st.data())
def test_any_change_to_any_frame_is_refused_or_leaves_the_numbers(case: Case, data: st.DataObject) -> None:
    """Bytes cut out, put in and overwritten anywhere: a RemoteError, or counters that the digest does not cover."""
    frame = encode(case.snapshot, case.schema, case.expected.dtype)
    sent = decode(frame, case.expected)
    start = data.draw(st.integers(0, len(frame)))
    end = data.draw(st.integers(start, min(start + 12, len(frame))))
    changed = frame[:start] + data.draw(st.binary(max_size=12)) + frame[end:]
    refusal: RemoteError | None = None
    try:
        received = decode(changed, case.expected)
    except RemoteError as error:
        refusal = error
    if refusal:
        assert refusal.peer == case.expected.node_id
        assert len(str(refusal).splitlines()) == 1
    else:
        assert differing(sent, received) <= UNCOVERED


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_at_any_offset_is_refused_by_its_size(name: str) -> None:
    """And so is one with anything after it."""
    frame = (GOLDEN / name).read_bytes()
    for length in range(len(frame)):
        with pytest.raises(FrameSizeError):
            decode(frame[:length], FRAMES[name])
    for more in range(1, 130):
        with pytest.raises(FrameSizeError):
            decode(frame + bytes(more), FRAMES[name])


@pytest.mark.parametrize("name", FRAMES)
def test_every_other_length_is_refused(name: str) -> None:
    """Each value of both length fields that is near the right one, near the limit or near a power of two."""
    frame = (GOLDEN / name).read_bytes()
    for offset, form in ((8, "<I"), (12, "<Q")):
        size = struct.calcsize(form)
        (right,) = struct.unpack_from(form, frame, offset)
        edges = {edge + step for edge in EDGES for step in (-1, 0, 1)} | {2**bit for bit in range(64)}
        for length in (edges | set(range(4300))) - {right}:
            if 0 <= length < 256**size:
                changed = frame[:offset] + struct.pack(form, length) + frame[offset + size :]
                with pytest.raises(RemoteError):
                    decode(changed, FRAMES[name])


@pytest.mark.parametrize("name", FRAMES)
def test_lengths_that_agree_with_one_another_are_refused_all_the_same(name: str) -> None:
    """A frame longer or shorter by some numbers, whose length field and digest both say so."""
    frame, expected = (GOLDEN / name).read_bytes(), FRAMES[name]
    payload = frame[payload_start(frame) :]
    for count in range(3 * len(payload)):
        other = (payload * 3)[:count]
        digest = frame.index(b"\xa6digest\xc4\x10") + 9
        head = bytearray(frame[: payload_start(frame)])
        head[12:20] = struct.pack("<Q", count)
        head[digest : digest + 16] = xxhash.xxh3_128_digest(other)
        if count == len(payload):
            assert not differing(decode(bytes(head) + other, expected), decode(frame, expected))
        else:
            with pytest.raises(FrameSizeError):
                decode(bytes(head) + other, expected)


@pytest.mark.parametrize("name", FRAMES)
def test_every_other_byte_at_every_place_is_refused_or_harmless(name: str) -> None:
    """All 255 others at each offset: only the minor version and four counters of the header may differ."""
    frame, expected = (GOLDEN / name).read_bytes(), FRAMES[name]
    sent, accepted = decode(frame, expected), dict[int, set[str]]()
    for place in range(len(frame)):
        for flip in range(1, 256):
            changed = bytearray(frame)
            changed[place] ^= flip
            try:
                received = decode(bytes(changed), expected)
            except RemoteError:
                continue
            accepted.setdefault(place, set()).update(differing(sent, received))
    assert accepted.pop(MINOR_VERSION) == set()
    values = {frame.index(msgpack.packb(field)) + 1 + len(field): {field} for field in UNCOVERED}
    assert accepted == values


@given(payload=st.binary(min_size=36, max_size=36))
def test_any_payload_with_its_digest_is_refused_by_its_numbers_or_kept(payload: bytes) -> None:
    """Behind the digest: not finite or not above 0 is refused, everything else comes out bit for bit."""
    frame = with_payload((GOLDEN / "float32.frame").read_bytes(), payload)
    numbers = np.frombuffer(payload, "<f4")
    if np.isfinite(numbers).all() and (numbers[7:] > 0).all():
        received = decode(frame, FRAMES["float32.frame"]).blocks[0]
        assert b"".join(received[name].tobytes() for name, _ in TINY.tensors) == payload
    else:
        with pytest.raises(BadValueError):
            decode(frame, FRAMES["float32.frame"])


LARGE = Schema("large", (("weight", (1500, 1000)), ("variance", (500_000,))), frozenset({"variance"}))
NOT_A_NUMBER = {"float32": b"\xff\xff\xff\xff", "bfloat16": b"\xff\xff", "float16": b"\xff\xff"}
MEGABYTE = 1_000_000


def large_frame(dtype: Dtype) -> bytes:
    """Two million numbers."""
    block = {name: np.ones(shape, np.float32) for name, shape in LARGE.tensors}
    return encode(Snapshot("run", 3, "large", 1, 1, 1, False, (block,)), LARGE, dtype)  # noqa: FBT003 - `done`, a field


def peak_bytes(frame: bytes, expected: Expected, error: type[RemoteError] | None) -> int:
    """The most memory that decoding takes at any moment beside the frame, the snapshot included."""
    tracemalloc.start()
    try:
        if error is None:
            decode(frame, expected)
        else:
            with pytest.raises(error):
                decode(frame, expected)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["valid", "no numbers", "variance zero", "last number", "digest", "cut"])
def test_decoding_takes_at_most_twice_the_frame_and_a_megabyte(dtype: Dtype, kind: str) -> None:
    """Whatever is in it: a count of bytes, so the same on every machine."""
    frame, expected = large_frame(dtype), Expected("run", 3, LARGE, 1, dtype)
    payload = frame[payload_start(frame) :]
    none = NOT_A_NUMBER[dtype]
    hostile: dict[str, tuple[bytes, type[RemoteError] | None]] = {
        "valid": (frame, None),
        "no numbers": (with_payload(frame, none * LARGE.values), BadValueError),
        "variance zero": (with_payload(frame, bytes(len(payload))), BadValueError),
        "last number": (with_payload(frame, payload[: -len(none)] + none), BadValueError),
        "digest": (frame[:-1] + b"\xff", DigestError),
        "cut": (frame[:-1], FrameSizeError),
    }
    changed, error = hostile[kind]
    assert peak_bytes(changed, expected, error) <= 2 * len(changed) + MEGABYTE


@pytest.mark.parametrize("name", ["x", "seq"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_key_of_bytes_is_refused(name: str, nested: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Keys are text, at every depth: a reader that takes both for one name would see `seq` twice."""
    frame = (GOLDEN / "float32.frame").read_bytes()
    start = payload_start(frame)
    (size,) = struct.unpack_from("<I", frame, 8)
    fields = msgpack.unpackb(frame[20 : 20 + size])
    fields |= {"more": {name.encode(): 9}} if nested else {name.encode(): 9}
    header = msgpack.packb(fields)
    changed = frame[:8] + struct.pack("<I", len(header)) + frame[12:20] + header
    changed += bytes(-len(changed) % 64) + frame[start:]
    with pytest.raises(MalformedFrameError, match="a key is no text"):
        decode(changed, FRAMES["float32.frame"])


NESTED = {
    "lists of 64": b"\xdc\x00\x40",
    "maps of 32": b"\xde\x00\x20\xa1k",
    "lists of 4000": b"\xdc\x0f\xa0",
    "maps of 4000": b"\xde\x0f\xa0\xa1k",
    "lists of 2^32": b"\xdd\xff\xff\xff\xff",
    "maps of 2^32": b"\xdf\xff\xff\xff\xff\xa1k",
    "texts": b"\xa0",
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_header_that_promises_much_takes_less_than_a_megabyte(kind: str) -> None:
    """4096 bytes of nested containers, each of which says that it is large."""
    fields = b"\x8a" + msgpack.packb("x") + NESTED[kind] * 4096
    header = fields[:4096]
    payload = bytes(36)
    frame = struct.pack("<4sBBHIQ", b"DGN1", 1, 0, 0, len(header), len(payload)) + header
    frame += bytes(-len(frame) % 64) + payload
    expected = FRAMES["float32.frame"]
    assert peak_bytes(frame, expected, MalformedFrameError) <= 2 * len(frame) + MEGABYTE
