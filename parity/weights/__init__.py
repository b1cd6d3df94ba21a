"""Carry weights between models of Keras and PyTorch, in any combination, and through a file.

    from parity import weights

    weights.copy(keras_model, torch_model)
    weights.save(keras_model, "model.safetensors")
    weights.load("model.safetensors", torch_model)

Known layers: Dense (Linear); Conv and ConvTranspose in one to three dimensions, with strides,
dilation and groups; DepthwiseConv (a Conv with groups); BatchNormalization; LayerNormalization;
Embedding. Layers with weights of another kind are refused by name; layers without weights are not
looked at, nor are a module's own buffers.

What the frameworks do differently, and what is done about it:

- Kernels are transposed. A fused `activation=` of a Keras layer does not matter.
- Keras's `momentum` of BatchNormalization is 1 minus PyTorch's, and its `epsilon` defaults to 1e-3,
  PyTorch's to 1e-5: see `settings` of `copy`.
- PyTorch's running variance is that of n/(n - 1), Keras's is not. The numbers that are carried over
  are the same and give the same inference; one training step on n values per channel then moves
  the two apart by that factor in what it adds. `num_batches_tracked` is left alone.
- Keras flattens an image as (height, width, channels), PyTorch as (channels, height, width): see
  `flatten` of `copy`.
- Keras's strided `same` pads more at the end than before: see `same_padding`.
"""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from parity.inputs import Array
from parity.records import write_atomically
from parity.weights.flatten import image_order, permutation
from parity.weights.layers import ARRAYS, KERAS, PYTORCH, Layer, WeightsError, assign, read
from parity.weights.padding import same_padding
from parity.weights.settings import CARRIED, same_setting, setting_differences

__all__ = ["WeightsError", "copy", "load", "same_padding", "save"]

FORMAT = "1"
_MADE_BY = "segact-weights"
_FIELDS = ("framework", "name", "class_name", "kind", "settings", "rows", "columns", "unsure")
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
            none is looked at. Padding that PyTorch's `forward` adds by function is not seen;
            `nn.ZeroPad2d` right before the convolution is, and Keras's ZeroPadding.

    Over several axes, the arrays of LayerNormalization keep their order.

    Returns the pairs `(source name, target name)`.

    Raises `TypeError` for what is no model; `WeightsError`, a `ValueError`, that names both layers
    where kinds, shapes, counts or settings differ, for names that are not known, layers that are
    not built, and weights of unknown kinds.
    """
    _check_options(flatten, settings)
    taken, given = read(source, "source"), read(target, "target")
    return _carry(taken, given, layers, flatten, settings)


def save(model: Any, path: str | Path) -> None:
    """Write the weights of a model of either framework, and the settings that matter, to a
    safetensors file, in Keras's layout.

    Raises as `copy` does for a model that cannot be read, `WeightsError` where there is no such
    folder.
    """
    path = Path(path)
    found = read(model)
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: no such folder")
    tensors = {
        f"{number}.{layer.name}/{name}": np.array(array, order="C")
        for number, layer in enumerate(found)
        for name, array in layer.arrays.items()
    }
    described = [{key: getattr(layer, key) for key in _FIELDS} for layer in found]
    header = {"format": f"{_MADE_BY} {FORMAT}", "layers": json.dumps(described)}
    write_atomically(path, to_bytes(tensors, metadata=header))


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
    file that is missing, truncated, no safetensors file, of another kind or format.
    """
    _check_options(flatten, settings)
    return _carry(_read_file(Path(path)), read(model), layers, flatten, settings)


def _check_options(flatten: Flatten, settings: str) -> None:
    if not isinstance(flatten, Mapping) and flatten not in ("channels_first", "channels_last"):
        raise ValueError(
            f"flatten is {flatten!r}; wanted 'channels_first', 'channels_last', or a dictionary "
            "from names of Keras layers to (height, width, channels)"
        )
    if settings not in ("check", "copy", "ignore"):
        raise ValueError(f"settings is {settings!r}; wanted 'check', 'copy' or 'ignore'")


def _carry(
    source: list[Layer],
    target: list[Layer],
    layers: Mapping[str, str] | None,
    flatten: Flatten,
    settings: str,
) -> list[tuple[str, str]]:
    """Pair, check everything, then write."""
    paired = pair(source, target, layers)
    _check_known(flatten, paired)
    arrays = [fitted(*both, flatten, number) for number, both in enumerate(paired, 1)]
    if settings != "ignore":
        _check_settings(paired, settings == "copy")
    for (one, other), values in zip(paired, arrays, strict=True):
        changed = {
            key: value
            for key, value in one.settings.items()
            if settings == "copy"
            and key in CARRIED
            and not same_setting(value, other.settings[key])
        }
        assign(other, values, changed)
    return [(one.name, other.name) for one, other in paired]


def _check_settings(paired: list[tuple[Layer, Layer]], carried: bool) -> None:
    """Raises `WeightsError` with all settings that differ; `carried`: those that are copied may."""
    lines = []
    for one, other in paired:
        for key, text in setting_differences(one, other).items():
            if key not in CARRIED:
                lines.append(f"{one.label} and {other.label}: {text}")
            elif not carried:
                lines.append(f"{one.label} and {other.label}: {text}, or settings='copy'")
    if lines:
        many = f"{len(lines)} settings differ" if len(lines) > 1 else "a setting differs"
        raise WeightsError(f"{many}, so the two models would not agree:\n" + "\n".join(lines))


def _unknown(name: str, known: Sequence[str], argument: str) -> WeightsError:
    near = get_close_matches(name, known, 1, 0.0)
    return WeightsError(
        f"{argument}: no layer with weights is called {name!r}; the nearest is "
        f"{near[0] if near else 'none'!r}"
    )


def pair(
    source: list[Layer], target: list[Layer], layers: Mapping[str, str] | None = None
) -> list[tuple[Layer, Layer]]:
    """Who belongs to whom, by order or by the map; raises `WeightsError` where the count or a kind
    differs, or the map leaves a layer out."""
    if layers is not None:
        return _mapped(source, target, layers)
    for number, (one, other) in enumerate(zip(source, target, strict=False), 1):
        if one.kind != other.kind:
            raise _misfit(number, one, other, one.first)
    if len(source) != len(target):
        longer, shorter = sorted((source, target), key=len, reverse=True)
        extra = longer[len(shorter)]
        raise WeightsError(
            f"{len(source)} layers with weights in the source, {len(target)} in the target: "
            f"{extra.described(extra.first)} has no partner"
        )
    return list(zip(source, target, strict=True))


def _mapped(
    source: list[Layer], target: list[Layer], layers: Mapping[str, str]
) -> list[tuple[Layer, Layer]]:
    ones = _named(source, list(layers))
    others = _named(target, list(layers.values()))
    chosen = list(zip(ones, others, strict=True))
    for number, (one, other) in enumerate(chosen, 1):
        if one.kind != other.kind:
            raise _misfit(number, one, other, one.first)
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


def _misfit(number: int, one: Layer, other: Layer, array: str) -> WeightsError:
    name = array if array in other.arrays or one.kind == other.kind else other.first
    return WeightsError(
        f"layer {number}: {one.described(array)} does not fit {other.described(name)}"
    )


def fitted(one: Layer, other: Layer, flatten: Flatten, number: int) -> dict[str, Array]:
    """The arrays of a layer as its partner takes them, reordered and cast.

    Raises `WeightsError`: shapes that differ, arrays that are absent on one side and no identity,
    values that the partner's dtype cannot hold.
    """
    values = {}
    orders = orders_of(one, other, flatten)
    for name in ARRAYS[one.kind]:
        mine, theirs = one.arrays.get(name), other.arrays.get(name)
        if mine is None and theirs is not None and name in FILLS:
            mine = np.full_like(theirs, FILLS[name])  # PyTorch has both of the two or none
        if mine is None and theirs is None:
            continue
        if theirs is None and name in FILLS and mine is not None and np.all(mine == FILLS[name]):
            continue
        if mine is None or theirs is None or mine.shape != theirs.shape:
            raise _misfit(number, one, other, name)
        turned = reordered(mine, name, orders, one, other)
        with np.errstate(over="ignore"):
            values[name] = turned.astype(theirs.dtype)
        if np.any(np.isfinite(turned) & ~np.isfinite(values[name])):
            raise WeightsError(
                f"layer {number}: {one.described(name)} holds {np.abs(turned).max():g}, beyond "
                f"{theirs.dtype} of {other.described(name)}"
            )
    return values


def orders_of(one: Layer, other: Layer, flatten: Flatten) -> tuple[Any, Any]:
    """The orders of the rows and columns of Keras's layer, where its partner has PyTorch's."""
    if one.framework == other.framework or flatten == "channels_last":
        return None, None
    keras = one if one.framework == KERAS else other
    if isinstance(flatten, Mapping) and keras.name in flatten:
        return image_order(flatten[keras.name], "channels_last"), keras.columns
    if keras.unsure:
        raise WeightsError(
            f"{keras.label} seems to get a flattened image, but the model has no graph to see it "
            f"in: wanted flatten={{{keras.name!r}: {tuple(keras.unsure)}}} if so, or "
            "flatten='channels_last' where the PyTorch model flattens channels last"
        )
    return keras.rows, keras.columns


def reordered(array: Array, name: str, orders: tuple[Any, Any], one: Layer, other: Layer) -> Array:
    axes = {"kernel": (0, -1), "bias": (None, 0)}.get(name, (0, None))
    for axis, order in zip(axes, orders, strict=True):
        if axis is None or order is None or one.kind not in FLAT_KINDS:
            continue
        places = permutation(order)
        if len(places) != array.shape[axis]:
            keras = one if one.framework == KERAS else other
            raise WeightsError(
                f"{keras.described(name)} does not fit a flattened image of {len(places)} numbers"
            )
        array = np.take(array, places if one.framework == PYTORCH else np.argsort(places), axis)
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


# Files


def _read_file(path: Path) -> list[Layer]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise WeightsError(f"{path}: truncated or not a safetensors file ({error})") from error
    made_by, _, number = header.get("format", "").partition(" ")
    if made_by != _MADE_BY:
        raise WeightsError(f"{path}: a safetensors file, but not one of parity.weights")
    if number != FORMAT:
        raise WeightsError(f"{path}: weights format {number or 'unknown'}, this is format {FORMAT}")
    try:
        described = json.loads(header["layers"])
        layers = [Layer(**_known_fields(one), arrays={}) for one in described]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: the layers in the file's header cannot be read") from error
    for key, array in tensors.items():
        place, _, rest = key.partition(".")
        name, _, of = rest.rpartition("/")
        fits = place.isdecimal() and int(place) < len(layers)
        if not (fits and layers[int(place)].name == name and of in ARRAYS[layers[int(place)].kind]):
            raise WeightsError(f"{path}: {key} belongs to none of the layers in the file's header")
        layers[int(place)].arrays[of] = array
    return layers


def _known_fields(described: dict[str, Any]) -> dict[str, Any]:
    """The fields of a layer in a file's header; raises `ValueError` for another kind of layer."""
    if described["kind"] not in ARRAYS or described["framework"] not in (KERAS, PYTORCH):
        raise ValueError(described["kind"])
    return {key: described[key] for key in _FIELDS}
