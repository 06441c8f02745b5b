"""``atom-cli pool``: train networks that several distillations share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import CheckedCommand
from atom_plugin.cli.distill_options import WITH_POOLING, zca_option
from atom_plugin.cli.field_options import field_options, given_fields
from atom_plugin.cli.options import PATH, POSITIVE_INT, force_option, json_option, run_options
from atom_plugin.cli.outputs import Output, claim, default_name, quoted
from atom_plugin.cli.source_options import source_options, validation_option
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.models.convnet_choices import ConvNetChoices
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.models.network_pool import NetworkPool


@click.group()
def pool() -> None:
    """Train networks that distillations match under."""


@pool.command(
    cls=CheckedCommand,
    only_with=(WITH_POOLING,),
    shown="dataset data_dir image_size validation networks width epochs output resume seed device",
)
@source_options
@validation_option
@click.option(
    "--networks", metavar="N", type=POSITIVE_INT, default=5, show_default=True, help="Number of networks to train."
)
@click.option(
    "--training-recipe",
    metavar="NAME",
    help="How the networks train: a recipe of `consume evaluate`, or mtt-experts, which mtt matches best.  "
    "[default: standard, with 10 epochs and batch size 64]",
)
@click.option(
    "--epochs",
    metavar="N",
    type=POSITIVE_INT,
    help="Training epochs on the real images.  [default: 10, or the training recipe's]",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=POSITIVE_INT,
    help="Images per training step.  [default: 64, or the training recipe's]",
)
@click.option(
    "--every",
    metavar="N",
    type=POSITIVE_INT,
    help="Also keep the weights after every N-th epoch, for mtt and --network-state random-epoch.  [default: start and end]",
)
@field_options(ConvNetChoices, default="the atom recipe's")
@zca_option
@run_options
@click.option("-o", "--output", metavar="FILE", type=PATH, help="File of the pool.  [default: DATASET.pool]")
@click.option("--resume", is_flag=True, help="Continue a stopped pool; networks already in the file are kept.")
@force_option
@json_option
def make(
    *,
    dataset: str,
    request: SourceRequest,
    networks: int,
    training_recipe: str | None,
    epochs: int | None,
    batch_size: int | None,
    every: int | None,
    zca: bool | None,
    seed: int,
    device: str,
    precision: str,
    output: Path | None,
    resume: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train networks on the real images and write them to one file for `atom-cli distill --pool`.

    The file is a valid pool after each network. Images are standardised, as for packed sets; use --zca for sets that are
    whitened. docs/packing.md has the accuracy that a pool gains.

    \b
    Example:
      atom-cli pool make --dataset cifar10 --networks 5 --epochs 10
      atom-cli distill --dataset cifar10 --recipe best --ipc 10 --pool cifar10.pool
    """
    output = output or default_name(dataset, seed=seed, suffix=".pool")
    claim([Output(path=output, option="-o", replace=force or resume, kind="a pool")], inputs=[request.data_dir])
    load_torch()
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
    from atom_plugin.evaluation.training import TrainConfig, TrainingRun
    from atom_plugin.models.network_pool import NetworkPool
    from atom_plugin.runtime.device import resolve_device, resolve_precision

    data = load_source(dataset, request)
    run = DistillConfig.from_recipe(
        "atom", ipc=10, image_shape=data.image_shape, network=given_fields(ConvNetChoices, options), zca=bool(zca)
    )
    usual = {"epochs": 10, "batch_size": 64} if training_recipe is None else {}
    given = {name: value for name, value in (("epochs", epochs), ("batch_size", batch_size)) if value is not None}
    training = TrainConfig.from_recipe(training_recipe or "standard", **{**usual, **given})
    config = PoolConfig(
        network=run.network, training=training, networks=networks, every=every or training.epochs, seed=seed
    )
    begun = NetworkPool.load(output) if resume and output.exists() else None
    where = resolve_device(device)
    done = len(begun or ()) * training.epochs
    with progress_bar(networks * training.epochs, initial=done, hidden=quiet, unit="epoch", desc="networks") as bar:
        watched = TrainingRun(
            device=where,
            precision=resolve_precision(precision, where),
            on_networks=lambda done, trained: bar.update(len(trained)),
        )
        made = make_pool(
            data,
            run.fit_preprocessing(data),
            config,
            run=watched,
            begun=begun,
            on_networks=lambda grown: grown.save(output, force=force or resume or len(grown) > 1),
        )
    _report(made, output, "validation" if data.validation is not None else "test", as_json=as_json)


def _report(made: NetworkPool, path: Path, on: str, *, as_json: bool) -> None:
    if as_json:
        about = {"file": str(path), "networks": len(made), "epochs": list(made.epochs), "sha256": made.sha256}
        echo(json.dumps({**about, "tested_on": on, "accuracies": list(made.accuracies)}))
        return
    low, high = (100 * function(made.accuracies) for function in (min, max))
    echo(
        f"{path}: {len(made)} networks of {made.epochs[-1]} epochs, kept at {len(made.epochs)} ages; {low:.1f} to {high:.1f} % "
        f"of the {on} images right"
    )
    echo(f"match under them: atom-cli distill --recipe best --pool {quoted(path)}")
