"""Options that several commands of `dgan-launch` share, each written once, and the settings that they amount to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from launcher.datasets import DATA_SETS
from launcher.prepare import settings_layer
from node.config import PRESETS, Settings, parse_assignments, resolve
from topology.errors import InputError

_COMMAND_LINE = "command line"
POLICIES = get_args(Settings.model_fields["policy"].annotation)

Command = Callable[..., None]
Parameter = Callable[[Command], Command]

GRAPH = click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH")
DATA = click.option(
    "--data",
    envvar="DGAN_DATA",
    default="digits",
    show_default=True,
    show_envvar=True,
    help=f"{', '.join(DATA_SETS)}, or a folder of images.",
)
_PRESET = click.option(
    "--preset",
    envvar="DGAN_PRESET",
    show_envvar=True,
    type=click.Choice(PRESETS),
    help="Settings to start from; quick when not given.",
)
_FILE = click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    help="TOML file of settings, under those given here.",
)
_SET = click.option(
    "--set",
    "assignments",
    envvar="DGAN_SET",
    show_envvar=True,
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="One setting; may be given often, wins over all.",
)
RUN_SETTINGS: Sequence[Parameter] = (
    click.option(
        "--policy",
        envvar="DGAN_POLICY",
        show_envvar=True,
        type=click.Choice(POLICIES),
        help="Whose discriminators a generator learns against.",
    ),
    _PRESET,
    click.option(
        "--epochs",
        envvar="DGAN_EPOCHS",
        show_envvar=True,
        type=int,
        help="Passes over each node's images.",
    ),
    click.option(
        "--seed",
        envvar="DGAN_SEED",
        show_envvar=True,
        type=int,
        help="Root of every random stream, of the split too.",
    ),
    click.option(
        "--lockstep",
        envvar="DGAN_LOCKSTEP",
        show_envvar=True,
        is_flag=True,
        help="Exchange in blocks, so that a run can be repeated bit for bit.",
    ),
    _FILE,
    _SET,
)
"""All that settles the training."""
IMAGE_SETTINGS: Sequence[Parameter] = (_PRESET, _FILE, _SET)
"""Where the size of the images and their channels may stand."""


def takes(*parameters: Parameter) -> Parameter:
    """Adds parameters to a command, in the order of its help."""

    def add(command: Command) -> Command:
        for parameter in reversed(parameters):
            command = parameter(command)
        return command

    return add


@contextmanager
def blaming_variables() -> Iterator[None]:
    """An error about a value that came from an environment variable names the variable instead of the option."""
    try:
        yield
    except InputError as error:
        field = error.problem.partition(" = ")[0]
        name = {"--data": "data", "--set": "assignments", _COMMAND_LINE: field}.get(error.where, "")
        context = click.get_current_context(silent=True)
        if context is None or context.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
            raise
        variable = next(str(option.envvar) for option in context.command.params if option.name == name)
        raise InputError(variable, error.problem, error.mend) from None


@blaming_variables()
def read_settings(options: Mapping[str, Any]) -> Settings:
    """The settings file, under the options, under `--set`; each place answers for its own mistakes.

    Args:
        options: What the command was given; options that it does not take count as not given.

    Raises:
        InputError: The file is missing or no TOML, a setting is unknown, or a value is out of bounds.
    """
    keys = ("preset", "policy", "epochs", "seed")
    named = {key: options[key] for key in keys if options.get(key) is not None}
    if options.get("lockstep"):
        named["lockstep"] = True
    file = options.get("settings_file")
    layers: list[dict[str, Any]] = []
    settings = Settings()
    for where, layer in (
        (file, settings_layer(file) if file else {}),
        (_COMMAND_LINE, named),
        ("--set", parse_assignments(options.get("assignments", ()))),
    ):
        layers.append(layer)
        settings = resolve(where or "", *layers)
    return settings
