"""The options of ``atom-cli consume replay``. Many have no fixed default: the mode or the recipe fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from atom_plugin.cli.choices import Choice
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

RUN = ("epochs", "batch_size", "lr", "memory_augmentation", "memory_labels", "logit_weight", "zca")
REPLAY_ALONE = ("stream_augmentation", "asymmetric_loss", "finetune_steps", "separate_normalisation")
NETWORK = ("normalisation", "width")
DISTILLATION = ("factor", "storage", "iterations", "real_batch", "precision")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison runs; ``memory`` are the files of the sets to replay."""

    policies: tuple[str, ...]
    memory: tuple[Path, ...]
    distill: bool
    baselines: bool
    modes: tuple[str, ...]
    orders: int
    networks: int


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Output files, whether existing ones may be continued or replaced, and how results are printed."""

    output: Path | None
    resume: bool
    force: bool
    markdown: bool
    latex: bool
    as_json: bool


def _has_modes(values: Mapping[str, Any]) -> bool:
    """Whether any policy runs in the named modes; each baseline has its own mode."""
    from atom_plugin.replay.plan import BASELINES

    named = set(values["policies"])
    return bool(named - set(BASELINES) or not named or values["baselines"] or values["distill"] or values["memory"])


# Other options that a policy makes nothing of are the comparison's all the same: its file has them, and a policy that is added
# with --resume keeps to them.
ONLY_WITH = (
    OnlyWith("--mode replay", REPLAY_ALONE, lambda values: "replay" in values["modes"]),
    OnlyWith(
        "--memory-labels logits or both",
        ("logit_weight",),
        lambda values: values["memory_labels"] in ("logits", "both"),
    ),
    TABLE_PRINTED,
    OnlyWith("a --policy that is not a baseline", ("modes",), _has_modes),
)


def given(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The ``names`` that the user gave."""
    return {name: options[name] for name in names if options[name] is not None}


def stream_options(command: Command) -> Command:
    """The options for the stream and the memory."""
    return bundle(
        click.option(
            "--steps",
            metavar="N",
            type=POSITIVE_INT,
            default=5,
            show_default=True,
            help="Number of experiences that the classes are divided into.",
        ),
        click.option("--ipc", metavar="N", type=POSITIVE_INT, help="Memory images per class.  [required]"),
        click.option(
            "--memory",
            metavar="FILE",
            multiple=True,
            type=PATH,
            help="Set to replay: one with all classes, or, given several times, one per experience. Adds the policy "
            "stored.",
        ),
        click.option(
            "--distill",
            is_flag=True,
            help="Distil the classes of each experience when it arrives.  [default without --memory]",
        ),
        click.option(
            "--policy",
            "policies",
            metavar="NAME",
            multiple=True,
            help="Method that fills the memory: a matcher's name (distilled images), random, herding or k-center "
            "(real images; random-packed packs them), stored (from --memory), several in equal parts "
            "(atom+herding), or a baseline: real-ipc, real-bytes, gdumb, naive, joint, each with its own mode. "
            "May be given several times.  [default: atom, or stored]",
        ),
        click.option("--baselines", is_flag=True, help="Also run random, herding and all five baselines."),
        click.option(
            "--mode",
            "modes",
            type=Choice(["replay", "from-memory"]),
            multiple=True,
            default=("replay",),
            show_default=True,
            help="replay: one network learns from the real images of the stream and the memory; from-memory: after "
            "each step a new network learns from the memory alone, as in the papers. May be given twice.",
        ),
        click.option(
            "--orders",
            metavar="N",
            type=POSITIVE_INT,
            default=3,
            show_default=True,
            help="Number of class orders, with seeds 0 to N-1.",
        ),
        click.option(
            "--networks",
            metavar="N",
            type=POSITIVE_INT,
            default=1,
            show_default=True,
            help="Number of networks per class order.",
        ),
    )(command)


def training_options(command: Command) -> Command:
    """The options for training networks and making sets."""
    return bundle(
        click.option(
            "--epochs",
            metavar="N",
            type=POSITIVE_INT,
            help="Epochs on each experience, or on the memory.  [default: 5 for replay, 300 from memory; papers: 1001]",
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
            help="Learning rate; from memory it is multiplied by 0.1 after half of the epochs.  [default: 0.01]",
        ),
        click.option(
            "--memory-augmentation",
            metavar="OPS",
            help="Siamese augmentation of the memory's images: operations joined by _, or none.  [default: none for "
            "replay, all from memory]",
        ),
        click.option(
            "--stream-augmentation",
            metavar="OPS",
            help="Siamese augmentation of the stream's images, in replay: "
            "operations joined by _, or none.  [default: none]",
        ),
        click.option(
            "--asymmetric-loss/--no-asymmetric-loss",
            default=None,
            help="In replay, compute the loss of the stream's images over the classes of their own experience only "
            "(ER-ACE).  [default: asymmetric]",
        ),
        click.option(
            "--finetune-steps",
            metavar="N",
            type=NON_NEGATIVE_INT,
            help="In replay, training steps on the memory alone after each experience (balanced fine-tuning); "
            "baselines take none.  [default: 500]",
        ),
        click.option(
            "--separate-normalisation",
            is_flag=True,
            default=None,
            help="In replay, pass the stream's and the memory's images through the network separately, so that they share "
            "no moments of batch normalisation.",
        ),
        click.option(
            "--memory-labels",
            type=Choice(["hard", "logits", "both"]),
            help="Targets of the memory's images: hard, their classes; logits, the learner's outputs at the end of the "
            "experience that brought them (DER); both (DER++). Logits are stored as float16 with the images.  "
            "[default: hard]",
        ),
        click.option(
            "--logit-weight",
            metavar="WEIGHT",
            type=POSITIVE_FLOAT,
            help="Weight of the squared difference from the stored logits (alpha).  [default: 0.1]",
        ),
        click.option(
            "--normalisation",
            type=NORMALISATION,
            help="Normalisation layer of the network.  [default: the recipe's]",
        ),
        click.option("--width", metavar="N", type=POSITIVE_INT, help="Channels of the network.  [default: 128]"),
        click.option(
            "--zca/--no-zca",
            default=None,
            help="Apply ZCA whitening, fitted on the first experience.  [default: the recipe's]",
        ),
        click.option(
            "--factor",
            metavar="N",
            type=POSITIVE_INT,
            help="Tiles along each side of a stored image: 2 packs four images of half the side into one.  "
            "[default: 2 for colour images of 32 pixels or more, else 1]",
        ),
        click.option(
            "--storage",
            type=Choice(STORAGES),
            help="Number format of distilled images; real images are always stored as uint8 pixels.  [default: uint8]",
        ),
        click.option(
            "--iterations",
            metavar="N",
            type=POSITIVE_INT,
            help="Matching steps of each distillation; there is one distillation per step and class order.  "
            "[default: a third of the recipe atom's]",
        ),
        click.option(
            "--real-batch",
            metavar="N",
            type=POSITIVE_INT,
            help="Real images per class in each matching step.  [default: the recipe's]",
        ),
    )(command)


def output_options(command: Command) -> Command:
    """The options for output files and printed results."""
    return bundle(
        click.option(
            "-o",
            "--output",
            metavar="PREFIX",
            type=PATH,
            help="Prefix of the outputs: PREFIX.jsonl has the results, PREFIX.png the curves, the folder "
            "PREFIX.memory the sets.  [default: DATASET-replay-ipcN, with -seedN if --seed is not 0]",
        ),
        click.option("--resume", is_flag=True, help="Continue a stopped comparison, or add runs to a finished one."),
        click.option("--markdown", is_flag=True, help="Print the table as Markdown."),
    )(command)
