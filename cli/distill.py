"""``atom-cli distill``: real images in, a synthetic set out."""

from __future__ import annotations

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
from atom_plugin.cli.options import POSITIVE_INT, force_option, json_option, run_options, source_options
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
    type=click.Path(path_type=Path),
    help="The set to write.  [default: DATASET-MATCHER-ipcN.h5]",
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

    Beside FILE.h5 go a log of loss and time per step (FILE.jsonl), the checkpoints while it runs (FILE.checkpoint), and
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
    from atom_plugin import store
    from atom_plugin.datasets import load_source
    from atom_plugin.distillation.run_log import read_log
    from atom_plugin.runtime.files import refuse_existing
    from atom_plugin.store.pictures import loss_curve

    output = output or Path(f"{dataset}-{options['matcher'] or options['recipe']}-ipc{ipc}.h5")
    paths = _Paths(output)
    # From here on every process of a run does the same; the first one writes and prints.
    click.get_current_context().with_resource(distributed.joined(options["device"]))
    if not (resume or force):
        paths.refuse_leftovers()
    finished = resume and output.is_file() and not force
    if not finished:
        refuse_existing(output, force=force)
        _check_writable(output)
    with rendezvous.leader_first():
        data = load_source(dataset, request)
    config = _config(ipc, data, options)
    if finished:
        synthetic_set = _finished_set(paths, config, data, options["device"])
    else:
        options["replace"] = resume or force
        rendezvous.barrier()  # all have looked at the files before the first one writes any
        synthetic_set = _run(config, data, paths, options, resume=resume, quiet=quiet)
        if distributed.leads():
            store.write(synthetic_set, output, force=force)
    if not distributed.leads():
        return
    paths.checkpoint.unlink(missing_ok=True)
    if options["plot"]:
        loss_curve(read_log(paths.log), paths.plot, force=resume or force)
    report(synthetic_set, paths.output, as_json=as_json)


class _Paths:
    """Where the parts of a run go: beside the set, under its name."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.checkpoint = output.with_suffix(".checkpoint")
        self.log = output.with_suffix(".jsonl")
        self.plot = output.with_suffix(".loss.png")
        if output in (self.checkpoint, self.log, self.plot):
            raise click.UsageError(f"-o must not end in {output.suffix}, which is the run's own; use .h5")

    def preview(self, iteration: int) -> Path:
        return self.output.with_suffix(f".{iteration:06d}.png")

    def refuse_leftovers(self) -> None:
        """Raise StoreError where an earlier run, or somebody else, left files that this run would replace."""
        from atom_plugin.errors import StoreError
        from atom_plugin.runtime.files import refuse_existing

        refuse_existing(self.output, force=False)
        if self.checkpoint.exists():
            raise StoreError(
                f"{self.checkpoint}: a stopped run left its state there; go on with --resume, or start over with --force"
            )
        for path in (self.log, self.plot):
            refuse_existing(path, force=False)


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
    from atom_plugin.store.pictures import grid

    leads = distributed.leads()
    if not resume and leads:
        paths.checkpoint.unlink(missing_ok=True)  # of a run that --force starts over
    done = Checkpoint.load(paths.checkpoint).iteration if resume and paths.checkpoint.exists() else 0
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(paths.log, after=done)) if leads else None
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
                    log.write(iteration=done.iteration, loss=done.loss, seconds=round(done.seconds, 6))
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


def _check_writable(output: Path) -> None:
    """Find out before the work, not after it, that the set could not be stored."""
    from atom_plugin.errors import StoreError
    from atom_plugin.runtime.files import reason, temporary_beside

    probe = temporary_beside(output)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {reason(error, output)}") from error


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
