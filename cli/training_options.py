"""Options for training networks on a set, shared by the commands that evaluate sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import Command, bundle
from atom_plugin.cli.options import NORMALISATION, POSITIVE_FLOAT, POSITIVE_INT, SHARE

if TYPE_CHECKING:
    from atom_plugin.evaluation.training_recipes import TrainConfig

_AUGMENTATIONS = (
    "Augmentation of training images: siamese, some of its operations joined by _ "
    "(color_crop_cutout_flip_scale_rotate are all), randaugment, autoaugment, or none"
)


_FIELDS = ("epochs", "batch_size", "lr", "schedule", "cutmix", "augmentation", "labels", "temperature", "learned_lr")
_one_augmentation = click.option("--augmentation", metavar="OPS", help=f"{_AUGMENTATIONS}.  [default: siamese]")
_normalisation = click.option(
    "--normalisation",
    type=NORMALISATION,
    help="Normalisation layer of networks that offer a choice.  [default: convnet: as in the set; others: their own]",
)


def label_options(command: Command) -> Command:
    """What networks learn of each image, and at the set's own learning rate: beside options of a training."""
    return bundle(
        click.option(
            "--labels",
            type=Choice(["soft", "hard"]),
            help="What networks learn of each image: the set's soft labels where it has some, or its class.  [default: soft]",
        ),
        click.option(
            "--temperature",
            metavar="T",
            type=POSITIVE_FLOAT,
            help="Divides the logits of soft labels; above 1, classes come nearer to each other.  [default: 1]",
        ),
        click.option(
            "--learned-lr", is_flag=True, help="Take the learning rate that was learned with the set, in place of --lr."
        ),
    )(command)


def training_options(command: Command) -> Command:
    """Options for training networks on a set: the command gets ``training`` (TrainConfig) and ``normalisation``."""

    return bundle(_options(_one_augmentation), _normalisation)(_with_training(command))


def proxy_training_options(command: Command) -> Command:
    """Options for training the candidates of a search: as :func:`training_options`, without the normalisation."""

    return _options(_one_augmentation, recipe="search")(_with_training(command))


def compared_training_options(command: Command) -> Command:
    """As :func:`training_options`, for several augmentations: the command gets ``trainings``, a list with one for each."""

    @functools.wraps(command)
    def with_trainings(*args: Any, augmentation: list[str] | None, **given: Any) -> Any:
        trainings, others = [], given
        for name in [None] if augmentation is None else augmentation:
            training, others = _taken({**given, "augmentation": name})
            trainings.append(training)
        return command(*args, trainings=trainings, **others)

    option = click.option(
        "--augmentation",
        metavar="OPS,…",
        callback=names_joined_by_commas,
        help=f"{_AUGMENTATIONS}; give several joined by commas to compare them.  [default: siamese]",
    )
    return bundle(_options(option), _normalisation)(cast("Command", with_trainings))


def names_joined_by_commas(ctx: click.Context, param: click.Parameter, given: str | None) -> list[str] | None:
    """A callback that returns the names, or None if the option is not given and has no default."""
    if given is None:
        return None
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise click.UsageError(f"{param.opts[0]} must be names joined by commas, not {given!r}", ctx)
    return names


def _with_training(command: Command) -> Command:
    """Pass the command one training in place of the training options."""

    @functools.wraps(command)
    def with_training(*args: Any, **given: Any) -> Any:
        training, others = _taken(given)
        return command(*args, training=training, **others)

    return cast("Command", with_training)


def _taken(given: dict[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
    """The training that the options describe, and the other options."""
    from atom_plugin.evaluation.training_recipes import TrainConfig

    others = dict(given)
    recipe = others.pop("training_recipe")
    chosen = {name: others.pop(name) for name in _FIELDS if name in others}
    if chosen.get("learned_lr") and chosen["lr"] is not None:
        raise click.UsageError("found --lr and --learned-lr, expected one of them; leave one out")
    return TrainConfig.from_recipe(recipe, **{k: value for k, value in chosen.items() if value is not None}), others


def settled_training(values: Mapping[str, Any]) -> dict[str, Any]:
    """For ``--print-config``: the recipe's values for a training."""
    training, _ = _taken({**values, "augmentation": None})
    return {name: value for name, value in vars(training).items() if not (training.learned_lr and name == "lr")}


def _options(augmentation: Callable[..., Any], recipe: str = "standard") -> Callable[[Command], Command]:
    """The training options with the defaults of ``recipe``, in the order of the help."""
    from_recipe = "[default: the recipe's]" if recipe != "standard" else "[default: the recipe's; standard: {}]"
    return bundle(
        click.option(
            "--training-recipe",
            metavar="NAME",
            default=recipe,
            show_default=True,
            help="Default values of the training options: standard, dm, datadam-code, datadam-paper, packed, "
            "mtt-experts (for pools), search, or modern (for transformers).",
        ),
        click.option(
            "--epochs",
            metavar="N",
            type=POSITIVE_INT,
            help=f"Training epochs on the set.  {from_recipe.format(800)}",
        ),
        click.option(
            "--batch-size",
            metavar="N",
            type=POSITIVE_INT,
            help=f"Images per training step.  {from_recipe.format(256)}",
        ),
        click.option(
            "--lr",
            metavar="RATE",
            type=POSITIVE_FLOAT,
            help=f"Maximum learning rate.  {from_recipe.format(0.01)}",
        ),
        click.option(
            "--schedule",
            type=Choice(["half", "multistep", "step", "cosine", "constant"]),
            help="Learning rate schedule: x0.1 at half of the epochs, x0.2 at 2/3 and 5/6, x0.5 every 15 epochs, "
            f"cosine, or constant.  {from_recipe.format('half')}",
        ),
        augmentation,
        click.option(
            "--cutmix",
            metavar="PROBABILITY",
            type=SHARE,
            help="Fraction of batches mixed by CutMix.  [default: the recipe's; packed: 0.5, modern: 1, others: 0]",
        ),
    )
