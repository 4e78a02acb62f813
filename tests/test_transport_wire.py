"""transport.wire: what goes into a frame comes out of it, and nothing else is let in."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from transport.errors import (
    BadValueError,
    DigestError,
    FrameSizeError,
    LocalError,
    MalformedFrameError,
    MismatchError,
    RemoteError,
    VersionError,
)
from transport.wire import DTYPES, Dtype, Expected, Schema, Snapshot, decode, draft, encode, seal

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = Schema("tiny", (("weight", (2, 3)), ("bias", (1,)), ("variance", (2,))), frozenset({"variance"}))
HEADER: dict[str, Any] = {
    "run_id": "paper-ring",
    "node_id": 3,
    "arch_id": "tiny",
    "boot": 2,
    "seq": 7,
    "cycle": 70,
    "done": False,
    "dtype": "float32",
}


def block(offset: float = 0.0) -> dict[str, NDArray[np.float32]]:
    """Numbers that all three formats hold exactly."""
    return {
        "weight": (np.arange(6).reshape(2, 3) / 4 - offset).astype(np.float32),
        "bias": np.array([-1.5], np.float32),
        "variance": np.array([0.25, 2.0], np.float32),
    }


def snapshot(count: int = 1, **changes: Any) -> Snapshot:
    """The snapshot that the golden frames hold."""
    fields = {key: value for key, value in HEADER.items() if key != "dtype"}
    return Snapshot(**(fields | {"blocks": tuple(block(index) for index in range(count))} | changes))


def expected(blocks: int = 1, dtype: Dtype = "float32") -> Expected:
    """What fits `snapshot`."""
    return Expected("paper-ring", 3, SCHEMA, blocks, dtype)


def values(**changes: list[float]) -> bytes:
    """A float32 payload of `block`, some tensors changed."""
    tensors = {name: array.ravel().tolist() for name, array in block().items()} | changes
    return b"".join(np.array(tensors[name], "<f4").tobytes() for name, _ in SCHEMA.tensors)


def raw(payload: bytes | None = None, header: bytes | None = None, **changes: Any) -> bytes:
    """A frame built by hand from docs/protocol.md, apart from `encode`; right unless told otherwise."""
    payload = values() if payload is None else payload
    keys = {
        name: changes.pop(name)
        for name in list(changes)
        if name not in ("magic", "major", "flags", "padding")
    }
    if header is None:
        fields = HEADER | {"digest": xxhash.xxh3_128_digest(payload)} | keys
        header = bytes(msgpack.packb({key: value for key, value in fields.items() if value is not None}))
    preamble = struct.pack(
        "<4sBBHIQ",
        changes.get("magic", b"DGN1"),
        changes.get("major", 1),
        changes.get("minor", 0),
        changes.get("flags", 0),
        keys.get("header_bytes", len(header)),
        keys.get("payload_bytes", len(payload)),
    )
    padding: bytes = changes.get("padding", b"\0") * (-(len(preamble) + len(header)) % 64)
    return preamble + header + padding + payload


def equal(one: Snapshot, other: Snapshot) -> bool:
    """The same fields and, number for number, the same arrays."""
    plain = [field for field in vars(one) if field != "blocks"]
    return all(getattr(one, field) == getattr(other, field) for field in plain) and all(
        left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
        for left, right in zip(one.blocks, other.blocks, strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_snapshot_comes_out_as_it_went_in(dtype: Dtype, blocks: int) -> None:
    """Fields and numbers survive the frame in each format, with one block and with two."""
    sent = snapshot(blocks, done=True)
    received = decode(encode(sent, SCHEMA, dtype), expected(blocks, dtype))
    assert equal(sent, received)
    assert received.order == (2, 7)


def test_the_frame_by_hand_and_the_encoder_agree() -> None:
    """A second implementation, written from the document, makes the same bytes."""
    assert raw(digest=xxhash.xxh3_128_digest(values())) == encode(snapshot(), SCHEMA)


@pytest.mark.parametrize(
    ("name", "blocks", "dtype"),
    [
        ("float32.frame", 1, "float32"),
        ("bfloat16.frame", 1, "bfloat16"),
        ("lockstep-float16.frame", 2, "float16"),
    ],
)
def test_golden_frames_are_read_and_written_unchanged(name: str, blocks: int, dtype: Dtype) -> None:
    """What an earlier version wrote, this one reads and writes, byte for byte."""
    frame = (GOLDEN / name).read_bytes()
    received = decode(frame, expected(blocks, dtype))
    assert equal(received, snapshot(blocks))
    assert encode(received, SCHEMA, dtype) == frame


def test_the_documented_example_is_the_golden_frame() -> None:
    """The bytes in docs/protocol.md are those that are read and written."""
    document = (GOLDEN.parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    example = document.partition("```hex\n")[2].partition("```")[0]
    assert bytes.fromhex(example) == (GOLDEN / "float32.frame").read_bytes()


def test_a_frame_is_as_long_as_documented() -> None:
    """20 bytes, the header, zeros up to a multiple of 64, the tensors; the limit allows for the longest header."""
    frame = encode(snapshot(2), SCHEMA, "bfloat16")
    assert (len(frame) - 2 * 9 * 2) % 64 == 0
    assert expected(2, "bfloat16").payload_bytes == 2 * 9 * 2
    assert expected(2, "bfloat16").max_frame_bytes == 4160 + 2 * 9 * 2


def test_received_arrays_are_read_only() -> None:
    """Nobody can change a neighbour's snapshot by accident, whatever the format."""
    for dtype in DTYPES:
        received = decode(encode(snapshot(), SCHEMA, dtype), expected(1, dtype))  # type: ignore[arg-type]  # DTYPES holds the literals
        assert not any(array.flags.writeable for array in received.blocks[0].values())


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, max_side=4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_float32_keeps_every_bit(array: NDArray[np.float32]) -> None:
    """Any finite numbers in any shape come out bit for bit."""
    schema = Schema("any", (("x", array.shape),))
    frame = encode(snapshot(arch_id="any", blocks=({"x": array},)), schema)
    received = decode(frame, Expected("paper-ring", 3, schema)).blocks[0]["x"]
    assert received.tobytes() == array.tobytes()


def through(dtype: Dtype, number: float, *, positive: bool = False) -> float:
    """What a number is after the journey."""
    schema = Schema("one", (("x", ()),), frozenset({"x"} if positive else ()))
    frame = encode(snapshot(arch_id="one", blocks=({"x": np.array(number, np.float32)},)), schema, dtype)
    return float(decode(frame, Expected("paper-ring", 3, schema, dtype=dtype)).blocks[0]["x"])


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(number: float) -> None:
    """Exact arithmetic on the two bfloat16 numbers around it finds the same one; none becomes infinite."""
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    below, above = bits >> 16, (bits >> 16) + 1

    def as_float(upper: int) -> float:
        return float(struct.unpack("<f", struct.pack("<I", upper << 16))[0])

    received = through("bfloat16", number)
    if math.isinf(as_float(above)):
        assert received == as_float(below)
        return
    gaps = [abs(Fraction(as_float(upper)) - Fraction(number)) for upper in (below, above)]
    nearest = below if gaps[0] < gaps[1] or (gaps[0] == gaps[1] and below % 2 == 0) else above
    assert received == as_float(nearest)


def test_bfloat16_ties_go_to_even() -> None:
    """1 + 1/256 lies between 1 and 1 + 1/128; 1 + 3/256 between 1 + 1/128 and 1 + 2/128."""
    assert through("bfloat16", 1 + 1 / 256) == 1
    assert through("bfloat16", 1 + 3 / 256) == 1 + 2 / 128
    assert through("bfloat16", 1 + 1 / 256 + 2**-20) == 1 + 1 / 128


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float16_rounds_as_numpy_does_and_stays_finite(number: float) -> None:
    """Within the range it is numpy's own rounding; beyond it, the largest number there is."""
    assert through("float16", number) == float(np.float16(np.clip(number, -65504, 65504)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tiny_variance_stays_above_zero(dtype: Dtype) -> None:
    """Rounding must not turn an honest variance into one that the neighbours refuse."""
    assert through(dtype, 1.5e-45, positive=True) > 0


def test_every_truncation_is_refused() -> None:
    """A frame cut anywhere is no frame."""
    frame = raw()
    for length in range(len(frame)):
        with pytest.raises(RemoteError):
            decode(frame[:length], expected())


@given(st.data())
def test_a_flipped_bit_is_refused_or_harmless(data: st.DataObject) -> None:
    """One wrong bit: a RemoteError, or other counters in a header that the digest does not cover; never the numbers."""
    frame = bytearray(raw())
    position = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[position // 8] ^= 1 << position % 8
    try:
        received = decode(bytes(frame), expected())
    except RemoteError:
        return
    assert equal(
        received, snapshot(boot=received.boot, seq=received.seq, cycle=received.cycle, done=received.done)
    )


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(noise: bytes) -> None:
    """Noise, alone or as a header, is a RemoteError and nothing else."""
    for frame in (noise, raw(header=noise)):
        with pytest.raises(RemoteError):
            decode(frame, expected())


def with_key(name: str, value: bytes) -> bytes:
    """The right header with one more key, written twice into the map if it was there."""
    fields = bytes(msgpack.packb(HEADER | {"digest": xxhash.xxh3_128_digest(values())}))
    assert fields[0] & 0xF0 == 0x80  # a map of up to 15 keys carries its size in the first byte
    return bytes([fields[0] + 1]) + fields[1:] + bytes(msgpack.packb(name)) + value


DEEP = b"\x91" * 2000 + b"\xc0"
REFUSED: list[tuple[str, bytes, type[RemoteError], str]] = [
    ("magic", raw(magic=b"DGN2"), MalformedFrameError, "begins with b'DGN2'"),
    ("major", raw(major=2), VersionError, "version 2; this node speaks 1"),
    ("unknown flag", raw(flags=2), MalformedFrameError, "unknown flags 0x0002"),
    ("lockstep flag", raw(flags=1), MismatchError, "blocks = 2"),
    ("header size", raw(header_bytes=4097), FrameSizeError, "header of 4097 bytes; at most 4096"),
    ("header size beyond the frame", raw(header_bytes=4096), FrameSizeError, "exactly"),
    ("payload size", raw(payload_bytes=35), FrameSizeError, "payload of 35 bytes; exactly 36"),
    ("payload too short", raw(values()[:-4]), FrameSizeError, "payload of 32 bytes"),
    ("payload too long", raw(values() + bytes(4)), FrameSizeError, "payload of 40 bytes"),
    ("huge payload", raw(payload_bytes=2**63), FrameSizeError, "payload of"),
    ("bytes after the payload", raw() + b"\0", FrameSizeError, "frame of"),
    ("padding", raw(padding=b"\1"), MalformedFrameError, "padding is not zero"),
    ("empty header", raw(header=b""), MalformedFrameError, "unreadable"),
    ("header is no map", raw(header=bytes(msgpack.packb([1]))), MalformedFrameError, "is a list, not a map"),
    ("bytes after the header", raw(header=msgpack.packb(HEADER) + b"\0"), MalformedFrameError, "unreadable"),
    ("text that is no UTF-8", raw(header=with_key("x", b"\xa1\xff")), MalformedFrameError, "unreadable"),
    ("duplicate key", raw(header=with_key("seq", b"\x09")), MalformedFrameError, "a key appears twice"),
    ("key that is a number", raw(header=bytes(msgpack.packb({1: 2}))), MalformedFrameError, "unreadable"),
    (
        "too many keys",
        raw(header=bytes(msgpack.packb(HEADER | {f"k{n}": 1 for n in range(40)}))),
        MalformedFrameError,
        "unreadable",
    ),
    ("long text", raw(x="a" * 257), MalformedFrameError, "unreadable"),
    ("long bytes", raw(x=bytes(65)), MalformedFrameError, "unreadable"),
    ("long list", raw(x=[0] * 65), MalformedFrameError, "unreadable"),
    ("deep list", raw(header=with_key("x", DEEP)), MalformedFrameError, "unreadable"),
    ("extension type", raw(x=msgpack.ExtType(4, b"x")), MalformedFrameError, "unreadable"),
    ("missing key", raw(seq=None), MalformedFrameError, "lacks seq"),
    ("bool for an integer", raw(seq=True), MalformedFrameError, "seq is a bool, not int"),
    ("bool for the node", raw(node_id=True), MalformedFrameError, "node_id is a bool"),
    ("integer for a bool", raw(done=1), MalformedFrameError, "done is a int, not bool"),
    ("float for an integer", raw(cycle=7.0), MalformedFrameError, "cycle is a float"),
    ("bytes for a text", raw(run_id=b"paper-ring"), MalformedFrameError, "run_id is a bytes"),
    ("negative", raw(boot=-1), MalformedFrameError, "boot is -1"),
    ("beyond 63 bits", raw(boot=2**63), MalformedFrameError, "not from 0 to 2^63 - 1"),
    ("another run", raw(run_id="other"), MismatchError, "run_id = 'other'; 'paper-ring' is expected"),
    ("another node", raw(node_id=4), MismatchError, "node_id = 4; 3 is expected"),
    ("another architecture", raw(arch_id="wide"), MismatchError, "arch_id = 'wide'; 'tiny' is expected"),
    ("another format", raw(dtype="float16"), MismatchError, "dtype = 'float16'"),
    ("digest", raw(digest=bytes(16)), DigestError, "digest 00000000"),
    ("short digest", raw(digest=b""), DigestError, "digest"),
    ("not a number", raw(values(bias=[math.nan])), BadValueError, "bias with the value nan"),
    ("infinite", raw(values(weight=[0, 1, 2, 3, 4, -math.inf])), BadValueError, "weight with the value -inf"),
    ("variance 0", raw(values(variance=[1, 0])), BadValueError, "variance with the value 0.0"),
    ("negative variance", raw(values(variance=[-1, 1])), BadValueError, "variance with the value -1.0"),
]


@pytest.mark.parametrize(
    ("frame", "kind", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_it_is_refused_and_named(frame: bytes, kind: type[RemoteError], words: str) -> None:
    """Each fault has its error, which names the peer, the value and what is right, in one line."""
    with pytest.raises(kind) as caught:
        decode(frame, expected())
    assert caught.value.peer == 3
    assert str(caught.value).startswith("node 3 ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", [0x7C01, 0xFC00])
def test_numbers_that_are_none_are_refused_in_float16(pattern: int) -> None:
    """A signalling NaN and minus infinity, as bits."""
    payload = struct.pack("<9H", pattern, *[0x3C00] * 8)
    with pytest.raises(BadValueError, match="weight with the value"):
        decode(raw(payload, dtype="float16"), expected(dtype="float16"))


def test_a_frame_of_one_block_is_refused_in_lockstep() -> None:
    """The flag decides, not the length."""
    with pytest.raises(MismatchError, match="blocks = 1; 2 is expected"):
        decode(raw(), expected(2))


def test_unknown_header_keys_and_minor_versions_are_ignored() -> None:
    """A later minor version may say more."""
    assert equal(decode(raw(x=[1, {"y": None}], minor=9), expected()), snapshot())


def test_errors_carry_their_fields() -> None:
    """Code reads fields, people read the line."""
    with pytest.raises(FrameSizeError) as size:
        decode(raw(payload_bytes=35), expected())
    assert (size.value.part, size.value.size_bytes, size.value.expected_bytes) == ("payload", 35, 36)
    with pytest.raises(MismatchError) as mismatch:
        decode(raw(node_id=4), expected())
    assert (mismatch.value.field, mismatch.value.value, mismatch.value.expected) == ("node_id", 4, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": ()}, "holds 1 block, or 2 in lockstep, not 0"),
        (
            {"blocks": ({"weight": np.zeros((2, 3), np.float32)},)},
            "differ in the tensors ['bias', 'variance']",
        ),
        (
            {"blocks": (block() | {"bias": np.zeros(2, np.float32)},)},
            "bias is float32 (2,); the schema says float32 (1,)",
        ),
        ({"blocks": (block() | {"bias": np.zeros(1)},)}, "bias is float64 (1,)"),
        (
            {"blocks": (block() | {"bias": np.array([np.nan], np.float32)},)},
            "bias holds a number that is not finite",
        ),
        (
            {"blocks": (block() | {"variance": np.zeros(2, np.float32)},)},
            "variance holds a number that is not above 0",
        ),
        ({"arch_id": "wide"}, "snapshot of wide does not fit the schema tiny"),
        ({"seq": -1}, "seq is -1"),
        ({"seq": True}, "seq is True"),
        ({"run_id": "r" * 257}, "run_id is longer than 256 bytes"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_our_own_error(changes: dict[str, Any], words: str) -> None:
    """What no neighbour would accept is never sent."""
    with pytest.raises(LocalError) as caught:
        encode(snapshot(**changes), SCHEMA)
    assert words in str(caught.value)


def test_a_schema_that_contradicts_itself_is_refused() -> None:
    """Names are unique, sides are not negative, positive tensors exist."""
    for tensors, positive in (((("x", ()), ("x", ())), ""), ((("x", (-1,)),), ""), ((("x", ()),), "y")):
        with pytest.raises(LocalError, match="schema bad"):
            Schema("bad", tensors, frozenset(positive))
    with pytest.raises(LocalError, match="payload format 'int8'"):
        Expected("run", 1, SCHEMA, dtype="int8")  # type: ignore[arg-type]  # the fault under test
    assert SCHEMA.values == 9


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_draft_keeps_its_numbers_whatever_becomes_of_the_arrays(dtype: Dtype) -> None:
    """It is copied at once and sealed later: the frame is the one of the moment when it was drafted."""
    arrays = block()
    waiting = draft(snapshot(blocks=(arrays,)), SCHEMA, dtype)
    frame = encode(snapshot(blocks=(arrays,)), SCHEMA, dtype)
    for array in arrays.values():
        np.add(array, 1, out=array)
    sealed = seal(waiting)
    assert sealed == frame
    assert sealed.readonly


def test_numbers_are_checked_when_a_draft_is_sealed_and_all_else_before() -> None:
    """So that who drafts hears at once what is wrong with a snapshot's form."""
    with pytest.raises(LocalError, match="weight is float32"):
        draft(snapshot(blocks=(block() | {"weight": np.zeros(5, np.float32)},)), SCHEMA)
    with pytest.raises(LocalError, match="seq"):
        draft(snapshot(seq=-1), SCHEMA)
    waiting = draft(snapshot(blocks=(block() | {"bias": np.array([np.nan], np.float32)},)), SCHEMA)
    with pytest.raises(LocalError, match="bias holds a number that is not finite"):
        seal(waiting)
