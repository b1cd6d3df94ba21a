"""The layers of a Keras model in the common form (`parity.weights.layer`)."""

import math
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.compound import compound_layer, parts_of_layer, variables_of
from parity.weights.flatten import Graph
from parity.weights.forward import is_padded_by_operation, may_pad
from parity.weights.layer import ARRAYS, KERAS, Layer, WeightsError, other_kind, plain
from parity.weights.padding import transposed_crop
from parity.weights.parts import layers_of, loose_parts, numbers, registered_kind


def kind_of_layer(layer: Any) -> str:
    """The kind of a Keras layer, or ""; for one of several parts see `known_layer`."""
    from keras import layers as kl

    if registered_kind(layer):
        return ""
    kinds: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("dense", (kl.Dense,)),
        ("conv_transpose", (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)),
        ("conv", (kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.DepthwiseConv1D, kl.DepthwiseConv2D)),
        ("batch_normalization", (kl.BatchNormalization,)),
        ("layer_normalization", (kl.LayerNormalization,)),
        ("embedding", (kl.Embedding,)),
        ("group_normalization", (kl.GroupNormalization,)),
        ("rms_normalization", (kl.RMSNormalization,)),
        ("prelu", (kl.PReLU,)),
    )
    return next((kind for kind, classes in kinds if isinstance(layer, classes)), "")


def known_layer(layer: Any) -> str:
    """The kind of a Keras layer, or of one of several parts (`parity.weights.compound`), or ""."""
    return kind_of_layer(layer) or compound_layer(layer)


def sublayers(layer: Any) -> list[Any]:
    """The layers directly inside a layer or model, in order."""
    if hasattr(layer, "layers"):
        return list(layer.layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def named_layers(model: Any) -> list[tuple[str, Any]]:
    """Every layer with its name, through nested models (`encoder/conv_1`), depth first, once each;
    without the layers inside a layer of a known kind."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()

    def walk(name: str, layer: Any) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        found.append((name, layer))
        if not known_layer(layer):
            for inner in sublayers(layer):
                walk(f"{name}/{inner.name}" if name else inner.name, inner)

    if known_layer(model):
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
            found += _read(name, layer, by_name, formats, graph)
        except WeightsError:
            if unknown is None:
                raise
            label = _outermost(name, by_name)
            unknown += [label] if label not in unknown else []
    return found


def _outermost(name: str, layers: dict[str, Any]) -> str:
    """The label of a layer; of a part, such as an LSTM's cell, that of the whole."""
    parts = name.split("/")
    paths = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
    within = (path for path in paths if path in layers and is_stock(layers[path]))
    outer = next(within, name)
    layer = layers[outer]
    return f"{KERAS} {outer or layer.name} ({type(layer).__name__})"


def is_stock(layer: Any) -> bool:
    """Whether the class of a layer is one of Keras's."""
    return type(layer).__module__.startswith(("keras.src.layers", "keras.layers"))


def _data_formats(layers: list[tuple[str, Any]]) -> set[str]:
    """The data formats of all layers that have one, or else the default."""
    from keras import config

    found = {
        str(layer.data_format)
        for _, layer in layers
        if hasattr(layer, "data_format") and type(layer).__name__ != "Flatten"
    }
    return found or {str(config.image_data_format())}


def _read(
    name: str, layer: Any, layers: dict[str, Any], formats: set[str], graph: Graph
) -> list[Layer]:
    """The layer in the common form, or its parts; none if it has no weights of its own."""
    kind = kind_of_layer(layer)
    if known_layer(layer) and not layer.built:
        raise WeightsError(
            f"Keras {name} ({type(layer).__name__}) is not built; call the model on data once"
        )
    if not kind:
        return _read_parts(name, layer, graph)
    known = [getattr(layer, array, None) for array in ARRAYS[kind]]
    strange = [w.name for w in layer.weights if not any(w is one for one in known)]
    if strange or getattr(layer, "rms_scaling", False):
        raise other_kind(KERAS, name, layer, strange or ["a root mean square's scale"])
    _check_axis(name, layer, kind, formats)
    rows, columns = graph.features(layer, kind)
    settings = _settings(layer, kind, graph)
    if kind in ("conv", "conv_transpose") and _may_pad(name, layer, kind, layers):
        settings["may_pad"] = True
    return [
        Layer(
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
    ]


def _read_parts(name: str, layer: Any, graph: Graph) -> list[Layer]:
    """The parts of a layer that is not of a single kind."""
    if compound_layer(layer):
        _check_all_are_held(name, layer)
        rank = len(getattr(layer, "kernel_size", ()))
        padding = graph.padding_before(layer, rank) if rank else []
        return list(layers_of(KERAS, name, layer, parts_of_layer(layer, padding)))
    own = own_weights(layer)
    parts = None if is_stock(layer) else loose_parts(own)
    if own and parts is None and type(layer).__name__ not in _STATES:
        raise other_kind(KERAS, name or layer.name, layer, [w.name for w in own.values()])
    return list(layers_of(KERAS, name or layer.name, layer, parts or []))


def _check_all_are_held(name: str, layer: Any) -> None:
    """Raises `WeightsError` for weights of a layer that none of its parts holds, such as the gate
    of an attention, or those that a derived class adds."""
    held = {id(variable) for variable in variables_of(layer)}
    own = [w for w in layer.weights if "seed_generator" not in w.path]
    strange = [w.path.rpartition(f"{layer.name}/")[2] for w in own if id(w) not in held]
    if strange:
        raise other_kind(KERAS, name, layer, strange)


_STATES = ("Normalization", "SpectralNormalization")
"""Layers that hold no weights but a state: what was adapted to, or the vector of an iteration. (A
SpectralNormalization divides the kernel itself when it trains, so it is what inference uses.)"""


def own_weights(layer: Any) -> dict[str, Any]:
    """The weights of a layer by name, without those of layers inside and states of random seeds."""
    inner = {id(w) for one in sublayers(layer) for w in one.weights}
    own = [w for w in layer.weights if id(w) not in inner]
    own = [w for w in own if "seed_generator" not in w.path]
    names = [w.name for w in own]
    return {w.name if names.count(w.name) == 1 else f"{w.name}_{n}": w for n, w in enumerate(own)}


def _may_pad(name: str, layer: Any, kind: str, layers: dict[str, Any]) -> bool:
    """Whether a function may pad the input of a convolution, or crop a transposed one's output."""
    parts = name.split("/")
    paths = ["", *("/".join(parts[:depth]) for depth in range(1, len(parts)))]
    owners = [layers[path] for path in paths if layers.get(path) not in (None, layer)]
    return is_padded_by_operation(layer) or may_pad(layer, owners, kind)


def _arrays(layer: Any, kind: str) -> dict[str, Array]:
    arrays = {}
    for name in ARRAYS[kind]:
        value = numbers(getattr(layer, name, None))
        if value is None:
            continue
        if name == "alpha" and value.size == max(value.shape):  # shared along the other axes
            value = value.ravel()
        if name == "kernel" and hasattr(layer, "depth_multiplier"):
            value = value.reshape((*value.shape[:-2], 1, math.prod(value.shape[-2:])))
        arrays[name] = value
    return arrays


def input_shape(layer: Any) -> tuple[int | None, ...]:
    """The shape that a layer was built for, with the batch axis; () if it is not known."""
    return tuple((layer.get_build_config() or {}).get("input_shape") or ())


def moved_ranks(model: Any) -> set[int]:
    """The numbers of axes of the arrays whose channels PyTorch has first."""
    found = [
        (layer.data_format, len(input_shape(layer)))
        for _, layer in named_layers(model)
        if hasattr(layer, "data_format") and type(layer).__name__ != "Flatten"
    ]
    if found and found[0][0] == "channels_first":
        return set()
    return {4, 5} | {rank for _, rank in found if rank >= 3}


def _check_axis(name: str, layer: Any, kind: str, formats: set[str]) -> None:
    """PyTorch normalises trailing axes in LayerNorm and RMSNorm, and in BatchNorm and GroupNorm the
    axis of the channels, along which the slopes of its PReLU are, too."""
    rank = len(input_shape(layer))
    if kind in ("layer_normalization", "rms_normalization"):
        axes = sorted(axis - rank if axis >= 0 else axis for axis in layer.axis)
        if rank and axes != list(range(-len(axes), 0)):
            raise WeightsError(
                f"Keras {name} ({type(layer).__name__}) normalises axis {layer.axis} of {rank}; "
                "wanted the last axis or the last few, as in PyTorch"
            )
    if kind == "prelu":
        shape = tuple(layer.alpha.shape)
        varies = [axis for axis, size in enumerate(shape, 1) if size > 1]
        wanted = {rank - 1} | ({1} if "channels_first" in formats else set())
        if rank and len(varies) == 1 and varies[0] not in wanted:
            raise WeightsError(
                f"Keras {name} ({type(layer).__name__}) has a slope for each place along axis "
                f"{varies[0]} of {rank} (shared_axes={layer.shared_axes}), data_format is "
                f"{' and '.join(sorted(formats))!r}; wanted one for each channel, as in PyTorch"
            )
    if kind in ("batch_normalization", "group_normalization"):
        axis = layer.axis % rank if rank else layer.axis
        wanted = {-1, rank - 1} | ({1} if "channels_first" in formats else set())
        if axis not in wanted:
            of = f" of {rank}" if rank else ""
            raise WeightsError(
                f"Keras {name} ({type(layer).__name__}) normalises axis {layer.axis}{of}, "
                f"data_format is {' and '.join(sorted(formats))!r}; wanted the axis of the "
                "channels, as in PyTorch"
            )


def _settings(layer: Any, kind: str, graph: Graph) -> dict[str, Any]:
    if kind == "batch_normalization":
        return {"epsilon": layer.epsilon, "momentum": layer.momentum}
    if kind in ("layer_normalization", "rms_normalization"):
        return {"epsilon": layer.epsilon}
    if kind == "group_normalization":
        channels = input_shape(layer)[layer.axis]
        return {"epsilon": layer.epsilon, "groups": channels if layer.groups < 0 else layer.groups}
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
        pairs = zip(settings["size"], added, strict=True)  # the size before the padding
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
    """The size of the image that a convolution was built for, with None if it was not given."""
    shape = input_shape(layer)
    if len(shape) != rank + 2:
        return [None] * rank
    return list(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])
