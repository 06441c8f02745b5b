"""Small audits: a source of coloured images with a part held out, and sets made of the rest."""

from __future__ import annotations

from functools import cache
from typing import Any

from small import coloured_source, small_config, small_selection

from atom_plugin.audit.result import AuditConfig
from atom_plugin.datasets import SourceData
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.store.synthetic_set import SyntheticSet


@cache
def source(seed: int = 0) -> SourceData:
    """72 members and 72 validation images."""
    return hold_out(coloured_source(classes=3, per_class=48), 0.5, seed=seed)


@cache
def selected(
    method: str = "random", seed: int = 0, factor: int = 1, storage: str = "float32", ipc: int = 4, zca: bool = False
) -> SyntheticSet:
    config = small_selection(
        method=method, ipc=ipc, seed=seed, factor=factor, storage=storage, zca_eps=0.1 if zca else None
    )
    return selected_set(config, source())


@cache
def distilled(image_init: str = "random", iterations: int = 6, **more: Any) -> SyntheticSet:
    return distill(small_config(image_init=image_init, iterations=iterations, ipc=4, **more), source(), device="cpu")


def quick(**choices: Any) -> AuditConfig:
    """Trainings of seconds, or of no time at all."""
    training = TrainConfig(epochs=choices.pop("epochs", 2), augmentation="none")
    how: dict[str, Any] = {"networks": 2, "precision": "float32", "device": "cpu", "resamples": 20}
    return AuditConfig(training=training, **{**how, **choices})
