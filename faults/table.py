"""The rows, by number."""

from __future__ import annotations

from faults import soak
from faults.verdicts import Row

ROWS = (
    Row(20, "soak", "random faults, one after another, from a printed seed", soak.run, quick=True),
)  # fmt: skip
