"""Real batches: the same number of images from every class, class-major, drawn for all classes at once."""

from __future__ import annotations

import torch

from atom_plugin.errors import SourceError


class ClassSampler:
    """Draws class-major index batches from ``labels`` (N,), whose classes are 0 … ``classes`` - 1.

    Raises SourceError where a class has no image.
    """

    def __init__(self, labels: torch.Tensor, classes: int) -> None:
        self._labels = labels.double()
        self.counts = torch.bincount(labels, minlength=classes)
        empty = (self.counts == 0).nonzero().flatten().tolist()
        if empty:
            raise SourceError(f"class {empty[0]} has no training images; every class needs at least one")
        self._starts = self.counts.cumsum(0) - self.counts

    def draw(self, per_class: int, generator: torch.Generator) -> torch.Tensor:
        """Indices (classes * per_class,): without replacement; a class with too few images repeats them in turn.

        One sort of N keys, ``label + uniform``, shuffles every class within its own block.
        """
        keys = torch.rand(len(self._labels), generator=generator, dtype=torch.float64)
        order = (keys + self._labels).argsort()
        place = torch.arange(per_class)[None, :] % self.counts[:, None]
        return order[self._starts[:, None] + place].flatten()
