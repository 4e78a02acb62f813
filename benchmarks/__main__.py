"""Measures dgan against what a user would otherwise run, and against the limit.

    python -m benchmarks [--full] [--only training,exchange]

Every figure is a ratio, or stands beside what it is to be compared with, and comes from alternating rounds of one run.
Sections that are not asked for keep what the file of results says of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import cooperation, exchange, plot, probing, scale, training
from benchmarks.measure import Figure, machine
from benchmarks.provenance import ROOT, commit
from node.files import write_json

SECTIONS: dict[str, Callable[..., Iterator[Figure]]] = {
    "training": training.measure,
    "cooperation": cooperation.measure,
    "exchange": exchange.measure,
    "scale": scale.measure,
    "probe": probing.measure,
}


def main() -> None:
    """Measures, prints and writes the results."""
    options = _options()
    results = json.loads(options.output.read_bytes()) if options.output.exists() else {}
    for name in options.only:
        began_s, figures = time.monotonic(), []
        print(f"{name}:", flush=True)
        for found in SECTIONS[name](full=options.full):
            figures.append(found.as_json())
            print(f"  {line(figures[-1])}", flush=True)
        results[name] = {
            "command": f"make bench ONLY={name}" + (" FULL=1" if options.full else ""),
            "commit": commit(),
            "seconds": round(time.monotonic() - began_s, 1),
            "machine": machine(),
            "figures": figures,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.output, results)
        plot.draw(results)
        plot.draw_scale(results)


def line(found: dict[str, Any]) -> str:
    """A figure as it is printed."""
    target = ""
    if found["target"] is not None:
        sign = ">=" if found["at_least"] else "<="
        target = f" ({sign} {found['target']:g}{'' if found['met'] else ', MISSED'})"
    spread = f" [{found['lowest']:.3g} - {found['highest']:.3g}]" if found["rounds"] > 1 else ""
    beside = f"; {found['beside']}" if found["beside"] else ""
    return f"{found['what']}: {found['value']:.3g} {found['unit']}".rstrip() + f"{spread}{target}{beside}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more rounds, longer runs, more graphs")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(SECTIONS),
        help=f"some of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench.json")
    options = parser.parse_args()
    if unknown := sorted(set(options.only) - set(SECTIONS)):
        parser.error(f"--only: there is no {', '.join(unknown)}; right are {', '.join(SECTIONS)}")
    return options


if __name__ == "__main__":
    main()
