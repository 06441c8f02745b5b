"""Triton kernels of siamese augmentation: each program augments one image by its class's plan, or computes its gradient.

A class's row of numbers is an :meth:`~atom_plugin.transforms.augmentation.Augmentation.plan`, made on the host. Input images
are contiguous float32; output images are channels-last, in the type that the networks compute in. The gradient of the
resampling is gathered in one fixed order, as in :mod:`.resampling`.

Needs triton, which is imported on first use (:mod:`.fused_augmentation`).
"""

import triton
import triton.language as tl

_PLAIN = ["count", "height", "width"]  # numbers that no kernel is compiled anew for
_MOVE, _COLOR = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def centre(pixel, side):
    """The centre of a pixel on the scale from -1 to 1."""
    return (2.0 * pixel.to(tl.float32) + 1.0) / side - 1.0


@triton.jit
def fraction(place, side):
    """The inverse: fractional pixels."""
    return ((place + 1.0) * side - 1.0) * 0.5


@triton.jit
def inside(row, column, height, width):
    """Which coordinates are inside the image."""
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


@triton.jit
def in_hole(plan, row, column):
    """Which coordinates the cutout's square covers; none if another operation was drawn."""
    top, bottom = tl.load(plan + 10).to(tl.int32), tl.load(plan + 11).to(tl.int32)
    left, right = tl.load(plan + 12).to(tl.int32), tl.load(plan + 13).to(tl.int32)
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


@triton.jit(do_not_specialize=_PLAIN)
def augmented(
    images, plans, result, count, height, width, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr
):
    """Image n of the class n // ``count`` by that class's plan; grid (images,)."""
    image = tl.program_id(0).to(tl.int64)
    plan = plans + image // count * COLUMNS
    kind = tl.load(plan)
    places = height * width
    source, target = images + image * CHANNELS * places, result + image * CHANNELS * places
    offset = tl.arange(0, SIZE)
    if kind == _MOVE:
        a, b, e = tl.load(plan + 1), tl.load(plan + 2), tl.load(plan + 3)
        c, d, f = tl.load(plan + 4), tl.load(plan + 5), tl.load(plan + 6)
        for start in range(0, places, SIZE):
            place = start + offset
            x, y = centre(place % width, width), centre(place // width, height)
            seen_x, seen_y = fraction(a * x + b * y + e, width), fraction(c * x + d * y + f, height)
            left, top = tl.floor(seen_x), tl.floor(seen_y)
            right_share, down_share = seen_x - left, seen_y - top
            column, row = left.to(tl.int32), top.to(tl.int32)
            for channel in tl.static_range(CHANNELS):
                total = tl.zeros((SIZE,), tl.float32)
                for corner in tl.static_range(4):
                    r, k = row + corner // 2, column + corner % 2
                    across = right_share if corner % 2 == 1 else 1.0 - right_share
                    along = down_share if corner // 2 == 1 else 1.0 - down_share
                    shown = inside(r, k, height, width) & (place < places)
                    value = tl.load(source + channel * places + r * width + k, mask=shown, other=0.0)
                    total += value * (across * along)
                tl.store(target + place * CHANNELS + channel, total.to(result.dtype.element_ty), mask=place < places)
    elif kind == _COLOR:
        shift, saturation, contrast = tl.load(plan + 7), tl.load(plan + 8), tl.load(plan + 9)
        sums = tl.zeros((SIZE,), tl.float32)
        for start in range(0, places, SIZE):
            place = start + offset
            for channel in tl.static_range(CHANNELS):
                sums += tl.load(source + channel * places + place, mask=place < places, other=0.0)
        level = tl.sum(sums, 0) / (CHANNELS * places) + shift  # saturation moves no pixel's mean
        for start in range(0, places, SIZE):
            place = start + offset
            grey = tl.zeros((SIZE,), tl.float32)
            for channel in tl.static_range(CHANNELS):
                grey += tl.load(source + channel * places + place, mask=place < places, other=0.0)
            grey = grey / CHANNELS + shift
            for channel in tl.static_range(CHANNELS):
                value = tl.load(source + channel * places + place, mask=place < places, other=0.0) + shift
                value = ((value - grey) * saturation + grey - level) * contrast + level
                tl.store(target + place * CHANNELS + channel, value.to(result.dtype.element_ty), mask=place < places)
    else:
        for start in range(0, places, SIZE):
            place = start + offset
            gone = in_hole(plan, place // width, place % width)
            for channel in tl.static_range(CHANNELS):
                value = tl.load(source + channel * places + place, mask=place < places, other=0.0)
                value = tl.where(gone, 0.0, value).to(result.dtype.element_ty)
                tl.store(target + place * CHANNELS + channel, value, mask=place < places)


@triton.jit(do_not_specialize=_PLAIN)
def gradient(
    arriving,
    plans,
    result,
    count,
    height,
    width,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,
    SIZE: tl.constexpr,
):
    """The gradient of the images, from the gradient of the result of :func:`augmented`; the same grid."""
    image = tl.program_id(0).to(tl.int64)
    plan = plans + image // count * COLUMNS
    kind = tl.load(plan)
    places = height * width
    source, target = arriving + image * CHANNELS * places, result + image * CHANNELS * places
    offset = tl.arange(0, SIZE)
    if kind == _MOVE:
        a, b, e = tl.load(plan + 1), tl.load(plan + 2), tl.load(plan + 3)
        c, d, f = tl.load(plan + 4), tl.load(plan + 5), tl.load(plan + 6)
        determinant = a * d - b * c
        for start in range(0, places, SIZE):
            place = start + offset
            own_column, own_row = place % width, place // width
            x, y = centre(own_column, width) - e, centre(own_row, height) - f
            column = tl.floor(fraction((d * x - b * y) / determinant, width)).to(tl.int32)
            row = tl.floor(fraction((a * y - c * x) / determinant, height)).to(tl.int32)
            for channel in tl.static_range(CHANNELS):
                total = tl.zeros((SIZE,), tl.float32)
                for near in tl.static_range(4 * REACH * REACH):
                    r, k = row + (near // (2 * REACH) + 1 - REACH), column + (near % (2 * REACH) + 1 - REACH)
                    u, v = centre(k, width), centre(r, height)
                    across = 1.0 - tl.abs(fraction(a * u + b * v + e, width) - own_column)
                    along = 1.0 - tl.abs(fraction(c * u + d * v + f, height) - own_row)
                    shown = inside(r, k, height, width) & (across > 0.0) & (along > 0.0) & (place < places)
                    value = tl.load(source + (r * width + k) * CHANNELS + channel, mask=shown, other=0.0)
                    total += tl.where(shown, value.to(tl.float32) * (across * along), 0.0)
                tl.store(target + channel * places + place, total, mask=place < places)
    elif kind == _COLOR:
        saturation, contrast = tl.load(plan + 8), tl.load(plan + 9)
        sums = tl.zeros((SIZE,), tl.float32)
        for start in range(0, places, SIZE):
            place = start + offset
            for channel in tl.static_range(CHANNELS):
                sums += tl.load(source + place * CHANNELS + channel, mask=place < places, other=0.0).to(tl.float32)
        level = tl.sum(sums, 0) / (CHANNELS * places) * (1.0 - contrast)
        for start in range(0, places, SIZE):
            place = start + offset
            grey = tl.zeros((SIZE,), tl.float32)
            for channel in tl.static_range(CHANNELS):
                grey += tl.load(source + place * CHANNELS + channel, mask=place < places, other=0.0).to(tl.float32)
            grey = grey / CHANNELS * contrast + level
            for channel in tl.static_range(CHANNELS):
                value = tl.load(source + place * CHANNELS + channel, mask=place < places, other=0.0).to(tl.float32)
                value = value * contrast + level
                tl.store(target + channel * places + place, (value - grey) * saturation + grey, mask=place < places)
    else:
        for start in range(0, places, SIZE):
            place = start + offset
            gone = in_hole(plan, place // width, place % width)
            for channel in tl.static_range(CHANNELS):
                value = tl.load(source + place * CHANNELS + channel, mask=place < places, other=0.0).to(tl.float32)
                tl.store(target + channel * places + place, tl.where(gone, 0.0, value), mask=place < places)
