"""What a distillation run is: one frozen record, stored as JSON in the set it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from atom_plugin.distillation.network_config import NetworkConfig
from atom_plugin.distillation.prefixes import prefix_weights
from atom_plugin.distillation.set_config import Config
from atom_plugin.errors import ConfigError, require, shown
from atom_plugin.models.convnet_choices import ConvNetChoices
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.settings import about, check_value, config_class

IMAGE_INITS = ("random", "noise", "k-center", "herding", "forgetting")
SCHEDULES = ("constant", "cosine")
FROM_SET = "set:"
_NOT_THE_LOOPS = {"ipc", "recipe", "matcher", "matcher_options", "seed", "pool_sha256", "extend", "thaw", "extended"}
_IMAGES, _MATCHING, _OPTIMISATION = "Images", "Matching", "Optimisation"


@config_class
@dataclass(frozen=True, kw_only=True)
class DistillConfig(NetworkConfig):
    """All choices that shape a synthetic set; each field's metadata says what it is.

    Raises ConfigError for a value of a wrong type or outside its bounds, and for choices that contradict each other.
    ``network_state``, ``network_radius``, ``network_pool``, ``inner_loop``, ``network_epochs``, ``network_lr`` and
    ``network_momentum`` are described in :mod:`atom_plugin.distillation.matching_network`, ``memory_budget`` in
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
            "Counts of images per class that are sets of their own: joined by commas, each with its weight in the loss after a "
            "colon (1:3,5,10) where it is not 1, all of them (all), or 1, 2, 5, 10 and so on (some); `atom-cli store subset "
            "--ipc` cuts them.",
            group=_IMAGES,
            metavar="K[:WEIGHT],…|some|all",
        ),
    )
    iterations: int = field(
        default=1000, metadata=about("Number of matching steps.", group=_OPTIMISATION, metavar="N", at_least=1)
    )
    real_batch: int = field(
        default=64, metadata=about("Real images per class and step.", group=_OPTIMISATION, metavar="N", at_least=1)
    )
    image_lr: float = field(
        default=1.0, metadata=about("Learning rate of the images.", group=_OPTIMISATION, metavar="RATE", above=0)
    )
    image_momentum: float = field(
        default=0.5,
        metadata=about(
            "Momentum of the SGD on the images, below 1.", group=_OPTIMISATION, metavar="M", at_least=0, below=1
        ),
    )
    image_schedule: str = field(
        default="constant",
        metadata=about(
            "Schedule of the images' learning rate over the run: constant, or a cosine that falls to 0.",
            group=_OPTIMISATION,
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
    extend: str | None = field(
        default=None,
        metadata=about(
            "File of a set to grow to the images per class asked for: its images stay, and new ones and new classes of the "
            "source come beside.",
            group=_IMAGES,
            metavar="FILE",
            default="a new set",
        ),
    )
    thaw: bool | None = field(
        default=None,
        metadata=about(
            "Move the images of an extended set too, or leave them as they are.",
            group=_IMAGES,
            default="left as they are",
            beside="extend",
            fallback=False,
        ),
    )
    extended: tuple[Mapping[str, Any], ...] = field(
        default=(), metadata=about("What came when in the extended set, told by the run.")
    )
    memory_budget: int | None = field(
        default=None,
        metadata=about(
            "Memory of one pass, e.g. 2GB, which decides how many classes pass together in each process.",
            group="Machine",
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
        if not all(isinstance(part, Mapping) for part in self.extended):
            raise ConfigError(f"extended must hold what made each set before, by name, not {shown(self.extended)}")
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

    @property
    def prefixes(self) -> tuple[int, ...]:
        """The counts that ``nested`` names, ascending, ``ipc`` among them; none where it is not given. Raises ConfigError."""
        return tuple(self.prefix_weights)

    @property
    def prefix_weights(self) -> dict[int, float]:
        """The weight of each of :attr:`prefixes` in the loss. Raises ConfigError."""
        return {} if self.nested is None else prefix_weights(self.nested, self.ipc)

    def _counting(self) -> dict[str, bool]:
        return {**super()._counting(), "thaw": self.extend is not None}

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
        values["matcher_options"] = dict(self.matcher_options)
        if self.nested is None:
            del values["nested"]
        if self.extend is None:
            del values["extend"], values["extended"]
        else:
            values |= {"extend": Path(self.extend).name, "extended": list(self.extended)}
        return values

    @classmethod
    def from_json(cls: type[Config], stored: Mapping[str, Any]) -> Config:
        """As :meth:`SetConfig.from_json`."""
        require("the stored DistillConfig", stored, Mapping)
        parts = stored.get("extended", ())
        return super().from_json({**stored, "extended": tuple(parts) if isinstance(parts, list) else parts})

    @property
    def _extended_sha256(self) -> str | None:
        """What tells the set that is extended: where its images lie may be told in other words on another machine."""
        return None if not self.extended else self.extended[-1].get("sha256")

    def differences(self, other: DistillConfig) -> list[str]:
        """``name: mine, not theirs`` for every choice that differs, those left to a default as that."""
        mine, theirs = ({**config.to_json(), "extended": config._extended_sha256} for config in (self, other))
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
