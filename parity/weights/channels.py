"""The order of the output channels of a layer, where an operation makes places of channels.

`depth_to_space` of Keras takes the channels of a convolution as (block, block, channels),
`nn.PixelShuffle` as (channels, block, block). So the channels that the next layer, or the output of
the model, gets at each place are compared in both frameworks.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.elements import Tracker
from parity.weights.flatten import PASSING
from parity.weights.layer import KERAS
from parity.weights.match import Pairs
from parity.weights.trace import Trace, Value, feeders

Taken = tuple[Value, str, Value | None, str]


class Mixed(Exception):
    """Why the output channels of a layer have no order in which the two frameworks agree."""


class Channels:
    """The orders of the output channels in one call of a Keras and a PyTorch model: by the layer of
    Keras, the place of each of its channels in PyTorch's order. Without a trace of the PyTorch
    model it assumes that this makes places of channels as `nn.PixelShuffle` does."""

    def __init__(self, pairs: Pairs, traces: tuple[Trace, Trace | None], sides: list[Tracker]):
        self.sides = sides
        both = [(pair if pair[0].framework == KERAS else pair[::-1]) for pair in pairs]
        self.partner = {id(keras.handle): pytorch.handle for keras, pytorch in both}
        self.found: dict[int, Array] = {}
        self.mixed: dict[int, str] = {}
        seen: set[tuple[int, int]] = set()
        waiting = list(self._taken(both, *traces))
        while waiting:
            one = waiting.pop()
            if (id(one[0]), id(one[2])) not in seen:
                seen.add((id(one[0]), id(one[2])))
                waiting += self._compared(*one)

    def of(self, value: Value) -> Array | None:
        """The order of the channels of a layer's output; None if both have the same. Raises
        `Mixed`."""
        if id(value.layer) in self.mixed:
            raise Mixed(self.mixed[id(value.layer)])
        order = self.found.get(id(value.layer))
        if order is None or np.array_equal(order[order >= 0], np.flatnonzero(order >= 0)):
            return None
        if set(order) != set(range(order.size)):
            raise Mixed("only some of the channels are in another order")
        return order

    def _taken(self, both: Pairs, keras: Trace, pytorch: Trace | None) -> Iterator[Taken]:
        """The tensors that layers take, and the outputs of the models, with their layouts."""
        for mine, theirs in both:
            if mine.kind in PASSING:
                continue
            calls = keras.of(mine.handle)
            others = pytorch.of(theirs.handle) if pytorch else [None] * len(calls)
            for call, other in zip(calls, others, strict=False):
                given = [
                    one and (one.given or next(iter(one.sources), None)) for one in (call, other)
                ]
                if given[0] is not None and (pytorch is None or given[1] is not None):
                    yield given[0], call.layout, given[1], other.layout if other else ""
        outputs: list[Any] = pytorch.outputs if pytorch else [None] * len(keras.outputs)
        if len(outputs) == len(keras.outputs):
            first = any(call.layout == "channels_first" for call in keras.calls)
            for made, its in zip(keras.outputs, outputs, strict=True):
                yield made, "channels_first" if first else "", its, "channels_first"

    def _compared(self, mine: Value, layout: str, theirs: Value | None, other: str) -> list[Taken]:
        """Compares the channels of two tensors; returns the tensors from which they are computed,
        where no layer makes them."""
        if len(mine.shape) < 3:
            return []
        sources, elements = self.sides[0].resolved(mine)
        of = [one for each in sources if each.layer is None for one in each.sources]
        inner: list[tuple[Value, Value | None]] = [(one, None) for one in of]
        stays = _stays(sources, elements)
        elements = channels_at_end(elements, layout)
        if theirs is not None:
            origins, others = self.sides[1].resolved(theirs)
            if len(theirs.shape) != len(mine.shape):
                return []
            inner = [
                both
                for one, its in zip(sources, origins, strict=False)
                if one.layer is None and its.layer is None and len(one.sources) == len(its.sources)
                for both in zip(one.sources, its.sources, strict=True)
            ]
            stays = stays and _stays(origins, others)
        if stays:  # as between most layers; images have millions of elements
            order = np.arange(sources[0].shape[self.axis(sources[0], 0)])
            self._note(sources[0], order, order)
        elif theirs is None:
            for source, numbers in _numbers(sources, elements):
                self._presume(source, numbers)
        else:
            for first in dict.fromkeys((other, "")):
                moved = channels_at_end(others, first)
                if moved.shape == elements.shape and self._agree(sources, elements, origins, moved):
                    break
        return [(a, layout, b, other) for a, b in inner if len(a.shape) == len(mine.shape)]

    def _agree(
        self, sources: list[Value], elements: Array, origins: list[Value], others: Array
    ) -> bool:
        """Whether two tensors are the same places of the same sources, whose channels are noted."""
        left = list(_numbers(origins, others))
        agree = False
        for source, numbers in _numbers(sources, elements):
            partner = self.partner.get(id(source.layer))
            fitting = [
                n
                for n, (one, _) in enumerate(left)
                if one.layer is partner and math.prod(one.shape) == math.prod(source.shape)
            ]
            if not fitting:
                continue
            there = left.pop(fitting[0])
            places, channels = split(source, numbers, self.axis(source, 0))
            places_there, channels_there = split(*there, self.axis(there[0], 1))
            if np.array_equal(places, places_there):
                agree = True
                known = places >= 0
                self._note(source, channels[known], channels_there[known])
        return agree

    def _presume(self, source: Value, numbers: Array) -> None:
        """Notes the order of PyTorch's channels: that of the places to which they go, channels
        first."""
        places, channels = split(source, numbers, self.axis(source, 0))
        rows = channels.reshape(-1, channels.shape[-1])
        if np.all(rows == rows[0]):  # the same channels at each place
            order = np.unique(rows[0][rows[0] >= 0])
            self._note(source, order, order)
            return
        found = np.moveaxis(channels, -1, 1)[np.moveaxis(places, -1, 1) == 0]
        order = found[np.sort(np.unique(found, return_index=True)[1])]
        self._note(source, order, np.arange(order.size))

    def _note(self, source: Value, channels: Array, there: Array) -> None:
        count = source.shape[self.axis(source, 0)]
        if there.size and there.max() >= count:
            return
        order = np.full(count, -1)
        order[channels] = there
        several = not np.array_equal(order[channels], there)
        if source.layer is None:
            if several or np.any(channels != there):
                why = "other operations compute with them before"
                layers = [one for _, one in feeders(source, []) if one is not None]
                self.mixed.update({id(layer): why for layer in layers})
            return
        before = self.found.setdefault(id(source.layer), order)
        if several or np.any((before != order)[(before >= 0) & (order >= 0)]):
            self.mixed[id(source.layer)] = "they are used in several orders"
        self.found[id(source.layer)] = np.where(order >= 0, order, before)

    def axis(self, source: Value, side: int) -> int:
        """The axis of the channels."""
        first = self.sides[side].layout_of(source) == "channels_first"
        return 1 if first else len(source.shape) - 1


def _numbers(sources: list[Value], elements: Array) -> Iterator[tuple[Value, Array]]:
    """For each source the numbers of its elements in it; -1 for the elements of others."""
    start = 0
    for source in sources:
        end = start + math.prod(source.shape)
        if len(source.shape) > 2:
            within = (elements >= start) & (elements < end)
            yield source, np.where(within, elements - start, -1)
        start = end


def _stays(sources: list[Value], elements: Array) -> bool:
    """Whether a tensor is one source, unchanged."""
    alone = len(sources) == 1 and sources[0].shape == elements.shape
    return alone and np.array_equal(elements.ravel(), np.arange(elements.size))


def split(value: Value, numbers: Array, axis: int) -> tuple[Array, Array]:
    """The places of elements in an image (with the sample), and their channels; -1 for -1."""
    inner, count = math.prod(value.shape[axis + 1 :]), value.shape[axis]
    places = numbers // (inner * count) * inner + numbers % inner
    channels = numbers // inner % count
    outside = numbers < 0
    return np.where(outside, -1, places), np.where(outside, -1, channels)


def channels_at_end(elements: Array, layout: str) -> Array:
    """The elements that a layer of this layout gets, with its input features as the last axis."""
    return np.moveaxis(elements, 1, -1) if layout == "channels_first" else elements
