"""The sums that the losses are made of, and the steps from a sum to a loss.

There are two kinds of sums: of an elementwise loss (`cross_entropy`, `focal_cross_entropy`,
`squared_error`), and of TP, FP and FN (`overlap`). These formulas are the definition: they run on
every device and can be differentiated again. `segact_torch._backends` has functions of the same
names that give the same numbers, and their gradient, in one pass.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segact_torch import _special
from segact_torch._batch import Axis, Batch
from segact_torch._checks import check_reduction
from segact_torch._derivatives import _apply, _differentiate, _save, _weigh
from segact_torch._distributed import all_mean
from segact_torch.activations import Activation
from segact_torch.conventions import Convention


def cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    pos_weight: float | Tensor = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
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
) -> Tensor:
    """Cross entropy times (y (1 - F(x)) + (1 - y) F(x))^gamma: its mean or sum over `axis`."""
    batch.check_values()
    x, y = batch.masked()
    on, off = (smooth_labels(each, label_smoothing) for each in (y, 1 - y))
    error = _weigh(on, batch.f.sf(x)) + _weigh(off, batch.f.cdf(x))
    loss = power(error, gamma) * _cross_entropy(x, on, off, batch.f)
    if alpha is not None:
        loss = _weigh(on * alpha + off * (1 - alpha), loss)
    return _reduce(loss, batch, axis, mean)


def squared_error(batch: Batch, axis: Axis, mean: bool) -> Tensor:
    """((1 - y) F(x) - y (1 - F(x)))^2: its mean or sum over `axis`, if any."""
    batch.check_values()
    x, y = batch.masked()
    loss = ((1 - y) * batch.f.cdf(x) - y * batch.f.sf(x)) ** 2
    return _reduce(loss, batch, axis, mean)


def overlap(batch: Batch, axis: Axis, *, tp: float, fp: float, fn: float) -> tuple[Tensor, Tensor]:
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
) -> Tensor:
    """The `ratio` of those two sums: the first over both and `smooth`."""
    return ratio(*overlap(batch, axis, tp=tp, fp=fp, fn=fn), smooth)


def lovasz_extension(batch: Batch, axis: Axis, error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """sum e g over `axis`, with e = max(error(x, y), 0) in descending order and g of `lovasz`.

    Most of the time goes into the sort. e is not reordered; g, a constant, is put into its order.
    """
    batch.check_values()
    x, y = batch.masked()
    e = error(x, y)
    e = (e if batch.w is None else torch.where(batch.w == 0, 0.0, e)).relu()
    e, y = (_flat(t, axis) for t in (e, y))
    order = _special.descending(e.detach())
    target = (y > 0.5).gather(-1, order)
    if batch.w is not None and batch.weighted:
        w = _flat(batch.w, axis).gather(-1, order)
        g = _weighted_steps(target, w).detach().to(e.dtype)
    else:
        g = _steps(target, e)  # ignored elements have an error of 0 and come last
    g = _special.put_back(g, order)
    return total(g * torch.where(g == 0, 0.0, e), (e.ndim - 1,))


def _steps(target: Tensor, e: Tensor) -> Tensor:
    """The weights g of `lovasz` for targets and background in this order, in the precision of e."""
    hits = _special.running_count(target)
    left = (hits[..., -1:] - hits).to(e.dtype)
    union = left + _special.places(e)
    # Where the union is 1, this is the first element and adds 1, also in a group without a target.
    whole = target | (union == 1)
    return torch.where(whole, 1.0, left / _special.at_least(union - 1, 1.0)) / union


def _weighted_steps(target: Tensor, w: Tensor) -> Tensor:
    """The same for weighted elements, in float64: float32 sums are not exact enough."""
    w = _special.double(w)
    hit, miss = (torch.where(t, 0.0, w) for t in (~target, target))
    whole = hit.sum(-1, keepdim=True)
    left = _special.at_least(whole - (hit.cumsum(-1) - hit), 0.0)
    union = whole + (miss.cumsum(-1) - miss)
    first = (miss > 0).to(union.dtype)  # in a group without a target
    least = torch.where(union == 0, 1.0, union)
    return torch.where(union == 0, first, hit / least + left / least * (miss / (least + miss)))


def ratio(error: Tensor, hit: Tensor, smooth: float) -> Tensor:
    """error / (error + hit + smooth); 0 where that sum is 0 or its inverse overflows.

    Its slopes, (hit + smooth) / sum^2 and -error / sum^2, are differences of two terms. Of the two
    forms each has the terms that do not cancel where it is used: with an empty mask the error is
    nearly the whole sum.
    """
    rest = hit + smooth if smooth else hit
    whole = error + rest
    empty = whole < _special.tiny(whole)
    whole = whole.masked_fill(empty, math.inf)
    divided = 1 - rest / whole, error / whole
    found = torch.where(error > rest, *divided)
    return found.masked_fill(empty, 0.0)  # and slopes of 0, also under an infinite upstream


def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for x >= 0, with a gradient of 0 at 0."""

    if exponent == 0:
        return torch.ones_like(x)

    def derivative(x: Tensor) -> Tensor:
        # For a smaller x the power in the slope would overflow, and the slope of x be lost.
        positive = _special.at_least(x, _special.tiny(x))
        return torch.where(x > 0, exponent * positive ** (exponent - 1), 0.0)

    return _differentiate(x, lambda x: x**exponent, derivative)


def times(factor: float, loss: Tensor) -> Tensor:
    """factor * loss; exactly 0 for a factor of 0, also if the loss is infinity or NaN."""
    if factor == 1:
        return loss
    return factor * loss if factor != 0 else _weigh(torch.full_like(loss, factor), loss)


def reduce_groups(loss: Tensor, batch: Batch, axis: Axis, reduction: str) -> Tensor:
    """The losses of groups, their sum, or the mean of those with a valid element."""
    check_reduction(reduction)
    loss = loss if loss.dtype == batch.dtype else loss.to(batch.dtype)
    if reduction == "none" or not loss.ndim:  # a group without a valid element has a loss of 0
        return batch.cut(loss, axis)
    if reduction == "sum":
        return loss.sum()
    present = batch.present(axis)
    # divided first: the sum may overflow where the mean does not
    mean = (loss / (loss.numel() if present is None else present.sum().clamp(min=1))).sum()
    if batch.group is None or not batch.per_sample:
        return mean
    present = torch.ones_like(loss, dtype=torch.bool) if present is None else present
    return all_mean(batch.group, mean, _special.double(present.sum()))


def smooth_labels(y: Tensor, label_smoothing: float) -> Tensor:
    """y (1 - s) + s / 2. For class 0 take that of 1 - y: 1 minus the result loses a small s."""
    return y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y


def total(x: Tensor, axis: Axis) -> Tensor:
    """The sum over `axis`; x itself if there is none."""
    return x.sum(axis) if axis else x


def totals(x: Tensor, y: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """The totals of two tensors of one shape."""
    return total(x, axis), total(y, axis)


def _cross_entropy(
    x: Tensor, on: Tensor, off: Tensor, f: Activation | Convention, pos_weight: float | Tensor = 1.0
) -> Tensor:
    """The cross entropy of F(x) with a target of `on` for class 1 and `off` for class 0."""
    return _weigh(pos_weight * on, -f.logcdf(x)) + _weigh(off, -f.logsf(x))


def _weighted(loss: Tensor, w: Tensor | None) -> Tensor:
    return loss if w is None else _weigh(w, loss)


def _reduce(loss: Tensor, batch: Batch, axis: Axis, mean: bool) -> Tensor:
    """The losses of elements, times their weights; or the mean over the valid ones, or the sum."""
    loss = _weighted(loss, batch.w)
    return _mean(loss, batch.valid, axis) if mean else total(loss, axis)


def _mean(loss: Tensor, valid: Tensor | None, axis: Axis) -> Tensor:
    """The mean over `axis` of the valid elements; 0 if there is none."""
    return _apply(_Average, loss, _count(loss, valid, axis), frozenset(axis)) if axis else loss


class _Average(torch.autograd.Function):
    """The sum over `axis` divided by `count`, also if the sum overflows and the mean does not.

    `count` has the shape of the sum with the summed dimensions kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, count: Tensor, axes: frozenset[int]) -> Tensor:
        axis = tuple(axes)
        # not the mean squeezed: autograd refuses to change a view in place, as in `loss /= 4`
        mean = loss.sum(axis) / count.squeeze(axis)
        return torch.where(mean.isinf(), (loss / count).sum(axis), mean)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        loss, count, ctx.axes = inputs
        ctx.shape = loss.shape
        _save(ctx, count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (count,) = ctx.saved_tensors
        return (grads[0].reshape(count.shape) / count).expand(ctx.shape), None, None

    @staticmethod
    def push(ctx: Any, saved: Sequence[Tensor], *tangents: Any) -> Tensor:
        (count,) = saved
        return _apply(_Average, tangents[0], count, ctx.axes)


def _count(loss: Tensor, valid: Tensor | None, axis: Axis) -> Tensor:
    """The number of valid elements over `axis`, at least 1; dimensions are kept."""
    if valid is not None:
        return valid.sum(axis, keepdim=True).clamp(min=1).to(loss.dtype)
    shape = [1 if a in axis else size for a, size in enumerate(loss.shape)]
    return loss.new_full(shape, loss.numel() / math.prod(shape))


def _flat(x: Tensor, axis: Axis) -> Tensor:
    """x with the dimensions `axis` merged into one, the last."""
    kept = tuple(a for a in range(x.ndim) if a not in axis)
    sizes = [x.shape[a] for a in kept]
    length = math.prod([x.shape[a] for a in axis])  # reshape takes no -1 with a size of 0
    return x.permute((*kept, *axis)).reshape(*sizes, length)
