"""``atom-cli consume search``: rank architectures by training them on a small set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import CheckedCommand, gathered
from atom_plugin.cli.options import PATH, force_option, json_option, latex_option, refuse_table_file, run_options
from atom_plugin.cli.outputs import claim, table_outputs
from atom_plugin.cli.search_options import (
    ONLY_WITH,
    Compared,
    Outputs,
    Searched,
    proxy_options,
    result_options,
    space_options,
)
from atom_plugin.cli.source_options import other_source_options, validation_option
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.cli.training_options import proxy_training_options, settled_training

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest
    from atom_plugin.evaluation.training_recipes import TrainConfig
    from atom_plugin.search.result import SearchResult


@click.command(
    cls=CheckedCommand,
    settled=settled_training,
    only_with=ONLY_WITH,
    shown="data_dir proxy reference space pick sample halving epochs results chart dry_run seed device",
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@space_options
@proxy_options
@proxy_training_options
@result_options
@other_source_options(default="the one that the sets name")
@validation_option
@run_options
@json_option
@latex_option
@force_option
@gathered("searched", Searched)
@gathered("compared", Compared)
@gathered("outputs", Outputs)
@click.pass_context
def search(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    searched: Searched,
    compared: Compared,
    outputs: Outputs,
    dataset: str | None,
    request: SourceRequest,
    training: TrainConfig,
    as_json: bool,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train many architectures on each set, rank them, and compare the ranking with training on all real images.

    Accuracy is measured on validation images. Make the sets with distill --validation, so that they have not seen these images;
    otherwise a tenth of the training images is held out now. The best model of a proxy is then trained on all images, and
    tested. A candidate that cannot take the images, or whose loss diverges, gets a row with the reason (docs/search.md).

    \b
    Examples:
      atom-cli consume search digits-atom-ipc10.h5 --sample 36 --results search.jsonl --chart search.png
      atom-cli consume search cifar10-atom-ipc50.h5 --pick 'depth=3|4,pooling=avg' --reference best:100 --halving
      torchrun --nproc-per-node 2 $(which atom-cli) consume search set.h5 --space models.toml --results search.jsonl
    """
    refuse_table_file(files)
    _claim(files, request, outputs, force=force)
    load_torch()
    from atom_plugin import store
    from atom_plugin.cli import search_jobs
    from atom_plugin.evaluation import NetworkResultsFile
    from atom_plugin.runtime import distributed, rendezvous
    from atom_plugin.runtime.device import resolve_device, resolve_precision
    from atom_plugin.search.workloads import ProxyPlan

    space, space_words = search_jobs.space_of(searched, options["seed"])
    ctx.with_resource(distributed.dealt(options["device"]))
    device = resolve_device(options["device"])
    sets = [store.read(file) for file in files]
    with rendezvous.leader_first():
        source, unseen = search_jobs.searched_source(files, sets, dataset, request)
    plan = ProxyPlan(
        names=compared.proxy,
        training=training,
        repeats=compared.repeats,
        seed=options["seed"],
        device=options["device"],
        precision=resolve_precision(options["precision"], device),
    )
    named_sets = list(zip(search_jobs.short_names(files), sets, strict=True))
    work = search_jobs.prepared(space, named_sets, source, compared, plan)
    finished = None if outputs.results is None else NetworkResultsFile(outputs.results)
    if distributed.leads() and (outputs.dry_run or not quiet):
        echo(search_jobs.forecast(work, finished, device), err=not outputs.dry_run)
    if outputs.dry_run:
        return
    result = work.run(
        partial(search_jobs.train, finished=finished, device=device, quiet=quiet),
        tops=sorted({1, outputs.top}),
        words={"space": space_words, **search_jobs.described(work, unseen=unseen)},
    )
    if distributed.leads():
        _report(result, outputs, as_json=as_json, force=force)
    if all(each.best is None for each in result.summaries):
        ctx.exit(1)


def _claim(files: Sequence[Path], request: SourceRequest, outputs: Outputs, *, force: bool) -> None:
    written = table_outputs(outputs.csv_file, outputs.chart, outputs.results, force=force)
    claim(written, inputs=[*files, request.data_dir])


def _report(result: SearchResult, outputs: Outputs, *, as_json: bool, force: bool) -> None:
    from atom_plugin.runtime.files import write_bytes
    from atom_plugin.search.chart import draw_scatter
    from atom_plugin.search.tables import as_csv, search_table

    echo(json.dumps(result.to_json()) if as_json else search_table(result, top=outputs.top, latex=outputs.latex))
    if outputs.csv_file is not None:
        write_bytes(outputs.csv_file, as_csv(result).encode(), force=force)
    if outputs.chart is not None and any(each.best is not None for each in result.summaries):
        draw_scatter(result, outputs.chart, force=force)
