import itertools
import time

import pytest
import torch

from atom_plugin.distillation.engine.class_sampler import ClassSampler
from atom_plugin.errors import SourceError
from atom_plugin.runtime.randomness import generator_for

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 1, 2, 0, 0])  # 4, 3, 4 of classes 0, 1, 2


def test_batches_are_class_major_without_replacement():
    sampler = ClassSampler(LABELS, 3)
    for seed in range(20):
        chosen = sampler.sample(3, generator_for(seed, "batch"))[0]
        assert LABELS[chosen].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert len(set(chosen.tolist())) == 9


def test_small_classes_repeat_in_turn():
    chosen = ClassSampler(LABELS, 3).sample(6, generator_for(0, "batch")).view(3, 6)
    assert chosen[1, :3].tolist() == chosen[1, 3:].tolist()
    assert sorted(chosen[1, :3].tolist()) == [2, 3, 7]


@pytest.mark.parametrize("per_class", [2, 6, 40])
def test_a_batch_is_the_same_whichever_others_are_drawn_with_it(per_class):
    sampler = ClassSampler(torch.arange(3).repeat_interleave(torch.tensor([3, 45, 200])), 3)
    together = sampler.sample(per_class, *(generator_for(0, i) for i in range(50)))
    assert torch.equal(together, torch.cat([sampler.sample(per_class, generator_for(0, i)) for i in range(50)]))


def test_a_class_without_images_is_refused():
    with pytest.raises(SourceError, match="class 1 has no training images"):
        ClassSampler(torch.tensor([0, 2]), 3)


@pytest.mark.parametrize("order", [0, 1], ids=["class after class", "mixed"])
def test_large_and_small_classes_in_one_batch(order):
    counts = torch.tensor([1000, 3, 40, 9, 33])  # with 8 a class: rejection, repeats, rejection, shuffled, rejection
    labels = torch.arange(5).repeat_interleave(counts)
    if order:
        labels = labels[torch.randperm(len(labels), generator=generator_for(0, "labels"))]
    sampler = ClassSampler(labels, 5)
    for seed in range(200):
        chosen = sampler.sample(8, generator_for(seed, "batch")).view(5, 8)
        assert torch.equal(labels[chosen], torch.arange(5)[:, None].expand(5, 8))
        different = [len(set(row.tolist())) for row in chosen]
        assert different == [8, 3, 8, 8, 8]


@pytest.mark.parametrize("count", [5, 9], ids=["shuffled whole", "rejection"])
def test_every_ordered_pair_is_equally_likely(count):
    """Chi-squared over all count * (count - 1) ordered pairs; the bound is 5 standard deviations above its mean."""
    classes, draws = 50, 400
    sampler = ClassSampler(torch.arange(classes).repeat_interleave(count), classes)
    seen = torch.zeros(count, count)
    for i in range(draws):
        first, second = (sampler.sample(2, generator_for(0, i)).view(classes, 2) % count).unbind(1)
        seen.index_put_((first, second), torch.ones(classes), accumulate=True)
    pairs = count * (count - 1)
    expected = classes * draws / pairs
    assert seen.diagonal().sum() == 0
    statistic = sum((float(seen[a, b]) - expected) ** 2 / expected for a, b in itertools.permutations(range(count), 2))
    assert abs(statistic - (pairs - 1)) < 5 * (2 * (pairs - 1)) ** 0.5


@pytest.mark.parametrize("per_class", [8, 9, 30])
def test_every_image_is_drawn_equally_often(per_class):
    count, draws = 37, 1500
    sampler = ClassSampler(torch.zeros(count, dtype=torch.int64), 1)
    drawn = torch.cat([sampler.sample(per_class, generator_for(0, i)) for i in range(draws)])
    expected = draws / count  # at each place of the batch
    for place in (0, per_class - 1):
        statistic = ((torch.bincount(drawn[:, place], minlength=count) - expected) ** 2 / expected).sum()
        assert abs(float(statistic) - (count - 1)) < 5 * (2 * (count - 1)) ** 0.5


def test_classes_draw_independently_of_one_another():
    sampler = ClassSampler(torch.arange(2).repeat_interleave(40), 2)
    drawn = torch.stack([sampler.sample(4, generator_for(0, i)).view(2, 4)[:, 0] for i in range(3000)]) % 40
    correlation = float(torch.corrcoef(drawn.T.double())[0, 1])
    assert abs(correlation) < 5 / 3000**0.5


def test_a_draw_costs_the_batch_and_not_the_source():
    def seconds(per_class: int) -> float:
        sampler = ClassSampler(torch.arange(10).repeat_interleave(per_class), 10)
        sampler.sample(8, generator_for(0, "warm"))
        times = []
        for i in range(20):
            start = time.perf_counter()
            sampler.sample(8, generator_for(0, i))
            times.append(time.perf_counter() - start)
        return min(times)

    # A sort of all keys would take 1,000 times as long.
    assert seconds(200_000) < 20 * seconds(200)


def test_purposes_are_independent_and_repeatable():
    def first(*purpose):
        return float(torch.rand(1, generator=generator_for(*purpose)))

    assert first(0, "iteration", 1) == first(0, "iteration", 1)
    assert len({first(0, "iteration", i) for i in range(50)} | {first(1, "iteration", i) for i in range(50)}) == 100
