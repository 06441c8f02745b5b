import itertools

import pytest
import torch

from atom_plugin.distillation.engine.cpu_real_branch import stream_statistics
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import NORMALISATIONS, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for


@pytest.mark.parametrize(
    ("normalisation", "matcher"),
    list(itertools.product(NORMALISATIONS, ["atom", "atom-channel", "datadam", "dm", "feature"])),
)
@pytest.mark.parametrize("images_per_piece", [1, 4, 7, 1000])
def test_streaming_equals_the_plain_path(normalisation, matcher, images_per_piece):
    config = ConvNetConfig(depth=3, width=8, normalisation=normalisation, pooling="max" if matcher == "dm" else "avg")
    network = config.build((3, 16, 16), classes=5)
    network.reset(generator_for(0, "network"))
    images = torch.randn(30, 3, 16, 16, generator=generator_for(0, "images")) * 3 + 2
    chosen = make_matcher(matcher)
    with torch.no_grad():
        plain = chosen.statistics(network.features(images, groups=5))
    streamed = stream_statistics(network, chosen, images, groups=5, piece_bytes=images_per_piece * 8 * 16 * 16 * 4)
    assert len(streamed) == len(plain)
    for ours, oracle in zip(streamed, plain, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=2e-4, atol=2e-5)


def test_float64_agrees_to_its_own_precision():
    network = ConvNetConfig(depth=2, width=8, normalisation="batch").build((1, 8, 8), classes=3).double()
    images = torch.randn(12, 1, 8, 8, generator=generator_for(0, "images"), dtype=torch.float64)
    atom = make_matcher("atom")
    with torch.no_grad():
        plain = atom.statistics(network.features(images, groups=3))
    torch.testing.assert_close(
        stream_statistics(network, atom, images, groups=3, piece_bytes=20_000), plain, rtol=1e-10, atol=1e-12
    )
