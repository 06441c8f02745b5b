"""Kernels for the mean-embedding term: the distance of two sets of embeddings as distributions.

    MMD^2 = mean k(r, r') + mean k(s, s') - 2 mean k(r, s)          (Gretton et al., 2012; the biased estimate)

With the linear kernel this is the squared distance of the means, which needs only the means. The other kernels are as in M3D
(Zhang et al., 2024): ``k(x, y) = sum_m exp(-|x - y|^2 / (m b))`` with multipliers m, and b the mean squared distance of
different images of the pooled real and synthetic batch of a class, without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import group_means, grouped, squared_distance
from atom_plugin.matchers.distances import check_choice
from atom_plugin.runtime.device import full_precision

# Multipliers of the bandwidth where none are given; "mixture" has M3D's five.
KERNELS: dict[str, tuple[float, ...]] = {"linear": (), "gaussian": (1.0,), "mixture": (0.25, 0.5, 1.0, 2.0, 4.0)}


@dataclass(frozen=True)
class Kernel:
    """One of the kernels by ``name``, with ``bandwidths`` (None: its own) as multipliers of the mean squared distance.

    Raises ConfigError for an unknown name and for bandwidths that the kernel cannot take.
    """

    name: str = "linear"
    bandwidths: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_choice("kernel", self.name, KERNELS)
        if self.bandwidths is None:
            object.__setattr__(self, "bandwidths", KERNELS[self.name])
            return
        if self.name == "linear":
            raise ConfigError(
                "bandwidths have no effect on the linear kernel; name gaussian or mixture, or leave them out"
            )
        if not _positive_numbers(self.bandwidths) or (self.name == "gaussian" and len(self.bandwidths) != 1):
            wanted = "a list of one number" if self.name == "gaussian" else "a list of numbers"
            raise ConfigError(
                f"bandwidths of the {self.name} kernel must be {wanted} above 0, e.g. "
                f"{list(KERNELS[self.name])}, not {self.bandwidths!r}"
            )

    @property
    def linear(self) -> bool:
        """Whether the distance needs only class means."""
        return self.name == "linear"

    def distance(self, real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
        """The sum of MMD^2 over classes. Linear: (K, D) class means; others: (K, n, D) and (K, m, D)."""
        if self.linear:
            return squared_distance(real, synthetic)
        count = real.shape[1]
        if (real.shape[0], real.shape[2]) != (synthetic.shape[0], synthetic.shape[2]):
            raise ConfigError(
                f"real embeddings have shape {tuple(real.shape)}, synthetic ones {tuple(synthetic.shape)}; give both sides "
                "the same classes, image size and network"
            )
        similar = self._similarities(torch.cat([real, synthetic], dim=1))
        blocks = similar[:, :count, :count], similar[:, count:, count:], similar[:, :count, count:]
        own, others, across = (block.mean((1, 2)) for block in blocks)
        return (own + others - 2 * across).sum()

    def _similarities(self, pooled: torch.Tensor) -> torch.Tensor:
        """(K, N, D) to (K, N, N)."""
        # Distances come from inner products; around the mean these lose the least to rounding.
        centred = pooled - pooled.detach().mean(1, keepdim=True)
        with full_precision(centred.device):
            inner = centred @ centred.transpose(1, 2)
        norms = inner.diagonal(dim1=1, dim2=2)
        squares = (norms[:, :, None] + norms[:, None, :] - 2 * inner).clamp(min=0)
        pairs = squares.shape[1] * (squares.shape[1] - 1)
        # Where all embeddings are one the scale is of no matter, but gradients are divided by it: its inverse stays finite.
        base = (squares.detach().sum((1, 2)) / pairs).clamp(min=torch.finfo(squares.dtype).tiny ** 0.5)
        assert self.bandwidths is not None
        return torch.stack([(-squares / (m * base)[:, None, None]).exp() for m in self.bandwidths]).sum(0)


def class_distance(kernel: Kernel, real: torch.Tensor, synthetic: torch.Tensor, *, groups: int) -> torch.Tensor:
    """``kernel.distance`` of descriptors (N, D) and (M, D), class-major over ``groups`` classes."""
    if kernel.linear:
        return kernel.distance(group_means(real, groups), group_means(synthetic, groups))
    return kernel.distance(grouped(real, groups), grouped(synthetic, groups))


def _positive_numbers(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and bool(values)
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < float("inf") for v in values)
    )
