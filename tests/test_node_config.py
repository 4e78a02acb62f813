"""Settings: presets, layers, refusals in one line."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

from node.config import PRESETS, Settings, parse_assignments, resolve
from topology.errors import InputError


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_and_names_itself(preset: str) -> None:
    """The preset files hold only known keys and allowed values."""
    assert resolve("test", {"preset": preset}).preset == preset


def test_the_paper_preset_keeps_the_constraints_of_the_paper() -> None:
    """P8-P11: 20x20, 10,000 images, SGD and Adam as given, label noise 0.2, P = 0.5, fewer than 80 epochs."""
    settings = resolve("test", {"preset": "paper"})
    assert (settings.image.size, settings.image.channels) == (20, 1)
    assert settings.split.images_per_node == 10_000
    assert settings.discriminator.label_noise == 0.2
    assert settings.cooperation.consider_probability == 0.5
    assert settings.cooperation.criterion == "eq6"
    assert settings.epochs < 80
    assert settings.architecture["paper"].latent_size == 100


def test_later_layers_win_over_earlier_ones_and_over_the_preset() -> None:
    """Only the named keys of a table change."""
    settings = resolve(
        "test", {"preset": "paper", "discriminator": {"momentum": 0.5}}, {"discriminator": {"momentum": 0.7}}
    )
    assert settings.discriminator.momentum == 0.7
    assert settings.discriminator.max_steps == 2


def test_settings_survive_a_round_trip_through_toml() -> None:
    """The resolved copy that is saved with a run resolves to the same settings."""
    settings = resolve(
        "test", {"preset": "best"}, parse_assignments(("architecture.mine.slope=0.1", "seed=7"))
    )
    assert resolve("test", tomllib.loads(settings.to_toml())) == settings


def test_a_new_architecture_joins_the_built_in_ones() -> None:
    """`architecture.NAME` adds to the registry and fills in what is left out."""
    settings = resolve("test", parse_assignments(("architecture.mine.discriminator_widths=[8, 8]",)))
    assert settings.architecture["mine"].discriminator_widths == (8, 8)
    assert {"paper", "wide", "light", "mine"} <= set(settings.architecture)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("discriminator.learning_rat=1", ("discriminator.learning_rat", "discriminator.learning_rate?")),
        ("polcy=alone", ("polcy", "policy?")),
        ("architecture.paper.slop=1", ("architecture.paper.slop", "architecture.paper.slope?")),
        ("image.size=5", ("size = 5", "8 to 64")),
        ("image.size=70", ("image.size = 70", "64")),
        ("image.channels=2", ("image.channels = 2", "1 or 3")),
        ("epochs=many", ("epochs = 'many'", "integer")),
        ("preset=papper", ("papper", "quick, paper, best")),
        ("architecture.paper.generator_widths=[0]", ("generator_widths = [0]", "at least 1")),
        ("discriminator.learning_rate=inf", ("discriminator.learning_rate = inf", "finite")),
        ("split.shares=[1.0, nan]", ("split.shares.1 = nan", "finite")),
        ("checkpoint.keep_epochs=[0, 3]", ("epoch 0", "1 to 200")),
        ("training.device=tpu", ("training.device = 'tpu'", "cuda")),
    ],
)
def test_a_wrong_setting_is_one_line_with_field_value_and_mend(word: str, parts: tuple[str, ...]) -> None:
    """The line also names the place it came from."""
    with pytest.raises(InputError) as caught:
        resolve("peers.toml", parse_assignments((word,)))
    line = str(caught.value)
    assert line.startswith("peers.toml: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_every_epoch_of_the_run_may_be_kept() -> None:
    """From the first to the last."""
    settings = resolve("test", parse_assignments(("epochs=7", "checkpoint.keep_epochs=[1, 7]")))
    assert settings.checkpoint.keep_epochs == (1, 7)


@pytest.mark.parametrize("word", ["seed", "=3", "split..alpha=1"])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    """The word is named."""
    with pytest.raises(InputError, match=r"section\.key=value"):
        parse_assignments((word,))


def test_values_are_read_as_toml_and_bare_words_as_text() -> None:
    """So that lists and numbers need no quoting and names neither."""
    layer = parse_assignments(("policy=alone", "seed=3", "split.shares=[1.0, 2.0]", "lockstep=true"))
    assert layer == {"policy": "alone", "seed": 3, "split": {"shares": [1.0, 2.0]}, "lockstep": True}


def test_settings_are_frozen() -> None:
    """A run's settings cannot change while it runs."""
    with pytest.raises(ValidationError):
        Settings().seed = 1  # type: ignore[misc]  # assigning is what must fail
