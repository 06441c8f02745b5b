"""Scores of membership against literal ones, one image and one network at a time."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from atom_plugin.audit.attacks import OWN_SPREAD_FROM, confidences, lira_scores, loss_scores
from atom_plugin.audit.rates import attack_rates
from atom_plugin.errors import ConfigError


def test_confidence_is_the_logit_of_the_right_classs_probability() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    for found, row, label in zip(confidences(logits, labels), logits.double().softmax(1), labels, strict=True):
        p = float(row[label])
        assert found == pytest.approx(math.log(p / (1 - p)))


def test_confidence_stays_finite_where_the_probability_rounds_to_one() -> None:
    assert confidences(torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([0]))[0] == pytest.approx(200 - math.log(2))


def test_loss_scores_are_the_mean_cross_entropy_of_networks() -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 1, 2, 2])
    losses = [torch.nn.functional.cross_entropy(each, labels, reduction="none").numpy() for each in logits]
    found = loss_scores(np.stack([confidences(each, labels) for each in logits]))
    np.testing.assert_allclose(found, -np.mean(losses, axis=0))


def literal_lira(target, shadow, saw, own_spread):
    """The probability that a network which did not see the image is less confident, image by image."""
    outs = [
        [value for value, seen in zip(column, sawn, strict=True) if not seen]
        for column, sawn in zip(shadow.T, saw.T, strict=True)
    ]
    pooled = math.sqrt(
        sum(statistics.variance(out) * (len(out) - 1) for out in outs) / sum(len(out) - 1 for out in outs)
    )
    return [
        statistics.NormalDist(statistics.mean(out), statistics.stdev(out) if own_spread else pooled).cdf(
            statistics.mean(column)
        )
        for column, out in zip(target.T, outs, strict=True)
    ]


@pytest.mark.parametrize("networks", [5, 2 * OWN_SPREAD_FROM])
def test_lira_scores_are_the_literal_attacks(networks: int) -> None:
    draws = np.random.default_rng(0)
    spread = draws.uniform(0.5, 2, size=9)
    target, shadow = draws.normal(size=(3, 9)) * spread, draws.normal(size=(networks, 9)) * spread
    saw = np.zeros(shadow.shape, dtype=bool)
    saw[0, ::2] = True
    shadow[saw] = 1e6  # whatever a network says of its own images
    expected = literal_lira(target, shadow, saw, own_spread=networks > OWN_SPREAD_FROM)
    found = [statistics.NormalDist().cdf(score) for score in lira_scores(target, shadow, saw)]
    np.testing.assert_allclose(found, expected)


def test_an_image_that_shadow_networks_saw_has_no_score() -> None:
    saw = np.array([[True, False], [False, False], [True, False]])
    scores = lira_scores(np.ones((1, 2)), np.arange(6.0).reshape(3, 2), saw)
    assert math.isnan(scores[0]) and not math.isnan(scores[1])


def test_arrays_of_other_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 4\).*\(3, 5\)"):
        lira_scores(np.zeros((2, 4)), np.zeros((3, 5)), np.zeros((3, 5), dtype=bool))


def test_lira_finds_members_that_are_hard_where_the_loss_does_not() -> None:
    draws = np.random.default_rng(3)
    hardness = draws.normal(scale=5, size=2000)  # far more than what membership adds
    member = np.arange(2000) < 1000
    target = hardness + 1.5 * member + draws.normal(scale=0.3, size=(4, 2000))
    shadow = hardness + draws.normal(scale=0.3, size=(4, 2000))
    by_lira = lira_scores(target, shadow, np.zeros(shadow.shape, dtype=bool))
    aucs = [attack_rates(each[member], each[~member], resamples=2).auc.value for each in (by_lira, loss_scores(target))]
    assert aucs[0] > 0.99 and aucs[1] < 0.65
