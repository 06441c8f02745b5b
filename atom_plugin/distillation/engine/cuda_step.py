"""One distillation step that an accelerator runs by itself: static shapes, nothing that the host waits for.

What the iteration draws arrives as one block of bytes (:mod:`.step_inputs`). Everything else happens on the device, between
tensors whose addresses never change: the chosen images are gathered from uint8, preprocessed and augmented
(:mod:`.static_augmentation`), both branches run (:mod:`.narrow_statistics`), the images are updated. On CUDA the whole is one
graph (:mod:`.capture`).

The plain step, :meth:`~atom_plugin.distillation.distiller.Distiller.step`, is the oracle of the tests.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.comparison import image_gradient
from atom_plugin.distillation.engine.cuda_branches import narrow_statistics, narrow_statistics_by_classes
from atom_plugin.distillation.engine.cuda_inputs import StepInputs, point_at
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import Matcher, MeanMatcher
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.cuda import captured
from atom_plugin.runtime.device import autocast
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.static_augmentation import augment

STEPS = ("auto", "plain", "captured")

_AHEAD = 16  # steps that the host may be ahead of the device


def takes_device_step(
    step: str, config: DistillConfig, matcher: Matcher, device: torch.device, *, in_parts: bool = False
) -> bool:
    """Whether a run takes the step of this module, for ``step`` one of :data:`STEPS`.

    ``in_parts``: classes are split over passes or processes.

    Raises ConfigError for another word, and for "captured" where that cannot be.
    """
    if step not in STEPS:
        raise ConfigError(f"step must be one of {', '.join(STEPS)}, not {step!r}")
    reason = None
    if device.type != "cuda":
        reason = f"needs a CUDA device, not {device.type!r}"
    elif in_parts:
        reason = "takes all classes at once; leave out the memory budget, and use one process"
    elif not isinstance(matcher, MeanMatcher):
        reason = f"needs a matcher of class means, which {config.matcher!r} is not"
    elif config.pretraining_epochs or config.inner_loop > 1:
        reason = "needs a network drawn anew each iteration; leave out network_state and inner_loop"
    if reason is not None and step == "captured":
        raise ConfigError(f"the captured step {reason}; say 'auto' or 'plain'")
    return reason is None and step != "plain"


class PendingLoss:
    """The loss of one step, which may still be under way. Calling it waits for that step."""

    def __init__(self, iteration: int, value: torch.Tensor | float, done: torch.cuda.Event | None) -> None:
        self.iteration = iteration
        self._value = value
        self._done = done

    @property
    def ready(self) -> bool:
        """Whether calling it would not wait."""
        return self._done is None or bool(self._done.query())

    def __call__(self) -> float:
        """The loss before the step's update."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        self._value = float(self._value)  # page-locked memory is not to be held on to
        return self._value


class DeviceStep:
    """The step of a run, on the device of ``images`` (K * ipc, C, H, W), which it updates in place with ``momentum``.

    ``batches`` say which real images each iteration takes, and hold all of them on the device where they fit; ``rate`` is an
    iteration's learning rate; ``on_loss`` is told each iteration's loss, in order, once it is known. ``network`` is copied.
    """

    def __init__(
        self,
        config: DistillConfig,
        matcher: MeanMatcher,
        *,
        network: ConvNet,
        preprocessing: Preprocessing,
        batches: RealBatches,
        rate: Callable[[int], float],
        images: torch.Tensor,
        momentum: torch.Tensor,
        on_loss: Callable[[int, float], None],
    ) -> None:
        self._config = config
        self._matcher = matcher
        self._preprocessing = preprocessing
        self._device = images.device
        self._augmentation = Augmentation(strategy=config.augmentation)
        self._classes = len(images) // config.ipc
        self._images = images
        self._momentum = momentum
        self._on_loss = on_loss
        self._source = batches.pixels
        on_cuda = self._device.type == "cuda"
        self._inputs = StepInputs(
            seed=config.seed,
            iterations=config.iterations,
            network=network,
            augmentation=self._augmentation,
            classes=self._classes,
            choose=lambda iteration: batches.drawn(iteration).flatten(),
            chosen=self._classes * config.real_batch,
            rate=rate,
            image_shape=None if self._source is not None else preprocessing.image_shape,
            rows=batches.rows,
            pinned=on_cuda,
        )
        self._block = torch.empty(self._inputs.layout.size, dtype=torch.uint8, device=self._device)
        self._given = self._inputs.layout.views(self._block)
        self._network = copy.deepcopy(network)
        point_at(self._network, self._given["parameters"])
        self._loss = torch.zeros((), device=self._device)
        self._run: Callable[[], object] | None = None if on_cuda else self.compute
        self._pending: deque[PendingLoss] = deque()

    def launch(self, iteration: int) -> PendingLoss:
        """Set ``iteration`` going. Waits only where the device is 16 steps behind, and then for the oldest of them."""
        self._tell(_AHEAD - 1)
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            # torch keeps a page-locked block that is given up here until the copy from it has happened.
            self._block.copy_(self._inputs.block(iteration), non_blocking=True)
            if self._run is None:
                self._run = captured(self.compute, changed=(self._images, self._momentum))
            self._run()
            self._pending.append(self._read(iteration))
        return self._pending[-1]

    @property
    def recorded(self) -> bool:
        """Whether the step runs as one recorded graph; decided by the first :meth:`launch`."""
        return self._run is not None and self._run != self.compute

    def again(self) -> None:
        """The device's work of the last step once more, with nothing from the host: for measurements."""
        assert self._run is not None, "launch a step first"
        self._run()

    def settle(self) -> None:
        """Wait for all steps."""
        self._tell(0)

    def _tell(self, left: int) -> None:
        while len(self._pending) > left:
            oldest = self._pending.popleft()
            self._on_loss(oldest.iteration, oldest())

    def close(self) -> None:
        """Stop drawing ahead; a later :meth:`launch` starts again."""
        self._inputs.close()

    def _read(self, iteration: int) -> PendingLoss:
        if self._device.type != "cuda":
            return PendingLoss(iteration, self._loss.clone(), None)
        host = torch.empty((), pin_memory=True)
        host.copy_(self._loss, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return PendingLoss(iteration, host, done)

    def compute(self) -> None:
        """One step from what the block holds now: static shapes, fixed addresses, no wait."""
        config, given = self._config, self._given
        with torch.no_grad():
            chosen = given["images"] if self._source is None else self._source.index_select(0, given["indices"])
            real = self._augmented(self._preprocessing.forward(chosen))
        leaf = self._images.detach().requires_grad_()
        synthetic = self._augmented(leaf)
        with autocast(self._device, config.precision):
            with torch.no_grad():
                target = narrow_statistics_by_classes(self._network, self._matcher, real, groups=self._classes)
            found = narrow_statistics(self._network, self._matcher, synthetic, groups=self._classes)
            loss = self._matcher.compare(target, found)
        gradient = image_gradient(loss, leaf, config.matcher)
        with torch.no_grad():
            self._momentum.mul_(config.image_momentum).add_(gradient)
            self._images.addcmul_(self._momentum, given["rate"], value=-1)
            self._loss.copy_(loss)

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        grouped_images = images.unflatten(0, (self._classes, -1))
        return augment(self._augmentation, grouped_images, self._given["choice"], self._given["uniforms"]).flatten(0, 1)
