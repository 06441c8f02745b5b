"""The spread of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def sample_std(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divisor n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None
