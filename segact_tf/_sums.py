"""The sums that the losses are made of, and the steps from a sum to a loss.

There are two kinds of sums: of an elementwise loss (`cross_entropy`, `focal_cross_entropy`,
`squared_error`), and of TP, FP and FN (`overlap`).
"""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from segact_tf import _pairwise, _special
from segact_tf._batch import Axis, Batch
from segact_tf._derivatives import _differentiate, _weigh
from segact_tf._distributed import all_reduce
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
    on, off = (smooth_labels(each, label_smoothing) for each in (y, 1 - y))
    loss = _cross_entropy(x, on, off, batch.f, pos_weight)
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
    on, off = (smooth_labels(each, label_smoothing) for each in (y, 1 - y))
    error = _weigh(on, batch.f.sf(x)) + _weigh(off, batch.f.cdf(x))
    loss = power(error, gamma) * _cross_entropy(x, on, off, batch.f)
    if alpha is not None:
        loss = _weigh(on * alpha + off * (1 - alpha), loss)
    return _reduce(loss, batch, axis, mean)


def squared_error(batch: Batch, axis: Axis, mean: bool) -> Any:
    """((1 - y) F(x) - y (1 - F(x)))^2: its mean or sum over `axis`, if any."""
    batch.check_values()
    x, y = batch.masked()
    loss = ((1 - y) * batch.f.cdf(x) - y * batch.f.sf(x)) ** 2
    return _reduce(loss, batch, axis, mean)


def overlap(batch: Batch, axis: Axis, *, tp: float, fp: float, fn: float) -> tuple[Any, Any]:
    """fp FP + fn FN, and tp TP.

    TP, FP and FN are the sums over `axis` of y F(x), (1 - y) F(x) and y (1 - F(x)). Three sums take
    up to a quarter longer than these two under XLA.
    """
    batch.check_values()
    x, y = batch.masked()
    p, q = batch.f.cdf(x), batch.f.sf(x)
    error = fp * ((1 - y) * p) + fn * (y * q)
    hit = tp * (y * p)
    return totals(_weighted(error, batch.w), _weighted(hit, batch.w), axis)


def overlap_ratio(
    batch: Batch, axis: Axis, smooth: float, *, tp: float, fp: float, fn: float
) -> Any:
    """The `ratio` of those two sums: the first over both and `smooth`."""
    return ratio(*overlap(batch, axis, tp=tp, fp=fp, fn=fn), smooth)


def lovasz_extension(batch: Batch, axis: Axis, error: Callable[[Any, Any], Any]) -> Any:
    """sum e g over `axis`, with e = max(error(x, y), 0) in descending order and g of `lovasz`.

    Most of the time goes into the sort. e is not reordered; g, a constant, is put into its order.
    """
    batch.check_values()
    x, y = batch.masked()
    e = error(x, y)
    e = _special.relu(e if batch.w is None else _special.where(batch.w == 0, 0.0, e))
    e, y = (_flat(t, axis) for t in (e, y))
    order = _special.descending(ops.stop_gradient(e))
    target = ops.take_along_axis(y > 0.5, order, axis=-1)
    if batch.w is not None and batch.weighted:
        w = ops.take_along_axis(_flat(batch.w, axis), order, axis=-1)
        g = ops.cast(ops.stop_gradient(_weighted_steps(target, w)), e.dtype)
    else:
        g = _steps(target, e)  # ignored elements have an error of 0 and come last
    g = _special.put_back(g, order)
    return total(g * _special.where(g == 0, 0.0, e), (len(e.shape) - 1,))


def _steps(target: Any, e: Any) -> Any:
    """The weights g of `lovasz` for targets and background in this order, in the precision of e."""
    hits = _special.running_count(target)
    left = ops.cast(hits[..., -1:] - hits, e.dtype)
    union = left + _special.places(e)
    # Where the union is 1, this is the first element and adds 1, also in a group without a target.
    whole = ops.logical_or(target, union == 1)
    return _special.where(whole, 1.0, left / _special.at_least(union - 1, 1.0)) / union


def _weighted_steps(target: Any, w: Any) -> Any:
    """The same for weighted elements, in float64: float32 sums are not exact enough."""
    w = _special.double(w)
    hit, miss = (_special.where(t, 0.0, w) for t in (ops.logical_not(target), target))
    whole = ops.sum(hit, axis=-1, keepdims=True)
    left = _special.at_least(whole - (_special.cumsum(hit, axis=-1) - hit), 0.0)
    union = whole + (_special.cumsum(miss, axis=-1) - miss)
    first = ops.cast(miss > 0, union.dtype)  # in a group without a target
    least = _special.where(union == 0, 1.0, union)
    return ops.where(union == 0, first, hit / least + left / least * (miss / (least + miss)))


def ratio(error: Any, hit: Any, smooth: float) -> Any:
    """error / (error + hit + smooth); 0 where that sum is 0 or its inverse overflows.

    Its slopes, (hit + smooth) / sum^2 and -error / sum^2, are differences of two terms. Of the two
    forms each has the terms that do not cancel where it is used: with an empty mask the error is
    nearly the whole sum.
    """
    rest = hit + smooth if smooth else hit
    whole = error + rest
    empty = whole < _special.tiny(whole)
    whole = ops.where(empty, math.inf, whole)
    divided = 1 - _special.divide(rest, whole), _special.divide(error, whole)
    found = ops.where(error > rest, *divided)
    return ops.where(empty, 0.0, found)  # and slopes of 0, also under an infinite upstream


def power(x: Any, exponent: float) -> Any:
    """x^exponent for x >= 0, with a gradient of 0 at 0."""

    if exponent == 0:
        return ops.ones_like(x)

    def derivative(x: Any) -> Any:
        # For a smaller x the power in the slope would overflow, and the slope of x be lost.
        positive = _special.at_least(x, _special.tiny(x))
        return ops.where(x > 0, exponent * _special.power(positive, exponent - 1), 0.0)

    return _differentiate(x, lambda x: _special.power(x, exponent), derivative)


def times(factor: float, loss: Any) -> Any:
    """factor * loss; exactly 0 for a factor of 0, also if the loss is infinity or NaN."""
    if factor == 1:
        return loss
    return factor * loss if factor != 0 else _weigh(ops.full_like(loss, factor), loss)


def scale_groups(loss: Any, batch: Batch, axis: Axis) -> Any:
    """The losses of groups, scaled so that their mean is over those with a valid element."""
    present = batch.present(axis)
    if present is None or not len(loss.shape):
        return loss
    all = tuple(range(len(loss.shape)))
    if batch.across(axis) is None and batch.group is not None:
        size, count = (ops.ones_like(loss), ops.cast(present, loss.dtype))
        size, count = all_reduce(batch.group, total(size, all), total(count, all))
        return loss * (size / _special.at_least(count, 1.0))
    count = _count(loss, present, all)  # of one element
    return loss * (ops.cast(ops.size(loss), loss.dtype) / count)


def smooth_labels(y: Any, label_smoothing: float) -> Any:
    """y (1 - s) + s / 2. For class 0 take that of 1 - y: 1 minus the result loses a small s."""
    return y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y


def total(x: Any, axis: Axis) -> Any:
    """The sum over `axis`; x itself if there is none."""
    return _pairwise.sum(x, axis) if axis else x


def totals(x: Any, y: Any, axis: Axis) -> tuple[Any, Any]:
    """The totals of two tensors of one shape."""
    return _pairwise.sums(x, y, axis)


def _cross_entropy(
    x: Any, on: Any, off: Any, f: Activation | Convention, pos_weight: Any = 1.0
) -> Any:
    """The cross entropy of F(x) with a target of `on` for class 1 and `off` for class 0."""
    return _weigh(pos_weight * on, -f.logcdf(x)) + _weigh(off, -f.logsf(x))


def _weighted(loss: Any, w: Any) -> Any:
    return loss if w is None else _weigh(w, loss)


def _reduce(loss: Any, batch: Batch, axis: Axis, mean: bool) -> Any:
    """The losses of elements, times their weights; or the mean over the valid ones, or the sum."""
    loss = _weighted(loss, batch.w)
    return _mean(loss, batch.valid, axis) if mean else total(loss, axis)


def _mean(loss: Any, valid: Any, axis: Axis) -> Any:
    """The mean over `axis` of the valid elements; 0 if there is none."""
    return _average(loss, _count(loss, valid, axis), axis) if axis else loss


def _average(loss: Any, count: Any, axis: Axis) -> Any:
    """The sum over `axis` divided by `count`, which has the shape of the sum, or is one number."""
    return _pairwise.mean(loss, count, axis)


def _count(loss: Any, valid: Any, axis: Axis) -> Any:
    """The number of valid elements over `axis`, at least 1; dimensions are kept."""
    if valid is not None:
        # Integers: their sum is not rounded.
        n = ops.sum(ops.cast(valid, "int32"), axis=axis, keepdims=True)
        return ops.cast(ops.where(n > 0, n, ops.ones_like(n)), loss.dtype)
    return ops.cast(math.prod([ops.shape(loss)[a] for a in axis]), loss.dtype)


def _flat(x: Any, axis: Axis) -> Any:
    """x with the axes `axis` merged into one, the last."""
    kept = tuple(a for a in range(len(x.shape)) if a not in axis)
    sizes = [ops.shape(x)[a] for a in kept]
    length = math.prod([ops.shape(x)[a] for a in axis])  # reshape takes no -1 with a size of 0
    return ops.reshape(ops.transpose(x, (*kept, *axis)), (*sizes, length))
