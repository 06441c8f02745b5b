"""3x3 convolutions on a CPU with 36 multiplications for 4x4 places instead of 144: Winograd's minimal filtering.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4x4, 3x3): for input tiles d of 6x6 that overlap
by two and filters g, the 4x4 outputs of a tile are ``A' [(G g G') * (B' d B)] A``, where ``*`` becomes a matrix product over
channels for each of the 36 places. Rounding is some ten times that of the direct sum, about 1e-5 of the result in float32.

A piece of a few images passes through all stages in cache, in one thread. A convolution of 128 to 128 channels on 16x16 maps
takes about half the time of oneDNN's direct one (docs/performance.md).

:func:`enabled` turns it on, for the matching of distillation; networks that are judged are trained by the direct sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn import grad as plain

from atom_plugin.runtime.threads import parallel_map

_TILES = 64  # of a piece: a stage of 36 x 64 x 128 floats is 1.2 MB, a core's share of cache
_PIECES_PER_RUN = 4
_LEAST_CHANNELS = 32  # with fewer, the transforms cost what the products save
_LEAST_TILES = 64  # with fewer, transforming the filters does

_B = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
_A = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
_GG = torch.kron(_G, _G).float()
_A_BACK = _A.t().contiguous()


_enabled: ContextVar[bool] = ContextVar("winograd", default=False)


@contextmanager
def enabled() -> Iterator[None]:
    """Within, and in the threads of :func:`~atom_plugin.runtime.threads.parallel_map`, ConvNets convolve this way."""
    before = _enabled.get()
    _enabled.set(True)
    try:
        yield
    finally:
        _enabled.set(before)


def suits(images: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether this is :func:`enabled`, and :func:`convolve` takes (N, C, H, W) and (O, C, 3, 3), and wins by it."""
    height, width = images.shape[2:]
    return (
        _enabled.get()
        and images.device.type == "cpu"
        and images.dtype == weight.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and height % 4 == width % 4 == 0
        and len(images) * height * width >= 16 * _LEAST_TILES
        and not torch.is_autocast_enabled("cpu")
    )


def convolve(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``F.conv2d(images, weight, bias, padding=1)`` in channels-last format, within rounding, for what :func:`suits`."""
    result: torch.Tensor = _Convolution.apply(images, weight, bias)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _forward(images, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        """Under ``torch.func.vmap`` the direct sum: pieces in memory of their own cannot be batched."""
        return torch.func.vmap(partial(F.conv2d, padding=1), in_dims)(*inputs), 0

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        images, weight = ctx.saved_tensors
        for_images, for_weight, for_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a gradient of this gradient will be asked for, as gradient matching does
            return (
                plain.conv2d_input(images.shape, weight, gradient, padding=1) if for_images else None,
                plain.conv2d_weight(images, weight.shape, gradient, padding=1) if for_weight else None,
                gradient.sum((0, 2, 3)) if for_bias else None,
            )
        # The gradient of a correlation is the correlation with the filters turned about, channels exchanged.
        down = _forward(gradient, weight.flip(2, 3).transpose(0, 1), None) if for_images else None
        filters = _weight_gradient(images, gradient) if for_weight else None
        return down, filters, gradient.sum((0, 2, 3)) if for_bias else None


class _Stages:
    """Memory for pieces of ``count`` images (height, width, channels), reused from piece to piece."""

    def __init__(self, count: int, height: int, width: int, channels: int) -> None:
        self.rows = (count, height // 4, width // 4)
        self._channels = channels
        self._bordered = torch.zeros(count, height + 2, width + 2, channels)
        self._inside = self._bordered[:, 1:-1, 1:-1]
        image, row, place, _ = self._bordered.stride()
        shape, strides = (6, 6, *self.rows, channels), (row, place, image, 4 * row, 4 * place, 1)
        self._overlapping = self._bordered.as_strided(shape, strides)
        self._one = torch.empty(shape)
        self._two = torch.empty(shape)

    def inputs(self, piece: torch.Tensor) -> torch.Tensor:
        """``B' d B`` of all tiles of ``piece`` (count, H, W, C): (36, tiles, C). Overwritten by the next call."""
        self._inside.copy_(piece)
        self._one.copy_(self._overlapping)
        torch.mm(_B, self._one.view(6, -1), out=self._two.view(6, -1))
        torch.matmul(_B, self._two.view(6, 6, -1), out=self._one.view(6, 6, -1))
        return self._one.view(36, -1, self._channels)


def _forward(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    outputs, channels = weight.shape[:2]
    filters = (_GG @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, outputs)
    places = images.permute(0, 2, 3, 1)
    count, _, height, width = images.shape
    # In its final shape: an activation in place must not meet a view, which autograd would refuse.
    result = torch.empty(count, outputs, height, width, memory_format=torch.channels_last)

    def run(part: tuple[torch.Tensor, torch.Tensor]) -> None:
        for stages, piece, into in _pieces(*part):
            product = torch.bmm(stages.inputs(piece), filters)
            columns = torch.matmul(_A, product.view(6, 6, -1))
            tiles = torch.mm(_A, columns.view(6, -1)).view(4, 4, *stages.rows, outputs)
            target = _tiled(into, stages)
            if bias is None:
                target.copy_(tiles)
            else:
                torch.add(tiles, bias, out=target)

    parallel_map(run, _parts(places, result.permute(0, 2, 3, 1)))
    return result


def _weight_gradient(images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The adjoint of the products: ``G' [sum over tiles of (B' d B) * (A dy A')] G``, as (O, C, 3, 3)."""
    places, down = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    channels, outputs = places.shape[3], down.shape[3]

    def run(part: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(36, channels, outputs)
        for stages, piece, of_piece in _pieces(*part):
            rows = _tiled(of_piece, stages).reshape(4, -1)
            columns = torch.mm(_A_BACK, rows).view(6, 4, -1)
            product = torch.matmul(_A_BACK, columns).view(36, -1, outputs)
            total.baddbmm_(stages.inputs(piece).transpose(1, 2), product)
        return total

    sums = parallel_map(run, _parts(places, down))
    total = torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]
    return (_GG.t() @ total.view(36, -1)).view(3, 3, channels, outputs).permute(3, 2, 0, 1)


def _per_piece(places: torch.Tensor) -> int:
    """How many images (N, H, W, C) have ``_TILES`` tiles."""
    return max(1, _TILES * 16 // (places.shape[1] * places.shape[2]))


def _parts(one: torch.Tensor, other: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Runs of a few pieces, the work of one thread each; not cut to the number of threads, which sums would depend on."""
    count = _PIECES_PER_RUN * _per_piece(one)
    return list(zip(one.split(count), other.split(count), strict=True))


def _pieces(one: torch.Tensor, other: torch.Tensor) -> Iterator[tuple[_Stages, torch.Tensor, torch.Tensor]]:
    """The pieces of a run, each with memory for it."""
    count = _per_piece(one)
    stages = None
    for piece, beside in zip(one.split(count), other.split(count), strict=True):
        if stages is None or len(piece) < count:
            stages = _Stages(*piece.shape)
        yield stages, piece, beside


def _tiled(piece: torch.Tensor, stages: _Stages) -> torch.Tensor:
    """A view of (n, H, W, C) as (4, 4, n, H / 4, W / 4, C), the places within a tile first."""
    count, height, width = stages.rows
    return piece.view(count, height, 4, width, 4, piece.shape[3]).permute(2, 4, 0, 1, 3, 5)
