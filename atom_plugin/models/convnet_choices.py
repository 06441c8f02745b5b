"""The options of a ConvNet. Does not import torch, so that a command's help is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import about, check_values, current_names, without_unknown

ACTIVATIONS = ("relu", "leakyrelu", "sigmoid", "swish")
NORMALISATIONS = ("none", "batch", "layer", "instance", "group")
POOLINGS = ("none", "max", "avg")
WEIGHT_INITS = ("uniform", "normal")
_GROUP = "Networks"
Choices = TypeVar("Choices", bound="ConvNetChoices")


@dataclass(frozen=True, kw_only=True)
class ConvNetChoices:
    """The fields of :class:`~atom_plugin.models.convnet.ConvNetConfig`, each with its help.

    ``depth`` None follows the image size. ``pool_size``: 2 as in released codes, or 3 as in ATOM's paper; the stride is 2
    either way. ``weight_init``: "uniform" is PyTorch's default (Kaiming-uniform with a = sqrt(5)), which released codes use;
    "normal" is He et al. (2015), as in the papers.
    """

    depth: int | None = field(
        default=None,
        metadata=about(
            "Number of blocks of the ConvNet.",
            group=_GROUP,
            metavar="N",
            at_least=1,
            at_most=64,
            default="follows the image size",
        ),
    )
    width: int = field(
        default=128,
        metadata=about("Channels of each block of the ConvNet.", group=_GROUP, metavar="N", at_least=1, at_most=16_384),
    )
    activation: str = field(
        default="relu", metadata=about("Activation function of the ConvNet.", group=_GROUP, choices=ACTIVATIONS)
    )
    normalisation: str = field(
        default="instance", metadata=about("Normalisation layer of the ConvNet.", group=_GROUP, choices=NORMALISATIONS)
    )
    pooling: str = field(
        default="avg", metadata=about("Pooling of the ConvNet, with stride 2.", group=_GROUP, choices=POOLINGS)
    )
    pool_size: int = field(
        default=2, metadata=about("Side of the ConvNet's pooling window, in pixels.", group=_GROUP, choices=(2, 3))
    )
    weight_init: str = field(
        default="uniform",
        metadata=about(
            "Distribution of the ConvNet's initial weights: uniform is PyTorch's default, normal is He et al. (2015).",
            group=_GROUP,
            choices=WEIGHT_INITS,
            was="initialisation",
        ),
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.normalisation == "group" and self.width % 4:
            raise ConfigError(f"width must be a multiple of 4 with group normalisation, not {self.width}")

    @classmethod
    def from_json(cls: type[Choices], stored: Mapping[str, Any]) -> Choices:
        """From stored JSON, including older names. Raises ConfigError for a name that only a newer release knows."""
        return cls(**without_unknown(cls, current_names(cls, stored)))
