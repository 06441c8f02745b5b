"""Options made from the fields of a config: type, choices, bounds, help and heading are the field's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import click
import click.testing
import pytest

from atom_plugin.cli.distill import distill
from atom_plugin.cli.distill_options import MatcherOptions
from atom_plugin.cli.field_options import field_options, given_fields
from atom_plugin.cli.headings import HEADINGS, heading
from atom_plugin.cli.select import select
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.matchers.attention import AttentionMatcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.convnet_choices import ConvNetChoices
from atom_plugin.runtime.settings import abouts


def parsed(config: type, *args: str) -> dict[str, Any]:
    got: dict[str, Any] = {}
    click.command()(field_options(config)(lambda **given: got.update(given))).main(list(args), standalone_mode=False)
    return given_fields(config, got)


@pytest.mark.parametrize(
    ("command", "config"),
    [(distill, DistillConfig), (distill, ConvNetConfig), (distill, MatcherOptions), (select, SelectConfig)],
)
def test_every_field_with_a_heading_is_an_option_with_its_help(command: click.Command, config: type) -> None:
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    for name, item in abouts(config).items():
        if item.group is None:
            continue
        assert (options[name].help or "").startswith(item.help)
        assert heading(options[name]) == item.group in HEADINGS
        if item.choices:
            assert isinstance(options[name].type, click.Choice)
            assert tuple(options[name].type.choices) == item.choices


def test_values_arrive_as_the_fields_take_them_and_what_is_not_given_does_not() -> None:
    assert parsed(DistillConfig) == {}
    given = {
        **{"--ipc": "2", "--image-lr": "0.5", "--zca-eps": "1e-6", "--image-init": "noise", "--memory-budget": "2GB"},
        **{"--seed": str(2**64 - 1), "--network-pool": "5"},
    }
    expected = {"ipc": 2, "image_lr": 0.5, "zca_eps": 1e-6, "image_init": "noise", "memory_budget": 2 * 10**9}
    words = [word for pair in given.items() for word in pair]
    assert parsed(DistillConfig, *words, "--no-standardise") == {
        **expected,
        **{"seed": 2**64 - 1, "network_pool": 5, "standardise": False},
    }
    assert parsed(ConvNetChoices, "--pool-size", "3", "--initialisation", "normal") == {
        "pool_size": 3,
        "weight_init": "normal",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ipc", "0"), "--ipc must be at least 1, not 0"),
        (("--image-momentum", "1"), "--image-momentum must be at least 0 and below 1, not 1"),
        (("--seed", str(2**64)), "--seed must be at least 0 and at most 18,446,744,073,709,551,615"),
        (("--forgetting-epochs", "1"), "--forgetting-epochs must be at least 2, not 1"),
        (("--image-schedule", "zeros"), "zeros"),
    ],
)
def test_bounds_are_those_of_the_field(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parsed(DistillConfig, *arguments)
    assert words in caught.value.format_message()


def test_matcher_options_with_a_name_are_those_of_attention() -> None:
    assert set(abouts(MatcherOptions)) <= set(AttentionMatcher.__dataclass_fields__)


@pytest.mark.parametrize("command", ["distill", "select"])
def test_help_has_headings_and_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from atom_plugin.cli.main import main; main(['{command}', '--help']); "
        "print([name for name in ('torch', 'numpy', 'h5py', 'kornia', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("[]\n")
    assert all(f"\n{title}:\n" in done.stdout for title in ("Data", "Images", "Output", "Machine"))
    assert "initialis" not in done.stdout
