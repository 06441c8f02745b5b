"""How well one ranking predicts another: rank correlations with their intervals, and the regret of a choice by it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atom_plugin.errors import ConfigError

RESAMPLES = 1000
FEWEST = 3  # candidates; two always agree or disagree wholly
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A correlation in [-1, 1], with ``low`` and ``high``, its 95 % interval over resampled candidates.

    None if it is not defined: too few candidates, or all equal.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Spearman's rho and Kendall's tau-b over ``n`` candidates."""

    n: int
    spearman: Interval
    kendall: Interval


def correlate(
    proxy: Sequence[float | None],
    reference: Sequence[float | None],
    *,
    share: float = 1.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """The agreement of the order by ``proxy`` with that by ``reference``; index i of both is candidate i.

    None is a failed training: a candidate that failed on the reference is left out, one that failed on the proxy is last.
    ``share`` below 1 keeps the best of that fraction by the reference, rounded up. The intervals are percentiles over
    ``resamples`` bootstrap samples of the candidates. Raises ConfigError if the two differ in length or ``share`` is
    impossible.
    """
    if len(proxy) != len(reference):
        raise ConfigError(f"found {len(proxy)} proxy values and {len(reference)} of the reference; give one of each")
    if not 0 < share <= 1:
        raise ConfigError(f"share must be above 0 and at most 1, not {share}")
    pairs = sorted(_pairs(proxy, reference), key=lambda pair: -pair[1])
    pairs = pairs[: math.ceil(share * len(pairs) - 1e-9)]  # 0.05 * 60 is a little above 3
    x, y = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    draws = (
        np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs))) if pairs else np.zeros((0, 0))
    )
    from scipy import stats

    def spearman(one: Any, other: Any) -> float:
        return float(stats.spearmanr(one, other).statistic)

    def kendall(one: Any, other: Any) -> float:
        return float(stats.kendalltau(one, other).statistic)

    return Agreement(n=len(pairs), spearman=_interval(spearman, x, y, draws), kendall=_interval(kendall, x, y, draws))


def regret(proxy: Sequence[float | None], reference: Sequence[float | None], top: int) -> float | None:
    """The best reference value minus the best one among the ``top`` candidates by ``proxy``.

    Equal candidates keep their order. None without any candidate. None in the sequences is as in :func:`correlate`.
    """
    pairs = _pairs(proxy, reference)
    if not pairs:
        return None
    taken = sorted(pairs, key=lambda pair: -pair[0])[:top]
    return max(value for _, value in pairs) - max(value for _, value in taken)


def _pairs(proxy: Sequence[float | None], reference: Sequence[float | None]) -> list[tuple[float, float]]:
    return [
        (-math.inf if value is None else value, true)
        for value, true in zip(proxy, reference, strict=True)
        if true is not None
    ]


def _interval(statistic: Callable[[Any, Any], float], x: Any, y: Any, draws: Any) -> Interval:
    if len(x) < FEWEST:
        return Interval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of samples whose values are all equal: nan
        value = statistic(x, y)
        resampled = np.array([statistic(x[draw], y[draw]) for draw in draws])
        low, high = np.nanquantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval() if math.isnan(value) else Interval(value=value, low=float(low), high=float(high))
