"""``atom-cli consume``: what sets are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.options import POSITIVE_FLOAT, POSITIVE_INT, json_option, run_options, source_options
from atom_plugin.cli.replay import replay
from atom_plugin.cli.score import score

if TYPE_CHECKING:
    from atom_plugin.evaluation import Evaluation
    from atom_plugin.sources import SourceData, SourceRequest
    from atom_plugin.synthetic_set import SyntheticSet


@click.group()
def consume() -> None:
    """Use stored sets."""


consume.add_command(score)
consume.add_command(replay)


@consume.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Choice(["convnet"]), default="convnet", show_default=True, help="Architecture to train."
)
@click.option(
    "--normalisation",
    type=click.Choice(["none", "batch", "layer", "instance", "group"]),
    help="Its normalisation.  [default: as the set was made with]",
)
@click.option(
    "--repeats", metavar="N", type=POSITIVE_INT, default=5, show_default=True, help="Networks trained per set."
)
@click.option("--epochs", metavar="N", type=POSITIVE_INT, default=800, show_default=True, help="Passes over the set.")
@click.option("--batch-size", metavar="N", type=POSITIVE_INT, default=256, show_default=True, help="Images per step.")
@click.option(
    "--lr",
    metavar="RATE",
    type=POSITIVE_FLOAT,
    default=0.01,
    show_default=True,
    help="Learning rate; times 0.1 at half.",
)
@click.option(
    "--augmentation",
    metavar="OPS",
    default="color_crop_cutout_flip_scale_rotate",
    show_default=True,
    help="Siamese operations joined by _, or none.",
)
@source_options
@run_options
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    dataset: str,
    request: SourceRequest,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train fresh networks on each set, test them on the real test images, and report the last epoch.

    The test images are those of the source that the set names, also where its folder moved (--data-dir); --dataset
    names another source.

    \b
    Example:
      atom-cli consume evaluate digits-atom-ipc20.h5 digits-random-ipc20.h5 --repeats 3
    """
    from atom_plugin import store

    sets = [store.read(file) for file in files]
    explicit = ctx.get_parameter_source("dataset") is not click.core.ParameterSource.DEFAULT
    tests = _test_sources(files, sets, dataset if explicit else None, request)
    results = []
    for file, synthetic_set, data in zip(files, sets, tests, strict=True):
        result = _evaluate(file, synthetic_set, data, options, quiet=quiet)
        results.append({"file": str(file), **result.to_json()})
        if not as_json:
            click.echo(f"{file}: {result.describe()}")
    if as_json:
        click.echo(json.dumps(results))


def _test_sources(
    files: tuple[Path, ...], sets: list[SyntheticSet], dataset: str | None, request: SourceRequest
) -> list[SourceData]:
    """The source of every set's test images, each loaded once, and checked before any training."""
    from atom_plugin.evaluation import check_test_source, find_test_source
    from atom_plugin.sources import load_source

    loaded: dict[str, SourceData] = {}
    tests = []
    for file, synthetic_set in zip(files, sets, strict=True):
        key = dataset or json.dumps(synthetic_set.provenance.source, sort_keys=True)
        if key not in loaded:
            found = load_source(dataset, request) if dataset else find_test_source(synthetic_set, str(file), request)
            loaded[key] = found
        check_test_source(synthetic_set, str(file), loaded[key])
        tests.append(loaded[key])
    return tests


def _evaluate(
    file: Path, synthetic_set: SyntheticSet, data: SourceData, options: dict[str, Any], *, quiet: bool
) -> Evaluation:
    from tqdm import tqdm

    from atom_plugin.evaluation import evaluate as run
    from atom_plugin.training import TrainConfig

    config = TrainConfig(
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        lr=options["lr"],
        augmentation=options["augmentation"],
    )
    repeats = options["repeats"]
    with tqdm(total=repeats * config.epochs, disable=quiet, unit="epoch", desc=file.name) as bar:
        return run(
            synthetic_set,
            data.test,
            config,
            normalisation=options["normalisation"],
            repeats=repeats,
            seed=options["seed"],
            device=options["device"],
            precision=options["precision"],
            on_epoch=bar.update,
        )
