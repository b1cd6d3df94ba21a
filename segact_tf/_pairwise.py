"""Sums added in pairs, because XLA may add one element after the other, and the axes of a sum.

The sum of 10 million equal float32 values is then wrong by 0.6 %. A sum of block sums does not
help: XLA merges it into one such sum. So halves are added along each axis whose length is known;
the backend sums the rest. On TensorFlow the backend also adds short runs of elements, in fewer
loops: first two elements, in the loop that computes them.
"""

import math
from typing import Any

import keras
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
    numbered = tuple(a % rank for a in wanted)
    if len({*numbered}) < len(numbered):
        raise ValueError(f"axis {axis} is twice the same in an input of shape {tuple(x.shape)}")
    return numbered


def sum(x: Any, axis: Axis, keepdims: bool = False) -> Any:
    """The sum over `axis`."""

    def push(arguments: Any, tangents: Any) -> Any:
        return ops.sum(tangents[0], axis=axis, keepdims=keepdims)

    def pull(arguments: Any, upstream: Any) -> Any:
        kept = upstream if keepdims else ops.expand_dims(upstream, axis)
        return _engine.broadcast_to(kept, arguments[0])

    add = _engine.differentiable(lambda x: _add(x, axis, keepdims), push, pull)
    return add(x) if axis else x


def sums(x: Any, y: Any, axis: Axis) -> tuple[Any, Any]:
    """The sums over `axis`, if any, of two tensors of one shape."""
    if not axis or keras.backend.backend() != "jax":
        return sum(x, axis), sum(y, axis)

    def forward(x: Any, y: Any) -> Any:
        first, second = _pairs((x, y), axis)
        return _add(first, axis), _add(second, axis)

    def push(arguments: Any, tangents: Any) -> Any:
        return tuple(ops.sum(t, axis=axis) for t in tangents)

    first, second = _engine.differentiable(forward, push, push)(x, y)
    return first, second


def mean(x: Any, count: Any, axis: Axis) -> Any:
    """The sum over `axis` divided by `count`, also where the sum overflows and the mean does not.

    `count` has the shape of the sum with the summed axes kept, or is one number for all.
    """
    row = _row(x) if len(axis) == len(x.shape) else None
    if row is not None:  # XLA's loops over a last axis of 1 are slow
        return mean(row, ops.reshape(count, (1,) * len(row.shape)), axes(row, None))

    def forward(x: Any, count: Any) -> Any:
        part, length = _shorten(x, axis)
        n = count / length
        total, average = (
            _add(each, axis, keepdims=True) for each in _pairs((part, part / n), axis)
        )
        return ops.squeeze(ops.where(ops.isinf(total), average, total / n), axis)

    def push(arguments: Any, tangents: Any) -> Any:
        return ops.squeeze(ops.sum(tangents[0], axis=axis, keepdims=True) / arguments[1], axis)

    def pull(arguments: Any, upstream: Any) -> tuple[Any, None]:
        x, count = arguments
        return _engine.broadcast_to(ops.expand_dims(upstream, axis) / count, x), None

    return _engine.differentiable(forward, push, pull)(x, count)


def _row(x: Any) -> Any:
    """x as one row, or as a row for each of an unknown number of samples; None if it is that."""
    first, *others = _engine.sizes(x) or (1,)
    if None in others or len(others) < (2 if first is None else 1):
        return None
    length = math.prod(size or 0 for size in others)
    return ops.reshape(x, (-1,) if first is not None else (-1, length))


def _add(x: Any, axis: tuple[int, ...], keepdims: bool = False) -> Any:
    whole = len(axis) == len(x.shape) > 1 and None not in _engine.sizes(x)
    if keras.backend.backend() == "tensorflow" and whole and not keepdims:
        x, axis = ops.reshape(x, (-1,)), (0,)
    for a in axis if keras.backend.backend() != "torch" else ():
        x = _fold(x, a)
    return ops.sum(x, axis=axis, keepdims=keepdims)


def _pairs(values: tuple[Any, ...], axis: Axis) -> tuple[Any, ...]:
    """Tensors of one shape; on JAX with the halves of an axis added, for all in one loop."""
    if keras.backend.backend() == "jax":
        for a in axis:
            size = _engine.sizes(values[0])[a]
            if size and size % 2 == 0:
                return _engine.sums_of_pairs(values, a)
    return values


def _shorten(x: Any, axis: Axis) -> tuple[Any, int]:
    """Means of short runs of elements, by the backend, and the length of the runs; or x, 1.

    If x were added in halves directly, XLA would compute it once for each use.
    """
    if keras.backend.backend() != "tensorflow":
        return _engine.computed_once(x), 1
    half = x / 2
    for a in axis:
        part = _add_runs(half, a, 2)
        if part is not None:
            return part, 2
    return x, 1


def _add_runs(x: Any, axis: int, length: int) -> Any:
    """x with runs of `length` elements of an axis added by the backend; None if that cannot be.

    XLA does not vectorize a loop with more than two additions in a row, unless it has little else.
    """
    sizes = _engine.sizes(x)
    size = sizes[axis] or 1
    if size <= length or size % length or sizes.count(None) > 1:
        return None
    known = [-1 if one is None else one for one in sizes]
    shape = (*known[:axis], length, size // length, *known[axis + 1 :])
    return ops.sum(ops.reshape(x, shape), axis=axis)


def _fold(x: Any, axis: int) -> Any:
    """Adds the halves of x along an axis until its length is 4 or less, if the length is known."""
    if keras.backend.backend() == "tensorflow":
        # what is between the runs has two uses, which keeps XLA from making one loop of both
        for length in (2, 8):
            part = _add_runs(x, axis, length)
            x = x if part is None else _halves(part, axis)
    size = _engine.sizes(x)[axis]
    while size is not None and size > 4:
        x = _halves(x, axis)
        size = (size + 1) // 2
    return x


def _halves(x: Any, axis: int) -> Any:
    """The sum of the halves of x along an axis of known length."""
    before, size = (slice(None),) * axis, _engine.sizes(x)[axis] or 0
    if size % 2:
        x = ops.pad(x, [(0, int(a == axis)) for a in range(len(x.shape))])
    half = (size + 1) // 2
    return x[(*before, slice(0, half))] + x[(*before, slice(half, None))]
