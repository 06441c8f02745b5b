"""Which network a name stands for, on a given set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import nn

from atom_plugin.config import DistillConfig
from atom_plugin.errors import ConfigError
from atom_plugin.networks import ConvNetConfig
from atom_plugin.synthetic_set import SyntheticSet

CONVNET = "convnet"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model of :mod:`atom_plugin.models` by its name, with the normalisation that it comes with."""

    name: str
    normalisation: str = "the model's own"

    def build(
        self, image_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator | None = None
    ) -> nn.Module:
        """A fresh network for images (C, H, W). Raises ConfigError where the model cannot take them."""
        from atom_plugin.models import build_model

        return build_model(self.name, image_shape, classes, generator=generator)


Network: TypeAlias = ConvNetConfig | NamedModel


def network_for(model: str, synthetic_set: SyntheticSet, normalisation: str | None = None) -> Network:
    """What ``model`` stands for: "convnet" is the set's own network (see :func:`network_of`), with another ``normalisation``
    if given; any other name is a model of :mod:`atom_plugin.models`, which keeps its own.
    """
    if model != CONVNET:
        return NamedModel(name=model)
    own = network_of(synthetic_set)
    return own if normalisation is None else replace(own, normalisation=normalisation)


def network_of(synthetic_set: SyntheticSet) -> ConvNetConfig:
    """The network that the set was made with; for a set that names none, the default recipe's for its images."""
    config: Mapping[str, Any] = synthetic_set.provenance.config
    if merged := config.get("merged"):
        config = merged[0].get("config", {})
    stored = config.get("network")
    if stored is None:
        shape = synthetic_set.preprocessing.image_shape
        return DistillConfig.from_recipe("atom", ipc=max(1, synthetic_set.ipc), image_shape=shape).network
    try:
        return ConvNetConfig(**stored)
    except TypeError as error:
        raise ConfigError(f"the set's config names a network this release does not know ({error}); update") from None
