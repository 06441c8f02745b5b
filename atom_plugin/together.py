"""Several ConvNets of one shape trained at once, each as :func:`~atom_plugin.training.train` trains it alone.

The networks lie side by side in the channels: a batch is (B, R * C, H, W), a convolution has R groups, normalisation and
pooling go by channel anyway, and the classifiers are one batched product. So R networks take as many operations as one, each R
times as large, and on CUDA a step of all of them is one graph (:mod:`.capture`). All parameters are one vector, so that SGD
is three operations.

Network r has its own weights, order of images and augmentation, drawn from its seed as alone: it ends where it would have,
within rounding. What this saves is what is spent around the arithmetic; the arithmetic itself is R times one network's
(docs/performance-gpu.md counts it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from atom_plugin.augmentation import Augmentation
from atom_plugin.capture import captured
from atom_plugin.device import autocast, repeatable_convolutions
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.memory import reuse_freed_memory
from atom_plugin.networks import ConvNet, ConvNetConfig, InstanceNorm
from atom_plugin.randomness import generator_for
from atom_plugin.static_augmentation import augment
from atom_plugin.step_inputs import Layout
from atom_plugin.synthetic_set import SyntheticSet
from atom_plugin.training import TrainConfig

_AHEAD = 32  # steps that the host gives a GPU before it waits for them


def train_together(
    sets: Sequence[SyntheticSet],
    network_config: ConvNetConfig,
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    device: torch.device,
    precision: str = "float32",
    on_epoch: Callable[[int], object] | None = None,
) -> list[ConvNet]:
    """One network per seed, trained on the set beside it: ``train(sets[r], ..., seed=seeds[r])`` for all r at once.

    ``sets`` may be the same one many times; they need equal shapes, equally many images and classes. Raises ConfigError where
    they do not fit, DivergenceError where a network's loss blows up.
    """
    _check_sets(sets, seeds)
    shape, classes = sets[0].preprocessing.image_shape, len(sets[0].class_names)
    networks = [network_config.build(shape, classes, generator=generator_for(seed, "network")) for seed in seeds]
    distinct = list({id(item): item for item in sets}.values())  # repeats of one set share its images
    rows = {id(item): index * len(item) for index, item in enumerate(distinct)}
    learner = _Learner(
        _Stack(networks, device),
        torch.cat([item.images for item in distinct]).to(device),
        torch.cat([item.labels for item in distinct]).to(device),
        config,
        precision,
    )
    with reuse_freed_memory() if device.type == "cpu" else repeatable_convolutions():
        learner.fit([rows[id(item)] for item in sets], len(sets[0]), seeds, on_epoch)
    for seed, loss in zip(seeds, learner.losses.tolist(), strict=True):
        if not loss < float("inf"):
            raise DivergenceError(
                f"training network {seed} ended with a loss of {loss}; lower --lr (now {config.lr:g})"
            )
    return learner.stack.unstacked(networks)


def _check_sets(sets: Sequence[SyntheticSet], seeds: Sequence[int]) -> None:
    if not seeds or len(sets) != len(seeds):
        raise ConfigError(f"found {len(sets)} sets and {len(seeds)} seeds; give a set for each seed, and at least one")
    shapes = {(len(item), item.preprocessing.image_shape, len(item.class_names)) for item in sets}
    if len(shapes) > 1:
        found = " and ".join(
            f"{count} images of {shape} in {classes} classes" for count, shape, classes in sorted(shapes)
        )
        raise ConfigError(f"networks train together on sets of one size, not {found}; train these one after the other")


class _Stack:
    """``networks``, side by side in one vector of parameters ``flat``, each kind of parameter of all of them together."""

    def __init__(self, networks: Sequence[ConvNet], device: torch.device) -> None:
        self.count = len(networks)
        self.template = networks[0]
        self.shapes = [(self.count * len(p), *p.shape[1:]) for p in self.template.parameters()]
        together = zip(*(network.parameters() for network in networks), strict=True)
        flat = torch.cat([torch.cat([_rows(p.detach()) for p in parameters]).flatten() for parameters in together])
        self.flat = flat.to(device).requires_grad_()
        self.norms = [
            _side_by_side(block.normalisation, self.count).to(device, flat.dtype)
            for block in self.template.conv_blocks()
        ]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(R, B, classes) for (R, B, C, H, W)."""
        parameters = iter(self._views())
        state = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for block, norm in zip(self.template.conv_blocks(), self.norms, strict=True):
            state = F.conv2d(state, next(parameters), next(parameters), padding=1, groups=self.count)
            named = {name: next(parameters) for name, _ in block.normalisation.named_parameters()}
            state = block.pool(block.activation(functional_call(norm, named, (state,))))
        embedding = state.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(2)
        weight, bias = (next(parameters).unflatten(0, (self.count, -1)) for _ in range(2))
        return torch.baddbmm(bias.unsqueeze(1), embedding, weight.transpose(1, 2))

    def changed(self) -> list[torch.Tensor]:
        """What a step changes here, besides the parameters: running moments."""
        return [buffer for norm in self.norms for buffer in norm.buffers()]

    def unstacked(self, networks: Sequence[ConvNet]) -> list[ConvNet]:
        """Parameters and running moments, put back into ``networks``, on the device."""
        apart = [view.detach().chunk(self.count) for view in self._views()]
        for index, network in enumerate(networks):
            network.to(memory_format=torch.channels_last).to(self.flat.device)
            for parameter, parts in zip(network.parameters(), apart, strict=True):
                parameter.data.copy_(parts[index])
            for block, norm in zip(network.conv_blocks(), self.norms, strict=True):
                for own, all_of_them in zip(block.normalisation.buffers(), norm.buffers(), strict=True):
                    own.copy_(all_of_them.chunk(self.count)[index] if all_of_them.ndim else all_of_them)
        return list(networks)

    def _views(self) -> list[torch.Tensor]:
        """The parameters by kind; one split, whose gradient is one concatenation."""
        parts = self.flat.split([torch.Size(shape).numel() for shape in self.shapes])
        return [_unrowed(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _rows(parameter: torch.Tensor) -> torch.Tensor:
    """Convolutions as channels-last memory has them, everything else as it is."""
    return parameter.permute(0, 2, 3, 1) if parameter.ndim == 4 else parameter


def _unrowed(part: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) != 4:
        return part.view(shape)
    out, channels, height, width = shape
    return part.view(out, height, width, channels).permute(0, 3, 1, 2)


def _side_by_side(norm: nn.Module, count: int) -> nn.Module:
    """The same normalisation over ``count`` times as many channels, or groups of them."""
    if isinstance(norm, nn.BatchNorm2d):
        return nn.BatchNorm2d(norm.num_features * count, eps=norm.eps, momentum=norm.momentum)
    if isinstance(norm, InstanceNorm):
        return InstanceNorm(norm.num_channels * count)
    if isinstance(norm, nn.GroupNorm):
        return nn.GroupNorm(norm.num_groups * count, norm.num_channels * count, eps=norm.eps)
    return norm


@dataclass
class _Batch:
    """One size of batch: where its draws arrive on the device, and the step that reads them there."""

    layout: Layout
    block: torch.Tensor
    run: Callable[[], object]


class _Learner:
    """SGD on all networks of ``stack``; ``losses`` (R,) are those of the last step."""

    def __init__(
        self, stack: _Stack, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig, precision: str
    ) -> None:
        self.stack = stack
        self.losses = torch.zeros(stack.count, device=images.device)
        self._images = images
        self._labels = labels
        self._config = config
        self._precision = precision
        self._augmentation = Augmentation(strategy=config.augmentation)
        self._momentum = torch.zeros_like(stack.flat, requires_grad=False)
        self._batches: dict[int, _Batch] = {}

    def fit(
        self, rows: Sequence[int], count: int, seeds: Sequence[int], on_epoch: Callable[[int], object] | None
    ) -> None:
        """Train on ``count`` images each, network r's from row ``rows[r]`` on."""
        generators = [generator_for(seed, "train") for seed in seeds]
        config, started = self._config, 0
        for epoch in range(config.epochs):
            rate = config.lr * (0.1 if epoch >= max(1, config.epochs // 2) else 1.0)
            orders = [torch.randperm(count, generator=generator).split(config.batch_size) for generator in generators]
            for chosen in zip(*orders, strict=True):
                self._step([part + row for part, row in zip(chosen, rows, strict=True)], generators, rate)
                started += 1
                if self._images.device.type == "cuda" and started % _AHEAD == 0:
                    torch.cuda.current_stream().synchronize()
            if on_epoch is not None:
                on_epoch(epoch + 1)

    def _step(self, chosen: Sequence[torch.Tensor], generators: Sequence[torch.Generator], rate: float) -> None:
        size = len(chosen[0])
        if size not in self._batches:
            self._batches[size] = self._batch(size)
        batch = self._batches[size]
        block = torch.empty(batch.layout.size, dtype=torch.uint8, pin_memory=batch.block.is_cuda)
        given = batch.layout.views(block)
        draws = [self._augmentation.draw(size, generator) for generator in generators]
        torch.stack(list(chosen), out=given["indices"])
        torch.stack([draw.choice for draw in draws], out=given["choice"])
        torch.stack([draw.uniforms for draw in draws], out=given["uniforms"])
        given["rate"].fill_(rate)
        batch.block.copy_(block, non_blocking=True)
        batch.run()

    def _batch(self, size: int) -> _Batch:
        each = (self.stack.count, size)
        layout = Layout(
            sections=(
                ("indices", torch.int64, each),
                ("choice", torch.int64, each),
                ("uniforms", torch.float32, (*each, 4)),
                ("rate", torch.float32, (1,)),
            )
        )
        block = torch.zeros(layout.size, dtype=torch.uint8, device=self._images.device)
        given = layout.views(block)

        def compute() -> None:
            self._compute(given)

        if not block.is_cuda:
            return _Batch(layout, block, compute)
        changed = [self.stack.flat, self._momentum, *self.stack.changed()]
        return _Batch(layout, block, captured(compute, changed=changed))

    def _compute(self, given: dict[str, torch.Tensor]) -> None:
        indices, config, device = given["indices"].flatten(), self._config, self._images.device
        with torch.no_grad():
            images = self._images.index_select(0, indices).unsqueeze(1)
            uniforms = given["uniforms"].flatten(0, 1).to(images.dtype)
            images = augment(self._augmentation, images, given["choice"].flatten(), uniforms).squeeze(1)
        with autocast(device, self._precision):
            logits = self.stack.logits(images.unflatten(0, given["indices"].shape))
        losses = F.cross_entropy(logits.flatten(0, 1).float(), self._labels.index_select(0, indices), reduction="none")
        losses = losses.view(given["indices"].shape).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), self.stack.flat)
        with torch.no_grad():
            # As torch.optim.SGD: g + decay p, v = m v + g, p - lr v.
            self._momentum.mul_(config.momentum).add_(gradient).add_(self.stack.flat, alpha=config.weight_decay)
            self.stack.flat.addcmul_(self._momentum, given["rate"], value=-1)
            self.losses.copy_(losses)
