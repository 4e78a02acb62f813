"""How every command of the project speaks: an example in its help, and one line for whatever goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from node.exits import EXIT_FAILURE, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_OK
from topology.errors import InputError
from transport.errors import LocalError


class _OneLineErrors(click.Command):
    """Answers bad input with one line and status 2, a failing system with one line and status 1."""

    def main(  # type: ignore[override]  # click overloads it by what `standalone_mode` makes it return
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any
    ) -> Any:
        """Runs the command and ends the process, as click's own does; see there."""
        try:
            status = super().main(args, prog_name, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = EXIT_INPUT
        except click.UsageError as error:
            hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
            status = self._fail(f"{error.format_message().rstrip('.')}{hint}", EXIT_INPUT)
        except (InputError, LocalError) as error:
            status = self._fail(str(error), EXIT_INPUT)
        except (OSError, MemoryError) as error:
            status = self._fail(str(error) or "out of memory", EXIT_FAILURE)
        except click.Abort:
            status = self._fail("interrupted; nothing written before is lost", EXIT_INTERRUPTED)
        sys.exit(status if isinstance(status, int) else EXIT_OK)

    def _fail(self, line: str, status: int) -> int:
        click.echo(f"{self.name}: error: {line}", err=True)
        return status


class Command(_OneLineErrors):
    """A command that stands alone."""


class Group(_OneLineErrors, click.Group):
    """A command with subcommands."""


def example(*lines: str) -> str:
    """An epilog whose lines click leaves as they are: the backspace asks for that."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])
