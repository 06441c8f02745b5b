"""The loop: SGD on the synthetic images, a fresh random network each iteration, all classes alike.

One iteration (ATOM, algorithm 1): draw a network, draw a real batch of every class, augment each class's real and synthetic
images alike, compare their features, step the images down the gradient. A network may serve several iterations, and be
trained on the synthetic images in between (:mod:`.matching_network`). Classes may pass in chunks, and be shared by processes
(:mod:`.parts`); random draws are for all classes, in every process alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atom_plugin import processes
from atom_plugin.assembly import assemble, fit_preprocessing
from atom_plugin.augmentation import Augmentation, Draw
from atom_plugin.batches import RealBatches
from atom_plugin.checkpoint import Checkpoint
from atom_plugin.config import DistillConfig
from atom_plugin.device import resolve_device, resolve_precision
from atom_plugin.errors import DivergenceError, Interrupted, ProcessError
from atom_plugin.initialisation import initial_images
from atom_plugin.matchers import Matcher, make_matcher
from atom_plugin.matching_network import MatchingNetwork
from atom_plugin.matching_step import MatchingStep
from atom_plugin.memory import reuse_freed_memory
from atom_plugin.parts import plan
from atom_plugin.preprocessing import Preprocessing
from atom_plugin.randomness import generator_for
from atom_plugin.sources import SourceData
from atom_plugin.synthetic_set import SyntheticSet

# Preprocessed pixels are of the order of 1. Normalisation hides any size of them from the loss, so the loss can't tell.
_LARGEST_PIXEL = 1e6


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a caller sees after each iteration. ``snapshot`` makes the set as it stands: in all processes of a run, or none."""

    iteration: int
    loss: float
    seconds: float
    snapshot: Callable[[], SyntheticSet]


def distill(
    config: DistillConfig,
    data: SourceData,
    *,
    device: str = "auto",
    preprocessing: Preprocessing | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    stop_signal: Callable[[], int] | None = None,
) -> SyntheticSet:
    """Distil ``data`` into ``config.ipc`` synthetic images per class.

    ``preprocessing`` None fits what the config asks for on the training images. A checkpoint is written to ``checkpoint``
    every ``checkpoint_every`` iterations, and when ``stop_signal``, asked after each iteration, gives a signal number
    other than 0: then Interrupted is raised. ``resume`` continues from that file, or starts where there is none yet; the
    result is the same to the byte. Raises ConfigError for options that do not fit, SourceError for too few images,
    DivergenceError for a loss that is not finite.

    Within :func:`atom_plugin.processes.joined` every process calls this alike, and has the whole set in the end; the first one
    writes the checkpoints, and any one's signal stops all. Raises ProcessError where another process ends.
    """
    distiller = Distiller(config, data, device=device, preprocessing=preprocessing)
    if resume and checkpoint is not None and checkpoint.exists():
        distiller.restore(Checkpoint.load(checkpoint), checkpoint)
    with distiller.running(), _naming_what_is_kept(checkpoint):
        while distiller.iteration < distiller.config.iterations:
            started = time.perf_counter()
            loss = distiller.step()
            if on_progress is not None:
                seconds = time.perf_counter() - started
                snapshot = distiller.synthetic_set
                on_progress(Progress(iteration=distiller.iteration, loss=loss, seconds=seconds, snapshot=snapshot))
            signum = int(processes.highest(0 if stop_signal is None else stop_signal()))
            unfinished = distiller.iteration < distiller.config.iterations
            if checkpoint is not None and unfinished and (signum or distiller.iteration % checkpoint_every == 0):
                state = distiller.state()
                if processes.leads():
                    state.save(checkpoint)
            if signum and unfinished:
                raise Interrupted(f"Stopped after iteration {distiller.iteration}{_to_resume(checkpoint)}", signum)
    return distiller.synthetic_set()


def _to_resume(checkpoint: Path | None) -> str:
    return "" if checkpoint is None else f"; continue with --resume (checkpoint: {checkpoint})"


@contextmanager
def _naming_what_is_kept(checkpoint: Path | None) -> Iterator[None]:
    try:
        yield
    except (DivergenceError, ProcessError) as error:
        if checkpoint is None or not checkpoint.exists():
            raise
        raise type(error)(f"{error}; the last good checkpoint is kept in {checkpoint}") from error.__cause__


class Distiller:
    """A run as an object: :meth:`step` it, look at it, save its :meth:`state`. :func:`distill` drives it to the end.

    ``images`` are those of this process's classes: all, where it is alone.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: SourceData,
        *,
        device: str = "auto",
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
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss became {value} in iteration {self.iteration + 1}; lower --image-lr (now "
                f"{self.config.image_lr:g}) or the matcher's loss scale"
            )
        self._update(gradient)
        self._matching.advance(self.iteration, lambda: self._whole(self.images))
        self.iteration += 1
        self.loss = value
        return value

    @torch.no_grad()
    def _update(self, gradient: torch.Tensor) -> None:
        """SGD with momentum, as torch.optim.SGD: v = m v + g, x = x - lr v."""
        if self._momentum is None:
            self._momentum = gradient.clone()
        else:
            self._momentum.mul_(self.config.image_momentum).add_(gradient)
        self.images.sub_(self._momentum, alpha=self._learning_rate())

    def _learning_rate(self) -> float:
        if self.config.image_schedule == "constant":
            return self.config.image_lr
        return self.config.image_lr * 0.5 * (1 + math.cos(math.pi * self.iteration / self.config.iterations))

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
        images = self.images.detach()
        largest = processes.highest(float(images.abs().max()))
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
        self.images = self._part(checkpoint.images)
        self._momentum = None if checkpoint.momentum is None else self._part(checkpoint.momentum)

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's rows of the set's, on the device."""
        rows = self._parts.images(self.config.ipc)[processes.rank()]
        return whole[rows.start : rows.stop].to(self.device).clone()

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        """The inverse: the rows of all processes."""
        return processes.gathered(part.detach(), self._parts.images(self.config.ipc))

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context for the steps: on the CPU, freed memory is reused (see :mod:`atom_plugin.memory`)."""
        with reuse_freed_memory() if self.device.type == "cpu" else nullcontext(), closing(self._batches):
            yield
