"""A run as an object that can be stepped, inspected, saved and restored; :mod:`~.loop` drives it to the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.capture import capture, is_captured
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine import choose_engine
from atom_plugin.distillation.engine.chunking import PassSize, plan
from atom_plugin.distillation.engine.cuda_step import CapturedStep, PendingLoss
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.engine.step import MatchingStep, check_matched
from atom_plugin.distillation.growing import Growth
from atom_plugin.distillation.held_set import history_of
from atom_plugin.distillation.image_init import initial_images
from atom_plugin.distillation.iteration_draws import IterationDraws
from atom_plugin.distillation.matching_network import MatchingNetwork
from atom_plugin.distillation.provenance import assemble
from atom_plugin.distillation.representatives import Representatives
from atom_plugin.distillation.run_images import RunImages
from atom_plugin.distillation.run_matcher import matcher_of, warn_of_few_images
from atom_plugin.distillation.set_matching import SetMatching
from atom_plugin.errors import DivergenceError, StoreError, require
from atom_plugin.matchers.set_matcher import SetMatcher
from atom_plugin.models.feature_layers import feature_function
from atom_plugin.runtime.device import long_work, resolve_device, resolve_precision
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


class Distiller:
    """One run: :meth:`step` it, or :meth:`launch` its steps and wait for them later.

    ``images`` are the images of this process's classes: all, if it is alone. ``engine`` is one of
    :data:`~atom_plugin.distillation.engine.ENGINES`. For benchmarks ``keep_memory`` and ``keep_whitened`` False switch off
    optimisations on a CPU: freed memory kept in the process, and whitened real images kept as floats; ``fused_kernels`` False
    switches off the custom kernels of a captured step.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: SourceData,
        *,
        device: str = "auto",
        engine: str = "auto",
        preprocessing: Preprocessing | None = None,
        keep_memory: bool = True,
        keep_whitened: bool = True,
        fused_kernels: bool = True,
    ) -> None:
        require("config", config, DistillConfig)
        require("data", data, SourceData)
        self.device = resolve_device(device)
        self.config = config = replace(config, precision=resolve_precision(config.precision, self.device))
        self.data = data
        self.classes = len(data.class_names)
        self.iteration = 0
        self.loss = math.nan
        self._growth = None if config.extend is None else Growth.of(config, data, preprocessing)
        self._prefixes = config.prefixes
        if self._growth is not None:
            self.config = config = replace(config, extended=history_of(self._growth.path))
            self._prefixes = self._growth.prefixes(config)
            preprocessing = self._growth.held.preprocessing
        self.matcher = matcher_of(config, self._growth)
        self.preprocessing = preprocessing or config.fit_preprocessing(data)
        self._keeps_memory = keep_memory
        self._fused_kernels = fused_kernels
        on_device = self.preprocessing.to(self.device)
        self._batches = RealBatches(
            data,
            on_device,
            per_class=config.real_batch,
            iterations=config.iterations,
            seed=config.seed,
            keep_whitened=keep_whitened,
        )
        self._matching = MatchingNetwork(config, data, on_device, self.device)
        self.network = self._matching.network
        if self._matching.pool is not None:
            self.config = config = replace(config, pool_sha256=self._matching.pool.sha256)
        features = feature_function(self.network, data.image_shape, layers=config.matching_layers)
        self.engine = choose_engine(engine, self.network, features, self.device)
        check_matched(self.matcher, self.engine, data.image_shape)
        seen = config.ipc * config.tiles
        warn_of_few_images(self.matcher, self.network, self.classes * seen)
        size = PassSize.of(self.matcher, self.engine, data.image_shape, real_batch=config.real_batch, ipc=seen)
        self.chunks = plan(self.classes, self.matcher, self.engine, size, budget=config.memory_budget)
        self._draws = IterationDraws(
            config,
            self._matching,
            classes=self.classes,
            representatives=None
            if config.cluster_every is None
            else Representatives(config, self._batches, self._matching, self.engine, self.chunks),
        )
        start = initial_images(config, data, self.preprocessing, device=self.device)
        self._images = RunImages(start, config, self.preprocessing, self.chunks, self.device, growth=self._growth)
        self._set_matching: SetMatching | None = None
        if isinstance(self.matcher, SetMatcher):
            self._set_matching = SetMatching(
                *(self.matcher, config, self._batches, self.network),
                decode=self._images.decode,
                pool=self._matching.pool,
                size=size,
            )
        self._matching_step = MatchingStep(
            self.matcher,
            self.engine,
            self._batches,
            self.chunks,
            decode=self._images.decode,
            calibration=self._draws.calibration,
            sharing=config.inner_loop if config.shares_real else 1,
            precision=config.precision,
        )
        self._captured_step: CapturedStep | None = None

    @property
    def images(self) -> torch.Tensor:
        """The synthetic images of this process's classes, float32 (own classes * ipc, C, H, W).

        Preprocessed, or in [0, 1] if they are to be stored as uint8.
        """
        return self._images.own

    def step(self) -> float:
        """Run one iteration; returns the loss before the update. Raises DivergenceError if it is not finite."""
        return self.launch()()

    def launch(self) -> PendingLoss:
        """Start one iteration; the device may still compute when this returns, and the result waits for the loss.

        Raises DivergenceError as :meth:`step`, some iterations late if the device works asynchronously.
        """
        if is_captured(self.config, self.engine, self.matcher, self.chunks):
            pending = self.captured_step.launch(self.iteration)
        else:
            pending = PendingLoss(self.iteration, self._descend(), None)
        self.iteration += 1
        return pending

    def _descend(self) -> float:
        """Algorithm 1 of ATOM: a network, an augmentation, the loss under both, and a step of the images down its gradient."""
        if self._set_matching is not None:
            return self._descend_whole(self._set_matching)
        drawn = self._draws(self.iteration)
        images = self.images.unflatten(0, (-1, self.config.ipc))
        loss, gradient = self._matching_step(drawn.iteration, drawn.augmentation, images)
        self._note_loss(self.iteration, loss)
        self._images.optimizer.step(self.iteration, gradient.flatten(0, 1))
        self._matching.advance(self.iteration, lambda: self._images.decode(self._images.whole))
        return loss

    def _descend_whole(self, matching: SetMatching) -> float:
        """The step with a matcher of whole sets, which draws its own augmentations and optimises other values as well."""
        generator = generator_for(self.config.seed, "iteration", self.iteration)
        self._matching.prepare(self.iteration, generator)
        loss, gradient = matching.step(self.iteration, self.images, generator)
        self._note_loss(self.iteration, loss)
        if matching.moves_images:
            self._images.optimizer.step(self.iteration, gradient)
        matching.advance(self.images)
        return loss

    @property
    def captured_step(self) -> CapturedStep:
        """The step that a CUDA device runs without the host, made on first use."""
        if self._captured_step is None:
            self._captured_step = capture(
                *(self.config, self.matcher, self._draws, self._batches, self._images),
                on_loss=self._note_loss,
                fused=self._fused_kernels,
            )
        return self._captured_step

    def _note_loss(self, iteration: int, value: float) -> None:
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss became {value} in iteration {iteration + 1}; lower --image-lr (now "
                f"{self.config.image_lr:g}) or the matcher's loss scale"
            )
        self.loss = value

    def synthetic_set(self) -> SyntheticSet:
        """The current set."""
        made = assemble(
            self._sane_images().cpu().clone(memory_format=torch.contiguous_format),
            self.config,
            self.data,
            self.preprocessing,
            iterations=self.iteration,
            final_loss=self.loss if math.isfinite(self.loss) else None,
        )
        made = replace(made, prefixes=self._prefixes)
        return made if self._set_matching is None else self._set_matching.labelled(made)

    def _sane_images(self) -> torch.Tensor:
        if self._captured_step is not None:
            self._captured_step.settle()
        return self._images.checked(self.iteration)

    def state(self) -> Checkpoint:
        """The state for :meth:`restore`, for any number of processes."""
        return Checkpoint(
            iteration=self.iteration,
            images=self._sane_images(),
            momentum=self._images.momentum,
            network=self._matching.state(self.iteration),
            learned=None if self._set_matching is None else self._set_matching.state.to_json(),
            loss=self.loss if math.isfinite(self.loss) else None,
            config=self.config,
            fingerprint=self.data.fingerprint,
        )

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue from ``checkpoint``, read from ``path``. Raises as :meth:`Checkpoint.check` if it belongs to another run."""
        checkpoint.check(self.config, self.data, path)
        try:
            self._matching.restore(checkpoint.network, checkpoint.iteration)
            if self._set_matching is not None:
                self._set_matching.restore(checkpoint.learned)
        except StoreError as error:
            raise StoreError(f"{path}: {error}: it is damaged; delete it to start over") from error
        self.iteration = checkpoint.iteration
        self.loss = math.nan if checkpoint.loss is None else checkpoint.loss
        self._captured_step = None  # it holds on to the images it was made with
        self._images.restore(checkpoint.images, checkpoint.momentum)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context for the steps (:func:`~atom_plugin.runtime.device.long_work`) that ends their background work."""
        with long_work(self.device, keep_memory=self._keeps_memory), closing(self._batches):
            try:
                yield
            finally:
                if self._captured_step is not None:
                    self._captured_step.close()
