"""The order of the features of a pair of layers, found by following elements.

An order is an array: the place of each of Keras's features in PyTorch's order; None if both have
the same order.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.channels import Channels, Mixed, channels_at_end, split
from parity.weights.elements import Tracker
from parity.weights.flatten import PASSING
from parity.weights.layer import Layer, WeightsError
from parity.weights.match import Pairs
from parity.weights.trace import Trace, Value

RECURRENT = ("lstm", "gru", "simple_rnn")
_WITH_ROWS = ("dense", *RECURRENT)
FLAT_KINDS = (*_WITH_ROWS, *PASSING)
BY_CHANNEL = ("batch_normalization", "group_normalization", "prelu")
"""The kinds whose arrays are those of an image's channels, if they get an image."""

_CONVOLUTIONS = ("conv", "conv_transpose")
ORDERED = (*FLAT_KINDS, *_CONVOLUTIONS)
"""The kinds whose output features can be reordered."""
_IMAGES = ("channels_first", "channels_last")
Orders = tuple[Array | None, Array | None]


class Unclear(Exception):
    """Why the order of some features cannot be known."""


@dataclass
class Finder:
    """Finds the orders of the pairs of a Keras and a PyTorch model. Without a trace of the PyTorch
    model it assumes that this flattens, with channels first, what the Keras model flattens."""

    pairs: Pairs
    keras: Trace
    pytorch: Trace | None
    sides: list[Tracker] = field(default_factory=list)

    def __post_init__(self) -> None:
        kinds = {id(one.handle): one.kind for both in self.pairs for one in both}

        def passes(layer: Any) -> bool:
            return kinds.get(id(layer)) in PASSING

        traces = [one for one in (self.keras, self.pytorch) if one]
        self.sides = [Tracker(one, passes, parts=len(traces) == 1) for one in traces]
        self.channels = Channels(self.pairs, (self.keras, self.pytorch), self.sides)

    def of(self, keras: Layer, pytorch: Layer, is_named: bool = False) -> Orders:
        """The orders of the rows and columns, or of the features of a normalization.

        `is_named`: the order of the rows is known from elsewhere, and not searched for. Raises
        `WeightsError` if they cannot be known, or if weights of this kind cannot be reordered.
        """
        calls = self.keras.of(keras.handle)
        others = self.pytorch.of(pytorch.handle) if self.pytorch else []
        if not calls or (self.pytorch and not others):
            return None, None
        if keras.kind == "parameter" and self._scales_an_image(calls[0]):
            raise _cannot_be_reordered(keras, "is used with the features of a flattened image")
        given = calls[0].given or next(iter(calls[0].sources), None)
        if self.pytorch is None and given and len(given.shape) == 2 and self._is_shuffled(given):
            raise WeightsError(
                f"{keras.label} gets a flattened image whose places were channels, in an order "
                "that a file of one model does not tell; wanted `copy`, with both models"
            )
        try:
            rows = None
            if not is_named:
                rows = self._rows(calls[0], others[0] if others else None, keras.kind)
            columns = None
            if keras.kind in FLAT_KINDS and keras.kind not in RECURRENT:
                columns = self._columns(calls[0], others[0] if others else None)
        except Unclear as why:
            raise WeightsError(
                f"the order of the features between {keras.label} and {pytorch.label} cannot be "
                f"known: {why}; wanted models that flatten the same image, or flatten="
                f"'channels_last', 'channels_first' or {{{keras.name!r}: (height, width, "
                "channels)}"
            ) from why
        if rows is None and columns is None:
            columns = self._channels(calls[0], keras)
        if keras.kind in (*_WITH_ROWS, *_CONVOLUTIONS) and rows is None:
            return None, columns
        if keras.kind in _WITH_ROWS:
            return rows, columns
        found = columns if rows is None else rows
        if found is None or (keras.first and keras.arrays[keras.first].size == 1):
            return None, None
        if keras.kind in _CONVOLUTIONS and others:
            raise WeightsError(
                f"{keras.label} and {pytorch.label} get the same channels in different orders; "
                "wanted one order, such as that of the tensors in a concatenation"
            )
        if keras.kind not in FLAT_KINDS:
            raise _cannot_be_reordered(keras, "gets a flattened image")
        check_groups(keras)
        return found, None

    # Input features

    def _rows(self, call: Value, other: Value | None, kind: str) -> Array | None:
        both = [one for one in (call, other) if one is not None and one.sources]
        given = [one.given or one.sources[0] for one in both]
        if len(given) != (1 if other is None else 2):
            return None
        if kind in BY_CHANNEL and len(given[0].shape) != 2:
            return None  # an image: its channels
        found = []
        for side, layer, one in zip(self.sides, both, given, strict=False):
            sources, elements = side.resolved(one)
            found.append((sources, channels_at_end(elements, layer.layout)))
        sources, elements = found[0]
        alone = _is_last_axis(sources, elements)
        if alone and self._is_mixed(sources[0]):
            raise Unclear(f"{_named(sources)} is computed from a flattened image")
        if alone and (kind not in _WITH_ROWS or all(_is_last_axis(*each) for each in found)):
            return None
        try:
            return self._compared(found)
        except Unclear:
            images = any(self._is_image(self.sides[0], source) for source in sources)
            if images and not alone and kind not in _CONVOLUTIONS:
                raise
            # channels of an image, or features of a sequence: both frameworks have the same order
            return None

    def _compared(self, found: list[tuple[list[Value], Array]]) -> Array | None:
        sources, elements = found[0]
        features = elements.reshape(-1, elements.shape[-1])
        if len(found) == 1:
            if self._is_at_one_place(sources, features):
                return None
            return _places(self._as_channels_first(sources)[features], None)
        theirs, wanted = found[1]
        if wanted.shape[-1] != elements.shape[-1]:
            return None  # no pair: other checks report that
        mapping = self._between(sources, theirs)
        return _places(mapping[features], wanted.reshape(-1, wanted.shape[-1]))

    def _is_at_one_place(self, sources: list[Value], features: Array) -> bool:
        """Whether the features are channels of one place of an image, which PyTorch reorders as
        Keras does, as in a shuffle of channels."""
        if len(sources) > 1 or len(sources[0].shape) < 3:
            return False
        places = split(sources[0], features, self.channels.axis(sources[0], 0))[0]
        return bool(np.all(places == places[:, :1]))

    def _is_shuffled(self, value: Value) -> bool:
        """Whether a tensor is a flattened image, none of whose axes has all channels of a place of
        the image that a layer made, as behind `depth_to_space`."""
        while len(value.shape) == 2 and value.layer is None and value.sources:
            value = value.sources[0]
        sources, elements = self.sides[0].resolved(value)
        if len(sources) > 1 or len(sources[0].shape) < 4 or len(value.shape) < 4:
            return False
        axis = self.channels.axis(sources[0], 0)
        places, count = split(sources[0], elements, axis)[0], sources[0].shape[axis]
        along = [n for n, size in enumerate(value.shape) if n and size == count]
        return not any(np.all(places == places.take([0], n)) for n in along)

    def _is_mixed(self, value: Value) -> bool:
        """Whether a flat tensor of Keras's is computed, by no layer with weights, from features of
        a flattened image that are not followed through that operation."""
        if value.layer is not None or len(value.shape) != 2:
            return False
        return any(one.shape == value.shape and self._is_flattened(one) for one in value.sources)

    def _is_flattened(self, value: Value) -> bool:
        """Whether the features of a flat tensor of Keras's are an image's, not channels first."""
        sources, elements = self.sides[0].resolved(value)
        if _is_last_axis(sources, elements):
            return self._is_mixed(sources[0])
        try:
            return self._compared([(sources, elements)]) is not None
        except Unclear:
            return True

    def _scales_an_image(self, parameter: Value) -> bool:
        """Whether a weight of a user's own layer is used with features of a flattened image."""
        if not parameter.shape:
            return False
        given = [one for then in self.sides[0].behind(parameter) for one in then.sources]
        wide = [one for one in given if one.shape[1:] == parameter.shape[-1:]]
        return any(one is not parameter and self._is_flattened(one) for one in wide)

    @staticmethod
    def _is_image(side: Tracker, value: Value) -> bool:
        return len(value.shape) > 2 and side.layout_of(value) in _IMAGES

    def _as_channels_first(self, sources: list[Value]) -> Array:
        """The places of Keras's elements if images have channels first."""
        found, start = [], 0
        for source in sources:
            shape, size = source.shape, math.prod(source.shape)
            whole = np.arange(start, start + size)
            if self.sides[0].layout_of(source) == "channels_last" and len(shape) > 2:
                first = (shape[0], shape[-1], *shape[1:-1])
                whole = np.moveaxis(whole.reshape(first), 1, -1).ravel()
            found.append(whole)
            start += size
        return np.concatenate(found)

    def _between(self, sources: list[Value], theirs: list[Value]) -> Array:
        """The numbers of Keras's elements among PyTorch's."""
        if len(sources) != len(theirs):
            counts = f"from {len(sources)} tensors, PyTorch from {len(theirs)}"
            raise Unclear(f"Keras has them {counts}: {_named(sources)} and {_named(theirs)}")
        starts = np.cumsum([0, *(math.prod(one.shape) for one in theirs)])
        left = list(range(len(theirs)))
        chosen: dict[int, int] = {}
        for n, source in enumerate(sources):
            partner = self.channels.partner.get(id(source.layer))
            same = [m for m in left if partner is not None and theirs[m].layer is partner]
            if same:
                chosen[n] = same[0]
                left.remove(same[0])
        for n in range(len(sources)):  # those that no layer made
            if n not in chosen:
                chosen[n] = left.pop(0)
        places = [self._aligned(one, theirs[chosen[n]]) for n, one in enumerate(sources)]
        return np.concatenate([each + starts[chosen[n]] for n, each in enumerate(places)])

    def _aligned(self, keras: Value, pytorch: Value) -> Array:
        """The places of the elements of a Keras source in its PyTorch counterpart."""
        whole = np.arange(math.prod(keras.shape), dtype=np.int32).reshape(keras.shape)
        rank = len(keras.shape)
        layouts = [self.sides[0].layout_of(keras), self.sides[1].layout_of(pytorch)]
        moved = np.moveaxis(whole, -1, 1) if rank > 2 else whole
        choices = [moved, whole] if layouts == ["channels_last", "channels_first"] else [whole]
        if layouts[0] != layouts[1] and len(choices) == 1:
            choices.append(moved)
        if rank == 3:
            choices.append(np.swapaxes(whole, 0, 1))  # steps before samples
        fitting = [one for one in choices if _plain(one.shape) == _plain(pytorch.shape)]
        if not fitting:
            raise Unclear(f"no layout of {_named([keras])} has the shape of {_named([pytorch])}")
        places = np.empty(whole.size, np.int32)
        places[fitting[0].ravel()] = whole.ravel()
        return places

    # Output features

    def _channels(self, call: Value, keras: Layer) -> Array | None:
        """The order of the channels of an image that a layer makes, or normalizes."""
        if len(call.shape) < 3 or keras.kind in RECURRENT or keras.kind not in ORDERED:
            return None
        sources = self.sides[0].resolved(call)[0]
        try:
            order = self.channels.of(sources[0])
            several = keras.settings.get("groups", 1) > 1
            if keras.kind == "group_normalization" and order is not None:
                several = several and keras.settings["groups"] < order.size  # no InstanceNorm
            if order is not None and several:
                raise Mixed("its channels are those of several groups")
        except Mixed as why:
            raise WeightsError(
                f"the output channels of {keras.label} and its partner are used in different "
                f"orders, and cannot be reordered: {why}; wanted a PyTorch module that takes them "
                "in Keras's order, such as a reshape and a permutation in place of nn.PixelShuffle"
            ) from why
        return order

    def _columns(self, call: Value, other: Value | None) -> Array | None:
        if len(call.shape) != 2:
            return None
        found = self.sides[0].image_after(call)
        if found is None:
            return None
        image, then = found
        if len(_plain(image.shape[1:])) < 2:
            return None
        elements = self.sides[0].resolved(image)[1]
        layout = then.layout or ("channels_last" if len(image.shape) > 3 else "")
        moved = np.moveaxis(elements, -1, 1)
        if other is None:
            return self._columns_between(call, moved, None) if layout == "channels_last" else None
        theirs = self.sides[1].image_after(other)
        if theirs is None:
            raise Unclear(f"Keras reshapes them to {image.shape[1:]}, PyTorch to no image")
        wanted = self.sides[1].resolved(theirs[0])[1]
        choices = [moved, elements] if layout == "channels_last" else [elements, moved]
        fitting = [one for one in choices if _plain(one.shape) == _plain(wanted.shape)]
        if not fitting:
            shapes = f"{image.shape[1:]}, PyTorch to {theirs[0].shape[1:]}"
            raise Unclear(f"Keras reshapes them to {shapes}")
        return self._columns_between(call, fitting[0], wanted)

    def _columns_between(self, call: Value, moved: Array, wanted: Array | None) -> Array | None:
        count = call.shape[-1]
        mine = moved.ravel()[: moved.size // moved.shape[0]]
        theirs = np.arange(count) if wanted is None else wanted.ravel()[: mine.size]
        if mine.size != count or mine.max() >= count or theirs.max() >= count:
            raise Unclear("the image does not consist of exactly these features")
        places = np.empty(count, np.int64)
        places[mine] = theirs
        return None if np.array_equal(places, np.arange(count)) else places


def check_groups(keras: Layer) -> None:
    """Raises `WeightsError` for a layer that gets a flattened image and normalizes it in groups,
    which are other features in the other order."""
    if keras.kind == "group_normalization" and keras.settings["groups"] > 1:
        raise _cannot_be_reordered(keras, "normalizes groups of features of a flattened image")


def _cannot_be_reordered(keras: Layer, what: str) -> WeightsError:
    return WeightsError(
        f"{keras.label} {what}, and its weights cannot be put in PyTorch's order: wanted a PyTorch "
        "module that permutes to channels last before it flattens, and flatten='channels_last'"
    )


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _named(sources: list[Value]) -> str:
    return ", ".join(f"{one.origin or one.operation} {one.shape[1:]}" for one in sources)


def _is_last_axis(sources: list[Value], elements: Array) -> bool:
    """Whether the features are simply the last axis of one source."""
    size = sources[0].shape[-1]
    if len(sources) > 1 or elements.shape[-1] != size:
        return False
    first = elements.reshape(-1, size)
    return bool(np.all(first - first[:, :1] == np.arange(size)) and np.all(first[:, 0] % size == 0))


def _places(mine: Array, theirs: Array | None) -> Array | None:
    """The place of each of Keras's features in PyTorch's order, the same for all rows: each row of
    `mine` is a row of `theirs` with reordered columns. Without `theirs` rows are ascending."""
    if theirs is None:
        places = np.argsort(np.argsort(mine[0]))
        ordered = np.sort(mine, -1)
        if not np.array_equal(ordered[:, places], mine):
            raise Unclear("Keras reorders them differently at each place")
        return None if np.array_equal(places, np.arange(places.size)) else places
    if np.array_equal(mine, theirs):
        return None
    sets = np.sort(theirs, -1)
    match = np.flatnonzero((sets == np.sort(mine[0])).all(-1))
    if not match.size:
        raise Unclear("Keras and PyTorch group different elements of the image")
    row = theirs[match[0]]
    places = np.argsort(row, kind="stable")[np.argsort(np.argsort(mine[0], kind="stable"))]
    turned = np.empty_like(mine)
    turned[:, places] = mine
    if not np.array_equal(np.unique(turned, axis=0), np.unique(theirs, axis=0)):
        raise Unclear("Keras and PyTorch reorder them differently at each place")
    return None if np.array_equal(places, np.arange(places.size)) else places


def as_blocks(order: Array | None) -> list[Any] | None:
    """An order as blocks `[shape, axes]` (`parity.weights.flatten`); raises `Unclear` if it is not
    made of such blocks."""
    if order is None:
        return None
    found = _blocks(order, 0)
    if found is None:
        raise Unclear("its order is not that of images, one after the other")
    return found


def _blocks(order: Array, start: int) -> list[Any] | None:
    if start == order.size:
        return []
    rest = order[start:] - start
    closed = np.flatnonzero(np.maximum.accumulate(rest) == np.arange(rest.size))
    for end in closed[::-1]:
        block = _block(rest[: end + 1])
        others = _blocks(order, start + int(end) + 1) if block else None
        if block and others is not None:
            return [block, *others]
    return None


def _block(order: Array) -> list[Any] | None:
    """The shape and axes for which these numbers are `arange(shape).transpose(axes)`."""
    sizes: list[tuple[int, int]] = []  # step and size along each axis, the last axis first
    count = 1
    while count < order.size:
        step = int(order[count])
        places = order[::count]
        steps = np.flatnonzero(places != np.arange(places.size) * step)
        size = int(steps[0]) if steps.size else places.size
        if size < 2 or order.size % (count * size):
            return None
        sizes.append((step, size))
        count *= size
    by_step = sorted(sizes, reverse=True)
    axes = [by_step.index(each) for each in sizes[::-1]]
    shape = [size for _, size in by_step] or [1]
    whole = np.arange(math.prod(shape)).reshape(shape).transpose(axes or [0])
    return [shape, axes or [0]] if np.array_equal(whole.ravel(), order) else None
