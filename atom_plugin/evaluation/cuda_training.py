"""Train several ConvNets of one shape at once, each as :func:`~atom_plugin.evaluation.training.train` trains it alone.

The networks are side by side in the channels: a batch is (B, R * C, H, W), a convolution has R groups, normalisation and
pooling are per channel anyway, and the classifiers are one batched product. So R networks take as many operations as one, each
R times as large, and on CUDA a step of all of them is one graph (:mod:`atom_plugin.runtime.cuda`). All parameters are one
vector, so that SGD is three operations.

Network r has its own weights, order of images and augmentation, drawn from its seed as alone: it gives the same result within
rounding. This saves the overhead around the arithmetic: much on a GPU, nothing on a CPU, where networks train faster one by one
(docs/performance-gpu.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from atom_plugin.distillation.engine.cuda_inputs import Layout
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.evaluation.stacked_convnet import Stack
from atom_plugin.evaluation.targets import HARD, Targets, label_words, settled, targets_of
from atom_plugin.evaluation.training import DEFAULT_RUN, TrainingRun
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.models.fitting import check_loss, sgd_step
from atom_plugin.runtime.cuda import captured
from atom_plugin.runtime.device import autocast, long_work
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms import fused_augmentation
from atom_plugin.transforms.augmentation import PLAN_COLUMNS, Augmentation, augment
from atom_plugin.transforms.cutmix import draw_box, mix_images, mix_labels, mix_targets
from atom_plugin.transforms.policies import POLICIES

_KEPT_MAPS = 6  # of the size of the first one, of which the deeper ones are fractions
_AHEAD = 32  # steps that the host gives a GPU before it waits for them


def suits(network: object, config: TrainConfig, device: torch.device) -> bool:
    """Whether networks of this kind can train together, and faster: ConvNets by SGD, on CUDA.

    On a CPU one network's arithmetic fills the processor. The pixel policies draw on the host during training.
    """
    return device.type == "cuda" and isinstance(network, ConvNetConfig) and _trains_plainly(config)


def _trains_plainly(config: TrainConfig) -> bool:
    return config.optimizer == "sgd" and config.augmentation not in POLICIES


def most_at_once(network: ConvNetConfig, config: TrainConfig, synthetic_set: SyntheticSet, device: torch.device) -> int:
    """How many networks fit with their maps into a quarter of the device's memory; at least one."""
    height, width = synthetic_set.preprocessing.image_shape[1:]
    images = min(config.batch_size, synthetic_set.decoded_count)
    per_network = 4 * _KEPT_MAPS * images * network.width * height * width
    return max(1, torch.cuda.get_device_properties(device).total_memory // 4 // per_network)


def train_together(
    sets: Sequence[SyntheticSet],
    network_config: ConvNetConfig,
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    run: TrainingRun = DEFAULT_RUN,
) -> list[ConvNet | DivergenceError]:
    """One network per seed, trained on the corresponding set: ``train(sets[r], ..., seed=seeds[r])`` for all r at once.

    ``sets`` may repeat a set; they need equal shapes, equally many images and classes. ``run.on_epoch`` is called after each
    epoch of all. If a network's loss diverges, its error takes its place, and the others are not affected. Raises ConfigError
    if the sets do not fit, and for another optimizer than SGD and pixel policies.
    """
    _check_sets(sets, seeds, config)
    if not _trains_plainly(config):
        raise ConfigError(
            f"networks train together by SGD with siamese augmentation, not by recipe {config.recipe!r}; train them in turn"
        )
    shape, classes = sets[0].preprocessing.image_shape, len(sets[0].class_names)
    config, sets = _settled(config, sets), _decoded(sets)
    networks = [network_config.build(shape, classes, generator=generator_for(seed, "network")) for seed in seeds]
    distinct = list({id(item): item for item in sets}.values())  # repeats of one set share its images
    rows = {id(item): index * len(item) for index, item in enumerate(distinct)}
    learner = _Learner(
        Stack([network.to(run.dtype) for network in networks], run.device),
        torch.cat([item.images for item in distinct]).to(run.device, run.dtype),
        _targets(distinct, config, run.device),
        config,
        run,
    )
    with long_work(run.device):
        learner.fit([rows[id(item)] for item in sets], len(sets[0]), seeds, networks)
    losses = zip(learner.stack.unstacked(networks), seeds, learner.losses.tolist(), strict=True)
    return [_unless_diverged(network, seed, loss, config) for network, seed, loss in losses]


def _decoded(sets: Sequence[SyntheticSet]) -> list[SyntheticSet]:
    """Every set decoded, each only once."""
    decoded = {id(item): item.decoded() for item in sets}
    return [decoded[id(item)] for item in sets]


def _settled(config: TrainConfig, sets: Sequence[SyntheticSet]) -> TrainConfig:
    """``config`` with the learning rate of all sets. Raises ConfigError if they differ, since one step has one rate."""
    rates = {settled(config, item).lr for item in sets}
    if len(rates) > 1:
        found = " and ".join(f"{rate:g}" for rate in sorted(rates))
        raise ConfigError(f"networks train together at one learning rate, not {found}; train these one after the other")
    return settled(config, sets[0])


def _targets(decoded: Sequence[SyntheticSet], config: TrainConfig, device: torch.device) -> Targets:
    """The images of all sets, one set after the other."""
    parts = [targets_of(item, config) for item in decoded]
    return Targets(values=torch.cat([part.values for part in parts]).to(device), squared=parts[0].squared)


def _unless_diverged(network: ConvNet, seed: int, loss: float, config: TrainConfig) -> ConvNet | DivergenceError:
    try:
        check_loss(loss, f"lower --lr (now {config.lr:g})", network=f"network {seed}")
    except DivergenceError as error:
        return error
    return network


def _check_sets(sets: Sequence[SyntheticSet], seeds: Sequence[int], config: TrainConfig) -> None:
    if not seeds or len(sets) != len(seeds):
        raise ConfigError(f"found {len(sets)} sets and {len(seeds)} seeds; give a set for each seed, and at least one")
    shapes = {
        (len(item), item.preprocessing.image_shape, len(item.class_names), label_words(item, config)) for item in sets
    }
    if len(shapes) > 1:
        found = " and ".join(
            f"{count} images of {shape} in {classes} classes{'' if labels == HARD else f' ({labels} labels)'}"
            for count, shape, classes, labels in sorted(shapes)
        )
        raise ConfigError(f"networks train together on sets of one size, not {found}; train these one after the other")


@dataclass
class _Batch:
    """A batch size: the buffer for its draws on the device, and the step that reads them."""

    layout: Layout
    block: torch.Tensor
    run: Callable[[], object]


class _Learner:
    """SGD on all networks of ``stack``; ``losses`` (R,) are the losses of the last step."""

    def __init__(
        self, stack: Stack, images: torch.Tensor, targets: Targets, config: TrainConfig, run: TrainingRun
    ) -> None:
        self.stack = stack
        self.losses = torch.zeros(stack.count, device=images.device)
        self._images = images
        self._targets = targets
        self._config = config
        self._run = run
        self._size = images.shape[-2], images.shape[-1]
        self._classes = stack.template.classifier.out_features
        self._augmentation = Augmentation(strategy=config.augmentation)
        channels, height, width = images.shape[1:]
        self._fuses_augmentation = (
            (images.is_cuda and images.dtype == torch.float32)
            and bool(self._augmentation.operations)
            and fused_augmentation.fuses(self._augmentation, (channels, height, width), images.device, images.dtype)
        )
        self._momentum = torch.zeros_like(stack.flat, requires_grad=False)
        self._batches: dict[int, _Batch] = {}

    def fit(self, rows: Sequence[int], count: int, seeds: Sequence[int], networks: Sequence[ConvNet]) -> None:
        """Train on ``count`` images each, network r's from row ``rows[r]`` on; ``networks`` get their own parameters back."""
        generators = [generator_for(seed, "train") for seed in seeds]
        config, started = self._config, 0
        for epoch, rate in enumerate(_rates(config)):
            orders = [torch.randperm(count, generator=generator).split(config.batch_size) for generator in generators]
            for chosen in zip(*orders, strict=True):
                self._step([part + row for part, row in zip(chosen, rows, strict=True)], generators, rate)
                started += 1
                if self._images.device.type == "cuda" and started % _AHEAD == 0:
                    torch.cuda.current_stream(self._images.device).synchronize()
            self._run.tell(epoch + 1, lambda: self.stack.unstacked(networks))

    def _step(self, chosen: Sequence[torch.Tensor], generators: Sequence[torch.Generator], rate: float) -> None:
        size = len(chosen[0])
        if size not in self._batches:
            self._batches[size] = self._batch(size)
        batch = self._batches[size]
        block = torch.empty(batch.layout.size, dtype=torch.uint8, pin_memory=batch.block.is_cuda)
        given = batch.layout.views(block)
        draws = [self._augmentation.draw(size, generator) for generator in generators]
        torch.stack(list(chosen), out=given["indices"])
        drawn = (torch.cat([draw.choice for draw in draws]), torch.cat([draw.uniforms for draw in draws]))
        given["plan"].copy_(self._augmentation.plan(*drawn, self._size).view_as(given["plan"]))
        if self._config.cutmix:
            boxes = [draw_box(self._config.cutmix, self._size, generator) for generator in generators]
            torch.stack(boxes, out=given["box"])
        given["rate"].fill_(rate)
        batch.block.copy_(block, non_blocking=True)
        batch.run()

    def _batch(self, size: int) -> _Batch:
        each = (self.stack.count, size)
        box = (("box", torch.int64, (self.stack.count, 4)),) if self._config.cutmix else ()
        layout = Layout(
            sections=(
                ("indices", torch.int64, each),
                ("plan", torch.float32, (*each, PLAN_COLUMNS)),
                *box,
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
            images = self._augmented(self._images.index_select(0, indices), given["plan"].flatten(0, 1))
            images = images.unflatten(0, given["indices"].shape)
            targets = self._targets.values.index_select(0, indices)
            if config.cutmix:
                images = mix_images(images, given["box"])
                targets = self._mixed(targets.unflatten(0, given["indices"].shape), given["box"]).flatten(0, 1)
        with autocast(device, self._run.precision):
            logits = self.stack.logits(images).flatten(0, 1).float()
        if self._targets.squared:
            losses = F.mse_loss(logits, targets, reduction="none").mean(1)
        else:
            losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=config.label_smoothing)
        losses = losses.view(given["indices"].shape).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), self.stack.flat)
        sgd_step(
            self.stack.flat,
            gradient,
            self._momentum,
            lr=given["rate"],
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        with torch.no_grad():
            self.losses.copy_(losses)

    def _mixed(self, targets: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Class ids (R, n), or class targets (R, n, classes), mixed like their images: (R, n, classes)."""
        if targets.is_floating_point():
            return mix_targets(targets, box, self._size)
        return mix_labels(targets, box, self._size, self._classes)

    def _augmented(self, images: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
        """Images (n, C, H, W), each augmented by its own row of ``plan`` (n, columns)."""
        by_image = images.unsqueeze(1)
        if self._fuses_augmentation:
            return fused_augmentation.augment_fused(self._augmentation, by_image, plan, images.dtype)
        return augment(self._augmentation, by_image, plan.to(images.dtype)).squeeze(1)


def _rates(config: TrainConfig) -> Iterator[float]:
    """The learning rate of each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(())], lr=config.lr)
    schedule = config.build_schedule(optimizer)
    for _ in range(config.epochs):
        yield float(optimizer.param_groups[0]["lr"])
        optimizer.step()  # of nothing; a schedule warns where none came before
        schedule.step()
