"""Any timm model for small images: with suitable constructor arguments, and a stem that reduces less.

Nothing here knows a model family by name. A model is first built without storage (torch's meta device) to inspect it: the
arguments of its constructor, its first convolution, and how much smaller its last map is than the image.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from atom_plugin.errors import ModelError, unknown
from atom_plugin.models.liveness import refuse_single_tokens
from atom_plugin.models.papers import patch_for
from atom_plugin.models.stems import cut_patches, first_convolution, is_patch_embedding, soften_stem, stem_gain

SMALL = 64  # pixels of the shorter side from which on timm's convolutional stems stay as they are
_TOKENS = 8  # tokens along the shorter side, where every block sees the same
_FIRST_TOKENS = 16  # and in the first stage of a pyramid, which ends with 2x2 after three halvings
_WINDOW = 7  # Swin's own
_NOT_FROM_SCRATCH = ("pretrained", "checkpoint_path", "features_only")


def names(pattern: str) -> list[str]:
    """timm's names that match the shell-style pattern, in natural order, without names of pretrained weights."""
    import timm

    found: list[str] = timm.list_models(pattern) if pattern else []  # no pattern would be all of them
    return found


def usual_size(name: str) -> str | None:
    """``"224x224"``: height and width of the images that timm's model of that name was made for; None if unknown."""
    from timm.models import get_pretrained_cfg

    config: Any = get_pretrained_cfg(name)
    return None if config is None else "{}x{}".format(*config.input_size[1:])


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder of timm's model ``name``. Raises ModelError for an unknown name, or one of pretrained weights."""
    import timm

    if not timm.is_model(name):
        see = "--list-models PATTERN lists its names"
        raise ModelError(unknown(f"model of timm {timm.__version__}", name, timm.list_models(), see=see))
    architecture, _, weights = name.partition(".")
    if weights:
        raise ModelError(
            f"{name!r} names the pretrained weights {weights!r}, but networks start from random weights here; "
            f"name the architecture, {architecture!r}"
        )
    return lambda image_shape, classes, **options: _build(name, image_shape, classes, options)


def _build(name: str, image_shape: tuple[int, int, int], classes: int, options: dict[str, Any]) -> nn.Module:
    """timm's model with random weights, adapted to ``image_shape`` as docs/models.md describes; ``options`` have priority.

    Takes the first adaptation in which the model takes the images and all of its attention has an effect. Raises ModelError if
    only the latter fails, and else the error of the first adaptation.
    """
    import timm

    for option in _NOT_FROM_SCRATCH:
        if option in options:
            raise ModelError(
                f"{option} cannot be set here: networks start from random weights and give logits; leave it out"
            )
    arguments = {"num_classes": classes, "in_chans": image_shape[0], **options}
    failures: list[Exception] = []
    for chosen, adapt in _ways(_outline(name, arguments), image_shape[1:], options):
        try:
            network: nn.Module = timm.create_model(name, pretrained=False, **{**chosen, **arguments})
            adapt(network)
            refuse_single_tokens(f"timm:{name}", network, image_shape)
        except Exception as error:  # whatever timm's constructors and forward passes raise
            failures.append(error)
        else:
            return network
    raise next((error for error in failures if isinstance(error, ModelError)), failures[0])


_Way: TypeAlias = tuple[dict[str, Any], Callable[[nn.Module], object]]


def _ways(outline: nn.Module, size: tuple[int, int], options: Mapping[str, Any]) -> Iterator[_Way]:
    """Constructor arguments that make the model fit images of ``size`` (H, W), and the changes afterwards; the best first."""
    takes = _constructor_arguments(type(outline))
    own = _own_patch(outline)
    as_it_is: dict[str, Any] = {"img_size": size} if "img_size" in takes else {}
    if own and "patch_size" not in options:
        patch = _patch(outline, size)
        cut = partial(cut_patches, patch=patch, size=size)
        if {"img_size", "patch_size"} <= takes:
            yield {**as_it_is, "patch_size": patch, **_window(outline, takes, size, patch)}, _nothing
        # As many patches of its own, cut smaller afterwards: timm's functions for MLPs fix the patch, and CoaT halves its
        # maps for that patch. Without an image size it is a convolutional network, which a patch argument does not reach:
        # it may make up for a smaller patch in its first stage.
        yield _image_size(takes, size, patch, own), cut
        yield as_it_is, _nothing
        return
    softened: list[_Way] = []
    if not own:
        # Where maps, windows and positions follow from the image size, they become those of the softened stem.
        if as_it_is:
            softened.append((_image_size(takes, size, 1, stem_gain(outline)), soften_stem))
        if not _is_fixed(outline):
            softened.append((as_it_is, soften_stem))
    if min(size) < SMALL:
        yield from softened
        yield as_it_is, _nothing
    else:
        yield as_it_is, _nothing
        yield from softened


def _nothing(network: nn.Module) -> None:
    """Leave the network as timm built it."""


def _image_size(takes: set[str], size: tuple[int, int], old: int, new: int) -> dict[str, Any]:
    """The image-size argument for images of ``size``, scaled as a patch that grows from ``old`` to ``new`` pixels."""
    return {"img_size": (size[0] // old * new, size[1] // old * new)} if "img_size" in takes else {}


def outline(name: str, channels: int, classes: int) -> nn.Module:
    """timm's model ``name`` for images of its own size, without storage if possible: only to inspect its structure."""
    return _outline(name, {"num_classes": classes, "in_chans": channels})


def _outline(name: str, arguments: dict[str, Any]) -> nn.Module:
    """timm's default model, without storage if possible: only to inspect its structure."""
    import timm

    outline: nn.Module
    try:
        with torch.device("meta"):
            outline = timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, NotImplementedError):  # older releases read numbers off tensors as they build some
        outline = timm.create_model(name, pretrained=False, **arguments)
    return outline


def _window(outline: nn.Module, takes: set[str], size: tuple[int, int], patch: int) -> dict[str, Any]:
    """The argument for windows of a pyramid that divide its first grid."""
    if "window_size" not in takes or not _is_pyramid(outline):
        return {}
    grid = math.gcd(size[0] // patch, size[1] // patch)
    return {"window_size": max(side for side in range(1, _WINDOW + 1) if grid % side == 0)}


def _constructor_arguments(kind: type) -> set[str]:
    """Argument names of ``kind`` and its base classes; a subclass may pass on arguments that it does not name."""
    takes: set[str] = set()
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if "__init__" in vars(base):
            takes |= inspect.signature(vars(base)["__init__"]).parameters.keys()
    return takes


def _own_patch(outline: nn.Module) -> int:
    """Side in pixels of the patches that the first convolution cuts; 0 if it cuts none."""
    stem = first_convolution(outline)
    return stem.stride[0] if stem is not None and is_patch_embedding(stem) else 0


def _patch(outline: nn.Module, size: tuple[int, int]) -> int:
    """The patch for images of ``size`` (H, W) of a model that cuts patches, none larger than its own."""
    return min(_own_patch(outline), patch_for(size, _FIRST_TOKENS if _is_pyramid(outline) else _TOKENS))


def _is_pyramid(outline: nn.Module) -> bool:
    """Whether maps become smaller after the first convolution."""
    stem = first_convolution(outline)
    info: Any = getattr(outline, "feature_info", None)
    return bool(info) and stem is not None and info[-1]["reduction"] > stem.stride[0]


def _is_fixed(outline: nn.Module) -> bool:
    """Whether the model is built for one image size, so that its maps must not be larger than it expects."""
    config: Any = getattr(outline, "default_cfg", None) or {}  # a model of the user's may have none
    return bool(config.get("fixed_input_size"))
