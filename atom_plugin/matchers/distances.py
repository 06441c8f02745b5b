"""Norms of descriptors, and distances of their class means, for the terms of a loss.

DataDAM's supplement compares L1, L2 and no normalisation (figure 13), and mean squared error, mean absolute error and cosine
dissimilarity (figure 12). Errors here are sums over dimensions and classes, as in eq. (2), not means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import refuse_shapes, squared_distance


def absolute_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Sum of absolute differences of two (K, D) tensors. Raises ConfigError where their shapes differ."""
    refuse_shapes(real, synthetic)
    return (real - synthetic).abs().sum()


def cosine_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """``sum_k 1 - cos(real_k, synthetic_k)`` of two (K, D) tensors. Raises ConfigError where their shapes differ."""
    refuse_shapes(real, synthetic)
    return (1 - F.cosine_similarity(real, synthetic, dim=1)).sum()


ERRORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "squared": squared_distance,
    "absolute": absolute_distance,
    "cosine": cosine_distance,
}
NORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "l2": lambda descriptor: F.normalize(descriptor, dim=1),
    "l1": lambda descriptor: F.normalize(descriptor, p=1.0, dim=1),
    "none": lambda descriptor: descriptor,
}


def check_choice(name: str, value: Any, choices: Mapping[str, object]) -> None:
    """Raises ConfigError unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_weights(matcher: object, *names: str) -> None:
    """Raises ConfigError unless each named attribute is a finite number of 0 or more."""
    for name in names:
        value = getattr(matcher, name)
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ConfigError(f"{name} must be 0 or more, not {value}")
