"""``atom-cli distill``: real images in, a synthetic set out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import RenamedOption, SectionedCommand, section
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
from atom_plugin.cli.outputs import claim, default_name, write_set
from atom_plugin.cli.source_options import WITH_DATA_DIR, keep_paths_option, source_options, validation_option
from atom_plugin.cli.terminal import load_torch
from atom_plugin.cli.written import report
from atom_plugin.runtime import distributed, rendezvous

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest


class _Engine(click.Choice[str]):
    """The names of engines; "captured" was the name of the one on CUDA."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The engine's name of today."""
        return super().convert("cuda" if value == "captured" else value, param, ctx)


@click.command(
    cls=SectionedCommand,
    only_with=(WITH_POOLING, WITH_DATA_DIR, WITH_VALIDATION),
)
@section("Source", source_options, validation_option)
@config_options
@section(
    "Computation",
    device_option,
    click.option(
        "--engine",
        cls=RenamedOption,
        old=("--step",),
        type=_Engine(["auto", "plain", "cuda"]),
        default="auto",
        show_default=True,
        help="How a step is computed: plain suits any network and device, cuda is faster for the ConvNet on CUDA; auto "
        "takes the fastest that suits.",
    ),
)
@section("Files", output_option("DATASET-MATCHER-ipcN.h5"), keep_paths_option)
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
    quiet: bool,
    as_json: bool,
) -> None:
    """Distil a source into a few synthetic images per class, stored as one HDF5 file.

    Beside FILE.h5 go a log of loss and time per step (FILE.log.jsonl), the checkpoints while it runs (FILE.checkpoint), and
    the pictures asked for.

    \b
    Examples:
      atom-cli distill --ipc 20
      atom-cli distill --dataset cifar10 --ipc 10 -o cifar.h5
      atom-cli distill --dataset cifar10 --extend cifar.h5 --ipc 20
      atom-cli distill --dataset folder --data-dir photos --image-size 64 --ipc 5
      torchrun --nproc-per-node 2 $(which atom-cli) distill --dataset cifar100 --ipc 10 -o cifar.h5
    """
    if "ipc" not in chosen.fields:
        raise click.UsageError("--ipc is missing; say how many synthetic images per class you want, e.g. --ipc 10")
    seed = chosen.fields.get("seed", 0)
    name = (dataset, chosen.method, f"ipc{chosen.fields['ipc']}")
    output = output or default_name(*name, seed=seed, suffix=".h5")
    paths = RunFiles(output)
    finished = recording.resume and output.is_file() and not recording.force
    pictures = paths.pictures(plot=recording.plot, previews=recording.preview_every is not None)
    claim(paths.outputs(pictures, recording, finished=finished), inputs=[request.data_dir, *chosen.files])
    load_torch()
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.run_log import read_log
    from atom_plugin.store.pictures import loss_curve

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
    if finished:
        synthetic_set = finished_set(paths, config, data, device)
    else:
        rendezvous.barrier()  # all have looked at the files before the first one writes any
        run = Run(paths=paths, recording=recording, device=device, engine=engine, quiet=quiet)
        synthetic_set = run(config, data)
        if distributed.leads():
            write_set(synthetic_set, output, force=recording.force, keep_paths=keep_paths)
    if not distributed.leads():
        return
    paths.checkpoint.unlink(missing_ok=True)
    if recording.plot:
        loss_curve(read_log(paths.log_so_far), paths.plot, force=recording.replaces)
    report(synthetic_set, paths.output, made_from=len(data.train), as_json=as_json, keep_paths=keep_paths)
