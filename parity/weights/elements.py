"""Where each element of a tensor goes, found by running the operations on numbered elements.

The elements are followed back from the input of a layer, through all operations that only move them
(a permutation, a reshape, a flatten, a concatenation, whatever its name) or compute each from one
element (an activation), to the first operation that computes from several elements, which is called
a source. So the features of a layer are elements of its sources, in Keras and in PyTorch, and both
orders can be compared.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.trace import Trace, Value, consumers

_NO_IMAGE = ("Dense", "Linear", "Embedding", "LayerNormalization", "LayerNorm")
_MOST = 2**24  # float32 represents all integers up to this one


def moves(value: Value) -> Array | None:
    """For each element of a tensor, the number of the only element of its sources (counted one
    source after the other) from which it is computed; None if there is no such element."""
    if value.run is None or not value.sources:
        return None
    shapes = [source.shape for source in value.sources]
    count = sum(map(math.prod, shapes))
    if not 0 < count <= _MOST:
        return None
    order = _scattered(count)
    for dtype in ("int32", "float32"):
        found = _run(value, shapes, np.arange(1, count + 1, dtype=dtype))
        places = None if found is None else _places(found, count)
        if places is None:
            continue
        again = _run(value, shapes, (order + 1).astype(dtype))
        if again is not None and np.array_equal(again, (order + 1)[places]):
            return places
    if shapes != [value.shape]:
        return None
    numbers = np.random.default_rng(0).uniform(0.1, 1.0, count).astype(np.float32)
    pair = _run(value, shapes, numbers), _run(value, shapes, numbers[order])
    if pair[0] is None or pair[1] is None or pair[0].shape != value.shape:
        return None
    alone = np.allclose(pair[0].ravel()[order], pair[1].ravel(), rtol=1e-5, atol=1e-6)
    return _in_order(value.shape) if alone else None


def _in_order(shape: tuple[int, ...]) -> Array:
    """Elements that stay where they are."""
    return _numbers(math.prod(shape)).reshape(shape)


# Tensors of one size follow each other. Only the last is kept: an image has millions of elements.
@lru_cache(maxsize=1)
def _numbers(count: int) -> Array:
    """The numbers below `count`."""
    numbers = np.arange(count, dtype=np.int32)
    numbers.flags.writeable = False
    return numbers


@lru_cache(maxsize=1)
def _scattered(count: int) -> Array:
    """The numbers below `count`, neighbours far apart: no mean of some is the number between them.

    Images have millions of elements, for which a random order takes longer.
    """
    step = next(n for n in range(int(0.618 * count) + 1, 2 * count) if math.gcd(n, count) == 1)
    numbers = (np.arange(count) * step % count).astype(np.int32)
    numbers.flags.writeable = False
    return numbers


def _places(found: Array, count: int) -> Array | None:
    """The places that numbers from 1 to `count` stand for; None if others are among them."""
    if found.size and not (found.min() >= 1 and found.max() <= count):  # NaN is neither
        return None
    places = found.astype(np.int32) - 1
    return places if np.array_equal(places + 1, found) else None


def _run(value: Value, shapes: Sequence[tuple[int, ...]], numbers: Array) -> Array | None:
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = [part.reshape(s) for part, s in zip(np.split(numbers, ends), shapes, strict=True)]
    assert value.run is not None
    try:
        found = np.asarray(value.run(*parts))
    except Exception:  # an operation may refuse integers, or all inputs but its own
        return None
    return found if found.shape == value.shape else None


def keeps_features(value: Value) -> bool:
    """Whether an operation on flat tensors of one shape keeps each feature in its place: if the
    features of all of them are permuted, those of the result are. True of sums, products, a
    softmax."""
    shapes = [source.shape for source in value.sources]
    if value.run is None or len(value.shape) != 2 or value.shape not in shapes:
        return False
    rng = np.random.default_rng(0)
    order = rng.permutation(value.shape[-1])
    given = [rng.uniform(0.1, 1.0, shape).astype(np.float32) for shape in shapes]
    permuted = [one[:, order] if one.shape == value.shape else one for one in given]
    found = []
    for arrays in (given, permuted):
        numbers = np.concatenate([one.ravel() for one in arrays])
        found.append(_run(value, shapes, numbers))
    if found[0] is None or found[1] is None:
        return False
    return np.allclose(found[0][:, order], found[1], rtol=1e-5, atol=1e-6)


class Tracker:
    """Follows the elements of one trace. `passes` says whether a layer with weights keeps each
    feature in its place, as normalizations do. `parts`: a part of an image is a source itself, so
    that a concatenation of parts has them one after the other, as in the other framework."""

    def __init__(self, trace: Trace, passes: Callable[[Any], bool], parts: bool = False) -> None:
        self.trace = trace
        self.passes = passes
        self.parts = parts
        self._moves: dict[int, Array | None] = {}
        self._origin: dict[int, Value] = {}
        self._resolved: dict[int, tuple[list[Value], Array]] = {}
        self._after: dict[int, list[Value]] | None = None

    def moves(self, value: Value) -> Array | None:
        """The function `moves`, but also through layers that keep each feature in its place."""
        if id(value) not in self._moves:
            through = value.layer is not None and self.passes(value.layer)
            if through and value.sources and value.sources[0].shape == value.shape:
                self._moves[id(value)] = _in_order(value.shape)
            else:
                self._moves[id(value)] = None if value.layer is not None else self._moved(value)
        return self._moves[id(value)]

    def _moved(self, value: Value) -> Array | None:
        places = moves(value)
        if places is not None or not keeps_features(value):
            return places
        whole = [source for source in value.sources if source.shape == value.shape]
        if len({self._features(source) for source in whole}) > 1:
            return None
        self._origin[id(value)] = whole[0]  # the features of the others are in the same order
        return _in_order(value.shape)

    def _features(self, value: Value) -> tuple[Any, ...]:
        """What is equal for two flat tensors whose features are in the same order."""
        sources, elements = self.resolved(value)
        known = [(one.shape, self.layout_of(one)) for one in sources]
        return *known, elements.tobytes()

    def resolved(self, value: Value) -> tuple[list[Value], Array]:
        """The sources of a tensor's elements, and the number of each element in them, counted one
        source after the other."""
        if id(value) not in self._resolved:
            places = self.moves(value)
            if places is None or (self.parts and _is_part(value, places)):
                self._resolved[id(value)] = [value], _in_order(value.shape)
            else:
                sources = value.sources[:1] if value.layer is not None else value.sources
                if id(value) in self._origin:
                    sources = [self._origin[id(value)]]
                self._resolved[id(value)] = _joined([self.resolved(s) for s in sources], places)
        return self._resolved[id(value)]

    def image_after(self, value: Value) -> tuple[Value, Value] | None:
        """The image (three or more axes) into which a flat tensor is reshaped before it is used in
        a computation, and the result of that (the image itself if it is an output)."""
        waiting = [value]
        while waiting:
            one = waiting.pop(0)
            for then in self.behind(one):
                places = self.moves(then)
                if len(one.shape) > 2 and (places is None or then.layer is not None):
                    return one, then
                if places is not None and math.prod(then.shape) == math.prod(value.shape):
                    waiting.append(then)
            if not self.behind(one) and len(one.shape) > 2:
                return one, one
        return None

    def layout_of(self, value: Value) -> str:
        """The layout of an image, channels_first or channels_last, from the nearest operation that
        has one; "" if there is none."""
        while not value.layout:
            if not value.sources or value.operation in _NO_IMAGE:
                return ""
            before, places = value.sources[0], self.moves(value)
            if len(before.shape) != len(value.shape):
                return ""
            part = places is not None and self.parts and _is_part(value, places)
            in_order = places is None or np.array_equal(places.ravel(), np.arange(places.size))
            if not (in_order or part):
                return ""
            value = before
        return value.layout

    def behind(self, value: Value) -> list[Value]:
        """The tensors that are computed from a tensor."""
        if self._after is None:
            self._after = consumers(self.trace)
        return self._after.get(id(value), [])


def _is_part(value: Value, places: Array) -> bool:
    """Whether a tensor is a part of one image, with its axes: each index depends on the place along
    its own axis alone."""
    shape = value.sources[0].shape
    if len(value.sources) > 1 or len(shape) != len(value.shape) or len(shape) < 3:
        return False
    if places.size >= math.prod(shape):
        return False
    own = np.unravel_index(places, shape)
    return all(
        np.all(np.moveaxis(one, axis, -1) == _along(one, axis)) for axis, one in enumerate(own)
    )


def _along(index: Array, axis: int) -> Array:
    """An index along an axis, at the first place of the others."""
    return np.moveaxis(index, axis, -1)[(0,) * (index.ndim - 1)]


def _joined(parts: list[tuple[list[Value], Array]], places: Array) -> tuple[list[Value], Array]:
    """Elements of several resolved tensors, numbered in all their sources together."""
    sources: list[Value] = []
    starts: dict[int, int] = {}
    total, flat = 0, []
    for own, elements in parts:
        for source in own:
            if id(source) not in starts:
                starts[id(source)] = total
                sources.append(source)
                total += math.prod(source.shape)
        ends = np.cumsum([math.prod(source.shape) for source in own])
        shifts = [starts[id(source)] for source in own] - np.array([0, *ends[:-1]])
        shifts = shifts.astype(np.int32 if total < 2**31 else np.int64)
        ravelled = elements.ravel()
        alike = np.all(shifts == shifts[0])
        shift = shifts[0] if alike else shifts[np.searchsorted(ends, ravelled, side="right")]
        flat.append(ravelled + shift if np.any(shift) else ravelled)
    joined = flat[0] if len(flat) == 1 else np.concatenate(flat)
    # the same memory where nothing moves, as in activations
    stays = places.size == joined.size and np.array_equal(places, _in_order(places.shape))
    return sources, joined.reshape(places.shape) if stays else joined[places]
