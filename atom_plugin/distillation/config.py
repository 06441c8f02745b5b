"""What a distillation run is: one frozen record, stored as JSON in the set it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from atom_plugin.distillation.set_config import SetConfig, trained_epochs
from atom_plugin.errors import ConfigError
from atom_plugin.models.convnet_choices import ConvNetChoices
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.settings import about, check_value, config_class, current_names

IMAGE_INITS = ("random", "noise", "k-center", "herding", "forgetting")
SCHEDULES = ("constant", "cosine")
FROM_SET = "set:"
POOL_STATES = ("interpolated", "random-epoch")
_NOT_THE_LOOPS = {"ipc", "recipe", "matcher", "matcher_options", "seed", "pool_sha256"}
_IMAGES, _MATCHING, _COURSE = "Synthetic images", "Matching", "Matching networks"


@config_class
@dataclass(frozen=True, kw_only=True)
class DistillConfig(SetConfig):
    """All choices that shape a synthetic set; each field's metadata says what it is.

    Raises ConfigError for a value of a wrong type or outside its bounds, and for choices that contradict each other.
    ``network_state``, ``network_pool``, ``inner_loop``, ``network_epochs``, ``network_lr`` and ``network_momentum`` are
    described in :mod:`atom_plugin.distillation.matching_network`, ``memory_budget`` in
    :mod:`atom_plugin.distillation.engine.chunking`.
    """

    recipe: str = field(
        default="atom",
        metadata=about(
            "Where choices that are not given come from (see --list-recipes).",
            group=_MATCHING,
            metavar="NAME",
            default="atom",
        ),
    )
    matcher: str = field(
        default="atom",
        metadata=about(
            "How real and synthetic images are compared (see --list-matchers).", group=_MATCHING, metavar="NAME"
        ),
    )
    matcher_options: Mapping[str, Any] = field(default_factory=dict, metadata=about("Options of the matcher, by name."))
    nested: str | None = field(
        default=None,
        metadata=about(
            "Counts of images per class that are sets of their own: joined by commas, all of them (all), or 1, 2, 5, 10 and so "
            "on (some); `atom-cli store subset --ipc` cuts them.",
            group=_IMAGES,
            metavar="K,…|some|all",
        ),
    )
    iterations: int = field(
        default=1000, metadata=about("Number of matching steps.", group=_MATCHING, metavar="N", at_least=1)
    )
    real_batch: int = field(
        default=64, metadata=about("Real images per class and step.", group=_MATCHING, metavar="N", at_least=1)
    )
    image_lr: float = field(
        default=1.0, metadata=about("Learning rate of the images.", group=_IMAGES, metavar="RATE", above=0)
    )
    image_momentum: float = field(
        default=0.5,
        metadata=about("Momentum of the SGD on the images, below 1.", group=_IMAGES, metavar="M", at_least=0, below=1),
    )
    image_schedule: str = field(
        default="constant",
        metadata=about(
            "Schedule of the images' learning rate over the run: constant, or a cosine that falls to 0.",
            group=_IMAGES,
            choices=SCHEDULES,
        ),
    )
    image_init: str = field(
        default="random",
        metadata=about(
            "What images start from: real ones, chosen as `atom-cli select` chooses (random, k-center, herding, forgetting), "
            "noise, or set:FILE, the first images of each class in a set.",
            group=_IMAGES,
            metavar="START",
            was="initialiser",
        ),
    )
    matching_model: str = field(
        default="convnet",
        metadata=about(
            "Network that images are matched under: convnet (the options under ConvNet), resnet10, resnet18, vgg11, alexnet, "
            "vit, or any of timm's, as timm:NAME.",
            group=_COURSE,
            metavar="NAME",
        ),
    )
    matching_layers: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Names of the matching model's layers whose outputs are matched, joined by commas.",
            group=_COURSE,
            metavar="LAYER,…",
            default="the last map of every resolution but the last",
        ),
    )
    network_state: str = field(
        default="random",
        metadata=about(
            "State of the networks that images are matched under: random, or trained:EPOCHS on the real images before; of a "
            "pool's, interpolated between start and end of their training, or at a random-epoch of it.",
            group=_COURSE,
            metavar="STATE",
            default="random; interpolated with a pool",
        ),
    )
    pool: str | None = field(
        default=None,
        metadata=about(
            "File of trained networks to match under, made by `atom-cli pool make`.", group=_COURSE, metavar="FILE"
        ),
    )
    pool_sha256: str | None = field(default=None, metadata=about("The weights of the pool, told by the run."))
    calibration: float | None = field(
        default=None,
        metadata=about(
            "Weight of the cross entropy of the synthetic images under the pool's trained network, added to the matching loss.",
            group=_COURSE,
            metavar="WEIGHT",
            above=0,
            beside="a pool",
            fallback=0.0,
        ),
    )
    network_pool: int | None = field(
        default=None,
        metadata=about(
            "How many networks are trained on the real images for matching to draw from.",
            group=_COURSE,
            metavar="N",
            at_least=1,
            beside="network_state trained:EPOCHS",
            fallback=5,
        ),
    )
    inner_loop: int = field(
        default=1,
        metadata=about(
            "Matching steps under one network before another is drawn.", group=_COURSE, metavar="N", at_least=1
        ),
    )
    network_epochs: int = field(
        default=0,
        metadata=about(
            "Passes in which the network is trained on the synthetic images after each matching step of the inner loop but "
            "the last.",
            group=_COURSE,
            metavar="N",
            at_least=0,
        ),
    )
    network_lr: float | None = field(
        default=None,
        metadata=about(
            "Learning rate at which the network is trained on the synthetic images.",
            group=_COURSE,
            metavar="RATE",
            above=0,
            beside="network_epochs of 1 or more",
            fallback=0.01,
        ),
    )
    network_momentum: float | None = field(
        default=None,
        metadata=about(
            "Momentum at which the network is trained on the synthetic images: 0.5 is DC's, 0 DSA's.",
            group=_COURSE,
            metavar="M",
            at_least=0,
            below=1,
            beside="network_epochs of 1 or more",
            fallback=0.5,
        ),
    )
    memory_budget: int | None = field(
        default=None,
        metadata=about(
            "Memory of one pass, e.g. 2GB, which decides how many classes pass together in each process.",
            group="Computation",
            metavar="SIZE",
            unit="bytes",
            at_least=1,
            at_most=2**63 - 1,
            default="all classes pass together",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_init not in IMAGE_INITS and not self.image_init.startswith(FROM_SET):
            raise ConfigError(
                f"image_init must be one of {', '.join(IMAGE_INITS)}, or {FROM_SET}FILE, not {self.image_init!r}"
            )
        self.prefixes  # noqa: B018 - raises for counts that are none
        if self.network_epochs and self.inner_loop == 1:
            raise ConfigError(
                "network_epochs trains a network that is dropped at once; give an inner_loop of 2 or more"
            )
        if (self.network_state in POOL_STATES) != (self.pool is not None):
            found = f"network_state {self.network_state!r} " + ("with a pool" if self.pool else "without a pool")
            raise ConfigError(f"found {found}; give a pool for {' or '.join(POOL_STATES)}, and none for other states")
        if self.pool is not None and self.matching_model != "convnet":
            raise ConfigError(
                f"a pool holds ConvNets, not the matching model {self.matching_model!r}; leave one of them out"
            )
        try:
            bounded_json.check(dict(self.matcher_options))
            json.dumps(dict(self.matcher_options), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"matcher_options must be JSON values by name: {error}") from None
        if not all(isinstance(name, str) for name in self.matcher_options):
            raise ConfigError(f"matcher_options must be JSON values by name, not {dict(self.matcher_options)!r}")

    @property
    def choice(self) -> str:
        """As ``image_init``."""
        return self.image_init

    @property
    def made_by(self) -> str:
        """The matcher."""
        return self.matcher

    def _counting(self) -> dict[str, bool]:
        return {
            **super()._counting(),
            "network_pool": self.pretraining_epochs > 0,
            "calibration": self.pool is not None,
            "network_lr": self.network_epochs > 0,
            "network_momentum": self.network_epochs > 0,
        }

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of training on the real images before matching; 0 for random networks and those of a pool."""
        if self.network_state in POOL_STATES:
            return 0
        return trained_epochs(self.network_state, "network_state")

    @property
    def pooled_networks(self) -> int:
        """``network_pool``, with its default."""
        networks: int = self._value("network_pool")
        return networks

    @property
    def prefixes(self) -> tuple[int, ...]:
        """The counts that ``nested`` names, ascending, ``ipc`` among them; none where it is not given. Raises ConfigError."""
        if self.nested is None:
            return ()
        if self.nested == "all":
            return tuple(range(1, self.ipc + 1))
        if self.nested == "some":
            round_ones = (step * 10**power for power in range(len(str(self.ipc))) for step in (1, 2, 5))
            return (*(count for count in round_ones if count < self.ipc), self.ipc)
        counts = [int(text) if text.isdecimal() and len(text) < 10 else 0 for text in self.nested.split(",")]
        if not all(1 <= count <= self.ipc for count in counts):
            raise ConfigError(
                f"nested must be counts from 1 to ipc ({self.ipc}) joined by commas, 'some' or 'all', not {self.nested!r}"
            )
        return tuple(sorted({*counts, self.ipc}))

    @property
    def calibration_weight(self) -> float:
        """``calibration``, with its default."""
        weight: float = self._value("calibration")
        return weight

    @property
    def inner_lr(self) -> float:
        """``network_lr``, with its default."""
        rate: float = self._value("network_lr")
        return rate

    @property
    def inner_momentum(self) -> float:
        """``network_momentum``, with its default."""
        momentum: float = self._value("network_momentum")
        return momentum

    @classmethod
    def _with_matcher(cls, recipe: dict[str, Any], matcher: str | None) -> dict[str, Any]:
        """The recipe's own matcher fills what the recipe leaves open; what another asks for goes before the recipe."""
        check_value("matcher", matcher, str | None)
        defaults = _loop_defaults(matcher or recipe["matcher"])
        asked, own = defaults.pop("network", {}), recipe["network"]
        if matcher in (None, recipe["matcher"]):
            return {**defaults, **recipe, "network": {**asked, **own}}
        return {**recipe, **defaults, "network": {**own, **asked}, "matcher_options": {}}

    def to_json(self) -> dict[str, Any]:
        """As :meth:`SetConfig.to_json`."""
        values = super().to_json()
        if self.image_init.startswith(FROM_SET):
            values["image_init"] = FROM_SET + Path(self.image_init.removeprefix(FROM_SET)).name
        values |= {"matcher_options": dict(self.matcher_options), "matching_layers": list(self.matching_layers)}
        if self.nested is None:
            del values["nested"]
        if self.pool is None:
            del values["pool"], values["pool_sha256"]
        else:
            values["pool"] = Path(self.pool).name  # where it lies on this machine says nothing elsewhere
        return values

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DistillConfig:
        """As :meth:`SetConfig.from_json`."""
        stored = current_names(cls, stored)
        layers = stored.get("matching_layers", ())
        return super().from_json({**stored, "matching_layers": tuple(layers) if isinstance(layers, list) else layers})

    def differences(self, other: DistillConfig) -> list[str]:
        """``name: mine, not theirs`` for every choice that differs, those left to a default as that."""
        mine, theirs = self.to_json(), other.to_json()
        return [
            f"{name}: {mine.get(name)}, not {theirs.get(name)}"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]


def _loop_defaults(matcher: str) -> dict[str, Any]:
    """What ``matcher`` asks of the loop. Raises ConfigError for what is no choice of it, PluginError for an unknown matcher."""
    from atom_plugin.matchers import MATCHERS

    defaults = dict(getattr(MATCHERS.get(matcher), "loop_defaults", {}))
    settable = {each.name for each in fields(DistillConfig)} - _NOT_THE_LOOPS
    unknown = sorted(set(defaults) - settable)
    unknown += sorted(set(defaults.get("network", {})) - {each.name for each in fields(ConvNetChoices)})
    if unknown:
        raise ConfigError(
            f"matcher {matcher!r} has loop_defaults for {', '.join(unknown)}, which it cannot set; they are "
            "fields of DistillConfig, and of ConvNetConfig under 'network'"
        )
    return defaults
