"""One node alone: against a textbook loop of the same arithmetic, and against the arithmetic itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Figure, alternate, figure, milliseconds, ratios, timed
from benchmarks.textbook import Textbook
from node.config import Settings, resolve
from node.data import normalise
from node.hardware import computes_in_bfloat16, keep_memory
from node.shards import Shard
from node.trainer import Trainer

_CYCLES = 20
_IMAGES = 2000
_PRODUCT = 2048
_TARGETS = {"float32": 1.15, "bfloat16": 1.8}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(*, full: bool) -> Iterator[Figure]:
    """Images per second over those of the textbook loop, and seconds of a cycle over those of its multiply-adds."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_memory()  # as a node does; here it serves the textbook loop too
    rounds = 31 if full else 11
    textbook = build_textbook(settings_in("float32"))
    for precision, target in _TARGETS.items():
        if precision == "bfloat16" and not computes_in_bfloat16(torch.device("cpu")):
            print("  this processor does not compute in bfloat16: left out")
            continue
        trainer = build_trainer(settings_in(precision))
        pairs = alternate(
            lambda: timed(lambda: [textbook.cycle() for _ in range(_CYCLES)]) / _CYCLES,
            lambda trainer=trainer: timed(lambda: [trainer.cycle(dict) for _ in range(_CYCLES)]) / _CYCLES,  # type: ignore[misc]  # the default binds it
            rounds,
        )
        theirs, ours = zip(*pairs, strict=True)
        yield figure(
            f"training in {precision}: images/s over those of the textbook loop in float32",
            ratios(pairs),
            target=target,
            at_least=True,
            beside=f"a cycle: {milliseconds('dgan', ours)}, {milliseconds('textbook', theirs)}",
        )
        floating = count_operations(trainer)
        limits = alternate(
            lambda trainer=trainer: timed(lambda: [trainer.cycle(dict) for _ in range(_CYCLES)]) / _CYCLES,  # type: ignore[misc]  # the default binds it
            lambda dtype=_DTYPES[precision], n=floating: n / product_rate(dtype),  # type: ignore[misc]  # the same
            rounds,
        )
        yield figure(
            f"training in {precision}: seconds of a cycle over its multiply-adds at the rate of a large matrix product",
            ratios(limits),
            beside=f"{floating / 2e6:.0f} million multiply-adds, {milliseconds('limit', [b for _, b in limits])}",
        )


def settings_in(precision: str) -> Settings:
    """The paper preset, alone, with one step of D in a cycle: so that both loops make the same updates."""
    tables = {"discriminator": {"max_steps": 1}, "training": {"precision": precision}}
    return resolve("benchmark", {"preset": "paper", "policy": "alone"}, tables)


def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Made-up images (N, 20, 20, 1)."""
    return np.random.default_rng(0).integers(0, 256, (_IMAGES, 20, 20, 1), dtype=np.uint8)


def build_trainer(settings: Settings) -> Trainer:
    """A node's trainer on made-up images."""
    return Trainer(settings, "paper", 1, Shard(images()))


def build_textbook(settings: Settings) -> Textbook:
    """The textbook loop on the same images, which it holds as float32."""
    images_NCHW = normalise(torch.from_numpy(images()).permute(0, 3, 1, 2)).contiguous()
    return Textbook(settings, settings.architecture["paper"], images_NCHW)


def count_operations(trainer: Trainer) -> float:
    """Floating-point operations of one cycle's convolutions and matrix products, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        trainer.cycle(dict)
    return float(counter.get_total_flops())


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large matrix product on this thread."""
    left, right = torch.randn(_PRODUCT, _PRODUCT).to(dtype), torch.randn(_PRODUCT, _PRODUCT).to(dtype)
    return 2 * _PRODUCT**3 / min(timed(lambda: left @ right) for _ in range(3))
