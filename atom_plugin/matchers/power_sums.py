"""Sums of powers of a feature map over channels and over positions: the inner loop of attention.

Written out, ``f.abs().pow(4).sum(1)`` takes longer on a CPU than the convolution that made f: ``pow`` is slow, and each step
writes a tensor of the map's size to memory. Here powers of two are repeated squarings, done on pieces of the map that stay in
cache, and the backward pass computes the powers again instead of storing them: memory is the map and its gradient.

An accelerator's reductions read bfloat16 and add in float32 in one kernel: there each sum is one pass over the map, and only
the backward pass, which only synthetic images need, widens pieces of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from atom_plugin.models.features import widened
from atom_plugin.runtime.device import full_precision

# Bytes of one piece in float32: it and one temporary of its size stay in cache. benchmarks/pieces.py sweeps it.
PIECE_BYTES = 1 << 21
_ACCELERATOR_PIECE_BYTES = 1 << 24  # it and its temporaries stay in the L2 of a large GPU


def power_sums(feature_map: torch.Tensor, p_s: float | None, p_c: float | None) -> tuple[torch.Tensor, ...]:
    """``sum_c |f|^p_s`` as (N, H * W) and ``sum_hw |f|^p_c`` as (N, C); a sum whose power is None is left out.

    ``feature_map`` is (N, C, H, W) of any floating type; sums are float32, or float64 for a float64 map. Differentiable once.
    """
    # (N, H * W, C) is a view of a channels-last map; a channels-first one is copied here, once.
    rows = feature_map.permute(0, 2, 3, 1).flatten(1, 2)
    sums: tuple[torch.Tensor, torch.Tensor] = _PowerSums.apply(rows, p_s, p_c)
    return tuple(total for total, power in zip(sums, (p_s, p_c), strict=True) if power is not None)


class _PowerSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, p_s: float | None, p_c: float | None) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(rows)
        ctx.powers = (p_s, p_c)
        if rows.device.type != "cpu":
            return _sums_in_one_pass(rows, p_s, dim=2), _sums_in_one_pass(rows, p_c, dim=1)
        spatial, channel = [], []
        for piece in _pieces(rows):
            wide = widened(piece)
            powered = None if p_s is None else _power(wide, p_s)
            if powered is not None:
                spatial.append(powered.sum(2))
            if p_c is not None:
                channel.append((powered if powered is not None and p_s == p_c else _power(wide, p_c)).sum(1))
        empty = rows.new_empty(0)
        return (torch.cat(spatial) if spatial else empty, torch.cat(channel) if channel else empty)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        p_s, p_c = ctx.powers
        to_spatial, to_channel = gradients
        result = torch.empty_like(rows)
        start = 0
        for piece in _pieces(rows):
            stop = start + len(piece)
            wide = widened(piece)
            # d/df |f|^p = p |f|^(p-1) sign(f); the two sums share one product where the powers are equal.
            if p_s is None or p_c is None or p_s == p_c:
                weight = (to_spatial[start:stop, :, None] if p_s is not None else 0.0) + (
                    to_channel[start:stop, None, :] if p_c is not None else 0.0
                )
                gradient = _power_slope(wide, p_s if p_s is not None else p_c).mul_(weight)
            else:
                gradient = _power_slope(wide, p_s).mul_(to_spatial[start:stop, :, None])
                gradient.addcmul_(_power_slope(wide, p_c), to_channel[start:stop, None, :])
            result[start:stop] = gradient
            start = stop
        return result, None, None


def _pieces(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Pieces of whole images."""
    size = PIECE_BYTES if rows.device.type == "cpu" else _ACCELERATOR_PIECE_BYTES
    pieces: tuple[torch.Tensor, ...] = rows.split(max(1, size // max(1, 4 * rows[0].numel())))
    return pieces


def _sums_in_one_pass(rows: torch.Tensor, power: float | None, *, dim: int) -> torch.Tensor:
    """``sum |rows|^power`` over ``dim``, by the reduction of the p-norm, which widens each value as it reads it."""
    if power is None:
        return rows.new_empty(0)
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    with full_precision(rows.device):  # autocast would widen the whole map first
        return _power(torch.linalg.vector_norm(rows, power, dim=dim, dtype=wide), power)


def _power(values: torch.Tensor, power: float) -> torch.Tensor:
    """``|values|^power`` in a fresh tensor."""
    if power in (2, 4, 8):
        result = values * values
        while power > 2:
            result.mul_(result)
            power /= 2
        return result
    return values.abs() if power == 1 else values.abs().pow_(power)


def _power_slope(values: torch.Tensor, power: float) -> torch.Tensor:
    """The derivative of ``|values|^power`` in a fresh tensor."""
    if power == 1:
        return values.sign()
    if power == 2:
        return values * 2
    if power == 4:
        return (values * values).mul_(values).mul_(4)
    if power == 8:
        square = values * values
        return (square * square).mul_(square).mul_(values).mul_(8)
    return values.abs().pow_(power - 1).mul_(values.sign()).mul_(power)
