"""Options that commands share: from the command line, from environment variables, and whose mistake is whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from launcher.options import DATA, RUN_SETTINGS, read_settings, takes
from node.cli import Command

VARIABLES = (
    "DGAN_DATA",
    "DGAN_POLICY",
    "DGAN_PRESET",
    "DGAN_EPOCHS",
    "DGAN_SEED",
    "DGAN_LOCKSTEP",
    "DGAN_SET",
)


@click.command("test", cls=Command)
@takes(DATA, *RUN_SETTINGS)
def command(**options: Any) -> None:
    """Prints the settings, and the data set with them."""
    settings = read_settings(options).model_dump(mode="json")
    click.echo(json.dumps(settings | {"data": options["data"]}))


def call(*arguments: str, **variables: str) -> Result:
    """The command with these variables; those of the environment outside do not count."""
    return CliRunner().invoke(command, arguments, env={**dict.fromkeys(VARIABLES), **variables})


def asked(*arguments: str, **variables: str) -> dict[str, Any]:
    """What the command makes of arguments and variables."""
    result = call(*arguments, **variables)
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize(
    ("variable", "value", "options"),
    [
        ("DGAN_DATA", "mnist", ["--data", "mnist"]),
        ("DGAN_POLICY", "alone", ["--policy", "alone"]),
        ("DGAN_PRESET", "paper", ["--preset", "paper"]),
        ("DGAN_EPOCHS", "9", ["--epochs", "9"]),
        ("DGAN_SEED", "9", ["--seed", "9"]),
        ("DGAN_LOCKSTEP", "true", ["--lockstep"]),
        ("DGAN_LOCKSTEP", "1", ["--lockstep"]),
        ("DGAN_LOCKSTEP", "false", []),
        ("DGAN_LOCKSTEP", "0", []),
        ("DGAN_SET", "epochs=9", ["--set", "epochs=9"]),
        ("DGAN_SET", " epochs=9  seed=8 ", ["--set", "epochs=9", "--set", "seed=8"]),
    ],
)
def test_a_variable_stands_for_its_option(variable: str, value: str, options: list[str]) -> None:
    """DGAN_SET takes several settings, parted by spaces; nothing else changes."""
    found = asked(**{variable: value})
    assert found == asked(*options)
    assert (found == asked()) is (not options)


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_variable_counts_as_not_given(variable: str) -> None:
    """A compose file hands every variable on, set or not."""
    assert asked(**{variable: ""}) == asked()
    options = ("--data", "mnist", "--policy", "alone", "--preset", "paper", "--epochs", "3", "--lockstep")
    assert asked(*options, **{variable: ""}) == asked(*options)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("DGAN_POLICY", "none", "(env var: 'DGAN_POLICY'): 'none' is not one of 'alone',"),
        ("DGAN_PRESET", "fast", "(env var: 'DGAN_PRESET'): 'fast' is not one of 'quick',"),
        ("DGAN_EPOCHS", "ten", "(env var: 'DGAN_EPOCHS'): 'ten' is not a valid integer"),
        ("DGAN_EPOCHS", "0", "DGAN_EPOCHS: epochs = 0; "),
        ("DGAN_SEED", "1.5", "(env var: 'DGAN_SEED'): '1.5' is not a valid integer"),
        ("DGAN_SEED", "-1", "DGAN_SEED: seed = -1; "),
        ("DGAN_LOCKSTEP", "perhaps", "(env var: 'DGAN_LOCKSTEP'): 'perhaps' is not a valid boolean"),
        ("DGAN_SET", "epochs", "DGAN_SET: 'epochs' is no assignment; section.key=value"),
        ("DGAN_SET", "epochs=3 =4", "DGAN_SET: '=4' is no assignment; section.key=value"),
        ("DGAN_SET", "epochs=0", "DGAN_SET: epochs = 0; "),
        ("DGAN_SET", "training.treads=2", "DGAN_SET: unknown setting training.treads; did you mean"),
    ],
)
def test_a_wrong_variable_is_one_line_that_names_it(variable: str, value: str, line: str) -> None:
    """Nobody would look for it in the options of a command that has none."""
    result = call(**{variable: value})
    assert result.exit_code == 2
    (told,) = result.stderr.splitlines()
    assert told.startswith("test: error: ")
    assert line in told


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        (["--data", "digits"], {"DGAN_DATA": "mnist"}, {"data": "digits"}),
        (["--policy", "uniform"], {"DGAN_POLICY": "alone"}, {"policy": "uniform"}),
        (["--preset", "quick"], {"DGAN_PRESET": "paper"}, {"preset": "quick"}),
        (["--epochs", "3"], {"DGAN_EPOCHS": "9"}, {"epochs": 3}),
        (["--epochs", "3"], {"DGAN_EPOCHS": "ten"}, {"epochs": 3}),
        (["--seed", "0"], {"DGAN_SEED": "9"}, {"seed": 0}),
        (["--lockstep"], {"DGAN_LOCKSTEP": "0"}, {"lockstep": True}),
        (["--set", "seed=3"], {"DGAN_SET": "seed=9 epochs=9"}, {"seed": 3}),
        (["--set", "epochs=3"], {"DGAN_EPOCHS": "9"}, {"epochs": 3}),
    ],
)
def test_the_command_line_wins_over_the_environment(
    options: list[str], variables: dict[str, str], expected: dict[str, Any]
) -> None:
    """An option given makes its variable count as not given, however wrong that is."""
    assert asked(*options, **variables) == asked() | expected


def test_a_mistake_on_the_command_line_is_not_blamed_on_a_variable() -> None:
    """Though the variable is set as well."""
    told = call("--epochs", "0", DGAN_EPOCHS="3", DGAN_SEED="3").stderr
    assert told.startswith("test: error: command line: epochs = 0; ")
    assert call("--set", "x", DGAN_SET="seed=3").stderr.startswith("test: error: --set: 'x' is no assignment")
    # The other way round: a variable's mistake beside an option that is right.
    assert call("--seed", "3", DGAN_EPOCHS="0").stderr.startswith("test: error: DGAN_EPOCHS: epochs = 0; ")


def test_a_variable_wins_over_the_settings_file(tmp_path: Path) -> None:
    """As its option would; 0 is a seed as any other."""
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\nseed = 7\npolicy = 'alone'\n")
    found = asked("--settings", str(path), DGAN_EPOCHS="8", DGAN_SEED="0")
    assert (found["epochs"], found["seed"], found["policy"]) == (8, 0, "alone")
    path.write_text("epochs = 0\n")
    assert call("--settings", str(path), DGAN_SEED="8").stderr.startswith(
        f"test: error: {path}: epochs = 0; "
    )


def test_the_help_names_every_variable() -> None:
    """Beside its option."""
    help_text = call("--help").stdout
    assert all(f"env var: {variable}" in " ".join(help_text.split()) for variable in VARIABLES)
