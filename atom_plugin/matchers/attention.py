"""ATOM (Khaki, Sajedi et al., 2024), its channel-only form, and DataDAM (Sajedi et al., 2023).

For a map f (C, H, W) of one image, eq. (1) and (2) of ATOM:

    A_s(f)[h, w] = sum_c |f[c, h, w]|^p_s        A_c(f)[c] = sum_{h, w} |f[c, h, w]|^p_c

Each is flattened to z and divided by its L2 norm. Eq. (3), with the class means over the real and the synthetic batch:

    L_att = sum_k sum_{l < L} || E_T[z / |z|] - E_S[z / |z|] ||^2      (spatial and channel terms add up)
    loss  = loss_scale * (L_att + task_balance * L_MMD),   L_MMD = sum_k || E_T[e] - E_S[e] ||^2  for the embedding e

Each term has its own weight, norm and error, so that the papers' ablations are options (docs/recipes.md).

Deviations: the papers print no ``loss_scale``; DataDAM's released code uses 100. With SGD on the images it acts as a factor on
the learning rate, so "as printed" is loss_scale 1 (recipes atom-paper and datadam-paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Powers, Statistics, balanced
from atom_plugin.matchers.distances import ERRORS, NORMS, check_choice, check_weights
from atom_plugin.matchers.kernels import Kernel
from atom_plugin.matchers.power_sums import power_sums

_TERM_DEFAULTS = {"weight": 1.0, "norm": "l2", "error": "squared"}


@dataclass(frozen=True, kw_only=True)
class AttentionMatcher(MeanMatcher):
    """Spatial and channel attention with the mean embedding. A power of None removes that attention.

    ``weight_*``, ``norm_*`` ("l2", "l1", "none") and ``error_*`` ("squared", "absolute", "cosine") belong to the spatial and
    the channel term. ``layers`` are the blocks whose maps are matched, 1 being the first; None is all but the last. ``kernel``
    and ``bandwidths`` belong to the embedding's distance (:class:`~.kernels.Kernel`).
    """

    p_s: float | None = 4.0
    p_c: float | None = 4.0
    task_balance: float = 0.01
    loss_scale: float = 100.0
    weight_s: float = 1.0
    weight_c: float = 1.0
    norm_s: str = "l2"
    norm_c: str = "l2"
    error_s: str = "squared"
    error_c: str = "squared"
    layers: Sequence[int] | None = None
    kernel: str = "linear"
    bandwidths: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("p_s", "p_c"):
            power = getattr(self, name)
            if power is not None and not power >= 1:
                raise ConfigError(f"{name} must be at least 1, not {power}; the papers use 1, 2, 4 or 8")
        check_weights(self, "task_balance", "loss_scale", "weight_s", "weight_c")
        for term in ("s", "c"):
            check_choice(f"norm_{term}", getattr(self, f"norm_{term}"), NORMS)
            check_choice(f"error_{term}", getattr(self, f"error_{term}"), ERRORS)
            self._refuse_options_of_nothing(term)
        if self.layers is not None and not _block_numbers(self.layers):
            raise ConfigError(
                f"layers must be a list of block numbers from 1, each once, e.g. [1, 2], not {self.layers!r}"
            )
        Kernel(self.kernel, self.bandwidths)
        if not self.task_balance and not any(weight for weight, _ in self._terms()):
            raise ConfigError(
                "all terms have weight 0; give p_s or p_c with a weight above 0, or a task_balance above 0"
            )

    def _refuse_options_of_nothing(self, term: str) -> None:
        if getattr(self, f"p_{term}") is not None:
            return
        for name, default in _TERM_DEFAULTS.items():
            if getattr(self, f"{name}_{term}") != default:
                raise ConfigError(f"{name}_{term} belongs to an attention that is left out; give p_{term} as well")

    @property
    def whole_embeddings(self) -> bool:
        """True for every kernel except the linear one."""
        return self.kernel != "linear"

    def matched_maps(self, count: int) -> int:
        """Up to the last of ``layers``. Raises ConfigError where the network has fewer."""
        if self.layers is None:
            return count - 1
        if max(self.layers) > count:
            raise ConfigError(f"layers {list(self.layers)} name block {max(self.layers)}, the network has {count}")
        return max(self.layers)

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """Normalised spatial attention (N, H * W) and channel attention (N, C), if their power is given."""
        return self.describe_sums(power_sums(feature_map, *self.map_powers()))

    def map_powers(self) -> Powers:
        """The powers of both attentions."""
        return self.p_s, self.p_c

    def describe_sums(self, sums: Sequence[torch.Tensor]) -> Statistics:
        """The sums, normalised."""
        norms = [self.norm_s] * (self.p_s is not None) + [self.norm_c] * (self.p_c is not None)
        return tuple(NORMS[norm](total) for norm, total in zip(norms, sums, strict=True))

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """The embedding itself, (N, D)."""
        return (embedding,)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """Eq. (4): attention terms plus the weighted embedding term."""
        terms = self._terms()
        maps = []
        for index, pair in enumerate(zip(real[:-1], synthetic[:-1], strict=True)):
            block, term = divmod(index, len(terms))
            if self.layers is None or block + 1 in self.layers:
                weight, error = terms[term]
                maps.append(weight * ERRORS[error](*pair))
        embedding = Kernel(self.kernel, self.bandwidths).distance(real[-1], synthetic[-1])
        return self.loss_scale * balanced(maps, embedding, self.task_balance)

    def _terms(self) -> list[tuple[float, str]]:
        """Weight and error of the attentions whose power is given, in the order of :meth:`describe_map`."""
        spatial = [(self.weight_s, self.error_s)] if self.p_s is not None else []
        return spatial + ([(self.weight_c, self.error_c)] if self.p_c is not None else [])


@dataclass(frozen=True, kw_only=True)
class Atom(AttentionMatcher):
    """ATOM: spatial and channel attention, and the mean embedding."""


@dataclass(frozen=True, kw_only=True)
class AtomChannel(AttentionMatcher):
    """ATOM with channel attention only: cheaper, nearly as good in the paper.

    Raises ConfigError for a ``p_s``.
    """

    p_s: float | None = None

    def __post_init__(self) -> None:
        _refuse_power("atom-channel", "p_s", self.p_s)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DataDAM(AttentionMatcher):
    """DataDAM: spatial attention only, and the mean embedding.

    Raises ConfigError for a ``p_c``.
    """

    p_c: float | None = None

    def __post_init__(self) -> None:
        _refuse_power("datadam", "p_c", self.p_c)
        super().__post_init__()


def _refuse_power(matcher: str, name: str, power: float | None) -> None:
    """Raise ConfigError for a given power, since the set would otherwise be named after the wrong ``matcher``."""
    if power is not None:
        raise ConfigError(
            f"{matcher} does not use {name} ({power}); leave {name} out, or take the matcher atom, which has both "
            "attentions"
        )


def _block_numbers(layers: Sequence[int]) -> bool:
    return (
        isinstance(layers, (list, tuple))
        and bool(layers)
        and all(isinstance(number, int) and number >= 1 for number in layers)
        and len(set(layers)) == len(layers)
    )
