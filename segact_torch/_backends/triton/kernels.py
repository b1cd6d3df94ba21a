# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The kernels: from the losses of an element to blocks of elements.

What is said in arithmetic.py of quotients and of fused products holds here too.
"""

import triton
import triton.language as tl

from segact_torch._backends.triton.activations import is_below, log_losses, masses
from segact_torch._backends.triton.arithmetic import (
    INFINITY,
    TINY,
    fractional_power,
    unless_zero,
    weigh,
)

# ---- the losses of an element: value and slope in x ----


@triton.jit
def near_and_far(on, off, below):
    """Of what class 1 and class 0 have, that of the likelier class and that of the other."""
    return tl.where(below, off, on), tl.where(below, on, off)


@triton.jit
def weighed_log_losses(x, on, off, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """The tail and the density; value and slope of on (-log F(x)) + off (-log(1 - F(x)))."""
    a, near_loss, far_loss, near_hazard, far_hazard = log_losses(x, epsilon, ACTIVATION, SQUEEZED)
    below = is_below(x, ACTIVATION)
    near, far = near_and_far(on, off, below)
    # what weighs 0 may be infinite: the loss of the unlikelier class, of few activations its hazard
    loss = near * near_loss + unless_zero(far, far_loss)
    moved = unless_zero(far, far_hazard) if ACTIVATION == "normal_cdf" else far * far_hazard
    slope = near * near_hazard - moved
    return a, (1.0 - a) * near_hazard, loss, tl.where(below, slope, -slope)


@triton.jit
def smooth_labels(y, label_smoothing, SMOOTHED: tl.constexpr):
    """Targets, or those of class 0, as in _sums.py."""
    return y * (1.0 - label_smoothing) + 0.5 * label_smoothing if SMOOTHED else y


@triton.jit
def entropy(
    x,
    y,
    w,
    pos_weight,
    label_smoothing,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
):
    """Likewise, of w (pos_weight y (-log F(x)) + (1 - y) (-log(1 - F(x))))."""
    rest = smooth_labels(1.0 - y, label_smoothing, SMOOTHED)
    y = smooth_labels(y, label_smoothing, SMOOTHED)
    on, off = w * y, w * rest
    if POSITIVE:
        on = w * pos_weight * y
    a, density, loss, slope = weighed_log_losses(x, on, off, epsilon, ACTIVATION, SQUEEZED)
    if POSITIVE:  # what weighs nothing is 0 for any x
        nothing = (y == 1.0) & (pos_weight * y == 0.0)
        loss, slope = tl.where(nothing, 0.0, loss), tl.where(nothing, 0.0, slope)
    return a, density, loss, slope


@triton.jit
def masses_and_entropy(
    x,
    y,
    w,
    pos_weight,
    label_smoothing,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
):
    """F(x), 1 - F(x), the density, and value and slope of the cross entropy."""
    a, density, loss, slope = entropy(
        x, y, w, pos_weight, label_smoothing, epsilon, ACTIVATION, SQUEEZED, SMOOTHED, POSITIVE
    )
    below = is_below(x, ACTIVATION)
    return tl.where(below, a, 1.0 - a), tl.where(below, 1.0 - a, a), density, loss, slope


@triton.jit
def squared(x, y, w, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """w (F(x) - y)^2."""
    p, q, density = masses(x, epsilon, ACTIVATION, SQUEEZED)
    d = (1.0 - y) * p - y * q
    return w * (d * d), w * (2.0 * d * density)


@triton.jit
def focal(
    x,
    on,
    off,
    w,
    gamma,
    high,
    low,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WHOLE: tl.constexpr,
    FRACTION: tl.constexpr,
):
    """w e^gamma times the cross entropy, e = on (1 - F(x)) + off F(x)."""
    a, density, loss, slope = weighed_log_losses(x, on, off, epsilon, ACTIVATION, SQUEEZED)
    near, far = near_and_far(on, off, is_below(x, ACTIVATION))
    e = near * a + far * (1.0 - a)
    power = fractional_power(e, high, low) if FRACTION else tl.full(x.shape, 1.0, tl.float32)
    if WHOLE == 0:  # one less, of an exponent below 1
        less = tl.where(e < TINY, 0.0, tl.div_rn(power, tl.where(e < TINY, 1.0, e)))
    else:
        rest: tl.constexpr = WHOLE - 1
        square = e
        less = power
        for bit in tl.static_range(10):
            if (rest >> bit) & 1:
                less = less * square
            if (rest >> (bit + 1)) > 0:
                square = square * square
        power = less * e
    # an infinite loss is beyond where the density has any size
    moved = gamma * (off - on) * (less * tl.where(loss == INFINITY, 0.0, loss) * density)
    return w * unless_zero(power, loss), w * (moved + unless_zero(power, slope))


# ---- blocks: each program has BLOCK elements of one row ----


@triton.jit
def start_of(length, parts, SINGLE: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr):
    """Row and start of a program's part, the offsets of a block, and where in the row it starts."""
    program = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    if SINGLE:  # so that the compiler knows how the data is aligned
        row = program * 0
        within = program.to(tl.int64) * PART
        start = within
    else:
        row = program // parts
        within = (program % parts).to(tl.int64) * PART
        start = row.to(tl.int64) * length + within
    return row, start, offsets, within


@triton.jit
def place(length, blocks, SINGLE: tl.constexpr, BLOCK: tl.constexpr):
    """Row, start and offsets of a program's block, and which elements there are."""
    row, start, offsets, within = start_of(length, blocks, SINGLE, BLOCK, BLOCK)
    return row, start, offsets, within + offsets < length


@triton.jit
def load(x, y, w, start, offsets, there, WEIGHTED: tl.constexpr, GUARDED: tl.constexpr):
    """x, y and w in float32, harmless where the weight is 0; where there is none, it is 0.

    GUARDED targets are `in_range`, as in _batch.py.
    """
    x = tl.load(x + start + offsets, there, other=0.0).to(tl.float32)
    y = tl.load(y + start + offsets, there, other=0).to(tl.float32)
    if WEIGHTED:
        w = tl.load(w + start + offsets, there, other=0).to(tl.float32)
        x, y = tl.where(w == 0.0, 0.0, x), tl.where(w == 0.0, 0.0, y)
    else:
        w = tl.full(x.shape, 1.0, tl.float32)
    if GUARDED:
        inside = tl.minimum(tl.maximum(y, 0.0), 1.0)
        y = tl.where(tl.abs(y - 0.5) <= 1.0, inside, float("nan"))
    return x, y, w


@triton.jit
def total(values, there):
    """The sum, in float32."""
    return tl.sum(tl.where(there, values, 0.0), 0)


@triton.jit
def far_total(values, there):
    """The sum in float64, also where that in float32 overflows: losses can be of any size."""
    result = total(values, there).to(tl.float64)
    if result == INFINITY:
        result = total(values * 2.3283064365386963e-10, there).to(tl.float64) * 4294967296.0
    return result


@triton.jit
def losses(
    x,
    y,
    w,
    factors,
    out,
    gradient,
    length,
    blocks,
    scale,
    label_smoothing,
    pos_weight,
    alpha,
    beta,
    gamma,
    high,
    low,
    epsilon,
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GUARDED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
    EACH_POSITIVE: tl.constexpr,
    ALPHA: tl.constexpr,
    WHOLE: tl.constexpr,
    FRACTION: tl.constexpr,
    EACH: tl.constexpr,
    GRADIENT: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Losses, or the sum of the block's, into `out`; their gradients times `scale`.

    The weight of class 1 is `pos_weight`, or that of each element among `factors`.
    """
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED, GUARDED)
    if LOSS == "cross_entropy":
        if EACH_POSITIVE:
            pos_weight = tl.load(factors + start + offsets, there, other=1).to(tl.float32)
        _, _, loss, slope = entropy(
            x, y, w, pos_weight, label_smoothing, epsilon, ACTIVATION, SQUEEZED, SMOOTHED, POSITIVE
        )
    elif LOSS == "squared_error":
        loss, slope = squared(x, y, w, epsilon, ACTIVATION, SQUEEZED)
    else:
        on = smooth_labels(y, label_smoothing, SMOOTHED)
        off = smooth_labels(1.0 - y, label_smoothing, SMOOTHED)
        if ALPHA:  # beta is 1 - alpha, with its digits for an alpha near 1
            w = w * (on * alpha + off * beta)
            x = tl.where(w == 0.0, 0.0, x)
        loss, slope = focal(
            x, on, off, w, gamma, high, low, epsilon, ACTIVATION, SQUEEZED, WHOLE, FRACTION
        )
    if GRADIENT:
        tl.store(gradient + start + offsets, slope * scale, there)
    if EACH:
        tl.store(out + start + offsets, loss, there)
    else:
        tl.store(out + tl.program_id(0), far_total(loss, there))


@triton.jit
def overlap(
    x,
    y,
    w,
    factors,
    out,
    length,
    blocks,
    tp,
    fp,
    fn,
    label_smoothing,
    pos_weight,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GUARDED: tl.constexpr,
    ENTROPY: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
    EACH_POSITIVE: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The block's fp FP + fn FN and tp TP into `out` (2, programs).

    With ENTROPY `out` is (3, programs), and has the cross entropies, as `losses`.
    """
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED, GUARDED)
    programs = tl.num_programs(0).to(tl.int64)
    out += tl.program_id(0)
    if ENTROPY:
        if EACH_POSITIVE:
            pos_weight = tl.load(factors + start + offsets, there, other=1).to(tl.float32)
        p, q, _, loss, _ = masses_and_entropy(
            x, y, w, pos_weight, label_smoothing, epsilon, ACTIVATION, SQUEEZED, SMOOTHED, POSITIVE
        )
        tl.store(out + 2 * programs, far_total(loss, there))
    else:
        p, q, _ = masses(x, epsilon, ACTIVATION, SQUEEZED)
    error = total(w * (fp * ((1.0 - y) * p) + fn * (y * q)), there)
    tl.store(out, error)
    tl.store(out + programs, tp * total(w * y * p, there))


@triton.jit
def ratio(
    sums,
    value,
    slopes,
    length,
    blocks,
    smooth,
    scale,
    ENTROPY: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The first of the sums (2, length) over both and `smooth`, and the slopes in the two.

    All are 0 where the denominator is 0, as in _sums.py. The sums are in float64, and so is it.
    With ENTROPY there is a third sum, which `value` (2, length) has times `scale`.
    """
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    error = tl.load(sums + start + offsets, there, other=0.0)
    rest = tl.load(sums + length + start + offsets, there, other=0.0) + smooth
    whole = tl.where(error + rest < TINY, INFINITY, error + rest)
    found = error / whole
    tl.store(value + start + offsets, found, there)
    tl.store(slopes + start + offsets, rest / whole / whole, there)
    tl.store(slopes + length + start + offsets, -found / whole, there)
    if ENTROPY:
        third = tl.load(sums + 2 * length + start + offsets, there, other=0.0)
        tl.store(value + length + start + offsets, third * scale, there)


@triton.jit
def overlap_gradient(
    x,
    y,
    w,
    factors,
    slopes,
    upstream,
    gradient,
    length,
    blocks,
    rows,
    tp,
    fp,
    fn,
    scale,
    label_smoothing,
    pos_weight,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GUARDED: tl.constexpr,
    RATIO: tl.constexpr,
    ENTROPY: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
    EACH_POSITIVE: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of a loss whose slopes in the two sums are `slopes` (2, rows).

    With RATIO the slopes are those of the sums' ratio, and `upstream` (rows) is its gradient. With
    ENTROPY `upstream` is (2, rows): also that of the cross entropies times `scale`.
    """
    row, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    of_error, of_hit = tl.load(slopes + row), tl.load(slopes + rows + row)
    if RATIO:
        factor = tl.load(upstream + row)
        of_error, of_hit = weigh(factor, of_error), weigh(factor, of_hit)
    on, off = tp * of_hit - fn * of_error, fp * of_error
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED, GUARDED)
    if ENTROPY:
        if EACH_POSITIVE:
            pos_weight = tl.load(factors + start + offsets, there, other=1).to(tl.float32)
        _, _, density, _, of_entropy = masses_and_entropy(
            x, y, w, pos_weight, label_smoothing, epsilon, ACTIVATION, SQUEEZED, SMOOTHED, POSITIVE
        )
    else:
        _, _, density = masses(x, epsilon, ACTIVATION, SQUEEZED)
    slope = weigh(density, weigh(w * (1.0 - y), off) + weigh(w * y, on))
    if ENTROPY:
        slope += weigh(tl.load(upstream + rows + row) * scale, of_entropy)
    tl.store(gradient + start + offsets, slope, there)


@triton.jit
def rescale(
    gradient,
    upstream,
    length,
    chunks,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Multiplies chunks of rows by what is upstream of each; moves nothing where that is 1."""
    row, start, offsets, within = start_of(length, chunks, SINGLE, BLOCK, CHUNK)
    factor = tl.load(upstream + row).to(tl.float32)
    if factor != 1.0:
        left = length - within
        for turn in range(CHUNK // BLOCK):
            at = turn * BLOCK + offsets
            values = tl.load(gradient + start + at, at < left, other=0.0)
            tl.store(gradient + start + at, weigh(factor, values), at < left)


@triton.jit
def multiply(gradient, upstream, length, blocks, SINGLE: tl.constexpr, BLOCK: tl.constexpr):
    """Multiplies each element by its own, likewise."""
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    factor = tl.load(upstream + start + offsets, there, other=1.0).to(tl.float32)
    there = there & (factor != 1.0)
    values = tl.load(gradient + start + offsets, there, other=0.0)
    tl.store(gradient + start + offsets, weigh(factor, values), there)
