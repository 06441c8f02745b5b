"""What a distillation run is: one frozen record, stored as JSON in the set it makes, and the recipes that fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from atom_plugin.distillation.recipes import RECIPES, apply_loop_defaults
from atom_plugin.errors import ConfigError, unknown
from atom_plugin.matchers import MATCHERS
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation
from atom_plugin.transforms.preprocessing import DATADAM_EPS

INITIALISERS = ("random", "noise", "k-center", "herding", "forgetting")
PRECISIONS = ("auto", "float32", "bfloat16")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """All choices that shape a synthetic set.

    ``ipc``: images per class. ``matcher_options``: keyword arguments of the matcher. ``real_batch``: real images per class
    and iteration. ``image_lr``, ``image_momentum``, ``image_schedule``: SGD on the synthetic images. ``initialiser``: what
    images start from. ``network``: the family member drawn anew each iteration. ``augmentation``: siamese operations, joined by
    ``_``, or "none". ``standardise`` and ``zca_eps`` (None: no ZCA): the preprocessing, in this order. ``network_state``,
    ``network_pool``, ``inner_loop``, ``network_epochs``, ``network_lr``: see :mod:`atom_plugin.distillation.matching_network`.
    ``embedding``, ``forgetting_epochs``: the network that chooses real images, see :mod:`atom_plugin.distillation.image_init`.
    ``memory_budget``: bytes for a pass, see :mod:`atom_plugin.distillation.engine.chunking`. ``recipe`` remembers where unnamed
    choices came from.
    """

    ipc: int
    recipe: str = "atom"
    matcher: str = "atom"
    matcher_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    iterations: int = 1000
    real_batch: int = 64
    image_lr: float = 1.0
    image_momentum: float = 0.5
    image_schedule: str = "constant"
    initialiser: str = "random"
    network: ConvNetConfig = field(default_factory=ConvNetConfig)
    matching_model: str = "convnet"
    matching_layers: tuple[str, ...] = ()
    augmentation: str = DEFAULT_STRATEGY
    standardise: bool = True
    zca_eps: float | None = None
    precision: str = "auto"
    network_state: str = "random"
    network_pool: int = 5
    inner_loop: int = 1
    network_epochs: int = 0
    network_lr: float = 0.01
    embedding: str = "random"
    forgetting_epochs: int = 20
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        for name in ("ipc", "iterations", "real_batch", "network_pool", "inner_loop"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("image_lr", "network_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.image_momentum < 1:
            raise ConfigError(f"image_momentum must be in [0, 1), not {self.image_momentum}")
        choices = {"initialiser": INITIALISERS, "precision": PRECISIONS, "image_schedule": SCHEDULES}
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, not {getattr(self, name)!r}")
        if self.zca_eps is not None and not self.zca_eps > 0:
            raise ConfigError(f"zca_eps must be above 0, not {self.zca_eps}; 0.1 is DataDAM's, 1e-6 kornia's")
        Augmentation(strategy=self.augmentation)
        self._check_network_course()
        self._check_choosing_network()

    def _check_network_course(self) -> None:
        if not trained_epochs(self.network_state, "network_state") and self.network_pool != DistillConfig.network_pool:
            raise ConfigError("network_pool counts trained networks; give network_state trained:EPOCHS as well")
        if self.network_epochs < 0:
            raise ConfigError(f"network_epochs must be 0 or more, not {self.network_epochs}")
        if self.network_epochs and self.inner_loop == 1:
            raise ConfigError(
                "network_epochs trains a network that is dropped at once; give an inner_loop of 2 or more"
            )
        if not self.network_epochs and self.network_lr != DistillConfig.network_lr:
            raise ConfigError("network_lr is that of network_epochs, which is 0; give both, or neither")

    def _check_choosing_network(self) -> None:
        if trained_epochs(self.embedding, "embedding") and self.initialiser not in ("herding", "k-center"):
            raise ConfigError(
                f"embedding is what herding and k-center compare, and {self.initialiser} does not; drop it"
            )
        if self.forgetting_epochs < 2:
            raise ConfigError(
                f"forgetting_epochs must be at least 2 (right, then wrong, is an event), not {self.forgetting_epochs}"
            )
        if self.initialiser != "forgetting" and self.forgetting_epochs != DistillConfig.forgetting_epochs:
            raise ConfigError(f"forgetting_epochs are those of forgetting, not of {self.initialiser}; drop them")

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of training on the real images before matching; 0 for random networks."""
        return trained_epochs(self.network_state, "network_state")

    @property
    def choosing_epochs(self) -> int:
        """Epochs of training on the real images before some are chosen; 0 where no trained network chooses."""
        return (
            self.forgetting_epochs if self.initialiser == "forgetting" else trained_epochs(self.embedding, "embedding")
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **asdict(self),
            "matcher_options": dict(self.matcher_options),
            "matching_layers": list(self.matching_layers),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DistillConfig:
        """The inverse of :meth:`to_json`."""
        layers = tuple(values.get("matching_layers", ()))
        return cls(**{**values, "network": ConvNetConfig(**values["network"]), "matching_layers": layers})

    @classmethod
    def from_recipe(
        cls,
        recipe: str,
        *,
        ipc: int,
        image_shape: tuple[int, int, int],
        network: Mapping[str, Any] | None = None,
        zca: bool | None = None,
        **overrides: Any,
    ) -> DistillConfig:
        """The recipe's choices for images (C, H, W), with ``overrides`` of fields and of ``network`` fields on top.

        ``zca`` switches whitening without naming an eps: the recipe's own, else DataDAM's. ``matcher_options`` are merged
        into the recipe's while the matcher is the recipe's own; another matcher starts from its own defaults, and its
        ``loop_defaults`` take the place of the recipe's choices. Raises ConfigError for an unknown recipe or a contradiction,
        PluginError for an unknown matcher.
        """
        if recipe not in RECIPES:
            raise ConfigError(unknown("recipe", recipe, RECIPES))
        values = RECIPES[recipe](image_shape, ipc)
        matcher = overrides.get("matcher", values["matcher"])
        if matcher != values["matcher"]:
            values["matcher_options"] = {}
            _check_loop_defaults(matcher)
            apply_loop_defaults(matcher, values)
        if zca is False and overrides.get("zca_eps") is not None:
            raise ConfigError(
                f"found a ZCA eps ({overrides['zca_eps']:g}) beside ZCA switched off; give one of the two"
            )
        if zca is not None and overrides.get("zca_eps") is None:
            values["zca_eps"] = values.get("zca_eps") or DATADAM_EPS if zca else None
        options = {**values.get("matcher_options", {}), **overrides.pop("matcher_options", {})}
        convnet = replace(values.pop("network"), **dict(network or {}))
        values.update(overrides)
        return cls(recipe=recipe, ipc=ipc, **{**values, "network": convnet, "matcher_options": options})

    def differences(self, other: DistillConfig) -> list[str]:
        """``name: mine, not theirs`` for every field that differs."""
        mine, theirs = self.to_json(), other.to_json()
        return [
            f"{f.name}: {mine[f.name]}, not {theirs[f.name]}" for f in fields(self) if mine[f.name] != theirs[f.name]
        ]


def trained_epochs(state: str, name: str) -> int:
    """EPOCHS of "trained:EPOCHS", 0 of "random". Raises ConfigError for any other ``state``, calling it ``name``."""
    kind, _, epochs = state.partition(":")
    if kind == "trained" and epochs.isdecimal() and int(epochs) >= 1:
        return int(epochs)
    if state != "random":
        raise ConfigError(f"{name} must be random or trained:EPOCHS (trained:3), not {state!r}")
    return 0


_NOT_THE_LOOPS = {"ipc", "recipe", "matcher", "matcher_options", "seed"}


def _check_loop_defaults(matcher: str) -> None:
    """Raises ConfigError where ``matcher`` asks of the loop what is no choice of it."""
    defaults = dict(getattr(MATCHERS.get(matcher), "loop_defaults", {}))
    unknown = sorted(set(defaults) - {f.name for f in fields(DistillConfig)} | (set(defaults) & _NOT_THE_LOOPS))
    unknown += sorted(set(defaults.get("network", {})) - {f.name for f in fields(ConvNetConfig)})
    if unknown:
        raise ConfigError(
            f"matcher {matcher!r} has loop_defaults for {', '.join(unknown)}, which it cannot set; they are "
            "fields of DistillConfig, and of ConvNetConfig under 'network'"
        )
