"""A few minutes of the fault run: the rows that need little time, and a short soak. `make faults` does them all at length."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from faults.table import ROWS
from faults.verdicts import Row, Setting

SOAK_S = 30.0


@pytest.mark.system
@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.quick], ids=lambda row: f"{row.number}-{row.fault}"
)
def test_a_fault_costs_no_more_than_it_may(row: Row, tmp_path: Path) -> None:
    """Every figure that the logs tell keeps its limit."""
    if missing := row.needs():
        pytest.skip(missing)
    seed = random.SystemRandom().randrange(10**6)
    observed = row.run(Setting(tmp_path, quick=True, seed=seed, soak_s=SOAK_S))
    assert observed
    missed = [str(each) for each in observed if not each.passed]
    assert not missed, f"seed {seed}: {missed}"


def test_the_table_has_all_twenty_rows() -> None:
    """In order, each once."""
    assert [row.number for row in ROWS] == list(range(1, 21))
