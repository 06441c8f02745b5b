"""Run a distillation with log, pictures and progress bar, or return the set of a finished run."""

from __future__ import annotations

import math
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from atom_plugin.cli.distill_accuracy import AccuracyOverSteps
from atom_plugin.cli.distill_files import RunFiles
from atom_plugin.cli.distill_options import Recording
from atom_plugin.cli.terminal import echo
from atom_plugin.runtime import distributed
from atom_plugin.runtime.progress import progress_bar

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.distillation.loop import Progress
    from atom_plugin.store.synthetic_set import SyntheticSet


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run and its records: a call distils, writes the log, draws pictures and shows progress."""

    paths: RunFiles
    recording: Recording
    device: str
    engine: str
    quiet: bool

    def __call__(self, config: DistillConfig, data: SourceData) -> SyntheticSet:
        """The finished set. Raises what the loop raises, including Interrupted after a checkpoint."""
        from atom_plugin.cli.interrupts import stop_requests
        from atom_plugin.distillation.checkpoint import Checkpoint
        from atom_plugin.distillation.loop import distill as run
        from atom_plugin.distillation.run_log import RunLog
        from atom_plugin.distillation.trackers import tracked
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
            chosen = self.recording.trackers if leads else []
            name = self.paths.output.stem
            trackers = stack.enter_context(tracked(chosen, name=name, config=config.to_json()))
            bar = stack.enter_context(
                progress_bar(config.iterations, initial=done, hidden=hidden, unit="step", desc=config.matcher)
            )
            stop_signal = stack.enter_context(stop_requests())
            unlogged: deque[Progress] = deque()
            accuracy = AccuracyOverSteps(
                every=self.recording.evaluate_every, data=data, config=config, device=self.device
            )
            told: dict[str, str] = {}

            def write_log(*, wait: bool) -> None:
                while unlogged and (wait or unlogged[0].ready):
                    done = unlogged.popleft()
                    if not math.isfinite(done.loss):
                        continue  # the run ends with an error that says so
                    values = {"loss": done.loss, "seconds": round(done.seconds, 6)}
                    told["loss"] = f"{done.loss:.4g}"
                    if (reached := accuracy.found.get(done.iteration)) is not None:
                        values["accuracy"] = reached
                        told["accuracy"] = f"{100 * reached:.1f} %"
                    if log is not None:
                        try:
                            log.write(iteration=done.iteration, **values)
                        except StoreError:
                            unlogged.clear()  # the run ends with this error, not with that of the next line
                            raise
                        trackers.log(done.iteration, values)
                    bar.set_postfix(**told, refresh=False)

            stack.callback(write_log, wait=True)

            def on_progress(progress: Progress) -> None:
                accuracy(progress)
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
        """The picture of the current set, if one is due."""
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
    """Rename the log of an earlier run that this run does not continue."""
    from atom_plugin.distillation.run_log import set_aside

    kept = set_aside(path)
    if kept is not None and not quiet:
        echo(f"note: the log of an earlier run is kept as {kept}", err=True)


def finished_set(paths: RunFiles, config: DistillConfig, data: SourceData, device: str) -> SyntheticSet:
    """The set of a run that stopped after storing it. Raises StoreError if another run made the file."""
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
            f"{paths.output}: already exists, and is not a set that this release can distil ({error}); choose "
            "another name, or replace it with --force"
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
