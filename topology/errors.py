"""The one error for bad input: what a user can mend in a file, a setting or an argument."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Bad input, told in one line that names the place, the field, the value and what would be right.

    Commands print it and exit with status 2; nothing already saved is touched.

    Attributes:
        where: File, setting source or argument that holds the value.
        problem: What is wrong there, naming field and value.
        mend: What would be right.
    """

    def __init__(self, where: str | Path, problem: str, mend: str) -> None:
        self.where = str(where)
        self.problem = problem
        self.mend = mend
        super().__init__(" ".join(f"{self.where}: {problem}; {mend}".split()))
