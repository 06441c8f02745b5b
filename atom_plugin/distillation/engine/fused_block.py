"""The operations after a block's convolution in one pass over its output: normalisation, ReLU, sums of powers, 2x2 means.

Torch reads and writes the map for each of them. Here one kernel computes each channel's moments, and another does the rest in
one more reading of the map; the activated map itself is never written. The gradient needs only the convolution's output and the
moments: one kernel computes the sums for the backward pass of normalisation, another writes the map's gradient, and both
recompute the activation. The kernels (:mod:`.fused_kernels`) are triton's, imported on first use.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from atom_plugin.matchers import Powers
from atom_plugin.models.convnet import ConvBlock

_EXPONENTS = (None, 1, 2, 4, 8)
_CHANNELS = 1024  # the most that a tile of the kernels holds in registers
_TILE, _MOMENTS_TILE = 2048, 4096  # values at a time, for 4 and 8 warps: 16 a thread
_PROGRAMS, _MOMENTS_PROGRAMS = 16, 8  # of these warps for each multiprocessor: enough to fill it more than once
_MERGED_ROWS, _MERGED_COLUMNS = 1024, 8


def suits(block: ConvBlock, powers: Powers) -> bool:
    """Whether the kernels support the operations of ``block`` after its convolution, and these sums of powers."""
    plain = isinstance(block.activation, nn.ReLU) and block.pooling == "avg" and block.pool_size == 2
    narrow = block.convolution.out_channels <= _CHANNELS and block.convolution.weight.dtype == torch.float32
    return plain and narrow and per_channel(block) and all(power in _EXPONENTS for power in powers)


def per_channel(block: ConvBlock) -> bool:
    """Whether each channel is normalised by its own moments, so that the convolution's bias cancels."""
    norm = block.normalisation
    return isinstance(norm, nn.BatchNorm2d) or (isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels)


def finished(block: ConvBlock, output: torch.Tensor, powers: Powers) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """``output`` (N, C, H, W) of the convolution, float32 or bfloat16, to the pooled map of its type and the sums of powers.

    The sums are those of :func:`~atom_plugin.matchers.power_sums.power_sums` over the map before pooling, in float32:
    (N, H * W) for ``powers[0]`` and (N, C) for ``powers[1]``, without those whose power is None. Differentiable once, for
    ``output``.
    """
    norm = block.normalisation
    assert isinstance(norm, nn.BatchNorm2d | nn.GroupNorm) and suits(block, powers)
    exponents = tuple(int(power or 0) for power in powers)
    scale, shift = norm.weight.detach(), norm.bias.detach()
    settings = norm.eps, isinstance(norm, nn.GroupNorm), exponents
    pooled, *sums = _Finished.apply(output, scale, shift, settings)
    return pooled, tuple(total for total, power in zip(sums, powers, strict=True) if power is not None)


class _Finished(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        output: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        settings: tuple[float, bool, tuple[int, int]],
    ) -> tuple[torch.Tensor, ...]:
        eps, per_image, ctx.exponents = settings
        output = output.contiguous(memory_format=torch.channels_last)
        mean, scale = _moments(output, eps, per_image=per_image)
        needed = output, mean, scale, weight, bias
        ctx.save_for_backward(*needed)
        return _applied(needed, ctx.exponents)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_pooled, to_spatial, to_channel = gradients
        arriving = (
            to_pooled.contiguous(memory_format=torch.channels_last),
            to_spatial.contiguous(),
            to_channel.contiguous(),
        )
        return _gradient(ctx.saved_tensors, arriving, ctx.exponents), None, None, None


def _moments(output: torch.Tensor, eps: float, *, per_image: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of each channel, float32 (groups, C): a group is an image, or all of them."""
    from atom_plugin.distillation.engine import fused_kernels

    count, channels, height, width = output.shape
    places = height * width
    tile = _tile(channels, _MOMENTS_TILE)
    part, splits = _parts(places, output, tile["ROWS"], _MOMENTS_PROGRAMS)
    means, squares = output.new_empty(2, count, splits, channels, dtype=torch.float32)
    fused_kernels.moments[(count, splits)](output, means, squares, places, part, **tile, num_warps=8)
    groups = count if per_image else 1
    mean, scale = output.new_empty(2, groups, channels, dtype=torch.float32)
    parts = count * splits // groups
    grid = (groups, math.ceil(channels / _MERGED_COLUMNS))
    rows = min(_MERGED_ROWS, _power_of_two(parts))
    merged = {"CHANNELS": channels, "ROWS": rows, "COLUMNS": _MERGED_COLUMNS}
    fused_kernels.merged[grid](means, squares, mean, scale, parts, splits, places, part, eps, **merged, num_warps=8)
    return mean, scale


def _applied(
    needed: tuple[torch.Tensor, ...], exponents: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pooled map and both sums; ``needed`` is the gradient's further input: output, moments, scale and shift."""
    from atom_plugin.distillation.engine import fused_kernels

    output, mean = needed[:2]
    count, channels, height, width = output.shape
    tile = _tile(channels, _TILE)
    part, splits = _parts(_squares(height, width), output, tile["ROWS"], _PROGRAMS)
    p_s, p_c = exponents
    pooled = torch.empty(
        (count, channels, height // 2, width // 2),
        dtype=output.dtype,
        device=output.device,
        memory_format=torch.channels_last,
    )
    spatial = output.new_empty((count, height * width) if p_s else 0, dtype=torch.float32)
    channel = output.new_empty((count, splits, channels) if p_c else 0, dtype=torch.float32)
    sizes = (height, width, part, _stride(mean))
    kernel = fused_kernels.applied[(count, splits)]
    kernel(*needed, pooled, spatial, channel, *sizes, P_S=p_s, P_C=p_c, **tile, num_warps=4)
    return pooled, spatial, channel.sum(1) if p_c else channel


def _gradient(
    needed: tuple[torch.Tensor, ...], arriving: tuple[torch.Tensor, ...], exponents: tuple[int, int]
) -> torch.Tensor:
    """The gradient of the convolution's output, from the gradients of the pooled map and of both sums."""
    from atom_plugin.distillation.engine import fused_kernels

    output, mean = needed[:2]
    count, channels, height, width = output.shape
    groups = len(mean)
    tile = _tile(channels, _TILE)
    part, splits = _parts(_squares(height, width), output, tile["ROWS"], _PROGRAMS)
    sizes = (height, width, part, _stride(mean), groups / (count * height * width))
    kernel = fused_kernels.gradient[(count, splits)]
    powers = {"P_S": exponents[0], "P_C": exponents[1]}
    parts = output.new_empty(groups, count // groups * splits, 2, channels, dtype=torch.float32)
    kernel(*needed, *arriving, parts, parts, *sizes, REDUCE=True, **powers, **tile, num_warps=4)
    result = torch.empty_like(output)
    kernel(*needed, *arriving, parts.sum(1), result, *sizes, REDUCE=False, **powers, **tile, num_warps=4)
    return result


def _tile(channels: int, values: int) -> dict[str, int]:
    """A tile of all channels of a few positions, about ``values`` in all."""
    columns = _power_of_two(channels)
    return {"CHANNELS": channels, "ROWS": min(64, max(1, values // columns)), "COLUMNS": columns}


def _parts(places: int, output: torch.Tensor, rows: int, programs: int) -> tuple[int, int]:
    """How many of an image's ``places`` each program takes, a multiple of ``rows``, and the number of programs.

    For all images there are about ``programs`` programs for each multiprocessor.
    """
    cuda = output.device.type == "cuda"
    processors = torch.cuda.get_device_properties(output.device).multi_processor_count if cuda else 1
    wanted = math.ceil(programs * processors / len(output))
    part = math.ceil(math.ceil(places / wanted) / rows) * rows
    return part, math.ceil(places / part)


def _squares(height: int, width: int) -> int:
    return math.ceil(height / 2) * math.ceil(width / 2)


def _stride(mean: torch.Tensor) -> int:
    """The stride from an image's moments to the next one's."""
    return mean.shape[1] if len(mean) > 1 else 0


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
