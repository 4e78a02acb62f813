"""Figures that are ratios: two ways of doing the same, in alternating rounds of one run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

from launcher.cells import machine as launcher_machine
from node.hardware import computes_in_bfloat16

_CPU = torch.device("cpu")

# How many steps D takes else depends on the losses, and what is compared shall do the same.
EVERY_CYCLE = {"loss_threshold": 1e-6, "max_steps": 1}
"""Settings of `discriminator`: one step in every cycle."""


@dataclass(frozen=True)
class Figure:
    """One row of a table.

    Attributes:
        what: What was measured.
        value: Median; a ratio where `unit` is empty.
        lowest: Of the rounds.
        highest: Of the rounds.
        target: What it is meant to reach; None for a figure that is only told.
        at_least: Whether the target is a lower bound.
        unit: Of value and target.
        beside: Absolute figures, for people.
        rounds: How many rounds there were.
        numbers: What a plot of several figures is made of.
    """

    what: str
    value: float
    lowest: float
    highest: float
    target: float | None = None
    at_least: bool = False
    unit: str = ""
    beside: str = ""
    rounds: int = 1
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        """All of it, and whether the target is met."""
        return asdict(self) | {"met": self.met}


def figure(what: str, values: Sequence[float], **fields: Any) -> Figure:
    """The median of several rounds, and their range."""
    return Figure(what, median(values), min(values), max(values), rounds=len(values), **fields)


def alternate(
    first: Callable[[], float], second: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """What each of the two returns in every round, A B A B …, after one round that does not count."""
    found = [(first(), second()) for _ in range(rounds + 1)]
    return found[1:]


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """The first over the second of every pair."""
    return [one / other for one, other in pairs]


def milliseconds(name: str, seconds: Sequence[float]) -> str:
    """A median with its name, for `beside`."""
    return f"{name} {median(seconds) * 1e3:.3g} ms"


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def machine(device: torch.device = _CPU) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        **launcher_machine(),
        "instructions": _instructions(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": platform.release(),
    }


def _instructions() -> str:
    """The widest that torch uses, which the processor's name need not tell."""
    widest = torch.backends.cpu.get_cpu_capability()
    return f"{widest}, bfloat16" if computes_in_bfloat16() else widest
