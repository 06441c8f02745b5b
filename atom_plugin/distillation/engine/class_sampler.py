"""Real batches: the same number of images from every class, class-major, drawn for all classes at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atom_plugin.errors import SourceError

# A class of at most this many batches is shuffled completely; a larger class is sampled with rejection of rare repeats.
_SHUFFLED = 4
_LARGEST_DRAW = 2**62


class ClassSampler:
    """Draws class-major index batches from ``labels`` (N,), whose classes are 0 … ``classes`` - 1.

    The cost of a batch does not depend on N. If the labels are sorted by class, nothing is stored per image; otherwise one
    int64 is. Raises SourceError if a class has no image.
    """

    def __init__(self, labels: torch.Tensor, classes: int) -> None:
        self.counts = torch.bincount(labels, minlength=classes)
        empty = (self.counts == 0).nonzero().flatten().tolist()
        if empty:
            raise SourceError(f"class {empty[0]} has no training images; every class needs at least one")
        self._starts = self.counts.cumsum(0) - self.counts
        in_order = bool((labels[1:] >= labels[:-1]).all())
        self._order = None if in_order else labels.argsort(stable=True)

    def sample(self, per_class: int, *generators: torch.Generator) -> torch.Tensor:
        """Indices (len(generators), classes * per_class): a batch, drawn without replacement, for each of ``generators``.

        A class with too few images repeats them in turn. The images of each class are in a uniformly random order: a class of
        up to four batches is shuffled by random keys; a larger class is drawn with replacement until there are enough different
        images, and the first are used. A batch does not depend on the other batches drawn with it.
        """
        places = torch.empty(len(generators), len(self.counts), per_class, dtype=torch.int64)
        small = self.counts <= _SHUFFLED * per_class
        if bool(small.any()):
            places[:, small] = _shuffled(self.counts[small], per_class, generators)
        if not bool(small.all()):
            places[:, ~small] = _first_different(self.counts[~small], per_class, generators)
        indices = (self._starts[:, None] + places).flatten(1)
        return indices if self._order is None else self._order[indices]


def _shuffled(counts: torch.Tensor, per_class: int, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """(n, k, per_class) indices within each class: the first of a permutation of 0 … counts - 1, repeated if too short."""
    width = int(counts.max())
    drawn = [torch.rand(len(counts), width, generator=generator, dtype=torch.float64) for generator in generators]
    keys = torch.stack(drawn).masked_fill_(torch.arange(width) >= counts[:, None], torch.inf)
    first = torch.arange(per_class) % counts[:, None]
    return keys.argsort(2).gather(2, first.expand(len(generators), -1, -1))


def _first_different(counts: torch.Tensor, per_class: int, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """(n, k, per_class) indices within each class: of uniform draws with replacement, the first ``per_class`` different ones.

    By symmetry every ordered choice of different indices is equally likely. More draws do not change the first ones, so all
    classes may continue until the last has enough.
    """
    size = len(counts), 2 * per_class
    drawn = counts.new_empty(len(generators), len(counts), 0)
    while True:
        # The remainder of a 62-bit draw is uniform to counts / 2**62.
        more = torch.stack([torch.randint(_LARGEST_DRAW, size, generator=generator) for generator in generators])
        drawn = torch.cat([drawn, more % counts[:, None]], 2)
        in_order, positions = drawn.sort(dim=2, stable=True)
        new = torch.ones_like(drawn, dtype=torch.bool)
        new.scatter_(2, positions[..., 1:], in_order[..., 1:] != in_order[..., :-1])
        number = new.cumsum(2)
        if bool((number[..., -1] >= per_class).all()):
            return drawn[new & (number <= per_class)].view(*drawn.shape[:2], per_class)
