"""Soft labels: what they may be, what networks learn of them, and that they stay with their images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic_sets import make_set

from atom_plugin.errors import ConfigError
from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.soft_labels import KINDS, SoftLabels


def soft(values: list[list[float]], kind: str = "logits") -> SoftLabels:
    return SoftLabels(values=torch.tensor(values), kind=kind)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (torch.zeros(2, 3), "logit", "no kind of soft labels is called 'logit'; did you mean 'logits'"),
        (torch.zeros(2, 3, dtype=torch.float64), "logits", "must be float32 .* not torch.float64"),
        (torch.zeros(6), "logits", r"\(images, classes\) on the CPU, not torch.float32 \(6,\)"),
        (torch.zeros(2, 0), "logits", r"\(2, 0\)"),
        (torch.zeros(2, 3, device="meta"), "logits", "on meta"),
        (torch.tensor([[0.0, float("nan"), float("inf")]]), "scores", "found 2 of 3 soft label values not finite"),
        (torch.tensor([[1.5, -0.5]]), "probabilities", r"probabilities down to -0\.5, expected 0 or more"),
        (torch.tensor([[0.5, 0.5], [0.5, 0.6]]), "probabilities", r"image 1 sum to 1\.1, expected 1"),
        ([[0.5, 0.5]], "probabilities", "soft labels must be a Tensor"),
    ],
)
def test_refuses_what_they_are_not(values, kind, words):
    with pytest.raises(ConfigError, match=words) as error:
        SoftLabels(values=values, kind=kind)
    assert "\n" not in str(error.value)


def test_probabilities_rounded_on_the_way_are_taken():
    rounded = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)).softmax(1).half().float()
    assert not torch.equal(rounded.sum(1), torch.ones(20))
    assert len(SoftLabels(values=rounded, kind="probabilities")) == 20


def test_targets_by_hand():
    probabilities = torch.tensor([[0.8, 0.2, 0.0]])
    assert soft([[0.8, 0.2, 0.0]], "probabilities").targets() is not None
    assert torch.equal(soft([[0.8, 0.2, 0.0]], "probabilities").targets(), probabilities)
    # Squares of probabilities at temperature 1/2, logits doubled.
    sharp = torch.tensor([[0.64, 0.04, 0.0]]) / 0.68
    torch.testing.assert_close(soft([[0.8, 0.2, 0.0]], "probabilities").targets(0.5), sharp)
    torch.testing.assert_close(soft([[2.0, 0.0]]).targets(2.0), torch.tensor([[1.0, 0.0]]).softmax(1))
    assert torch.equal(soft([[2.0, -1.0]], "scores").targets(), torch.tensor([[2.0, -1.0]]))
    with pytest.raises(ConfigError, match="temperature 2, but scores have none; leave it out"):
        soft([[2.0, -1.0]], "scores").targets(2.0)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="temperature must be a number above 0"):
            soft([[2.0, 0.0]]).targets(temperature)


def test_targets_of_a_set_without_are_its_classes():
    held = make_set(classes=3, ipc=1)
    assert torch.equal(held.targets(), torch.eye(3))
    assert torch.equal(
        replace(held, soft_labels=soft([[1.0, 0.0, 0.0]] * 3)).targets(), soft([[1.0, 0, 0]] * 3).targets()
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"soft_labels": soft([[0.0] * 3] * 5)}, r"shape \(5, 3\), expected \(6, 3\) for 6 images and 3 class names"),
        ({"soft_labels": soft([[0.0] * 4] * 6)}, r"shape \(6, 4\), expected \(6, 3\)"),
        ({"soft_labels": torch.zeros(6, 3)}, "soft_labels must be a SoftLabels, not Tensor"),
        ({"learned_lr": 0.0}, "learned_lr must be a number above 0, not 0.0"),
        ({"learned_lr": float("nan")}, "learned_lr must be a number above 0, not nan"),
        ({"learned_lr": "0.1"}, "learned_lr must be a number above 0, not '0.1'"),
    ],
)
def test_a_set_refuses_those_of_others(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(make_set(), **change)


@pytest.mark.parametrize("kind", KINDS)
def test_they_stay_with_their_images(kind):
    held = replace(make_set(classes=4, ipc=3, soft=kind), learned_lr=0.25)
    values = held.soft_labels.values
    part = held.subset([3, 1])
    assert torch.equal(part.soft_labels.values, values[[9, 10, 11, 3, 4, 5]])
    assert part.learned_lr == 0.25
    assert torch.equal(held.first(1).soft_labels.values, values[[0, 3, 6, 9]])
    assert torch.equal(held.at(slice(2)).soft_labels.values, values[:2])
    packed = make_set(factor=2, ipc=1, soft=kind)
    assert torch.equal(packed.decoded().soft_labels.values, packed.soft_labels.values.repeat_interleave(4, 0))
    assert packed.decoded().soft_labels.kind == kind
    assert held.stored_as("uint8").soft_labels is held.soft_labels


def test_joined_sets_keep_them_class_by_class():
    first, second = make_set(pixels=1, ipc=1, soft="logits"), make_set(pixels=2, ipc=1, soft="logits")
    second = replace(second, preprocessing=first.preprocessing)
    merged = concatenate([replace(first, learned_lr=0.5), replace(second, learned_lr=0.5)])
    expected = torch.stack([first.soft_labels.values, second.soft_labels.values], 1).flatten(0, 1)
    assert torch.equal(merged.soft_labels.values, expected)
    assert merged.learned_lr == 0.5
    assert concatenate([replace(first, learned_lr=0.5), second]).learned_lr is None
    hard = second.with_class_labels("a test")
    with pytest.raises(ConfigError, match=r"b\.h5 has soft labels that are logits, a\.h5 has no soft labels; join"):
        concatenate([hard, first], names=["a.h5", "b.h5"])
    other = replace(second, soft_labels=replace(second.soft_labels, kind="scores"))
    with pytest.raises(
        ConfigError, match="set 1 has soft labels that are logits, set 2 has soft labels that are scores"
    ):
        concatenate([first, other])


def test_leaving_them_out_is_said(caplog):
    held = make_set(soft="logits")
    assert held.with_class_labels("a replay memory").soft_labels is None
    assert "soft labels are not used: a replay memory takes the class" in caplog.text
    caplog.clear()
    make_set().with_class_labels("a replay memory")
    assert not caplog.text
