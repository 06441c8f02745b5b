"""Which classes a process owns, and how many of them pass through the network together, from a memory budget.

The need of a pass is estimated from shapes alone (:func:`bytes_of_pass`), so that config, source and number of processes
decide the parts, and with them how sums are rounded; what happens to be free on the machine does not.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.cpu_real_branch import PIECE_BYTES
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ImageMatcher, Matcher, MeanMatcher
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime import distributed

# Floats kept at the peak per value of an image and per value of a block's map; docs/scaling.md has what they were fitted to.
_COPIES_OF_IMAGES = 7
_COPIES_OF_MAPS = {False: 3, True: 8}  # by whether batch normalisation ties the classes together
_COPIES_OF_DESCRIPTORS = 4
_COPIES_OF_PIECES = 6
_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """``owners``: the classes of each process. ``chunks``: this one's, by pass. All are runs of consecutive classes.

    ``chunked``: whether a process has more than one, which all then heed where batch normalisation needs all classes.
    """

    owners: tuple[range, ...]
    chunks: tuple[range, ...]
    chunked: bool

    @property
    def own(self) -> range:
        """The classes of this process."""
        return self.owners[distributed.rank()]

    def images(self, ipc: int) -> list[range]:
        """The rows of each process in the set's images."""
        return [range(own.start * ipc, own.stop * ipc) for own in self.owners]


def plan(
    config: DistillConfig, classes: int, image_shape: tuple[int, int, int], matcher: Matcher, network: ConvNet
) -> Parts:
    """The parts of a run on ``classes`` classes of images (C, H, W).

    Raises ConfigError for more processes than classes, a budget below the need of one class, and a loss that cannot be taken
    in parts.
    """
    count = distributed.count()
    if count > classes:
        raise ConfigError(f"{count} processes for {classes} classes; start at most one per class")
    owners = split(range(classes), count)
    largest = max(map(len, owners))
    together = largest
    if config.memory_budget is not None:
        need = partial(bytes_of_pass, config, image_shape, matcher, network)
        together = _classes_within(config.memory_budget, need, config, whole=largest)
    if count > 1 or together < largest:
        _refuse_inseparable(config, matcher, network, count)
    own = owners[distributed.rank()]
    return Parts(
        owners=owners, chunks=split(own, math.ceil(len(own) / together)), chunked=math.ceil(largest / together) > 1
    )


def split(classes: range, count: int) -> tuple[range, ...]:
    """``count`` runs of consecutive classes, whose lengths differ by one at most."""
    borders = [classes.start + len(classes) * part // count for part in range(count + 1)]
    return tuple(itertools.starmap(range, itertools.pairwise(borders)))


def bytes_of_pass(
    config: DistillConfig, image_shape: tuple[int, int, int], matcher: Matcher, network: ConvNet, classes: int
) -> int:
    """An estimate from above of what ``classes`` classes take while they pass: real batches, and synthetic maps for backward.

    ``4 K (7 (B + n) I + h (c M + 4 D)) + pieces``, with K classes, B real and n synthetic images of each, I values in an image,
    M in all maps of one, and D in its descriptors. Maps are held of h images per class: n; on an accelerator and for an
    :class:`ImageMatcher` B + n. c is 3, or with batch normalisation 8; there B maps of the second block are added. On a CPU
    the real maps pass in pieces, of which six of the first block are counted. Not counted: the source, the set with its
    momentum, the network, libraries.
    """
    per_image = math.prod(image_shape)
    with torch.no_grad():
        seen = copy.deepcopy(network).cpu().features(torch.zeros(2, *image_shape), groups=2)
        described = matcher.statistics(seen) if isinstance(matcher, MeanMatcher) else ()
    maps = [item[0].numel() for item in seen.maps]
    descriptors = sum(item[0].numel() for item in described)
    held, pieces = config.ipc, 0
    if isinstance(matcher, ImageMatcher) or next(network.parameters()).device.type != "cpu":
        held += config.real_batch
    else:
        pieces = _COPIES_OF_PIECES * min(PIECE_BYTES, 4 * classes * config.real_batch * maps[0])
    tied = batch_normalised(network)
    images = _COPIES_OF_IMAGES * (config.real_batch + config.ipc) * per_image
    kept = config.real_batch * sum(maps[1:2]) if tied else 0
    passing = held * (_COPIES_OF_MAPS[tied] * sum(maps) + _COPIES_OF_DESCRIPTORS * descriptors)
    return 4 * classes * (images + passing + kept) + pieces


def batch_normalised(network: nn.Module) -> bool:
    """Whether what the network makes of an image depends on the others of its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def readable(size: int, space: str = " ") -> str:
    """``size`` in bytes, in units of 1,000, rounded up to two digits after the point: "3.25 MB"."""
    power = min(len(_UNITS) - 1, max(0, (len(str(size)) - 1) // 3))
    unit = 1000**power
    return f"{math.ceil(size / unit * 100) / 100:g}{space}{_UNITS[power]}"


def _classes_within(budget: int, need: Callable[[int], int], config: DistillConfig, *, whole: int) -> int:
    """The most classes, up to ``whole``, that ``need`` no more than the budget."""
    if need(1) > budget:
        raise ConfigError(
            f"a memory budget of {readable(budget)} is less than one class takes, about {readable(need(1))} "
            f"({config.real_batch} real and {config.ipc} synthetic images); give --memory-budget "
            f"{readable(need(1), '')} or more"
        )
    return bisect.bisect_right(range(1, whole + 1), budget, key=need)


def _refuse_inseparable(config: DistillConfig, matcher: Matcher, network: ConvNet, count: int) -> None:
    found = f"{count} processes" if count > 1 else f"a memory budget of {readable(config.memory_budget or 0)}"
    if not getattr(matcher, "separates", False):
        raise ConfigError(
            f"matcher {config.matcher!r} compares all classes at once, which {found} cannot; use one process without "
            "a memory budget (or a larger one), or another matcher"
        )
    if isinstance(matcher, ImageMatcher) and batch_normalised(network):
        raise ConfigError(
            f"matcher {config.matcher!r} fixes batch normalisation by images of all classes at once, which {found} cannot; "
            "choose another --normalisation, or use one process without a memory budget (or a larger one)"
        )
