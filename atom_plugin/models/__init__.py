"""Networks for small images by name: the architectures of the papers' tables, and any timm model.

``convnet``, ``alexnet``, ``vgg11``, ``resnet18`` and ``vit`` are the architectures of the cross-architecture tables of ATOM and
DataDAM (:mod:`~atom_plugin.models.papers`); ``timm:NAME`` is a model of timm, adapted to the image size if its family allows it
(:mod:`~atom_plugin.models.timm_models`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from atom_plugin.errors import ConfigError, ModelError, require, shape_text, unknown

if TYPE_CHECKING:
    # Not at run time: a command's help imports the ConvNet's choices, and must not wait for torch.
    import torch
    from torch import nn

    from atom_plugin.models.convnet import ConvNetConfig
    from atom_plugin.models.liveness import parameters_without_gradient

__all__ = ["NAMED_MODELS", "TIMM_PREFIX", "ModelError", "build_model", "list_models", "parameters_without_gradient"]

NAMED_MODELS = ("convnet", "alexnet", "vgg11", "resnet18", "vit", "resnet10")
TIMM_PREFIX = "timm:"


def __getattr__(name: str) -> Any:
    """Names whose import takes torch, imported on first use."""
    if name != "parameters_without_gradient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from atom_plugin.models.liveness import parameters_without_gradient

    return parameters_without_gradient


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    generator: torch.Generator | None = None,
    convnet: ConvNetConfig | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network of that name, in train mode: preprocessed images (N, C, H, W) to logits (N, ``classes``).

    ``image_shape`` is (C, H, W). Parameters are drawn on the CPU from ``generator``, and the global random state stays
    unchanged; without a generator, torch's default draws are used. ``convnet`` is the config for the name ``"convnet"``.
    ``options`` are keyword arguments of the builder: fields of :class:`~atom_plugin.models.convnet.ConvNetConfig`, arguments of
    the functions of :mod:`~atom_plugin.models.papers`, or arguments of ``timm.create_model``, which override this package's
    choices.

    A network other than ``"convnet"`` is tested on a batch of two blank images in eval mode before it is returned. Raises
    ModelError, in one line, for an unknown name or option and for images that it cannot take.
    """
    import torch

    from atom_plugin.models import papers, timm_models
    from atom_plugin.models.convnet import ConvNetConfig
    from atom_plugin.models.liveness import blank_logits
    from atom_plugin.runtime.randomness import global_draws_from

    require("the model's name", name, str)
    if min(*image_shape, classes) < 1:
        raise ModelError(f"{name} needs images and classes, not {shape_text(image_shape)} and {classes}")
    options = dict(options or {})
    if name == "convnet":
        return _convnet(convnet or ConvNetConfig(), options).build(image_shape, classes, generator=generator)
    if name in papers.BUILDERS:
        build = papers.BUILDERS[name]
    elif name.startswith(TIMM_PREFIX):
        build = timm_models.builder(name.removeprefix(TIMM_PREFIX))
    else:
        plain = name.removeprefix("timm/")  # as other sites write it; without wildcards it finds itself or nothing
        timms = [TIMM_PREFIX + found for found in timm_models.names(plain)]
        see = f"known: {', '.join(NAMED_MODELS)}, and timm's as {TIMM_PREFIX}NAME"
        raise ModelError(unknown("model", name, timms or NAMED_MODELS, see=see))
    size = shape_text(image_shape)
    with nullcontext() if generator is None else global_draws_from(generator), torch.device("cpu"):
        try:
            network = build(image_shape, classes, **options)
            logits = blank_logits(network, image_shape)
        except (ConfigError, ImportError):
            raise
        except Exception as error:  # whatever a foreign constructor or forward pass may raise
            reason = " ".join(str(error).split())[:200] or "without a message"
            given = f" with {', '.join(f'{key}={value!r}' for key, value in options.items())}" if options else ""
            raise ModelError(
                f"{name}{given} cannot take {size} images ({type(error).__name__}: {reason}); "
                f"{_made_for(name)}choose another model{', other options' if options else ''} or larger images"
            ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        gives = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ModelError(f"{name} gives {gives} for two {size} images, not logits (2, {classes}); choose another model")
    return network.train()


def list_models(pattern: str | None) -> list[str]:
    """The names of this package's networks; then timm's as ``timm:NAME``, those matching the shell-style ``pattern``, sorted.

    ``pattern`` is matched with and without the prefix: ``"vit_tiny*"`` or ``"timm:vit_tiny*"``. None lists no timm models.
    """
    from atom_plugin.models import timm_models

    if pattern is None:
        return list(NAMED_MODELS)
    found = timm_models.names(pattern.removeprefix(TIMM_PREFIX))
    return [*NAMED_MODELS, *(TIMM_PREFIX + name for name in found)]


def _convnet(config: ConvNetConfig, options: Mapping[str, Any]) -> ConvNetConfig:
    known = [field.name for field in dataclasses.fields(config)]
    for name in options:
        if name not in known:
            raise ModelError(unknown("option of convnet", name, known))
    return dataclasses.replace(config, **options)


def _made_for(name: str) -> str:
    from atom_plugin.models import timm_models

    if not name.startswith(TIMM_PREFIX):
        return ""
    size = timm_models.usual_size(name.removeprefix(TIMM_PREFIX))
    return f"it was made for {size}; " if size else ""
