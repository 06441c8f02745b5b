"""Networks by name: the papers' five, and one small member of fourteen of timm's families."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.errors import ConfigError, ModelError
from atom_plugin.models import NAMED_MODELS, build_model, list_models
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for

# Depth and width are cut where the smallest member is still large: what is tested is how small images get through.
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"depth": 2}),
    "deit": ("deit_tiny_distilled_patch16_224", {"depth": 2}),
    "swin": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}),
    "swin v2": ("swinv2_tiny_window8_256", {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1)}),
    "efficientnet": ("efficientnet_b0", {}),
    "mobilenet v3": ("mobilenetv3_small_050", {}),
    "regnet": ("regnetx_002", {}),
    "densenet": ("densenet121", {"block_config": (2, 2, 2, 2)}),
    "mixer": ("mixer_s32_224", {}),
    "resnet": ("resnet10t", {}),
    "vgg": ("vgg11", {"mlp_ratio": 1 / 64}),
    "ghostnet": ("ghostnet_050", {}),
    "pvt v2": ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}),
}


def build(name, shape=(3, 32, 32), classes=5, seed=0, **arguments):
    return build_model(name, shape, classes, generator=generator_for(seed, "network"), **arguments)


def timm_family(family, size=32, **options):
    name, smaller = FAMILIES[family]
    return build(f"timm:{name}", (3, size, size), options={**smaller, **options})


def batch(shape, count=2):
    images = torch.randn(count, *shape, generator=generator_for(0, "images"))
    return images.contiguous(memory_format=torch.channels_last)


def outputs(network, images, kinds):
    """Shapes without the batch of what modules of ``kinds`` give, in the order they run."""
    shapes = []
    hooks = [
        module.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape[1:])))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
    return shapes


def train_and_predict(network, shape):
    """One step of SGD: every parameter has a gradient, some of them move, and logits stay finite."""
    images, labels = batch(shape), torch.arange(2)
    network = network.to(memory_format=torch.channels_last)
    assert network.training
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loss = F.cross_entropy(network(images), labels)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert any(moved)  # not all: what starts at 0 lets no gradient through in the first step
    with torch.no_grad():
        logits = network.eval()(images)
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMED_MODELS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 64, 64)], ids=str)
def test_the_papers_networks_train_and_predict(name, shape):
    train_and_predict(build(name, shape), shape)


@pytest.mark.parametrize("name", NAMED_MODELS)
@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 64, 48)], ids=str)
def test_the_papers_networks_take_large_and_oblong_images(name, shape):
    assert build(name, shape).training  # after a forward pass of its own


@pytest.mark.parametrize("name", NAMED_MODELS)
def test_the_papers_networks_tell_eight_pixels_apart(name):
    with torch.no_grad():
        logits = build(name, (1, 8, 8)).eval()(batch((1, 8, 8), 2))
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)  # as they would, were the last maps of one place


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [32, 64])
def test_timms_families_train_and_predict(family, size):
    train_and_predict(timm_family(family, size), (3, size, size))


@pytest.mark.parametrize("family", ["swin", "convnext", "resnet"])
def test_timms_families_take_one_channel_at_28_pixels(family):
    name, options = FAMILIES[family]
    train_and_predict(build(f"timm:{name}", (1, 28, 28), options=options), (1, 28, 28))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("convnet", 320_010), ("alexnet", 1_872_202), ("vgg11", 9_231_114), ("resnet18", 11_173_962), ("vit", 9_523_722)],
)
def test_the_papers_networks_have_the_released_codes_parameters(name, parameters):
    network = build(name, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("name", "padding"), [("alexnet", 4), ("vgg11", 3)])
def test_the_border_is_the_padding_that_the_released_codes_give_28_pixels(name, padding):
    network = build(name, (1, 28, 28)).eval()
    images = batch((1, 28, 28), 2)
    first = next(module for module in network if isinstance(module, nn.Conv2d))
    after = outputs(network, images, nn.Conv2d)[0]
    expected = F.conv2d(images, first.weight, first.bias, padding=padding)
    assert after == tuple(expected.shape[1:])
    torch.testing.assert_close(first(network[0](images)), expected)


def test_resnet18_halves_its_maps_three_times():
    network = build("resnet18", (3, 32, 32))
    stages = (network[1].conv1, network[1].layer1, network[1].layer2, network[1].layer3, network[1].layer4)
    shapes = []
    for stage in stages:
        stage.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape[1:])))
    network(batch((3, 32, 32), 2))
    assert shapes == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


@pytest.mark.parametrize(
    ("name", "normalisation", "kind"),
    [("alexnet", "batch", nn.BatchNorm2d), ("vgg11", "instance", nn.GroupNorm), ("resnet18", "batch", nn.BatchNorm2d)],
)
def test_normalisation_is_an_option(name, normalisation, kind):
    network = build(name, options={"normalisation": normalisation})
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert sum(isinstance(module, kind) for module in network.modules()) == convolutions


def test_vit_has_eight_by_eight_patches_at_every_size():
    for size in (32, 64, 128):
        network = build("vit", (3, size, size), options={"depth": 1})
        assert network.pos_embed.shape == (1, 65, 512)
        assert network.patch_embed.patch_size == (size // 8, size // 8)
    assert build("vit", (3, 64, 64), options={"depth": 1, "patch_size": 4}).pos_embed.shape == (1, 257, 512)
    # The released code draws positions from N(0, 1), timm from a narrow one.
    assert network.pos_embed.std().item() == pytest.approx(1, abs=0.02)


def test_resnet18_is_drawn_as_torch_draws():
    weight = build("resnet18")[1].layer4[1].conv2.weight
    assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(512 * 9), rel=1e-3)


@pytest.mark.parametrize(
    ("family", "first_map", "last_map"),
    [
        ("vit", (192, 8, 8), None),
        ("mixer", (512, 8, 8), None),
        ("swin", (24, 16, 16), None),
        ("convnext", (40, 16, 16), None),
        ("pvt v2", (32, 16, 16), None),
        ("resnet", (24, 32, 32), (512, 4, 4)),
        ("densenet", (64, 32, 32), None),
        ("efficientnet", (32, 32, 32), (1280, 2, 2)),
        ("vgg", (64, 32, 32), None),
    ],
)
def test_stems_reduce_32_pixels_less(family, first_map, last_map):
    network = timm_family(family)
    maps = outputs(network, batch((3, 32, 32), 1), nn.Conv2d)
    assert maps[0] == first_map
    assert last_map is None or last_map in maps[-2:]


def test_resnet_like_stems_lose_their_pooling_below_64_pixels():
    small, large = build("timm:resnet18"), build("timm:resnet18", (3, 64, 64))
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.weight.shape == (64, 3, 7, 7)
    assert isinstance(large.maxpool, nn.MaxPool2d)
    # He et al.'s spread, for the kernel that is left.
    assert small.conv1.weight.std().item() == pytest.approx(large.conv1.weight.std().item() * 7 / 3, rel=0.03)
    dense = timm_family("densenet")
    assert isinstance(dense.features.pool0, nn.Identity)
    assert isinstance(dense.features.transition1.pool, nn.AvgPool2d)


def test_windows_divide_the_map_without_padding():
    for size, grid in ((32, 16), (28, 14)):
        block = timm_family("swin", size).layers[0].blocks[0]
        assert block.input_resolution == (grid, grid)
        assert grid % block.window_size[0] == 0


def test_models_that_cannot_be_built_without_storage_are_built_with_it(monkeypatch):
    import timm

    create = timm.create_model

    def on_no_meta(*arguments, **options):
        if torch.get_default_device().type == "meta":
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", on_no_meta)
    assert timm_family("vit").patch_embed.grid_size == (8, 8)


def test_options_go_before_our_own_choice():
    assert timm_family("vit", patch_size=8).patch_embed.grid_size == (4, 4)
    assert build("convnet", convnet=ConvNetConfig(depth=1), options={"width": 16}).config == ConvNetConfig(
        depth=1, width=16
    )


def test_convnet_is_the_configured_one():
    config = ConvNetConfig(width=8, depth=2)
    network = build("convnet", convnet=config)
    assert isinstance(network, ConvNet)
    same = config.build((3, 32, 32), 5, generator=generator_for(0, "network"))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("name", [*NAMED_MODELS, "timm:mobilenetv3_small_050"])
def test_parameters_follow_the_generator_and_nothing_else(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(name)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build(name), build(name, seed=1)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_draws_are_the_same_in_every_process():
    weight = build("alexnet")[1].weight.flatten()[:3]
    assert weight.tolist() == pytest.approx([0.0688641, -0.06369273, -0.01358691], abs=1e-7)


def test_without_a_generator_torch_draws():
    first, second = (build_model("alexnet", (3, 32, 32), 5) for _ in range(2))
    assert not torch.equal(first[1].weight, second[1].weight)


@pytest.mark.parametrize(
    ("name", "shape", "options", "says"),
    [
        ("resnet81", (3, 32, 32), {}, "did you mean 'resnet18'"),
        ("", (3, 32, 32), {}, "known: convnet"),
        ("vgg16", (3, 32, 32), {}, "did you mean 'timm:vgg16'"),
        ("timm/vgg16", (3, 32, 32), {}, "did you mean 'timm:vgg16'"),
        ("timm:vit_tiny_patch16_22", (3, 32, 32), {}, "did you mean 'vit_tiny_patch16_224'"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", (3, 32, 32), {}, "no model of timm"),
        ("timm:resnet10t", (3, 32, 32), {"pretrained": True}, "random weights"),
        ("timm:resnet18.a1_in1k", (3, 32, 32), {}, "'a1_in1k', but networks start from random weights"),
        ("timm:resnet18.a1_in1k", (3, 32, 32), {}, "name the architecture, 'resnet18'"),
        (
            "timm:levit_128s",
            (3, 32, 32),
            {},
            "too coarse for 3x32x32 images: 4 of its 11 attentions see a single token",
        ),
        ("timm:resnet10t", (3, 32, 32), {"num_heads": 2}, "unexpected keyword argument 'num_heads'"),
        ("timm:vgg11", (3, 16, 16), {"mlp_ratio": 1 / 64}, "cannot take 3x16x16 images"),
        ("timm:vgg11", (3, 16, 16), {"mlp_ratio": 1 / 64}, "made for 224x224"),
        ("vit", (3, 32, 32), {"patch_size": 5}, "32x32 images into patches of 5"),
        ("vgg11", (3, 32, 32), {"normalisation": "batchnorm"}, "not 'batchnorm'"),
        ("vgg11", (3, 32, 32), {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("convnet", (3, 32, 32), {"widht": 3}, "did you mean 'width'"),
        ("convnet", (3, 32, 32), {"depth": 9}, "lower the depth"),
        ("alexnet", (3, 0, 32), {}, "3x0x32"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name, shape, options, says):
    with pytest.raises(ConfigError) as caught:
        build(name, shape, options=options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_no_logits_is_refused():
    with pytest.raises(ModelError, match=r"not logits \(2, 5\)"):
        build("timm:mobilenetv3_small_050", options={"num_classes": 7})


def test_names_are_listed_by_pattern():
    assert list_models(None) == list(NAMED_MODELS)
    found = list_models("convnext_*tt*")
    assert found[:6] == list(NAMED_MODELS)
    assert "timm:convnext_atto" in found
    assert all("convnext" in name for name in found[6:])
    assert list_models("timm:convnext_*tt*") == found
    for none in ("nothing-is-called-this", "", "timm:"):
        assert list_models(none) == list(NAMED_MODELS)
