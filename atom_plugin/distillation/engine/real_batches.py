"""The real batches of a run: the selection of images, known an iteration ahead, and their preprocessed pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.engine.class_sampler import ClassSampler
from atom_plugin.distillation.engine.prefetch import Prefetcher
from atom_plugin.runtime.device import copies_from_pinned, free_memory, on_host
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.preprocessing import Preprocessing

# Whitened images are kept as floats if all fit into these bytes, and a run uses each image this often on average.
PREPARED_BYTES, PREPARED_USES = 2**30, 4
# The part of a GPU's free memory that the uint8 images may take.
DEVICE_SHARE = 0.5
_SLICE = 1024  # images at a time, in passes over all images


class RealBatches:
    """Real images of every class for every iteration: :meth:`choose` selects them, :meth:`fetch` loads them.

    The source, the config and the device determine the storage of the pixels, which does not change the batches:

    - Whitened images are kept as preprocessed floats if these fit into :data:`PREPARED_BYTES` and the run draws each image
      :data:`PREPARED_USES` times on average. Values differ from whitening per batch only by rounding; the rule depends only
      on config and source, so that a resumed run follows it too.
    - A GPU holds all uint8 images if they fit into :data:`DEVICE_SHARE` of its free memory; it gathers and preprocesses them.
    - Otherwise a CPU gathers from a source in memory.
    - A thread reads all other images, from disk or for a GPU without enough memory, one batch ahead, into pinned memory for a
      GPU. See :class:`~atom_plugin.distillation.engine.prefetch.Prefetcher`.

    Batches come to the device of ``preprocessing``: ``per_class`` images of each class in each of ``iterations``. Raises
    SourceError for a class without images.
    """

    def __init__(
        self,
        data: SourceData,
        preprocessing: Preprocessing,
        *,
        per_class: int,
        iterations: int,
        seed: int,
        keep_whitened: bool = True,
    ) -> None:
        self.preprocessing = preprocessing
        self.device = preprocessing.mean.device
        self.image_shape = data.image_shape
        self.classes = len(data.class_names)
        self.per_class = per_class
        self.iterations = iterations
        self.seed = seed
        self._train = data.train
        self._keeps_whitened = keep_whitened
        self._sampler = ClassSampler(data.train.labels, len(data.class_names))
        self.labels = data.train.labels
        self._drawn: dict[int, torch.Tensor] = {}
        self._fixed: torch.Tensor | None = None
        self._prefetcher = Prefetcher(self._read)

    def choose(self, iteration: int) -> torch.Tensor:
        """The training images of ``iteration``: int64 (K, per_class) on the CPU, drawn by :class:`ClassSampler`.

        Their generator depends only on seed and iteration, so any iteration's batch is known at any time, and any process can
        fetch parts of it. After :meth:`fix` it is the fixed batch.
        """
        if self._fixed is not None:
            return self._fixed
        if iteration not in self._drawn:
            chosen = self.drawn(range(iteration, iteration + 1))[0]
            latest = max(self._drawn, default=None)
            self._drawn = {iteration: chosen} if latest is None else {latest: self._drawn[latest], iteration: chosen}
        return self._drawn[iteration]

    def fix(self, chosen: torch.Tensor) -> None:
        """Use ``chosen``, int64 (K, per_class), in every iteration, until the next call."""
        self._fixed = chosen

    def drawn(self, iterations: range) -> torch.Tensor:
        """The result of :meth:`choose` for each of ``iterations``, drawn again, (n, K, per_class); thread-safe."""
        generators = (generator_for(self.seed, "real", iteration) for iteration in iterations)
        return self._sampler.sample(self.per_class, *generators).view(len(iterations), -1, self.per_class)

    @property
    def held(self) -> torch.Tensor | None:
        """All images (N, C, H, W) if the device keeps them: uint8 pixels, or preprocessed floats."""
        held: torch.Tensor | None = self._raw if self._prepared is None else self._prepared
        return held

    def preprocessed(self, images: torch.Tensor) -> torch.Tensor:
        """Preprocessed images, float32, from rows of :attr:`held`."""
        if images.is_floating_point():
            return images
        seen: torch.Tensor = self.preprocessing.forward(images)
        return seen

    def rows(self, indices: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (n,), uint8 (n, C, H, W) on the CPU, in ``out`` if given."""
        return self._train.rows(indices, out=out)

    @torch.no_grad()
    def fetch(self, indices: torch.Tensor, *, ahead: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (k, m) on the CPU, preprocessed: float32 (k * m, C, H, W) on the device, in that order.

        ``ahead`` (k', m') are the indices of the next call: the next part of this iteration, or the first part of the next. If
        images are read from disk or copied to a GPU, that begins at once, in the background. Raises SourceError if the source's
        file can no longer be read.
        """
        rows = indices.flatten()
        if self._prepared is not None:
            return self._prepared[rows.to(self.device, non_blocking=True)]
        if self._raw is not None:
            pixels = self._raw[rows.to(self.device, non_blocking=True)]
        else:
            taken = self._prefetcher.take(rows, ahead=None if ahead is None else ahead.flatten())
            pixels = taken.to(self.device, non_blocking=True)
        return self.preprocessing.forward(pixels)

    def close(self) -> None:
        """End the reading thread, if there is one; a later :meth:`fetch` may start it again."""
        self._prefetcher.close()

    # Both are made at the first batch, because some users of the class do not fetch images.
    @cached_property
    def _prepared(self) -> torch.Tensor | None:
        return self._all(self.preprocessing.forward, torch.float32) if self._worth_preparing() else None

    @cached_property
    def _raw(self) -> torch.Tensor | None:
        if on_host(self.device) and self._train.mapped is None:
            return self._train.images
        fits = self._train.pixel_bytes <= DEVICE_SHARE * free_memory(self.device)
        return self._all(lambda part: part, torch.uint8) if fits else None

    def _read(self, rows: torch.Tensor) -> torch.Tensor:
        # Page-locked memory comes from a caching allocator, which reuses a buffer only after its copies have finished.
        out = torch.empty(len(rows), *self.image_shape, dtype=torch.uint8, pin_memory=copies_from_pinned(self.device))
        return self._train.rows(rows, out=out)

    def _all(self, of: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """``of`` applied to every image, on the device, in slices; their fixed size gives the same bytes every time."""
        out = torch.empty(len(self._train), *self.image_shape, dtype=dtype, device=self.device)
        for target, part in zip(out.split(_SLICE), self._train.parts(_SLICE), strict=True):
            target.copy_(of(part.to(self.device)))
        return out

    def _worth_preparing(self) -> bool:
        if not self._keeps_whitened or self.preprocessing.whitening is None:
            return False
        drawn = self.iterations * self.per_class * self.classes
        return self._train.pixel_bytes * 4 <= PREPARED_BYTES and drawn >= PREPARED_USES * len(self._train)
