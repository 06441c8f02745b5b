import itertools

import pytest
import torch
from small import coloured_source

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.transforms.preprocessing import Preprocessing

CPU = torch.device("cpu")


def real_batches(data: SourceData, zca_eps: float | None = None, **config: object) -> RealBatches:
    choices = {"per_class": 5, "iterations": 6, "seed": 0, **config}
    return RealBatches(data, Preprocessing.fit(data.train.images, zca_eps=zca_eps), **choices)


def test_a_choice_is_class_major_and_depends_on_seed_and_iteration_alone():
    data = coloured_source()
    one, other = real_batches(data), real_batches(data)
    assert one.choose(3).shape == (3, 5) and one.choose(3).dtype == torch.int64
    assert torch.equal(data.train.labels[one.choose(3)], torch.arange(3)[:, None].expand(3, 5))
    first = {i: one.choose(i) for i in range(6)}
    assert all(torch.equal(first[i], other.choose(i)) for i in (5, 0, 3, 3, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], real_batches(data, seed=1).choose(0))


@pytest.mark.parametrize("zca_eps", [None, 0.1])
def test_fetched_is_what_was_chosen_preprocessed(zca_eps):
    data = coloured_source()
    ours = real_batches(data, zca_eps, iterations=1)
    chosen = ours.choose(0)
    expected = Preprocessing.fit(data.train.images, zca_eps=zca_eps).forward(data.train.images[chosen.flatten()])
    assert torch.equal(ours.fetch(chosen), expected)
    torch.testing.assert_close(ours.fetch(chosen[1:]), expected[5:])
    assert not ours.fetch(chosen).requires_grad


def test_kept_whitened_images_are_those_whitened_per_batch(monkeypatch):
    data = coloured_source()
    kept = real_batches(data, 0.1, iterations=1000)
    kept.fetch(kept.choose(0))
    monkeypatch.setattr("atom_plugin.distillation.engine.real_batches.PREPARED_BYTES", 0)
    fresh = real_batches(data, 0.1, iterations=1000)
    calls = []
    forward = Preprocessing.forward
    monkeypatch.setattr(Preprocessing, "forward", lambda self, images: calls.append(1) or forward(self, images))
    for i in range(5):
        torch.testing.assert_close(kept.fetch(kept.choose(i)), fresh.fetch(fresh.choose(i)), rtol=0, atol=1e-5)
    assert len(calls) == 5, "the kept ones are not whitened again"


class OnAnotherDevice:
    """A whitening preprocessing of a device that only knows shapes; as a GPU does, it refuses tensors of another."""

    mean, whitening = torch.zeros(3, 1, 1, device="meta"), "some"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() - self.mean


def test_whitened_images_are_kept_on_the_device_of_the_preprocessing():
    data = coloured_source()
    ours = RealBatches(data, OnAnotherDevice(), per_class=5, iterations=1000, seed=0)
    assert ours.held is not None
    assert (ours.held.device.type, ours.held.dtype, ours.held.shape) == ("meta", torch.float32, data.train.images.shape)
    assert ours.preprocessed(ours.held[:3]).device.type == "meta"
    assert ours.fetch(ours.choose(0)).device.type == "meta"


def test_images_are_kept_whitened_only_where_the_run_gains():
    def kept(zca_eps: float | None, iterations: int) -> bool:
        ours = real_batches(coloured_source(per_class=30), zca_eps, iterations=iterations)
        return ours._prepared is not None

    assert kept(0.1, 24)  # 24 iterations of 5 a class: each of 30 images four times
    assert not kept(0.1, 23)
    assert not kept(None, 1000)


def test_who_fetches_nothing_keeps_nothing(monkeypatch):
    ours = real_batches(coloured_source(), 0.1, iterations=1000)
    monkeypatch.setattr(Preprocessing, "forward", lambda self, images: pytest.fail("whitened too early"))
    ours.choose(0)
    ours.close()


def test_a_batch_can_be_changed_without_harm():
    for iterations in (1, 1000):
        ours = real_batches(coloured_source(), 0.1, iterations=iterations)
        first = ours.fetch(ours.choose(0)).clone()
        ours.fetch(ours.choose(0)).zero_()
        assert torch.equal(ours.fetch(ours.choose(0)), first)


def test_a_device_that_takes_no_whole_source_is_fed_through_the_thread(monkeypatch):
    data = coloured_source()
    plain = real_batches(data)
    fed = real_batches(data)
    fed._raw = None
    for i in range(4):
        ahead = fed.choose(i + 1)
        assert torch.equal(fed.fetch(fed.choose(i), ahead=ahead), plain.fetch(plain.choose(i)))
    fed.close()


def test_parts_of_a_batch_in_turn_are_the_batch():
    data = coloured_source(classes=4)
    ours = real_batches(data)
    ours._raw = None
    whole = ours.fetch(ours.choose(0))
    parts = [*ours.choose(0).split(2), None]
    got = [ours.fetch(part, ahead=ahead) for part, ahead in itertools.pairwise(parts)]
    assert torch.equal(torch.cat(got), whole)
    ours.close()
