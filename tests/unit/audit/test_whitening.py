"""The whitening in a set's file, and the images it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audits import quick, selected, source

from atom_plugin.audit.auditing import audit
from atom_plugin.audit.rates import attack_rates
from atom_plugin.audit.result import ALL
from atom_plugin.audit.whitening import whitening_scores
from atom_plugin.datasets import Split
from atom_plugin.transforms.preprocessing import Preprocessing


def test_scores_are_mahalanobis_distances_under_the_covariance_of_the_members() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (200, 1, 3, 3), generator=generator).to(torch.uint8)
    fitted = Preprocessing.fit(images, standardise=False, zca_eps=1e-2)
    rows = images.flatten(1).double().numpy() / 255
    covariance = np.cov(rows.T) + 1e-6 * np.eye(9)
    away = rows - rows.mean(0)
    literal = [-np.sqrt(row @ np.linalg.inv(covariance) @ row) for row in away]
    found = whitening_scores(Split(images=images, labels=torch.zeros(200).long()), fitted)
    np.testing.assert_allclose(found, literal, rtol=2e-3)


def test_a_whitening_of_fewer_images_than_values_tells_every_member() -> None:
    held = selected(zca=True)  # 72 members, 192 values
    members, others = (whitening_scores(split, held.preprocessing) for split in (source().train, source().validation))
    assert attack_rates(members, others, resamples=2).auc.value == 1


def test_without_whitening_there_is_nothing_to_tell() -> None:
    assert whitening_scores(source().train, selected().preprocessing) is None


def test_an_audit_has_the_attack_for_sets_that_are_whitened_alone() -> None:
    found = audit([("white", selected(zca=True)), ("plain", selected())], source(), quick())
    white, plain = found.sets
    assert white.rates[ALL, "whitening"].auc.value == pytest.approx(1)
    assert "whitening" not in plain.scores
