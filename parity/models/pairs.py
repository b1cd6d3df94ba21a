"""The pairs of layers that are compared, also of models with layers of unknown kinds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.layer import Layer, WeightsError
from parity.weights.match import Pairs
from parity.weights.pairing import Traces, fitting, pair
from parity.weights.read import read


@dataclass
class Paired:
    """The pairs. `unknown`, `single`: the labels of layers with weights that are in no pair, since
    their kind is not known or no layer fits; `why`: why not all layers are in pairs. `sure`: the
    pairs that have the same weights, or for which there is no other choice. If the order of the
    layers does not fit, `layers` is the map that was used, and `apart` says why."""

    pairs: Pairs = field(default_factory=list)
    sure: Pairs = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    why: str = ""
    layers: dict[str, str] = field(default_factory=dict)
    apart: str = ""


def paired(keras_model: Any, torch_model: Any, layers: Mapping[str, str] | None) -> Paired:
    """The pairs of layers with weights of two models.

    By order or by the map, as in `parity.weights.copy`. If that fails, since kinds are unknown or
    the models have different layers: the layers that fit each other, in order.
    """
    unknown: list[str] = []
    keras = read(keras_model, "keras_model", unknown)
    pytorch = read(torch_model, "torch_model", unknown)
    try:
        found = pair(keras, pytorch, _known(layers, keras, pytorch) if unknown else layers)
        return Paired(found, found, unknown, why="" if found else "no layer has weights")
    except WeightsError as error:
        if layers is not None:  # a pair that the user named must not be left out silently
            raise
        why = str(error)
    found = _aligned(keras, pytorch)
    often = [Counter(map(_signature, side)) for side in (keras, pytorch)]
    sure = [
        both
        for both in found
        if _same_weights(*both) or all(count[_signature(both[0])] == 1 for count in often)
    ]
    return Paired(found, sure, unknown, _single([*keras, *pytorch], found), why)


def repaired(found: Paired, keras_model: Any, torch_model: Any) -> Paired:
    """The pairs by the map that `parity.weights.copy` prints if the order of the layers disagrees
    with their shapes, calls or names. `found` unchanged if it does not disagree, or if more pairs
    have the same weights by order."""
    unknown: list[str] = []
    keras = read(keras_model, "keras_model", unknown)
    pytorch = read(torch_model, "torch_model", unknown)
    traces = Traces(keras_model, torch_model)
    for sides in ((keras, pytorch), fitting(keras, pytorch)):
        try:
            pair(*sides, None, traces)
        except WeightsError as error:
            if error.layers is None:
                continue
            better = pair(*sides, error.layers)
            if _alike(better) < _alike(found.pairs):
                return found
            single = _single([*keras, *pytorch], better)
            apart = str(error).partition(":\n")[0]
            return Paired(better, better, unknown, single, "", error.layers, apart)
        return found
    return found


def _single(layers: list[Layer], pairs: Pairs) -> list[str]:
    """The labels of the layers that are in no pair."""
    paired = {id(layer) for both in pairs for layer in both}
    return [layer.label for layer in layers if id(layer) not in paired]


def _alike(pairs: Pairs) -> int:
    """How many pairs have the same weights."""
    return sum(_same_weights(*both) for both in pairs)


def _known(
    layers: Mapping[str, str] | None, keras: list[Layer], pytorch: list[Layer]
) -> Mapping[str, str] | None:
    """The map without the pairs of which neither layer is of a known kind."""
    if layers is None:
        return None
    names = [{layer.name for layer in side} for side in (keras, pytorch)]
    return {k: p for k, p in layers.items() if k in names[0] or p in names[1]}


def _aligned(keras: list[Layer], pytorch: list[Layer]) -> Pairs:
    """The most pairs of one kind and shape that keep the order of both models; if there are several
    choices, the one in which most pairs have the same weights."""
    worth = [[_worth(one, other) for other in pytorch] for one in keras]
    best = np.zeros((len(keras) + 1, len(pytorch) + 1), dtype=np.int64)  # from i and j on
    for i in reversed(range(len(keras))):
        for j in reversed(range(len(pytorch))):
            paired_here = worth[i][j] + best[i + 1, j + 1] if worth[i][j] else 0
            best[i, j] = max(paired_here, best[i + 1, j], best[i, j + 1])
    found, i, j = [], 0, 0
    while i < len(keras) and j < len(pytorch):
        if worth[i][j] and best[i, j] == worth[i][j] + best[i + 1, j + 1]:
            found.append((keras[i], pytorch[j]))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return found


def _worth(one: Layer, other: Layer) -> int:
    if _signature(one) != _signature(other):
        return 0
    return 3 if _same_weights(one, other) else 2


def _signature(layer: Layer) -> tuple[Any, ...]:
    return layer.kind, layer.arrays[layer.first].shape if layer.first else ()


def _same_weights(one: Layer, other: Layer) -> bool:
    """Whether the arrays have the same sums, whatever the order of their entries."""
    common = sorted(set(one.arrays) & set(other.arrays))
    return bool(common) and all(
        np.isclose(_size(one.arrays[name]), _size(other.arrays[name]), rtol=1e-5, atol=0)
        for name in common
    )


def _size(array: Array) -> float:
    return float(np.sum(np.abs(array), dtype=np.float64))
