"""The parts (`parity.weights.parts`) of the frameworks' own layers that have several: recurrent
layers, separable convolutions, attention."""

from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.layer import ARRAYS, WeightsError, activation_name, plain
from parity.weights.parts import Arrays, Part, is_a, numbers, put, registered_kind, registered_parts

_RECURRENT = {
    "lstm": ("LSTM", "LSTM"),
    "gru": ("GRU", "GRU"),
    "simple_rnn": ("SimpleRNN", "RNN"),
}
"""By kind, the classes of Keras and PyTorch."""

CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
RESETS_BEFORE = (
    "resets before the recurrent product, where PyTorch's GRU resets after it, so no weights make "
    "the two agree; wanted reset_after=True"
)
_ATTENTION = ("query", "key", "value")

ARRAYS.update(
    {
        "lstm": ("kernel", "recurrent_kernel", "bias"),
        "gru": ("kernel", "recurrent_kernel", "bias"),
        "simple_rnn": ("kernel", "recurrent_kernel", "bias"),
        "attention": (
            *(f"{name}_kernel" for name in (*_ATTENTION, "output")),
            *(f"{name}_bias" for name in (*_ATTENTION, "output")),
        ),
        "parameter": ("value",),
    }
)


def compound_layer(layer: Any) -> str:
    """The kind of a Keras layer of several parts, or "" for other layers."""
    if registered_kind(layer):
        return registered_kind(layer)
    for kind, (name, _) in _RECURRENT.items():
        if is_a(layer, name, "keras"):
            return kind
    if is_a(layer, "Bidirectional", "keras") and compound_layer(layer.forward_layer):
        return "bidirectional"
    if is_a(layer, "SeparableConv1D", "keras") or is_a(layer, "SeparableConv2D", "keras"):
        return "separable_conv"
    return "attention" if is_a(layer, "MultiHeadAttention", "keras") else ""


def compound_module(module: Any) -> str:
    """The kind of a PyTorch module of several parts, or "" for other modules."""
    if registered_kind(module):
        return registered_kind(module)
    for kind, (_, name) in _RECURRENT.items():
        if is_a(module, name, "torch"):
            return kind
    return "attention" if is_a(module, "MultiheadAttention", "torch") else ""


def variables_of(layer: Any) -> list[Any]:
    """The variables of a Keras layer that its parts hold; None for those that it does not have."""
    kind = compound_layer(layer)
    if kind == "bidirectional":
        return [*variables_of(layer.forward_layer), *variables_of(layer.backward_layer)]
    if kind in _RECURRENT:
        return [getattr(layer.cell, array, None) for array in ARRAYS[kind]]
    if kind == "separable_conv":
        return [layer.depthwise_kernel, layer.pointwise_kernel, layer.bias]
    if kind == "attention":
        return list(_held_by_attention(layer).values())
    return list(layer.weights)  # a registered kind: its user chose the weights


def parameters_of(module: Any) -> list[str]:
    """The names of the parameters of a PyTorch module that its parts hold."""
    kind = compound_module(module)
    if kind in _RECURRENT:
        return [name for names in module._all_weights for name in names]
    if kind == "attention":
        projections = [f"{name[0]}_proj_weight" for name in _ATTENTION]
        out = ["out_proj.weight", "out_proj.bias"]
        return [*projections, *out, "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"]
    return [name for name, _ in module.named_parameters()]


def suffixes(layer: Any, keras: bool) -> list[str]:
    """The suffixes of the parts, in order."""
    kind = compound_layer(layer) if keras else compound_module(layer)
    if keras:
        pairs = {"bidirectional": ["forward", "backward"]}
        return {**pairs, "separable_conv": ["depthwise", "pointwise"]}.get(kind, [""])
    return _recurrent_suffixes(layer) if kind in _RECURRENT else [""]


def parts_of_layer(layer: Any, padding: Any) -> list[Part]:
    """The parts of a Keras layer; `padding`: the padding of a ZeroPadding right before it."""
    kind = compound_layer(layer)
    if registered_kind(layer):
        return registered_parts(layer)
    if kind in _RECURRENT:
        return [_keras_cell(layer, kind, "")]
    if kind == "bidirectional":
        if layer.merge_mode != "concat":
            raise WeightsError(
                f"Keras {layer.name} (Bidirectional) has merge_mode={layer.merge_mode!r}; wanted "
                "'concat', as in PyTorch"
            )
        both = ("forward", layer.forward_layer), ("backward", layer.backward_layer)
        return [_keras_cell(one, compound_layer(one), suffix) for suffix, one in both]
    if kind == "separable_conv":
        return _separable(layer, padding)
    return [_keras_attention(layer)]


def parts_of_module(module: Any) -> list[Part]:
    """The parts of a PyTorch module."""
    kind = compound_module(module)
    if registered_kind(module):
        return registered_parts(module)
    if kind in _RECURRENT:
        return _torch_recurrent(module, kind)
    return [_torch_attention(module)]


# Recurrent layers: the gates of a GRU are z, r, h in Keras, r, z, n in PyTorch; those of an LSTM
# have the same order


def _keras_cell(layer: Any, kind: str, suffix: str) -> Part:
    cell, name = layer.cell, f"Keras {layer.name} ({type(layer).__name__})"
    if kind == "gru" and not cell.reset_after:
        raise WeightsError(
            f"{name} has reset_after=False, which {RESETS_BEFORE}, or a module of your own and "
            "weights.register"
        )
    for attribute, wanted in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        of_cell = getattr(cell, attribute, None)
        found = wanted if of_cell is None else activation_name(of_cell)
        if found != wanted and not (kind == "simple_rnn" and found == "relu"):
            raise WeightsError(
                f"{name} has {attribute}={found!r}; wanted {wanted!r}, as in PyTorch"
            )
    if layer.go_backwards and suffix != "backward":
        raise WeightsError(f"{name} has go_backwards=True; wanted Bidirectional, as in PyTorch")
    held = {array: getattr(cell, array, None) for array in ARRAYS[kind]}

    def write(values: Arrays) -> None:
        for array, value in values.items():
            put(held[array], value)

    name = activation_name(cell.activation)
    settings = {"activation": name} if kind == "simple_rnn" else {}
    return Part(suffix, kind, {array: numbers(one) for array, one in held.items()}, write, settings)


def _recurrent_suffixes(module: Any) -> list[str]:
    several = module.num_layers > 1 or module.bidirectional
    ends = ("", "_reverse") if module.bidirectional else ("",)
    found = [f"l{number}{end}" for number in range(module.num_layers) for end in ends]
    return found if several else [""]


def _torch_recurrent(module: Any, kind: str) -> list[Part]:
    if getattr(module, "proj_size", 0):
        raise WeightsError(
            f"PyTorch's {type(module).__name__} has proj_size={module.proj_size}, which Keras "
            "does not have; wanted proj_size=0"
        )
    return [_torch_cell(module, kind, suffix) for suffix in _recurrent_suffixes(module)]


def _torch_cell(module: Any, kind: str, suffix: str) -> Part:
    end = suffix or "l0"
    held = {name: getattr(module, f"{name}_{end}", None) for name in CELL}
    arrays = cell_arrays({k: numbers(one) for k, one in held.items() if one is not None}, kind)

    def write(values: Arrays) -> None:
        put(held["weight_ih"], _gates(values["kernel"].T, kind))
        put(held["weight_hh"], _gates(values["recurrent_kernel"].T, kind))
        if "bias" in values:
            bias = values["bias"]
            both = bias if kind == "gru" else np.stack([bias, np.zeros_like(bias)])
            for name, one in zip(("bias_ih", "bias_hh"), both, strict=True):
                put(held[name], _gates(one, kind))

    names = {"kernel": f"weight_ih_{end}", "recurrent_kernel": f"weight_hh_{end}"}
    settings = {"batch_first": module.batch_first}
    if kind == "simple_rnn":
        settings["activation"] = module.nonlinearity
    return Part(suffix, kind, arrays, write, settings, {**names, "bias": f"bias_ih_{end}"})


def cell_arrays(own: Arrays, kind: str) -> Arrays:
    """The arrays of a PyTorch cell in the common form; the two biases are added, except a GRU's."""
    arrays = {
        "kernel": _gates(own["weight_ih"], kind).T,
        "recurrent_kernel": _gates(own["weight_hh"], kind).T,
    }
    if "bias_ih" in own:
        both = [_gates(own[name], kind) for name in ("bias_ih", "bias_hh")]
        arrays["bias"] = np.stack(both) if kind == "gru" else both[0] + both[1]
    return arrays


def _gates(array: Array, kind: str) -> Array:
    """An array with the first two gates of a GRU swapped, along the first axis."""
    if kind != "gru":
        return array
    first, second, third = np.split(array, 3)
    return np.concatenate([second, first, third])


# Separable convolutions: a depthwise one and a pointwise one


def _separable(layer: Any, padding: Any) -> list[Part]:
    rank = len(layer.kernel_size)
    depth = numbers(layer.depthwise_kernel)
    shape = (*layer.kernel_size, 1, depth.shape[-2] * depth.shape[-1])
    first = layer.data_format == "channels_first"
    built = (layer.get_build_config() or {}).get("input_shape") or (None,) * (rank + 2)
    size = list(built[2:] if first else built[1:-1])
    axes = zip(size, padding, strict=True)
    own = {
        "strides": layer.strides,
        "dilation": layer.dilation_rate,
        "groups": depth.shape[-2],
        "padding": [(0, 0)] * rank if layer.padding == "valid" else layer.padding,
        "size": [one and one - sum(pair) for one, pair in axes],
        "added": padding,
    }
    alone = {"strides": [1] * rank, "dilation": [1] * rank, "groups": 1}
    alone |= {"padding": [(0, 0)] * rank, "size": [None] * rank, "added": [(0, 0)] * rank}

    def write_depthwise(values: Arrays) -> None:
        put(layer.depthwise_kernel, values["kernel"])

    def write_pointwise(values: Arrays) -> None:
        put(layer.pointwise_kernel, values["kernel"])
        if "bias" in values:
            put(layer.bias, values["bias"])

    common = {"padding_mode": "zeros"}
    settings = [
        plain({"kernel_size": layer.kernel_size, **common, **own}),
        plain({"kernel_size": [1] * rank, **common, **alone}),
    ]
    pointwise = {"kernel": numbers(layer.pointwise_kernel), "bias": numbers(layer.bias)}
    return [
        Part("depthwise", "conv", {"kernel": depth.reshape(shape)}, write_depthwise, settings[0]),
        Part("pointwise", "conv", pointwise, write_pointwise, settings[1]),
    ]


# Attention: Keras has a kernel (features, heads, size) for each of query, key and value


def _held_by_attention(layer: Any) -> dict[str, Any]:
    held = {}
    for name in (*_ATTENTION, "output"):
        dense = getattr(layer, f"_{name}_dense")
        held[f"{name}_kernel"], held[f"{name}_bias"] = dense.kernel, dense.bias
    return held


def _keras_attention(layer: Any) -> Part:
    window = getattr(layer, "_sliding_window", None)
    if window is not None:
        raise WeightsError(
            f"Keras {layer.name} (MultiHeadAttention) has sliding_window={window}, which PyTorch's "
            "does not have; wanted None"
        )
    held = _held_by_attention(layer)

    def write(values: Arrays) -> None:
        for array, value in values.items():
            put(held[array], value)

    return Part("", "attention", {name: numbers(one) for name, one in held.items()}, write)


def _torch_attention(module: Any) -> Part:
    if module.bias_k is not None or module.bias_v is not None:
        raise WeightsError(
            "PyTorch's MultiheadAttention has add_bias_kv=True, which Keras does not have; wanted "
            "False"
        )
    if module.add_zero_attn:
        raise WeightsError(
            "PyTorch's MultiheadAttention has add_zero_attn=True, which Keras does not have; "
            "wanted False"
        )
    width = module.embed_dim
    together = module.in_proj_weight is not None
    names = [*(f"{name[0]}_proj_weight" for name in _ATTENTION), "in_proj_weight", "in_proj_bias"]
    held = {name: getattr(module, name) for name in names}
    held |= {f"out_proj.{name}": getattr(module.out_proj, name) for name in ("weight", "bias")}
    own = {name: numbers(one) for name, one in held.items() if one is not None}
    arrays = attention_arrays(own, module.num_heads)

    def write(values: Arrays) -> None:
        kernels = [values[f"{name}_kernel"].reshape(-1, width).T for name in _ATTENTION]
        if together:
            put(module.in_proj_weight, np.concatenate(kernels))
        else:
            for name, kernel in zip(_ATTENTION, kernels, strict=True):
                put(getattr(module, f"{name[0]}_proj_weight"), kernel)
        if module.in_proj_bias is not None:
            flat = [values[f"{name}_bias"].ravel() for name in _ATTENTION]
            put(module.in_proj_bias, np.concatenate(flat))
        put(module.out_proj.weight, values["output_kernel"].reshape(-1, width).T)
        if "output_bias" in values:
            put(module.out_proj.bias, values["output_bias"])

    return Part("", "attention", arrays, write, {"batch_first": module.batch_first})


def attention_arrays(own: Arrays, heads: int) -> Arrays:
    """The arrays of PyTorch's attention in the common form."""
    if "in_proj_weight" in own:
        kernels = np.split(own["in_proj_weight"], 3)
    else:
        kernels = [own[f"{name[0]}_proj_weight"] for name in _ATTENTION]
    out = own["out_proj.weight"].T
    size = len(out) // heads
    arrays: Arrays = {
        f"{name}_kernel": kernel.T.reshape(-1, heads, size)
        for name, kernel in zip(_ATTENTION, kernels, strict=True)
    }
    if "in_proj_bias" in own:
        biases = np.split(own["in_proj_bias"], 3)
        for name, bias in zip(_ATTENTION, biases, strict=True):
            arrays[f"{name}_bias"] = bias.reshape(heads, size)
    arrays["output_kernel"] = out.reshape(heads, size, -1)
    if "out_proj.bias" in own:
        arrays["output_bias"] = own["out_proj.bias"]
    return arrays
