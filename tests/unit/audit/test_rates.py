"""Rates of attacks against scikit-learn's and against known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from atom_plugin.audit.rates import attack_rates
from atom_plugin.errors import ConfigError


def drawn(members=3000, non_members=4000, shift=1.0, seed=0, decimals=6):
    draws = np.random.default_rng(seed)
    return (draws.normal(shift, size=members).round(decimals), draws.normal(size=non_members).round(decimals))


@pytest.mark.parametrize("decimals", [6, 0])  # 0: most scores are equal to many others
def test_rates_are_those_of_scikit_learn(decimals: int) -> None:
    members, others = drawn(300, 500, decimals=decimals)
    truth, scores = np.repeat([1, 0], [300, 500]), np.concatenate([members, others])
    found = attack_rates(members, others, resamples=10)
    assert found.auc.value == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.tpr[0.01] is not None
    assert found.tpr[0.01].value == pytest.approx(tpr[fpr <= 0.01].max())


def test_intervals_hold_the_known_rates_of_two_gaussians() -> None:
    known = {"auc": norm.cdf(1 / np.sqrt(2)), "balanced_accuracy": norm.cdf(0.5)}
    inside = dict.fromkeys(known, 0)
    for seed in range(40):
        found = attack_rates(*drawn(200, 300, seed=seed), resamples=200, seed=seed)
        for name, value in known.items():
            inside[name] += getattr(found, name).low <= value <= getattr(found, name).high
    assert min(inside.values()) >= 34


def test_true_positives_of_two_gaussians_are_the_known_ones() -> None:
    found = attack_rates(*drawn(20_000, 20_000), resamples=20)
    for rate, estimate in found.tpr.items():
        assert estimate is not None
        assert estimate.value == pytest.approx(norm.sf(norm.isf(rate) - 1), rel=0.2)


def test_scores_that_tell_nothing_are_at_one_half_within_their_interval() -> None:
    inside, balanced = 0, []
    for seed in range(40):
        found = attack_rates(*drawn(100, 150, shift=0, seed=seed), resamples=200, seed=seed)
        inside += found.auc.low <= 0.5 <= found.auc.high
        balanced.append(found.balanced_accuracy.value)
    assert inside >= 34
    # A threshold chosen on the images that it is measured on would always stand above one half.
    assert min(balanced) < 0.5 and np.mean(balanced) == pytest.approx(0.5, abs=0.02)


def test_scores_apart_are_told_wholly() -> None:
    found = attack_rates(np.arange(5000.0, 6000), np.arange(-1000.0, 0), resamples=10)
    assert [found.auc.low, *(each.low for each in found.tpr.values())] == [1, 1, 1]
    assert found.balanced_accuracy.low > 0.99


def test_a_rate_that_the_non_members_are_too_few_for_is_not_told() -> None:
    tpr = attack_rates(*drawn(50, 999), resamples=10).tpr
    assert tpr[0.01] is not None and tpr[0.001] is None


def test_same_seed_same_intervals() -> None:
    once, again, other = (attack_rates(*drawn(50, 60), resamples=50, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 members.*at least 4"):
        attack_rates(np.zeros(3), np.zeros(100))
