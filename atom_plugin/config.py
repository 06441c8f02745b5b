"""What a distillation run is: one frozen record, stored as JSON in the set it makes, and the recipes that fill it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from atom_plugin.augmentation import DEFAULT_STRATEGY, Augmentation
from atom_plugin.errors import ConfigError, did_you_mean
from atom_plugin.matchers import MATCHERS
from atom_plugin.networks import ConvNetConfig
from atom_plugin.preprocessing import DATADAM_EPS, KORNIA_EPS

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
    ``network_pool``, ``inner_loop``, ``network_epochs``, ``network_lr``: see :mod:`atom_plugin.matching_network`.
    ``embedding``, ``forgetting_epochs``: the network that chooses real images, see :mod:`atom_plugin.initialisation`.
    ``memory_budget``: bytes for a pass, see :mod:`atom_plugin.parts`. ``recipe`` remembers where unnamed choices came from.
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
        return {**asdict(self), "matcher_options": dict(self.matcher_options)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DistillConfig:
        """The inverse of :meth:`to_json`."""
        return cls(**{**values, "network": ConvNetConfig(**values["network"])})

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
            hint = did_you_mean(recipe, RECIPES)
            raise ConfigError(f"no recipe is called {recipe!r}; {hint}known: {', '.join(RECIPES)}")
        values = RECIPES[recipe](image_shape, ipc)
        matcher = overrides.get("matcher", values["matcher"])
        if matcher != values["matcher"]:
            values["matcher_options"] = {}
            _apply_loop_defaults(matcher, values)
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


def _apply_loop_defaults(matcher: str, values: dict[str, Any]) -> None:
    """Put what ``matcher`` asks of the loop in the place of a recipe's choices. Raises ConfigError for what is no choice."""
    defaults = dict(getattr(MATCHERS.get(matcher), "loop_defaults", {}))
    unknown = sorted(set(defaults) - {f.name for f in fields(DistillConfig)} | (set(defaults) & _NOT_THE_LOOPS))
    network = defaults.pop("network", {})
    unknown += sorted(set(network) - {f.name for f in fields(ConvNetConfig)})
    if unknown:
        raise ConfigError(
            f"matcher {matcher!r} has loop_defaults for {', '.join(unknown)}, which it cannot set; they are "
            "fields of DistillConfig, and of ConvNetConfig under 'network'"
        )
    values["network"] = replace(values["network"], **network)
    values.update(defaults)


def _atom(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """The one that measures best here; docs/recipes.md has the table behind each choice.

    Batch normalisation and ZCA serve colour images of 32 pixels and more; small or grey ones collapse under batch
    normalisation at few images per class, and gain nothing from ZCA.
    """
    colour = image_shape[0] >= 3 and min(image_shape[1:]) >= 32
    return {
        "matcher": "atom",
        "matcher_options": {"p_s": 4.0, "p_c": 4.0, "task_balance": 0.01, "loss_scale": 100.0},
        "iterations": 1000 if colour else 300,
        "real_batch": 64,
        "network": ConvNetConfig(normalisation="batch" if colour else "instance"),
        "zca_eps": DATADAM_EPS if colour and image_shape[1:] == (32, 32) else None,
    }


def _atom_paper(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """ATOM as printed: no loss factor, 8,000 iterations, real batch 128, plain ZCA for 32x32 colour images."""
    zca = image_shape == (3, 32, 32)
    return {
        "matcher": "atom",
        "matcher_options": {"p_s": 4.0, "p_c": 4.0, "task_balance": 0.01, "loss_scale": 1.0},
        "iterations": 8000,
        "real_batch": 128,
        "network": ConvNetConfig(normalisation="instance", pool_size=3, initialisation="normal"),
        "standardise": not zca,
        "zca_eps": KORNIA_EPS if zca else None,
    }


def _datadam_paper(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DataDAM as printed: spatial attention with p = 4, real batch 256."""
    return {
        **_atom_paper(image_shape, ipc),
        "matcher": "datadam",
        "matcher_options": {"p_s": 4.0, "task_balance": 0.01, "loss_scale": 1.0},
        "real_batch": 256,
    }


def _datadam_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DataDAM as released: p = 1, batch normalisation, loss times 100, 20,000 iterations, ZCA off unless asked for."""
    return {
        "matcher": "datadam",
        "matcher_options": {"p_s": 1.0, "task_balance": 0.01, "loss_scale": 100.0},
        "iterations": 20_000,
        "real_batch": 64,
        "image_lr": 1.0 if ipc <= 50 else 10.0,
        "network": ConvNetConfig(normalisation="batch"),
    }


def _dc_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DC as released: 1,000 networks, each trained on the set between matching steps, real batch 256, no augmentation.

    At IPC 1, 10, 20 and 50 the loops are the released ones; between them, as many passes as keep their product.
    """
    values: dict[str, Any] = {
        "matcher": "dc",
        "inner_loop": ipc,
        "iterations": 1000 * ipc,
        "network_epochs": max(1, 500 // max(ipc, 10)) if ipc > 1 else 0,
        "real_batch": 256,
        "initialiser": "noise",
        "network": ConvNetConfig(),
    }
    _apply_loop_defaults("dc", values)
    return values


def _dsa_code(image_shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
    """DSA as released: DC's loops with siamese augmentation, from real images."""
    values = {**_dc_code(image_shape, ipc), "matcher": "dsa", "initialiser": "random"}
    _apply_loop_defaults("dsa", values)
    return values


RECIPES: dict[str, Callable[[tuple[int, int, int], int], dict[str, Any]]] = {
    "atom": _atom,
    "atom-paper": _atom_paper,
    "datadam-paper": _datadam_paper,
    "datadam-code": _datadam_code,
    "dc-code": _dc_code,
    "dsa-code": _dsa_code,
}
