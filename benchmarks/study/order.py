"""Is one method above another? Welch's interval for the difference of two means, in plain words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``difference`` of the means, higher minus lower, and its interval; None where a side has fewer than two values."""

    higher: str
    lower: str
    difference: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """ "confirmed", "refuted" (the other way round), or "not told apart"."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "not told apart"
        return "confirmed" if self.interval[0] > 0 else "refuted"

    @property
    def points(self) -> str:
        """Difference and interval in percentage points."""
        if self.interval is None:
            return f"{100 * self.difference:+.2f} (n too small)"
        low, high = self.interval
        return f"{100 * self.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def welch(higher: Sequence[float], lower: Sequence[float]) -> tuple[float, float] | None:
    """The interval at ``LEVEL`` for the mean of ``higher`` minus that of ``lower`` (Welch, 1947); None for too few values."""
    if min(len(higher), len(lower)) < 2:
        return None
    parts = [statistics.variance(side) / len(side) for side in (higher, lower)]
    difference, error = statistics.fmean(higher) - statistics.fmean(lower), math.sqrt(sum(parts))
    if error == 0:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (higher, lower), strict=True)
    )
    reach = error * float(stats.t.ppf(0.5 + LEVEL / 2, freedom))
    return difference - reach, difference + reach


def units(accuracies: Sequence[Sequence[float]]) -> list[float]:
    """What counts as one draw: a set's mean where there are several sets, else a network.

    Networks trained on one set are no independent draws of the method that made it.
    """
    return [statistics.fmean(one) for one in accuracies] if len(accuracies) > 1 else list(accuracies[0])


def compare(higher: str, lower: str, ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Comparison:
    """Of accuracies, set by set."""
    first, second = units(ours), units(theirs)
    difference = statistics.fmean(first) - statistics.fmean(second)
    return Comparison(higher=higher, lower=lower, difference=difference, interval=welch(first, second))
