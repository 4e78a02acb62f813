"""Bugs put into a copy of the decoder, to see that the fuzzer finds them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import transport.wire

BUGS = {
    "no length check": ("if len(frame) != whole:", "if len(frame) < whole:"),
    "no digest check": ('if header["digest"] != digest:', "if False:"),
    "padding checked from one byte too late": (
        "if any(head[_PREAMBLE.size + header_bytes :]):",
        "if any(head[_PREAMBLE.size + header_bytes + 1 :]):",
    ),
    "integers allowed up to one too many": (
        "not 0 <= value <= MAX_INTEGER",
        "not 0 <= value <= MAX_INTEGER + 1",
    ),
}
"""Name -> what stands in transport/wire.py, and what stands in the copy."""


def plant(name: str) -> ModuleType:
    """A copy of transport.wire with that bug in it."""
    right, wrong = BUGS[name]
    source = Path(str(transport.wire.__file__)).read_text(encoding="utf-8")
    if right not in source:
        raise LookupError(
            f"transport/wire.py holds no {right!r} any more: give the bug {name!r} another place"
        )
    module = ModuleType("planted_wire")
    sys.modules[module.__name__] = module  # its dataclasses look themselves up there
    exec(compile(source.replace(right, wrong), "planted_wire", "exec"), vars(module))  # noqa: S102 - our own source
    return module
