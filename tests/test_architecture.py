"""The house: which package may import which, what each may use, and what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("topology", "transport", "node", "launcher", "eval")

# Each package's arrows: whole packages, or single modules of one.
ARROWS = {
    "topology": set[str](),
    "transport": set[str](),
    "node": {"topology", "transport"},
    "launcher": {
        "topology",
        "transport.keys",
        "transport.errors",
        "node.cli",
        "node.config",
        "node.exits",
        "node.files",
        "node.shards",
        "eval.history",
    },
    "eval": {"topology"}
    | {
        f"node.{name}"
        for name in ("cli", "files", "models", "checkpoint", "data", "config", "shards", "samples")
    },
}
# Libraries that stay in the packages that are about them.
LIBRARY_HOMES = {"torch": {"node", "eval"}, "zmq": {"transport"}, "networkx": {"topology", "eval"}}
PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
TORCHLESS = (
    "topology.files",
    "topology.peers",
    "transport.wire",
    "node.config",
    "node.shards",
    "launcher.__main__",
)


def modules(package: str) -> list[Path]:
    """Every source file of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports; `from node import config` counts as `node.config`."""
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(found, ast.Import):
            yield from ((found.lineno, alias.name) for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 0, f"{path}:{found.lineno}: a relative import; write the full name"
            names = (alias.name for alias in found.names)
            base = found.module or ""
            yield from ((found.lineno, f"{base}.{name}" if base in PACKAGES else base) for name in names)


def test_imports_follow_the_arrows() -> None:
    """Topology and transport import nothing of ours; the launcher and eval take what is listed, and no more."""
    wrong = []
    for package, arrows in ARROWS.items():
        for path in modules(package):
            for line, name in imports(path):
                ours = name.split(".")[0] in PACKAGES and name.split(".")[0] != package
                if ours and not any(name == arrow or name.startswith(f"{arrow}.") for arrow in arrows):
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {package} may not import {name}")
    assert not wrong, "\n".join(wrong)


def test_libraries_stay_in_their_packages() -> None:
    """Sockets are the transport's, tensors are the node's and the evaluator's."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in PACKAGES
        for path in modules(package)
        for line, name in imports(path)
        if package not in LIBRARY_HOMES.get(name.split(".")[0], {package})
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_pickled() -> None:
    """Neither on the wire nor on disk."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in PACKAGES
        for path in modules(package)
        for line, name in imports(path)
        if name.split(".")[0] in PICKLERS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_opens_with_a_docstring_only(package: str) -> None:
    """Importing it costs nothing; py.typed hands its types to every checker."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_short(package: str) -> None:
    """At most 400 lines a file and 40 a function."""
    wrong = []
    for path in modules(package):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            wrong.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for found in ast.walk(ast.parse(text)):
            if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (found.end_lineno or found.lineno) - found.lineno + 1
                if lines > 40:
                    wrong.append(f"{path.relative_to(ROOT)}:{found.lineno}: {found.name} has {lines} lines")
    assert not wrong, "\n".join(wrong)


@pytest.mark.system
@pytest.mark.parametrize("module", TORCHLESS)
def test_importing_it_loads_no_torch(module: str) -> None:
    """Starting, planning and checking stay quick and small."""
    program = f"import sys, {module}; sys.exit('torch was loaded' if 'torch' in sys.modules else 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_node_reads_its_peers_without_networkx() -> None:
    """Graph generators are no part of a node, which counts its megabytes."""
    program = (
        "import sys, topology.peers; sys.exit('networkx was loaded' if 'networkx' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
