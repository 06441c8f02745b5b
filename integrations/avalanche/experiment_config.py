"""The configuration of a continual-learning experiment: the settings that all runs of one mode share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.integrations.avalanche.fine_tuning import FINETUNE_STEPS
from atom_plugin.replay.logits import LOGIT_WEIGHT, MemoryLabels
from atom_plugin.replay.results import MODES
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """The settings that all runs of one mode share, so that one table can compare them.

    ``ipc``: memory images per class. ``epochs`` are passes over each experience's images ("replay"), or over the memory
    ("from-memory": DataDAM's 1,001 at batch 256; the learning rate is multiplied by 0.1 at half of them).
    ``memory_augmentation`` and ``stream_augmentation``: siamese operations, drawn for each image; "from-memory" has no stream
    augmentation. In the mode "replay", ``asymmetric_loss`` and ``finetune_steps`` have the meaning of
    :class:`~atom_plugin.integrations.avalanche.SyntheticReplay` (Avalanche's plugins have neither), as have
    ``separate_normalisation`` and, in both modes, ``memory_labels`` and ``logit_weight``. ``network``: overrides of the
    recipe's network. ``zca``: as in :meth:`DistillConfig.from_recipe`. ``distillation``: overrides of the recipe's other
    choices. Raises ConfigError for invalid values.
    """

    mode: str
    steps: int
    ipc: int
    epochs: int
    batch_size: int
    lr: float = TrainConfig.lr
    momentum: float = TrainConfig.momentum
    weight_decay: float = TrainConfig.weight_decay
    memory_augmentation: str = "none"
    stream_augmentation: str = "none"
    asymmetric_loss: bool = False
    finetune_steps: int = 0
    memory_labels: str = "hard"
    logit_weight: float = LOGIT_WEIGHT
    separate_normalisation: bool = False
    recipe: str = "best"
    network: Mapping[str, Any] = field(default_factory=dict)
    zca: bool | None = None
    distillation: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        for name in ("steps", "ipc", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.finetune_steps < 0:
            raise ConfigError(f"finetune_steps must be at least 0, not {self.finetune_steps}")
        if not self.lr > 0:
            raise ConfigError(f"lr must be above 0, not {self.lr}")
        if self.separate_normalisation and self.mode != "replay":
            raise ConfigError("separate normalisation is of stream and memory; leave it out from memory alone")
        MemoryLabels(kind=self.memory_labels, weight=self.logit_weight)
        for strategy in (self.memory_augmentation, self.stream_augmentation):
            Augmentation(strategy=strategy)

    @classmethod
    def for_mode(cls, mode: str, **given: Any) -> ReplayConfig:
        """The mode's defaults for settings that are not ``given`` (or None)."""
        values: dict[str, Any] = {
            "epochs": 5,
            "batch_size": 64,
            "asymmetric_loss": True,
            "finetune_steps": FINETUNE_STEPS,
        }
        if mode == "from-memory":
            values = {"epochs": 300, "batch_size": 256, "memory_augmentation": DEFAULT_STRATEGY}
        return cls(mode=mode, **values | {name: value for name, value in given.items() if value is not None})

    def distill_config(self, image_shape: tuple[int, int, int], **overrides: Any) -> DistillConfig:
        """The recipe's choices for these images, replaced by those in ``distillation`` and ``overrides``.

        Raises the errors of :meth:`DistillConfig.from_recipe`.
        """
        given = {"storage": "uint8", **self.distillation, **overrides, "network": self.network, "zca": self.zca}
        return DistillConfig.from_recipe(self.recipe, ipc=self.ipc, image_shape=image_shape, **given)

    def of_memories(self) -> dict[str, Any]:
        """The settings that the memories' sets depend on in every mode, as plain JSON."""
        names = ("steps", "ipc", "recipe", "network", "zca", "distillation", "seed")
        return {name: value for name, value in asdict(self).items() if name in names}
