"""The matchers in a loop in the style of DatasetCondensation's scripts, and all that docs/plugging-in.md shows.

The host below is written for these tests: a network class of its own with in-place ReLU, a new network per iteration,
``get_images``, one call per class or all classes stacked, torch's SGD on ``image_syn``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import coloured_source, small_config
from torch import nn

from atom_plugin.distillation.distiller import Distiller
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.matchers.host_matcher import HostMatcher
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.randomness import generator_for

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugging-in.md"
CLASSES, IPC, BATCH = 3, 2, 10
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda width: nn.GroupNorm(width, width),
    "batch": nn.BatchNorm2d,
}


class HostNet(nn.Module):
    """The host's network: ``features`` in blocks, ``classifier``, and ``embed``."""

    def __init__(self, norm: str, depth: int = 3, width: int = 6) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, *[width] * (depth - 1)):
            layers += [nn.Conv2d(channels, width, 3, padding=1), NORMS[norm](width), nn.ReLU(inplace=True)]
            layers.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (8 >> depth) ** 2, CLASSES)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        return self.features(batch).flatten(1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.embed(batch))


class Host:
    """What such a script has at hand: images by class, synthetic images and their optimiser, networks."""

    def __init__(self, norm: str, dtype: torch.dtype = torch.float32) -> None:
        self.norm = norm
        self.dtype = dtype
        self.draw = torch.Generator().manual_seed(1)
        data = coloured_source()
        self.images = (data.train.images.to(dtype) / 255 - 0.5) / 0.25
        self.labels = data.train.labels
        start = torch.randn(CLASSES * IPC, 3, 8, 8, generator=self.draw, dtype=dtype)
        self.image_syn = start.requires_grad_()
        self.optimizer_img = torch.optim.SGD([self.image_syn], lr=0.5, momentum=0.5)
        self.networks: list[HostNet] = []

    def get_network(self) -> HostNet:
        torch.manual_seed(len(self.networks))
        self.networks.append(HostNet(self.norm).to(self.dtype).train())
        return self.networks[-1]

    def get_images(self, c: int, n: int) -> torch.Tensor:
        own = (self.labels == c).nonzero().flatten()
        return self.images[own[torch.randperm(len(own), generator=self.draw)[:n]]]


def attention(feature_map: torch.Tensor, over: int | tuple[int, int]) -> torch.Tensor:
    sums = (feature_map.abs() ** 4).sum(over).flatten(1)
    return sums / (sums**2).sum(1, keepdim=True).sqrt()


def seen_by(net: HostNet, batch: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The outputs of the ReLUs and the embedding, layer by layer, each kept from what is later done in place."""
    maps = []
    for layer in net.features:
        batch = layer(batch.clone())
        if isinstance(layer, nn.ReLU):
            maps.append(batch.clone())
    return maps, batch.flatten(1)


def literal_atom(net: HostNet, real: torch.Tensor, synthetic: torch.Tensor, classes: int) -> torch.Tensor:
    """ATOM's eq. (1) to (4) as printed, on the host's own layers, for class-major batches."""
    (maps_real, real_embedding), (maps_syn, syn_embedding) = seen_by(net, real.detach()), seen_by(net, synthetic)
    pairs = [
        (attention(r.detach(), over), attention(s, over))
        for r, s in zip(maps_real[:-1], maps_syn[:-1], strict=True)
        for over in (1, (2, 3))
    ]
    total = torch.zeros((), dtype=real.dtype)
    for k in range(classes):
        for weight, (r, s) in [*((1.0, pair) for pair in pairs), (0.01, (real_embedding.detach(), syn_embedding))]:
            n, m = len(r) // classes, len(s) // classes
            total = total + weight * ((r[k * n : (k + 1) * n].mean(0) - s[k * m : (k + 1) * m].mean(0)) ** 2).sum()
    return 100.0 * total


def host_loop(host: Host, host_loss: HostMatcher, iterations: int, *, stacked: bool) -> None:
    for _ in range(iterations):
        net = host.get_network()
        real = [host.get_images(c, BATCH) for c in range(CLASSES)]
        if stacked:
            loss = host_loss(net, torch.cat(real), host.image_syn, groups=CLASSES)
        else:
            loss = torch.tensor(0.0)
            for c in range(CLASSES):
                loss = loss + host_loss(net, real[c], host.image_syn[c * IPC : (c + 1) * IPC])
        host.optimizer_img.zero_grad()
        loss.backward()
        host.optimizer_img.step()


def on_new_networks(host: Host, host_loss: HostMatcher) -> float:
    """The loss of all the host's images, summed over networks that its loop has not seen."""
    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    total = 0.0
    for seed in range(100, 106):
        torch.manual_seed(seed)
        with torch.no_grad():
            total += host_loss(HostNet(host.norm), host.images, host.image_syn, host.labels, labels).item()
    return total


def assert_untouched(networks: list[HostNet]) -> None:
    for net in networks:
        assert all(item.grad is None and item.requires_grad for item in net.parameters())
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(("norm", "stacked"), [("instance", False), ("batch", True)])
def test_the_loss_falls_and_nothing_but_the_images_is_touched(norm: str, stacked: bool) -> None:
    host, host_loss = Host(norm), HostMatcher("atom", options={"loss_scale": 10.0})
    before, start = on_new_networks(host, host_loss), host.image_syn.detach().clone()
    host_loop(host, host_loss, 25, stacked=stacked)
    assert on_new_networks(host, host_loss) < 0.85 * before
    assert (host.image_syn.detach() - start).abs().amax((1, 2, 3)).min() > 0.01  # each image was moved
    assert not host.images.requires_grad
    assert_untouched(host.networks)


def test_gradient_matching_takes_the_hosts_labels() -> None:
    host, host_loss = Host("instance"), HostMatcher("dc")
    net = host.get_network()
    real = [host.get_images(c, BATCH) for c in range(CLASSES)]
    losses = []
    for _ in range(15):  # gradients under one network, as such scripts match them
        loss = torch.tensor(0.0)
        for c in range(CLASSES):
            labels = torch.full((BATCH,), c), torch.full((IPC,), c)
            loss = loss + host_loss(net, real[c], host.image_syn[c * IPC : (c + 1) * IPC], *labels)
        host.optimizer_img.zero_grad()
        loss.backward()
        host.optimizer_img.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert_untouched([net])


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("groups", [1, CLASSES])
def test_a_step_equals_the_literal_computation(norm: str, groups: int) -> None:
    host = Host(norm, torch.float64)
    net = host.get_network()
    real = torch.cat([host.get_images(c, BATCH) for c in range(groups)])
    ours, theirs = (host.image_syn.detach()[: groups * IPC].clone().requires_grad_() for _ in range(2))
    loss = HostMatcher("atom")(net, real, ours, groups=groups)
    expected = literal_atom(net, real, theirs, groups)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)


def test_the_embedding_is_what_the_hosts_embed_returns() -> None:
    host = Host("instance", torch.float64)
    net, real = host.get_network(), host.get_images(0, BATCH)
    loss = HostMatcher("dm")(net, real, host.image_syn[:IPC])
    expected = (net.embed(real).mean(0) - net.embed(host.image_syn[:IPC]).mean(0)).square().sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def converted(network: ConvNet, norm: str) -> HostNet:
    """The host's network with the weights of ours."""
    net = HostNet(norm, depth=len(network.blocks), width=network.config.width)
    ours = [item for item in network.modules() if next(item.parameters(recurse=False), None) is not None]
    theirs = [item for item in net.modules() if next(item.parameters(recurse=False), None) is not None]
    for mine, other in zip(ours, theirs, strict=True):
        other.weight.data.copy_(mine.weight)
        other.bias.data.copy_(mine.bias)
    return net


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("matcher", ["atom", "dm"])
def test_the_loss_is_that_of_our_own_loop(norm: str, matcher: str) -> None:
    data = coloured_source()
    per_class = (
        len(data.train) // CLASSES
    )  # with all images in a batch, it does not matter in which order they are drawn
    config = small_config(
        matcher=matcher, augmentation="none", real_batch=per_class, precision="float32", network={"normalisation": norm}
    )
    preprocessing = config.fit_preprocessing(data)
    distiller = Distiller(config, data, device="cpu", preprocessing=preprocessing)
    images = distiller.images.detach().clone().requires_grad_()
    network = config.network.build(data.image_shape, CLASSES)
    network.reset(generator_for(config.seed, "iteration", 0))
    real = preprocessing.forward(data.train.images)
    host_loss = HostMatcher(make_matcher(config.matcher, config.matcher_options))
    loss = host_loss(converted(network, norm), real, images, groups=CLASSES)
    assert distiller.step() == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    moved = (images.detach() - distiller.images.detach()) / config.image_lr  # the first step of SGD: the gradient
    torch.testing.assert_close(moved, images.grad, rtol=1e-2, atol=1e-4 * float(images.grad.abs().max()))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What is left when the page's code has been run from top to bottom, in a host's surroundings."""
    monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))
    host = Host("instance")
    names: dict[str, Any] = {
        **{"get_images": host.get_images, "image_syn": host.image_syn, "optimizer_img": host.optimizer_img},
        **{"get_network": host.get_network, "num_classes": CLASSES, "ipc": IPC, "batch_real": BATCH, "iterations": 3},
        "host": host,
    }
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    yield names


def test_the_pages_code_runs_from_top_to_bottom(page: dict[str, Any]) -> None:
    host = page["host"]
    assert len(host.networks) >= 3 * 3  # one for each iteration of each of its loops
    assert_untouched(host.networks)
    assert (page["synthetic"].grad != 0).any()


def test_the_page_says_the_truth_about_registries(page: dict[str, Any]) -> None:
    host = page["host"]
    net, real = host.get_network(), host.get_images(0, BATCH)
    assert set(page["HOST_LOSSES"]) == {"host-mmd", *(name for name in MATCHERS.names() if name != "host-mmd")}
    for name in ("atom", "datadam", "dm", "host-mmd"):
        assert torch.isfinite(page["HOST_LOSSES"][name]()(net, real, host.image_syn[:IPC]))
    ours = HostMatcher("host-mmd")(net, real, host.image_syn[:IPC])
    torch.testing.assert_close(ours, page["host_mmd"](net.embed(real), net.embed(host.image_syn[:IPC])))


def test_what_the_page_points_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", re.sub(r"^```.*?^```$", "", PAGE.read_text(), flags=re.M | re.S))
    assert len(links) >= 5
    assert [link for link in links if "://" not in link and not (PAGE.parent / link).exists()] == []
    assert "docs/plugging-in.md" in (ROOT / "CONTRIBUTING.md").read_text()
