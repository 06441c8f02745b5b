"""``atom-cli consume``: what sets are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.options import POSITIVE_INT, is_given, json_option, run_options, source_options, training_options
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
    "--repeats", metavar="N", type=POSITIVE_INT, default=5, show_default=True, help="Networks trained per set."
)
@click.option("--epochs", metavar="N", type=POSITIVE_INT, default=800, show_default=True, help="Passes over the set.")
@training_options
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
    from atom_plugin.evaluation import load_test_sources

    sets = [store.read(file) for file in files]
    tests = load_test_sources(list(map(str, files)), sets, dataset if is_given(ctx, "dataset") else None, request)
    results = []
    for file, synthetic_set, data in zip(files, sets, tests, strict=True):
        result = _evaluate(file, synthetic_set, data, options, quiet=quiet)
        results.append({"file": str(file), **result.to_json()})
        if not as_json:
            click.echo(f"{file}: {result.describe()}")
    if as_json:
        click.echo(json.dumps(results))


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
