"""The options of ``atom-cli distill``. What a config holds is made from its fields; the recipe fills what is not given."""

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
"""For commands that have the options of ConvNetChoices."""

WITH_VALIDATION = OnlyWith("--validation", ("evaluate_every",), lambda values: values["validation"] is not None)
"""For distill."""

_LISTS = {"--list-matchers": "matchers", "--list-recipes": "recipes"}


@dataclass(frozen=True, kw_only=True)
class MatcherOptions:
    """The options of matchers that have a name on the command line; ``--matcher-option`` gives any."""

    p_s: float | None = field(
        default=None, metadata=about("Power of spatial attention, 1 or more.", group=_MATCHING, metavar="P", at_least=1)
    )
    p_c: float | None = field(
        default=None, metadata=about("Power of channel attention, 1 or more.", group=_MATCHING, metavar="P", at_least=1)
    )
    task_balance: float | None = field(
        default=None,
        metadata=about("Weight of the mean-embedding term.", group=_MATCHING, metavar="WEIGHT", at_least=0),
    )
    loss_scale: float | None = field(
        default=None,
        metadata=about(
            "Factor on the loss: 100 in DataDAM's code, 1 in print.", group=_MATCHING, metavar="FACTOR", above=0
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the user chose of a DistillConfig, as :meth:`DistillConfig.from_recipe` takes it."""

    fields: dict[str, Any]
    network: dict[str, Any]
    matcher_options: dict[str, Any]
    zca: bool | None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Chosen:
        """From the values of all options, by parameter. Raises UsageError where the images per class are missing."""
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
        """What the set is called after, before the recipe is looked up."""
        name: str = self.fields.get("matcher", self.recipe)
        return name

    @property
    def files(self) -> list[Path]:
        """The files that the run reads beside its images."""
        start = str(self.fields.get("image_init", ""))
        named = [self.fields.get("extend"), self.fields.get("pool"), start.removeprefix(FROM_SET)]
        return [Path(name) for name in named[: 3 if start.startswith(FROM_SET) else 2] if name]

    def config(self, data: SourceData) -> DistillConfig:
        """For the images of ``data``, with the recipe's choices for the rest."""
        return DistillConfig.from_recipe(
            **{"recipe": self.recipe, **self.fields},
            image_shape=data.image_shape,
            network=self.network,
            zca=self.zca,
            matcher_options=self.matcher_options,
        )


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is kept while a run is under way, and what a new run makes of an older one's files."""

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
        """What follows the run, each as NAME:TARGET."""
        board = [] if self.tensorboard is None else [f"tensorboard:{self.tensorboard}"]
        return [*board, *self.tracker]

    @property
    def replaces(self) -> bool:
        """Whether pictures of an earlier run are written over."""
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
        help="Whiten with ZCA after standardising, with the recipe's eps or 0.1, or do not.  [default: the recipe's]",
    )(command)


def config_options(command: Command) -> Command:
    """What shapes the set: the command gets ``chosen`` (Chosen)."""

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
            help="Any option of the matcher, by name; may be repeated.",
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
    """What is kept while it runs: the command gets ``recording`` (Recording)."""

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
            "--resume", is_flag=True, help="Continue a stopped run of the same options; start if there is none."
        ),
        click.option(
            "--preview-every", metavar="N", type=POSITIVE_INT, help="Write a picture of the set every N steps."
        ),
        click.option(
            "--evaluate-every",
            metavar="N",
            type=POSITIVE_INT,
            help="Train a network on the set every N steps, 100 epochs, and log its accuracy on the validation images.",
        ),
        click.option(
            "--tensorboard", metavar="FOLDER", type=FOLDER, help="Log to TensorBoard too, which reads FOLDER."
        ),
        click.option(
            "--tracker",
            metavar="NAME[:TARGET]",
            multiple=True,
            help="Log to a plugin's tracker too; TARGET is its folder, project or address. May be repeated.",
        ),
        click.option("--plot", is_flag=True, help="Write the loss curve, and the accuracy, as a picture."),
        force_option,
    )(gathered("recording", Recording)(command))
