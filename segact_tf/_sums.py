"""The sums that the losses are made of, and the steps from a sum to a loss.

A loss sums over its elements in one of two ways: a loss of each element (`cross_entropy`,
`focal_cross_entropy`, `squared_error`), or the areas of `overlap`.
"""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from segact_tf import _pairwise, _special
from segact_tf._batch import Axis, Batch
from segact_tf._derivatives import _differentiate, _weigh
from segact_tf.activations import Activation
from segact_tf.conventions import Convention


def cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    pos_weight: Any = 1.0,
    label_smoothing: float = 0.0,
) -> Any:
    """-(pos_weight y log F(x) + (1 - y) log(1 - F(x))): its mean or sum over `axis`, if any."""
    batch.check_values()
    x, y = batch.masked()
    loss = _cross_entropy(x, smooth_labels(y, label_smoothing), batch.f, pos_weight)
    return _reduce(loss, batch, axis, mean)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    gamma: float,
    alpha: float | None,
    label_smoothing: float = 0.0,
) -> Any:
    """Cross entropy times (y (1 - F(x)) + (1 - y) F(x))^gamma: its mean or sum over `axis`."""
    batch.check_values()
    x, y = batch.masked()
    y = smooth_labels(y, label_smoothing)
    # A power multiplies the relative error of its base, and float32 has no digits to spare.
    wide = batch.f._widen(x)
    error = _weigh(y, batch.f.sf(wide)) + _weigh(1 - y, batch.f.cdf(wide))
    loss = ops.cast(power(error, gamma) * _cross_entropy(wide, y, batch.f), x.dtype)
    if alpha is not None:
        loss = _weigh(y * alpha + (1 - y) * (1 - alpha), loss)
    return _reduce(loss, batch, axis, mean)


def squared_error(batch: Batch, axis: Axis, mean: bool) -> Any:
    """((1 - y) F(x) - y (1 - F(x)))^2: its mean or sum over `axis`, if any."""
    batch.check_values()
    x, y = batch.masked()
    loss = ((1 - y) * batch.f.cdf(x) - y * batch.f.sf(x)) ** 2
    return _reduce(loss, batch, axis, mean)


def overlap(batch: Batch, axis: Axis, *, tp: float, fp: float, fn: float) -> tuple[Any, Any]:
    """fp FP + fn FN, and tp TP + fp FP + fn FN.

    TP, FP and FN are the sums over `axis` of y F(x), (1 - y) F(x) and y (1 - F(x)). XLA takes up to
    a quarter longer for three sums than for these two.
    """
    batch.check_values()
    x, y = batch.masked()
    p, q = batch.f.cdf(x), batch.f.sf(x)
    error = fp * ((1 - y) * p) + fn * (y * q)
    whole = tp * (y * p) + error
    return total(_weighted(error, batch.w), axis), total(_weighted(whole, batch.w), axis)


def overlap_ratio(
    batch: Batch, axis: Axis, smooth: float, *, tp: float, fp: float, fn: float
) -> Any:
    """The `ratio` of those two sums, the first over the second plus `smooth`."""
    return ratio(*overlap(batch, axis, tp=tp, fp=fp, fn=fn), smooth)


def lovasz_extension(batch: Batch, axis: Axis, error: Callable[[Any, Any], Any]) -> Any:
    """sum e g over `axis`, with e = max(error(x, y), 0) in descending order and g of `lovasz`."""
    batch.check_values()
    x, y = batch.masked()
    w = ops.ones_like(x) if batch.w is None else batch.w
    e, y, w = (_flat(t, axis) for t in (error(x, y), y, w))
    order = ops.argsort(-ops.stop_gradient(e), axis=-1)  # stable on every backend
    e, y, w = (ops.take_along_axis(t, order, axis=-1) for t in (e, y, w))
    # Areas, which float32 cannot count beyond 2^24.
    hit, miss = (_special.double(t) for t in (y * w, (1 - y) * w))
    left = ops.sum(hit, axis=-1, keepdims=True) - (ops.cumsum(hit, axis=-1) - hit)
    i = _special.at_least(left, 0.0)
    u = ops.sum(hit, axis=-1, keepdims=True) + (ops.cumsum(miss, axis=-1) - miss)
    first = ops.cast(miss > 0, u.dtype)  # of a group without a target
    least = ops.where(u == 0, 1.0, u)
    g = ops.where(u == 0, first, hit / least + i / least * (miss / (least + miss)))
    g = ops.cast(ops.stop_gradient(g), e.dtype)
    return total(_weigh(g, _special.relu(e)), (len(e.shape) - 1,))


def ratio(error: Any, whole: Any, smooth: float) -> Any:
    """error / (whole + smooth); 0 where that is 0, or so small that its inverse overflows."""
    whole = whole + smooth if smooth else whole
    empty = whole < _special.tiny(whole)
    return _special.divide(error, ops.where(empty, math.inf, whole))


def power(x: Any, exponent: float) -> Any:
    """x^exponent for x >= 0, with a gradient of 0 at 0."""

    if exponent == 0:
        return ops.ones_like(x)

    def derivative(x: Any) -> Any:
        # Of a smaller number the power would overflow, and the slope of what it is of be lost.
        positive = _special.at_least(x, _special.tiny(x))
        return ops.where(x > 0, exponent * _special.power(positive, exponent - 1), 0.0)

    return _differentiate(x, lambda x: _special.power(x, exponent), derivative)


def times(factor: float, loss: Any) -> Any:
    """factor * loss; a factor of 0 makes exactly 0, also of infinity and NaN."""
    return factor * loss if factor != 0 else _weigh(ops.full_like(loss, factor), loss)


def scale_groups(loss: Any, batch: Batch, axis: Axis) -> Any:
    """The losses of groups, scaled so that their mean is that of those with a valid element."""
    present = batch.present(axis)
    if present is None or not len(loss.shape):
        return loss
    all = tuple(range(len(loss.shape)))
    count = _count(loss, present, all)  # of one element
    return loss * (ops.cast(ops.size(loss), loss.dtype) / count)


def smooth_labels(y: Any, label_smoothing: float) -> Any:
    """y (1 - s) + s / 2."""
    return y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y


def total(x: Any, axis: Axis) -> Any:
    """The sum over `axis`; x itself if there is none."""
    return _pairwise.sum(x, axis) if axis else x


def _cross_entropy(x: Any, y: Any, f: Activation | Convention, pos_weight: Any = 1.0) -> Any:
    return _weigh(pos_weight * y, -f.logcdf(x)) + _weigh(1 - y, -f.logsf(x))


def _weighted(loss: Any, w: Any) -> Any:
    return loss if w is None else _weigh(w, loss)


def _reduce(loss: Any, batch: Batch, axis: Axis, mean: bool) -> Any:
    """The losses of elements, weighted; their mean over the valid ones, or their sum."""
    loss = _weighted(loss, batch.w)
    return _mean(loss, batch.valid, axis) if mean else total(loss, axis)


def _mean(loss: Any, valid: Any, axis: Axis) -> Any:
    """The mean over `axis` of the valid elements; 0 where there is none."""
    return _average(loss, _count(loss, valid, axis), axis) if axis else loss


def _average(loss: Any, count: Any, axis: Axis) -> Any:
    """The sum over `axis` divided by `count`, which has the shape of the sum, or is one number."""
    return _pairwise.mean(loss, count, axis)


def _count(loss: Any, valid: Any, axis: Axis) -> Any:
    """How many over `axis`, whose dimensions are kept, are valid; at least 1."""
    if valid is not None:
        # Counted in integers, which no sum rounds.
        n = ops.sum(ops.cast(valid, "int32"), axis=axis, keepdims=True)
        return ops.cast(ops.where(n > 0, n, ops.ones_like(n)), loss.dtype)
    return ops.cast(math.prod([ops.shape(loss)[a] for a in axis]), loss.dtype)


def _flat(x: Any, axis: Axis) -> Any:
    """The axes `axis` as one, the last."""
    kept = tuple(a for a in range(len(x.shape)) if a not in axis)
    sizes = [ops.shape(x)[a] for a in kept]
    return ops.reshape(ops.transpose(x, (*kept, *axis)), (*sizes, -1))
