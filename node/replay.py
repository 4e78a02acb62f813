"""Functions of tensors that a GPU replays as one graph of kernels, without Python between them.

The networks here are small: on a GPU a kernel is over before Python has launched the next one, so a cycle's time is that of
some hundred launches. A CUDA graph holds them all and is launched once. It reads and writes the same memory each time,
which asks two things of a function that is recorded:

    it takes numbers from its tensors only, and never looks at them (no `item`, no `if` on a value)
    what it changes, weights and moments, it changes in place, as everybody else must who changes them later
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Records a function: what repeats it, and the tensor that each repetition fills anew. It may call the function first."""

_WARM_UP = 3  # calls before a capture, in which libraries choose their kernels and take their workspace


@dataclass(frozen=True)
class _Recording:
    inputs: tuple[Tensor, ...]
    repeat: Callable[[], object]
    result: Tensor


class Runner:
    """Calls functions of tensors; with a recorder each is recorded at its first call and repeated from then on.

    Args:
        record: How to record; None calls every function as it is.
        changed: All tensors that functions change; recording leaves them as they were.
    """

    def __init__(self, record: Recorder | None, changed: Callable[[], Iterable[Tensor]]) -> None:
        self._record = record
        self._changed = changed
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, function: Callable[..., Tensor], *arguments: Any, **options: Hashable) -> Tensor:
        """`function(*arguments, **options)`: a recording for each function, choice of what is no tensor, and shape of what is.

        A recording's result has no history for gradients, and is overwritten when the recording is repeated.
        Recordings are kept for good, those against a neighbour that has gone too.
        """
        if self._record is None:
            return function(*arguments, **options)
        tensors = tuple(each for each in arguments if isinstance(each, Tensor))
        fixed = (each.shape if isinstance(each, Tensor) else each for each in arguments)
        key = (function, *fixed, *options.items())
        if key not in self._recordings:
            work = partial(function, **options)
            self._recordings[key] = self._recorded(self._record, work, arguments)
        recording = self._recordings[key]
        for mine, given in zip(recording.inputs, tensors, strict=True):
            mine.copy_(given)
        recording.repeat()
        return recording.result

    def _recorded(
        self, record: Recorder, function: Callable[..., Tensor], arguments: tuple[Any, ...]
    ) -> _Recording:
        own = [each.detach().clone() if isinstance(each, Tensor) else each for each in arguments]
        before = [tensor.clone() for tensor in self._changed()]
        repeat, result = record(lambda: function(*own))
        with torch.no_grad():
            for tensor, old in zip(self._changed(), before, strict=True):
                tensor.copy_(old)
        inputs = tuple(each for each in own if isinstance(each, Tensor))
        return _Recording(inputs, repeat, result.detach())


def gpu_recorder(device: torch.device) -> Recorder | None:
    """Records CUDA graphs on a GPU; None elsewhere, where a call costs little beside the work."""
    if device.type != "cuda":
        return None

    def record(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    work()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = work()
        return graph.replay, result

    return record
