"""Names of a distillation's files, derived from the name of the set."""

from __future__ import annotations

import glob
from pathlib import Path

import click

from atom_plugin.cli.distill_options import Recording
from atom_plugin.cli.outputs import Output


class RunFiles:
    """Names of a run's files, derived from the name of the set."""

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
        """The run's log; a run of an older release may have it under FILE.jsonl."""
        from atom_plugin.distillation.run_log import is_log

        old = self.output.with_suffix(".jsonl")
        return old if not self.log.exists() and old.is_file() and is_log(old) else self.log

    def preview(self, iteration: int) -> Path:
        """The picture of the set after this many steps."""
        return self.output.with_suffix(f".{iteration:06d}.png")

    def pictures(self, *, plot: bool, previews: bool) -> list[Path]:
        """The pictures that will be written, and the previews that already exist."""
        pattern = f"{glob.escape(self.output.stem)}.{'[0-9]' * 6}.png"
        return ([self.plot] if plot else []) + (sorted(self.output.parent.glob(pattern)) if previews else [])

    def outputs(self, pictures: list[Path], recording: Recording, *, finished: bool) -> list[Output]:
        """All files that the run writes."""
        again, force, board = recording.replaces, recording.force, recording.tensorboard
        left = "a stopped run left its state there; continue it with --resume, or start over with --force"
        return [
            Output(path=self.output, option="-o", replace=force or finished, kind="HDF5"),
            Output(path=self.checkpoint, option="the checkpoint", replace=again, ours=_is_checkpoint, kept=left),
            # An earlier run's log is never in the way: one that nothing goes on with gets another name.
            Output(path=self.log, option="the log", replace=True, ours=_is_log),
            *([Output(path=board, option="--tensorboard", shared=True)] if board is not None else []),
            *(Output(path=path, option="the picture", replace=again, ours=_is_picture) for path in pictures),
        ]


def _is_checkpoint(path: Path) -> bool:
    from atom_plugin.distillation.checkpoint import is_checkpoint

    return is_checkpoint(path)


def _is_log(path: Path) -> bool:
    from atom_plugin.distillation.run_log import is_log

    return is_log(path)


def _is_picture(path: Path) -> bool:
    from atom_plugin.runtime.picture_files import is_picture

    return is_picture(path)
