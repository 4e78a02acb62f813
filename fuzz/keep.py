"""Takes into the corpus what reaches something new: python -m fuzz.keep TARGET [FOLDER]; a campaign fills the folder.

An input stays if it reaches a line of our code, or of networkx or safetensors beneath it, that no smaller one reaches.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.campaign import FOUND
from fuzz.targets import HERE, TARGETS, Target, inputs

MARKS = ("/transport/", "/topology/", "/node/", "/networkx/readwrite/", "/safetensors/")
LARGEST_BYTES = 3000

Line = tuple[str, int]


def main() -> None:
    """Copies the inputs worth keeping."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    run, seen = TARGETS[options.target].run, set[Line]()
    corpus = HERE / "corpus" / options.target
    with tempfile.TemporaryDirectory() as name:
        run(b"", Path(name))  # what a first run imports is no news
        for path in inputs("corpus", options.target):
            seen |= lines(run, path.read_bytes(), Path(name))
        found = sorted(
            (options.folder or FOUND / options.target).iterdir(), key=lambda path: path.stat().st_size
        )
        for path in found:
            new = lines(run, path.read_bytes(), Path(name)) - seen
            if new and path.stat().st_size <= LARGEST_BYTES:
                seen |= new
                shutil.copyfile(path, corpus / path.name[:12])
                print(f"{path.name[:12]}: {path.stat().st_size} bytes, {len(new)} new lines")


def lines(run: Target, data: bytes, folder: Path) -> set[Line]:
    """The lines that an input reaches."""
    reached: set[Line] = set()

    def local(frame: FrameType, _event: str, _argument: Any) -> Any:
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def called(frame: FrameType, _event: str, _argument: Any) -> Any:
        return local if any(mark in frame.f_code.co_filename for mark in MARKS) else None

    sys.settrace(called)
    try:
        run(data, folder)
    finally:
        sys.settrace(None)
    return reached


if __name__ == "__main__":
    main()
