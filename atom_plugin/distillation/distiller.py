"""A run as an object that can be stepped, looked at, saved and restored; :func:`.distillation.distill` drives it to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.assembly import assemble, fit_preprocessing
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.chunking import plan
from atom_plugin.distillation.engine.cuda_step import DeviceStep, PendingLoss, takes_device_step
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.engine.step import MatchingStep
from atom_plugin.distillation.image_init import initial_images
from atom_plugin.distillation.matching_network import MatchingNetwork
from atom_plugin.errors import DivergenceError
from atom_plugin.matchers import Matcher, MeanMatcher, make_matcher
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import long_work, resolve_device, resolve_precision
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import Augmentation, Draw
from atom_plugin.transforms.preprocessing import Preprocessing

# Preprocessed pixels are of the order of 1. Normalisation hides any size of them from the loss, so the loss can't tell.
_LARGEST_PIXEL = 1e6


class Distiller:
    """One run: :meth:`step` it, or :meth:`launch` its steps and wait for them later.

    ``images`` are those of this process's classes: all, where it is alone.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: SourceData,
        *,
        device: str = "auto",
        step: str = "auto",
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.device = resolve_device(device)
        self.config = replace(config, precision=resolve_precision(config.precision, self.device))
        self.data = data
        self.classes = len(data.class_names)
        self.iteration = 0
        self.loss = math.nan
        self.matcher: Matcher = make_matcher(config.matcher, config.matcher_options)
        self._augmentation = Augmentation(strategy=config.augmentation)
        self.preprocessing = preprocessing or fit_preprocessing(config, data)
        self._device_preprocessing = self.preprocessing.to(self.device)
        self._batches = RealBatches(data, self._device_preprocessing, self.config, self.device)
        self._matching = MatchingNetwork(self.config, data, self._device_preprocessing, self.device)
        self.network = self._matching.network
        self._parts = plan(self.config, self.classes, data.image_shape, self.matcher, self.network)
        self._matching_step = MatchingStep(self.config, self.matcher, self.network, self._batches, self._parts)
        start = initial_images(self.config, data, self.preprocessing, device=self.device)
        self.images = self._part(start)
        self._momentum: torch.Tensor | None = None
        self._takes_device_step = takes_device_step(
            step,
            self.config,
            self.matcher,
            self.device,
            in_parts=len(self._parts.chunks) > 1 or distributed.count() > 1,
        )
        self._device_step: DeviceStep | None = None

    def launch(self) -> PendingLoss:
        """One iteration, perhaps still under way on the device when this returns; what it gives waits for the loss.

        Raises DivergenceError as :meth:`step`, some iterations late where the device works by itself.
        """
        if not self._takes_device_step:
            return PendingLoss(self.iteration, self.step(), None)
        if self._device_step is None:
            self._device_step = self._make_device_step()
        pending = self._device_step.launch(self.iteration)
        self.iteration += 1
        return pending

    @property
    def device_step(self) -> DeviceStep | None:
        """What works on the device by itself; None before the first launch, and where there is no such step."""
        return self._device_step

    def _make_device_step(self) -> DeviceStep:
        assert isinstance(self.matcher, MeanMatcher)
        if self._momentum is None:
            self._momentum = torch.zeros_like(self.images, requires_grad=False)
        return DeviceStep(
            self.config,
            self.matcher,
            network=self.network,
            preprocessing=self._device_preprocessing,
            batches=self._batches,
            rate=self._learning_rate,
            images=self.images,
            momentum=self._momentum,
            on_loss=self._note_loss,
        )

    def step(self) -> float:
        """One iteration; returns the loss before the update. Raises DivergenceError where it is not finite."""
        return self._descend(*self._matching_step(self.iteration, self._draw(), self.images))

    def draw(self) -> tuple[Draw, torch.Tensor]:
        """The network, in place, the augmentation, and the real batch augmented by it; for runs in one part, as descend."""
        draw = self._draw()
        ((_, real),) = self._matching_step.real(self.iteration, draw)
        return draw, real

    def descend(self, draw: Draw, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """Step the images down the gradient of a loss of them, augmented; returns the loss before.

        Raises DivergenceError where it is not finite, and leaves the images as they were.
        """
        loss, gradient = self._matching_step.gradient(draw, self.images, self._parts.own, loss_of)
        return self._descend(float(loss), gradient)

    def _draw(self) -> Draw:
        generator = generator_for(self.config.seed, "iteration", self.iteration)
        self._matching.prepare(self.iteration, generator)
        return self._augmentation.draw(self.classes, generator)

    def _descend(self, value: float, gradient: torch.Tensor) -> float:
        self._note_loss(self.iteration, value)
        self._update(gradient)
        self._matching.advance(self.iteration, lambda: self._whole(self.images))
        self.iteration += 1
        return value

    def _note_loss(self, iteration: int, value: float) -> None:
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss became {value} in iteration {iteration + 1}; lower --image-lr (now "
                f"{self.config.image_lr:g}) or the matcher's loss scale"
            )
        self.loss = value

    @torch.no_grad()
    def _update(self, gradient: torch.Tensor) -> None:
        """SGD with momentum, as torch.optim.SGD: v = m v + g, x = x - lr v."""
        if self._momentum is None:
            self._momentum = gradient.clone()
        else:
            self._momentum.mul_(self.config.image_momentum).add_(gradient)
        self.images.sub_(self._momentum, alpha=self._learning_rate(self.iteration))

    def _learning_rate(self, iteration: int) -> float:
        if self.config.image_schedule == "constant":
            return self.config.image_lr
        return self.config.image_lr * 0.5 * (1 + math.cos(math.pi * iteration / self.config.iterations))

    def synthetic_set(self) -> SyntheticSet:
        """The set as it stands."""
        return assemble(
            self._whole(self._sane_images()).cpu().clone(memory_format=torch.contiguous_format),
            self.config,
            self.data,
            self.preprocessing,
            method=self.config.matcher,
            iterations=self.iteration,
            final_loss=self.loss if math.isfinite(self.loss) else None,
        )

    def _sane_images(self) -> torch.Tensor:
        """A step may throw the images off while the loss stays finite; such a state is neither saved nor handed out."""
        if self._device_step is not None:
            self._device_step.settle()
        images = self.images.detach()
        largest = distributed.highest(float(images.abs().max()))
        if not largest <= _LARGEST_PIXEL:
            raise DivergenceError(
                f"the images ran away: their largest value is {largest:.3g} after iteration {self.iteration}; lower "
                f"--image-lr (now {self.config.image_lr:g}) or the matcher's loss scale"
            )
        return images

    def state(self) -> Checkpoint:
        """What :meth:`restore` needs, however many processes there are then."""
        return Checkpoint(
            iteration=self.iteration,
            images=self._whole(self._sane_images()),
            momentum=None if self._momentum is None else self._whole(self._momentum),
            network=self._matching.state(self.iteration),
            config=self.config,
            fingerprint=self.data.fingerprint,
        )

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue from ``checkpoint``, read from ``path``. Raises ConfigError where it belongs to another run."""
        checkpoint.check(self.config, self.data.fingerprint, path)
        self.iteration = checkpoint.iteration
        self._matching.restore(checkpoint.network)
        self._device_step = None  # it holds on to the images it was made with
        self.images = self._part(checkpoint.images)
        self._momentum = None if checkpoint.momentum is None else self._part(checkpoint.momentum)

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's rows of the set's, on the device."""
        rows = self._parts.images(self.config.ipc)[distributed.rank()]
        return whole[rows.start : rows.stop].to(self.device).clone()

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        """The inverse: the rows of all processes."""
        return distributed.gathered(part.detach(), self._parts.images(self.config.ipc))

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context for the steps (:func:`~atom_plugin.runtime.device.long_work`), which ends what they have going."""
        with long_work(self.device), closing(self._batches):
            try:
                yield
            finally:
                if self._device_step is not None:
                    self._device_step.close()
