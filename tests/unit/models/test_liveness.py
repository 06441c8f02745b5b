"""Parts of networks without an effect: found by their gradients and by attention over one token; timm's models have none."""

import pytest
import torch
from models import SMALLEST  # benchmarks/models.py
from torch import nn
from torch.nn import functional as F

from atom_plugin.errors import ModelError
from atom_plugin.models import build_model, parameters_without_gradient
from atom_plugin.models.liveness import refuse_single_tokens
from atom_plugin.runtime.randomness import generator_for

# Maps, windows and positions of these follow from the image size that they are built for.
SIZED = (
    *("coat_tiny", "coat_lite_tiny", "maxvit_pico_rw_256", "coatnet_nano_rw_224", "coatnet_rmlp_nano_rw_224"),
    *("gcvit_xxtiny", "efficientformerv2_s0", "mvitv2_tiny"),
)
TOO_COARSE = {"efficientvim_m1", "efficientvit_m0", "levit_128s", "mobilevit_xxs", "shvit_s1"}
OF_OTHER_SIZES = {"crossvit_tiny_240", "csatv2", "efficientformer_l1", "halonet_h1"}


class Attention(nn.Module):
    """Over the places of a map pooled to ``side``; fused or by hand."""

    def __init__(self, side: int, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 3) for _ in range(3))
        self.head, self.unused = nn.Linear(3, 5), nn.Linear(3, 5)
        self.side, self.fused = side, fused

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = F.adaptive_avg_pool2d(images, self.side).flatten(2).transpose(1, 2)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(1, 2)).softmax(dim=-1) @ value
        return self.head(mixed.mean(1))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_over_one_token_is_refused_and_counted(fused):
    network = nn.Sequential(Attention(1, fused), nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 3, 1), Attention(1, fused))
    with pytest.raises(
        ModelError, match=r"some is too coarse for 3x8x8 images: 2 of its 2 attentions see a single token"
    ):
        refuse_single_tokens("some", network, (3, 8, 8))
    refuse_single_tokens("some", Attention(2, fused), (3, 8, 8))


@pytest.mark.parametrize("fused", [True, False])
def test_parameters_without_gradient_are_named_in_order_and_nothing_is_changed(fused):
    network = Attention(1, fused)
    before = [parameter.clone() for parameter in network.parameters()]
    unused = ["unused.weight", "unused.bias"]
    queries = ["query.weight", "query.bias", "key.weight", "key.bias"]
    assert parameters_without_gradient(network, (3, 8, 8)) == queries + unused
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    alive = parameters_without_gradient(Attention(2, fused), (3, 8, 8))
    assert "query.weight" not in alive
    assert alive[-2:] == unused


def test_zeros_at_the_start_and_dropout_are_not_taken_for_dead():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.99), nn.Linear(144, 5))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[4].weight)
    assert parameters_without_gradient(network, (3, 8, 8)) == []


def alive(name: str, size: int = 32) -> bool:
    network = build_model(f"timm:{name}", (3, size, size), 5, generator=generator_for(0, "network"))
    return parameters_without_gradient(network, (3, size, size)) == []


@pytest.mark.parametrize("name", SIZED)
def test_models_sized_for_their_images_live_at_32_pixels(name):
    assert alive(name)


@pytest.mark.parametrize(("size", "side"), [(32, 2), (64, 2)])
def test_maxvits_windows_fill_the_last_map(size, side):
    network = build_model("timm:maxvit_pico_rw_256", (3, size, size), 5, generator=generator_for(0, "network"))
    windows = {module.partition_size for module in network.modules() if hasattr(module, "partition_size")}
    assert windows == {(side, side)}


def test_a_model_too_coarse_as_it_is_gets_a_softer_stem_at_64_pixels_too():
    assert alive("levit_128s", 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_of_each_of_timms_modules_lives_or_is_refused_at_32_pixels(name):
    if name in TOO_COARSE | OF_OTHER_SIZES:
        says = "see a single token" if name in TOO_COARSE else "cannot take 3x32x32 images"
        with pytest.raises(ModelError, match=says):
            alive(name)
    else:
        assert alive(name)
