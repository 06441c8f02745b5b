"""Assign classes to processes, and split them into chunks that pass through the network together within a memory budget.

The memory of a pass is estimated from shapes alone (:class:`PassSize`), so that config, source and number of processes
determine the chunks, and with them the rounding of sums; the free memory of the machine does not.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass

import torch

from atom_plugin.distillation.engine import Engine, blank_features
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ImageMatcher, Matcher, MeanMatcher
from atom_plugin.models.batchnorm import ties_images
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime import distributed

# Floats kept at the peak per value of an image, of a block's map and of a descriptor: an estimate from above.
_COPIES_OF_IMAGES = 7
_COPIES_OF_MAPS = 3
_COPIES_OF_DESCRIPTORS = 4
_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """``owners``: the classes of each process. ``own_chunks``: this process's, by pass. All are runs of consecutive classes."""

    owners: tuple[range, ...]
    own_chunks: tuple[range, ...]

    @property
    def own(self) -> range:
        """The classes of this process."""
        return self.owners[distributed.rank()]

    def images(self, ipc: int) -> list[range]:
        """The rows of each process in the set's images."""
        return [range(own.start * ipc, own.stop * ipc) for own in self.owners]


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """The sizes that determine the bytes of a pass: images per class, and values of an image, its maps and its descriptors."""

    real_batch: int
    ipc: int
    pixels: int
    maps: int
    descriptors: int

    @classmethod
    def of(
        cls, matcher: Matcher, engine: Engine, image_shape: tuple[int, int, int], *, real_batch: int, ipc: int
    ) -> PassSize:
        """The sizes for images (C, H, W), measured on two blank images."""
        seen = blank_features(engine, image_shape)
        with torch.no_grad():
            described = matcher.real_side.statistics(seen) if isinstance(matcher, MeanMatcher) else ()
        return cls(
            real_batch=real_batch,
            ipc=ipc,
            pixels=math.prod(image_shape),
            maps=sum(item[0].numel() for item in seen.maps),
            descriptors=sum(item[0].numel() for item in described),
        )

    def bytes_of(self, classes: int) -> int:
        """An upper estimate of the bytes of ``classes`` classes: real and synthetic maps, the latter for the backward pass.

        ``4 K (B + n) (7 I + 3 M + 4 D)``, with K classes, B real and n synthetic images of each, I values in an image, M in all
        its maps, and D in its descriptors. Not counted: the source, the set with its momentum, the network, libraries.
        """
        return self.bytes_of_images(classes * (self.real_batch + self.ipc))

    def bytes_of_images(self, count: int) -> int:
        """The same for ``count`` images whose maps are in memory at once."""
        per_image = (
            _COPIES_OF_IMAGES * self.pixels + _COPIES_OF_MAPS * self.maps + _COPIES_OF_DESCRIPTORS * self.descriptors
        )
        return 4 * count * per_image


def plan(classes: int, matcher: Matcher, engine: Engine, size: PassSize, *, budget: int | None) -> Chunks:
    """The chunks of a run on ``classes`` classes, each pass within ``budget`` bytes.

    Raises ConfigError for more processes than classes, a budget below the need of one class, and a loss that cannot be computed
    in chunks.
    """
    count = distributed.count()
    if count > classes:
        raise ConfigError(f"{count} processes for {classes} classes; start at most one per class")
    owners = split(range(classes), count)
    largest = max(map(len, owners))
    together = largest
    if budget is not None:
        together = _classes_within(budget, size, engine, whole=largest)
    if together < largest:
        _refuse_ties(matcher, engine, f"a memory budget of {readable(budget or 0)}")
        if ties_images(engine.network):
            raise ConfigError(
                f"batch normalisation needs all classes in one pass, about {readable(size.bytes_of(largest))}, more than the "
                f"memory budget of {readable(budget or 0)}; choose --normalisation instance, or a larger budget"
            )
    if count > 1:
        _refuse_ties(matcher, engine, f"{count} processes")
    own = owners[distributed.rank()]
    return Chunks(owners=owners, own_chunks=split(own, math.ceil(len(own) / together)))


def split(classes: range, count: int) -> tuple[range, ...]:
    """``count`` runs of consecutive classes, whose lengths differ by one at most."""
    borders = [classes.start + len(classes) * part // count for part in range(count + 1)]
    return tuple(itertools.starmap(range, itertools.pairwise(borders)))


def readable(size: int, space: str = " ") -> str:
    """``size`` in bytes, in units of 1,000, rounded up to two digits after the point: "3.25 MB"."""
    power = min(len(_UNITS) - 1, max(0, (len(str(size)) - 1) // 3))
    unit = 1000**power
    return f"{math.ceil(size / unit * 100) / 100:g}{space}{_UNITS[power]}"


def _classes_within(budget: int, size: PassSize, engine: Engine, *, whole: int) -> int:
    """The most classes, up to ``whole``, that need no more than the budget."""
    if not isinstance(engine.network, ConvNet):
        raise ConfigError(
            f"the memory of a pass can be estimated only for the ConvNet, not for {type(engine.network).__name__}; "
            "leave out the memory budget, and lower --real-batch if memory is short"
        )
    if (need := size.bytes_of(1)) > budget:
        raise ConfigError(
            f"a memory budget of {readable(budget)} is less than one class needs, about {readable(need)} "
            f"({size.real_batch} real and {size.ipc} synthetic images); give --memory-budget {readable(need, '')} or "
            "more"
        )
    return bisect.bisect_right(range(1, whole + 1), budget, key=size.bytes_of)


def _refuse_ties(matcher: Matcher, engine: Engine, found: str) -> None:
    """Raises ConfigError if the loss of a class needs the other classes, so that ``found`` is impossible."""
    name = type(matcher).__name__
    if not getattr(matcher, "separates", False):
        raise ConfigError(
            f"the matcher {name} compares all classes at once, which is impossible with {found}; use one process "
            "without a memory budget (or a larger one), or another matcher"
        )
    if isinstance(matcher, ImageMatcher) and ties_images(engine.network):
        raise ConfigError(
            f"the matcher {name} fixes batch normalisation by images of all classes at once, which is impossible "
            f"with {found}; choose another --normalisation, or use one process without a memory budget (or a larger "
            "one)"
        )
