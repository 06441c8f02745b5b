"""Counting forgetting events, against the definition written out over the whole history of every image."""

import math

import pytest
import torch
from selection_oracles import events_of

from atom_plugin.distillation.selection import ForgettingCounter


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_the_whole_history(seed):
    generator = torch.Generator().manual_seed(seed)
    count, classes, epochs = 50, 4, 9
    labels = torch.randint(classes, (count,), generator=generator)
    counter = ForgettingCounter(labels)
    histories: list[list[bool]] = [[] for _ in range(count)]
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=generator).split(16):
            logits = torch.randn(len(rows), classes, generator=generator)
            counter.update(rows, logits)
            for row, guess in zip(rows.tolist(), logits.argmax(1).tolist(), strict=True):
                histories[row].append(guess == int(labels[row]))
    scores = counter.scores()
    assert scores.dtype == torch.float64
    assert scores.tolist() == [events_of(history) for history in histories]
    assert 0 < int(scores.isinf().sum()) < count


@pytest.mark.parametrize(
    ("guesses", "expected"),
    [([1], 0), ([0], math.inf), ([1, 1, 1], 0), ([0, 1], 0), ([1, 0], 1), ([1, 0, 0, 1, 0], 2), ([0, 0, 0], math.inf)],
)
def test_a_single_image(guesses, expected):
    counter = ForgettingCounter(torch.tensor([1]))
    for guess in guesses:
        counter.update(torch.tensor([0]), torch.nn.functional.one_hot(torch.tensor([guess]), 2).float())
    assert counter.scores().tolist() == [expected]


def test_half_precision_logits_are_fine_and_images_not_shown_were_not_learnt():
    counter = ForgettingCounter(torch.tensor([0, 1]))
    counter.update(torch.tensor([1]), torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16))
    assert counter.scores().tolist() == [math.inf, 0.0]
