"""One call of a pair of layers, with what both took and gave in Keras's layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.models.capture import Call
from parity.models.closeness import agree
from parity.weights.flatten import image_order, permutation
from parity.weights.layer import Layer
from parity.weights.padding import same_padding

Pads = list[tuple[int, int]]
Calls = tuple[list[Call], list[Call]]
Both = tuple[Array, Array]

_BEHIND = 12  # calls behind a layer, among which its activation is looked for
_PLACES = 64  # ways to cut padding off that are tried


@dataclass
class Step:
    """One call of a pair of layers: both inputs and both outputs, PyTorch's in Keras's layout.

    `place` is where the two calls stand among all of theirs; `orders` says for the features of the
    inputs and of the outputs whether PyTorch has its own order of a flattened image. `padded` is
    what a function has padded to either input before the layer got it, by axis; the inputs are
    without it. `ends`: the outputs, each in its own layout. Where the layer of a side has a forward
    of its own (`own_forward`), the outputs are those of both sides that agree, such as both behind
    the activation; `whole`: they are all that this forward does, not what its kind does alone.
    """

    number: int
    pair: tuple[Layer, Layer]
    calls: tuple[Call, Call]
    place: tuple[int, int]
    inputs: Both
    outputs: Both
    orders: tuple[bool, bool]
    padded: tuple[Pads, Pads]
    ends: Both
    agrees: bool
    whole: bool

    @property
    def names(self) -> tuple[str, str]:
        """Framework and name of both."""
        return f"Keras {self.pair[0].name}", f"PyTorch {self.pair[1].name}"

    @property
    def own_forward(self) -> bool:
        """Whether the layer of a side has a forward of its own."""
        return any(call.own_forward for call in self.calls)

    @property
    def likelihood(self) -> tuple[bool, bool]:
        """To choose among outputs by: those that agree, or else of one shape."""
        return self.agrees, self.outputs[0].shape == self.outputs[1].shape


def make_step(number: int, pair: tuple[Layer, Layer], place: tuple[int, int], calls: Calls) -> Step:
    """The step of the calls at `place`, with PyTorch's arrays in Keras's layout: the one that
    agrees, or the likeliest."""
    both = calls[0][place[0]], calls[1][place[1]]
    orders = orders_of_features(pair[0])
    inputs, taken, padded = _inputs(pair, both, orders[0])
    views = [
        _outputs(calls[side], place[side], other.own_forward)
        for side, other in ((0, both[1]), (1, both[0]))
    ]
    likeliest = None
    for (keras, whole), (pytorch, other_whole) in product(*views):
        ends = keras, pytorch
        outputs, given = _aligned(ends, pair, orders[1], "output", both[1].own_forward)
        outputs, _ = _without_excess(outputs, pair[0], "output")
        found = Step(
            number=number,
            pair=pair,
            calls=both,
            place=place,
            inputs=inputs,
            outputs=outputs,
            orders=(taken, given),
            padded=padded,
            ends=ends,
            agrees=agree(*outputs),
            whole=whole and other_whole,
        )
        if found.agrees and found.whole:
            return found
        if likeliest is None or found.likelihood > likeliest.likelihood:
            likeliest = found
    assert likeliest is not None  # every layer has an output
    return likeliest


def _outputs(calls: list[Call], place: int, other_is_own: bool) -> list[tuple[Array, bool]]:
    """What the output of a call may be, the likeliest first, and whether it is all that a forward
    of its own does.

    What its kind gives; where one of the two sides has a forward of its own, which may do what the
    other leaves to an activation: what the call returned, and where it is the other side that has
    one, what the next layers without weights returned.
    """
    call = calls[place]
    assert call.output is not None  # or there were no step
    found = [(call.output, not call.own_forward)]
    if (call.own_forward or other_is_own) and call.result is not None:
        found.append((call.result, True))
    if other_is_own:
        behind = (one for one in calls[place + 1 :] if one.input is None)
        results = (one.result for one in islice(behind, _BEHIND))
        fitting = (one for one in results if one is not None and one.size == call.output.size)
        found += [(one, True) for one in fitting]
    return found


def orders_of_features(layer: Layer) -> tuple[Any, Any]:
    """The orders of the features in and out of a Keras layer, as far as they are known."""
    rows = layer.rows or (image_order(layer.unsure, "channels_last") if layer.unsure else None)
    return rows, layer.columns if layer.kind == "dense" else rows


# Layouts


def _aligned(
    ends: Both, pair: tuple[Layer, Layer], order: Any, side: str, own_forward: bool
) -> tuple[Both, bool]:
    """Both arrays in Keras's layout, and whether PyTorch's features are in their own order."""
    keras = _without_padding(ends[0], pair[0], pair[0], side)
    choices = [
        (_without_padding(array, *pair, side), first)
        for array, first in _in_keras_layout(ends[1], pair[0], order, own_forward)
    ]
    pytorch, first = next((c for c in choices if agree(keras, c[0])), choices[0])
    return (keras, pytorch), first


def _in_keras_layout(
    array: Array, keras: Layer, order: Any, own_forward: bool
) -> Iterator[tuple[Array, bool]]:
    """What PyTorch's array may be in Keras's layout, the likeliest first, and whether its features
    are in PyTorch's order of a flattened image. A forward of its own may permute."""
    if order is not None and array.ndim == 2:
        places = permutation(order)
        if len(places) == array.shape[1]:
            yield array[:, places], True
    moved = np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim > 2 else array
    first = array.ndim > 2 and _channels_last(keras, array.ndim)
    yield (moved if first else array), False
    if array.ndim > 2 and own_forward:
        yield (array if first else moved), False


def _without_padding(array: Array, keras: Layer, layer: Layer, side: str) -> Array:
    """Without what a layer of padding before a convolution adds, or one behind will cut."""
    if side != {"conv": "input", "conv_transpose": "output"}.get(layer.kind):
        return array
    added = layer.settings["added"]
    if any(number < 0 for pair in added for number in pair):
        return array
    return _cut(array, added, first_axis(keras, array.ndim))


def _cut(array: Array, pads: Pads, first: int) -> Array:
    """Without so many at both ends of the axes from the first on."""
    sizes = array.shape[first : first + len(pads)]
    kept = (slice(a, size - b) for (a, b), size in zip(pads, sizes, strict=True))
    return array[(slice(None),) * first + tuple(kept)]


def first_axis(keras: Layer, rank: int) -> int:
    """The first axis of space of an image in the layout of this Keras layer."""
    return 1 if _channels_last(keras, rank) else 2


def _channels_last(keras: Layer, rank: int) -> bool:
    """Whether PyTorch's channels come earlier than this Keras layer's."""
    if keras.kind in ("conv", "conv_transpose"):
        return bool(keras.handle.data_format == "channels_last")
    return keras.kind == "batch_normalization" and keras.handle.axis in (-1, rank - 1)


# Padding by functions


def _inputs(
    pair: tuple[Layer, Layer], calls: tuple[Call, Call], order: Any
) -> tuple[Both, bool, tuple[Pads, Pads]]:
    """Both inputs, without what one of them has been padded with more than the other."""
    assert calls[0].input is not None  # or there were no step
    assert calls[1].input is not None
    ends = calls[0].input, calls[1].input
    arrays, first = _aligned(ends, pair, order, "input", calls[1].own_forward)
    inner, padded = _without_excess(arrays, pair[0], "input")
    return inner, first, padded


def _without_excess(arrays: Both, keras: Layer, side: str) -> tuple[Both, tuple[Pads, Pads]]:
    """Both arrays without what a function has padded to one input of a convolution, or will crop
    from one output of a transposed one; and how much that is."""
    if side != {"conv": "input", "conv_transpose": "output"}.get(keras.kind):
        return arrays, ([], [])
    if arrays[0].shape == arrays[1].shape or arrays[0].ndim != arrays[1].ndim:
        return arrays, ([], [])
    start = first_axis(keras, arrays[0].ndim)
    zeros = side == "input"
    likeliest = None
    for pads in islice(_excesses(arrays, start, len(keras.settings["size"]), zeros), _PLACES):
        inner = _cut(arrays[0], pads[0], start), _cut(arrays[1], pads[1], start)
        if agree(*inner):
            return inner, pads
        likeliest = likeliest or (inner, pads)
    return likeliest or (arrays, ([], []))


def _excesses(arrays: Both, start: int, rank: int, zeros: bool) -> Iterator[tuple[Pads, Pads]]:
    """How much each array may have more than the other, before and behind, by axis of space.

    `zeros`: all that it has more is 0.
    """
    shapes = [array.shape for array in arrays]
    outer = [shape[:start] + shape[start + rank :] for shape in shapes]
    if outer[0] != outer[1]:
        return
    choices = []
    for axis in range(start, start + rank):
        more = shapes[1][axis] - shapes[0][axis]
        side = 1 if more > 0 else 0
        splits = _splits(abs(more))
        fitting = [p for p in splits if not zeros or _is_zero_outside(arrays[side], axis, p)]
        choices.append([((0, 0), p) if side else (p, (0, 0)) for p in fitting])
    for chosen in product(*choices):
        yield [keras for keras, _ in chosen], [pytorch for _, pytorch in chosen]


def _splits(total: int) -> list[tuple[int, int]]:
    """So many before and behind, that of Keras's `same` first."""
    first = same_padding(1, total + 1)
    return sorted(
        ((before, total - before) for before in range(total + 1)), key=lambda pair: pair != first
    )


def _is_zero_outside(array: Array, axis: int, pads: tuple[int, int]) -> bool:
    moved = np.moveaxis(array, axis, 0)
    before, behind = moved[: pads[0]], moved[len(moved) - pads[1] :]
    return not (np.any(before) or np.any(behind))
