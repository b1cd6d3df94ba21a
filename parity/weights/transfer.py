"""Weights carried from one model to another: paired, checked, reordered, written."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.naming import nearest
from parity.weights.files import read_file, write_file
from parity.weights.flatten import image_order, permutation
from parity.weights.layer import ARRAYS, KERAS, PYTORCH, Layer, WeightsError, in_own_layout
from parity.weights.read import assign, read, storage
from parity.weights.settings import CARRIED, check_settings, same_setting

FILLS = {"gamma": 1.0, "beta": 0.0}
Flatten = str | Mapping[str, Sequence[int]]


def copy(
    source: Any,
    target: Any,
    *,
    layers: Mapping[str, str] | None = None,
    flatten: Flatten = "channels_first",
    settings: str = "check",
) -> list[tuple[str, str]]:
    """Copy all weights of one model into another, in place; nothing is written unless all fits.

    Args:
        source: a Keras model of any kind, built, or a `torch.nn.Module`.
        target: likewise, of the same framework or the other. Values are cast to its dtypes.
        layers: `{source name: target name}` for all layers with weights. By default they are
            paired in order: Keras's in that of `model.layers`, through nested models
            (`encoder/conv_1`), PyTorch's in that of `named_modules`.
        flatten: what PyTorch's model does where Keras's flattens an image on its way into a Dense,
            or makes one of what a Dense gave. `"channels_first"`: flattens (channels, height,
            width), so the Dense's rows (or columns) are reordered. `"channels_last"`: it permutes
            to channels last itself, so they stay. Flattening is found in the graph of a functional
            or sequential Keras model; a subclassed one has none: `{"dense": (height, width,
            channels)}` names the Keras layers that get a flattened image and its shape (wherever
            there is a graph, it is still used for the other layers).
        settings: `"check"`: epsilon, momentum, strides, dilation, groups and padding must agree.
            `"copy"`: epsilon and momentum are carried over too, the others must agree. (Do it
            before training: what Keras compiled keeps the old ones until `compile`.) `"ignore"`:
            none is looked at. `nn.ZeroPad2d` right before a convolution is seen, and Keras's
            ZeroPadding. Where a `forward` calls a function that pads (`F.pad`, or that of a layer's
            own forward, as timm's Conv2dSame), padding that lacks is left to
            `parity.assert_model_parity`, the other settings must agree all the same.

    Over several axes, the arrays of LayerNormalization keep their order.

    Returns the pairs `(source name, target name)`.

    Raises `TypeError` for what is no model; `WeightsError`, a `ValueError`, that names both layers
    where kinds, shapes, counts or settings differ, or where two layers of the target share weights
    and the source has two values for them; for names that are not known, layers that are not built,
    a BatchNormalization over another axis than the channels', and weights of unknown kinds.
    """
    _check_options(flatten, settings)
    read_both = read(source, "source"), read(target, "target")
    return _carry(*read_both, layers, flatten, settings)


def save(model: Any, path: str | Path) -> None:
    """Write the weights of a model of either framework, and the settings that matter, to a
    safetensors file, in Keras's layout.

    Raises as `copy` does for a model that cannot be read, `WeightsError` where there is no such
    folder, or `path` is one.
    """
    write_file(Path(path), read(model))


def load(
    path: str | Path,
    model: Any,
    *,
    layers: Mapping[str, str] | None = None,
    flatten: Flatten = "channels_first",
    settings: str = "check",
) -> list[tuple[str, str]]:
    """Copy the weights of a file that `save` wrote into a model of either framework, in place.

    Everything else as in `copy`, the file being the source. Raises `WeightsError` besides for a
    file that is missing, truncated, no safetensors file, of another kind or format, or whose header
    makes no sense.
    """
    _check_options(flatten, settings)
    return _carry(read_file(Path(path)), read(model), layers, flatten, settings)


def _check_options(flatten: Flatten, settings: str) -> None:
    if not isinstance(flatten, Mapping) and flatten not in ("channels_first", "channels_last"):
        raise ValueError(
            f"flatten is {flatten!r}; wanted 'channels_first', 'channels_last', or a dictionary "
            "from names of Keras layers to (height, width, channels)"
        )
    if settings not in ("check", "copy", "ignore"):
        raise ValueError(f"settings is {settings!r}; wanted 'check', 'copy' or 'ignore'")


def _carry(
    sources: list[Layer],
    targets: list[Layer],
    layers: Mapping[str, str] | None,
    flatten: Flatten,
    settings: str,
) -> list[tuple[str, str]]:
    """Pair, check everything, then write."""
    paired = pair(sources, targets, layers)
    _check_known(flatten, paired)
    arrays = [fitted(*both, flatten, number) for number, both in enumerate(paired, 1)]
    _check_tied(paired, arrays)
    if settings != "ignore":
        check_settings(paired, settings == "copy")
    for (source, target), values in zip(paired, arrays, strict=True):
        changed = {
            key: value
            for key, value in source.settings.items()
            if settings == "copy"
            and key in CARRIED
            and not same_setting(value, target.settings[key])
        }
        assign(target, values, changed)
    return [(source.name, target.name) for source, target in paired]


def _check_tied(paired: list[tuple[Layer, Layer]], arrays: list[dict[str, Array]]) -> None:
    """Raises `WeightsError` where two values would go to weights that the target ties."""
    seen: dict[int, tuple[Layer, Layer, Array]] = {}
    for (source, target), values in zip(paired, arrays, strict=True):
        for name, value in values.items():
            own = in_own_layout(target, name, value)
            first = seen.setdefault(storage(target, name), (source, target, own))
            if own.size and not np.array_equal(first[2], own, equal_nan=True):
                raise WeightsError(
                    f"{first[1].label} and {target.label} share their {target.own_name(name)}, but "
                    f"those of {first[0].label} and {source.label} differ; wanted equal ones, or a "
                    "target that does not tie them"
                )


def _unknown(name: str, known: Sequence[str], argument: str) -> WeightsError:
    near = nearest(name, known)
    hint = f"did you mean {near!r}? They" if near else "they"
    names = ", ".join(known) or "none"
    return WeightsError(f"{argument}: no layer with weights is called {name!r}; {hint} are {names}")


def pair(
    sources: list[Layer], targets: list[Layer], layers: Mapping[str, str] | None = None
) -> list[tuple[Layer, Layer]]:
    """Who belongs to whom, by order or by the map; raises `WeightsError` where the count or a kind
    differs, or the map leaves a layer out."""
    if layers is not None:
        return _mapped(sources, targets, layers)
    for number, (source, target) in enumerate(zip(sources, targets, strict=False), 1):
        if source.kind != target.kind:
            raise _misfit(number, source, target, source.first)
    if len(sources) != len(targets):
        longer, shorter = sorted((sources, targets), key=len, reverse=True)
        extra = longer[len(shorter)]
        raise WeightsError(
            f"{len(sources)} layers with weights in the source, {len(targets)} in the target: "
            f"{extra.described(extra.first)} has no partner"
        )
    return list(zip(sources, targets, strict=True))


def _mapped(
    sources: list[Layer], targets: list[Layer], layers: Mapping[str, str]
) -> list[tuple[Layer, Layer]]:
    chosen = list(
        zip(_named(sources, list(layers)), _named(targets, list(layers.values())), strict=True)
    )
    for number, (source, target) in enumerate(chosen, 1):
        if source.kind != target.kind:
            raise _misfit(number, source, target, source.first)
    return chosen


def _named(found: list[Layer], names: list[str]) -> list[Layer]:
    """The layers in the order of the names, which must be all of theirs, each once."""
    by_name = {layer.name: layer for layer in found}
    for name in names:
        if name not in by_name:
            raise _unknown(name, list(by_name), "layers")
        if names.count(name) > 1:
            raise WeightsError(f"layers names {name!r} twice")
    for layer in found:
        if layer is not by_name[layer.name]:
            raise WeightsError(f"two layers are called {layer.name!r}; wanted other names")
        if layer.name not in names:
            raise WeightsError(f"layers leaves out {layer.label}; wanted all layers with weights")
    return [by_name[name] for name in names]


def _misfit(number: int, source: Layer, target: Layer, array: str) -> WeightsError:
    name = array if array in target.arrays or source.kind == target.kind else target.first
    return WeightsError(
        f"layer {number}: {source.described(array)} does not fit {target.described(name)}"
    )


def fitted(source: Layer, target: Layer, flatten: Flatten, number: int) -> dict[str, Array]:
    """The arrays of a layer as its partner takes them, reordered and cast.

    Raises `WeightsError`: shapes that differ, arrays that are absent on one side and no identity,
    values that the partner's dtype cannot hold.
    """
    values = {}
    orders = orders_of(source, target, flatten)
    for name in ARRAYS[source.kind]:
        value, held = source.arrays.get(name), target.arrays.get(name)
        if value is None and held is not None and name in FILLS:
            value = np.full_like(held, FILLS[name])  # PyTorch has both of the two or none
        if value is None and held is None:
            continue
        if held is None and name in FILLS and value is not None and np.all(value == FILLS[name]):
            continue
        if value is None or held is None or value.shape != held.shape:
            raise _misfit(number, source, target, name)
        turned = reordered(value, name, orders, source, target)
        with np.errstate(over="ignore"):
            values[name] = turned.astype(held.dtype)
        if np.any(np.isfinite(turned) & ~np.isfinite(values[name])):
            raise WeightsError(
                f"layer {number}: {source.described(name)} holds {np.abs(turned).max():g}, beyond "
                f"{held.dtype} of {target.described(name)}"
            )
    return values


def orders_of(source: Layer, target: Layer, flatten: Flatten) -> tuple[Any, Any]:
    """The orders of the rows and columns of Keras's layer, where its partner has PyTorch's."""
    if source.framework == target.framework or flatten == "channels_last":
        return None, None
    keras = source if source.framework == KERAS else target
    if isinstance(flatten, Mapping) and keras.name in flatten:
        return image_order(flatten[keras.name], "channels_last"), keras.columns
    if keras.unsure:
        raise WeightsError(
            f"{keras.label} seems to get a flattened image, but the model has no graph to see it "
            f"in: wanted flatten={{{keras.name!r}: {tuple(keras.unsure)}}} if so, or "
            "flatten='channels_last' where the PyTorch model flattens channels last"
        )
    return keras.rows, keras.columns


def reordered(
    array: Array, name: str, orders: tuple[Any, Any], source: Layer, target: Layer
) -> Array:
    axes = {"kernel": (0, -1), "bias": (None, 0)}.get(name, (0, None))
    for axis, order in zip(axes, orders, strict=True):
        if axis is None or order is None or source.kind not in FLAT_KINDS:
            continue
        count = sum(math.prod(shape) for shape, _ in order)
        if count != array.shape[axis]:
            keras = source if source.framework == KERAS else target
            raise WeightsError(
                f"{keras.described(name)} does not fit a flattened image of {count} numbers"
            )
        places = permutation(order)
        array = np.take(array, places if source.framework == PYTORCH else np.argsort(places), axis)
    return array


FLAT_KINDS = ("dense", "batch_normalization", "layer_normalization")


def _check_known(flatten: Flatten, paired: list[tuple[Layer, Layer]]) -> None:
    """The dictionary names layers of Keras and gives whole shapes."""
    if not isinstance(flatten, Mapping):
        return
    known = [
        layer.name
        for both in paired
        for layer in both
        if layer.framework == KERAS and layer.kind in FLAT_KINDS
    ]
    for name, shape in flatten.items():
        if name not in known:
            raise _unknown(name, known, "flatten")
        whole = isinstance(shape, Sequence) and all(isinstance(n, int) and n > 0 for n in shape)
        if not whole or len(shape) < 2:
            raise WeightsError(
                f"flatten[{name!r}] is {shape!r}; wanted the shape of the image, channels last"
            )
