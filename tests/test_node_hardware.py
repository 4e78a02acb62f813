"""Device, number format and memory of a node."""

from __future__ import annotations

import platform

import pytest
import torch

from node.hardware import (
    choose_device,
    choose_precision,
    computes_in_bfloat16,
    keep_memory,
)
from topology.errors import InputError

CPU = torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused() -> None:
    """`auto` takes what there is; a number beyond it is an error of the settings."""
    assert choose_device("auto", 1).type in ("cpu", "cuda")
    with pytest.raises(InputError, match="cuda:99"):
        choose_device("cuda:99", 1)


def test_nodes_of_one_machine_share_its_gpus_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their ids; a device asked for by name is given as it is."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device("auto", node)) for node in (1, 2, 3)] == ["cuda:1", "cuda:0", "cuda:1"]
    assert str(choose_device("cuda:0", 3)) == "cuda:0"
    assert str(choose_device("cpu", 3)) == "cpu"


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, *, has: bool) -> None:
    """And what is asked for by name is given anywhere."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert choose_precision("auto", CPU) == (torch.bfloat16 if has else torch.float32)
    assert choose_precision("auto", torch.device("cuda")) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    assert choose_precision("float32", CPU) == torch.float32


@pytest.mark.parametrize(
    ("able", "faster"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_fp16": True, "amx_tile": False}, False),
        ({"cpu_name": "Intel Xeon", "avx512_fp16": True, "amx_tile": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_fp16": False, "amx_tile": False}, True),  # made before AMX
        ({"cpu_name": "AMD EPYC", "avx512_fp16": True, "amx_tile": False}, True),
    ],
)
def test_auto_is_float32_where_amx_is_hidden(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, object], *, faster: bool
) -> None:
    """Intel's processors that were made for it do bfloat16's other instructions slowly."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert choose_precision("auto", CPU) == (torch.bfloat16 if faster else torch.float32)
    assert computes_in_bfloat16()


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="a torch that does not tell")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another kind of processor")
def test_torch_tells_of_the_processor_by_these_names() -> None:
    """Were they others, `auto` would be as if nothing were hidden."""
    assert {"cpu_name", "avx512_fp16", "amx_tile"} <= set(torch.cpu.get_capabilities())


def test_a_torch_that_does_not_tell_is_taken_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions for it are not public, and may go."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not computes_in_bfloat16()


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallopt is glibc's."""
    keep_memory()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_memory()
