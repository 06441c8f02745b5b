"""Use matchers inside another training loop: one call compares a real and a synthetic batch under the loop's network.

    host_loss = HostMatcher("atom")
    loss = host_loss(net, img_real, img_syn)                     # one class, as DatasetCondensation's scripts go about it
    loss = host_loss(net, img_real, img_syn, groups=10)          # ten classes stacked, class-major
    loss = host_loss(net, img_real, img_syn, lab_real, lab_syn)  # any order; what matchers of gradients ask for

A call leaves no state: hooks are set and removed within it, and no network is stored. docs/plugging-in.md has whole loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ImageMatcher, Matcher, class_rows, make_matcher
from atom_plugin.matchers.set_matcher import SetMatcher
from atom_plugin.models.features import FeatureExtractor, Features

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh),
)
"""The layers that :class:`ActivationExtractor` takes for activations."""


class HostMatcher:
    """A matcher for a loop that owns network, images and optimiser.

    ``matcher`` is a registered name, with its ``options``, or a matcher. ``maps`` and ``embedding`` name layers as for
    :class:`~atom_plugin.models.features.FeatureExtractor`, including the last map, which the matchers leave out as in the
    papers. Without names the layers are detected (:class:`ActivationExtractor`). Raises PluginError for an unknown matcher,
    ConfigError for options that do not fit, and for a matcher of whole sets.
    """

    def __init__(
        self,
        matcher: str | Matcher,
        *,
        options: Mapping[str, Any] | None = None,
        maps: Sequence[str] | None = None,
        embedding: str | None = None,
    ) -> None:
        if not isinstance(matcher, str) and options:
            raise ConfigError(
                "options belong to a registered name, but the given matcher is already built; leave the options out"
            )
        if (maps is None) != (embedding is None):
            raise ConfigError("give both maps and embedding, or neither to detect the layers")
        self.matcher = make_matcher(matcher, options) if isinstance(matcher, str) else matcher
        if isinstance(self.matcher, SetMatcher):
            raise ConfigError(
                f"{type(self.matcher).__name__} needs the whole set and its learned values, not two batches; call its "
                "loss(step) with a SetStep, or distil with atom_plugin.distill"
            )
        self._maps = maps
        self._embedding = embedding

    def __call__(
        self,
        network: nn.Module,
        real: torch.Tensor,
        synthetic: torch.Tensor,
        real_labels: torch.Tensor | None = None,
        synthetic_labels: torch.Tensor | None = None,
        *,
        groups: int | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar, of ``synthetic`` images (M, C, H, W) against ``real`` ones (N, C, H, W).

        Without labels both are class-major over ``groups`` classes, one by default. With labels, int64 (N,) and (M,), they may
        be in any order; gradient matchers need labels. Each side has equally many images of every class. The gradient reaches
        only ``synthetic``, neither the real side nor the network's parameters.

        Normalisation layers are used in their own mode, on the images of the call: with batch normalisation in training,
        classes stacked in one call and classes one by one differ, as they do between the published scripts. Raises ConfigError
        if layers are missing or cannot be detected, if images and labels do not fit, and if no gradient would reach the
        synthetic images.
        """
        if not len(real) or not len(synthetic):
            raise ConfigError(f"found {len(real)} real and {len(synthetic)} synthetic images; give some of each")
        if isinstance(network, nn.DataParallel):
            network = network.module  # its replicas would write into one another's features
        labels = _labels((real, synthetic), (real_labels, synthetic_labels))
        if labels is not None and groups is not None:
            raise ConfigError("found both labels and groups; labels already group the images: give one of the two")
        if isinstance(self.matcher, ImageMatcher):
            if labels is None:
                raise ConfigError(f"{type(self.matcher).__name__} needs labels; pass real_labels and synthetic_labels")
            loss = self.matcher.loss(network, real, synthetic, *labels)
        else:
            if labels is not None:
                real, synthetic, groups = _class_major(real, synthetic, *labels)
            loss = self._compare_features(self.matcher, network, real, synthetic, 1 if groups is None else groups)
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise ConfigError(
                "the loss does not depend on the synthetic images; call requires_grad_() on them, and do not detach "
                "them"
            )
        return loss

    def _compare_features(
        self, matcher: Matcher, network: nn.Module, real: torch.Tensor, synthetic: torch.Tensor, groups: int
    ) -> torch.Tensor:
        with _frozen(network), self._extractor(network) as extract:
            with torch.no_grad():
                seen = extract(real, groups=groups)
            return matcher(seen, extract(synthetic, groups=groups))

    def _extractor(self, network: nn.Module) -> FeatureExtractor | ActivationExtractor:
        if self._maps is None or self._embedding is None:
            return ActivationExtractor(network)
        return FeatureExtractor(network, maps=self._maps, embedding=self._embedding)


def _labels(
    images: tuple[torch.Tensor, torch.Tensor], labels: tuple[torch.Tensor | None, torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Both sides' labels, checked, int64 and on the images' device; None if no labels are given."""
    real, synthetic = labels
    if real is None or synthetic is None:
        if real is not synthetic:
            raise ConfigError("found labels of one side only; give real_labels and synthetic_labels, or neither")
        return None
    for side, held, given in zip(("real", "synthetic"), images, (real, synthetic), strict=True):
        if given.shape != (len(held),) or given.is_floating_point():
            raise ConfigError(
                f"found {side} labels {given.dtype} {tuple(given.shape)} for {len(held)} images; give int64 "
                f"({len(held)},), one class id per image"
            )
    return real.to(images[0].device, torch.int64), synthetic.to(images[1].device, torch.int64)


def _class_major(
    real: torch.Tensor, synthetic: torch.Tensor, real_labels: torch.Tensor, synthetic_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Both sides in the order of their labels, and the number of classes."""
    rows = list(class_rows(real_labels, synthetic_labels))
    for side, parts in (("real", [row[0] for row in rows]), ("synthetic", [row[1] for row in rows])):
        counts = [len(part) for part in parts]
        if min(counts) != max(counts):
            raise ConfigError(
                f"the {side} batch has {min(counts)} images of one class and {max(counts)} of another; features are matched "
                "for equally many of each: call once per class, or draw equal batches"
            )
    theirs, own = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return real[theirs], synthetic[own], len(rows)


class ActivationExtractor:
    """Computes :class:`Features` from a ConvNet-like network by detecting its layers.

    ``maps`` are the outputs (N, C, H, W) of its activation layers in the order they run; the embedding is the input of its last
    linear layer, flattened: for the ConvNet, AlexNet and VGG of the condensation scripts, the result of their ``embed``. Use as
    a context manager, or call :meth:`close`; after a call, ``names`` are the layers that gave the maps.

    Activations called as functions are not seen. Raises ConfigError, with the list of layers, for a network without activation
    or linear layers, one that runs an activation layer twice, one whose maps grow again (gates, decoders), and one that
    overwrites an activation afterwards.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names: tuple[str, ...] = ()
        self._seen: list[_Seen] = []
        self._embedding: torch.Tensor | None = None
        self._handles = []
        for name, module in network.named_modules():
            if isinstance(module, ACTIVATIONS):
                self._handles.append(module.register_forward_hook(self._keep(name)))
            elif isinstance(module, nn.Linear):
                self._handles.append(module.register_forward_pre_hook(self._keep_input))

    def __call__(self, images: torch.Tensor, *, groups: int = 1) -> Features:
        """Run the network on ``images`` (N, C, H, W), class-major over ``groups`` classes."""
        self._seen, self._embedding = [], None
        self.network(images)
        seen, embedding = self._seen, self._embedding
        self._seen, self._embedding = [], None
        if (trouble := _trouble(seen, embedding)) is not None:
            known = ", ".join(name for name, module in self.network.named_modules() if name)
            raise ConfigError(f"{trouble}; name the layers with maps= and embedding=, of {known or 'none'}")
        assert embedding is not None
        self.names = tuple(item.name for item in seen)
        return Features(maps=tuple(item.output for item in seen), embedding=embedding.flatten(1), groups=groups)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> ActivationExtractor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _keep(self, name: str):  # type: ignore[no-untyped-def]  # the hook's own signature is torch's
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if output.ndim == 4:
                self._seen.append(_Seen(name=name, output=output, writes=_writes(output)))

        return hook

    def _keep_input(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._embedding = inputs[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """The output of an activation layer, and its count of in-place writes at that time."""

    name: str
    output: torch.Tensor
    writes: int


def _writes(tensor: torch.Tensor) -> int:
    """torch's count of in-place changes; tensors made in inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


def _trouble(seen: list[_Seen], embedding: torch.Tensor | None) -> str | None:
    """The reason why the layers that ran are not a plain chain of blocks with a classifier; None if they are."""
    names = [item.name for item in seen]
    twice = next((name for name in names if names.count(name) > 1), None)
    sides = [item.output.shape[2:] for item in seen]
    grown = next((names[i + 1] for i in range(len(sides) - 1) if sides[i + 1].numel() > sides[i].numel()), None)
    overwritten = next((item.name for item in seen if _writes(item.output) != item.writes), None)
    if not seen:
        return "the forward pass ran no activation layer with an output (N, C, H, W)"
    if embedding is None:
        return "the forward pass ran no linear layer whose input could be the embedding"
    if twice is not None:
        return f"the forward pass ran the activation layer {twice!r} more than once"
    if grown is not None:
        return f"the maps grow again at {grown!r}, so the activation layers are not a plain chain"
    if overwritten is not None:
        return f"a later layer overwrites the output of {overwritten!r} in place"
    return None


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Within: no gradient for the parameters, in any graph that is recorded."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
