"""Options of how networks are trained on a set, which commands that judge sets share."""

from __future__ import annotations

import functools
from typing import Any, cast

import click

from atom_plugin.cli.options import NORMALISATION, POSITIVE_FLOAT, POSITIVE_INT, Command, bundle


def training_options(command: Command) -> Command:
    """How networks are trained on a set: the command gets ``training`` (TrainConfig) and ``normalisation``."""

    @functools.wraps(command)
    def with_training(*args: Any, training_recipe: str, **others: Any) -> Any:
        from atom_plugin.training_recipes import TrainConfig

        chosen = {name: others.pop(name) for name in ("epochs", "batch_size", "lr", "augmentation")}
        given = {name: value for name, value in chosen.items() if value is not None}
        return command(*args, training=TrainConfig.from_recipe(training_recipe, **given), **others)

    return bundle(
        click.option(
            "--training-recipe",
            metavar="NAME",
            default="standard",
            show_default=True,
            help="Where choices of the training that are not given come from: standard, dm, datadam-code, datadam-paper or "
            "modern, which is for transformers.",
        ),
        click.option(
            "--epochs",
            metavar="N",
            type=POSITIVE_INT,
            help="Passes over the set.  [default: the recipe's; standard: 800]",
        ),
        click.option(
            "--batch-size",
            metavar="N",
            type=POSITIVE_INT,
            help="Images per step.  [default: the recipe's; standard: 256]",
        ),
        click.option(
            "--lr",
            metavar="RATE",
            type=POSITIVE_FLOAT,
            help="Learning rate at its highest.  [default: the recipe's; standard: 0.01]",
        ),
        click.option(
            "--augmentation",
            metavar="OPS",
            help="siamese, some of its operations joined by _ (color_crop_cutout_flip_scale_rotate are all), randaugment, "
            "autoaugment, or none.  [default: siamese]",
        ),
        click.option(
            "--normalisation",
            type=NORMALISATION,
            help="Of networks that offer a choice.  [default: convnet: as the set was made with; others: their own]",
        ),
    )(cast("Command", with_training))
