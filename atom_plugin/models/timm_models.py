"""Any of timm's models for small images: what its constructor takes is asked for, and its stem is made to reduce less.

Nothing here knows a family by name. A model is first built without storage (torch's meta device) to see what it is: which
arguments its constructor takes, its first convolution, and by how much its last map is smaller than the image.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from atom_plugin.errors import ModelError, did_you_mean
from atom_plugin.models.papers import patch_for
from atom_plugin.models.stems import cut_patches, first_convolution, is_patch_embedding, soften_stem

SMALL = 64  # pixels of the shorter side from which on timm's convolutional stems stay as they are
_TOKENS = 8  # tokens along the shorter side, where every block sees the same
_FIRST_TOKENS = 16  # and in the first stage of a pyramid, which ends with 2x2 after three halvings
_WINDOW = 7  # Swin's own
_NOT_FROM_SCRATCH = ("pretrained", "checkpoint_path", "features_only")


def names(pattern: str) -> list[str]:
    """timm's names that match the shell-style pattern, in its natural order, without those of pretrained weights."""
    import timm

    found: list[str] = timm.list_models(pattern) if pattern else []  # no pattern would be all of them
    return found


def usual_size(name: str) -> str | None:
    """``"224x224"``: height and width of the images that timm's model of that name was made for; None if it tells none."""
    from timm.models import get_pretrained_cfg

    config: Any = get_pretrained_cfg(name)
    return None if config is None else "{}x{}".format(*config.input_size[1:])


def builder(name: str) -> Callable[..., nn.Module]:
    """What builds timm's model ``name``. Raises ModelError if timm has none of that name."""
    import timm

    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise ModelError(f"timm {timm.__version__} has no model {name!r}; {hint}--list-models PATTERN lists its names")
    return lambda image_shape, classes, **options: _build(name, image_shape, classes, options)


def _build(name: str, image_shape: tuple[int, int, int], classes: int, options: dict[str, Any]) -> nn.Module:
    """timm's model with random weights, fit for ``image_shape`` as docs/models.md says; ``options`` go first."""
    import timm

    for option in _NOT_FROM_SCRATCH:
        if option in options:
            raise ModelError(f"{option} is no option here: networks start from random weights and give logits")
    channels, size = image_shape[0], image_shape[1:]
    arguments = {"num_classes": classes, "in_chans": channels, **options}
    outline = _outline(name, arguments)
    arguments = {**_size_arguments(outline, size), **arguments}
    patch = None if "patch_size" in options else _patch(outline, size)
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except TypeError as error:
        if patch is None or "multiple values for keyword argument 'patch_size'" not in str(error):
            raise
        # timm's functions for MLPs fix the patch: ask for as many tokens, of its patches, and cut smaller ones below.
        del arguments["patch_size"]
        own = _own_patch(outline)
        arguments["img_size"] = (size[0] // patch * own, size[1] // patch * own)
        network = timm.create_model(name, pretrained=False, **arguments)
    if patch is not None and "patch_size" not in arguments:
        cut_patches(network, patch, size)
    elif patch is None and min(size) < SMALL and not _is_fixed(outline):
        soften_stem(network)
    return network


def _outline(name: str, arguments: dict[str, Any]) -> nn.Module:
    """timm's model as it is by default, without storage if it can be built so: for its structure only."""
    import timm

    outline: nn.Module
    try:
        with torch.device("meta"):
            outline = timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, NotImplementedError):  # older releases read numbers off tensors as they build some
        outline = timm.create_model(name, pretrained=False, **arguments)
    return outline


def _size_arguments(outline: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """Arguments of the constructor that say how large the images are and how they are cut."""
    takes = _constructor_arguments(type(outline))
    chosen: dict[str, Any] = {"img_size": size} if "img_size" in takes else {}
    patch = _patch(outline, size)
    # Without an image size it is a convolutional network, which may make up for a smaller patch in its first stage.
    if patch is not None and {"img_size", "patch_size"} <= takes:
        chosen["patch_size"] = patch
        if "window_size" in takes and _is_pyramid(outline):
            grid = math.gcd(size[0] // patch, size[1] // patch)
            chosen["window_size"] = max(side for side in range(1, _WINDOW + 1) if grid % side == 0)
    return chosen


def _constructor_arguments(kind: type) -> set[str]:
    """Names that ``kind`` and the classes under it take; a subclass may pass on what it does not name."""
    takes: set[str] = set()
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if "__init__" in vars(base):
            takes |= inspect.signature(vars(base)["__init__"]).parameters.keys()
    return takes


def _own_patch(outline: nn.Module) -> int:
    """Side in pixels of the patches that the first convolution cuts; 0 where it cuts none."""
    stem = first_convolution(outline)
    return stem.stride[0] if stem is not None and is_patch_embedding(stem) else 0


def _patch(outline: nn.Module, size: tuple[int, int]) -> int | None:
    """The patch for images of ``size`` (H, W), none larger than the model's own; None where it has none."""
    own = _own_patch(outline)
    return min(own, patch_for(size, _FIRST_TOKENS if _is_pyramid(outline) else _TOKENS)) if own else None


def _is_pyramid(outline: nn.Module) -> bool:
    """Whether maps become smaller after the first convolution."""
    stem = first_convolution(outline)
    info: Any = getattr(outline, "feature_info", None)
    return bool(info) and stem is not None and info[-1]["reduction"] > stem.stride[0]


def _is_fixed(outline: nn.Module) -> bool:
    """Whether the model is built for one image size, so that its maps must not come out larger than it expects."""
    config: Any = outline.default_cfg
    return bool(config.get("fixed_input_size"))
