"""What a layer with weights is, of either framework, in one common form: `read(model)`.

Keras's layout throughout: kernels are (*window, inputs / groups, outputs), of a transposed
convolution (*window, outputs / groups, inputs); a depthwise convolution is one with as many groups
as inputs; momentum is the share that the running statistics keep.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.inputs import Array

KERAS, PYTORCH = "Keras", "PyTorch"
ARRAYS = {
    "dense": ("kernel", "bias"),
    "conv": ("kernel", "bias"),
    "conv_transpose": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
    "embedding": ("embeddings",),
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
}
"""The settings of every kind of layer."""

_IN_PYTORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embeddings": "weight",
}
_SUPPORTED = (
    "Dense, Conv, DepthwiseConv, ConvTranspose, BatchNormalization, LayerNormalization, Embedding "
    "and what they are in PyTorch"
)


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message says which, and what is wanted."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights, in the common form.

    `rows` and `columns` say how Keras and PyTorch order a flattened image among the features that
    come in and go out (`parity.weights.flatten`); `unsure` is the shape of the image that seems to
    be flattened right before a layer of a model without a graph. `handle` is the layer itself, None
    for one that was read from a file.
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

    @property
    def label(self) -> str:
        """Framework, name and class: `Keras conv_1 (Conv2D)`."""
        return f"{self.framework} {self.name} ({self.class_name})"

    @property
    def first(self) -> str:
        """The name of the first array that there is."""
        return next((name for name in ARRAYS[self.kind] if name in self.arrays), "")

    def shape(self, array: str) -> tuple[int, ...]:
        """The shape of an array as the layer's own framework has it."""
        shape = self.arrays[array].shape
        if self.framework == PYTORCH and array == "kernel":
            return tuple(shape[axis] for axis in _turn(len(shape)))
        return shape

    def own_name(self, array: str) -> str:
        """What the layer's own framework calls an array: of PyTorch's Linear, kernel is weight."""
        return _IN_PYTORCH[array] if self.framework == PYTORCH else array

    def described(self, array: str) -> str:
        """The label with the shape of an array: `Keras fc (Dense, kernel (128, 10))`."""
        if array not in self.arrays:
            own = self.own_name(array) if array else "weights"
            return f"{self.framework} {self.name} ({self.class_name}, no {own})"
        shown = f"{self.own_name(array)} {self.shape(array)}"
        return f"{self.framework} {self.name} ({self.class_name}, {shown})"


def _turn(rank: int) -> tuple[int, ...]:
    """The axes that turn a kernel of Keras into one of PyTorch: the last two first, swapped."""
    return (rank - 1, rank - 2, *range(rank - 2))


def is_keras(model: Any) -> bool:
    """Whether this is a Keras layer or model. On the torch backend it is a module as well."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.layers.Layer)


def is_pytorch(model: Any) -> bool:
    """Whether this is a PyTorch module, and not a Keras layer on the torch backend."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module) and not is_keras(model)


def read(model: Any, argument: str = "model") -> list[Layer]:
    """The layers with weights, in order: of a Keras model that of `model.layers`, through nested
    models; of a PyTorch module that of `named_modules`. A shared layer counts once.

    Raises `TypeError` for what is neither, `WeightsError` for layers that are not built, and for
    layers with weights of a kind that is not known here.
    """
    if is_keras(model):
        from parity.weights.keras_layers import read_keras

        return read_keras(model)
    if is_pytorch(model):
        return list(_read_pytorch(model))
    raise TypeError(
        f"{argument} is a {type(model).__name__}; wanted a Keras model or a torch.nn.Module"
    )


def other_kind(framework: str, name: str, owner: Any, weights: list[str]) -> WeightsError:
    """The error for weights that are not of a known kind."""
    return WeightsError(
        f"{framework} {name} ({type(owner).__name__}) has weights of a kind that cannot be carried "
        f"over ({', '.join(weights)}); known are {_SUPPORTED}"
    )


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as JSON gives them back: lists, numbers and names."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def without_bfloat16(array: Array) -> Array:
    """As float32 where it is bfloat16, which neither NumPy nor `torch.from_numpy` knows."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


# PyTorch


def kind_of_module(module: Any) -> str:
    """The kind of a PyTorch module, or nothing."""
    from torch import nn

    kinds: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("dense", (nn.Linear,)),
        ("conv", (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
        ("conv_transpose", (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
        ("batch_normalization", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
        ("layer_normalization", (nn.LayerNorm,)),
        ("embedding", (nn.Embedding,)),
    )
    return next((kind for kind, classes in kinds if isinstance(module, classes)), "")


def _known_modules(module: Any) -> list[tuple[str, Any]]:
    """The modules in order, without what is inside of one of a known kind."""
    found: list[tuple[str, Any]] = []
    inside: set[int] = set()
    for name, one in module.named_modules():
        if id(one) in inside:
            continue
        if kind_of_module(one):
            inside |= {id(child) for child in one.modules()}
        found.append((name or "model", one))
    return found


def leaf_modules(module: Any) -> list[tuple[str, Any]]:
    """The modules of a known kind and those without modules of their own, in order."""
    modules = _known_modules(module)
    return [(name, one) for name, one in modules if kind_of_module(one) or not any(one.children())]


def _read_pytorch(model: Any) -> Iterator[Layer]:
    from torch.nn.modules.lazy import LazyModuleMixin

    leaves = [one for _, one in leaf_modules(model)]
    places = {id(one): place for place, one in enumerate(leaves)}
    for name, one in _known_modules(model):
        lazy: Any = one if isinstance(one, LazyModuleMixin) else None
        if lazy is not None and lazy.has_uninitialized_params():
            raise WeightsError(
                f"PyTorch {name} ({type(one).__name__}) has no shapes yet; "
                "call the model on data once"
            )
        kind = kind_of_module(one)
        own = [key for key, _ in one.named_parameters(recurse=False)]
        own += [key for key, _ in one.named_buffers(recurse=False) if key.startswith("running_")]
        if not kind:
            if own:
                raise other_kind(PYTORCH, name, one, own)
            continue
        known = [_IN_PYTORCH[array] for array in ARRAYS[kind]]
        strange = [key for key in own if key not in known]
        if strange or "weight" not in (*own, *(["weight"] if one.weight is None else [])):
            raise other_kind(PYTORCH, name, one, strange or ["a weight that is computed"])
        place = places[id(one)]
        around = [leaves[i] if 0 <= i < len(leaves) else None for i in (place - 1, place + 1)]
        yield Layer(
            framework=PYTORCH,
            name=name,
            class_name=type(one).__name__,
            kind=kind,
            arrays=_arrays_of_module(one, kind),
            settings=plain(_settings_of_module(one, kind, *around)),
            handle=one,
        )


def _arrays_of_module(module: Any, kind: str) -> dict[str, Array]:
    arrays = {}
    for array in ARRAYS[kind]:
        tensor = getattr(module, _IN_PYTORCH[array])
        if tensor is None:
            continue
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        value = tensor.numpy()
        if array == "kernel":  # the turn of `_turn`, back
            value = value.transpose((*range(2, value.ndim), 1, 0))
        arrays[array] = value
    return arrays


def _settings_of_module(module: Any, kind: str, before: Any, behind: Any) -> dict[str, Any]:
    if kind == "batch_normalization":
        kept = None if module.momentum is None else 1 - module.momentum
        return {"epsilon": module.eps, "momentum": kept}
    if kind == "layer_normalization":
        return {"epsilon": module.eps}
    if kind == "embedding":
        return {"max_norm": module.max_norm}
    if kind not in ("conv", "conv_transpose"):
        return {}
    settings = {
        "kernel_size": module.kernel_size,
        "strides": module.stride,
        "dilation": module.dilation,
        "groups": module.groups,
        "padding_mode": module.padding_mode,
        "size": [None] * len(module.kernel_size),
    }
    rank = len(module.kernel_size)
    if kind == "conv":
        own = module.padding
        own = {"valid": [(0, 0)] * rank, "same": "same"}[own] if isinstance(own, str) else own
        padding = own if own == "same" or isinstance(own, list) else [(p, p) for p in own]
        return {**settings, "padding": padding, "added": _zero_pad(before, rank)}
    cut = [(-left, -right) for left, right in _zero_pad(behind, rank)]
    axes = zip(module.padding, module.output_padding, cut, strict=True)
    crop = [(p + left, p - more + right) for p, more, (left, right) in axes]
    return {**settings, "crop": crop, "added": cut}


def _zero_pad(module: Any, rank: int) -> list[tuple[int, int]]:
    """What an `nn.ZeroPad` (or a constant one of zeros) adds along every axis."""
    from torch import nn

    classes = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
    if isinstance(module, classes) and module.value == 0 and len(module.padding) == 2 * rank:
        pairs = list(zip(module.padding[::2], module.padding[1::2], strict=True))
        return pairs[::-1]
    return [(0, 0)] * rank


# Writing


def storage(layer: Layer, array: str) -> int:
    """What tells whether two arrays of layers are one: of tied weights it is the same."""
    if layer.framework == KERAS:
        return id(getattr(layer.handle, array))
    return int(getattr(layer.handle, _IN_PYTORCH[array]).data_ptr())


def in_own_layout(layer: Layer, array: str, value: Array) -> Array:
    """An array of the common form as the layer's own framework has it."""
    if layer.framework == PYTORCH and array == "kernel":
        return value.transpose(_turn(value.ndim))
    return value


def assign(layer: Layer, arrays: dict[str, Array], settings: dict[str, Any]) -> None:
    """Put arrays of the common form, and some settings, into the layer itself."""
    (_assign_to_keras if layer.framework == KERAS else _assign_to_pytorch)(layer, arrays)
    write: Callable[[Any, str, Any], None] = setattr
    for name, value in settings.items():
        if layer.framework == KERAS:
            write(layer.handle, name, value)
        elif name == "momentum":
            write(layer.handle, name, None if value is None else round(1 - value, 12))
        else:
            write(layer.handle, "eps", value)


def _assign_to_keras(layer: Layer, arrays: dict[str, Array]) -> None:
    for name, value in arrays.items():
        variable = getattr(layer.handle, name)
        variable.assign(value.reshape(variable.shape))  # a depthwise kernel has its own shape


def _assign_to_pytorch(layer: Layer, arrays: dict[str, Array]) -> None:
    import torch

    for name, value in arrays.items():
        own = np.ascontiguousarray(in_own_layout(layer, name, value))
        with torch.no_grad():
            getattr(layer.handle, _IN_PYTORCH[name]).copy_(torch.from_numpy(own))
