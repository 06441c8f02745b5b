"""The options of ``atom-cli distill``, by what they decide. Most have no default of their own: the recipe fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from atom_plugin.cli.options import (
    NORMALISATION,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    Command,
    Number,
    bundle,
    key_value_pairs,
)
from atom_plugin.cli.sizes import SIZE

MATCHER_OPTIONS = ("p_s", "p_c", "task_balance", "loss_scale")
FIELD_OPTIONS = (
    *("matcher", "iterations", "real_batch", "image_lr", "image_momentum", "image_schedule", "initialiser"),
    *("augmentation", "standardise", "zca", "zca_eps", "seed", "precision"),
    *("network_state", "network_pool", "inner_loop", "network_epochs", "network_lr"),
    *("embedding", "forgetting_epochs", "memory_budget"),
)
NETWORK_OPTIONS = ("depth", "width", "activation", "normalisation", "pooling", "pool_size", "initialisation")

_POWER = Number(float, at_least=1)
_NON_NEGATIVE = Number(float, at_least=0)
_LISTS = {"--list-matchers": "matchers", "--list-recipes": "recipes"}


def _chosen(
    flag: str, kind: click.ParamType[Any] | Sequence[Any], text: str, metavar: str | None = None
) -> Callable[[Command], Command]:
    """An option that the recipe fills where it is not given."""
    choices = None if isinstance(kind, click.ParamType) else click.Choice(list(kind))
    return click.option(flag, type=choices or kind, metavar=metavar, help=f"{text}  [default: the recipe's]")


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
        click.echo(f"{name:<{width}}  {line}")
    ctx.exit()


def recipe_options(command: Command) -> Command:
    """What shapes the set: the matcher, the loop, the preprocessing, the network."""
    return bundle(
        click.option(
            "--recipe",
            metavar="NAME",
            default="atom",
            show_default=True,
            help="Where choices that are not given come from (see --list-recipes).",
        ),
        *(
            click.option(
                flag, is_flag=True, is_eager=True, expose_value=False, callback=_list, help=f"List the {what}."
            )
            for flag, what in _LISTS.items()
        ),
        click.option(
            "--matcher",
            metavar="NAME",
            help="How real and synthetic images are compared (see --list-matchers).  [default: the recipe's]",
        ),
        _chosen("--p-s", _POWER, "Power of spatial attention, 1 or more.", "P"),
        _chosen("--p-c", _POWER, "Power of channel attention, 1 or more.", "P"),
        _chosen("--task-balance", _NON_NEGATIVE, "Weight of the mean-embedding term.", "WEIGHT"),
        _chosen("--loss-scale", POSITIVE_FLOAT, "Factor on the loss: 100 in DataDAM's code, 1 in print.", "FACTOR"),
        click.option(
            "--matcher-option",
            metavar="KEY=VALUE",
            multiple=True,
            callback=key_value_pairs,
            help="Any other option of the matcher; may be repeated.",
        ),
        _chosen("--iterations", POSITIVE_INT, "Matching steps.", "N"),
        _chosen("--real-batch", POSITIVE_INT, "Real images per class and step.", "N"),
        _chosen("--image-lr", POSITIVE_FLOAT, "Learning rate of the images.", "RATE"),
        _chosen("--image-momentum", Number(float, at_least=0, below=1), "Momentum of that SGD, below 1.", "M"),
        _chosen("--image-schedule", ["constant", "cosine"], "Course of that learning rate."),
        _chosen(
            "--initialiser",
            ["random", "noise", "k-center", "herding", "forgetting"],
            "What images start from: real ones, chosen as `atom-cli select` chooses, or noise.",
        ),
        choosing_options,
        _chosen("--augmentation", click.STRING, "Siamese operations joined by _, or none.", "OPS"),
        click.option(
            "--standardise/--no-standardise",
            default=None,
            help="Subtract the mean, divide by the standard deviation.  [default: the recipe's]",
        ),
        click.option(
            "--zca/--no-zca", default=None, help="ZCA whitening, after standardising.  [default: the recipe's]"
        ),
        click.option(
            "--zca-eps",
            metavar="EPS",
            type=POSITIVE_FLOAT,
            help="Its eps, and turns it on: 0.1 is DataDAM's, 1e-6 kornia's.  [default: the recipe's]",
        ),
        _chosen("--depth", POSITIVE_INT, "Blocks of the ConvNet; recipes follow the image size.", "N"),
        _chosen("--width", POSITIVE_INT, "Channels of each block.", "N"),
        _chosen("--activation", ["relu", "leakyrelu", "sigmoid", "swish"], "Activation."),
        _chosen("--normalisation", NORMALISATION, "Normalisation."),
        _chosen("--pooling", ["none", "max", "avg"], "Pooling, with stride 2."),
        _chosen("--pool-size", [2, 3], "Side of the pooling window."),
        _chosen("--initialisation", ["uniform", "normal"], "How network weights are drawn."),
        _chosen(
            "--network-state",
            click.STRING,
            "random, or trained:EPOCHS: matching under networks trained on the real images before.",
            "STATE",
        ),
        _chosen("--network-pool", POSITIVE_INT, "How many such trained networks there are to draw from.", "N"),
        _chosen("--inner-loop", POSITIVE_INT, "Matching steps under one network before another is drawn.", "N"),
        _chosen(
            "--network-epochs",
            Number(int, at_least=0),
            "Passes of training over the synthetic images after each of these steps but the last.",
            "N",
        ),
        _chosen("--network-lr", POSITIVE_FLOAT, "Learning rate of that training.", "RATE"),
        click.option(
            "--memory-budget",
            metavar="SIZE",
            type=SIZE,
            help="Memory of one pass, e.g. 2GB: decides how many classes pass together, per process.  [default: all do]",
        ),
    )(command)


def choosing_options(command: Command) -> Command:
    """The networks that choose real images: the command gets ``embedding`` and ``forgetting_epochs``, None where not given."""
    return bundle(
        click.option(
            "--embedding",
            metavar="STATE",
            help="The network whose embeddings herding and k-center compare: random, or trained:EPOCHS on the real "
            "images before.  [default: random]",
        ),
        click.option(
            "--forgetting-epochs",
            metavar="N",
            type=Number(int, at_least=2),
            help="Passes over the real images in which forgetting counts its events.  [default: 20]",
        ),
    )(command)


def record_options(command: Command) -> Command:
    """What is kept while it runs."""
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
        click.option("--plot", is_flag=True, help="Write the loss curve as a picture."),
    )(command)
