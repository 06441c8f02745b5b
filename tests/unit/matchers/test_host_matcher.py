"""The adapter for foreign loops: what it finds, what it compares, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from atom_plugin.errors import ConfigError, PluginError
from atom_plugin.matchers import make_matcher
from atom_plugin.matchers.host_matcher import ActivationExtractor, HostMatcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.features import FeatureExtractor, Features

CLASSES = 3
INPLACE = True


def block(channels: int, width: int, norm: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1), norm, nn.ReLU(INPLACE), nn.AvgPool2d(2)]


def chain(norm: type[nn.Module] = nn.InstanceNorm2d) -> nn.Sequential:
    """Two blocks and a classifier, float64, for images (1, 8, 8)."""
    torch.manual_seed(0)
    layers = [*block(1, 4, norm(4)), *block(4, 5, norm(5)), nn.Flatten(), nn.Linear(20, CLASSES)]
    return nn.Sequential(*layers).double()


def images(per_class: int, seed: int, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (CLASSES * per_class, 1, 8, 8)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(**options)


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_what_it_finds_in_our_networks_is_what_they_give_themselves(normalisation: str) -> None:
    network = ConvNetConfig(width=4, depth=3, normalisation=normalisation).build((1, 8, 8), CLASSES).double()
    batch = images(2, 0, requires_grad=False)
    own = network.features(batch, groups=CLASSES)
    with ActivationExtractor(network) as extract:
        found = extract(batch, groups=CLASSES)
        assert extract.names == ("blocks.0.activation", "blocks.1.activation", "blocks.2.activation")
    assert found.groups == CLASSES
    for mine, theirs in zip((*found.maps, found.embedding), (*own.maps, own.embedding), strict=True):
        assert torch.equal(mine, theirs)


def test_the_embedding_is_what_the_last_linear_layer_is_given() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *block(1, 4, nn.Identity()), nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, CLASSES), nn.Softmax(1)
    ).double()
    batch = images(2, 0, requires_grad=False)
    with ActivationExtractor(network) as extract:
        found = extract(batch)
    assert extract.names == ("2",)  # "6" gives no map
    torch.testing.assert_close(found.embedding, network[:7](batch))


@pytest.mark.parametrize("matcher", ["atom", "atom-channel", "datadam", "dm", "feature"])
def test_classes_one_by_one_add_up_to_all_at_once(matcher: str) -> None:
    network, host_loss = chain(), HostMatcher(matcher)
    real, one_by_one, stacked = images(5, 1, requires_grad=False), images(2, 2), images(2, 2)
    parts = [
        host_loss(network, real[k * 5 : k * 5 + 5], one_by_one[k * 2 : k * 2 + 2])  # as the condensation scripts slice
        for k in range(CLASSES)
    ]
    total = torch.stack(parts).sum()
    whole = host_loss(network, real, stacked, groups=CLASSES)
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)
    total.backward()
    whole.backward()
    torch.testing.assert_close(one_by_one.grad, stacked.grad, rtol=1e-9, atol=1e-12)


def test_batch_statistics_see_what_one_call_sees() -> None:
    network, host_loss = chain(nn.BatchNorm2d), HostMatcher("atom")
    real, synthetic = images(5, 1, requires_grad=False), images(2, 2)
    parts = [host_loss(network, real[k * 5 : k * 5 + 5], synthetic[k * 2 : k * 2 + 2]) for k in range(CLASSES)]
    whole = host_loss(network, real, synthetic, groups=CLASSES)
    assert abs(float((torch.stack(parts).sum() / whole).detach()) - 1) > 1e-3
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # as DC's script does after one pass over many classes: then nothing ties the images together
    parts = [host_loss(network, real[k * 5 : k * 5 + 5], synthetic[k * 2 : k * 2 + 2]) for k in range(CLASSES)]
    whole = host_loss(network, real, synthetic, groups=CLASSES)
    torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("matcher", ["atom", "dc", "mmd-pixel"])
def test_labels_stand_for_the_order_whatever_the_matcher_compares(matcher: str) -> None:
    network, host_loss = chain(), HostMatcher(matcher)
    real, synthetic, mixed = images(5, 1, requires_grad=False), images(2, 2), images(2, 2)
    lab_real, lab_syn = (torch.arange(CLASSES).repeat_interleave(n) for n in (5, 2))
    generator = torch.Generator().manual_seed(3)
    theirs, own = (torch.randperm(len(labels), generator=generator) for labels in (lab_real, lab_syn))
    stacked = host_loss(network, real, synthetic, lab_real, lab_syn)
    shuffled = host_loss(network, real[theirs], mixed[own], lab_real[theirs], lab_syn[own])
    one_by_one = [
        host_loss(network, real[lab_real == k], synthetic[lab_syn == k], lab_real[lab_real == k], lab_syn[lab_syn == k])
        for k in range(CLASSES)
    ]
    torch.testing.assert_close(shuffled, stacked, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.stack(one_by_one).sum(), stacked, rtol=1e-6, atol=0)
    (first,) = torch.autograd.grad(stacked, synthetic)
    (second,) = torch.autograd.grad(shuffled, mixed)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
    assert torch.count_nonzero(first) > 0


def test_features_are_grouped_alike_by_labels_and_by_groups() -> None:
    network, real, synthetic = chain(), images(5, 1), images(2, 2)
    labels = [torch.tensor([2, 5, 9]).repeat_interleave(n) for n in (5, 2)]
    by_labels = HostMatcher("atom")(network, real, synthetic, *labels)
    assert torch.equal(by_labels, HostMatcher("atom")(network, real, synthetic, groups=CLASSES))


def test_matchers_of_gradients_leave_a_frozen_network_frozen_and_without_gradient() -> None:
    network, real, synthetic = chain().requires_grad_(False), images(5, 1), images(2, 2)
    labels = [torch.arange(CLASSES).repeat_interleave(n) for n in (5, 2)]
    HostMatcher("dc")(network, real, synthetic, *labels).backward()
    assert torch.count_nonzero(synthetic.grad) > 0
    assert real.grad is None
    assert all(item.grad is None and not item.requires_grad for item in network.parameters())


def test_named_layers_do_what_found_ones_do() -> None:
    network, real, synthetic = chain(), images(5, 1, requires_grad=False), images(2, 2)
    found = HostMatcher("atom")(network, real, synthetic, groups=CLASSES)
    named = HostMatcher("atom", maps=["2", "6"], embedding="7")(network, real, synthetic, groups=CLASSES)
    assert torch.equal(found, named)
    other = HostMatcher("atom", maps=["0", "6"], embedding="7")(network, real, synthetic, groups=CLASSES)
    assert not torch.equal(found, other)


def test_options_reach_the_matcher_and_a_finished_one_is_taken_as_it_is() -> None:
    network, real, synthetic = chain(), images(5, 1, requires_grad=False), images(2, 2)
    options = {"p_s": 2.0, "loss_scale": 3.0}
    by_name = HostMatcher("atom", options=options)(network, real, synthetic, groups=CLASSES)
    finished = HostMatcher(make_matcher("atom", options))(network, real, synthetic, groups=CLASSES)
    assert torch.equal(by_name, finished)
    assert not torch.equal(by_name, HostMatcher("atom")(network, real, synthetic, groups=CLASSES))


def test_a_callable_of_ones_own_sees_both_sides() -> None:
    def host_own(real: Features, synthetic: Features) -> torch.Tensor:
        assert not real.embedding.requires_grad
        assert (real.groups, len(real.maps), len(real.embedding)) == (CLASSES, 2, CLASSES * 5)
        return (real.embedding.mean(0) - synthetic.embedding.mean(0)).square().sum()

    network, real, synthetic = chain(), images(5, 1), images(2, 2)
    HostMatcher(host_own)(network, real, synthetic, groups=CLASSES).backward()
    assert real.grad is None
    assert synthetic.grad is not None


def test_gradient_reaches_the_synthetic_images_alone_and_the_network_stays_as_it_was() -> None:
    network, real, synthetic = chain(nn.BatchNorm2d), images(5, 1), images(2, 2)
    frozen = network[0].weight.requires_grad_(False)
    HostMatcher("atom")(network, real, synthetic, groups=CLASSES).backward()
    assert torch.count_nonzero(synthetic.grad) > 0
    assert real.grad is None
    assert [parameter.grad for parameter in network.parameters() if parameter.grad is not None] == []
    assert [parameter for parameter in network.parameters() if not parameter.requires_grad] == [frozen]
    network(synthetic.detach()).sum().backward()  # a host that trains the network afterwards can
    assert network[4].weight.grad is not None


@pytest.mark.parametrize("layers", [{}, {"maps": ["2", "6"], "embedding": "7"}])
def test_nothing_is_left_on_a_network_and_no_network_is_kept(layers: dict[str, Any]) -> None:
    host_loss, real, synthetic = HostMatcher("atom", **layers), images(5, 1), images(2, 2)
    loss = torch.zeros((), dtype=torch.float64)
    gone = []
    for _ in range(3):
        network = chain()
        gone.append(weakref.ref(network))
        loss = loss + host_loss(network, real, synthetic, groups=CLASSES)
        assert hooks(network) == 0
    del network
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3
    loss.backward()
    assert torch.isfinite(synthetic.grad).all()


def test_a_pass_that_fails_leaves_nothing_either() -> None:
    network = chain()
    with pytest.raises(RuntimeError):
        HostMatcher("atom")(network, torch.zeros(3, 2, 8, 8, dtype=torch.float64), images(1, 0))
    assert hooks(network) == 0
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_data_parallel_networks_are_compared_on_the_hosts_device() -> None:
    network, real, synthetic = chain(), images(5, 1), images(2, 2)
    wrapped = HostMatcher("atom")(nn.DataParallel(network), real, synthetic, groups=CLASSES)
    assert torch.equal(wrapped, HostMatcher("atom")(network, real, synthetic, groups=CLASSES))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_loss_can_be_watched_without_gradient(context: Any) -> None:
    network, real, synthetic = chain(), images(5, 1), images(2, 2)
    expected = HostMatcher("atom")(network, real, synthetic, groups=CLASSES)
    with context():
        loss = HostMatcher("atom")(network, real, synthetic, groups=CLASSES)
    assert not loss.requires_grad
    assert float(loss) == float(expected.detach())


class Twice(nn.Module):
    """One activation layer for two convolutions, as torchvision's ResNets have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(256, CLASSES)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.fc(self.relu(self.second(self.relu(self.first(batch)))).flatten(1))


class Functional(Twice):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.second(torch.relu(self.first(batch)))).flatten(1))


class Gate(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sigmoid())
        self.act = nn.SiLU()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        seen = self.relu(self.first(batch))
        return self.fc(self.act(self.gate(seen) * seen).flatten(1))


class Overwriting(Twice):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        seen = self.relu(self.first(batch))
        return self.fc((seen + 0.0 * seen.mul_(2)).flatten(1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Twice(),
            r"ran the activation layer 'relu' more than once; name the layers with maps= and embedding=, of first, ",
        ),
        (Functional(), "ran no activation layer with an output .* of first, second, relu, fc"),
        (Gate(), "the maps grow again at 'act'"),
        (Overwriting(), "a later layer overwrites the output of 'relu' in place"),
        (nn.Sequential(*block(1, 4, nn.Identity()), nn.Flatten()), "ran no linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3)), "no activation layer"),
        (nn.Flatten(), "no activation layer .* of none"),
    ],
)
def test_a_network_that_is_no_plain_chain_is_refused_with_its_layers(network: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        HostMatcher("atom")(network.double(), images(2, 0), images(1, 1))
    assert "\n" not in str(caught.value)
    assert hooks(network) == 0


def test_its_layers_can_be_named_instead() -> None:
    network, synthetic = Twice().double(), images(1, 1)
    HostMatcher("atom", maps=["first", "second"], embedding="relu")(network, images(2, 0), synthetic).backward()
    assert torch.count_nonzero(synthetic.grad) > 0
    with pytest.raises(ConfigError, match="the network has no layer 'third'; its layers: first, second, relu, fc"):
        HostMatcher("atom", maps=["third"], embedding="relu")(network, images(2, 0), synthetic)
    assert hooks(network) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matcher": "atom", "maps": ["2"]}, "give both maps and embedding"),
        ({"matcher": "atom", "embedding": "7"}, "give both maps and embedding"),
        ({"matcher": make_matcher("atom"), "options": {"p_s": 1.0}}, "already built"),
        ({"matcher": "atom", "options": {"power": 1.0}}, "it takes the options p_s"),
        *(
            ({"matcher": name}, r"needs the whole set and its learned values, not two batches; call its loss\(step\)")
            for name in ("dd", "ld", "mtt", "frepo")
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HostMatcher(**arguments)


def test_unknown_matchers_get_a_suggestion() -> None:
    with pytest.raises(PluginError, match="did you mean 'atom'"):
        HostMatcher("atmo")


def test_images_that_cannot_be_compared_are_refused() -> None:
    network, host_loss = chain(), HostMatcher("atom")
    with pytest.raises(ConfigError, match="found 15 real and 0 synthetic images"):
        host_loss(network, images(5, 1), images(2, 2)[99:])  # a slice past the end
    with pytest.raises(ConfigError, match="15 images do not split into 2 classes"):
        host_loss(network, images(5, 1), images(2, 2), groups=2)
    with pytest.raises(ConfigError, match=r"call requires_grad_\(\) on them"):
        host_loss(network, images(5, 1), images(2, 2).detach())
    with pytest.raises(ConfigError, match="15 images do not split into 0 classes"):
        host_loss(network, images(5, 1), images(2, 2), groups=0)


def test_labels_that_do_not_fit_are_refused() -> None:
    network, host_loss, real, synthetic = chain(), HostMatcher("atom"), images(5, 1), images(2, 2)
    lab_real, lab_syn = (torch.arange(CLASSES).repeat_interleave(n) for n in (5, 2))
    uneven = lab_real.clone()
    uneven[0] = 1
    for labels, options, message in [
        ((lab_real, None), {}, "labels of one side only"),
        ((lab_real, lab_syn[1:]), {}, r"found synthetic labels torch.int64 \(5,\) for 6 images; give int64 \(6,\)"),
        ((lab_real.float(), lab_syn), {}, r"found real labels torch.float32 \(15,\)"),
        ((lab_real, lab_syn), {"groups": 3}, "both labels and groups"),
        ((lab_real, lab_syn + 1), {}, "real images are of the classes 0, 1, 2, synthetic ones of 1, 2, 3"),
        ((uneven, lab_syn), {}, "the real batch has 4 images of one class and 6 of another"),
    ]:
        with pytest.raises(ConfigError, match=message):
            host_loss(network, real, synthetic, *labels, **options)
    with pytest.raises(ConfigError, match="GradientMatching needs labels; pass real_labels and"):
        HostMatcher("dc")(network, real, synthetic, groups=CLASSES)


def test_both_extractors_close_twice_without_harm() -> None:
    network = chain()
    for make in (ActivationExtractor, lambda given: FeatureExtractor(given, maps=["2"], embedding="7")):
        extract = make(network)
        assert hooks(network) > 0
        extract.close()
        extract.close()
        assert hooks(network) == 0
