"""The config of a distillation: one frozen record, stored as JSON in the set that it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from atom_plugin.distillation.prefixes import prefix_weights
from atom_plugin.distillation.real_config import RealConfig
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
class DistillConfig(RealConfig):
    """All choices that determine a synthetic set; each field's metadata describes it.

    Raises ConfigError for a value of a wrong type or outside its bounds, and for choices that contradict each other.
    ``network_state``, ``network_radius``, ``network_pool``, ``inner_loop``, ``network_epochs``, ``network_lr`` and
    ``network_momentum`` are described in :mod:`atom_plugin.distillation.matching_network`, ``memory_budget`` in
    :mod:`atom_plugin.distillation.engine.chunking`.
    """

    recipe: str = field(
        default="atom",
        metadata=about(
            "Named default values for all options of the distillation (see --list-recipes).",
            group=_MATCHING,
            metavar="NAME",
            default="atom",
        ),
    )
    matcher: str = field(
        default="atom",
        metadata=about(
            "Method that compares real and synthetic images and gives the loss (see --list-matchers).",
            group=_MATCHING,
            metavar="NAME",
        ),
    )
    matcher_options: Mapping[str, Any] = field(default_factory=dict, metadata=about("Options of the matcher, by name."))
    nested: str | None = field(
        default=None,
        metadata=about(
            "Optimise the first K images of each class as sets too, for each K in the list, e.g. 1,5,10 or 1:3,5,10 "
            "with factors of the loss weights after colons; all means every K, some means 1, 2, 5, 10 and so on. "
            "`atom-cli store subset --ipc K` extracts them.",
            group=_IMAGES,
            metavar="K[:FACTOR],…|some|all",
        ),
    )
    iterations: int = field(
        default=1000, metadata=about("Number of matching steps.", group=_OPTIMISATION, metavar="N", at_least=1)
    )
    image_lr: float = field(
        default=1.0,
        metadata=about("Learning rate of the synthetic images.", group=_OPTIMISATION, metavar="RATE", above=0),
    )
    image_momentum: float = field(
        default=0.5,
        metadata=about(
            "Momentum of the SGD on the synthetic images, below 1.",
            group=_OPTIMISATION,
            metavar="M",
            at_least=0,
            below=1,
        ),
    )
    image_schedule: str = field(
        default="constant",
        metadata=about(
            "Schedule of --image-lr: constant, or cosine, which decays to 0.",
            group=_OPTIMISATION,
            choices=SCHEDULES,
        ),
    )
    image_init: str = field(
        default="random",
        metadata=about(
            "Initial images: real images selected as by `atom-cli select` (random, k-center, herding, forgetting), "
            "noise, or set:FILE, the first images of each class in a set.",
            group=_IMAGES,
            metavar="START",
            was="initialiser",
        ),
    )
    extend: str | None = field(
        default=None,
        metadata=about(
            "Extend the set in FILE to --ipc images per class: its images stay, and new images and new classes of "
            "the source are added.",
            group=_IMAGES,
            metavar="FILE",
            default="a new set",
        ),
    )
    thaw: bool | None = field(
        default=None,
        metadata=about(
            "Optimise the images of the extended set too, or keep them fixed.",
            group=_IMAGES,
            default="fixed",
            beside="extend",
            fallback=False,
        ),
    )
    extended: tuple[Mapping[str, Any], ...] = field(
        default=(), metadata=about("How each earlier part of the extended set was made; the run fills it in.")
    )
    memory_budget: int | None = field(
        default=None,
        metadata=about(
            "Memory limit of a forward and backward pass, e.g. 2GB; classes are split into groups that fit, in each "
            "process.",
            group="Machine",
            metavar="SIZE",
            unit="bytes",
            at_least=1,
            at_most=2**63 - 1,
            default="all classes in one pass",
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
            raise ConfigError(
                f"extended must be a mapping for each earlier part of the set, not {shown(self.extended)}"
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
        """The matcher's name."""
        return self.matcher

    @property
    def prefixes(self) -> tuple[int, ...]:
        """The counts that ``nested`` names, ascending, ``ipc`` among them; empty if it is not given. Raises ConfigError."""
        return tuple(self.prefix_weights)

    @property
    def prefix_weights(self) -> dict[int, float]:
        """The weight of each of :attr:`prefixes` in the loss. Raises ConfigError."""
        return {} if self.nested is None else prefix_weights(self.nested, self.ipc)

    def _counting(self) -> dict[str, bool]:
        return {**super()._counting(), "thaw": self.extend is not None}

    @classmethod
    def _with_matcher(cls, recipe: dict[str, Any], matcher: str | None) -> dict[str, Any]:
        """The defaults of the recipe's matcher fill what the recipe leaves open; those of another matcher replace the
        recipe's.
        """
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
        """The sha256 of the extended set's file, which identifies it on any machine; its path does not."""
        return None if not self.extended else self.extended[-1].get("sha256")

    def differences(self, other: DistillConfig) -> list[str]:
        """``name: mine given, theirs there`` for every choice that differs."""
        mine, theirs = ({**config.to_json(), "extended": config._extended_sha256} for config in (self, other))
        return [
            f"{name}: {mine.get(name)} given, {theirs.get(name)} there"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]


def _loop_defaults(matcher: str) -> dict[str, Any]:
    """The loop defaults of ``matcher``. Raises ConfigError for an unknown field, PluginError for an unknown matcher."""
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
