"""The networks that names stand for, on a given set."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import nn

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.models import TIMM_PREFIX, build_model, papers, timm_models
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.store.synthetic_set import SyntheticSet

CONVNET = "convnet"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model of :mod:`atom_plugin.models` by its name; ``normalisation`` None is for a model without a choice of it."""

    name: str
    normalisation: str | None = None

    def build(
        self, image_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator | None = None
    ) -> nn.Module:
        """A new network for images (C, H, W). Raises ModelError if the model cannot take them."""
        options = {} if self.normalisation is None else {"normalisation": self.normalisation}
        return build_model(self.name, image_shape, classes, generator=generator, options=options)


Network: TypeAlias = ConvNetConfig | NamedModel


def network_for(model: str, synthetic_set: SyntheticSet, normalisation: str | None = None) -> Network:
    """The network builder for ``model`` on a set; models that have a choice get ``normalisation`` if it is given.

    "convnet" is the set's own network (see :func:`network_of`). Raises ModelError for an unknown name.
    """
    if model == CONVNET:
        own = network_of(synthetic_set)
        return own if normalisation is None else replace(own, normalisation=normalisation)
    return named_model(model, normalisation)


def named_model(model: str, normalisation: str | None = None) -> NamedModel:
    """A model other than "convnet", with ``normalisation`` if it has a choice. Raises ModelError for an unknown name."""
    if model in papers.BUILDERS:
        choice = inspect.signature(papers.BUILDERS[model]).parameters.get("normalisation")
        return NamedModel(name=model, normalisation=None if choice is None else normalisation or choice.default)
    if model.startswith(TIMM_PREFIX):
        timm_models.builder(model.removeprefix(TIMM_PREFIX))
        return NamedModel(name=model)
    build_model(model, (3, 32, 32), 1)  # says that there is no such name
    return NamedModel(name=model)


def network_of(synthetic_set: SyntheticSet) -> ConvNetConfig:
    """The network that the set was made with; for a set that names none, the default recipe's for its images."""
    config: Mapping[str, Any] = synthetic_set.provenance.config
    if merged := config.get("merged"):
        config = merged[0].get("config", {})
    stored = config.get("network")
    if stored is None:
        shape = synthetic_set.preprocessing.image_shape
        return DistillConfig.from_recipe("atom", ipc=max(1, synthetic_set.ipc), image_shape=shape).network
    return ConvNetConfig.from_json(stored)


def parameters_of(network: Network, image_shape: tuple[int, int, int], classes: int) -> int:
    """The number of parameters of a network for images (C, H, W), without memory for them; for timm models approximately.

    Raises the errors of their constructors.
    """
    with torch.device("meta"):
        if isinstance(network, ConvNetConfig):
            outline: nn.Module = network.build(image_shape, classes)
        elif network.name.startswith(TIMM_PREFIX):
            outline = timm_models.outline(network.name.removeprefix(TIMM_PREFIX), image_shape[0], classes)
        elif network.name in papers.BUILDERS:
            outline = papers.BUILDERS[network.name](image_shape, classes)
        else:
            return 0  # its builder says that there is no such name
    return sum(each.numel() for each in outline.parameters())
