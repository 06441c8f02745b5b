"""How a network is trained on a set: all hyperparameters in one object, and named recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, StepLR

from atom_plugin.errors import ConfigError, unknown
from atom_plugin.models.fitting import BATCH_SIZE, SGD
from atom_plugin.runtime.settings import check_values, config_class
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation
from atom_plugin.transforms.policies import POLICIES

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("half", "multistep", "step", "cosine", "constant")
LABELS = ("soft", "hard")
SIAMESE = "siamese"  # all siamese operations, whatever their names


@config_class
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All hyperparameters of a training; equal configs are equal budgets. The defaults are the recipe ``standard``.

    ``recipe`` is the name of the recipe that gave the other values. ``momentum`` applies only to SGD. ``schedule``, by epochs:
    "half" is the learning rate times 0.1 from half of them on; "multistep" is times 0.2 at two thirds of them and again at five
    sixths; "step" is times ``step_factor`` after every ``step_epochs``; "cosine" rises linearly over the share ``warmup`` of
    them, then falls to 0 along half a cosine (Loshchilov & Hutter, 2017); "constant" is the same rate in all.
    ``label_smoothing`` is in [0, 1) (Szegedy et al., 2016). ``cutmix`` is the probability that a batch is mixed
    (:mod:`atom_plugin.transforms.cutmix`). ``augmentation`` is a siamese strategy, "siamese" for the whole one, "none", or one
    of ``POLICIES``; each image of a batch is augmented separately.

    ``labels`` "soft": networks learn a set's soft labels if it has some, by cross-entropy, or scores by mean squared error;
    "hard": they learn classes. ``temperature`` is that of soft labels
    (:meth:`~atom_plugin.store.soft_labels.SoftLabels.targets`). CutMix and label smoothing apply to soft labels as to classes.
    ``learned_lr`` uses the set's own learning rate instead of ``lr``. Raises ConfigError for impossible values.
    """

    recipe: str = "standard"
    epochs: int = 800
    batch_size: int = BATCH_SIZE
    optimizer: str = "sgd"
    lr: float = SGD.lr
    momentum: float = SGD.momentum
    weight_decay: float = SGD.weight_decay
    schedule: str = "half"
    step_epochs: int = 15
    step_factor: float = 0.5
    warmup: float = 0.0
    label_smoothing: float = 0.0
    cutmix: float = 0.0
    augmentation: str = DEFAULT_STRATEGY
    labels: str = "soft"
    temperature: float = 1.0
    learned_lr: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        for name in ("epochs", "batch_size", "step_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "step_factor", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must be at least 0, not {self.weight_decay}")
        if not 0 <= self.cutmix <= 1:
            raise ConfigError(f"cutmix must be a probability between 0 and 1, not {self.cutmix}")
        for name in ("momentum", "warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("labels", LABELS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        _check_temperature(self.labels, self.temperature)
        if self.augmentation == SIAMESE:  # one spelling, so that equal budgets compare equal
            object.__setattr__(self, "augmentation", DEFAULT_STRATEGY)
        if self.augmentation not in POLICIES:
            _check_strategy(self.augmentation)

    @classmethod
    def from_recipe(cls, name: str, **overrides: Any) -> TrainConfig:
        """The recipe ``name`` with ``overrides`` in place of its values. Raises ConfigError for an unknown name."""
        if name not in RECIPES:
            raise ConfigError(unknown("training recipe", name, RECIPES))
        return cls(recipe=name, **{**RECIPES[name], **overrides})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Options for soft labels are included only if they differ from the default, so that older results
        stay valid.
        """
        values = asdict(self)
        return {
            name: value for name, value in values.items() if name not in _SOFT or value != getattr(TrainConfig, name)
        }

    def on_classes(self) -> TrainConfig:
        """The same training for images with hard labels only, as real ones."""
        return replace(self, **{name: getattr(TrainConfig, name) for name in _SOFT})

    def build_optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimizer of all parameters, with weight decay on each."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return SGD(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay).over(network)

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """The learning rate schedule, to be stepped once an epoch."""
        if self.schedule == "step":
            return StepLR(optimizer, self.step_epochs, self.step_factor)
        if self.schedule == "cosine":
            return LambdaLR(optimizer, self._warm_cosine)
        if self.schedule == "constant":
            return LambdaLR(optimizer, lambda _: 1.0)
        milestones, factor = [self.epochs // 2], 0.1
        if self.schedule == "multistep":
            milestones, factor = [2 * self.epochs // 3, 5 * self.epochs // 6], 0.2
        # A milestone at 0 would lower the rate before the first step.
        return MultiStepLR(optimizer, milestones=[max(1, epoch) for epoch in milestones], gamma=factor)

    def steps(self, images: int) -> int:
        """The number of steps for this number of images: the budget for comparing trainings on sets of several sizes."""
        return self.epochs * math.ceil(images / self.batch_size)

    def _warm_cosine(self, epoch: int) -> float:
        """The factor on the learning rate in ``epoch``, counted from 0; never 0, so that every epoch trains."""
        rising = round(self.warmup * self.epochs)
        if epoch < rising:
            return (epoch + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (epoch - rising) / max(1, self.epochs - rising)))


_SOFT = ("labels", "temperature", "learned_lr")  # fields that sets without what a method learned have no use for


def _check_temperature(labels: str, temperature: float) -> None:
    if labels == "hard" and temperature != 1:
        raise ConfigError(f"temperature ({temperature:g}) has no effect on labels hard; leave one of them out")


def _check_strategy(strategy: str) -> None:
    try:
        Augmentation(strategy=strategy)
    except ConfigError as error:
        raise ConfigError(f"{error}; or one of {SIAMESE}, {', '.join(POLICIES)}") from None


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "standard": {},
    # Zhao & Bilen (2023), DM's released evaluation.
    "dm": {"epochs": 1000, "batch_size": 256},
    # DataDAM's released evaluation: 1,800 epochs at batch 64.
    "datadam-code": {"epochs": 1800, "batch_size": 64},
    # DataDAM's table 10 and ATOM's supplementary table 1: StepLR, times 0.5 every 15. Neither prints epochs or batch: after 300
    # epochs the rate has halved 19 times and float32 weights no longer move; the batch is DM's.
    "datadam-paper": {"epochs": 300, "batch_size": 256, "schedule": "step"},
    # As DANCE evaluates sets of packed images (Zhang et al., 2024).
    "packed": {
        "epochs": 1500,
        "batch_size": 64,
        "schedule": "multistep",
        "cutmix": 0.5,
        "augmentation": "color_crop_flip_scale_rotate",
    },
    # MTT's released experts (Cazenavette et al., 2022).
    "mtt-experts": {"epochs": 50, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
    # Proxies of an architecture search; docs/search.md says what is known of other choices.
    "search": {"epochs": 200, "batch_size": 64},
    # Transformers from scratch, as DeiT (Touvron et al., 2021) trains them, less what is for a million images.
    "modern": {
        "epochs": 1000,
        "batch_size": 128,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup": 0.05,
        "label_smoothing": 0.1,
        "cutmix": 1.0,
    },
}
"""The values of each recipe that differ from the defaults."""
