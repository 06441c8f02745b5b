"""Triton kernels of the pass over a convolution's output: statistics, then normalise, activate, sum powers and pool at once.

Maps are channels-last, so that a position's channels are contiguous. A program of a kernel takes one image, or a part of it,
and writes its own sums, which are added later in a fixed order: there are no atomic additions, and a run repeats to the byte.
All arithmetic is in float32, for any type of the maps.

The caller sets block sizes (:mod:`.fused_block`): none is tuned, since tuning is impossible while a step is recorded as a
graph. Needs triton, which only this module imports; this module is imported on first use.
"""

import triton
import triton.language as tl

# Runtime numbers that triton would compile anew for when one becomes 1 or a multiple of 16: a compilation takes a second.
_PLAIN = ["height", "width", "places", "part", "parts", "splits", "stride"]


@triton.jit
def power(values, EXPONENT: tl.constexpr):
    """``values ** EXPONENT`` of non-negative values, for 1, 2, 4 and 8."""
    result = values
    if EXPONENT >= 2:
        result = result * result
    if EXPONENT >= 4:
        result = result * result
    if EXPONENT >= 8:
        result = result * result
    return result


@triton.jit
def slope(values, EXPONENT: tl.constexpr):
    """The derivative of :func:`power`."""
    square = values * values
    result = tl.full(values.shape, 1.0, tl.float32)
    if EXPONENT == 2:
        result = 2 * values
    if EXPONENT == 4:
        result = 4 * square * values
    if EXPONENT == 8:
        result = 8 * square * square * square * values
    return result


@triton.jit(do_not_specialize=_PLAIN)
def moments(maps, means, squares, places, part, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean and sum of squared deviations of each channel over ``part`` positions of an image; grid (images, parts).

    Welford's recurrence in each thread's row of positions, and one exact merge of the rows: a large mean loses no digits.
    """
    image, index = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = index * part
    last = tl.minimum(first + part, places)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    base = maps + image * places * CHANNELS
    mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    square = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = 0.0
    for start in range(first, last, ROWS):
        place = start + row
        valid = (place < last)[:, None] & (column < CHANNELS)[None, :]
        value = tl.load(base + place[:, None] * CHANNELS + column[None, :], mask=valid, other=0.0).to(tl.float32)
        count += 1.0
        change = tl.where(valid, value - mean, 0.0)
        mean += change * (1.0 / count)
        square += change * (value - mean)
    seen = ((last - first - row + ROWS - 1) // ROWS).to(tl.float32)[:, None]
    whole = tl.sum(mean * seen, 0) / (last - first)
    distance = mean - whole[None, :]
    total = tl.sum(square + seen * distance * distance, 0)
    target = (image * tl.num_programs(1) + index) * CHANNELS + column
    tl.store(means + target, whole, mask=column < CHANNELS)
    tl.store(squares + target, total, mask=column < CHANNELS)


@triton.jit(do_not_specialize=_PLAIN)
def merged(
    means,
    squares,
    mean_of_group,
    scale_of_group,
    parts,
    splits,
    places,
    part,
    eps,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The moments of a group from the moments of its ``parts``, ``splits`` to an image; grid (groups, blocks of channels).

    Gives the mean, and the inverse of the standard deviation.
    """
    group = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    base = group * parts * CHANNELS
    total = (parts // splits * places).to(tl.float32)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, parts, ROWS):
        index = start + row
        valid = (index < parts)[:, None] & (column < CHANNELS)[None, :]
        count = tl.minimum(part, places - index % splits * part).to(tl.float32)[:, None]
        sums += count * tl.load(means + base + index[:, None] * CHANNELS + column[None, :], mask=valid, other=0.0)
    mean = tl.sum(sums, 0) / total
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, parts, ROWS):
        index = start + row
        valid = (index < parts)[:, None] & (column < CHANNELS)[None, :]
        count = tl.minimum(part, places - index % splits * part).to(tl.float32)[:, None]
        offset = base + index[:, None] * CHANNELS + column[None, :]
        distance = tl.load(means + offset, mask=valid, other=0.0) - mean[None, :]
        square = tl.load(squares + offset, mask=valid, other=0.0)
        sums += tl.where(valid, square + count * distance * distance, 0.0)
    target = group * CHANNELS + column
    tl.store(mean_of_group + target, mean, mask=column < CHANNELS)
    tl.store(scale_of_group + target, 1.0 / tl.sqrt(tl.sum(sums, 0) / total + eps), mask=column < CHANNELS)


@triton.jit(do_not_specialize=_PLAIN)
def applied(
    maps,
    means,
    scales,
    weights,
    biases,
    pooled,
    spatial,
    channel,
    height,
    width,
    part,
    stride,
    P_S: tl.constexpr,
    P_C: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Normalise, relu, 2x2 means, and both sums of powers (0 leaves one out); grid (images, parts of ``part`` squares).

    ``stride`` is from an image's moments to the next one's, 0 where all images share them. ``channel`` gets a row for each
    part.
    """
    image, index = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    kept = column < CHANNELS
    mean = tl.load(means + image * stride + column, mask=kept, other=0.0)[None, :]
    scale = tl.load(scales + image * stride + column, mask=kept, other=0.0)[None, :]
    weight = tl.load(weights + column, mask=kept, other=0.0)[None, :]
    bias = tl.load(biases + column, mask=kept, other=0.0)[None, :]
    across = (width + 1) // 2  # squares of 2x2 places; the last of an odd side has only one of two
    first = index * part
    last = tl.minimum(first + part, (height + 1) // 2 * across)
    base = maps + image * height * width * CHANNELS
    of_squares = pooled + image * (height // 2) * (width // 2) * CHANNELS
    of_channels = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        square = start + row
        down, right = square // across, square % across
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for corner in tl.static_range(4):
            y, x = 2 * down + corner // 2, 2 * right + corner % 2
            there = (square < last) & (y < height) & (x < width)
            place = y * width + x
            valid = there[:, None] & kept[None, :]
            value = tl.load(base + place[:, None] * CHANNELS + column[None, :], mask=valid, other=0.0).to(tl.float32)
            normal = (value - mean) * scale * weight + bias
            active = tl.where((normal < 0.0) | (valid == 0), 0.0, normal)  # keeps what is not a number
            total += active
            if P_S > 0:
                tl.store(spatial + image * height * width + place, tl.sum(power(active, P_S), 1), mask=there)
            if P_C > 0:
                of_channels += power(active, P_C)
        whole = ((square < last) & (down < height // 2) & (right < width // 2))[:, None] & kept[None, :]
        target = (down * (width // 2) + right)[:, None] * CHANNELS + column[None, :]
        tl.store(of_squares + target, (total * 0.25).to(pooled.dtype.element_ty), mask=whole)
    if P_C > 0:
        target = (image * tl.num_programs(1) + index) * CHANNELS + column
        tl.store(channel + target, tl.sum(of_channels, 0), mask=kept)


@triton.jit(do_not_specialize=_PLAIN)
def gradient(
    maps,
    means,
    scales,
    weights,
    biases,
    to_pooled,
    to_spatial,
    to_channel,
    sums,
    result,
    height,
    width,
    part,
    stride,
    inverse_count,
    REDUCE: tl.constexpr,
    P_S: tl.constexpr,
    P_C: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Backward of :func:`applied` and the normalisation, in two calls; its grid, and everything worked out again from the map.

    With REDUCE ``result`` gets, for each part, the sums over places of g and of g times the normalised map, g being the
    gradient of what the activation takes. Without, ``sums`` holds these sums of each group, over 1 / ``inverse_count`` places,
    and ``result`` gets the gradient of the map.
    """
    image, index = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    kept = column < CHANNELS
    mean = tl.load(means + image * stride + column, mask=kept, other=0.0)[None, :]
    scale = tl.load(scales + image * stride + column, mask=kept, other=0.0)[None, :]
    weight = tl.load(weights + column, mask=kept, other=0.0)[None, :]
    bias = tl.load(biases + column, mask=kept, other=0.0)[None, :]
    if P_C > 0:
        at_channel = tl.load(to_channel + image * CHANNELS + column, mask=kept, other=0.0)[None, :]
    if not REDUCE:
        of_group = sums + 2 * image * stride + column
        shift = tl.load(of_group, mask=kept, other=0.0)[None, :] * inverse_count
        tilt = tl.load(of_group + CHANNELS, mask=kept, other=0.0)[None, :] * inverse_count
    across = (width + 1) // 2
    first = index * part
    last = tl.minimum(first + part, (height + 1) // 2 * across)
    base = maps + image * height * width * CHANNELS
    of_places = to_spatial + image * height * width
    of_squares = to_pooled + image * (height // 2) * (width // 2) * CHANNELS
    if not REDUCE:
        moved = result + image * height * width * CHANNELS
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    weighted = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        square = start + row
        down, right = square // across, square % across
        whole = ((square < last) & (down < height // 2) & (right < width // 2))[:, None] & kept[None, :]
        source = (down * (width // 2) + right)[:, None] * CHANNELS + column[None, :]
        at_square = 0.25 * tl.load(of_squares + source, mask=whole, other=0.0).to(tl.float32)
        for corner in tl.static_range(4):
            y, x = 2 * down + corner // 2, 2 * right + corner % 2
            there = (square < last) & (y < height) & (x < width)
            valid = there[:, None] & kept[None, :]
            offset = (y * width + x)[:, None] * CHANNELS + column[None, :]
            value = tl.load(base + offset, mask=valid, other=0.0).to(tl.float32)
            normal = (value - mean) * scale
            active = normal * weight + bias
            arriving = at_square
            if P_S > 0:
                at_place = tl.load(of_places + y * width + x, mask=there, other=0.0)
                arriving += slope(active, P_S) * at_place[:, None]
            if P_C > 0:
                arriving += slope(active, P_C) * at_channel
            arriving = tl.where((active <= 0.0) | (valid == 0), 0.0, arriving)
            if REDUCE:
                plain += arriving
                weighted += arriving * normal
            else:
                change = scale * weight * (arriving - shift - normal * tilt)
                tl.store(moved + offset, change.to(result.dtype.element_ty), mask=valid)
    if REDUCE:
        target = (image * tl.num_programs(1) + index) * 2 * CHANNELS + column
        tl.store(result + target, tl.sum(plain, 0), mask=kept)
        tl.store(result + target + CHANNELS, tl.sum(weighted, 0), mask=kept)
