"""Rank correlations against sums by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.search import correlate, regret

PROXY = [0.3, 0.9, 0.1, 0.7, 0.5]
REFERENCE = [0.4, 0.8, 0.5, 0.9, 0.2]


def spearman(x, y):
    """1 - 6 Σ d² / (n (n² - 1)), for values that all differ."""
    ranks = [[sorted(values).index(value) for value in values] for values in (x, y)]
    n = len(x)
    return float(1 - Fraction(6 * sum((a - b) ** 2 for a, b in zip(*ranks, strict=True)), n * (n * n - 1)))


def kendall(x, y):
    """Pairs in one order less pairs in opposite orders, by the number of pairs, for values that all differ."""
    signs = [math.copysign(1, (x[i] - x[j]) * (y[i] - y[j])) for i, j in itertools.combinations(range(len(x)), 2)]
    return sum(signs) / len(signs)


def test_correlations_are_those_of_the_textbook():
    found = correlate(PROXY, REFERENCE, resamples=50)
    assert found.n == 5
    # Places 2, 5, 1, 4, 3 and 2, 4, 3, 5, 1: d² = 0, 1, 4, 1, 4.
    assert found.spearman.value == pytest.approx(1 - 6 * 10 / (5 * 24)) == spearman(PROXY, REFERENCE)
    assert found.kendall.value == pytest.approx(kendall(PROXY, REFERENCE))


def test_equal_values_share_a_place():
    # Places of the proxy 1, 2.5, 2.5, 4; of the reference 1, 2, 3, 4.
    found = correlate([0.1, 0.2, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], resamples=10)
    assert found.spearman.value == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert found.kendall.value == pytest.approx(5 / math.sqrt(5 * 6)), "tau-b: 5 pairs agree, one is tied on one side"


def test_a_failure_on_the_reference_is_left_out_and_one_on_the_proxy_alone_stands_last():
    found = correlate([0.9, None, 0.5, 0.7], [0.8, 0.1, None, 0.6], resamples=10)
    assert (found.n, found.spearman.value) == (3, pytest.approx(1))
    found = correlate([0.9, None, None, 0.7], [0.4, 0.9, 0.3, 0.1], resamples=10)
    assert found == correlate([0.9, -1.0, -1.0, 0.7], [0.4, 0.9, 0.3, 0.1], resamples=10)


def test_a_share_is_of_the_best_by_the_reference_rounded_up():
    proxy = [float(place) for place in range(60)]
    reference = [float(place) for place in range(57)] + [99.0, 98.0, 97.0]
    found = correlate(proxy, reference, share=0.05, resamples=10)
    assert (found.n, found.spearman.value) == (3, pytest.approx(-1)), "5 % of 60 are 3, not the 4 of a rounding error"
    assert correlate(proxy[:21], reference[:21], share=0.05, resamples=10).n == 2


@pytest.mark.parametrize("values", [[0.5, 0.6], [], [0.5, 0.5, 0.5, 0.5]])
def test_too_few_or_all_equal_have_no_correlation(values):
    found = correlate(values, [float(place) for place in range(len(values))], resamples=20)
    assert (found.n, found.spearman.value, found.kendall.low) == (len(values), None, None)


def test_an_interval_is_of_the_seed_and_narrows_with_more_candidates():
    few = correlate(PROXY * 2, [*REFERENCE, *[value + 0.05 for value in REFERENCE]], resamples=200)
    assert few == correlate(PROXY * 2, [*REFERENCE, *[value + 0.05 for value in REFERENCE]], resamples=200)
    other = correlate(PROXY * 2, [*REFERENCE, *[value + 0.05 for value in REFERENCE]], resamples=200, seed=1)
    assert other.spearman.value == few.spearman.value
    assert other.spearman.low != few.spearman.low
    many = correlate(PROXY * 20, [value + 0.001 * place for place in range(20) for value in REFERENCE], resamples=200)
    for one in (few.spearman, few.kendall, many.spearman, many.kendall):
        assert -1 <= one.low <= one.value <= one.high <= 1
    assert many.spearman.high - many.spearman.low < (few.spearman.high - few.spearman.low) / 2


def test_regret_is_what_the_best_of_the_first_lacks():
    assert regret(PROXY, REFERENCE, 1) == pytest.approx(0.9 - 0.8)
    assert regret(PROXY, REFERENCE, 2) == 0.0
    assert regret([0.1, None, 0.2], [0.5, 0.9, None], 1) == pytest.approx(0.4), (
        "the only one with both, before the failed"
    )
    assert regret([0.7, 0.7], [0.3, 0.5], 1) == pytest.approx(0.2), "equals in their order"
    assert regret([0.7], [None], 1) is None


@pytest.mark.parametrize(
    ("proxy", "share", "words"),
    [
        ([0.1], 1.0, "1 proxy values and 2 of the reference"),
        ([0.1, 0.2], 0.0, "share must be above 0"),
        ([0.1, 0.2], 1.5, "1.5"),
    ],
)
def test_what_does_not_fit_is_refused(proxy, share, words):
    with pytest.raises(ConfigError, match=words):
        correlate(proxy, [0.1, 0.2], share=share)
