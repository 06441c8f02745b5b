"""Features of a batch, grouped by class, and an extractor that takes them from any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch
from torch import nn

from atom_plugin.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of one class-major batch of ``groups`` classes with equally many images each.

    ``maps`` are (N, C_l, H_l, W_l), one per matched depth from input to output; ``embedding`` is (N, D).
    """

    maps: tuple[torch.Tensor, ...]
    embedding: torch.Tensor
    groups: int

    def __post_init__(self) -> None:
        count = len(self.embedding)
        if self.groups < 1 or count % self.groups:
            raise ConfigError(f"{count} images do not split into {self.groups} classes of equal size")


class FeatureFunction(Protocol):
    """Computes :class:`Features` of images (N, C, H, W), class-major over ``groups`` classes."""

    def __call__(self, images: torch.Tensor, *, groups: int = 1) -> Features:
        """Run the network on ``images``."""


INPUT = ":input"
"""A suffix of a layer's name: the layer's input, in place of its output."""


class FeatureExtractor:
    """Takes :class:`Features` from a foreign network by forward hooks on named layers.

    ``maps`` are the dotted names of layers whose outputs (N, C, H, W) are matched, input side first; ``embedding`` names
    the layer whose output, flattened, is the embedding. A name that ends in ":input" stands for what that layer is given.
    Nothing is cloned: do not hook a layer whose output a later layer changes in place (hook the in-place activation itself).
    Use as a context manager, or call :meth:`close`.

        with FeatureExtractor(network, maps=["layer1", "layer2"], embedding="fc:input") as extract:
            features = extract(images, groups=10)

    Raises ConfigError for a name the network lacks, and when called for a map that is not (N, C, H, W).
    """

    def __init__(self, network: nn.Module, *, maps: Sequence[str], embedding: str) -> None:
        modules = dict(network.named_modules())
        wanted = dict.fromkeys((*maps, embedding))
        absent = [name for name in wanted if name.removesuffix(INPUT) not in modules]
        if absent:
            known = ", ".join(name for name in modules if name)
            raise ConfigError(f"the network has no layer {', '.join(map(repr, absent))}; its layers: {known}")
        self.network = network
        self._maps = tuple(maps)
        self._embedding = embedding
        self._seen: dict[str, torch.Tensor] = {}
        self._handles = [
            modules[name.removesuffix(INPUT)].register_forward_hook(self._keep(name, given=name.endswith(INPUT)))
            for name in wanted
        ]

    def __call__(self, images: torch.Tensor, *, groups: int = 1) -> Features:
        """Run the network on ``images`` (N, C, H, W), class-major over ``groups`` classes."""
        self._seen.clear()
        self.network(images)
        unseen = [name for name in (*self._maps, self._embedding) if name not in self._seen]
        if unseen:
            raise ConfigError(f"the forward pass did not run layer {', '.join(unseen)}; hook layers that it uses")
        seen, self._seen = self._seen, {}
        for name in self._maps:
            if seen[name].ndim != 4:
                raise ConfigError(
                    f"layer {name!r} gives a tensor of shape {tuple(seen[name].shape)}, not a map (N, C, H, W); name others"
                )
        return Features(
            maps=tuple(seen[name] for name in self._maps), embedding=seen[self._embedding].flatten(1), groups=groups
        )

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, name: str, *, given: bool):  # type: ignore[no-untyped-def]  # the hook's own signature is torch's
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._seen[name] = inputs[0] if given else output

        return hook


def widened(values: torch.Tensor) -> torch.Tensor:
    """The type that reductions compute in: float32, or float64 for float64 input."""
    return values if values.dtype == torch.float64 else values.float()
