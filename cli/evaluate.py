"""``atom-cli consume evaluate``: accuracy of networks trained on a set, by set and architecture."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import CheckedCommand, Command, OnlyWith, bundle
from atom_plugin.cli.evaluation_jobs import plan, run
from atom_plugin.cli.options import (
    PATH,
    POSITIVE_INT,
    TABLE_PRINTED,
    force_option,
    json_option,
    latex_option,
    refuse_table_file,
    run_options,
)
from atom_plugin.cli.outputs import claim, table_outputs
from atom_plugin.cli.source_options import WITH_DATASET, other_source_options
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.cli.training_options import (
    compared_training_options,
    label_options,
    names_joined_by_commas,
    settled_training,
)

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.evaluation.training_recipes import TrainConfig


def _print_models(ctx: click.Context, param: click.Parameter, pattern: str | None) -> None:
    if pattern is None or ctx.resilient_parsing:
        return
    from atom_plugin.models import list_models

    for name in list_models(pattern):
        echo(name)
    ctx.exit()


def _evaluation_options(command: Command) -> Command:
    """The networks that are trained, the sets they are trained on, and the output files."""
    return bundle(
        click.option(
            "--models",
            "--model",
            metavar="NAME,…",
            default="convnet",
            show_default=True,
            callback=names_joined_by_commas,
            help="Network architectures to train, joined by commas: convnet (with the set's settings), alexnet, "
            "vgg11, resnet18, vit, resnet10, or a timm model, e.g. timm:convnext_atto.",
        ),
        click.option(
            "--list-models",
            metavar="PATTERN",
            is_eager=True,
            expose_value=False,
            callback=_print_models,
            help="List the models; a pattern such as '*mixer*' lists timm models.",
        ),
        click.option(
            "--repeats",
            metavar="N",
            type=POSITIVE_INT,
            default=5,
            show_default=True,
            help="Networks trained per set and model; papers use 20.",
        ),
        click.option(
            "--on",
            type=Choice(["test", "validation"]),
            default="test",
            show_default=True,
            help="Images for measuring accuracy: the source's test images, or the training images that were held "
            "out of the sets (distill --validation).",
        ),
        click.option("--full", is_flag=True, help="Also train on all real training images, as an upper bound."),
        click.option(
            "--full-epochs",
            metavar="N",
            type=POSITIVE_INT,
            default=100,
            show_default=True,
            help="Training epochs on all real images (with --full).",
        ),
        click.option(
            "--full-repeats",
            metavar="N",
            type=POSITIVE_INT,
            default=1,
            show_default=True,
            help="Networks per model on all real images (with --full).",
        ),
        click.option(
            "--results",
            metavar="FILE.jsonl",
            type=PATH,
            help="Append each trained network's results to FILE, and skip networks already in FILE, so that a "
            "stopped evaluation continues.",
        ),
        click.option("--csv", "csv_file", metavar="FILE.csv", type=PATH, help="Write the table as CSV."),
        click.option(
            "--chart",
            metavar="FILE",
            type=PATH,
            help="Draw the table as a bar chart with error bars: .png, .jpg, .svg or .pdf.",
        ),
    )(command)


def _claiming_outputs(command: Command) -> Command:
    """Reserve the output files before the options become trainings, since that imports torch, which takes seconds."""

    @functools.wraps(command)
    def claiming(*args: Any, **given: Any) -> Any:
        outputs = table_outputs(given["csv_file"], given["chart"], given["results"], force=given["force"])
        claim(outputs, inputs=[*given["files"], given["data_dir"]])
        load_torch()
        return command(*args, **given)

    return cast("Command", claiming)


@click.command(
    cls=CheckedCommand,
    settled=settled_training,
    only_with=(
        WITH_DATASET,
        OnlyWith("--full", ("full_epochs", "full_repeats"), lambda values: values["full"]),
        TABLE_PRINTED,
        OnlyWith("--csv or --chart", ("force",), lambda values: values["csv_file"] or values["chart"]),
    ),
    shown="data_dir on models repeats full training_recipe epochs results csv_file chart seed device",
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@_evaluation_options
@_claiming_outputs
@compared_training_options
@label_options
@other_source_options(default="the one that the set names")
@run_options
@json_option
@latex_option
@force_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    dataset: str | None,
    request: SourceRequest,
    trainings: list[TrainConfig],
    results: Path | None,
    csv_file: Path | None,
    chart: Path | None,
    as_json: bool,
    latex: bool,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train new networks on each set, test them, and report mean and standard deviation of the accuracy after the last epoch.

    Results of sets that differ only in their seed are also pooled, as the papers do with five sets and 20 networks each. The
    test images come from the source that the set names; --data-dir gives its folder if it moved, and --dataset names another
    source. Use --on validation to choose options, so that the test images stay unseen. A model that cannot take the images is
    reported, and the evaluation continues (docs/evaluation.md).

    \b
    Examples:
      atom-cli consume evaluate digits-atom-ipc20.h5 digits-random-ipc20.h5 --repeats 3
      atom-cli consume evaluate cifar10-*.h5 --models convnet,alexnet,vgg11,resnet18,vit \\
        --training-recipe dm --repeats 20 --results cross.jsonl --chart cross.png
      torchrun --nproc-per-node 2 $(which atom-cli) consume evaluate set.h5 --repeats 20
    """
    refuse_table_file(files)
    if options["on"] == "validation" and dataset is not None:
        raise click.UsageError(
            "--on validation uses the images held out of the sets; leave --dataset out (--data-dir gives the folder "
            "of the source's files)"
        )
    from atom_plugin.evaluation import NetworkResultsFile, summarise_networks
    from atom_plugin.evaluation.chart import draw_chart
    from atom_plugin.evaluation.tables import as_csv, evaluation_table
    from atom_plugin.runtime import distributed, rendezvous
    from atom_plugin.runtime.device import resolve_device, resolve_precision
    from atom_plugin.runtime.files import write_bytes

    # From here on every process of a run does the same, but for the networks that it trains; the first one prints.
    click.get_current_context().with_resource(distributed.dealt(options["device"]))
    device = resolve_device(options["device"])
    options["precision"] = resolve_precision(options["precision"], device)
    with rendezvous.leader_first():
        jobs = plan(files, dataset, request, trainings, options)
    finished = None if results is None else NetworkResultsFile(results)
    if finished is not None:
        finished.require_budgets(jobs)
    evaluations = summarise_networks(run(jobs, finished, device, quiet=quiet))
    if not distributed.leads():
        return
    if as_json:
        echo(json.dumps([each.to_json() for each in evaluations]))
    else:
        echo(evaluation_table(evaluations, latex=latex))
    if csv_file is not None:
        write_bytes(csv_file, as_csv(evaluations).encode(), force=force)
    if all(each.mean is None for each in evaluations):
        ctx.exit(1)
    if chart is not None:
        draw_chart(evaluations, chart, force=force)
