"""The layers of a Keras model in the common form (`parity.weights.layers`)."""

import math
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.flatten import Graph
from parity.weights.forward import is_padded_by_operation, may_pad
from parity.weights.layer import (
    ARRAYS,
    KERAS,
    Layer,
    WeightsError,
    other_kind,
    plain,
    without_bfloat16,
)
from parity.weights.padding import transposed_crop


def kind_of_layer(layer: Any) -> str:
    """The kind of a Keras layer, or nothing."""
    from keras import layers as kl

    kinds: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("dense", (kl.Dense,)),
        ("conv_transpose", (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)),
        ("conv", (kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.DepthwiseConv1D, kl.DepthwiseConv2D)),
        ("batch_normalization", (kl.BatchNormalization,)),
        ("layer_normalization", (kl.LayerNormalization,)),
        ("embedding", (kl.Embedding,)),
    )
    return next((kind for kind, classes in kinds if isinstance(layer, classes)), "")


def sublayers(layer: Any) -> list[Any]:
    """The layers directly inside of a layer or model, in order."""
    if hasattr(layer, "layers"):
        return list(layer.layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def named_layers(model: Any) -> list[tuple[str, Any]]:
    """Every layer with its name, through nested ones (`encoder/conv_1`), depth first, once each;
    what is inside of a layer of a known kind is left out."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()

    def walk(name: str, layer: Any) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        found.append((name, layer))
        if not kind_of_layer(layer):
            for inner in sublayers(layer):
                walk(f"{name}/{inner.name}" if name else inner.name, inner)

    if kind_of_layer(model):
        walk(model.name, model)
    else:
        walk("", model)
    return found


def read_keras(model: Any, unknown: list[str] | None = None) -> list[Layer]:
    """The layers with weights of a built Keras model; see `parity.weights.read.read`."""
    layers = named_layers(model)
    by_name, formats = dict(layers), _data_formats(layers)
    graph = Graph([layer for _, layer in layers])
    found = []
    for name, layer in layers:
        try:
            one = _read(name, layer, by_name, formats, graph)
        except WeightsError:
            if unknown is None:
                raise
            label = _outermost(name, by_name)
            unknown += [label] if label not in unknown else []
        else:
            found += [one] if one is not None else []
    return found


def _outermost(name: str, layers: dict[str, Any]) -> str:
    """The label of a layer, or of the layer of Keras's own that it is a part of: an LSTM's cell."""
    parts = name.split("/")
    paths = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
    within = (path for path in paths if path in layers and _is_stock(layers[path]))
    outer = next(within, name)
    layer = layers[outer]
    return f"{KERAS} {outer or layer.name} ({type(layer).__name__})"


def _is_stock(layer: Any) -> bool:
    return type(layer).__module__.startswith(("keras.src.layers", "keras.layers"))


def _data_formats(layers: list[tuple[str, Any]]) -> set[str]:
    """Of all layers that have one, or else the default."""
    from keras import config

    found = {
        str(layer.data_format)
        for _, layer in layers
        if hasattr(layer, "data_format") and type(layer).__name__ != "Flatten"
    }
    return found or {str(config.image_data_format())}


def _read(
    name: str, layer: Any, layers: dict[str, Any], formats: set[str], graph: Graph
) -> Layer | None:
    """The layer in the common form, None where it has no weights of its own."""
    kind = kind_of_layer(layer)
    if not kind:
        inner = {id(w) for one in sublayers(layer) for w in one.weights}
        own = [w.name for w in layer.weights if id(w) not in inner]
        if own:
            raise other_kind(KERAS, name or layer.name, layer, own)
        return None
    if not layer.built:
        raise WeightsError(
            f"Keras {name} ({type(layer).__name__}) is not built; call the model on data once"
        )
    known = [getattr(layer, array, None) for array in ARRAYS[kind]]
    strange = [w.name for w in layer.weights if not any(w is one for one in known)]
    if strange or getattr(layer, "rms_scaling", False):
        raise other_kind(KERAS, name, layer, strange or ["a root mean square's scale"])
    _check_axis(name, layer, kind, formats)
    rows, columns = graph.features(layer, kind)
    settings = _settings(layer, kind, graph)
    if kind in ("conv", "conv_transpose") and _may_pad(name, layer, kind, layers):
        settings["may_pad"] = True
    return Layer(
        framework=KERAS,
        name=name,
        class_name=type(layer).__name__,
        kind=kind,
        arrays=_arrays(layer, kind),
        settings=plain(settings),
        rows=rows,
        columns=columns,
        unsure=graph.unsure(layer, kind),
        handle=layer,
    )


def _may_pad(name: str, layer: Any, kind: str, layers: dict[str, Any]) -> bool:
    """Whether a function may pad the input of a convolution, or crop a transposed one's output."""
    parts = name.split("/")
    paths = ["", *("/".join(parts[:depth]) for depth in range(1, len(parts)))]
    owners = [layers[path] for path in paths if layers.get(path) not in (None, layer)]
    return is_padded_by_operation(layer) or may_pad(layer, owners, kind)


def _arrays(layer: Any, kind: str) -> dict[str, Array]:
    from keras import ops

    arrays = {}
    for name in ARRAYS[kind]:
        variable = getattr(layer, name, None)
        if variable is None:
            continue
        value = without_bfloat16(np.asarray(ops.convert_to_numpy(variable)))
        if name == "kernel" and hasattr(layer, "depth_multiplier"):
            value = value.reshape((*value.shape[:-2], 1, math.prod(value.shape[-2:])))
        arrays[name] = value
    return arrays


def input_shape(layer: Any) -> tuple[int | None, ...]:
    """The shape that a layer was built for, with the batch; () where it is not known."""
    return tuple((layer.get_build_config() or {}).get("input_shape") or ())


def _check_axis(name: str, layer: Any, kind: str, formats: set[str]) -> None:
    """PyTorch normalises trailing axes in LayerNorm, and in BatchNorm the axis of the channels."""
    rank = len(input_shape(layer))
    if kind == "layer_normalization":
        axes = sorted(axis - rank if axis >= 0 else axis for axis in layer.axis)
        if rank and axes != list(range(-len(axes), 0)):
            raise WeightsError(
                f"Keras {name} (LayerNormalization) normalises axis {layer.axis} of {rank}; wanted "
                "the last axis or the last few, as in PyTorch"
            )
    if kind == "batch_normalization":
        axis = layer.axis % rank if rank else layer.axis
        wanted = {-1, rank - 1} | ({1} if "channels_first" in formats else set())
        if axis not in wanted:
            of = f" of {rank}" if rank else ""
            raise WeightsError(
                f"Keras {name} (BatchNormalization) normalises axis {layer.axis}{of}, data_format "
                f"is {' and '.join(sorted(formats))!r}; wanted the axis of the channels, as in "
                "PyTorch"
            )


def _settings(layer: Any, kind: str, graph: Graph) -> dict[str, Any]:
    if kind == "batch_normalization":
        return {"epsilon": layer.epsilon, "momentum": layer.momentum}
    if kind == "layer_normalization":
        return {"epsilon": layer.epsilon}
    if kind == "embedding":
        return {"max_norm": None}
    if kind not in ("conv", "conv_transpose"):
        return {}
    rank = len(layer.kernel_size)
    settings = {
        "kernel_size": layer.kernel_size,
        "strides": layer.strides,
        "dilation": layer.dilation_rate,
        "groups": _groups(layer),
        "padding_mode": "zeros",
        "size": _size(layer, rank),
    }
    if kind == "conv":
        added = graph.padding_before(layer, rank)
        pairs = zip(settings["size"], added, strict=True)  # the size before the padding layer
        settings["size"] = [size and size - sum(pair) for size, pair in pairs]
        padding = [(0, 0)] * rank if layer.padding == "valid" else layer.padding
        return {**settings, "padding": padding, "added": added}
    more = layer.output_padding
    more = more if isinstance(more, tuple | list) else (more,) * rank
    axes = zip(layer.kernel_size, layer.strides, layer.dilation_rate, more, strict=True)
    crop = [transposed_crop(layer.padding, *axis) for axis in axes]
    cut = graph.cropping_behind(layer, rank)
    whole = [np.add(own, more).tolist() for own, more in zip(crop, cut, strict=True)]
    return {**settings, "crop": whole, "added": cut}


def _groups(layer: Any) -> int:
    if hasattr(layer, "depth_multiplier"):
        return int(layer.kernel.shape[-2])
    return int(getattr(layer, "groups", 1))


def _size(layer: Any, rank: int) -> list[int | None]:
    """The size of the image that a convolution was built for, None where it is open."""
    shape = input_shape(layer)
    if len(shape) != rank + 2:
        return [None] * rank
    return list(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


def assign_to_keras(layer: Layer, arrays: dict[str, Array]) -> None:
    """Put arrays of the common form into a Keras layer."""
    for name, value in arrays.items():
        variable = getattr(layer.handle, name)
        variable.assign(value.reshape(variable.shape))  # a depthwise kernel has its own shape
