"""Compute one distillation step: an engine computes the statistics that a matcher compares, in a way that suits the device.

==================== ================================== ==============================================================
engine               for                                how
==================== ================================== ==============================================================
:mod:`.plain_engine` any ``nn.Module``, any device      features of whole batches under autograd; the oracle of tests
:mod:`.cuda_engine`  the ConvNet on CUDA, one process   maps reduced where they are made, in the network's precision
==================== ================================== ==============================================================

It is chosen once (:func:`choose_engine`); around it :mod:`.step` takes the loss and its gradient.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Statistics
from atom_plugin.models.batchnorm import share_batch_norm, ties_images
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.features import FeatureFunction, Features
from atom_plugin.runtime import distributed

ENGINES = ("auto", "plain", "cuda")


class Engine(Protocol):
    """Computes a matcher's statistics of images (N, C, H, W), class-major over ``groups`` classes, under one network."""

    @property
    def network(self) -> nn.Module:
        """The network, whose parameters may change between calls."""

    @property
    def features(self) -> FeatureFunction:
        """Its features of whole batches, with gradient: for matchers whose loss is not a difference of class means."""

    def real(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """Statistics of real images, without gradient."""

    def synthetic(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """Statistics of synthetic images, differentiable once with respect to them."""


@torch.no_grad()
def blank_features(engine: Engine, image_shape: tuple[int, int, int]) -> Features:
    """The features of two blank images (C, H, W), one per class, to find the number and the sizes of the maps."""
    example = next(engine.network.parameters())
    return engine.features(torch.zeros(2, *image_shape, device=example.device, dtype=example.dtype), groups=2)


def choose_engine(name: str, network: nn.Module, features: FeatureFunction, device: torch.device) -> Engine:
    """The engine ``name``, one of :data:`ENGINES`, for ``network`` and its extractor of ``features``.

    "auto" takes the CUDA engine if it works. In several processes the network's batch normalisation is made to share its
    moments. Raises ConfigError if the engine does not work here, and for another name.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine must be one of {', '.join(ENGINES)}, not {name!r}")
    alone = distributed.count() == 1
    if name != "plain" and isinstance(network, ConvNet) and device.type == "cuda" and alone:
        return CudaEngine(network)
    if name == "cuda":
        raise ConfigError(
            f"the cuda engine computes the ConvNet on cuda, in one process, not {type(network).__name__} on {device.type} in "
            f"{distributed.count()}; choose --engine auto or plain"
        )
    if not alone and ties_images(network):
        share_batch_norm(network)
    return PlainEngine(network, features)
