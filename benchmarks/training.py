"""One node alone: against a textbook loop of the same arithmetic, and against the arithmetic itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import EVERY_CYCLE, Figure, alternate, figure, milliseconds, ratios, timed
from benchmarks.textbook import Textbook
from node.config import Settings, resolve
from node.data import normalise
from node.hardware import is_faster_in_bfloat16, prepare_processor
from node.shards import Shard
from node.trainer import Trainer

_CYCLES = 20
_IMAGES = 2000
_PRODUCT = 2048
_TARGETS = {"float32": 1.15, "bfloat16": 1.8}


def measure(*, full: bool) -> Iterator[Figure]:
    """Images per second over those of the textbook loop, and seconds of a cycle over those of its multiply-adds."""
    prepare_processor(1)  # as a node does; here it serves the textbook loop too
    rounds = 31 if full else 11
    textbook = build_textbook(settings_in("float32"))
    for precision, target in _TARGETS.items():
        if precision == "bfloat16" and not is_faster_in_bfloat16():
            print("  this processor is not faster in bfloat16: left out")
            continue
        trainer = build_trainer(settings_in(precision))
        our_cycle_s = partial(cycle_s, partial(trainer.cycle, dict))
        pairs = alternate(partial(cycle_s, textbook.cycle), our_cycle_s, rounds)
        theirs, ours = zip(*pairs, strict=True)
        yield figure(
            f"training in {precision}: images/s over those of the textbook loop in float32",
            ratios(pairs),
            target=target,
            at_least=True,
            beside=f"a cycle: {milliseconds('dgan', ours)}, {milliseconds('textbook', theirs)}",
        )
        floating = count_operations(trainer)
        limits = alternate(our_cycle_s, partial(least_s, floating, trainer.precision), rounds)
        yield figure(
            f"training in {precision}: seconds of a cycle over its multiply-adds at the rate of a large matrix product",
            ratios(limits),
            beside=f"{floating / 2e6:.0f} million multiply-adds, {milliseconds('limit', [b for _, b in limits])}",
        )


def settings_in(precision: str) -> Settings:
    """The paper preset, alone, with one step of D in every cycle: so that both loops make the same updates."""
    tables = {"discriminator": EVERY_CYCLE, "training": {"precision": precision}}
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


def cycle_s(cycle: Callable[[], object]) -> float:
    """Seconds of a cycle, the mean of some."""
    return timed(lambda: [cycle() for _ in range(_CYCLES)]) / _CYCLES


def least_s(operations: float, dtype: torch.dtype) -> float:
    """Seconds that as many operations take at the rate of a large matrix product in that format."""
    return operations / product_rate(dtype)


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large matrix product on this thread."""
    left, right = torch.randn(_PRODUCT, _PRODUCT).to(dtype), torch.randn(_PRODUCT, _PRODUCT).to(dtype)
    return 2 * _PRODUCT**3 / min(timed(lambda: left @ right) for _ in range(3))
