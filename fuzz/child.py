"""One fuzzer: python -m fuzz.child TARGET FOLDER [--plant NAME] [flags and folders of libFuzzer]. It needs atheris."""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import types
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # it publishes neither inline types nor stubs


def main() -> None:
    """Fuzzes until the executions that were asked for are done or an exception leaves the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plant")
    options, rest = parser.parse_known_args()
    with atheris.instrument_imports(include=MODULES, enable_loader_override=False):
        from fuzz.targets import TARGETS, decoder  # noqa: PLC0415 - what is imported here is instrumented

        # The rest is imported by the targets when they first run, which would be too late to be instrumented.
        for module in LOADED.get(options.target, FILES):
            importlib.import_module(module)
    fuzzed = TARGETS[options.target]
    run = fuzzed.run
    if options.plant:
        from fuzz.planted import plant  # noqa: PLC0415 - only where it is asked for

        changed = plant(options.plant)
        for each in vars(changed).values():
            if isinstance(each, types.FunctionType) and each.__module__ == changed.__name__:
                atheris.instrument_func(each)
        run = decoder(changed)

    def one_input(data: bytes) -> None:
        run(data, options.folder)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return fuzzed.mutator(bytes(data), max_size, random.Random(seed), atheris.Mutate)

    atheris.Setup([sys.argv[0], *rest], one_input, custom_mutator=mutator)
    atheris.Fuzz()


MODULES = ["transport", "topology", "node", "tomllib", "networkx.readwrite", "safetensors", "json"]
"""What coverage is counted in."""
FILES = ("topology.files", "topology.peers", "node.config", "networkx.readwrite")
"""What the readers of files import; the last one is loaded lazily elsewhere."""
LOADED: dict[str, tuple[str, ...]] = {"decoder": (), "checkpoint": ("node.checkpoint",)}

if __name__ == "__main__":
    main()
