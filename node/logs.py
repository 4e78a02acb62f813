"""Structured logs: JSON lines in the node's directory, and one readable line an event on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog


class _Tee:
    """Writes the event as JSON to a file and passes it on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        # A full disk must not end what the log only tells of.
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(event, default=str) + "\n")
            self._file.flush()
        return event


def open_log(file: TextIO, node_id: int, *, insecure: bool = False) -> structlog.typing.FilteringBoundLogger:
    """A logger whose every event carries the time, the level and the node.

    Args:
        file: Open log.jsonl; the caller closes it.
        node_id: This node.
        insecure: Whether every event carries `insecure=True`.
    """
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _Tee(file),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    return logger.bind(node=node_id, insecure=True) if insecure else logger.bind(node=node_id)
