"""What each iteration draws, ready before the device asks: one block of bytes per iteration, made in the background.

Everything is drawn on the CPU from the iteration's own generator, in the order of the plain step, so that a run on any device
sees the same networks, images and augmentations. A block holds the network's parameters, the chosen images, the augmentation
and the learning rate in one piece of page-locked memory: one asynchronous copy a step, some 1.3 MB for a ConvNet-3 of width
128. Iterations do not depend on each other, so several threads draw ahead (torch lets go of the interpreter in each draw).
"""

from __future__ import annotations

import copy
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.network_pool import set_weights
from atom_plugin.runtime.device import copies_from_pinned
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import PLAN_COLUMNS, Augmentation

DrawInto = Callable[[ConvNet, torch.Generator], torch.Tensor | None]
"""Gives a network the parameters of a draw; returns the weights of a trained one beside it, or None."""

Views = dict[str, torch.Tensor]
_ALIGNMENT = 256  # bytes; what a GPU's allocator gives, and its wide loads ask for


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Named tensors in one block of bytes; ``sections`` are name, type and shape."""

    sections: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return sum(_aligned(dtype.itemsize * math.prod(shape)) for _, dtype, shape in self.sections)

    def views(self, block: torch.Tensor) -> Views:
        """The tensors, as views of ``block``, uint8 (size,)."""
        found, start = {}, 0
        for name, dtype, shape in self.sections:
            count = dtype.itemsize * math.prod(shape)
            found[name] = block[start : start + count].view(dtype).view(shape)
            start += _aligned(count)
        return found


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def point_at(network: ConvNet, flat: torch.Tensor) -> None:
    """Let the parameters of ``network`` be views of ``flat`` (their number,), convolutions in channels-last order."""
    start = 0
    for parameter in network.parameters():
        part = flat[start : start + parameter.numel()]
        if parameter.ndim == 4:
            out, channels, height, width = parameter.shape
            parameter.data = part.view(out, height, width, channels).permute(0, 3, 1, 2)
        else:
            parameter.data = part.view(parameter.shape)
        start += parameter.numel()


class StepInputs:
    """Blocks of the iterations of a run, in order, drawn ahead of their use.

    Each holds the parameters that ``draw_into`` gives a copy of ``network``, with ``calibrates`` those of the trained network
    that it returns, the draw of ``augmentation``, the real images that ``batches`` choose
    (their indices, where the device holds all images), and the learning rate that ``rate`` gives.
    """

    def __init__(
        self,
        network: ConvNet,
        augmentation: Augmentation,
        batches: RealBatches,
        *,
        rate: Callable[[int], float],
        draw_into: DrawInto,
        calibrates: bool = False,
    ) -> None:
        self.augmentation = augmentation
        self.network = copy.deepcopy(network).cpu()
        self._batches = batches
        self._rate = rate
        self._draw_into = draw_into
        self._calibrates = calibrates
        self._local = threading.local()
        classes, chosen = batches.classes, batches.classes * batches.per_class
        parameters = sum(parameter.numel() for parameter in network.parameters())
        by_index = ("indices", torch.int64, (chosen,)), ("images", torch.uint8, (chosen, *batches.image_shape))
        self.layout = Layout(
            sections=(
                by_index[batches.pixels is None],
                ("plan", torch.float32, (classes, PLAN_COLUMNS)),
                ("parameters", torch.float32, (parameters,)),
                *([("calibration", torch.float32, (parameters,))] if calibrates else []),
                ("rate", torch.float32, (1,)),
            )
        )
        self._threads = max(1, min(8, (os.cpu_count() or 1) // 2))
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[int, Future[torch.Tensor]]] = deque()

    def block(self, iteration: int) -> torch.Tensor:
        """The bytes of ``iteration``; asking for iterations in turn finds them ready."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="step-inputs")
        if self._waiting and self._waiting[0][0] != iteration:
            self._drop()
        following = self._waiting[-1][0] + 1 if self._waiting else iteration
        for ahead in range(following, min(iteration + 4 * self._threads, self._batches.iterations)):
            self._waiting.append((ahead, self._pool.submit(self.draw, ahead)))
        return self._waiting.popleft()[1].result() if self._waiting else self.draw(iteration)

    def draw(self, iteration: int) -> torch.Tensor:
        """The bytes of ``iteration``, drawn now: the network, the augmentation, the real batch, as the plain step does."""
        batches = self._batches
        block = torch.empty(self.layout.size, dtype=torch.uint8, pin_memory=copies_from_pinned(batches.device))
        views = self.layout.views(block)
        generator = generator_for(batches.seed, "iteration", iteration)
        if not hasattr(self._local, "network"):
            self._local.network, self._local.trained = (copy.deepcopy(self.network) for _ in range(2))
        point_at(self._local.network, views["parameters"])
        trained = self._draw_into(self._local.network, generator)
        if self._calibrates and trained is not None:
            point_at(self._local.trained, views["calibration"])
            set_weights(self._local.trained, trained)
        views["plan"].copy_(self.augmentation.draw(batches.classes, generator).plan(batches.image_shape[1:]))
        if "indices" in views:
            views["indices"].copy_(batches.drawn(iteration).flatten())
        else:
            batches.rows(batches.drawn(iteration).flatten(), out=views["images"])
        views["rate"].fill_(self._rate(iteration))
        return block

    def close(self) -> None:
        """Let the threads go; a later :meth:`block` starts others."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _drop(self) -> None:
        while self._waiting:
            self._waiting.pop()[1].cancel()
