"""Runs that a signal stops on their way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import Progress, distill
from atom_plugin.errors import Interrupted
from atom_plugin.store.synthetic_set import SyntheticSet


def check_resumes(config: DistillConfig, data: SourceData, stops: Iterable[int], folder: Path) -> SyntheticSet:
    """Assert that a run stopped after each of ``stops`` and resumed ends at the bytes of the whole run; returns that."""
    whole = distill(config, data, device="cpu")
    for count in stops:
        path = folder / f"{count}.checkpoint"
        stop_after(count, config, data, path)
        resumed = distill(config, data, device="cpu", checkpoint=path, resume=True)
        assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    return whole


def stop_after(count: int, config: DistillConfig, data: SourceData, checkpoint: Path) -> tuple[Interrupted, list[int]]:
    """Distil until SIGTERM is noted after ``count`` iterations: what was raised, and the iterations told until then."""
    done: list[int] = []

    def on_progress(progress: Progress) -> None:
        assert math.isfinite(progress.loss)  # asking waits for a device
        done.append(progress.iteration)

    with pytest.raises(Interrupted) as caught:
        distill(
            config,
            data,
            device="cpu",
            checkpoint=checkpoint,
            on_progress=on_progress,
            stop_signal=lambda: 15 if len(done) == count else 0,
        )
    return caught.value, done
