"""``atom-cli distill``: make a synthetic set from real images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import CheckedCommand, RenamedOption
from atom_plugin.cli.config_files import option_values
from atom_plugin.cli.distill_files import RunFiles
from atom_plugin.cli.distill_options import (
    WITH_POOLING,
    WITH_VALIDATION,
    Chosen,
    Recording,
    config_options,
    recording_options,
)
from atom_plugin.cli.distill_run import Run, finished_set
from atom_plugin.cli.options import device_option, json_option, output_option, quiet_option
from atom_plugin.cli.outputs import claim, write_set
from atom_plugin.cli.seeds import output_of, seeds_of, seeds_option
from atom_plugin.cli.source_options import (
    WITH_DATA_DIR,
    keep_paths_option,
    source_options,
    source_request,
    validation_option,
)
from atom_plugin.cli.terminal import load_torch
from atom_plugin.cli.written import report
from atom_plugin.runtime import distributed, rendezvous

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.store.synthetic_set import SyntheticSet


class _Engine(Choice):
    """The names of engines; "captured" is the old name of the engine for CUDA."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The engine's current name."""
        return super().convert("cuda" if value == "captured" else value, param, ctx)


def _settled(values: Mapping[str, Any]) -> dict[str, Any]:
    """For ``--print-config``: the recipe's values, which depend on the images."""
    from atom_plugin.datasets import load_source

    chosen = Chosen.of(values)
    return option_values(chosen.config(load_source(values["dataset"], source_request(values))).to_json())


@click.command(
    cls=CheckedCommand,
    only_with=(WITH_POOLING, WITH_DATA_DIR, WITH_VALIDATION),
    settled=_settled,
    shown="dataset data_dir image_size validation ipc recipe matcher iterations output resume force seed seeds device",
)
@source_options
@validation_option
@config_options
@device_option
@click.option(
    "--engine",
    cls=RenamedOption,
    old=("--step",),
    type=_Engine(["auto", "plain", "cuda"]),
    default="auto",
    show_default=True,
    help="Implementation of a step: plain works for every network and device, cuda is faster for the ConvNet on "
    "CUDA; auto takes the fastest one that works.",
)
@output_option("DATASET-MATCHER-ipcN.h5")
@keep_paths_option
@seeds_option
@recording_options
@quiet_option
@json_option
def distill(
    *,
    dataset: str,
    request: SourceRequest,
    chosen: Chosen,
    device: str,
    engine: str,
    output: Path | None,
    keep_paths: bool,
    recording: Recording,
    seeds: tuple[int, ...] | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Distil an image source into a few synthetic images per class, stored in one HDF5 file.

    Other files are written next to FILE.h5: a log of loss and time per step (FILE.log.jsonl), checkpoints while the run lasts
    (FILE.checkpoint), and pictures on request.

    \b
    Examples:
      atom-cli distill --ipc 20
      atom-cli distill --dataset cifar10 --ipc 10 -o cifar.h5
      atom-cli distill --dataset cifar10 --extend cifar.h5 --ipc 20
      atom-cli distill --dataset folder --data-dir photos --image-size 64 --ipc 5
      torchrun --nproc-per-node 2 $(which atom-cli) distill --dataset cifar100 --ipc 10 -o cifar.h5
    """
    name = (dataset, chosen.method, f"ipc{chosen.fields['ipc']}")
    sweep = seeds_of(click.get_current_context(), chosen.fields.get("seed", 0), seeds)
    runs = {seed: RunFiles(output_of(output, name, seed, swept=seeds is not None)) for seed in sweep}
    finished = {
        seed for seed, paths in runs.items() if recording.resume and paths.output.is_file() and not recording.force
    }
    _claim(runs, recording, finished, inputs=[request.data_dir, *chosen.files])
    load_torch()
    from atom_plugin.datasets import load_source

    # From here on every process of a run does the same; the first one writes and prints.
    click.get_current_context().with_resource(distributed.joined(device))
    with rendezvous.leader_first():
        data = load_source(dataset, request)
    config = chosen.config(data)
    for option, every in (("preview", recording.preview_every), ("evaluate", recording.evaluate_every)):
        if (every or 0) > config.iterations:
            raise click.UsageError(
                f"--{option}-every {every} has no effect on a run of {config.iterations} steps; leave it out"
            )
    made = {}
    for seed, paths in runs.items():
        run = Run(paths=paths, recording=recording, device=device, engine=engine, quiet=quiet)
        made[paths.output] = _made(
            run, replace(config, seed=seed), data, finished=seed in finished, keep_paths=keep_paths
        )
    if distributed.leads():
        report(made, made_from=len(data.train), as_json=as_json, keep_paths=keep_paths, swept=seeds is not None)


def _claim(
    runs: Mapping[int, RunFiles], recording: Recording, finished: Collection[int], inputs: list[Path | None]
) -> None:
    """The output files of all runs."""
    outputs = []
    for seed, paths in runs.items():
        pictures = paths.pictures(plot=recording.plot, previews=recording.preview_every is not None)
        outputs += paths.outputs(pictures, recording, finished=seed in finished)
    claim(list(dict.fromkeys(outputs)), inputs=inputs)  # runs share the folder of TensorBoard


def _made(run: Run, config: DistillConfig, data: SourceData, *, finished: bool, keep_paths: bool) -> SyntheticSet:
    """Run once, write the set and the picture of its loss, and return the set."""
    from atom_plugin.distillation.run_log import read_log
    from atom_plugin.store.pictures import loss_curve

    paths, recording = run.paths, run.recording
    if finished:
        held = finished_set(paths, config, data, run.device)
    else:
        rendezvous.barrier()  # all have looked at the files before the first one writes any
        held = run(config, data)
        if distributed.leads():
            write_set(held, paths.output, force=recording.force, keep_paths=keep_paths)
    if distributed.leads():
        paths.checkpoint.unlink(missing_ok=True)
        if recording.plot:
            loss_curve(read_log(paths.log_so_far), paths.plot, force=recording.replaces)
    return held
