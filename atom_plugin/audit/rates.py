"""How well scores distinguish members from non-members: the usual rates of attacks, with bootstrap intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atom_plugin.errors import ConfigError

Array = np.ndarray[Any, Any]
FALSE_POSITIVE_RATES = (0.01, 0.001)
RESAMPLES = 1000
FEWEST = 4  # images on either side, two for each half
_LEVEL = 0.95
_AT_ONCE = 50  # resamples, so that their weights stay small


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A rate in [0, 1], with ``low`` and ``high``, its 95 % interval over resampled images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class AttackRates:
    """The success of an attack on ``members`` and ``non_members`` images.

    ``auc``: the area under the ROC curve, 0.5 for guessing. ``balanced_accuracy``: the mean of the fractions of members and of
    non-members classified right, by a threshold chosen on the other half of the images. ``tpr``: by false positive rate, the
    fraction of members found at no more than that rate; None if the non-members are too few to measure the rate.
    """

    members: int
    non_members: int
    auc: Estimate
    balanced_accuracy: Estimate
    tpr: Mapping[float, Estimate | None]


def attack_rates(members: Array, non_members: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> AttackRates:
    """The rates of the scores of ``members`` (m,) and ``non_members`` (k,); higher scores mean members.

    Members and non-members are resampled separately; the networks are not. Raises ConfigError for fewer than four images of
    either.
    """
    if min(len(members), len(non_members)) < FEWEST:
        raise ConfigError(
            f"found scores of {len(members)} members and {len(non_members)} non-members, expected at least {FEWEST} "
            "of each"
        )
    draws = np.random.default_rng(seed)
    ranking = _Ranking(members, non_members, draws)
    values = ranking.figures(np.ones((1, ranking.count)))[0]
    parts = [min(_AT_ONCE, resamples - first) for first in range(0, resamples, _AT_ONCE)]
    resampled = np.concatenate([ranking.figures(ranking.weights(size, draws)) for size in parts])
    low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    estimates = [
        Estimate(value=float(v), low=float(a), high=float(b)) for v, a, b in zip(values, low, high, strict=True)
    ]
    auc, balanced, *tpr = estimates
    enough = [len(non_members) * rate >= 1 for rate in FALSE_POSITIVE_RATES]
    found = [estimate if measured else None for estimate, measured in zip(tpr, enough, strict=True)]
    return AttackRates(
        members=len(members),
        non_members=len(non_members),
        auc=auc,
        balanced_accuracy=balanced,
        tpr=dict(zip(FALSE_POSITIVE_RATES, found, strict=True)),
    )


class _Ranking:
    """All images by falling score, so that a resample is a weight for each and every rate a cumulative sum.

    scikit-learn's ``roc_curve`` takes weights too, but sorts again each time, one resample at a time.
    """

    def __init__(self, members: Array, non_members: Array, draws: np.random.Generator) -> None:
        scores = np.concatenate([members, non_members])
        is_member = np.arange(len(scores)) < len(members)
        half = np.concatenate([draws.permutation(len(side)) % 2 for side in (members, non_members)])
        order = np.argsort(-scores, kind="stable")
        # A threshold lies below a whole group of equal scores.
        self.ends = np.append(np.nonzero(np.diff(scores[order]))[0], len(scores) - 1)
        self.is_member, self.half, self.order = is_member[order], half[order], order
        self.sides = (len(members), len(non_members))
        self.count = len(scores)

    def weights(self, resamples: int, draws: np.random.Generator) -> Array:
        """How often each image is in a resample of the same size: (resamples, count)."""
        drawn = [draws.multinomial(count, np.full(count, 1 / count), size=resamples) for count in self.sides]
        return np.concatenate(drawn, axis=1)[:, self.order].astype(float)

    def figures(self, weights: Array) -> Array:
        """(resamples, 2 + rates): AUC, balanced accuracy, and the true positive rate at each false positive rate."""
        tpr, fpr = self._curve(weights)
        auc = (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(1)
        at = [np.where(fpr <= rate + 1e-12, tpr, 0).max(1) for rate in FALSE_POSITIVE_RATES]
        return np.stack([auc, self._balanced_accuracy(weights), *at], axis=1)

    def _curve(self, weights: Array) -> tuple[Array, Array]:
        """True and false positive rates at every threshold, from none positive to all: (resamples, thresholds) each."""
        rates = []
        for side in (self.is_member, ~self.is_member):
            sums = np.cumsum(weights * side, axis=1)[:, self.ends]
            share = sums / np.maximum(sums[:, -1:], 1)
            rates.append(np.concatenate([np.zeros((len(weights), 1)), share], axis=1))
        return rates[0], rates[1]

    def _balanced_accuracy(self, weights: Array) -> Array:
        """The accuracy on each half at the best threshold of the other half, and the mean of the two: (resamples,)."""
        curves = [self._curve(weights * (self.half == half)) for half in (0, 1)]
        right = [(tpr + 1 - fpr) / 2 for tpr, fpr in curves]
        row = np.arange(len(weights))
        halves = [measured[row, _middle_of_best(chosen)] for chosen, measured in itertools.permutations(right)]
        return np.asarray(np.mean(halves, axis=0))


def _middle_of_best(right: Array) -> Array:
    """In each row of (n, thresholds), the middle of the first run of the largest values: (n,).

    Images of the other half are between thresholds that are equally good on this one.
    """
    best, place = right.argmax(1), np.arange(right.shape[1])
    worse = right < right.max(1, keepdims=True) - 1e-12
    after = worse & (place > best[:, None])
    end = np.where(after.any(1), after.argmax(1), right.shape[1])
    return np.asarray((best + end - 1) // 2)
