"""The numbers of a frame: from a snapshot's arrays to the payload and back, and what is checked on both ways."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transport.errors import BadValueError, LocalError

if TYPE_CHECKING:
    from transport.wire import Block, Dtype, Expected, Frame, Schema

# The largest finite number, and the smallest above zero, that a format holds.
_LARGEST = {"bfloat16": (2 - 2**-7) * 2.0**127, "float16": 65504.0}
_SMALLEST = {"bfloat16": 2.0**-133, "float16": 2.0**-24}
_PIECE = 2**16  # numbers looked at together: what the checks need beside the tensors stays small


def gather(blocks: tuple[Block, ...], schema: Schema, values: NDArray[np.float32]) -> None:
    """Copies every number of a snapshot into `values`, in the order of the payload.

    Raises:
        LocalError: The snapshot does not fit the schema.
    """
    for numbers, block in zip(values.reshape(len(blocks), -1), blocks, strict=True):
        if block.keys() != schema.names:
            odd = sorted(block.keys() ^ schema.names)
            raise LocalError(f"snapshot and schema {schema.arch_id} differ in the tensors {odd}")
        for name, shape, place in schema.layout:
            array = block[name]
            if array.dtype != np.float32 or array.shape != shape:
                raise LocalError(
                    f"tensor {name} is {array.dtype} {array.shape}; the schema says float32 {shape}"
                )
            numbers[place].reshape(shape)[...] = array


def check_values(values: NDArray[np.float32], schema: Schema, blocks: int) -> None:
    """Refuses to send what a receiver would refuse.

    Raises:
        LocalError: A number is not finite, or one that must be positive is not.
    """
    all_finite = _are_finite(values)
    for name, part in _parts(values, schema, blocks):
        if not (all_finite or _are_finite(part)):
            raise LocalError(f"tensor {name} holds a number that is not finite")
        if name in schema.positive and not (part > 0).all():
            raise LocalError(f"tensor {name} holds a number that is not above 0")


def to_payload(values: NDArray[np.float32], schema: Schema, blocks: int, dtype: Dtype) -> NDArray[Any]:
    """The numbers in one of the shorter formats, bfloat16 or float16; `values` may be changed."""
    np.clip(values, np.float32(-_LARGEST[dtype]), np.float32(_LARGEST[dtype]), out=values)
    for name, part in _parts(values, schema, blocks):
        if name in schema.positive:
            np.maximum(part, np.float32(_SMALLEST[dtype]), out=part)
    if dtype == "float16":
        return values.astype("<f2")
    bits = values.view(np.uint32)
    # Half of the last place kept, less one where that place is even: ties go to even.
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype("<u2")


def from_payload(frame: Frame, start: int, dtype: Dtype) -> NDArray[np.float32]:
    """The numbers of a payload that begins at `start`; a view of the frame where their format is float32."""
    if dtype == "bfloat16":
        # The upper halves of float32 numbers, put in place: a frame must not cost more memory than its numbers take.
        halves = np.zeros(((len(frame) - start) // 2, 2), "<u2")
        halves[:, 1] = np.frombuffer(frame, "<u2", offset=start)
        return halves.view("<f4").ravel().astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):  # a signalling NaN is found below, as any other
        return np.frombuffer(frame, "<f4" if dtype == "float32" else "<f2", offset=start).astype(
            np.float32, copy=False
        )


def to_blocks(values: NDArray[np.float32], expected: Expected) -> tuple[Block, ...]:
    """The arrays of each block as read-only views of a frame's numbers, checked.

    Raises:
        BadValueError: A number is not finite, or one that must be positive is not.
    """
    values.setflags(write=False)
    all_finite = _is_sum_finite(values)
    for name, numbers in _parts(values, expected.schema, expected.blocks):
        if not all_finite or name in expected.schema.positive:
            _check_values(name, numbers, expected)
    return tuple(
        {name: numbers[place].reshape(shape) for name, shape, place in expected.schema.layout}
        for numbers in values.reshape(expected.blocks, -1)
    )


def _parts(
    values: NDArray[np.float32], schema: Schema, blocks: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and numbers of each tensor of each block."""
    for numbers in values.reshape(blocks, -1):
        for name, _, place in schema.layout:
            yield name, numbers[place]


def _check_values(name: str, numbers: NDArray[np.float32], expected: Expected) -> None:
    for start in range(0, numbers.size, _PIECE):
        piece = numbers[start : start + _PIECE]
        if not _are_finite(piece):
            raise BadValueError(expected.node_id, name, float(piece[np.isfinite(piece).argmin()]), "finite")
        if name in expected.schema.positive and not (above := piece > 0).all():
            raise BadValueError(expected.node_id, name, float(piece[above.argmin()]), "above 0")


def _are_finite(numbers: NDArray[np.float32]) -> bool:
    """Whether no number is infinite or none at all.

    A sum of squares that is infinite may be one of large numbers: then they are looked at one by one, which takes four
    times as long.
    """
    return _is_sum_finite(numbers) or bool(np.isfinite(numbers).all())


def _is_sum_finite(numbers: NDArray[np.float32]) -> bool:
    """Whether the sum of their squares is finite, which it can only be where each of them is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(numbers, numbers))
