"""The random draws of each iteration, made in the background before the device needs them: one block of bytes per iteration.

The CPU draws everything from the iteration's generator, in the order of the plain step, so that a run on any device uses the
same networks, images and augmentations. A block holds the network's parameters, the selected images, the augmentation and the
learning rate in one piece of page-locked memory: one asynchronous copy a step, about 1.3 MB for a ConvNet-3 of width 128.

Iterations do not depend on each other, so several threads draw ahead. They share Python's lock, which each of torch's
operations releases and waits for, so few operations per block matter more than many threads. Therefore a thread draws several
blocks together, and shares operations among them; the parameters stay in the order of the draws, and the device converts them
to the memory order of convolutions.
"""

from __future__ import annotations

import copy
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.device import copies_from_pinned
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import PLAN_COLUMNS, Augmentation

DrawInto = Callable[[ConvNet, torch.Generator], torch.Tensor | None]
"""Sets a network's parameters from a draw; also returns the weights of a trained network, or None."""

Views = dict[str, torch.Tensor]
_TOGETHER, _CHUNK_BYTES = 8, 2**26  # blocks that a thread draws together, and the most bytes of these
_ALIGNMENT = 256  # bytes; the alignment of a GPU's allocator, which wide loads need


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Named tensors in one block of bytes; ``sections`` are name, type and shape."""

    sections: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return sum(_aligned(dtype.itemsize * math.prod(shape)) for _, dtype, shape in self.sections)

    def views(self, block: torch.Tensor) -> Views:
        """The tensors, as views of ``block``, uint8 (..., size); several blocks give their leading dimensions."""
        found, start = {}, 0
        for name, dtype, shape in self.sections:
            count = dtype.itemsize * math.prod(shape)
            found[name] = block[..., start : start + count].view(dtype).unflatten(-1, shape)
            start += _aligned(count)
        return found


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def point_at(network: ConvNet, flat: torch.Tensor) -> None:
    """Make the parameters of ``network`` consecutive views of ``flat`` (their number,)."""
    held = list(network.parameters())
    for parameter, part in zip(held, flat.split([each.numel() for each in held]), strict=True):
        parameter.data = part.view(parameter.shape)


def point_at_channels_last(network: ConvNet, flat: torch.Tensor) -> torch.Tensor:
    """:func:`point_at` with channels-last convolutions; returns each value's position in :func:`point_at`'s order."""
    order, start = [], 0
    for parameter in network.parameters():
        places = torch.arange(start, start + parameter.numel()).view(parameter.shape)
        part = flat[start : start + parameter.numel()]
        if parameter.ndim == 4:
            out, channels, height, width = parameter.shape
            places = places.permute(0, 2, 3, 1)
            parameter.data = part.view(out, height, width, channels).permute(0, 3, 1, 2)
        else:
            parameter.data = part.view(parameter.shape)
        order.append(places.flatten())
        start += parameter.numel()
    return torch.cat(order).to(flat.device)


def _one_core() -> None:
    """Limit the calling thread's operations to one core, so that the threads do not compete for cores."""
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # torch's first call in a thread sets the number of threads; it must come before the limit
    threadpool_limits(1, user_api="openmp")


class StepInputs:
    """Blocks of the iterations of a run, in order, drawn ahead of their use.

    Each block holds the parameters that ``draw_into`` sets in a copy of ``network``; with ``calibrates``, the weights of the
    trained network that it returns; the draw of ``augmentation``; the real images of ``batches`` (their indices if the device
    holds all images); and the learning rate of ``rate``. ``threads`` is the number of drawing threads, by default up to four;
    the attribute may be set before the first call of :meth:`block`.
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
        threads: int | None = None,
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
                by_index[batches.held is None],
                ("plan", torch.float32, (classes, PLAN_COLUMNS)),
                ("parameters", torch.float32, (parameters,)),
                *([("calibration", torch.float32, (parameters,))] if calibrates else []),
                ("rate", torch.float32, (1,)),
            )
        )
        self._together = max(1, min(_TOGETHER, _CHUNK_BYTES // self.layout.size))
        self.threads = threads or max(1, min(4, (os.cpu_count() or 1) // 2))
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[Sequence[torch.Tensor]]] = deque()
        self._ready: deque[torch.Tensor] = deque()
        self._next = self._asked = (
            0  # the iteration of the first block that is ready or waited for; the first iteration not yet requested
        )

    def block(self, iteration: int) -> torch.Tensor:
        """The bytes of ``iteration``; they are ready if iterations are requested in order."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="step-inputs", initializer=_one_core)
        if iteration != self._next:
            self._drop(iteration)
        end = min(iteration + (self.threads + 1) * self._together, self._batches.iterations)
        while self._asked < end:
            chunk = range(self._asked, min(self._asked + self._together, self._batches.iterations))
            self._waiting.append(self._pool.submit(self.draw, chunk))
            self._asked = chunk.stop
        if not self._ready:
            self._ready.extend(
                self._waiting.popleft().result() if self._waiting else self.draw(range(iteration, iteration + 1))
            )
        self._next = iteration + 1
        return self._ready.popleft()

    @torch.no_grad()
    def draw(self, iterations: range) -> Sequence[torch.Tensor]:
        """The bytes of ``iterations``, drawn now: the network, the augmentation, the real batch, as in the plain step."""
        batches, size = self._batches, self.layout.size
        pinned = copies_from_pinned(batches.device)
        blocks = torch.empty(len(iterations), size, dtype=torch.uint8, pin_memory=pinned)
        views = self.layout.views(blocks)
        if not hasattr(self._local, "network"):
            self._local.network = copy.deepcopy(self.network)
        draws = []
        for row, iteration in enumerate(iterations):
            generator = generator_for(batches.seed, "iteration", iteration)
            point_at(self._local.network, views["parameters"][row])
            trained = self._draw_into(self._local.network, generator)
            if self._calibrates and trained is not None:
                views["calibration"][row].copy_(trained)
            draws.append(self.augmentation.draw(batches.classes, generator))
        choice, uniforms = torch.cat([each.choice for each in draws]), torch.cat([each.uniforms for each in draws])
        plans = self.augmentation.plan(
            choice, uniforms, batches.image_shape[1:]
        )  # for all at once, because a plan takes many small operations
        views["plan"].copy_(plans.unflatten(0, (len(iterations), -1)))
        chosen = batches.drawn(iterations).flatten(1)
        if "indices" in views:
            views["indices"].copy_(chosen)
        else:
            for rows, out in zip(chosen, views["images"], strict=True):
                batches.rows(rows, out=out)
        views["rate"].copy_(torch.tensor([self._rate(iteration) for iteration in iterations])[:, None])
        return blocks.unbind(0)

    def close(self) -> None:
        """End the threads; a later :meth:`block` starts others."""
        self._drop(0)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _drop(self, following: int) -> None:
        """Discard the draws made ahead; the next request is for ``following``."""
        while self._waiting:
            self._waiting.pop().cancel()
        self._ready.clear()
        self._next = self._asked = following
