"""The order of the features of a flattened image, found in the graph of a Keras model.

Keras flattens (height, width, channels), PyTorch (channels, height, width). An order is a list of
blocks `[shape, axes]`, one after the other: a block of Keras's features is
`arange(shape).transpose(axes)` of PyTorch's, so `[[8, 4, 4], [1, 2, 0]]` for eight channels. None
means that both have the same order.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.common.arrays import Array

Order = list[Any] | None
PASSING = (
    "batch_normalization",
    "layer_normalization",
    "group_normalization",
    "rms_normalization",
    "prelu",
)
"""The kinds of layers that keep every feature in its place."""

_PASSING_CLASSES = (
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    "PReLU",
)
_KEEP = (
    *("Activation", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "Identity", "LeakyReLU"),
    *("ReLU", "Softmax", *_PASSING_CLASSES),
)


def permutation(order: list[Any]) -> Array:
    """The place of each of Keras's features in PyTorch's order."""
    places, start = [], 0
    for shape, axes in order:
        count = math.prod(shape)
        places.append(start + np.arange(count).reshape(shape).transpose(axes).ravel())
        start += count
    return np.concatenate(places)


def image_order(shape: Sequence[int | None], layout: str, turned: bool = False) -> Order:
    """The order of the features of an image of this shape in Keras, or None if it is PyTorch's.

    `turned`: Keras's Flatten has channels_first, with which it puts the channels last itself.
    """
    axes = list(range(len(shape)))
    sizes = list(shape)
    if layout == "channels_last":
        sizes, axes = [sizes[-1], *sizes[:-1]], [*axes[1:], 0]
    if turned:
        axes = [*axes[1:], axes[0]]
    return None if axes == sorted(axes) or None in sizes else [[sizes, axes]]


def _name(operation: Any) -> str:
    return type(operation).__name__


def _weights(operation: Any) -> list[Any]:
    return list(getattr(operation, "weights", []))  # an operation of a functional model has none


def _shape_of_sample(tensor: Any) -> tuple[int | None, ...]:
    """The shape without the batch axis."""
    return tuple(tensor.shape[1:])


class Graph:
    """The layers of a Keras model and which feeds which, through nested models.

    `layers` are all layers in order, including nested models. A subclassed model has no graph;
    there the layer before another is taken from the order.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        self.entered: dict[tuple[int, int, int], Any] = {}
        for model in self.layers[1:]:
            inputs = getattr(model, "inputs", None) or []
            for node in getattr(model, "_inbound_nodes", []):
                for inner, outer in zip(inputs, node.input_tensors, strict=False):
                    self.entered[self._key(inner)] = outer

    @staticmethod
    def _key(tensor: Any) -> tuple[int, int, int]:
        operation, node, index = tensor._keras_history
        return id(operation), node, index

    def _origin(self, tensor: Any) -> tuple[Any, list[Any], Any]:
        """The operation that made a tensor, its inputs, and the tensor as the operation made it."""
        operation, node, index = tensor._keras_history
        if _name(operation) == "InputLayer":
            outer = self.entered.get(self._key(tensor))
            return (operation, [], tensor) if outer is None else self._origin(outer)
        if getattr(operation, "outputs", None):  # a nested model
            return self._origin(operation.outputs[index])
        return operation, list(operation._inbound_nodes[node].input_tensors), tensor

    def features(self, layer: Any, kind: str) -> tuple[Order, Order]:
        """The orders of the input features and of the output features of a layer."""
        if kind not in ("dense", *PASSING):
            return None, None
        rows = columns = None
        for node in layer._inbound_nodes:
            features = node.input_tensors[0]
            if len(features.shape) == 2:
                rows = rows or self._backward(features)
                columns = columns or self._forward(node.outputs[0])
        return (rows, columns) if kind == "dense" else (rows or columns, None)

    def _backward(self, tensor: Any) -> Order:
        """The order of flat features, from the operation that flattened them."""
        operation, sources, tensor = self._origin(tensor)
        if not sources:
            return None
        name, source = _name(operation), sources[0]
        if name in ("Flatten", "Reshape") and len(source.shape) > 2:
            layout = self._layout_before(source)
            turned = name == "Flatten" and operation.data_format == "channels_first"
            return image_order(_shape_of_sample(source), layout, turned) if layout else None
        if name == "Concatenate":
            orders = [self._backward(one) for one in sources]
            if not any(orders):
                return None
            sizes = [[[one.shape[-1]], [0]] for one in sources]
            pairs = zip(orders, sizes, strict=True)
            return [block for order, size in pairs for block in (order or [size])]
        if name not in _PASSING_CLASSES and _weights(operation):
            return None
        if any(tuple(one.shape) != tuple(tensor.shape) for one in sources):
            return None
        return next(filter(None, map(self._backward, sources)), None)

    def _forward(self, tensor: Any) -> Order:
        """The order of flat features, from the image into which they are reshaped later."""
        operation = tensor._keras_history.operation
        for node in operation._outbound_nodes:
            if not any(self._key(one) == self._key(tensor) for one in node.input_tensors):
                continue
            then, out = node.operation, node.outputs[0]
            if _name(then) == "Reshape" and len(out.shape) > 2:
                layout = self._layout_behind(out)
                return image_order(_shape_of_sample(out), layout) if layout else None
            keeps = _name(then) in _PASSING_CLASSES or not _weights(then)
            if keeps and tuple(out.shape) == tuple(tensor.shape):
                found = self._forward(out)
                if found:
                    return found
        return None

    def _layout_before(self, tensor: Any) -> str:
        """`channels_last` or `channels_first`, or "" if the tensor is no image."""
        operation, sources, tensor = self._origin(tensor)
        if hasattr(operation, "data_format") and _name(operation) != "Flatten":
            return str(operation.data_format)
        if not sources:
            return _input_layout(_shape_of_sample(tensor))
        return next(filter(None, map(self._layout_before, sources)), "")

    def _layout_behind(self, tensor: Any) -> str:
        operation = tensor._keras_history.operation
        if not operation._outbound_nodes:
            return _input_layout(_shape_of_sample(tensor))
        for node in operation._outbound_nodes:
            then = node.operation
            if hasattr(then, "data_format"):
                return str(then.data_format)
            found = self._layout_behind(node.outputs[0])
            if found:
                return found
        return ""

    def _neighbour(self, layer: Any, step: int) -> Any:
        """The layer before or after: in the graph, or, without one, in order."""
        if layer._inbound_nodes:
            if step < 0:
                return self._origin(layer._inbound_nodes[0].input_tensors[0])[0]
            behind = layer._outbound_nodes
            return behind[0].operation if len(behind) == 1 else None
        place = next(i for i, one in enumerate(self.layers) if one is layer) + step
        return self.layers[place] if 0 <= place < len(self.layers) else None

    def padding_before(self, layer: Any, rank: int) -> list[Any]:
        """The padding of a ZeroPadding layer right before a convolution, by axis."""
        before = self._neighbour(layer, -1)
        return _pairs(before.padding if _name(before) == f"ZeroPadding{rank}D" else 0, rank)

    def cropping_behind(self, layer: Any, rank: int) -> list[Any]:
        """The border that a Cropping layer right after a transposed convolution cuts, by axis."""
        behind = self._neighbour(layer, 1)
        return _pairs(behind.cropping if _name(behind) == f"Cropping{rank}D" else 0, rank)

    def unsure(self, layer: Any, kind: str) -> list[int]:
        """Without a graph: the shape of the image that a layer seems to get flattened, or []."""
        if kind not in ("dense", *PASSING):
            return []
        if layer._inbound_nodes:
            return []
        place = next(i for i, one in enumerate(self.layers) if one is layer)
        before = self.layers[:place][::-1]
        flat = next((i for i, one in enumerate(before) if _name(one) not in _KEEP), None)
        if flat is None or _name(before[flat]) not in ("Flatten", "Reshape"):
            return []
        image = (before[flat].get_build_config() or {}).get("input_shape") or ()
        for one in before[flat + 1 :]:
            if getattr(one, "data_format", "") == "channels_first":
                return []
            if hasattr(one, "data_format"):
                break
        else:
            if _input_layout(image[1:]) != "channels_last":
                return []
        return list(image[1:]) if len(image) > 2 else []


def _input_layout(shape: Sequence[int | None]) -> str:
    """The layout of an input or output of the model; an image has two spatial axes and channels."""
    from keras import config

    return str(config.image_data_format()) if len(shape) >= 3 else ""


def _pairs(value: Any, rank: int) -> list[Any]:
    if value == 0:
        return [(0, 0)] * rank
    return [tuple(value)] if rank == 1 else [tuple(pair) for pair in value]
