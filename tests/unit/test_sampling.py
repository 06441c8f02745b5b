import torch

from atom_plugin.randomness import generator_for
from atom_plugin.sampling import ClassSampler

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 1, 2, 0, 0])  # 4, 3, 4 of classes 0, 1, 2


def test_batches_are_class_major_without_replacement():
    sampler = ClassSampler(LABELS, 3)
    for seed in range(20):
        chosen = sampler.draw(3, generator_for(seed, "batch"))
        assert LABELS[chosen].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert len(set(chosen.tolist())) == 9


def test_small_classes_repeat_in_turn():
    chosen = ClassSampler(LABELS, 3).draw(6, generator_for(0, "batch")).view(3, 6)
    assert chosen[1, :3].tolist() == chosen[1, 3:].tolist()
    assert sorted(chosen[1, :3].tolist()) == [2, 3, 7]


def test_every_image_is_drawn_equally_often():
    sampler = ClassSampler(LABELS, 3)
    drawn = torch.stack([sampler.draw(2, generator_for(0, i)) for i in range(3000)])
    share = torch.bincount(drawn.flatten(), minlength=len(LABELS)) / 3000
    expected = 2 / torch.bincount(LABELS)[LABELS]
    torch.testing.assert_close(share, expected, rtol=0.1, atol=0)


def test_purposes_are_independent_and_repeatable():
    def first(*purpose):
        return float(torch.rand(1, generator=generator_for(*purpose)))

    assert first(0, "iteration", 1) == first(0, "iteration", 1)
    assert len({first(0, "iteration", i) for i in range(50)} | {first(1, "iteration", i) for i in range(50)}) == 100
