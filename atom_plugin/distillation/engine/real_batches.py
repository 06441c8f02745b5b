"""The real batches of a run: which images, known an iteration ahead, and their preprocessed pixels on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.class_sampler import ClassSampler
from atom_plugin.distillation.engine.prefetch import Prefetcher
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.preprocessing import Preprocessing

# Whitened images are kept as floats where all of them fit into this, and a run asks for each this often on average.
PREPARED_BYTES, PREPARED_USES = 2**30, 4
# The part of a GPU's free memory that the uint8 images may take.
DEVICE_SHARE = 0.5
_SLICE = 1024  # images at a time, wherever all are gone through


class RealBatches:
    """Real images of every class for every iteration: :meth:`choose` says which, :meth:`fetch` brings them.

    Where the pixels are kept follows from the source, the config and the device, and never changes what a batch holds:

    - A GPU holds all uint8 images where they fit into :data:`DEVICE_SHARE` of its free memory; it gathers and preprocesses.
    - On a CPU, images that are whitened are kept as preprocessed floats where these fit into :data:`PREPARED_BYTES` and the
      run draws each image :data:`PREPARED_USES` times on average. Values differ from whitening per batch by rounding alone;
      the rule reads nothing but config and source, so that a resumed run keeps to it.
    - Else a CPU gathers from a source in memory.
    - What is left, a source on disk and images that a GPU has no room for, is read a batch ahead by a thread, into pinned
      memory for a GPU. See :class:`~atom_plugin.distillation.engine.prefetch.Prefetcher`.

    ``preprocessing`` must be on ``device``. Raises SourceError for a class without images.
    """

    def __init__(
        self, data: SourceData, preprocessing: Preprocessing, config: DistillConfig, device: torch.device
    ) -> None:
        self._train, self._config, self._device = data.train, config, device
        self._preprocessing = preprocessing
        self._sampler = ClassSampler(data.train.labels, len(data.class_names))
        self._drawn: dict[int, torch.Tensor] = {}
        self._prefetcher = Prefetcher(self._read)

    def choose(self, iteration: int) -> torch.Tensor:
        """The training images of ``iteration``: int64 (K, real_batch) on the CPU, drawn as :class:`ClassSampler` says.

        They come from a generator of their own, made of seed and iteration alone: any iteration's batch can be told at any
        time, and parts of it fetched by any process.
        """
        if iteration not in self._drawn:
            chosen = self.drawn(iteration)
            latest = max(self._drawn, default=None)
            self._drawn = {iteration: chosen} if latest is None else {latest: self._drawn[latest], iteration: chosen}
        return self._drawn[iteration]

    def drawn(self, iteration: int) -> torch.Tensor:
        """What :meth:`choose` gives, drawn anew: any thread may ask."""
        generator = generator_for(self._config.seed, "real", iteration)
        return self._sampler.draw(self._config.real_batch, generator).view(-1, self._config.real_batch)

    @property
    def pixels(self) -> torch.Tensor | None:
        """All images, uint8 (N, C, H, W), where the device keeps them."""
        return self._raw

    def rows(self, indices: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (n,), uint8 (n, C, H, W) on the CPU, in ``out`` where given."""
        return self._train.rows(indices, out=out)

    @torch.no_grad()
    def fetch(self, indices: torch.Tensor, *, ahead: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (k, m) on the CPU, preprocessed: float32 (k * m, C, H, W) on the device, in that order.

        ``ahead`` (k', m') are those that the next call will ask for: the next part of this iteration, or the first one
        of the next. Where images are read from disk or copied to a GPU, that begins at once, in the background.
        Raises SourceError where the source's file cannot be read any more.
        """
        rows = indices.flatten()
        if self._prepared is not None:
            return self._prepared[rows]
        if self._raw is not None:
            pixels = self._raw[rows.to(self._device, non_blocking=True)]
        else:
            taken = self._prefetcher.take(rows, ahead=None if ahead is None else ahead.flatten())
            pixels = taken.to(self._device, non_blocking=True)
        return self._preprocessing.forward(pixels)

    def close(self) -> None:
        """End the reading thread, if there is one; a later :meth:`fetch` may start it again."""
        self._prefetcher.close()

    # Both are made at the first batch, since not every holder of batches fetches any.
    @cached_property
    def _prepared(self) -> torch.Tensor | None:
        return self._all(self._preprocessing.forward, torch.float32) if self._worth_preparing() else None

    @cached_property
    def _raw(self) -> torch.Tensor | None:
        if self._device.type == "cpu" and self._train.mapped is None:
            return self._train.images
        return self._all(lambda part: part, torch.uint8) if self._fits_the_device() else None

    def _read(self, rows: torch.Tensor) -> torch.Tensor:
        out = None
        if self._device.type == "cuda":
            # From a caching allocator, which gives a buffer out again only when its copies are done.
            out = torch.empty(len(rows), *self._train.images.shape[1:], dtype=torch.uint8, pin_memory=True)
        return self._train.rows(rows, out=out)

    def _all(self, of: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """``of`` every image, on the device, made slice by slice: slices of a fixed size give the same bytes every time."""
        out = torch.empty(self._train.images.shape, dtype=dtype, device=self._device)
        for target, part in zip(out.split(_SLICE), self._train.parts(_SLICE), strict=True):
            target.copy_(of(part))
        return out

    def _worth_preparing(self) -> bool:
        if self._device.type != "cpu" or self._preprocessing.whitening is None:
            return False
        drawn = self._config.iterations * self._config.real_batch * len(self._sampler.counts)
        return self._train.images.numel() * 4 <= PREPARED_BYTES and drawn >= PREPARED_USES * len(self._train)

    def _fits_the_device(self) -> bool:
        if self._device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return self._train.images.numel() <= DEVICE_SHARE * free
