"""A run with a :class:`~atom_plugin.matchers.set_matcher.SetMatcher`: its learned values and its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.chunking import PassSize, readable
from atom_plugin.distillation.engine.image_sgd import Rate
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.engine.step import Decode
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.matchers import class_labels
from atom_plugin.matchers.set_matcher import LABELS, STEP_SIZES, SetMatcher, SetStep
from atom_plugin.models.fitting import sgd_step
from atom_plugin.models.network_pool import NetworkPool
from atom_plugin.runtime import distributed
from atom_plugin.runtime.memory import machine_memory
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import Augmentation

Values = dict[str, torch.Tensor]
_IMAGES = "images"


@dataclass(kw_only=True)
class State:
    """The part of a checkpoint for a run of this kind: learned values and their momentum, and the matcher's state."""

    learned: Values
    momentum: Values
    carried: Values

    def to_json(self) -> dict[str, Values]:
        """Tensors on the CPU, by name."""
        return {
            part: {name: item.cpu() for name, item in values.items()}
            for part, values in (("learned", self.learned), ("momentum", self.momentum), ("carried", self.carried))
        }


class SetMatching:
    """The steps of ``matcher`` on a whole set, with ``ipc`` stored images of each of ``classes``.

    ``network`` is the network that the loop draws for each iteration. Raises ConfigError if the run is impossible: in several
    processes, with a part of the set frozen, or with more images in memory at once than fit.
    """

    def __init__(
        self,
        matcher: SetMatcher,
        config: DistillConfig,
        batches: RealBatches,
        network: nn.Module,
        *,
        decode: Decode,
        pool: NetworkPool | None,
        size: PassSize,
    ) -> None:
        self._matcher = matcher
        self._config = config
        self._batches = batches
        self._network = network
        self._decode = decode
        self._pool = pool
        self._augmentation = Augmentation(strategy=config.augmentation)
        self._device = batches.device
        self._latest: SetStep | None = None
        classes = batches.classes
        _refuse(matcher, config)
        matcher.check(network, pool)
        _check_memory(matcher, config, size, classes)
        labels = torch.arange(classes).repeat_interleave(config.ipc)
        self._learned = matcher.learned(labels, classes)
        values = {name: item.start.clone().to(self._device) for name, item in self._learned.items()}
        self.state = State(
            learned=values,
            momentum={name: torch.zeros_like(item) for name, item in values.items()},
            carried=matcher.carried(network, generator_for(config.seed, "carried")),
        )

    def step(self, iteration: int, images: torch.Tensor, generator: torch.Generator) -> tuple[float, torch.Tensor]:
        """The loss, and its gradient for the stored ``images`` (K * ipc, C, H, W); updates the learned values.

        Call :meth:`advance` after the images are updated too.
        """
        learned = {name: item.detach().requires_grad_() for name, item in self.state.learned.items()}
        leaf = images.detach().requires_grad_(self.moves_images)
        self._latest = seen = self._seen(iteration, leaf, learned, generator)
        loss = self._matcher.loss(seen)
        leaves = {**({_IMAGES: leaf} if self.moves_images else {}), **learned}
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
        gradient = gradients.pop(_IMAGES, torch.zeros_like(images))
        self._move(iteration, gradients)
        return float(loss.detach()), gradient

    @property
    def moves_images(self) -> bool:
        """Whether the images are optimised."""
        return self._matcher.moves_images

    def _seen(
        self, iteration: int, images: torch.Tensor, learned: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> SetStep:
        classes = self._batches.classes
        decoded = self._decode(images)
        real = self._batches.fetch(self._batches.choose(iteration), ahead=self._batches.choose(iteration + 1))
        return SetStep(
            images=decoded,
            labels=class_labels(len(decoded), classes, 0, self._device),
            learned=learned,
            carried=self.state.carried,
            network=self._network,
            real_images=real,
            real_labels=class_labels(len(real), classes, 0, self._device),
            generator=generator,
            augment=self._augmented,
            pool=self._pool,
        )

    def _augmented(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self._augmentation.per_sample(images, generator) if self._augmentation.operations else images

    def _move(self, iteration: int, gradients: Mapping[str, torch.Tensor]) -> None:
        """A step of SGD of the learned values, with the schedule and momentum of the images."""
        config = self._config
        for name, gradient in gradients.items():
            about, value = self._learned[name], self.state.learned[name]
            rate = Rate(lr=about.lr, schedule=config.image_schedule, iterations=config.iterations)
            sgd_step(value, gradient, self.state.momentum[name], lr=rate(iteration), momentum=config.image_momentum)
            if about.at_least is not None:
                value.clamp_(min=about.at_least)

    def advance(self, images: torch.Tensor) -> None:
        """Let the matcher update its state, after ``images`` were updated."""
        assert self._latest is not None, "call step first"
        with torch.no_grad():
            seen = replace(self._latest, images=self._decode(images), learned=self.state.learned)
        self._latest = None  # its real batch and graph need not outlive the iteration
        with torch.enable_grad():
            self._matcher.advance(seen)

    def labelled(self, made: SyntheticSet) -> SyntheticSet:
        """The set with the learned labels, and with the mean of the learned step sizes as its learning rate for training."""
        labels, sizes = (self.state.learned.get(name) for name in (LABELS, STEP_SIZES))
        soft = None
        if labels is not None:
            soft = SoftLabels(values=labels.detach().cpu().clone(), kind=self._matcher.label_kind)
        return replace(made, soft_labels=soft, learned_lr=None if sizes is None else float(sizes.mean()))

    def restore(self, stored: Mapping[str, Mapping[str, torch.Tensor]] | None) -> None:
        """Continue from ``stored``. Raises StoreError if it belongs to another kind of run."""
        fresh = self.state
        if stored is None:
            raise StoreError("found no learned values, expected the matcher's learned values")
        for part in ("learned", "momentum", "carried"):
            expected, found = getattr(fresh, part), stored.get(part)
            if not isinstance(found, Mapping) or found.keys() != expected.keys():
                raise StoreError(f"found {part} values different from the expected {', '.join(expected) or 'none'}")
            for name, value in expected.items():
                given = found[name]
                fits = isinstance(given, torch.Tensor) and given.shape == value.shape and given.dtype == value.dtype
                if not fits or not bool(given.isfinite().all()):
                    raise StoreError(f"found {part} {name!r} with another shape or type, or not finite")
        self.state = State(
            **{
                part: {name: item.clone().to(getattr(fresh, part)[name].device) for name, item in stored[part].items()}
                for part in ("learned", "momentum", "carried")
            }
        )


def _refuse(matcher: SetMatcher, config: DistillConfig) -> None:
    name = config.matcher
    if distributed.count() > 1:
        raise ConfigError(
            f"the matcher {name!r} needs the whole set in one process, found {distributed.count()} processes; start one"
        )
    if config.extend is not None:
        raise ConfigError(
            f"the matcher {name!r} optimises the whole set together, so no part of it can be kept fixed; leave out "
            "--extend, or start from its images with --image-init set:FILE"
        )
    for field, usual in (("inner_loop", 1), ("calibration", None)):
        if (given := getattr(config, field)) != usual:
            raise ConfigError(f"{field} ({given}) has no effect on the matcher {name!r}; leave it out")


def _check_memory(matcher: SetMatcher, config: DistillConfig, size: PassSize, classes: int) -> None:
    """Raise ConfigError if the maps in memory at once would exceed the memory budget or the machine's memory."""
    held = matcher.held_images(classes * config.ipc * config.tiles, classes * config.real_batch)
    needed = size.bytes_of_images(held)
    room = config.memory_budget or machine_memory()
    if needed > room:
        raise ConfigError(
            f"the matcher {config.matcher!r} keeps the maps of {held:,} images at once, about {readable(needed)}, "
            f"but {readable(room)} are available; use fewer steps or smaller batches (see `atom-cli distill "
            "--list-matchers`), a narrower network, or fewer images"
        )
