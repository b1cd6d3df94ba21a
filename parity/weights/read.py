"""Reads and writes the layers with weights of a model of either framework."""

from collections.abc import Callable
from typing import Any

from parity.common.arrays import Array
from parity.weights.keras_layers import read_keras
from parity.weights.layer import KERAS, Layer, in_own_layout, is_keras, is_pytorch
from parity.weights.parts import put, storage_of
from parity.weights.pytorch_layers import read_pytorch


def read(model: Any, argument: str = "model", unknown: list[str] | None = None) -> list[Layer]:
    """The layers with weights, in the order of `model.layers` in Keras, through nested models, and
    of `named_modules` in PyTorch. A shared layer counts once.

    Raises `TypeError` for another object, `WeightsError` for layers that are not built, and for
    layers with weights of an unknown kind. If a list `unknown` is given, the labels of the latter
    are appended to it instead, and the other layers are read.
    """
    if is_keras(model):
        return read_keras(model, unknown)
    if is_pytorch(model):
        return read_pytorch(model, unknown)
    raise TypeError(
        f"{argument} is a {type(model).__name__}; wanted a Keras model or a torch.nn.Module"
    )


def storage(layer: Layer, array: str) -> int:
    """A key of the storage of an array: tied weights have the same key."""
    if layer.storage:
        return layer.storage
    if layer.write is not None or layer.computed:  # a part of a layer, or a user's own layer
        return hash((id(layer.handle), array))
    return storage_of(getattr(layer.handle, layer.own_name(array)))


def assign(layer: Layer, arrays: dict[str, Array], settings: dict[str, Any]) -> None:
    """Put arrays of the common form, and some settings, into the layer itself."""
    if layer.write is not None:
        layer.write(arrays)
    else:
        for name, value in arrays.items():
            put(getattr(layer.handle, layer.own_name(name)), in_own_layout(layer, name, value))
    write: Callable[[Any, str, Any], None] = setattr
    for name, value in settings.items():
        if layer.framework == KERAS:
            write(layer.handle, name, value)
        elif name == "momentum":
            write(layer.handle, name, None if value is None else round(1 - value, 12))
        else:
            write(layer.handle, "eps", value)
