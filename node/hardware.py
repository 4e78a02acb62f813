"""What a node computes on and with: the device, the number format, and how the C library keeps memory."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from topology.errors import InputError

_Module = TypeVar("_Module", bound=torch.nn.Module)
# glibc's mallopt, and what it is told: how much free memory it keeps, which is what a cycle frees at its end, and how large a
# piece must be to be given back as soon as it is let go of, which a batch's tensors are not and large snapshots are.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES, _APART_BYTES = 32 * 2**20, 8 * 2**20


def choose_device(name: str, node_id: int) -> torch.device:
    """The device of a setting: `auto` is a GPU where there is one; nodes of one machine are shared out by their ids.

    Raises:
        InputError: A GPU is asked for and there is none, or no such one.
    """
    gpus = torch.cuda.device_count() if name != "cpu" else 0
    if name == "auto":
        name = f"cuda:{node_id % gpus}" if gpus else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise InputError(
            "training.device", f"{name} is not here, {gpus} GPUs are visible", "cpu, auto or a lower number"
        )
    return device


def place(module: _Module, device: torch.device) -> _Module:
    """Moves a network to its device in channels_last memory, where convolutions in bfloat16 are fastest."""
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stubs miss it


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of a setting: `auto` is bfloat16 on a processor that is faster in it, and float32 elsewhere.

    A GPU's cycle goes by the count of its kernels, not by their arithmetic, and bfloat16 needs many more, for conversions.
    """
    if name == "auto":
        name = "bfloat16" if device.type == "cpu" and is_faster_in_bfloat16() else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def computes_in_bfloat16() -> bool:
    """Whether the processor has instructions for it: where it is emulated, a cycle took four times as long as in float32."""
    # torch tells of these by functions that it does not call public yet.
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask() for ask in asked if ask is not None)


def is_faster_in_bfloat16() -> bool:
    """Whether training takes less time in it than in float32.

    Intel's processors made for AMX are slow in their other instructions for it. Where a hypervisor hid AMX (a Xeon of family 6,
    model 207), matrix products took twice as long as in float32, and a cycle took longer too.
    """
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch lacks it
    lacks_amx = able.get("avx512_fp16", False) and not able.get("amx_tile", False)
    return computes_in_bfloat16() and not (lacks_amx and able.get("cpu_name", "").startswith("Intel"))


def prepare_processor(threads: int) -> None:
    """Settings of the whole process that training depends on."""
    torch.set_num_threads(threads)
    # Weights that decay below float32's normal range would slow every convolution down many times.
    torch.set_flush_denormal(True)
    keep_memory()


def keep_memory() -> None:
    """Has the C library keep the memory that a cycle frees, for the next one.

    glibc would give it back to the kernel and take it again page by page: a tenth of a cycle's time, more on a busy
    machine. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _APART_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
