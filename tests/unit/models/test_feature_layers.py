"""Which maps of any network are matched, and matching under networks other than the ConvNet, against a literal loop."""

import pytest
import torch
from small import coloured_source, small_config
from torch import nn

from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import make_matcher
from atom_plugin.models import build_model
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.feature_layers import feature_function, feature_layers, matching_mode
from atom_plugin.runtime.randomness import generator_for

SHAPE = (3, 32, 32)
CLASSES = 2


def built(name, shape=SHAPE, **options):
    return build_model(name, shape, CLASSES, generator=generator_for(0, "network"), options=options)


@pytest.mark.parametrize(
    ("name", "maps", "embedding"),
    [
        ("resnet18", ["1.layer1", "1.layer2", "1.layer3", "1.layer4"], "1.fc:input"),
        ("resnet10", ["1.layer1", "1.layer2", "1.layer3", "1.layer4"], "1.fc:input"),
        # The activation before each pooling; the last map, of one place, is the embedding alone.
        ("vgg11", ["3", "7", "14", "21", "28"], "32:input"),
        ("alexnet", ["3", "7", "17", "19"], "21:input"),
        ("timm:resnet10t", ["layer1", "layer2", "layer3", "layer4"], "fc:input"),
        ("timm:convnext_atto", ["stages.0", "stages.1", "stages.2", "norm_pre"], "head.fc:input"),
        # Its maps hold the channels last: but for the patches' embedding there is none to match.
        ("timm:swin_tiny_patch4_window7_224", ["patch_embed.proj"], "head.fc:input"),
    ],
)
def test_the_last_map_of_every_resolution_and_the_classifiers_input(name, maps, embedding):
    network = built(name)
    modes = [module.training for module in network.modules()]
    found = feature_layers(network, SHAPE)
    assert found == (maps, embedding)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())


def test_the_convnets_own_features_are_what_the_rule_finds():
    config = ConvNetConfig(depth=3, width=8, activation="swish")
    network = config.build(SHAPE, CLASSES, generator=generator_for(0, "network"))
    images = torch.randn(4, *SHAPE, generator=generator_for(0, "images"))
    assert feature_function(network, SHAPE) == network.features
    with pytest.raises(ConfigError, match=r"--matcher-option layers=\[1,2\]"):
        feature_function(network, SHAPE, layers=["blocks.0"])
    plain = nn.Sequential(
        *(module for block in network.conv_blocks() for module in [*block.children(), nn.AvgPool2d(2)]),
        nn.Flatten(),
        network.classifier,
    )
    own, found = network.features(images, groups=2), feature_function(plain, SHAPE)(images, groups=2)
    torch.testing.assert_close(found.maps[:3], own.maps)
    torch.testing.assert_close(found.embedding, own.embedding)


def literal(name, network, maps, embedding, real, synthetic):
    """ATOM's eq. (1) to (4), or DM's, from outputs collected by hand; class by class, layer by layer."""

    def seen(images):
        held = {}
        modules = dict(network.named_modules())
        handles = [
            modules[layer].register_forward_hook(lambda m, i, o, layer=layer: held.update({layer: o})) for layer in maps
        ]
        handles.append(
            modules[embedding].register_forward_pre_hook(lambda m, i: held.update({"last": i[0].flatten(1)}))
        )
        network(images)
        for handle in handles:
            handle.remove()
        return held

    a, b = seen(real), seen(synthetic)
    total = 0.0
    for k in range(CLASSES):
        of_class = [slice(k * len(x) // CLASSES, (k + 1) * len(x) // CLASSES) for x in (real, synthetic)]
        means = [side["last"][rows].mean(0) for side, rows in zip((a, b), of_class, strict=True)]
        total = total + (0.01 if name == "atom" else 1.0) * ((means[0] - means[1]) ** 2).sum()
        for layer in maps if name == "atom" else ():
            for dims in ((1,), (2, 3)):  # spatial attention sums over channels, channel attention over places
                attention = []
                for side, rows in zip((a, b), of_class, strict=True):
                    z = (side[layer][rows].abs() ** 4).sum(dims).flatten(1)
                    attention.append((z / z.norm(dim=1, keepdim=True)).mean(0))
                total = total + ((attention[0] - attention[1]) ** 2).sum()
    return total


@pytest.mark.parametrize("matcher", ["atom", "dm"])
@pytest.mark.parametrize(
    ("model", "maps", "embedding"),
    [
        ("resnet10", ["1.layer1", "1.layer2", "1.layer3"], "1.fc"),
        ("timm:resnet10t", ["layer1", "layer2", "layer3"], "fc"),
        ("timm:regnetx_002", ["stem", "s1", "s2", "s3"], "head.fc"),
    ],
)
def test_matching_under_other_networks_equals_a_literal_loop(matcher, model, maps, embedding):
    network = built(model).double().requires_grad_(False)
    matching_mode(network)
    real = torch.randn(6, *SHAPE, generator=generator_for(0, "real"), dtype=torch.float64)
    images = torch.randn(4, *SHAPE, generator=generator_for(0, "synthetic"), dtype=torch.float64)
    chosen = make_matcher(matcher, {"loss_scale": 1.0} if matcher == "atom" else {})
    engine = PlainEngine(network, feature_function(network, SHAPE))
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    found = chosen.compare(engine.real(chosen, real, groups=2), engine.synthetic(chosen, ours, groups=2))
    expected = literal(matcher, network, maps, embedding, real, theirs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in ((found, ours), (expected, theirs))]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


def test_named_layers_are_all_matched():
    network = built("resnet10").eval()
    images = torch.zeros(2, *SHAPE)
    features = feature_function(network, SHAPE, layers=["1.layer1", "1.layer3"])(images)
    atom = make_matcher("atom")
    assert [tuple(item.shape[1:]) for item in features.maps[: atom.matched_maps(len(features.maps))]] == [
        (64, 32, 32),
        (256, 8, 8),
    ]
    with pytest.raises(ConfigError, match=r"no layer 'stage1'; its layers: .*1\.layer1"):
        feature_function(network, SHAPE, layers=["stage1"])
    with pytest.raises(ConfigError, match=r"layer '1.fc' gives a tensor of shape \(2, 2\), not a map"):
        feature_function(network, SHAPE, layers=["1.fc"])(images)


def test_a_run_under_a_resnet_is_deterministic_and_draws_a_network_a_step():
    config = small_config(iterations=3, matching_model="resnet10")
    data = coloured_source()
    one, again = (distill(config, data, device="cpu") for _ in range(2))
    assert torch.equal(one.images, again.images)
    assert one.provenance.config["matching_model"] == "resnet10"
    run = Distiller(config, data, device="cpu")
    assert len(run.network[1].layer1) == 1  # IDC's one block a stage, and no ConvNet
    weights = []
    for _ in range(2):
        run.step()
        weights.append(next(run.network.parameters()).clone())
    assert not torch.equal(*weights)


def test_a_stopped_run_under_a_trained_resnet_goes_on_to_the_same_bytes(tmp_path):
    import stopped

    config = small_config(
        iterations=4, matching_model="resnet10", network_state="trained:1", network_pool=2, inner_loop=2
    )
    data, path = coloured_source(), tmp_path / "run.checkpoint"
    whole = distill(config, data, device="cpu")
    stopped.stop_after(3, config, data, path)
    assert torch.equal(distill(config, data, device="cpu", checkpoint=path, resume=True).images, whole.images)


def test_a_network_whose_maps_a_matcher_cannot_compare_is_refused():
    config = small_config(matching_model="vit", matcher="atom")
    with pytest.raises(ConfigError, match=r"no map .*--matching-layers.*dm"):
        Distiller(config, coloured_source(), device="cpu")
    assert (
        Distiller(
            small_config(matching_model="vit", matcher="dm", matcher_options={}), coloured_source(), device="cpu"
        ).step()
        > 0
    )


def test_a_batch_normalised_network_on_few_images_is_warned_of(caplog):
    Distiller(small_config(matching_model="timm:resnet10t"), coloured_source(), device="cpu")
    assert "batch normalisation" in caplog.text and "6 synthetic images" in caplog.text
    caplog.clear()
    Distiller(small_config(matching_model="resnet10"), coloured_source(), device="cpu")
    assert not caplog.records
