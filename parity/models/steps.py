"""One call of a pair of layers, with its inputs and outputs in Keras's layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.models.capture import Call
from parity.models.closeness import agree
from parity.weights.flatten import image_order, permutation
from parity.weights.keras_layers import kind_of_layer
from parity.weights.layer import Layer
from parity.weights.match import OVER_AXES
from parity.weights.orders import BY_CHANNEL
from parity.weights.padding import same_padding
from parity.weights.pytorch_layers import kind_of_module

Pads = list[tuple[int, int]]
Calls = tuple[list[Call], list[Call]]
Both = tuple[Array, Array]

_CHANNELS_FIRST = ("conv", "conv_transpose", *BY_CHANNEL)
"""The kinds that take images with channels first in PyTorch."""

_BEHIND = 12  # calls after a layer, among which its activation is searched
_PLACES = 64  # ways to cut padding off, to be tried


@dataclass
class Step:
    """One call of a pair of layers: both inputs and both outputs, PyTorch's in Keras's layout.

    `place`: the numbers of the two calls among all calls of their models. `orders`: whether the
    features of the inputs, and of the outputs, are in PyTorch's order of a flattened image.
    `padded`: the padding that a function added to either input before the layer, by axis; `inputs`
    are without it. `ends`: the outputs, each in its own layout. If one layer has a forward of its
    own (`own_forward`), the outputs are those of both sides that agree, such as both after the
    activation; `whole`: they are the result of this forward, not only that of its kind.
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
        """Whether one of the two layers has a forward of its own."""
        return any(call.own_forward for call in self.calls)

    @property
    def likelihood(self) -> tuple[bool, bool]:
        """The key to choose outputs by: first those that agree, then those of one shape."""
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
        outputs, _ = _without_excess(outputs, pair, "output")
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
    """The arrays that may be the output of a call, the likeliest first, each with whether it is the
    whole result of the layer's forward.

    First the output of its kind. A forward of the layer's own may include an activation, which is a
    separate layer in the other model. So if one of the two layers has its own forward, the result
    of the call is next; if the other one has, the results of the next layers without weights, too.
    """
    call = calls[place]
    assert call.output is not None  # else there is no step
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
    """Both arrays in Keras's layout, and whether the features are in PyTorch's order."""
    keras = _without_padding(ends[0], pair[0], pair[0], side)
    choices = [
        (_without_padding(array, *pair, side), first)
        for array, first in _in_keras_layout(ends[1], pair, order, own_forward)
    ]
    fitting = [c for c in choices if c[0].shape == keras.shape] or choices
    pytorch, first = next((c for c in fitting if agree(keras, c[0])), fitting[0])
    return (keras, pytorch), first


def _in_keras_layout(
    array: Array, pair: tuple[Layer, Layer], order: Any, own_forward: bool
) -> Iterator[tuple[Array, bool]]:
    """PyTorch's array in Keras's layout, all possibilities, the likeliest first, and whether its
    features are in PyTorch's order of a flattened image. A forward of its own may permute; a PReLU
    of one slope and a normalization of all axes take any layout."""
    if order is not None and array.ndim == 2:
        places = permutation(order)
        if len(places) == array.shape[1]:
            yield array[:, places], True
    moved = np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim > 2 else array
    first = array.ndim > 2 and _is_moved(pair, array.ndim)
    yield (moved if first else array), False
    over_axes = pair[0].kind in OVER_AXES and len(pair[0].handle.axis) > 1
    if array.ndim > 2 and (own_forward or over_axes or pair[0].kind == "prelu"):
        yield (array if first else moved), False


def _without_padding(array: Array, keras: Layer, layer: Layer, side: str) -> Array:
    """The array without the padding of a layer before a convolution, or the border that a cropping
    layer after a transposed one will cut."""
    if side != {"conv": "input", "conv_transpose": "output"}.get(layer.kind):
        return array
    added = layer.settings["added"]
    if any(number < 0 for pair in added for number in pair):
        return array
    return _cut(array, added, first_axis(keras, array.ndim))


def _cut(array: Array, pads: Pads, first: int) -> Array:
    """The array without `pads` elements at both ends of the axes from `first` on."""
    sizes = array.shape[first : first + len(pads)]
    kept = (slice(a, size - b) for (a, b), size in zip(pads, sizes, strict=True))
    return array[(slice(None),) * first + tuple(kept)]


def first_axis(keras: Layer, rank: int) -> int:
    """The first spatial axis of an image in the layout of this Keras layer."""
    return 1 if _channels_last(keras, rank) else 2


def _channels_last(keras: Layer, rank: int) -> bool:
    """Whether the channels are the last axis of this Keras layer's images."""
    if keras.kind in ("conv", "conv_transpose"):
        return bool(keras.handle.data_format == "channels_last")
    return keras.kind == "prelu" or keras.handle.axis in (-1, rank - 1)


def _is_moved(pair: tuple[Layer, Layer], rank: int) -> bool:
    """Whether PyTorch's layer takes channels first and Keras's channels last."""
    keras, pytorch = pair
    if keras.kind == "dense":  # perhaps a convolution of one pixel
        return kind_of_module(pytorch.handle) == "conv" and kind_of_layer(keras.handle) == "dense"
    return keras.kind in _CHANNELS_FIRST and _channels_last(keras, rank)


# Padding by functions


def _inputs(
    pair: tuple[Layer, Layer], calls: tuple[Call, Call], order: Any
) -> tuple[Both, bool, tuple[Pads, Pads]]:
    """Both inputs, without the padding that only one of them has."""
    assert calls[0].input is not None  # else there is no step
    assert calls[1].input is not None
    ends = calls[0].input, calls[1].input
    arrays, first = _aligned(ends, pair, order, "input", calls[1].own_forward)
    inner, padded = _without_excess(arrays, pair, "input")
    return inner, first, padded


def _without_excess(
    arrays: Both, pair: tuple[Layer, Layer], side: str
) -> tuple[Both, tuple[Pads, Pads]]:
    """Both arrays without the padding that a function added to one input of a convolution, or will
    crop from one output of a transposed one; and this padding."""
    keras = pair[0]
    if side != {"conv": "input", "conv_transpose": "output"}.get(keras.kind):
        return arrays, ([], [])
    if arrays[0].shape == arrays[1].shape or arrays[0].ndim != arrays[1].ndim:
        return arrays, ([], [])
    start = first_axis(keras, arrays[0].ndim)
    zeros = side == "input" and pair[1].settings["padding_mode"] == "zeros"
    likeliest = None
    for pads in islice(_excesses(arrays, start, len(keras.settings["size"]), zeros), _PLACES):
        inner = _cut(arrays[0], pads[0], start), _cut(arrays[1], pads[1], start)
        if agree(*inner):
            return inner, pads
        likeliest = likeliest or (inner, pads)
    return likeliest or (arrays, ([], []))


def _excesses(arrays: Both, start: int, rank: int, zeros: bool) -> Iterator[tuple[Pads, Pads]]:
    """The padding, before and after, that each array may have more than the other, by spatial axis.

    `zeros`: the padding must be 0 (not, for example, a reflection).
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
    """The ways to split `total` into before and after, that of Keras's `same` first."""
    first = same_padding(1, total + 1)
    return sorted(
        ((before, total - before) for before in range(total + 1)), key=lambda pair: pair != first
    )


def _is_zero_outside(array: Array, axis: int, pads: tuple[int, int]) -> bool:
    moved = np.moveaxis(array, axis, 0)
    before, behind = moved[: pads[0]], moved[len(moved) - pads[1] :]
    return not (np.any(before) or np.any(behind))
