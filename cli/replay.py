"""``atom-cli consume replay``: continual learning with a memory of synthetic images, compared with baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import CheckedCommand, gathered
from atom_plugin.cli.interrupts import explaining_how_to_resume
from atom_plugin.cli.options import force_option, json_option, latex_option, run_options
from atom_plugin.cli.outputs import Output, claim, default_name
from atom_plugin.cli.replay_options import (
    DISTILLATION,
    NETWORK,
    ONLY_WITH,
    REPLAY_ALONE,
    RUN,
    Compared,
    Outputs,
    given,
    output_options,
    stream_options,
    training_options,
)
from atom_plugin.cli.source_options import source_options
from atom_plugin.cli.terminal import echo, load_torch
from atom_plugin.runtime import distributed, rendezvous
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.integrations.avalanche.experiment import Experiment
    from atom_plugin.integrations.avalanche.experiment_config import ReplayConfig
    from atom_plugin.replay.plan import ComparisonFiles, ReplayRun
    from atom_plugin.replay.results import StreamResult, StreamResultsFile
    from atom_plugin.store.synthetic_set import SyntheticSet


@click.command(
    cls=CheckedCommand,
    only_with=ONLY_WITH,
    shown="dataset steps orders ipc memory policies baselines modes epochs output resume seed device",
)
@source_options
@stream_options
@training_options
@output_options
@run_options
@force_option
@json_option
@latex_option
@gathered("compared", Compared)
@gathered("outputs", Outputs)
def replay(
    *,
    dataset: str,
    request: SourceRequest,
    ipc: int | None,
    compared: Compared,
    outputs: Outputs,
    quiet: bool,
    **options: Any,
) -> None:
    """Learn classes in several steps, with a replay memory of a few images per class, in several class orders.

    Prints the accuracy on all classes so far after each step, as mean and standard deviation over class orders, with forgetting
    and backward transfer, and draws the curves. All policies see the same stream in the same batches. --precision applies to
    distillation and selection; the learning networks compute in float32. Needs avalanche-lib: pip install
    'atom-plugin[avalanche]'.

    \b
    Examples:
      atom-cli consume replay --ipc 10
      atom-cli consume replay --ipc 10 --baselines --policy atom --mode replay --mode from-memory
      atom-cli consume replay --memory set.h5 --ipc 10 --policy random
      atom-cli consume replay --dataset cifar100 --ipc 20 --mode from-memory --epochs 1001 --orders 5 --networks 3
      torchrun --nproc-per-node 2 $(which atom-cli) consume replay --ipc 10 --baselines
    """
    if ipc is None:
        raise click.UsageError("--ipc is missing; say how many memory images per class you want, e.g. --ipc 10")
    _refuse_contradictions(outputs)
    from atom_plugin.replay.plan import ComparisonFiles, plan_runs

    files = ComparisonFiles(outputs.output or default_name(dataset, "replay", f"ipc{ipc}", seed=options["seed"]))
    _claim(files, [*compared.memory, request.data_dir], resume=outputs.resume, force=outputs.force)
    load_torch()
    from atom_plugin import store
    from atom_plugin.datasets import load_source
    from atom_plugin.integrations.avalanche.experiment import Experiment
    from atom_plugin.replay.policies import check_policy
    from atom_plugin.runtime.device import resolve_device, resolve_precision

    names = _policies(compared)
    for name in names:
        check_policy(name, stored=bool(compared.memory))
    sets = [store.read(path) for path in compared.memory]
    click.get_current_context().with_resource(distributed.dealt(options["device"]))
    # What "auto" takes here counts, so that no results file mixes two.
    options["precision"] = resolve_precision(options["precision"], resolve_device(options["device"]))
    with rendezvous.leader_first():
        data = load_source(dataset, request)
    _check_sets(sets, compared.memory, data)
    runs = plan_runs(names, compared.modes, compared.orders, compared.networks)
    experiments: dict[str, Experiment] = {}
    for mode in dict.fromkeys(run.mode for run in runs):
        shared = next(iter(experiments.values())).streams if experiments else None
        config = _config(mode, ipc, data, options)
        experiments[mode] = Experiment(
            config, data, folder=files.folder, sets=sets, device=options["device"], streams=shared
        )
    for experiment in experiments.values():
        experiment.check(names, compared.orders)
    rendezvous.barrier()  # all have looked for leftovers before the first one leaves any
    with rendezvous.leader_first():
        results = files.open_results(
            {mode: experiment.describe() for mode, experiment in experiments.items()},
            experiment.describe_memories(),
            force=outputs.force and distributed.leads(),
        )
    with explaining_how_to_resume(lambda: _resume_hint(files)):
        _run_all(experiments, _own(runs), results, quiet=quiet or not distributed.leads())
    rendezvous.barrier()
    if distributed.leads():
        found = _of_all_processes(files, results, runs)
        _report(files, found, experiment.config, data, outputs)


def _claim(files: ComparisonFiles, inputs: list[Path | None], *, resume: bool, force: bool) -> None:
    from atom_plugin.replay.results import is_results
    from atom_plugin.runtime.picture_files import is_picture

    again = resume or force
    kept = "already exists and is kept; continue with --resume, or start over with --force"
    outputs = [
        # With --resume the results are read, and a line that is none is named.
        Output(
            path=files.results,
            option="the file of results",
            replace=again,
            ours=is_results if force else None,
            kept=kept,
        ),
        Output(path=files.picture, option="the picture", replace=again, ours=is_picture, kept=kept),
        Output(path=files.folder, option="the folder of memories", replace=force, shared=True),
    ]
    claim(outputs, inputs=inputs)
    files.refuse_leftovers(resume=resume, force=force)


def _own(runs: list[ReplayRun]) -> list[ReplayRun]:
    """The runs of this process. Runs of a policy in one class order stay together, since they share the sets in the folder."""
    own = set(distributed.share(list(dict.fromkeys((run.policy, run.order) for run in runs))))
    return [run for run in runs if (run.policy, run.order) in own]


def _of_all_processes(
    files: ComparisonFiles, results: StreamResultsFile, runs: list[ReplayRun]
) -> Sequence[StreamResult]:
    """All results, in the order of the plan if processes share the file."""
    if distributed.count() == 1:
        return results.results
    place = {tuple(run): index for index, run in enumerate(runs)}
    found = type(results)(files.results).results
    return sorted(found, key=lambda result: place.get(result.key, len(place)))


def _refuse_contradictions(outputs: Outputs) -> None:
    """Raises UsageError for options that exclude each other."""
    if outputs.resume and outputs.force:
        raise click.UsageError("--resume and --force contradict each other; give one of the two")
    for name, other in (("json", outputs.as_json), ("latex", outputs.latex)):
        if other and outputs.markdown:
            raise click.UsageError(f"--{name} and --markdown contradict each other; give one of the two")


def _config(mode: str, ipc: int, data: SourceData, options: dict[str, Any]) -> ReplayConfig:
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.integrations.avalanche.experiment_config import ReplayConfig

    # Every step of every order is distilled; the recipe's iterations are those of a single set.
    iterations = max(1, DistillConfig.from_recipe("atom", ipc=ipc, image_shape=data.image_shape).iterations // 3)
    return ReplayConfig.for_mode(
        mode,
        ipc=ipc,
        steps=options["steps"],
        seed=options["seed"],
        network=given(options, NETWORK),
        distillation={"iterations": iterations, **given(options, DISTILLATION)},
        **(given(options, REPLAY_ALONE) if mode == "replay" else {}),
        **given(options, RUN),
    )


def _policies(compared: Compared) -> list[str]:
    """The policies' names, in the order of the table."""
    from atom_plugin.matchers import MATCHERS
    from atom_plugin.replay.plan import BASELINES
    from atom_plugin.replay.policies import STORED, parts_of

    names = list(compared.policies)
    if compared.memory and STORED not in names:
        names.insert(0, STORED)
    if not names or (compared.distill and not set(MATCHERS.names()).intersection(*map(parts_of, names))):
        names.append("atom")
    if compared.baselines:
        names += ["random", "herding", *BASELINES]
    return list(dict.fromkeys(names))


def _check_sets(sets: list[SyntheticSet], paths: tuple[Path, ...], data: SourceData) -> None:
    from atom_plugin.evaluation import check_test_source

    for held, path in zip(sets, paths, strict=True):
        check_test_source(held, str(path), data)


def _run_all(
    experiments: dict[str, Experiment], runs: list[ReplayRun], results: StreamResultsFile, *, quiet: bool
) -> None:
    epochs = {mode: experiment.config.epochs * experiment.config.steps for mode, experiment in experiments.items()}
    with progress_bar(sum(epochs[run.mode] for run in runs), hidden=quiet, unit="epoch") as bar:
        for run in runs:
            bar.set_description(f"{run.policy} {run.mode}, order {run.order}")
            experiment = experiments[run.mode]
            result = results.find(*run)
            if result is None:
                with distributed.alone():
                    result = experiment.run(
                        run.policy,
                        run.order,
                        run.network,
                        on_epoch=bar.update,
                        on_distilled=lambda progress: bar.set_postfix_str(f"distilling, step {progress.iteration}"),
                    )
                bar.set_postfix_str("")
                results.append(result)
            else:
                bar.update(epochs[run.mode])
            experiment.forget(result)


def _resume_hint(files: ComparisonFiles) -> str:
    kept = f"results so far: {files.results}" if files.results.exists() else f"no result yet; state: {files.folder}"
    return f"Stopped; continue with --resume ({kept})"


def _report(
    files: ComparisonFiles,
    results: Sequence[StreamResult],
    config: ReplayConfig,
    data: SourceData,
    outputs: Outputs,
) -> None:
    from atom_plugin.integrations.avalanche.benchmark import split_classes
    from atom_plugin.replay.curves import draw_curves
    from atom_plugin.replay.summaries import stream_table, summarise_streams

    summaries = summarise_streams(results)
    per_step = [len(classes) for classes in split_classes(range(len(data.class_names)), config.steps)]
    title = f"{data.name}, {config.steps} steps, {config.ipc} memory images per class"
    draw_curves(summaries, files.picture, classes_per_step=per_step, title=title, force=True)
    if outputs.as_json:
        record = {
            "results": [result.to_json() for result in results],
            "summaries": [summary.to_json() for summary in summaries],
            "picture": str(files.picture),
        }
        echo(json.dumps(record))
        return
    echo(stream_table(summaries, classes_per_step=per_step, markdown=outputs.markdown, latex=outputs.latex))
    echo(f"\nresults: {files.results}\ncurves:  {files.picture}\nsets:    {files.folder}")
