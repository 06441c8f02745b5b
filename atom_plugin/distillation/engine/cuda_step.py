"""One distillation step that an accelerator runs without the host: static shapes, no synchronisation.

The iteration's random draws arrive as one block of bytes (:mod:`.cuda_inputs`). Everything else happens on the device, between
tensors whose addresses never change: the chosen images are gathered, preprocessed and augmented, both branches run
(:mod:`.cuda_engine`), the images are updated. On CUDA the whole is one graph (:mod:`~atom_plugin.runtime.cuda`).

The tests compare with the same iteration of the plain engine.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import torch

from atom_plugin.distillation.engine import Engine
from atom_plugin.distillation.engine.calibration import Calibration
from atom_plugin.distillation.engine.cuda_engine import CudaEngine, fuses
from atom_plugin.distillation.engine.cuda_inputs import StepInputs, point_at_channels_last
from atom_plugin.distillation.engine.image_sgd import ImageSGD
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.engine.step import Decode, image_gradient
from atom_plugin.matchers import Matcher, MeanMatcher
from atom_plugin.runtime.cuda import captured
from atom_plugin.runtime.device import autocast
from atom_plugin.transforms import fused_augmentation
from atom_plugin.transforms.augmentation import augment

_AHEAD = 16  # steps that the host may be ahead of the device


def suits_captured_step(engine: Engine, matcher: Matcher, *, whole: bool, fresh_networks: bool) -> bool:
    """Whether a run uses the step of this module.

    ``whole``: all classes pass at once, in one process. ``fresh_networks``: each iteration draws a new network.
    """
    return isinstance(engine, CudaEngine) and isinstance(matcher, MeanMatcher) and whole and fresh_networks


class PendingLoss:
    """The loss of one step, which may still be running. A call waits for that step."""

    def __init__(self, iteration: int, value: torch.Tensor | float, done: torch.cuda.Event | None) -> None:
        self.iteration = iteration
        self._value = value
        self._done = done

    @property
    def ready(self) -> bool:
        """Whether a call would not wait."""
        return self._done is None or bool(self._done.query())

    def __call__(self) -> float:
        """The loss before the step's update."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        self._value = float(self._value)  # page-locked memory is not to be held on to
        return self._value


class CapturedStep:
    """The step of a run, on the device of the images of ``optimizer`` (K * ipc, C, H, W), which it updates in place.

    ``decode`` gives the images as networks see them. ``inputs`` are the draws of each iteration; ``batches`` keeps all real
    images on the device if they fit. ``on_loss`` is called with each iteration's loss, in order, once it is known. ``fused``
    False switches off the custom kernels, for a benchmark.
    """

    def __init__(
        self,
        matcher: MeanMatcher,
        inputs: StepInputs,
        batches: RealBatches,
        optimizer: ImageSGD,
        *,
        decode: Decode,
        calibration: Calibration | None = None,
        precision: str,
        on_loss: Callable[[int, float], None],
        fused: bool = True,
    ) -> None:
        self._matcher = matcher
        self.inputs = inputs
        self._batches = batches
        self._optimizer, self._images, self._velocity = optimizer, optimizer.images, optimizer.started()
        self._decode = decode
        self._calibration = None
        if calibration is not None:
            self._calibration = copy.copy(calibration)
            self._calibration.network = copy.deepcopy(calibration.network)
        self._device = self._images.device
        self._precision = precision
        self._on_loss = on_loss
        self._source = batches.held
        self._block = torch.empty(inputs.layout.size, dtype=torch.uint8, device=self._device)
        self._given = inputs.layout.views(self._block)
        network = copy.deepcopy(inputs.network).to(self._device)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        fused = fused and self._device.type == "cuda"
        shape = batches.image_shape
        self.fuses_augmentation = fused and fused_augmentation.fuses(
            inputs.augmentation, shape, self._device, self._dtype
        )
        fused = fused and fuses(network, matcher.real_side, shape, precision)
        self._weights = {"parameters": torch.empty_like(self._given["parameters"])}
        self._order = point_at_channels_last(network, self._weights["parameters"])
        if self._calibration is not None:
            self._weights["calibration"] = torch.empty_like(self._given["calibration"])
            point_at_channels_last(self._calibration.network, self._weights["calibration"])
        self.engine = CudaEngine(network, fused=fused)
        self._loss = torch.zeros((), device=self._device)
        self._run: Callable[[], object] | None = None if self._device.type == "cuda" else self.compute
        self._pending: deque[PendingLoss] = deque()

    def launch(self, iteration: int) -> PendingLoss:
        """Start ``iteration``. Waits only if the device is 16 steps behind, and then for the oldest of them."""
        self._tell(_AHEAD - 1)
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            # torch keeps a page-locked block that is given up here until the copy from it has happened.
            self._block.copy_(self.inputs.block(iteration), non_blocking=True)
            if self._run is None:
                self._run = captured(self.compute, changed=(self._images, self._velocity))
            self._run()
            self._pending.append(self._read(iteration))
        return self._pending[-1]

    @property
    def recorded(self) -> bool:
        """Whether the step runs as one recorded graph; decided by the first :meth:`launch`."""
        return self._run is not None and self._run != self.compute

    @property
    def fused(self) -> tuple[str, ...]:
        """The parts that run in custom kernels: "blocks" of the network, "augmentation", both or none."""
        return ("blocks",) * self.engine.fused + ("augmentation",) * self.fuses_augmentation

    def again(self) -> None:
        """Repeat the device's work of the last step, without the host: for measurements."""
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
        self.inputs.close()

    def _read(self, iteration: int) -> PendingLoss:
        if self._device.type != "cuda":
            return PendingLoss(iteration, self._loss.clone(), None)
        host = torch.empty((), pin_memory=True)
        host.copy_(self._loss, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return PendingLoss(iteration, host, done)

    def compute(self) -> None:
        """One step from the block's current content: static shapes, fixed addresses, no wait."""
        given, classes = self._given, self._batches.classes
        with torch.no_grad():
            for name, weights in self._weights.items():
                torch.index_select(given[name], 0, self._order, out=weights)
            chosen = given["images"] if self._source is None else self._source.index_select(0, given["indices"])
            real = self._augmented(self._batches.preprocessed(chosen))
        leaf = self._images.detach().requires_grad_()
        synthetic = self._augmented(self._decode(leaf))
        with autocast(self._device, self._precision):
            target = self.engine.real(self._matcher.real_side, real, groups=classes)
            loss = self._matcher.compare(target, self.engine.synthetic(self._matcher, synthetic, groups=classes))
            if self._calibration is not None:
                loss = loss + self._calibration.loss(synthetic, groups=classes)
        gradient = image_gradient(loss, leaf, self._matcher)
        with torch.no_grad():
            self._optimizer.move(gradient, given["rate"])
            self._loss.copy_(loss)

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        by_class = images.unflatten(0, (self._batches.classes, -1))
        settings, plan = self.inputs.augmentation, self._given["plan"]
        if self.fuses_augmentation:
            return fused_augmentation.augment_fused(settings, by_class, plan, self._dtype)
        return augment(settings, by_class, plan).flatten(0, 1)
