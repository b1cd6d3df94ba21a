"""Sums, counts and extremes over the replicas of a strategy of TensorFlow.

Each replica has a part of the batch, and every replica computes the loss of the whole batch: each
sum over the parts goes through `all_reduce` before it is used. The gradient of such a sum is the
sum of the upstream gradients of all replicas, by the same exchange. The losses and the gradients of
the replicas are added up: Keras divides by the number of replicas, and so has a custom loop to do.

Sums are sent in float64. Without other replicas these functions return their arguments; so they do
on JAX, where a compiled loss is that of the whole batch for any distribution over devices.
"""

from typing import Any

from keras import ops

from segact_tf import _engine, _special
from segact_tf._derivatives import _weigh


def group_of() -> Any:
    """This replica, if others have the other parts of the batch, or None."""
    return _engine.replica()


def all_reduce(group: Any, *sums: Any) -> tuple[Any, ...]:
    """Each of these tensors of one shape summed over the replicas, in one exchange."""
    if group is None:
        return sums
    stacked = ops.stack([_special.double(each) for each in sums])
    reduced = _exchanged(stacked, group)
    return tuple(ops.cast(reduced[i], own.dtype) for i, own in enumerate(sums))


def all_mean(group: Any, mean: Any, count: Any) -> Any:
    """The mean over all replicas, from each one's mean of `count` elements; 0 if there are none.

    The mean is sent, not the sum, which may overflow where the mean does not.
    """
    if group is None:
        return mean
    (of_all,) = all_reduce(group, count)
    part = count / _special.at_least(of_all, 1.0)
    # the mean of no elements is NaN
    (mean_of_all,) = all_reduce(group, _weigh(ops.cast(part, mean.dtype), mean))
    return mean_of_all


def all_extremes(group: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """The smallest minimum and the largest maximum of all replicas, as constants."""
    if group is None:
        return low, high
    # Replicas can exchange only sums: each has a row of its own, with zeros from the others.
    own = ops.stop_gradient(ops.stack((low, -high)))[None]
    rows = ops.arange(group.num_replicas_in_sync)
    rows = ops.reshape(rows, (-1, *[1] * (len(own.shape) - 1)))
    mine = rows == ops.cast(group.replica_id_in_sync_group, rows.dtype)
    spread = _exchanged(_special.where(ops.logical_not(mine), 0.0, own), group)
    low, minus_high = ops.unstack(ops.stop_gradient(ops.min(spread, axis=0)), 2)
    return low, -minus_high


def _exchanged(x: Any, group: Any) -> Any:
    """The sum over all replicas, on each; its gradient is the sum of the gradients."""
    return group.all_reduce("SUM", x)
