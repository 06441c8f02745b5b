"""Number types that name option, bound and value; bundles that hand the command what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import click.testing
import pytest

from atom_plugin.cli.command import RenamedOption, gathered, is_given
from atom_plugin.cli.options import (
    FRACTION,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    SEED,
    Number,
    force_option,
    json_option,
    key_value_pairs,
    run_options,
)
from atom_plugin.cli.source_options import source_options
from atom_plugin.cli.training_options import compared_training_options, training_options
from atom_plugin.datasets import SourceRequest
from atom_plugin.evaluation.training_recipes import RECIPES, SCHEDULES, TrainConfig


def run(options: Any, *args: str) -> dict[str, Any]:
    """The keyword arguments that a command with these options gets."""
    got: dict[str, Any] = {}
    click.command()(options(lambda **kwargs: got.update(kwargs))).main(list(args), standalone_mode=False)
    return got


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (POSITIVE_INT, "0", "--ipc must be at least 1, not 0"),
        (POSITIVE_INT, "-3", "--ipc must be at least 1, not -3"),
        (POSITIVE_INT, "ten", "--ipc must be a whole number, not 'ten'"),
        (POSITIVE_INT, "1.5", "--ipc must be a whole number, not '1.5'"),
        (POSITIVE_INT, "", "--ipc must be a whole number, not ''"),
        (POSITIVE_FLOAT, "0", "--ipc must be above 0, not 0"),
        (POSITIVE_FLOAT, "nan", "--ipc must be above 0, not nan"),
        (POSITIVE_FLOAT, "inf", "--ipc must be finite in float32, not inf"),
        (POSITIVE_FLOAT, "much", "--ipc must be a number, not 'much'"),
        (POSITIVE_FLOAT, "1e300", "--ipc must be finite in float32, not 1e300"),
        (POSITIVE_INT, "3000000000", "--ipc must be at most 2,147,483,647, not 3000000000"),
        (POSITIVE_INT, "9" * 400, f"--ipc must be at most 2,147,483,647, not {'9' * 79}…"),
        (POSITIVE_INT, "9" * 5000, f"--ipc must be at most 2,147,483,647, not {'9' * 79}…"),
        (POSITIVE_INT, "-" + "9" * 5000, f"--ipc must be at least 1, not -{'9' * 78}…"),
        (POSITIVE_INT, "x" * 5000, f"--ipc must be a whole number, not '{'x' * 79}…"),
        (SEED, "9" * 5000, f"--ipc must be at least 0 and at most 9,223,372,036,854,775,807, not {'9' * 79}…"),
        (FRACTION, "1", "--ipc must be above 0 and below 1, not 1"),
        (FRACTION, "0", "--ipc must be above 0 and below 1, not 0"),
        (SEED, "-1", "--ipc must be at least 0 and at most 9,223,372,036,854,775,807, not -1"),
        (SEED, str(2**63), f"--ipc must be at least 0 and at most 9,223,372,036,854,775,807, not {2**63}"),
        (Number(float), "nan", "--ipc must be finite in float32, not nan"),
    ],
)
def test_a_number_out_of_bounds_names_option_bound_and_value(kind: Number, text: str, words: str) -> None:
    with pytest.raises(click.UsageError) as error:
        run(click.option("-i", "--ipc", type=kind), "--ipc", text)
    assert error.value.format_message() == words


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (POSITIVE_INT, "1", 1),
        (POSITIVE_FLOAT, "1e-6", 1e-6),
        (FRACTION, "0.5", 0.5),
        (SEED, "0", 0),
        (SEED, str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_number_within_bounds_is_kept_exactly(kind: Number, text: str, value: float) -> None:
    got = run(click.option("--ipc", type=kind), "--ipc", text)["ipc"]
    assert got == value
    assert type(got) is type(value)


def test_source_options_default_to_the_embedded_digits_and_the_requests_own_defaults() -> None:
    assert run(source_options) == {"dataset": "digits", "request": SourceRequest(progress=True)}


def test_source_options_all_reach_the_request(tmp_path: Path) -> None:
    options = {
        "--dataset": "folder",
        "--data-dir": str(tmp_path),
        "--image-size": "32",
        "--test-fraction": "0.3",
        "--split-seed": "7",
        "--cache-dir": str(tmp_path / "cache"),
        "--workers": "2",
    }
    got = run(source_options, "--download", *(word for pair in options.items() for word in pair))
    assert got["dataset"] == "folder"
    assert got["request"] == SourceRequest(
        data_dir=tmp_path,
        image_size=32,
        download=True,
        seed=7,
        test_fraction=0.3,
        cache_dir=tmp_path / "cache",
        workers=2,
        progress=True,
    )


def test_quiet_silences_the_sources_progress_too() -> None:
    got = run(lambda command: source_options(run_options(command)), "--quiet")
    assert got["quiet"] is True
    assert got["request"].progress is False


def test_run_force_and_json_options_hand_over_their_names() -> None:
    got = run(lambda command: run_options(force_option(json_option(command))), "--seed", "3", "--json", "--force")
    assert got == {
        "seed": 3,
        "device": "auto",
        "precision": "auto",
        "quiet": False,
        "as_json": True,
        "force": True,
    }


def test_help_lists_a_bundle_in_its_order() -> None:
    command = click.command()(run_options(lambda **_: None))
    assert [option.name for option in command.params] == ["seed", "device", "precision", "quiet"]


def test_a_default_that_is_repeated_counts_as_given() -> None:
    @click.command()
    @click.option("--seed", default=0)
    @click.pass_context
    def command(ctx: click.Context, seed: int) -> bool:
        return is_given(ctx, "seed")

    assert command.main(["--seed", "0"], standalone_mode=False) is True
    assert command.main([], standalone_mode=False) is False


def test_a_training_starts_from_its_recipe_and_takes_what_is_given() -> None:
    assert run(training_options) == {"training": TrainConfig(), "normalisation": None}
    got = run(training_options, "--training-recipe", "modern", "--epochs", "3", "--augmentation", "none")
    assert got["training"] == TrainConfig.from_recipe("modern", epochs=3, augmentation="none")
    got = run(training_options, "--training-recipe", "packed", "--schedule", "half", "--cutmix", "0")
    assert got["training"] == TrainConfig.from_recipe("packed", schedule="half", cutmix=0.0)
    with pytest.raises(click.UsageError, match=r"--cutmix must be .*, not 1\.5"):
        run(training_options, "--cutmix", "1.5")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_be_asked_for(schedule: str) -> None:
    assert run(training_options, "--schedule", schedule)["training"] == TrainConfig(schedule=schedule)


def test_augmentations_joined_by_commas_are_a_training_each() -> None:
    assert run(compared_training_options) == {"trainings": [TrainConfig()], "normalisation": None}
    got = run(compared_training_options, "--epochs", "3", "--augmentation", "siamese, none")
    assert got["trainings"] == [TrainConfig(epochs=3), TrainConfig(epochs=3, augmentation="none")]


def test_the_help_names_every_training_recipe() -> None:
    text = click.testing.CliRunner().invoke(click.command()(training_options(lambda **_: None)), "--help").output
    assert [name for name in RECIPES if name not in text] == []


def test_an_old_name_of_an_option_is_taken_and_not_shown() -> None:
    option = click.option(
        "-n", "--new", cls=RenamedOption, old=("--much-longer-before",), type=POSITIVE_INT, help="It."
    )
    for name in ("-n", "--new", "--much-longer-before"):
        assert run(option, name, "3") == {"new": 3}
    with pytest.raises(click.UsageError, match="--new must be at least 1, not 0"):
        run(option, "--much-longer-before", "0")
    shown = click.testing.CliRunner().invoke(click.command()(option(lambda **kwargs: None)), ["--help"])
    assert "-n, --new" in shown.output
    assert "before" not in shown.output


@dataclass(frozen=True, kw_only=True)
class Both:
    seed: int
    force: bool


def test_options_that_are_fields_come_as_one_argument() -> None:
    def both(command: Any) -> Any:
        return run_options(force_option(gathered("both", Both)(command)))

    got = run(both, "--seed", "4", "--force")
    assert got == {"both": Both(seed=4, force=True), "device": "auto", "precision": "auto", "quiet": False}


PAIRS = click.option("--option", multiple=True, callback=key_value_pairs)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("a=1", 1),
        ("a=true", True),
        ("a=x,y", "x,y"),
        ('a={"b": [1]}', {"b": [1]}),
        ("a=[", "["),
        ("a=", ""),
        ("a==", "="),
    ],
)
def test_a_value_that_is_json_is_read_as_such_and_any_other_is_text(given: str, value: Any) -> None:
    assert run(PAIRS, "--option", given) == {"option": {"a": value}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a=" + "[" * 900 + "]" * 900, "--option a: found values nested"),
        ("a=" + "[" * 100_000, "--option a: found values nested"),
        ("a=1e999", "--option a: found the number inf"),
        ("a=NaN", "--option a: found the number NaN"),
        ("a=" + "9" * 5000, "--option a: found a whole number of 5000 digits"),
        ("a", "--option must be KEY=VALUE, not 'a'"),
        ("=1", "--option must be KEY=VALUE, not '=1'"),
    ],
)
def test_a_value_that_is_out_of_bounds_is_refused(given: str, words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        run(PAIRS, "--option", given)


def renamed(command: Any) -> Any:
    return click.option("--new-name", cls=RenamedOption, old=("--old-name",), type=POSITIVE_INT, help="A number.")(
        command
    )


def test_both_names_at_once_are_refused_and_help_shows_todays() -> None:
    with pytest.raises(click.UsageError, match="--new-name was called --old-name before"):
        run(renamed, "--old-name", "3", "--new-name", "3")
    text = click.testing.CliRunner().invoke(click.command()(renamed(lambda **_: None)), "--help").output
    assert "--new-name" in text
    assert "--old-name" not in text


def test_a_value_under_a_former_name_counts_as_given() -> None:
    @click.command()
    @renamed
    @click.pass_context
    def command(ctx: click.Context, new_name: int) -> bool:
        return is_given(ctx, "new_name")

    assert command.main(["--old-name", "3"], standalone_mode=False) is True
    assert command.main([], standalone_mode=False) is False
