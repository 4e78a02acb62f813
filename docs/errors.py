"""Writes docs/errors.md: every line of error that a user can cause, read from the code that says it.

    python docs/errors.py [--check]

With --check nothing is written, and the exit status is 1 where the page is not what the code says.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "Graph files and peers.toml": ("topology/",),
    "Settings": ("node/config.py", "launcher/options.py"),
    "Data, shards and pictures": (
        "launcher/datasets.py",
        "launcher/downloads.py",
        "launcher/idx.py",
        "launcher/images.py",
        "launcher/split.py",
        "node/shards.py",
        "node/data.py",
    ),
    "Keys and connections": ("transport/",),
    "Starting and resuming a node": ("node/",),
    "dgan-launch and run directories": ("launcher/",),
    "dgan-eval": ("eval/",),
}
"""Heading -> beginnings of the paths that belong there; the first that fits takes a module."""
DEEPEST = 3  # assignments followed from a text
PACKAGES = ("topology", "transport", "node", "launcher", "eval")
HEAD = """# Errors

Every command answers bad input with one line, `COMMAND: error: WHERE: WHAT; MEND`, and status 2, before anything is
trained or overwritten. This page lists all of them: what the line says, what to do about it, and where the code says it.
Names in capitals and `…` stand for values; texts with ` / ` between them are alternatives. The page is written by
`python docs/errors.py` from the code itself.

A line with status 1 comes from the system, such as a full disk, and says what the system said. Status 75 means that trying
again may help: a neighbour did not come in time. A wrong option is answered by its name and `--help`.
"""


@dataclass(frozen=True)
class Entry:
    """One error in the code."""

    module: str
    function: str
    says: str
    mend: str


def main() -> None:
    """Writes the page, or compares it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/errors.md is not what the code says: run python docs/errors.py")


def page() -> str:
    """The text of docs/errors.md."""
    groups: dict[str, list[Entry]] = {subject: [] for subject in SUBJECTS}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).as_posix()
            subject = next(name for name, starts in SUBJECTS.items() if module.startswith(starts))
            groups[subject] += entries(module, ast.parse(path.read_text(encoding="utf-8")))
    parts = [HEAD]
    for subject, found in groups.items():
        rows = dict.fromkeys(
            f"| {cell(e.says)} | {cell(e.mend)} | `{e.module}`, `{e.function}` |" for e in found
        )
        parts.append(
            f"## {subject}\n\n| the line says | mend | code |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def entries(module: str, tree: ast.Module) -> Iterator[Entry]:
    """Every InputError and LocalError that a module makes, and every refusal of a setting's value."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        texts = Texts(tree, function)
        for call in own_calls(function):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name == "InputError" and len(call.args) == 3:  # noqa: PLR2004 - where, problem, mend
                where, problem, mend = map(texts.of, call.args)
                yield Entry(module, function.name, f"{where}: {problem}", mend)
            elif name == "LocalError" or (name == "ValueError" and module == "node/config.py"):
                says, _, mend = texts.of(call.args[0]).partition("; ")
                if mend:  # without one it is a bug of ours, not something that a user can cause
                    yield Entry(module, function.name, says, mend)


def own_calls(function: ast.FunctionDef) -> Iterator[ast.Call]:
    """Calls in a function's body, those of functions inside it left to these."""
    open_nodes: list[ast.AST] = list(function.body)
    while open_nodes:
        node = open_nodes.pop(0)
        if isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.Call):
            yield node
        open_nodes[:0] = ast.iter_child_nodes(node)


class Texts:
    """What expressions in one function read as; values that only a run can tell by their names, or as `…`."""

    def __init__(self, tree: ast.Module, function: ast.FunctionDef) -> None:
        self._assigned: dict[str, list[ast.expr]] = {}
        for scope in (tree.body, ast.walk(function)):
            for node in scope:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    self._assigned.setdefault(node.targets[0].id, []).append(node.value)

    def of(self, node: ast.expr, depth: int = 0) -> str:
        """The text; alternatives are joined by ` / `."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(self.of(part, depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self._value(node.value, depth)
        if isinstance(node, ast.IfExp):
            return " / ".join(filter(None, (self.of(node.body, depth), self.of(node.orelse, depth))))
        return self._value(node, depth)

    def _value(self, node: ast.expr, depth: int) -> str:
        """A variable's text where the function or the module gives it one, else its name."""
        if isinstance(node, ast.Attribute):
            return node.attr.strip("_").upper()
        if not isinstance(node, ast.Name):
            return "…"
        values = self._assigned.get(node.id, []) if depth < DEEPEST else []
        texts = dict.fromkeys(self.of(value, depth + 1) for value in values)
        known = [text for text in texts if text and text.strip("…")]
        return " / ".join(known) or node.id.strip("_").upper()


def cell(text: str) -> str:
    """A text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
