"""Runs that a signal stops on their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from atom_plugin.config import DistillConfig
from atom_plugin.distillation import Progress, distill
from atom_plugin.errors import Interrupted
from atom_plugin.sources import SourceData


def stop_after(
    count: int, config: DistillConfig, data: SourceData, checkpoint: Path
) -> tuple[Interrupted, list[int], list[float]]:
    """Distil until SIGTERM is noted after ``count`` iterations: what was raised, the iterations, and their losses."""
    done: list[int] = []
    losses: list[float] = []

    def on_progress(progress: Progress) -> None:
        done.append(progress.iteration)
        losses.append(progress.loss)

    with pytest.raises(Interrupted) as caught:
        distill(
            config,
            data,
            device="cpu",
            checkpoint=checkpoint,
            on_progress=on_progress,
            stop_signal=lambda: 15 if len(done) == count else 0,
        )
    return caught.value, done, losses
