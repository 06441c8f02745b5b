"""The options of ``atom-cli consume replay``. Many have no default of their own: the mode or the recipe fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from atom_plugin.cli.command import Command, OnlyWith, bundle
from atom_plugin.cli.options import (
    NON_NEGATIVE_INT,
    NORMALISATION,
    PATH,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    TABLE_PRINTED,
)
from atom_plugin.distillation.set_config import STORAGES

RUN = ("epochs", "batch_size", "lr", "memory_augmentation", "zca")
REPLAY_ALONE = ("stream_augmentation", "asymmetric_loss", "finetune_steps")
NETWORK = ("normalisation", "width")
DISTILLATION = ("factor", "storage", "iterations", "real_batch", "precision")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What runs in a comparison; ``memory`` are the files of sets to replay."""

    policies: tuple[str, ...]
    memory: tuple[Path, ...]
    distill: bool
    baselines: bool
    modes: tuple[str, ...]
    orders: int
    networks: int


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where results go, what of it may be there already, and in what form they are printed."""

    output: Path | None
    resume: bool
    force: bool
    markdown: bool
    latex: bool
    as_json: bool


def _has_modes(values: Mapping[str, Any]) -> bool:
    """Whether any policy runs in the modes that are named; each baseline has one of its own."""
    from atom_plugin.replay.plan import BASELINES

    named = set(values["policies"])
    return bool(named - set(BASELINES) or not named or values["baselines"] or values["distill"] or values["memory"])


# Other options that a policy makes nothing of are the comparison's all the same: its file has them, and a policy that is added
# with --resume keeps to them.
ONLY_WITH = (
    OnlyWith("--mode replay", REPLAY_ALONE, lambda values: "replay" in values["modes"]),
    TABLE_PRINTED,
    OnlyWith("a --policy that is no baseline", ("modes",), _has_modes),
)


def given(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those of ``names`` that the user chose."""
    return {name: options[name] for name in names if options[name] is not None}


def stream_options(command: Command) -> Command:
    """What arrives when, and what the memory holds."""
    return bundle(
        click.option(
            "--steps",
            metavar="N",
            type=POSITIVE_INT,
            default=5,
            show_default=True,
            help="Experiences the classes come in.",
        ),
        click.option("--ipc", metavar="N", type=POSITIVE_INT, help="Memory images per class.  [required]"),
        click.option(
            "--memory",
            metavar="FILE",
            multiple=True,
            type=PATH,
            help="A set to replay: one of all classes, or, given several times, one for every experience. Adds the "
            "policy stored.",
        ),
        click.option(
            "--distill",
            is_flag=True,
            help="Distil each experience's classes when they come.  [default without --memory]",
        ),
        click.option(
            "--policy",
            "policies",
            metavar="NAME",
            multiple=True,
            help="What the memory holds: a matcher's name (distilled), random, herding or k-center (real images; random-packed "
            "packs them as the distilled ones), stored, several of these in equal parts (atom+herding), or a baseline: "
            "real-ipc, real-bytes, gdumb, naive, joint, each in its own mode. May be given several times.  "
            "[default: atom, or stored]",
        ),
        click.option("--baselines", is_flag=True, help="Add random and herding and all five baselines."),
        click.option(
            "--mode",
            "modes",
            type=click.Choice(["replay", "from-memory"]),
            multiple=True,
            default=("replay",),
            show_default=True,
            help="replay: one network goes on with real images and memory; from-memory: after each step a fresh one sees the "
            "memory alone, as the papers do it. May be given twice.",
        ),
        click.option(
            "--orders",
            metavar="N",
            type=POSITIVE_INT,
            default=3,
            show_default=True,
            help="Class orders, seeds 0 to N-1.",
        ),
        click.option(
            "--networks",
            metavar="N",
            type=POSITIVE_INT,
            default=1,
            show_default=True,
            help="Networks for each class order.",
        ),
    )(command)


def training_options(command: Command) -> Command:
    """How networks are trained, and sets made."""
    return bundle(
        click.option(
            "--epochs",
            metavar="N",
            type=POSITIVE_INT,
            help="Passes over each experience, or over the memory.  [default: 5 for replay, 300 from memory; the papers: 1001]",
        ),
        click.option(
            "--batch-size",
            metavar="N",
            type=POSITIVE_INT,
            help="Images per step.  [default: 64 for replay, 256 from memory]",
        ),
        click.option(
            "--lr",
            metavar="RATE",
            type=POSITIVE_FLOAT,
            help="Learning rate; from memory times 0.1 at half.  [default: 0.01]",
        ),
        click.option(
            "--memory-augmentation",
            metavar="OPS",
            help="Siamese operations on memory images, joined by _, or none.  [default: none for replay, all from memory]",
        ),
        click.option(
            "--stream-augmentation", metavar="OPS", help="The same on the stream's images, in replay.  [default: none]"
        ),
        click.option(
            "--asymmetric-loss/--no-asymmetric-loss",
            default=None,
            help="Compare the stream's images with the classes of their own experience alone, in replay (ER-ACE).  "
            "[default: asymmetric]",
        ),
        click.option(
            "--finetune-steps",
            metavar="N",
            type=NON_NEGATIVE_INT,
            help="Steps on the memory alone after each experience, in replay: balanced fine-tuning. Baselines take none.  "
            "[default: 500]",
        ),
        click.option(
            "--normalisation",
            type=NORMALISATION,
            help="The network's normalisation.  [default: the recipe's]",
        ),
        click.option("--width", metavar="N", type=POSITIVE_INT, help="The network's channels.  [default: 128]"),
        click.option(
            "--zca/--no-zca", default=None, help="Whiten, fitted on the first experience.  [default: the recipe's]"
        ),
        click.option(
            "--factor",
            metavar="N",
            type=POSITIVE_INT,
            help="Tiles along each side of a stored image: 2 packs four images of half the side into one.  [default: 2 for "
            "colour images of 32 pixels or more, else 1]",
        ),
        click.option(
            "--storage",
            type=click.Choice(STORAGES),
            help="How distilled images are stored; real ones are kept as uint8 pixels.  [default: uint8]",
        ),
        click.option(
            "--iterations",
            metavar="N",
            type=POSITIVE_INT,
            help="Steps of each distillation.  [default: a third of the recipe atom's: every step of every order is one]",
        ),
        click.option(
            "--real-batch",
            metavar="N",
            type=POSITIVE_INT,
            help="Real images per class in each.  [default: the recipe's]",
        ),
    )(command)


def output_options(command: Command) -> Command:
    """Where results go, and in what form."""
    return bundle(
        click.option(
            "-o",
            "--output",
            metavar="PREFIX",
            type=PATH,
            help="PREFIX.jsonl gets the results, PREFIX.png the curves, the folder PREFIX.memory the sets.  "
            "[default: DATASET-replay-ipcN, with -seedN where --seed is not 0]",
        ),
        click.option("--resume", is_flag=True, help="Go on with a stopped comparison, or add runs to it."),
        click.option("--markdown", is_flag=True, help="Print the table as Markdown."),
    )(command)
