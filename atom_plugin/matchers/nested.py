"""Nested sets: the means of the first 1, 2, 5, … images of a class match together, so that every prefix is a set.

A :class:`~atom_plugin.matchers.MeanMatcher` compares class means of descriptors of single images. The mean over the first k
images is a running sum of descriptors that are there already, so the losses of all prefixes cost one pass of the network:

    L = sum_k w_k L_k,    L_k = matcher(mean over the real images, mean over the first k synthetic images of each class)

Each image then improves the prefixes that contain it. In one point this differs from separate distillations: batch
normalisation takes its moments from the whole set for every prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Powers, Statistics, grouped, powers_of


class NestedMatcher(MeanMatcher):
    """``inner`` on every prefix: ``prefixes`` are ascending counts of images of a class, ``weights`` w_k sum to 1.

    Statistics of synthetic images are (J, K, D_i), a row of class means for each prefix; :attr:`real_side` computes those of
    real images. Raises ConfigError for a matcher whose loss is not a function of class means.
    """

    def __init__(self, inner: object, prefixes: Sequence[int], weights: Sequence[float]) -> None:
        if not isinstance(inner, MeanMatcher) or inner.whole_embeddings:
            raise ConfigError(
                f"the matcher {type(inner).__name__} compares more than class means, so each prefix would need a "
                "separate pass; leave nested out, or choose a matcher such as atom, datadam or dm with the linear "
                "kernel"
            )
        self._inner = inner
        self._prefixes = tuple(prefixes)
        self._weights = tuple(weights)
        # How the rows of a class average, kept by what asked for it: making it anew would copy from the host in every step.
        self._averaging: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}

    @property
    def real_side(self) -> MeanMatcher:
        """The inner matcher, which takes plain class means."""
        return self._inner

    @property
    def separates(self) -> bool:
        """As the inner matcher's."""
        return self._inner.separates

    def matched_maps(self, count: int) -> int:
        """As the inner matcher's."""
        return self._inner.matched_maps(count)

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """As the inner matcher's."""
        return self._inner.describe_map(feature_map)

    def map_powers(self) -> Powers | None:
        """As the inner matcher's."""
        return powers_of(self._inner)

    def describe_sums(self, sums: Sequence[torch.Tensor]) -> Statistics:
        """As the inner matcher's."""
        return self._inner.describe_sums(sums)

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """As the inner matcher's."""
        return self._inner.describe_embedding(embedding)

    def means(self, descriptor: torch.Tensor, groups: int) -> torch.Tensor:
        """(N, D), class-major over ``groups`` classes, to (J, groups, D): one product, in one order on every device."""
        rows = grouped(descriptor, groups)
        key = rows.shape[1], rows.dtype, rows.device
        if key not in self._averaging:
            counts = torch.tensor(self._prefixes, device=rows.device)[:, None]
            places = torch.arange(rows.shape[1], device=rows.device)
            self._averaging[key] = (places < counts).to(rows.dtype) / counts.to(rows.dtype)
        return torch.einsum("jn,knd->jkd", self._averaging[key], rows)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """The weighted sum of the losses of all prefixes."""
        losses = [
            weight * self._inner.compare(real, tuple(item[row] for item in synthetic))
            for row, weight in enumerate(self._weights)
        ]
        return torch.stack(losses).sum()
