"""Writes the tables of README.md and docs/ from the files in results/, between their markers.

    python benchmarks/tables.py [--check]

With --check nothing is written, and the exit status is 1 where a document does not hold what the results say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the project's is not

from benchmarks.answers import answers, compared, read_table  # noqa: E402 - needs the path
from benchmarks.goals import goals  # noqa: E402 - needs the path
from eval.table import VariantTable  # noqa: E402 - needs the path
from faults.verdicts import observation  # noqa: E402 - needs the path

RESULTS = ROOT / "results"
COMPARED_NOTE = (
    "Ours less theirs [95% by Student's t over seeds] (number of seeds), that of KID in percent of theirs; bold where Student's "
    "interval and the bootstrap's exclude 0. Below 0 the first of the pair is better, or its nodes more alike; of coverage, recall and classes "
    "covered, above 0."
)
GENERATORS = ("Generated", "Comparisons", "Work", "Collapsed")
"""What the page of results shows of a study's table where generators are what matters."""
READERS = {
    "decoder": "decoder of frames",
    "checkpoint": "checkpoints",
    "peers": "`peers.toml` and its settings",
    "graph-toml": "graphs, TOML",
    "graph-graphml": "graphs, GraphML",
    "graph-edges": "graphs, edge lists",
}


def main() -> None:
    """Rewrites the documents, or compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, tables in DOCUMENTS.items():
        document = ROOT / name
        text = filled = document.read_text(encoding="utf-8")
        for marker, table in tables.items():
            filled = fill(name, filled, marker, table())
        if check and filled != text:
            sys.exit(f"{name} does not hold what results/ says: run python benchmarks/tables.py")
        if not check:
            document.write_text(filled, encoding="utf-8")


def fill(document: str, text: str, name: str, table: str) -> str:
    """The text with `table` between the markers of that name."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(opening)
    _, found, after = rest.partition(closing)
    if not found:
        raise SystemExit(
            f"{document}: the markers {opening} and {closing} are missing; put them where the table goes"
        )
    return f"{before}{opening}\n{table}\n{closing}{after}"


def benchmark(section: str) -> str:
    """One section of the benchmarks: each figure with its range and its target, what it stands beside, and how it was made."""
    done = load("bench.json")[section]
    where = f"{processor(done['machine'])}, {done['machine']['cores']} processors, torch {done['machine']['torch']}"
    return f"{figures(done)}\n\n`{done['command']}` in {done['seconds']:.0f} s on {where}."


def figures(done: dict[str, Any]) -> str:
    """A row for each figure."""
    lines = ["| | measured | target | beside |", "|---|---|---|---|"]
    lines += [
        f"| {found['what']} | {measured(found)} | {target(found)} | {found['beside']} |"
        for found in done["figures"]
    ]
    return "\n".join(lines)


def measured(found: dict[str, Any]) -> str:
    """The median, and the range of the rounds."""
    spread = f" ({found['lowest']:.3g} - {found['highest']:.3g})" if found["rounds"] > 1 else ""
    return f"{found['value']:.3g} {found['unit']}".rstrip() + spread


def target(found: dict[str, Any]) -> str:
    """What it is meant to reach, and whether it does."""
    if found["target"] is None:
        return ""
    sign = "≥" if found["at_least"] else "≤"
    return f"{sign} {found['target']:g}{'' if found['met'] else ', **missed**'}"


def equality(file: str) -> str:
    """bfloat16 against float32 in what a training ends with."""
    done = load(file) if (RESULTS / file).exists() else {}
    found = done.get("found")
    if not found:
        return "Not measured yet."
    settings = done["settings"]
    lines = ["| | float32 | bfloat16 | difference, 95% interval | limit | |", "|---|---|---|---|---|---|"]
    for name, key, unit in (("probe", "probe_points", "points"), ("kid", "kid_percent", "%")):
        gap, means = found[key], [found["means"][precision][name] for precision in ("float32", "bfloat16")]
        what = {"probe": "probe's error, RBF kernel, %", "kid": "KID against the test images"}[name]
        verdict = "within" if gap["within"] else "**not shown**"
        lines.append(
            f"| {what} | {means[0]:.3f} | {means[1]:.3f} | {gap['mean']:+.3f} {unit} ({gap['low']:+.3f} to {gap['high']:+.3f}) "
            f"| ±{gap['limit']:g} {unit} | {verdict} |"
        )
    told = f"{found['seeds']} seeds, {found['probed']} of them probed, {settings['epochs']} epochs of {settings['images']:,} images a node"
    machines = {processor(pair["machine"]) for pair in done["pairs"]}
    on_gpu = sum("gpu" in pair["machine"] for pair in done["pairs"])
    how = (
        f"{on_gpu} of them on a GPU"
        if "--subject payload" in done["command"]
        else f"{found['computed']} of them where bfloat16 is computed in, the others rounded alike"
    )
    return "\n".join([*lines, "", f"{told}; {how}. `{done['command']}` on {', '.join(sorted(machines))}."])


def processor(machine: dict[str, Any]) -> str:
    """Its name, and what it computes with where that was looked at."""
    if "gpu" in machine:
        return str(machine["gpu"])
    known = machine.get("instructions")
    return f"{machine['processor']} ({known})" if known else str(machine["processor"])


def gpu() -> str:
    """What was measured on a GPU, and on which."""
    done = load("bench-gpu.json")
    machine = done["machine"]
    return f"{figures(done)}\n\n`{done['command']}` on an {machine['gpu']}, torch {machine['torch']}."


def costs() -> str:
    """Every figure of the benchmarks that has a target."""
    lines = ["| | measured | target |", "|---|---|---|"]
    for done in load("bench.json").values():
        lines += [
            f"| {found['what']} | {measured(found)} | {target(found)} |"
            for found in done["figures"]
            if found["target"] is not None
        ]
    return "\n".join(lines)


def containers() -> str:
    """The image, the start and the memory of a cluster of containers."""
    result = load("containers.json")
    image, start, memory = result["image"], result["start"], result["memory"]
    spread = f"{start['ratio_lowest']:.2f} - {start['ratio_highest']:.2f}"
    lines = [
        "| | measured | beside |",
        "|---|---|---|",
        f"| image | {image['size_mb']:.0f} MB: base {image['base_mb']:.0f} MB, dgan and what it needs {image['added_mb']:.0f} MB | PyTorch alone, {image['torch_mb']:.0f} MB |",
        f"| `up` to the moment when every node has a snapshot of both neighbours | {start['cluster_s']:.1f} s | `dgan-launch run`, {start['processes_s']:.1f} s; ratio {start['ratio']:.2f} ({spread}) |",
    ]
    for preset, what in (("quick", "8x8 digits"), ("paper", "10,000 images of 20x20")):
        node = memory[preset]
        lines.append(
            f"| memory of a node's container, `{preset}` preset, {what} | {node['largest_mb']:.0f} MB | a container that only imports torch, {memory['import_torch_mb']:.0f} MB; ratio {node['ratio']:.2f} |"
        )
    lines.append(
        f"| memory of the evaluator while it waits | {memory['quick']['evaluator_waiting_mb']:.0f} MB | |"
    )
    return "\n".join(lines)


def fuzz() -> str:
    """Executions and crashes of every fuzzed reader."""
    lines = [
        "| what reads the bytes | executions | edges reached | kept inputs | failures |",
        "|---|---|---|---|---|",
    ]
    for name, target in load("fuzz.json")["targets"].items():
        lines.append(
            f"| {READERS[name]} | {target['executions']:,} | {target['edges']} | {target['kept']} | {target['crashes']} |"
        )
    return "\n".join(lines)


def fuzz_planted() -> str:
    """After how many executions each planted bug was found."""
    lines = ["| planted bug | found after, executions | limit |", "|---|---|---|"]
    for name, bug in load("fuzz.json")["planted"].items():
        found = f"{bug['executions']:,}" if bug["found"] else "not found"
        lines.append(f"| {name} | {found} | {bug['limit']:,} |")
    return "\n".join(lines)


def faults(name: str) -> str:
    """Every fault, what was done, what was seen beside its limit."""
    lines = ["| # | fault | injected | observed (limit) | |", "|---|---|---|---|---|"]
    for row in load(name)["rows"]:
        if "skipped" in row:
            seen, verdict = row["skipped"], "skipped"
        else:
            seen = "<br>".join(str(observation(each)) for each in row["observed"])
            verdict = "pass" if row["passed"] else "**fail**"
        lines.append(f"| {row['row']} | {row['fault']} | {row['injected']} | {seen} | {verdict} |")
    done = load(name)
    passed = sum(bool(row.get("passed")) for row in done["rows"])
    return "\n".join(
        [
            *lines,
            "",
            f"{passed} of {len(done['rows'])} pass. Last run: `{done['command']}`.",
        ]
    )


def coverage() -> str:
    """Branches of each package that a test takes."""
    lines = ["| | branches | covered | limit |", "|---|---|---|---|"]
    for name, counts in load("coverage.json")["packages"].items():
        label = "all together" if name == "all" else f"`{name}`"
        limit = f"{counts['limit']:.0f}%" if counts["limit"] else ""
        lines.append(
            f"| {label} | {counts['covered_branches']} of {counts['branches']} | {counts['percent']:.1f}% | {limit} |"
        )
    return "\n".join(lines)


def study(name: str, *headings: str, results: str = "../results") -> str:
    """Sections of a study's table, under the headings that begin so, of every variant; `results` as the document links to it.

    Comparisons take a row for each figure of each pair there, and one for each pair here.
    """
    path, table = RESULTS / name / "table.md", read_table(RESULTS, name)
    if table is None or not path.exists():
        return f"Not measured yet: `make study STUDY={name} DATA=path/to/mnist`."
    title, *parts = path.read_text(encoding="utf-8").split("\n## ")
    told = {part.split("\n", 1)[0]: part.split("\n### ")[1:] for part in parts}
    shown = [title.split("\n", 1)[1].strip()]
    measured = [variant for variant in table.variants if variant.scores]
    for variant in measured:
        shown += [f"**{variant.variant}**"] if len(measured) > 1 else []
        sections = [
            each for heading in headings for each in told[variant.variant] if each.startswith(heading)
        ]
        shown += [_section(each, variant) for each in sections]
    cut = "\n\n".join([*shown, f"All of it: [results/{name}/table.md](table.md)."])
    return re.sub(r"\]\(([\w.-]+)\)", rf"]({results}/{name}/\1)", cut)


def _section(text: str, variant: VariantTable) -> str:
    title, rest = text.split("\n", 1)
    if title.startswith("Comparisons"):
        rest = "\n".join([compared(variant), "", COMPARED_NOTE])
    return f"**{title}**\n\n{rest.strip()}"


def load(name: str) -> Any:
    """A file of results/."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


DOCUMENTS: dict[str, Mapping[str, Callable[[], str]]] = {
    "CONTRIBUTING.md": {"coverage": coverage},
    "README.md": {
        "table1": partial(study, "table1", "Error in %, trained D", results="results"),
        "costs": costs,
    },
    "docs/docker.md": {"containers": containers},
    "docs/reliability.md": {
        "faults": lambda: faults("faults.json"),
        "soak": lambda: faults("soak.json"),
    },
    "docs/performance.md": {
        section: partial(benchmark, section)
        for section in ("training", "cooperation", "exchange", "scale", "probe")
    }
    | {name: partial(equality, f"{name}.json") for name in ("equality", "equality-payload")}
    | {"gpu": gpu},
    "docs/results.md": {"answers": lambda: answers(RESULTS), "goals": lambda: goals(RESULTS)}
    | {
        name: partial(study, name, *sections)
        for name, sections in {
            "table1": (
                "Error in %, trained D",
                "Error in %, every kind",
                "Error in % without",
                "Targets",
                "Generated",
                "Comparisons",
                "Work",
                "Collapsed",
                "Where",
            ),
            "averaged": ("Error in %, every kind", *GENERATORS),
            "best": ("Error in %, every kind", "Error in % without", "Targets", *GENERATORS),
            "few": ("Error in %, every kind", *GENERATORS),
            "controls": GENERATORS,
            "selection": GENERATORS,
            "skewed": GENERATORS,
            "finalists": GENERATORS,
            "dirichlet": GENERATORS,
        }.items()
    },
    "docs/protocol.md": {"fuzz": fuzz, "fuzz-planted": fuzz_planted},
}
"""Document -> marker -> what makes the table between its markers."""


if __name__ == "__main__":
    main()
