"""The targets that networks learn for each image of a set: classes or soft labels; and the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet

HARD = "hard"


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """``values`` are class ids, int64 (n,), or float32 (n, classes); ``squared``: the loss is the mean squared error."""

    values: torch.Tensor
    squared: bool = False


def targets_of(held: SyntheticSet, config: TrainConfig) -> Targets:
    """The targets of ``config`` for the decoded images of ``held``. Raises ConfigError for a temperature on scores."""
    soft = _learned(held, config)
    values = held.labels if soft is None else soft.targets(config.temperature)
    return Targets(
        values=values.repeat_interleave(held.factor**2, dim=0), squared=soft is not None and soft.kind == "scores"
    )


def settled(config: TrainConfig, held: SyntheticSet) -> TrainConfig:
    """``config`` with the learning rate for ``held``.

    Raises ConfigError if it asks for the set's own rate and the set has none, and for options that do not apply to scores.
    """
    soft = _learned(held, config)
    if soft is not None and soft.kind == "scores":
        for name, value, none in (
            ("temperature", config.temperature, 1),
            ("label_smoothing", config.label_smoothing, 0),
        ):
            if value != none:
                raise ConfigError(
                    f"found {name} {value:g}, but the set's soft labels are scores, learned by mean squared error; give "
                    f"{none}, or labels hard"
                )
    if not config.learned_lr:
        return config
    if held.learned_lr is None:
        raise ConfigError("learned_lr takes the set's own learning rate, but the set has none; give lr instead")
    return replace(config, lr=held.learned_lr, learned_lr=False)


def check_effect(config: TrainConfig, sets: Sequence[SyntheticSet]) -> None:
    """Raise ConfigError if ``config`` has options for soft labels that have no effect on any of ``sets``, or are impossible."""
    for held in sets:
        settled(config, held)
    if not any(held.soft_labels for held in sets):
        for name, value in (("labels", config.labels), ("temperature", config.temperature)):
            if value != getattr(TrainConfig, name):
                raise ConfigError(f"{name} ({value}) has no effect: none of the sets has soft labels; leave it out")


def label_words(held: SyntheticSet, config: TrainConfig) -> str:
    """ "hard", or "soft" with the kind of the labels."""
    soft = _learned(held, config)
    if soft is None:
        return HARD
    return f"soft {soft.kind}" + (f" at temperature {config.temperature:g}" if config.temperature != 1 else "")


def _learned(held: SyntheticSet, config: TrainConfig) -> SoftLabels | None:
    return held.soft_labels if config.labels == "soft" else None
