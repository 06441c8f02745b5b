"""The loss of stored logits, against the paper's by hand, and what it leaves of the classes' loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.replay.logits import MemoryLabels, logit_loss

NAN = math.nan
STORED = torch.tensor([[1.0, NAN, 2.0], [0.5, -1.0, NAN], [NAN, NAN, NAN]])


def outputs(heads: int = 3) -> torch.Tensor:
    return torch.randn(3, heads, generator=torch.Generator().manual_seed(0)).requires_grad_()


def by_hand(found: torch.Tensor, stored: torch.Tensor) -> float:
    found = found.detach()
    gaps = [
        (float(found[row, column]) - float(stored[row, column])) ** 2
        for row in range(len(stored))
        for column in range(stored.shape[1])
        if not math.isnan(stored[row, column])
    ]
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("heads", [3, 5])
def test_it_is_the_mean_squared_difference_over_the_logits_that_are_known(heads):
    found = outputs(heads)
    loss = logit_loss(found, STORED)
    assert float(loss.detach()) == pytest.approx(by_hand(found, STORED), rel=1e-6)
    loss.backward()
    known = F.pad(STORED.isfinite(), (0, heads - 3))
    assert found.grad is not None
    assert torch.equal(found.grad != 0, known)
    expected = 2 / 4 * (found.detach() - F.pad(STORED, (0, heads - 3)))
    assert torch.allclose(found.grad[known], expected[known])


def test_a_head_narrower_than_the_class_names_compares_what_it_has():
    wider = torch.cat([STORED, torch.full((3, 2), NAN)], dim=1)
    assert torch.equal(logit_loss(outputs(), wider), logit_loss(outputs(), STORED))


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_where_nothing_is_known_it_is_nothing(value):
    found = outputs()
    loss = logit_loss(found, torch.full((3, 3), value))
    loss.backward()
    assert float(loss.detach()) == 0
    assert found.grad is not None
    assert not found.grad.any()


@pytest.mark.parametrize("kind", ["hard", "logits", "both"])
def test_what_each_kind_trains_with(kind):
    found, classes = outputs(), torch.tensor([0, 1, 2])
    kept, term = MemoryLabels(kind=kind, weight=0.3).apply(found, STORED)
    assert torch.equal(kept, found)
    F.cross_entropy(kept, classes, reduction="sum").backward(retain_graph=True)
    # The third image has no logits: its class is learned under any kind.
    assert found.grad is not None
    learned = [bool(row.any()) for row in found.grad]
    assert learned == [kind != "logits", kind != "logits", True]
    assert float(term.detach()) == pytest.approx(0 if kind == "hard" else 0.3 * by_hand(found, STORED))


def test_a_memory_without_logits_has_no_term():
    kept, term = MemoryLabels(kind="both").apply(found := outputs(), None)
    assert kept is found
    assert float(term) == 0


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"kind": "soft"}, "'soft'"),
        ({"weight": 0.0}, "0"),
        ({"weight": -1.0}, "-1"),
        ({"weight": math.inf}, "inf"),
        ({"weight": NAN}, "nan"),
    ],
)
def test_impossible_labels(changes, part):
    with pytest.raises(ConfigError, match=part):
        MemoryLabels(**changes)
