"""``atom-cli consume evaluate``: what networks reach that were trained on a set, by set and architecture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.interrupts import told_how_to_go_on
from atom_plugin.cli.options import (
    POSITIVE_INT,
    Command,
    bundle,
    force_option,
    is_given,
    json_option,
    run_options,
    source_options,
    training_options,
)

if TYPE_CHECKING:
    import torch

    from atom_plugin.evaluation import Job, Outcome, ResultsFile
    from atom_plugin.sources import SourceRequest
    from atom_plugin.training_recipes import TrainConfig


def _list_models(ctx: click.Context, param: click.Parameter, pattern: str | None) -> None:
    if pattern is None or ctx.resilient_parsing:
        return
    from atom_plugin.models import list_models

    for name in list_models(pattern):
        click.echo(name)
    ctx.exit()


def _names(ctx: click.Context, param: click.Parameter, given: str) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise click.UsageError(f"{param.opts[0]} must be names joined by commas, not {given!r}", ctx)
    return names


def _evaluation_options(command: Command) -> Command:
    """What is trained on what, and where results go."""
    file = click.Path(path_type=Path)
    return bundle(
        click.option(
            "--models",
            "--model",
            metavar="NAME,…",
            default="convnet",
            show_default=True,
            callback=_names,
            help="Architectures to train, joined by commas: convnet (the set's own), alexnet, vgg11, resnet18, vit, or any of "
            "timm's, as timm:convnext_atto.",
        ),
        click.option(
            "--list-models",
            metavar="PATTERN",
            is_eager=True,
            expose_value=False,
            callback=_list_models,
            help="List models, timm's by a pattern such as '*mixer*'.",
        ),
        click.option(
            "--repeats",
            metavar="N",
            type=POSITIVE_INT,
            default=5,
            show_default=True,
            help="Networks per set and model; the papers: 20.",
        ),
        click.option("--full", is_flag=True, help="Train on all real training images too: the upper bound."),
        click.option(
            "--full-epochs",
            metavar="N",
            type=POSITIVE_INT,
            default=100,
            show_default=True,
            help="Passes over those.",
        ),
        click.option(
            "--full-repeats",
            metavar="N",
            type=POSITIVE_INT,
            default=1,
            show_default=True,
            help="Networks per model on those.",
        ),
        click.option(
            "--results",
            metavar="FILE.jsonl",
            type=file,
            help="Add each finished network to this file, and skip those that stand in it: a stopped evaluation goes on.",
        ),
        click.option("--csv", "csv_file", metavar="FILE.csv", type=file, help="Write the table as CSV."),
        click.option("--chart", metavar="FILE.png", type=file, help="Draw the table as bars with error bars."),
    )(command)


@click.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@_evaluation_options
@training_options
@source_options
@run_options
@json_option
@force_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    dataset: str,
    request: SourceRequest,
    training: TrainConfig,
    results: Path | None,
    csv_file: Path | None,
    chart: Path | None,
    as_json: bool,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train fresh networks on each set, test them, and report mean and standard deviation after the last epoch.

    Sets that differ in their seed alone are also pooled, as the papers do with five sets and 20 networks each. The test
    images are those of the source that the set names, also where its folder moved (--data-dir); --dataset names another
    source. A model that cannot take the images is reported and the others go on (docs/evaluation.md).

    \b
    Examples:
      atom-cli consume evaluate digits-atom-ipc20.h5 digits-random-ipc20.h5 --repeats 3
      atom-cli consume evaluate cifar10-*.h5 --models convnet,alexnet,vgg11,resnet18,vit \\
        --training-recipe dm --repeats 20 --results cross.jsonl --chart cross.png
      torchrun --nproc-per-node 2 $(which atom-cli) consume evaluate set.h5 --repeats 20
    """
    from atom_plugin import meetings, processes
    from atom_plugin.atomic import write_bytes
    from atom_plugin.device import resolve_device, resolve_precision
    from atom_plugin.evaluation import ResultsFile, summarise
    from atom_plugin.evaluation.chart import draw_chart
    from atom_plugin.evaluation.tables import as_csv, table

    if not options["full"] and (idle := [n for n in ("full_epochs", "full_repeats") if is_given(ctx, n)]):
        raise click.UsageError(f"--{idle[0].replace('_', '-')} is about --full; add that")
    for path in (csv_file, chart):
        if path is not None:
            _check_place(path, force=force)
    # From here on every process of a run does the same, but for the networks that it trains; the first one prints.
    click.get_current_context().with_resource(processes.dealt(options["device"]))
    device = resolve_device(options["device"])
    options["precision"] = resolve_precision(options["precision"], device)
    with meetings.leader_first():
        jobs = _plan(files, dataset if is_given(ctx, "dataset") else None, request, training, options)
    finished = None if results is None else ResultsFile(results)
    if finished is not None:
        finished.require_budgets(jobs)
    evaluations = summarise(_run(jobs, finished, device, quiet=quiet))
    if not processes.leads():
        return
    click.echo(json.dumps([each.to_json() for each in evaluations]) if as_json else table(evaluations))
    if csv_file is not None:
        write_bytes(csv_file, as_csv(evaluations).encode(), force=force)
    if all(each.mean is None for each in evaluations):
        ctx.exit(1)
    if chart is not None:
        draw_chart(evaluations, chart, force=force)


def _check_place(path: Path, *, force: bool) -> None:
    """Raises StoreError, before the work, where a file could not be written after it."""
    from atom_plugin.atomic import reason, refuse_existing
    from atom_plugin.errors import StoreError

    refuse_existing(path, force=force)
    if not path.parent.is_dir():
        raise StoreError(f"{path}: cannot be written: {reason(FileNotFoundError(), path)}")


def _plan(
    files: Sequence[Path], dataset: str | None, request: SourceRequest, training: TrainConfig, options: dict[str, Any]
) -> list[Job]:
    from atom_plugin import store
    from atom_plugin.evaluation import Subject, full_subjects, load_test_sources, plan_jobs

    sets = [store.read(file) for file in files]
    sources = load_test_sources(list(map(str, files)), sets, dataset, request)
    subjects = [
        Subject(name=str(file), synthetic_set=held, test=source.test, tested_on=source.fingerprint)
        for file, held, source in zip(files, sets, sources, strict=True)
    ]
    how = {name: options[name] for name in ("normalisation", "seed", "precision")}
    jobs = plan_jobs(subjects, options["models"], training, repeats=options["repeats"], **how)
    if options["full"]:
        longer = replace(training, epochs=options["full_epochs"])
        whole = full_subjects(subjects, sources)
        repeats = options["full_repeats"]
        jobs += plan_jobs(whole, options["models"], longer, repeats=repeats, first=len(jobs), **how)
    return jobs


def _run(jobs: Sequence[Job], finished: ResultsFile | None, device: torch.device, *, quiet: bool) -> list[Outcome]:
    """The outcomes in the order of the jobs; those that stand in the file, or that another job gives as well, are not run.

    Processes deal the others out among themselves, and have all outcomes in the end.
    """
    from tqdm import tqdm

    from atom_plugin import meetings, processes
    from atom_plugin.evaluation import Outcome, run_jobs

    outcomes: dict[str, Outcome] = {}
    pending: dict[str, Job] = {}
    for job in jobs:
        if finished is not None and (held := finished.accuracy_of(job)) is not None:
            outcomes[job.key] = Outcome(job=job, accuracy=held)
        else:
            pending.setdefault(job.key, job)
    meetings.barrier()  # all have read the results file before one writes to it
    path = None if finished is None else finished.path
    own = processes.share(list(pending.values()))
    total = sum(job.cell.training.epochs for job in own)
    reached: list[tuple[str, dict[str, Any]]] = []

    def how_to_go_on() -> str:
        done = f"{len(outcomes)} of {len(outcomes.keys() | pending.keys())} networks"
        return f"Stopped after {done}; give the same command to go on (results so far: {path})"

    resumable = nullcontext() if finished is None else told_how_to_go_on(how_to_go_on)
    with resumable, tqdm(total=total, disable=quiet or not processes.leads(), unit="epoch") as bar:
        each = run_jobs(own, device=device, on_start=partial(_tell, bar), on_epoch=lambda _: bar.update())
        for outcome in each:
            outcomes[outcome.job.key] = outcome
            reached.append((outcome.job.key, outcome.plain()))
            if outcome.error is not None:
                cell = outcome.job.cell
                tqdm.write(f"failed: {cell.model} on {cell.subject.name}: {outcome.error}", file=sys.stderr)
            elif finished is not None:
                finished.append(outcome)
        for key, values in meetings.collected(reached):
            outcomes[key] = Outcome(job=pending[key], **values)
    return [replace(outcomes[job.key], job=job) for job in jobs if job.key in outcomes]


def _tell(bar: Any, job: Job) -> None:
    bar.set_description(f"{job.cell.model} on {Path(job.cell.subject.name).name}, {job.repeat + 1}")
