"""Policies see pixels, and networks see what preprocessing makes of them."""

import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation import training
from atom_plugin.evaluation.training import TrainConfig, train, train_on_real
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.transforms.policies import POLICIES, pixel_policy


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_each_image_is_augmented_on_its_own_from_the_generator_alone(name, channels):
    picture = coloured_source(per_class=1, size=16, channels=channels).train.images[:1]
    batch = picture.expand(24, -1, -1, -1)
    policy = pixel_policy(name, channels)

    def augmented(seed):
        torch.rand(seed + 1)
        return policy(batch, torch.Generator().manual_seed(7 if seed < 2 else seed))

    state = torch.random.get_rng_state()
    first = policy(batch, torch.Generator().manual_seed(7))
    assert torch.equal(state, torch.random.get_rng_state())
    assert (first.dtype, first.shape) == (torch.uint8, batch.shape)
    assert torch.equal(first, augmented(0))
    assert torch.equal(first, augmented(1))
    assert not torch.equal(first, augmented(2))
    assert len(first.unique(dim=0)) > 6, "all images got the same"


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ConfigError, match="1 or 3 channels, not 4"):
        pixel_policy("randaugment", 4)


@pytest.mark.parametrize("zca_eps", [None, 0.1])
def test_a_policy_that_does_nothing_trains_as_without_one(monkeypatch, zca_eps):
    """So networks see the pixels, preprocessed again, whether they come from a set or from real images."""
    data = coloured_source()
    chosen = selected_set(small_selection(ipc=3, zca_eps=zca_eps), data)
    seen = []

    def idle(name, channels):
        return lambda pixels, generator: seen.append(pixels) or pixels

    monkeypatch.setattr(training, "pixel_policy", idle)
    network = ConvNetConfig(width=8, depth=2)
    configs = [TrainConfig(epochs=2, batch_size=5, augmentation=name) for name in ("none", "randaugment")]
    of_set = [train(chosen, network, config, seed=0) for config in configs]
    of_real = [train_on_real(data.train, chosen, network, config, seed=0) for config in configs]
    for plain, augmented in (of_set, of_real):
        torch.testing.assert_close(plain.classifier.weight, augmented.classifier.weight)
    assert all(pixels.dtype == torch.uint8 for pixels in seen)
    assert sum(map(len, seen)) == 2 * (len(chosen) + len(data.train))


@pytest.mark.parametrize("name", POLICIES)
def test_the_policies_reach_the_network(name):
    data = coloured_source()
    chosen = selected_set(small_selection(ipc=3), data)
    network = ConvNetConfig(width=8, depth=2)

    def weight(config):
        return train(chosen, network, config, seed=0).classifier.weight

    augmented = TrainConfig(epochs=1, augmentation=name)
    assert torch.equal(weight(augmented), weight(augmented))
    assert not torch.allclose(weight(augmented), weight(TrainConfig(epochs=1, augmentation="none")))
