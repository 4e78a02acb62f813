"""Fuzzes every target, then the decoder with bugs planted in it, and writes what came of it.

    python -m fuzz.campaign [--runs 1000000] [--file-runs 50000] [--output results/fuzz.json]

Ends with status 1 where an exception left a target or a planted bug was not found. What broke a target lies in
fuzz/crashes/: put it into fuzz/regressions/, mend the code, and the unit tests hold it from then on.
What reached something new lies in fuzz/found/, from which `python -m fuzz.keep` takes what is worth keeping.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzz.planted import BUGS
from fuzz.targets import HERE, TARGETS, inputs

ROOT = HERE.parent
CRASHES = HERE / "crashes"
FOUND = HERE / "found"
GOLDEN = ROOT / "tests" / "golden"
PLANTED_RUNS = 500_000
SEED = 20180101
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")


def main() -> None:
    """Runs, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of the decoder")
    parser.add_argument("--file-runs", type=int, default=50_000, help="executions of each reader of files")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "fuzz.json")
    options = parser.parse_args()
    CRASHES.mkdir(exist_ok=True)
    result: dict[str, Any] = {
        "command": f"make fuzz FUZZ_RUNS={options.runs} FUZZ_FILE_RUNS={options.file_runs}",
        "python": platform.python_version(),
        "atheris": importlib.metadata.version("atheris"),
        "msgpack": importlib.metadata.version("msgpack"),
        "networkx": importlib.metadata.version("networkx"),
        "safetensors": importlib.metadata.version("safetensors"),
        "processor": platform.processor() or platform.machine(),
        "seed": SEED,
        "targets": {},
        "planted": {},
    }
    for name in TARGETS:
        runs = options.runs if name == "decoder" else options.file_runs
        result["targets"][name] = fuzz(name, runs)
        print(name, result["targets"][name], flush=True)
    for name in BUGS:
        found = fuzz("decoder", PLANTED_RUNS, plant=name)
        outcome = {"found": found["crashes"] > 0, "executions": found["executions"], "limit": PLANTED_RUNS}
        result["planted"][name] = outcome
        print(name, outcome, flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    broken = [name for name, target in result["targets"].items() if target["crashes"]]
    missed = [name for name, bug in result["planted"].items() if not bug["found"]]
    if broken or missed:
        sys.exit(
            f"broken: {', '.join(broken) or 'none'}; planted and not found: {', '.join(missed) or 'none'}"
        )


def fuzz(name: str, runs: int, plant: str | None = None) -> dict[str, Any]:
    """One target for that many executions, or until it breaks; a planted bug's input is thrown away."""
    memory = Path("/dev/shm")  # noqa: S108 - on a disk, opening the files would take most of the time
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name_:
        folder = Path(name_)
        found = folder / "found" if plant else FOUND / name
        shutil.rmtree(found, ignore_errors=True)
        for each in (folder / "scratch", found):
            each.mkdir(parents=True)
        words = "".join(f'"{_escaped(word)}"\n' for word in TARGETS[name].words)
        (folder / "words").write_text(words, encoding="ascii")
        artifacts = folder if plant else CRASHES
        command = [sys.executable, "-W", "ignore", "-m", "fuzz.child", name, str(folder / "scratch")]
        command += ["--plant", plant] if plant else []
        command += [
            f"-runs={runs}", f"-seed={SEED}", f"-max_len={TARGETS[name].max_bytes}", f"-dict={folder / 'words'}",
            f"-artifact_prefix={artifacts}/{name}-", "-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1",
            str(found),
        ]  # fmt: skip
        # The corpus holds inputs at every check's edge, which would give a planted bug away.
        kinds = [kind for kind in ("corpus", "regressions") if inputs(kind, name)]
        command += [str(GOLDEN)] if plant else [str(HERE / kind / name) for kind in kinds]
        begun_s = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        seconds = time.monotonic() - begun_s
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    executions = _EXECUTIONS.search(output)
    if executions is None or (done.returncode and "libFuzzer" not in output):
        raise SystemExit(f"{name}: the fuzzer did not run:\n{output[-4000:]}")
    if done.returncode and not plant:
        print(output[-4000:])
    edges, features = max((tuple(map(int, pair)) for pair in _COVERAGE.findall(output)), default=(0, 0))
    return {
        "executions": int(executions[1]),
        "seconds": round(seconds, 1),
        "edges": edges,
        "features": features,
        "kept": len(inputs("corpus", name)) + len(inputs("regressions", name)),
        "crashes": int(done.returncode != 0),
    }


def _escaped(word: str) -> str:
    """A word as libFuzzer's dictionaries want it."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main()
