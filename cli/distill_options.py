"""The options of ``atom-cli distill``. Config options come from the config's fields; the recipe fills those not given."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from atom_plugin.cli.command import Command, OnlyWith, bundle, gathered
from atom_plugin.cli.field_options import field_options, given_fields
from atom_plugin.cli.options import FOLDER, POSITIVE_INT, force_option, key_value_pairs
from atom_plugin.cli.terminal import echo
from atom_plugin.distillation.config import FROM_SET, DistillConfig
from atom_plugin.models.convnet_choices import ConvNetChoices
from atom_plugin.runtime.settings import about, abouts

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData

_MATCHING = "Matching"
WITH_POOLING = OnlyWith("a --pooling", ("pool_size",), lambda values: values["pooling"] != "none")
"""For commands with the options of ConvNetChoices."""

WITH_VALIDATION = OnlyWith("--validation", ("evaluate_every",), lambda values: values["validation"] is not None)
"""For distill."""

_LISTS = {"--list-matchers": "matchers", "--list-recipes": "recipes"}


@dataclass(frozen=True, kw_only=True)
class MatcherOptions:
    """The matchers' options that have a command-line option; ``--matcher-option`` accepts any."""

    p_s: float | None = field(
        default=None,
        metadata=about("Exponent of the spatial attention maps, 1 or more.", group=_MATCHING, metavar="P", at_least=1),
    )
    p_c: float | None = field(
        default=None,
        metadata=about("Exponent of the channel attention maps, 1 or more.", group=_MATCHING, metavar="P", at_least=1),
    )
    task_balance: float | None = field(
        default=None,
        metadata=about("Weight of the loss between mean embeddings.", group=_MATCHING, metavar="WEIGHT", at_least=0),
    )
    loss_scale: float | None = field(
        default=None,
        metadata=about(
            "Factor on the matching loss; DataDAM's code uses 100, its paper 1.",
            group=_MATCHING,
            metavar="FACTOR",
            above=0,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The user's choices for a DistillConfig, in the form that :meth:`DistillConfig.from_recipe` takes."""

    fields: dict[str, Any]
    network: dict[str, Any]
    matcher_options: dict[str, Any]
    zca: bool | None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Chosen:
        """From the values of all options, by parameter. Raises UsageError if the images per class are missing."""
        if options["ipc"] is None:
            raise click.UsageError("--ipc is missing; say how many synthetic images per class you want, e.g. --ipc 10")
        return cls(
            fields=given_fields(DistillConfig, options),
            network=given_fields(ConvNetChoices, options),
            matcher_options={**options["matcher_option"], **given_fields(MatcherOptions, options)},
            zca=options["zca"],
        )

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        name: str = self.fields.get("recipe", "atom")
        return name

    @property
    def method(self) -> str:
        """The name in the set's file name, before the recipe is read."""
        name: str = self.fields.get("matcher", self.recipe)
        return name

    @property
    def files(self) -> list[Path]:
        """The files that the run reads in addition to its images."""
        start = str(self.fields.get("image_init", ""))
        named = [self.fields.get("extend"), self.fields.get("pool"), start.removeprefix(FROM_SET)]
        return [Path(name) for name in named[: 3 if start.startswith(FROM_SET) else 2] if name]

    def config(self, data: SourceData) -> DistillConfig:
        """The config for the images of ``data``; the recipe fills the rest."""
        return DistillConfig.from_recipe(
            **{"recipe": self.recipe, **self.fields},
            image_shape=data.image_shape,
            network=self.network,
            zca=self.zca,
            matcher_options=self.matcher_options,
        )


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a run records, and what happens to the files of an earlier run."""

    checkpoint_every: int
    preview_every: int | None
    evaluate_every: int | None
    tensorboard: Path | None
    tracker: tuple[str, ...]
    plot: bool
    resume: bool
    force: bool

    @property
    def trackers(self) -> list[str]:
        """The trackers that log the run, each as NAME:TARGET."""
        board = [] if self.tensorboard is None else [f"tensorboard:{self.tensorboard}"]
        return [*board, *self.tracker]

    @property
    def replaces(self) -> bool:
        """Whether pictures of an earlier run are overwritten."""
        return self.resume or self.force


def _list(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    if param.name == "list_matchers":
        from atom_plugin.matchers import MATCHERS

        rows = [(name, MATCHERS.describe(name)) for name in MATCHERS.names()]
    else:
        from atom_plugin.distillation.recipes import RECIPES

        rows = [(name, (recipe.__doc__ or "").partition("\n")[0]) for name, recipe in RECIPES.items()]
    width = max(len(name) for name, _ in rows)
    for name, line in rows:
        echo(f"{name:<{width}}  {line}")
    ctx.exit()


def zca_option(command: Command) -> Command:
    """``--zca/--no-zca``: the command gets ``zca``, None where it is not given."""
    return click.option(
        "--zca/--no-zca",
        default=None,
        help="Apply ZCA whitening after standardisation, with the recipe's eps or 0.1.  [default: the recipe's]",
    )(command)


def config_options(command: Command) -> Command:
    """The options that determine the set: the command gets ``chosen`` (Chosen)."""

    @functools.wraps(command)
    def with_chosen(*args: Any, **options: Any) -> Any:
        names = {name for kind in (DistillConfig, ConvNetChoices, MatcherOptions) for name in abouts(kind)}
        others = {name: options[name] for name in options if name not in names | {"zca", "matcher_option"}}
        return command(*args, chosen=Chosen.of(options), **others)

    return bundle(
        field_options(DistillConfig, first=("ipc", "recipe", "matcher"), default="the recipe's"),
        field_options(MatcherOptions, default="the recipe's"),
        click.option(
            "--matcher-option",
            metavar="KEY=VALUE",
            multiple=True,
            callback=key_value_pairs,
            help="Set any option of the matcher by name; may be repeated.",
        ),
        *(
            click.option(
                flag, is_flag=True, is_eager=True, expose_value=False, callback=_list, help=f"List the {what}."
            )
            for flag, what in _LISTS.items()
        ),
        zca_option,
        field_options(ConvNetChoices, default="the recipe's"),
    )(cast("Command", with_chosen))


def recording_options(command: Command) -> Command:
    """The options for checkpoints, logs and pictures: the command gets ``recording`` (Recording)."""

    return bundle(
        click.option(
            "--checkpoint-every",
            metavar="N",
            type=POSITIVE_INT,
            default=100,
            show_default=True,
            help="Steps between checkpoints.",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Continue a stopped run with the same options; start a new run if there is none.",
        ),
        click.option(
            "--preview-every", metavar="N", type=POSITIVE_INT, help="Write a picture of the current set every N steps."
        ),
        click.option(
            "--evaluate-every",
            metavar="N",
            type=POSITIVE_INT,
            help="Every N steps, train a network on the current set for 100 epochs and log its accuracy on the "
            "validation images.",
        ),
        click.option(
            "--tensorboard", metavar="FOLDER", type=FOLDER, help="Also write a log for TensorBoard to FOLDER."
        ),
        click.option(
            "--tracker",
            metavar="NAME[:TARGET]",
            multiple=True,
            help="Also log to a tracker of a plugin; TARGET is the tracker's folder, project or address. May be "
            "repeated.",
        ),
        click.option(
            "--plot", is_flag=True, help="Write a picture of the loss curve, and of the accuracy if it is measured."
        ),
        force_option,
    )(gathered("recording", Recording)(command))
