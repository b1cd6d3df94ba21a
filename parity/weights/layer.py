"""Layers with weights of either framework in one common form, as `parity.weights.read` gives it.

Keras's layout throughout: kernels are (*window, inputs / groups, outputs), of a transposed
convolution (*window, outputs / groups, inputs); a depthwise convolution is one with as many groups
as inputs; momentum is the share that the running statistics keep.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.common.arrays import Array

KERAS, PYTORCH = "Keras", "PyTorch"
ARRAYS = {
    "dense": ("kernel", "bias"),
    "conv": ("kernel", "bias"),
    "conv_transpose": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
    "embedding": ("embeddings",),
    "group_normalization": ("gamma", "beta"),
    "rms_normalization": ("scale",),
    "prelu": ("alpha",),
}
"""The arrays of every kind of layer, by their names in Keras."""

_CONV = ("kernel_size", "strides", "dilation", "groups", "padding_mode", "size", "added")
SETTINGS = {
    "dense": (),
    "conv": (*_CONV, "padding"),
    "conv_transpose": (*_CONV, "crop"),
    "batch_normalization": ("epsilon", "momentum"),
    "layer_normalization": ("epsilon",),
    "embedding": ("max_norm",),
    "group_normalization": ("epsilon", "groups"),
    "rms_normalization": ("epsilon",),
}
"""The settings of every kind of layer."""

IN_PYTORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embeddings": "weight",
    "scale": "weight",
    "alpha": "weight",
}

_SUPPORTED = (
    "Dense, Conv, DepthwiseConv, SeparableConv, ConvTranspose, Batch-, Layer-, Group- and "
    "RMSNormalization, PReLU, Embedding, LSTM, GRU, SimpleRNN, Bidirectional, MultiHeadAttention, "
    "what they are in PyTorch, and layers of your own after weights.register"
)


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message says which, and what is wanted.

    `layers` is the map that fits where the order of the layers does not, or else None.
    """

    layers: dict[str, str] | None = None


def first_sentence(error: Exception) -> str:
    """The first sentence of an error of a framework. (The next ones of `torch.load` and Keras say
    how to run the code in a file.)"""
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


@dataclass(frozen=True)
class Layer:
    """A layer with weights, in the common form.

    `rows` and `columns` are the orders of flattened images among the input features and the output
    features (`parity.weights.flatten`); `unsure` is the shape of the image that seems to be
    flattened right before a layer of a model without a graph. `handle` is the layer itself, None if
    it was read from a file. For a part of a layer (`parity.weights.parts`), `write` is the function
    that writes its arrays, `names` are their names in PyTorch; `storage` and `check` as in `Part`.
    `computed`: the weights that it computes from others (`parity.weights.computed`), which cannot
    be written.
    """

    framework: str
    name: str
    class_name: str
    kind: str
    arrays: dict[str, Array] = field(repr=False)
    settings: dict[str, Any]
    rows: list[Any] | None = None
    columns: list[Any] | None = None
    unsure: list[int] = field(default_factory=list)
    handle: Any = field(default=None, repr=False, compare=False)
    write: Callable[[dict[str, Array]], None] | None = field(
        default=None, repr=False, compare=False
    )
    names: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    storage: int = field(default=0, repr=False, compare=False)
    check: Callable[[dict[str, Array]], None] | None = field(
        default=None, repr=False, compare=False
    )
    computed: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Framework, name and class: `Keras conv_1 (Conv2D)`."""
        return f"{self.framework} {self.name} ({self.class_name})"

    @property
    def first(self) -> str:
        """The name of the first array that the layer has."""
        return next((name for name in ARRAYS[self.kind] if name in self.arrays), "")

    def shape(self, array: str) -> tuple[int, ...]:
        """The shape of an array in the layer's own framework."""
        shape = self.arrays[array].shape
        if self.framework == PYTORCH and array == "kernel":
            return tuple(shape[axis] for axis in _turn(len(shape)))
        return shape

    def own_name(self, array: str) -> str:
        """The name of an array in the layer's own framework: PyTorch calls the kernel weight."""
        if self.framework != PYTORCH:
            return array
        return self.names.get(array) or IN_PYTORCH.get(array, array)

    def described(self, array: str) -> str:
        """The label with the shape of an array: `Keras fc (Dense, kernel (128, 10))`."""
        if array not in self.arrays:
            own = self.own_name(array) if array else "weights"
            return f"{self.framework} {self.name} ({self.class_name}, no {own})"
        shown = f"{self.own_name(array)} {self.shape(array)}"
        return f"{self.framework} {self.name} ({self.class_name}, {shown})"


def _turn(rank: int) -> tuple[int, ...]:
    """The transposition from a Keras kernel to a PyTorch one: the last two axes first, swapped."""
    return (rank - 1, rank - 2, *range(rank - 2))


def is_keras(model: Any) -> bool:
    """Whether this is a Keras layer or model. On the torch backend these are modules, too."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.layers.Layer)


def is_pytorch(model: Any) -> bool:
    """Whether this is a PyTorch module, and not a Keras layer on the torch backend."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module) and not is_keras(model)


def other_kind(framework: str, name: str, owner: Any, weights: list[str]) -> WeightsError:
    """The error for weights that are not of a known kind."""
    return WeightsError(
        f"{framework} {name} ({type(owner).__name__}) has weights of a kind that cannot be carried "
        f"over ({', '.join(weights)}); known are {_SUPPORTED}"
    )


def activation_name(activation: Any) -> str:
    """The name of a Keras activation: of a function, or the class of a layer in its place."""
    if type(activation).__name__ == "Activation":  # the layer around a function
        activation = getattr(activation, "activation", activation)
    return str(getattr(activation, "__name__", type(activation).__name__))


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as JSON returns them: lists, numbers and names."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def channels_moved(array: Array, first: bool) -> Array:
    """An array with its last axis moved to the front, or (unless `first`) its first to the end."""
    if array.ndim < 2:
        return array
    return np.moveaxis(array, -1, 0) if first else np.moveaxis(array, 0, -1)


def in_own_layout(layer: Layer, array: str, value: Array) -> Array:
    """An array of the common form in the layout of the layer's own framework."""
    if layer.framework == PYTORCH and array == "kernel":
        return value.transpose(_turn(value.ndim))
    return value


def in_common_layout(kernel: Array) -> Array:
    """A kernel of PyTorch in the common form."""
    return kernel.transpose((*range(2, kernel.ndim), 1, 0))
