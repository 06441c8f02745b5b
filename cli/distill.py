"""``atom-cli distill``: real images in, a synthetic set out."""

from __future__ import annotations

import glob
import math
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.distill_options import Chosen, Recording, config_options, recording_options
from atom_plugin.cli.options import (
    RenamedOption,
    SectionedCommand,
    device_option,
    json_option,
    output_option,
    quiet_option,
    section,
    source_options,
    validation_option,
)
from atom_plugin.cli.outputs import Output, claim, default_name, write_set
from atom_plugin.cli.report import report
from atom_plugin.runtime import distributed, rendezvous

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.distillation.loop import Progress
    from atom_plugin.store.synthetic_set import SyntheticSet


class _Engine(click.Choice[str]):
    """The names of engines; "captured" was the name of the one on CUDA."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The engine's name of today."""
        return super().convert("cuda" if value == "captured" else value, param, ctx)


@click.command(cls=SectionedCommand)
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
@section("Files", output_option("DATASET-MATCHER-ipcN.h5"))
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
      atom-cli distill --dataset folder --data-dir photos --image-size 64 --ipc 5
      torchrun --nproc-per-node 2 $(which atom-cli) distill --dataset cifar100 --ipc 10 -o cifar.h5
    """
    if "ipc" not in chosen.fields:
        raise click.UsageError("--ipc is missing; say how many synthetic images per class you want, e.g. --ipc 10")
    seed = chosen.fields.get("seed", 0)
    name = (dataset, chosen.method, f"ipc{chosen.fields['ipc']}")
    output = output or default_name(*name, seed=seed, suffix=".h5")
    paths = _Paths(output)
    finished = recording.resume and output.is_file() and not recording.force
    pictures = paths.pictures(plot=recording.plot, previews=recording.preview_every is not None)
    claim(paths.outputs(pictures, recording, finished=finished), inputs=[request.data_dir])
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.run_log import read_log
    from atom_plugin.store.pictures import loss_curve

    # From here on every process of a run does the same; the first one writes and prints.
    click.get_current_context().with_resource(distributed.joined(device))
    with rendezvous.leader_first():
        data = load_source(dataset, request)
    config = chosen.config(data)
    if finished:
        synthetic_set = _finished_set(paths, config, data, device)
    else:
        rendezvous.barrier()  # all have looked at the files before the first one writes any
        run = _Run(paths=paths, recording=recording, device=device, engine=engine, quiet=quiet)
        synthetic_set = run(config, data)
        if distributed.leads():
            write_set(synthetic_set, output, force=recording.force)
    if not distributed.leads():
        return
    paths.checkpoint.unlink(missing_ok=True)
    if recording.plot:
        loss_curve(read_log(paths.log_so_far), paths.plot, force=recording.replaces)
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

    def outputs(self, pictures: list[Path], recording: Recording, *, finished: bool) -> list[Output]:
        """All that the run writes."""
        again, force = recording.replaces, recording.force
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


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run and its records: called, it distils, while a log is written, pictures are drawn and progress is shown."""

    paths: _Paths
    recording: Recording
    device: str
    engine: str
    quiet: bool

    def __call__(self, config: DistillConfig, data: SourceData) -> SyntheticSet:
        from tqdm import tqdm

        from atom_plugin.cli.interrupts import stop_requests
        from atom_plugin.distillation.checkpoint import Checkpoint
        from atom_plugin.distillation.loop import distill as run
        from atom_plugin.distillation.run_log import RunLog
        from atom_plugin.errors import StoreError

        leads, resume, checkpoint = distributed.leads(), self.recording.resume, self.paths.checkpoint
        continued = resume and checkpoint.exists()
        if not continued and leads:
            checkpoint.unlink(missing_ok=True)  # of a run that --force starts over
            if not self.recording.force:
                _keep_log(self.paths.log, quiet=self.quiet)
        done = Checkpoint.load(checkpoint).iteration if continued else 0
        hidden = self.quiet or not leads
        with ExitStack() as stack:
            log = (
                stack.enter_context(RunLog(self.paths.log, after=done, earlier=self.paths.log_so_far))
                if leads
                else None
            )
            bar = stack.enter_context(
                tqdm(total=config.iterations, initial=done, disable=hidden, unit="step", desc=config.matcher)
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
                self._draw(progress, config)

            return run(
                config,
                data,
                device=self.device,
                engine=self.engine,
                checkpoint=checkpoint,
                checkpoint_every=self.recording.checkpoint_every,
                resume=resume,
                on_progress=on_progress,
                stop_signal=stop_signal,
            )

    def _draw(self, progress: Progress, config: DistillConfig) -> None:
        """The picture of the set as it stands, where one is due."""
        from atom_plugin.store.pictures import grid

        every = self.recording.preview_every
        if not every or progress.iteration % every:
            return
        seen = progress.snapshot()  # in all processes of a run
        title = f"{config.matcher}, step {progress.iteration}"
        path = self.paths.preview(progress.iteration)
        if distributed.leads():
            grid(seen, seen.labels, seen.class_names, path, title=title, force=self.recording.replaces)


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
    from atom_plugin.errors import ConfigError, StoreError
    from atom_plugin.runtime.device import resolve_device, resolve_precision

    synthetic_set = store.read(paths.output)
    provenance = synthetic_set.provenance
    expected = replace(config, precision=resolve_precision(config.precision, resolve_device(device)))
    try:
        held = DistillConfig.from_json(provenance.config)
    except ConfigError as error:
        raise StoreError(
            f"{paths.output}: already exists, and is no set that this release distils ({error}); choose another name, or "
            "replace it with --force"
        ) from None
    differing = [line.partition(":")[0] for line in expected.differences(held)]
    if provenance.source.get("fingerprint") != data.fingerprint:
        differing.append("--validation or source of images")
    if differing:
        raise StoreError(
            f"{paths.output}: already exists, and was made with another {', '.join(differing)}; choose another name, or "
            "replace it with --force"
        )
    return synthetic_set
