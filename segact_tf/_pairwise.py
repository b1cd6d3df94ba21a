"""Sums added in pairs, because XLA may add one element after the other, and the axes of a sum.

10 million equal float32 values then sum to something off by 0.6 %. A sum of block sums is no help:
XLA merges it into one such sum. Halves are added along each axis whose length is known; what is
left is summed by the backend.
"""

from typing import Any

from keras import ops

from segact_tf import _engine

Axis = tuple[int, ...]


def axes(x: Any, axis: int | Axis | None) -> Axis:
    """An axis, several, or None for all, as a tuple of numbers from 0."""
    rank = len(x.shape)
    if axis is None:
        return tuple(range(rank))
    wanted = (axis,) if isinstance(axis, int) else tuple(axis)
    if any(not -rank <= a < rank for a in wanted):
        raise ValueError(f"axis {axis} is out of range for an input of shape {tuple(x.shape)}")
    return tuple(a % rank for a in wanted)


def sum(x: Any, axis: Axis, keepdims: bool = False) -> Any:
    """The sum over `axis`."""

    def push(arguments: Any, tangents: Any) -> Any:
        return ops.sum(tangents[0], axis=axis, keepdims=keepdims)

    def pull(arguments: Any, upstream: Any) -> Any:
        kept = upstream if keepdims else ops.expand_dims(upstream, axis)
        return ops.broadcast_to(kept, ops.shape(arguments[0]))

    add = _engine.differentiable(lambda x: _add(x, axis, keepdims), push, pull)
    return add(x) if axis else x


def mean(x: Any, count: Any, axis: Axis) -> Any:
    """The sum over `axis` divided by `count`, also where the sum overflows and the mean does not.

    `count` has the shape of the sum with the summed axes kept, or is one number for all.
    """

    def forward(x: Any, count: Any) -> Any:
        part, length = _shorten(x, axis)
        total, n = _add(part, axis, keepdims=True), count / length
        average = ops.where(ops.isinf(total), _add(part / n, axis, keepdims=True), total / n)
        return ops.squeeze(average, axis)

    def push(arguments: Any, tangents: Any) -> Any:
        return ops.squeeze(ops.sum(tangents[0], axis=axis, keepdims=True) / arguments[1], axis)

    def pull(arguments: Any, upstream: Any) -> tuple[Any, None]:
        x, count = arguments
        return ops.broadcast_to(ops.expand_dims(upstream, axis) / count, ops.shape(x)), None

    return _engine.differentiable(forward, push, pull)(x, count)


def _add(x: Any, axis: tuple[int, ...], keepdims: bool = False) -> Any:
    for a in axis:
        x = _fold(x, a)
    return ops.sum(x, axis=axis, keepdims=keepdims)


def _shorten(x: Any, axis: tuple[int, ...]) -> tuple[Any, int]:
    """The mean over one axis by the backend, and its length, if one of several is short; else x, 1.

    What is used twice, or added in halves at once, XLA would compute as often as that.
    """
    sizes = _engine.sizes(x)
    short = [(a, size) for a in axis if (size := sizes[a]) is not None and 1 < size <= 32]
    if not short or len(axis) == 1:
        return x, 1
    a, length = short[0]
    return ops.sum(x / length, axis=a, keepdims=True), length


def _fold(x: Any, axis: int) -> Any:
    """Halves of x added along an axis until it is of length 4 or less, if the length is known."""
    before = (slice(None),) * axis
    while (size := _engine.sizes(x)[axis]) is not None and size > 4:
        if size % 2:
            x = ops.pad(x, [(0, int(a == axis)) for a in range(len(x.shape))])
        half = (size + 1) // 2
        x = x[(*before, slice(0, half))] + x[(*before, slice(half, None))]
    return x
