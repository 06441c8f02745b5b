import itertools

import pytest
import torch

from atom_plugin.distillation.engine.cuda_branches import narrow_statistics, narrow_statistics_by_classes
from atom_plugin.matchers import make_matcher
from atom_plugin.matchers.power_sums import _sums_in_one_pass, power_sums
from atom_plugin.models.convnet import NORMALISATIONS, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for


def network_and_images(normalisation, dtype=torch.float64, **options):
    config = ConvNetConfig(depth=3, width=8, normalisation=normalisation, **options)
    network = config.build((3, 16, 16), classes=5, generator=generator_for(0, "network")).to(dtype)
    for block in network.conv_blocks():  # a scale and a shift that show
        if list(block.normalisation.parameters()):
            torch.nn.init.uniform_(block.normalisation.weight, 0.5, 2, generator=generator_for(0, "scale"))
            torch.nn.init.uniform_(block.normalisation.bias, -1, 1, generator=generator_for(0, "shift"))
    images = torch.randn(30, 3, 16, 16, generator=generator_for(0, "images"), dtype=dtype) * 3 + 2
    return network, images


@pytest.mark.parametrize(
    ("normalisation", "matcher"),
    list(itertools.product(NORMALISATIONS, ["atom", "atom-channel", "datadam", "dm", "feature"])),
)
def test_both_branches_equal_the_plain_path(normalisation, matcher):
    network, images = network_and_images(normalisation, pooling="max" if matcher == "dm" else "avg")
    chosen = make_matcher(matcher)
    with torch.no_grad():
        plain = chosen.statistics(network.features(images, groups=5))
        for classes_at_a_time in (1, 2, 5):
            bytes_of_them = classes_at_a_time * 6 * 8 * 16 * 16 * 8
            ours = narrow_statistics_by_classes(network, chosen, images, groups=5, map_bytes=bytes_of_them)
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    images.requires_grad_()
    gradients = [
        torch.autograd.grad(sum(item.square().sum() for item in found), images)[0]
        for found in (
            chosen.statistics(network.features(images, groups=5)),
            narrow_statistics(network, chosen, images, groups=5),
        )
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_whole_embeddings_stay_whole():
    network, images = network_and_images("instance")
    chosen = make_matcher("atom", {"kernel": "mixture"})
    with torch.no_grad():
        plain = chosen.statistics(network.features(images, groups=5))
        torch.testing.assert_close(narrow_statistics_by_classes(network, chosen, images, groups=5, map_bytes=1), plain)


@pytest.mark.parametrize("normalisation", ["instance", "layer", "batch"])
def test_maps_stay_in_bfloat16(normalisation):
    network, images = network_and_images(normalisation, torch.float32)
    seen: list[torch.dtype] = []

    class Noting(type(make_matcher("atom"))):
        def describe_map(self, feature_map):
            seen.append(feature_map.dtype)
            return super().describe_map(feature_map)

    network.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            real = narrow_statistics_by_classes(network, Noting(), images, groups=5)
        found = narrow_statistics(network, Noting(), images.requires_grad_(), groups=5)
    assert seen == [torch.bfloat16] * 4
    for ours, same in zip(real, found, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, same.detach(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5, 4.0, 8.0])
def test_one_pass_sums_are_the_same(power):
    """What an accelerator reduces in one kernel, here on the CPU."""
    feature_map = torch.randn(6, 5, 4, 3, generator=generator_for(0, "map"), dtype=torch.float64)
    rows = feature_map.permute(0, 2, 3, 1).flatten(1, 2)
    spatial, channel = power_sums(feature_map, power, power)
    torch.testing.assert_close(_sums_in_one_pass(rows, power, dim=2), spatial)
    torch.testing.assert_close(_sums_in_one_pass(rows, power, dim=1), channel)
    narrow = _sums_in_one_pass(rows.bfloat16(), power, dim=2)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), spatial, rtol=0.01 * power, atol=0.01)
    assert not len(_sums_in_one_pass(rows, None, dim=1))
