"""Layers whose weights belong to several layers in the other framework: their parts in the common
form, and how to write each.

A Keras SeparableConv is a depthwise convolution and a pointwise one in PyTorch; a stacked LSTM of
PyTorch has one part for each of its layers, a Bidirectional has two; each weight that a user's own
layer holds itself is a part of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from parity.common.arrays import Array, without_bfloat16
from parity.weights.layer import ARRAYS, Layer, WeightsError, is_keras

Arrays = dict[str, Array]


class Handle:
    """Identifies a part of a layer, as the layer object itself identifies the whole."""


_handles: "WeakKeyDictionary[Any, dict[str, Handle]]" = WeakKeyDictionary()


def handle(owner: Any, suffix: str) -> Any:
    """The handle of a part of a layer, always the same; without a suffix the layer itself."""
    if not suffix:
        return owner
    return _handles.setdefault(owner, {}).setdefault(suffix, Handle())


@dataclass
class Part:
    """A part of a layer: its arrays in the common form, and the function that writes them.

    `names`: the names of the arrays in the layer itself. `storage`: a key of the storage of the
    only array, which is the same for tied weights; 0 if there are several arrays. `check`: raises
    `WeightsError` if the arrays cannot be written.
    """

    suffix: str
    kind: str
    arrays: Arrays
    write: Callable[[Arrays], None]
    settings: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    storage: int = 0
    check: Callable[[Arrays], None] | None = None


def layers_of(framework: str, name: str, owner: Any, parts: list[Part]) -> Iterator[Layer]:
    """The parts as layers of the common form, each with its own name."""
    joint = "/" if is_keras(owner) else "."
    for part in parts:
        yield Layer(
            framework=framework,
            name=f"{name}{joint}{part.suffix}" if part.suffix else name,
            class_name=type(owner).__name__,
            kind=part.kind,
            arrays={key: value for key, value in part.arrays.items() if value is not None},
            settings=part.settings,
            handle=handle(owner, part.suffix),
            write=part.write,
            names=part.names,
            storage=part.storage,
            check=part.check,
        )


def numbers(tensor: Any) -> Any:
    """The numbers of a variable or parameter; None for None."""
    if tensor is None:
        return None
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        known = str(tensor.dtype) in ("torch.float64", "torch.float32", "torch.float16")
        # NumPy has neither bfloat16 nor the types of 8 bits
        return (tensor if known or not tensor.is_floating_point() else tensor.float()).numpy()
    from keras import ops

    return without_bfloat16(np.asarray(ops.convert_to_numpy(tensor)))


def put(tensor: Any, value: Array) -> None:
    """Write numbers into a variable of Keras or a parameter of PyTorch."""
    if hasattr(tensor, "assign"):
        tensor.assign(value.reshape(tensor.shape))
        return
    import torch

    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(tensor.shape))


def storage_of(tensor: Any) -> int:
    """A key of the storage of a variable or parameter: tied ones have the same."""
    return int(tensor.data_ptr() if hasattr(tensor, "data_ptr") else id(tensor))


def is_a(layer: Any, name: str, package: str) -> bool:
    """Whether a layer is an instance of the class with this name in the framework."""
    return any(
        one.__name__ == name and one.__module__.partition(".")[0] == package
        for one in type(layer).__mro__
    )


# A user's own layers


@dataclass(frozen=True)
class _Registered:
    kind: str
    keras: type
    pytorch: type
    arrays: dict[str, str]
    to_pytorch: Callable[[Arrays], Arrays] | None
    to_keras: Callable[[Arrays], Arrays] | None


_registered: dict[str, _Registered] = {}


def register(
    kind: str,
    keras: type,
    pytorch: type,
    arrays: dict[str, str],
    *,
    to_pytorch: Callable[[Arrays], Arrays] | None = None,
    to_keras: Callable[[Arrays], Arrays] | None = None,
) -> None:
    """Register a layer class of your own, so that `copy`, `save`, `load` and `suggest` know it.

        weights.register("low rank", LowRank, LowRankModule, {"down": "a.weight", "up": "b.weight"})

    Args:
        kind: a name for it; one that was registered before is replaced.
        keras, pytorch: the two classes; instances of derived classes count, too.
        arrays: `{attribute in Keras: attribute in PyTorch}` of the weights, with dots for
            attributes of attributes (`"cell.kernel"`). An attribute that is None is no weight.
        to_pytorch, to_keras: if the layouts differ, functions of all arrays at once, from a
            dictionary with Keras's names to one with PyTorch's, and back: both or none. Without
            them every array is copied unchanged.

    Raises `TypeError` if an argument is no class, `ValueError` if there are no arrays, if the kind
    is a built-in one, and for one function without the other.
    """
    for argument, value in (("keras", keras), ("pytorch", pytorch)):
        if not isinstance(value, type):
            raise TypeError(f"{argument} is {value!r}; wanted a class")
    if kind in ARRAYS and kind not in _registered:
        raise ValueError(f"kind is {kind!r}, which is a built-in kind; wanted another name")
    if not arrays or not all(isinstance(s, str) for both in arrays.items() for s in both):
        raise ValueError(f"arrays is {arrays!r}; wanted attributes of Keras's and PyTorch's layer")
    if (to_pytorch is None) != (to_keras is None):
        raise ValueError("to_pytorch without to_keras, or the reverse; wanted both or none")
    _registered[kind] = _Registered(kind, keras, pytorch, dict(arrays), to_pytorch, to_keras)
    ARRAYS[kind] = tuple(arrays)


def registered_kind(layer: Any) -> str:
    """The registered kind of a user's own layer, the last registered first; or ""."""
    for known in reversed(_registered.values()):
        if isinstance(layer, known.keras if is_keras(layer) else known.pytorch):
            return known.kind
    return ""


def registered_parts(layer: Any) -> list[Part]:
    """The part of a registered layer: all of it."""
    known = _registered[registered_kind(layer)]
    if is_keras(layer):
        held = {name: _attribute(layer, name) for name in known.arrays}
        arrays = {name: numbers(tensor) for name, tensor in held.items() if tensor is not None}

        def write(values: Arrays) -> None:
            for name, value in values.items():
                put(held[name], value)

        return [Part("", known.kind, arrays, write)]
    held = {name: _attribute(layer, name) for name in known.arrays.values()}
    own = {name: numbers(tensor) for name, tensor in held.items() if tensor is not None}
    if known.to_keras is not None:
        arrays = {name: np.asarray(value) for name, value in known.to_keras(own).items()}
    else:
        arrays = {key: own[name] for key, name in known.arrays.items() if name in own}

    def turned(values: Arrays) -> Arrays:
        if known.to_pytorch is not None:
            return {name: np.asarray(value) for name, value in known.to_pytorch(values).items()}
        return {known.arrays[key]: value for key, value in values.items()}

    def check(values: Arrays) -> None:
        given = {name: value.shape for name, value in turned(values).items()}
        wanted = {name: value.shape for name, value in own.items()}
        if given != wanted:
            raise WeightsError(
                f"to_pytorch of the kind {known.kind!r} returns arrays of shapes {given}; wanted "
                f"{wanted}"
            )

    def write_back(values: Arrays) -> None:
        for name, value in turned(values).items():
            put(held[name], value)

    found = Part("", known.kind, arrays, write_back, names=dict(known.arrays), check=check)
    return [found]


def _attribute(layer: Any, path: str) -> Any:
    for name in path.split("."):
        if not hasattr(layer, name):
            raise WeightsError(
                f"{type(layer).__name__} has no attribute {path!r}, which its kind "
                f"{registered_kind(layer)!r} was registered with"
            )
        layer = getattr(layer, name)
    return layer


# Weights that a layer holds itself


def loose_parts(own: dict[str, Any]) -> list[Part] | None:
    """The weights of a user's own layer, each a part: a scale, a class token, positions. None if
    the layout of one does not follow from its shape: a square matrix may be transposed."""
    parts = []
    for name, tensor in own.items():
        sizes = [size for size in tensor.shape if size != 1]
        if len(sizes) > 1 and len(set(sizes)) < len(sizes):
            return None
        value = numbers(tensor).squeeze()
        key, write, names = storage_of(tensor), _writer(tensor), {"value": name}
        parts.append(Part(name, "parameter", {"value": value}, write, {}, names, key))
    return parts


def _writer(tensor: Any) -> Callable[[Arrays], None]:
    return lambda arrays: put(tensor, arrays["value"])
