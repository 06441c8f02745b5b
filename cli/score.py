"""``atom-cli consume score``: compare a set with all real images and with random real images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import CheckedCommand, OnlyWith, RenamedOption
from atom_plugin.cli.options import PATH, POSITIVE_INT, Number, json_option, run_options
from atom_plugin.cli.source_options import WITH_DATASET, other_source_options
from atom_plugin.cli.terminal import echo
from atom_plugin.cli.training_options import settled_training, training_options

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.evaluation.dd_ranking import FullData, Scores
    from atom_plugin.evaluation.training_recipes import TrainConfig
    from atom_plugin.models.convnet import ConvNetConfig
    from atom_plugin.store.synthetic_set import SyntheticSet

    Scored = list[tuple[SyntheticSet, SourceData, Scores]]


@click.command(
    cls=CheckedCommand,
    settled=settled_training,
    only_with=(
        WITH_DATASET,
        OnlyWith(
            "training, which --full-accuracy excludes",
            ("full_epochs", "full_repeats"),
            lambda values: values["full_accuracy"] is None,
        ),
    ),
    shown="data_dir repeats training_recipe epochs full_epochs full_accuracy as_json seed device",
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@click.option(
    "--repeats",
    metavar="N",
    type=POSITIVE_INT,
    default=5,
    show_default=True,
    help="Networks trained per set, and draws of random real images.",
)
@click.option(
    "--full-epochs",
    metavar="N",
    type=POSITIVE_INT,
    default=100,
    show_default=True,
    help="Training epochs on all real images.",
)
@click.option(
    "--full-repeats",
    metavar="N",
    type=POSITIVE_INT,
    default=1,
    show_default=True,
    help="Networks trained on all real images.",
)
@click.option(
    "--full-accuracy",
    metavar="SHARE",
    type=Number(float, above=0, at_most=1),
    help="Accuracy of training on all real images, 0 to 1, if you know it.  [default: train to measure it]",
)
@click.option(
    "--ior-weight",
    "weight",
    cls=RenamedOption,
    old=("--weight",),
    metavar="SHARE",
    type=Number(float, at_least=0, at_most=1),
    default=0.5,
    show_default=True,
    help="Weight of IOR in LRS, 0 to 1; HLR has the rest.",
)
@training_options
@other_source_options(default="the one that the set names")
@run_options
@json_option
def score(
    *,
    files: tuple[Path, ...],
    dataset: str | None,
    request: SourceRequest,
    training: TrainConfig,
    full_accuracy: float | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Score sets with the metrics of DD-Ranking: HLR, IOR and LRS, as fractions of 1, after the last epoch.

    HLR (hard-label recovery) is the accuracy on all real images minus that on the set. IOR (improvement over random) is the
    accuracy on the set minus that on equally many random real images with the same training. LRS combines both in one number
    from 0 to 1 (docs/scores.md). Real images come from the source that the set names, or from --dataset.

    \b
    Example:
      atom-cli consume score digits-atom-ipc20.h5 --epochs 200 --full-epochs 30
    """
    from atom_plugin import store
    from atom_plugin.evaluation import load_test_sources, network_of
    from atom_plugin.evaluation.dd_ranking import FullData, ScoreConfig
    from atom_plugin.evaluation.dd_ranking import score as run
    from atom_plugin.runtime.progress import progress_bar

    sets = [store.read(file) for file in files]
    sources = load_test_sources(list(map(str, files)), sets, dataset, request)
    if full_accuracy is not None and len({source.fingerprint for source in sources}) > 1:
        raise click.UsageError(
            "--full-accuracy belongs to one image source, but the files name several; score them in separate commands"
        )
    known = None if full_accuracy is None else FullData(accuracies=(full_accuracy,))
    scored: Scored = []
    for file, synthetic_set, data in zip(files, sets, sources, strict=True):
        network = network_of(synthetic_set)
        if options["normalisation"] is not None:
            network = replace(network, normalisation=options["normalisation"])
        full = known or _trained_before(synthetic_set, data, network, scored)
        total = 2 * options["repeats"] * training.epochs
        total += options["full_repeats"] * options["full_epochs"] if full is None else 0
        others = ("full_epochs", "full_repeats", "weight", "repeats", "seed", "device", "precision")
        settings = {name: options[name] for name in others}
        with progress_bar(total, hidden=quiet, unit="epoch", desc=file.name) as bar:
            config = ScoreConfig(training=training, network=network, full=full, **settings)
            result = run(synthetic_set, data, config, on_epoch=bar.update)
        scored.append((synthetic_set, data, result))
        if not as_json:
            echo(f"{file}: {result.describe()}")
    if as_json:
        results = zip(files, scored, strict=True)
        echo(json.dumps([{"file": str(file), **result.to_json()} for file, (*_, result) in results]))


def _trained_before(
    synthetic_set: SyntheticSet, data: SourceData, network: ConvNetConfig, scored: Scored
) -> FullData | None:
    """The accuracy that an earlier set's networks reached with the same network, images and preprocessing."""
    for other, source, result in scored:
        if source is data and result.network == network and other.preprocessing.matches(synthetic_set.preprocessing):
            return result.full
    return None
