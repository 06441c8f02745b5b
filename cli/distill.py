"""``atom-cli distill``: real images in, a synthetic set out."""

from __future__ import annotations

import glob
import math
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.distill_options import (
    FIELD_OPTIONS,
    MATCHER_OPTIONS,
    NETWORK_OPTIONS,
    recipe_options,
    record_options,
)
from atom_plugin.cli.options import PATH, POSITIVE_INT, force_option, json_option, run_options, source_options
from atom_plugin.cli.outputs import Output, claim, default_name, write_set
from atom_plugin.cli.report import report
from atom_plugin.runtime import distributed, rendezvous

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.distillation.loop import Progress
    from atom_plugin.store.synthetic_set import SyntheticSet


@click.command()
@source_options
@click.option("--ipc", metavar="N", type=POSITIVE_INT, help="Synthetic images per class.  [required]")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=PATH,
    help="The set to write.  [default: DATASET-MATCHER-ipcN.h5, with -seedN before .h5 where --seed is not 0]",
)
@recipe_options
@run_options
@click.option(
    "--engine",
    type=click.Choice(["auto", "plain", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="How a step is computed: plain suits any network and device, cpu and cuda are faster for the ConvNet; auto takes "
    "the fastest that suits.",
)
@record_options
@force_option
@json_option
def distill(
    *,
    dataset: str,
    request: SourceRequest,
    ipc: int | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    resume: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Distil a source into a few synthetic images per class, stored as one HDF5 file.

    Beside FILE.h5 go a log of loss and time per step (FILE.log.jsonl), the checkpoints while it runs (FILE.checkpoint), and
    the pictures asked for.

    \b
    Examples:
      atom-cli distill --ipc 20
      atom-cli distill --dataset cifar10 --ipc 10 -o cifar.h5
      atom-cli distill --dataset folder --data-dir photos --image-size 64 --ipc 5
      torchrun --nproc-per-node 2 $(which atom-cli) distill --dataset cifar100 --ipc 10 -o cifar.h5
    """
    if ipc is None:
        raise click.UsageError("--ipc is missing; say how many synthetic images per class you want, e.g. --ipc 10")
    name = (dataset, options["matcher"] or options["recipe"], f"ipc{ipc}")
    output = output or default_name(*name, seed=options["seed"], suffix=".h5")
    paths = _Paths(output)
    finished = resume and output.is_file() and not force
    pictures = paths.pictures(plot=options["plot"], previews=options["preview_every"] is not None)
    claim(paths.outputs(pictures, finished=finished, resume=resume, force=force), inputs=[request.data_dir])
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.run_log import read_log
    from atom_plugin.store.pictures import loss_curve

    # From here on every process of a run does the same; the first one writes and prints.
    click.get_current_context().with_resource(distributed.joined(options["device"]))
    with rendezvous.leader_first():
        data = load_source(dataset, request)
    config = _config(ipc, data, options)
    if finished:
        synthetic_set = _finished_set(paths, config, data, options["device"])
    else:
        options["force"], options["replace"] = force, resume or force
        rendezvous.barrier()  # all have looked at the files before the first one writes any
        synthetic_set = _run(config, data, paths, options, resume=resume, quiet=quiet)
        if distributed.leads():
            write_set(synthetic_set, output, force=force)
    if not distributed.leads():
        return
    paths.checkpoint.unlink(missing_ok=True)
    if options["plot"]:
        loss_curve(read_log(paths.log_so_far), paths.plot, force=resume or force)
    report(synthetic_set, paths.output, as_json=as_json)


class _Paths:
    """Where the parts of a run go: beside the set, under its name."""

    def __init__(self, output: Path) -> None:
        if not output.name:
            raise click.UsageError(f"-o {output} has no name; give one, e.g. -o mine.h5")
        if output.suffix in (".checkpoint", ".jsonl", ".png"):
            raise click.UsageError(f"-o must not end in {output.suffix}, as the run's own files do; use .h5")
        self.output = output
        self.checkpoint = output.with_suffix(".checkpoint")
        self.log = output.with_suffix(".log.jsonl")
        self.plot = output.with_suffix(".loss.png")

    @property
    def log_so_far(self) -> Path:
        """The log of the run until now; a run that an older release began has it under FILE.jsonl."""
        from atom_plugin.distillation.run_log import is_log

        old = self.output.with_suffix(".jsonl")
        return old if not self.log.exists() and old.is_file() and is_log(old) else self.log

    def preview(self, iteration: int) -> Path:
        return self.output.with_suffix(f".{iteration:06d}.png")

    def pictures(self, *, plot: bool, previews: bool) -> list[Path]:
        """The pictures to write, of the previews those that are there already."""
        pattern = f"{glob.escape(self.output.stem)}.{'[0-9]' * 6}.png"
        return ([self.plot] if plot else []) + (sorted(self.output.parent.glob(pattern)) if previews else [])

    def outputs(self, pictures: list[Path], *, finished: bool, resume: bool, force: bool) -> list[Output]:
        """All that the run writes."""
        again = resume or force
        left = "a stopped run left its state there; go on with --resume, or start over with --force"
        return [
            Output(path=self.output, option="-o", replace=force or finished),
            Output(path=self.checkpoint, option="the checkpoint", replace=again, ours=_is_checkpoint, kept=left),
            # An earlier run's log is never in the way: one that nothing goes on with gets another name.
            Output(path=self.log, option="the log", replace=True, ours=_is_log),
            *(Output(path=path, option="the picture", replace=again, ours=_is_picture) for path in pictures),
        ]


def _is_checkpoint(path: Path) -> bool:
    from atom_plugin.distillation.checkpoint import is_checkpoint

    return is_checkpoint(path)


def _is_log(path: Path) -> bool:
    from atom_plugin.distillation.run_log import is_log

    return is_log(path)


def _is_picture(path: Path) -> bool:
    from atom_plugin.store.pictures import is_picture

    return is_picture(path)


def _config(ipc: int, data: SourceData, options: dict[str, Any]) -> DistillConfig:
    from atom_plugin.distillation.config import DistillConfig

    given = {name: value for name, value in options.items() if value is not None}
    overrides = {name: given[name] for name in FIELD_OPTIONS if name in given}
    return DistillConfig.from_recipe(
        given["recipe"],
        ipc=ipc,
        image_shape=data.image_shape,
        network={name: given[name] for name in NETWORK_OPTIONS if name in given},
        matcher_options={**given["matcher_option"], **{name: given[name] for name in MATCHER_OPTIONS if name in given}},
        **overrides,
    )


def _run(
    config: DistillConfig, data: SourceData, paths: _Paths, options: dict[str, Any], *, resume: bool, quiet: bool
) -> SyntheticSet:
    from tqdm import tqdm

    from atom_plugin.cli.interrupts import stop_requests
    from atom_plugin.distillation.checkpoint import Checkpoint
    from atom_plugin.distillation.loop import distill as run
    from atom_plugin.distillation.run_log import RunLog
    from atom_plugin.errors import StoreError
    from atom_plugin.store.pictures import grid

    leads = distributed.leads()
    continued = resume and paths.checkpoint.exists()
    if not continued and leads:
        paths.checkpoint.unlink(missing_ok=True)  # of a run that --force starts over
        if not options["force"]:
            _keep_log(paths.log, quiet=quiet)
    done = Checkpoint.load(paths.checkpoint).iteration if continued else 0
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(paths.log, after=done, earlier=paths.log_so_far)) if leads else None
        bar = stack.enter_context(
            tqdm(total=config.iterations, initial=done, disable=quiet or not leads, unit="step", desc=config.matcher)
        )
        stop_signal = stack.enter_context(stop_requests())
        unlogged: deque[Progress] = deque()

        def write_log(*, wait: bool) -> None:
            while unlogged and (wait or unlogged[0].ready):
                done = unlogged.popleft()
                if not math.isfinite(done.loss):
                    continue  # the run ends with an error that says so
                if log is not None:
                    try:
                        log.write(iteration=done.iteration, loss=done.loss, seconds=round(done.seconds, 6))
                    except StoreError:
                        unlogged.clear()  # the run ends with this error, not with that of the next line
                        raise
                bar.set_postfix(loss=f"{done.loss:.4g}", refresh=False)

        stack.callback(write_log, wait=True)

        def on_progress(progress: Progress) -> None:
            unlogged.append(progress)
            write_log(wait=False)  # a device may still be at work on the last steps; nothing waits for it here
            bar.update()
            every = options["preview_every"]
            if every and progress.iteration % every == 0:
                seen = progress.snapshot()
                title = f"{config.matcher}, step {progress.iteration}"
                path = paths.preview(progress.iteration)
                if leads:
                    grid(seen, seen.labels, seen.class_names, path, title=title, force=options["replace"])

        return run(
            config,
            data,
            device=options["device"],
            engine=options["engine"],
            checkpoint=paths.checkpoint,
            checkpoint_every=options["checkpoint_every"],
            resume=resume,
            on_progress=on_progress,
            stop_signal=stop_signal,
        )


def _keep_log(path: Path, *, quiet: bool) -> None:
    """Rename the log of an earlier run, which this one does not go on with."""
    from atom_plugin.distillation.run_log import set_aside

    kept = set_aside(path)
    if kept is not None and not quiet:
        click.echo(f"note: the log of an earlier run is kept as {kept}", err=True)


def _finished_set(paths: _Paths, config: DistillConfig, data: SourceData, device: str) -> SyntheticSet:
    """The set of a run that was stopped after storing it. Raises StoreError if another run made the file."""
    from atom_plugin import store
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.errors import StoreError
    from atom_plugin.runtime.device import resolve_device, resolve_precision

    synthetic_set = store.read(paths.output)
    provenance = synthetic_set.provenance
    expected = replace(config, precision=resolve_precision(config.precision, resolve_device(device))).to_json()
    held = {**DistillConfig(ipc=1).to_json(), **provenance.config}  # an older release's set lacks the newer choices
    differing = [key for key, value in expected.items() if held[key] != value]
    if provenance.source.get("fingerprint") != data.fingerprint:
        differing.append("the source images")
    if differing:
        raise StoreError(
            f"{paths.output}: already exists, and was made with another {', '.join(differing)}; choose another name, or "
            "replace it with --force"
        )
    return synthetic_set
