"""Puts a bias right before a BatchNormalization into the mean that the latter subtracts.

keras.applications' ResNets have both, torchvision's have no bias there. With the bias b,
BatchNormalization gives gamma (x + b - mean) / std + beta: the same as without b, with mean - b.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from parity.weights.keras_layers import is_stock
from parity.weights.layer import Layer, activation_name, is_keras
from parity.weights.match import Pairs
from parity.weights.trace import Trace, consumers

_WITH_BIAS = ("dense", "conv", "conv_transpose")


def folded(pairs: Pairs, trace: Trace | None) -> Pairs:
    """The pairs. A bias that the target does not have goes into the mean of the BatchNormalization
    after it, if nothing else takes the output of the layer.

    `trace`: that of the source.
    """
    if trace is None:
        return pairs
    changed: dict[int, Layer] = {}
    by_handle = {id(source.handle): source for source, _ in pairs}
    behind = consumers(trace)
    for source, target in pairs:
        bias = source.arrays.get("bias")
        if source.kind not in _WITH_BIAS or bias is None or "bias" in target.arrays:
            continue
        norm = _norm_behind(source, trace, behind, by_handle)
        if np.any(bias) and norm is not None and id(norm) not in changed:
            mean = norm.arrays["moving_mean"] - bias
            changed[id(norm)] = replace(norm, arrays={**norm.arrays, "moving_mean": mean})
            left = {name: value for name, value in source.arrays.items() if name != "bias"}
            changed[id(source)] = replace(source, arrays=left)
    return [(changed.get(id(source), source), target) for source, target in pairs]


def _norm_behind(
    source: Layer, trace: Trace, behind: Any, by_handle: dict[int, Layer]
) -> Layer | None:
    """The BatchNormalization that alone takes the output of a layer, and no other input."""
    if not _is_plain(source.handle):
        return None
    calls = trace.of(source.handle)
    then = [one for call in calls for one in behind.get(id(call), [])]
    norms = {id(one.layer) for one in then}
    outputs = any(call is one for call in calls for one in trace.outputs)
    if len(norms) != 1 or outputs or len(then) != len(calls):
        return None
    norm = by_handle.get(norms.pop())
    if norm is None or norm.kind != "batch_normalization" or "moving_mean" not in norm.arrays:
        return None
    same = len(trace.of(norm.handle)) == len(calls)
    return (
        norm if same and norm.arrays["moving_mean"].shape == source.arrays["bias"].shape else None
    )


def _is_plain(layer: Any) -> bool:
    """Whether a layer returns its sums unchanged: no activation, no forward of its own."""
    if is_keras(layer):
        activation = getattr(layer, "activation", None)
        linear = activation is None or activation_name(activation) == "linear"
        return is_stock(layer) and linear
    return type(layer).__module__.startswith("torch.nn.modules")
