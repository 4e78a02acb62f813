"""Tables as text: columns side by side for a terminal, or Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in table
    )


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table, its first row the heading."""
    head, *rows = (" | ".join(cell.replace("|", r"\|") for cell in row) for row in table)
    rule = "---:|" * (len(table[0]) - 1)
    return "\n".join([f"| {head} |", f"|---|{rule}", *(f"| {row} |" for row in rows)])
