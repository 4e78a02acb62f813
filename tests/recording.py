"""A recorder on the CPU that keeps to the rules of a CUDA graph: what is repeated are operations on fixed memory, not Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Tape(TorchDispatchMode):
    """Notes every operation with the very tensors that it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a recorded function looks at a number")
        result = func(*args, **(kwargs or {}))
        made = [] if any(r.alias_info for r in func._schema.returns) else tree_leaves(result)
        self._operations.append(
            (func, args, kwargs or {}, [each for each in made if isinstance(each, Tensor)])
        )
        return result

    def repeat(self) -> None:
        """Makes the same operations on the same memory."""
        with torch.no_grad():
            for func, args, kwargs, made in self._operations:
                again = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
                for old, new in zip(made, again, strict=False):
                    old.copy_(new)


def record(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Calls `work` twice to warm up, as for a CUDA graph, and then tapes it."""
    work(), work()
    tape = _Tape()
    with tape:
        result = work()
    return tape.repeat, result
