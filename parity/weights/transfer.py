"""Copies weights from one model to another: pairs, checks, reorders, writes."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from parity.common.arrays import Array
from parity.weights.calls import Calls, calls_as_json, calls_of_json
from parity.weights.file_pairs import check_flatten, pair_file
from parity.weights.files import read_calls, read_file, write_file
from parity.weights.flatten import image_order, permutation
from parity.weights.folding import folded
from parity.weights.keras_file import read_keras_file
from parity.weights.keras_trace import trace_keras
from parity.weights.layer import (
    ARRAYS,
    KERAS,
    PYTORCH,
    Layer,
    WeightsError,
    channels_moved,
    first_sentence,
    in_own_layout,
    is_keras,
)
from parity.weights.match import OVER_AXES, Pairs
from parity.weights.orders import FLAT_KINDS, ORDERED, Finder, Unclear, as_blocks, check_groups
from parity.weights.pairing import (
    Traces,
    check_map,
    fitting,
    misfit,
    pair,
    unknown_layer,
    with_weights,
)
from parity.weights.pytorch_trace import trace_by_layers
from parity.weights.read import assign, read, storage
from parity.weights.settings import CARRIED, check_settings, same_setting
from parity.weights.state_dict import PICKLED, entries_of, pair_entries, read_pickled
from parity.weights.trace import Trace

FILLS = {"gamma": 1.0, "scale": 1.0, "beta": 0.0, "bias": 0.0}
FILLS |= {f"{name}_bias": 0.0 for name in ("query", "key", "value", "output")}
Flatten = str | Mapping[str, Sequence[int]]
Orders = tuple[Any, Any]
_AXES = {"kernel": (0, -1), "bias": (None, 0), "recurrent_kernel": (None, None)}
"""The axes of an array along which the features come in and go out; of others, (0, None)."""
_OF_KERAS = (".keras", ".h5", ".hdf5")
_FLATTENS = ("auto", "channels_first", "channels_last")


def copy(
    source: Any,
    target: Any,
    *,
    layers: Mapping[str, str] | None = None,
    flatten: Flatten = "auto",
    settings: str = "check",
    partial: bool = False,
) -> list[tuple[str, str]]:
    """Copy all weights of one model into another, in place; if anything does not fit, nothing is
    written.

    Args:
        source: a Keras model of any kind, built, or a `torch.nn.Module`.
        target: a model of the same framework or the other. Values are cast to its dtypes.
        layers: `{source name: target name}` for all layers with weights (of tied ones, one is
            enough). By default they are paired in order: Keras's in that of `model.layers`, through
            nested models (`encoder/conv_1`), PyTorch's in that of `named_modules`. Where that
            disagrees with their shapes, their calls or their names, nothing is copied, and the
            error prints the map that fits (`suggest` returns it).
        flatten: the order of the features of a Dense that gets a flattened image, or from whose
            output an image is made. `"auto"`: both models are called (on symbols and fake tensors),
            the operations between the image and the Dense are run on numbered elements, and the
            Dense's rows (or columns) are put in PyTorch's order, by whatever operations it arises.
            If PyTorch's model cannot be called with the inputs of Keras's, this is
            `"channels_first"`: it flattens (channels, height, width). `"channels_last"`: it
            permutes to channels last itself, so rows and columns are not reordered. If Keras's
            cannot be called on symbols, `{"dense": (height, width, channels)}` names the Keras
            layers that get a flattened image and its shape; all others are as in `"auto"`.
        settings: `"check"`: epsilon, momentum, strides, dilation, groups and padding must agree.
            `"copy"`: epsilon and momentum are copied too, the others must agree. (Do it before
            training: functions that Keras compiled keep the old ones until `compile`.) `"ignore"`:
            no setting is checked. `nn.ZeroPad2d` right before a convolution counts as its padding,
            and so does Keras's ZeroPadding. If a `forward` calls a function that pads (`F.pad`, or
            in a layer's own forward, as in timm's Conv2dSame), missing padding is left to
            `parity.assert_model_parity`; the other settings must still agree.
        partial: leave out layers with weights of an unknown kind, and layers of a kind and shape of
            which the two models have different numbers; a `UserWarning` names them.

    The arrays of a LayerNormalization over several axes, (height, width, channels) in Keras, get
    the layout that PyTorch's shape shows; if all axes have one size, `flatten` must say which.

    Returns the pairs `(source name, target name)`.

    Raises `TypeError` if an argument is no model; `WeightsError`, a `ValueError`, that names both
    layers if kinds, shapes, numbers of layers or settings differ, or if two layers of the target
    share weights for which the source has two values; for unknown names, layers that are not built,
    a normalization over other axes than PyTorch's, and weights of unknown kinds; for features of a
    flattened image whose order cannot be known, or whose weights cannot be reordered (those of a
    GroupNormalization, or of a layer of your own).
    """
    _check_options(layers, flatten, settings)
    unknown: list[str] | None = [] if partial else None
    sources, targets = read(source, "source", unknown), read(target, "target", unknown)
    if partial:
        sources, targets = _without_unknown(sources, targets, unknown or [], layers)
    return _carry(sources, targets, layers, flatten, settings, Traces(source, target))


def _without_unknown(
    sources: list[Layer],
    targets: list[Layer],
    unknown: list[str],
    layers: Mapping[str, str] | None,
) -> tuple[list[Layer], list[Layer]]:
    """The layers that can be in pairs, or that the map names; warns of the layers left out."""
    if layers is not None:
        names = {*layers}, {*layers.values()}
        kept = [
            [x for x in s if x.name in n] for s, n in zip((sources, targets), names, strict=True)
        ]
    else:
        kept = list(fitting(sources, targets))
    left = [
        layer.label
        for side, own in zip((sources, targets), kept, strict=True)
        for layer in side
        if layer.arrays and not any(layer is one for one in own)
    ]
    if unknown or left:
        warnings.warn(f"not copied: {', '.join([*unknown, *left])}", stacklevel=3)
    return kept[0], kept[1]


def save(model: Any, path: str | Path) -> None:
    """Write the weights of a model of either framework, and the settings that matter, to a
    safetensors file, in Keras's layout.

    Raises like `copy` for a model that cannot be read, `WeightsError` if the folder is missing,
    `path` is one, or `load` would read its suffix as a file of Keras or PyTorch.
    """
    path = _as_path(path)
    if path.suffix.lower() in (*PICKLED, *_OF_KERAS):
        raise WeightsError(
            f"{path}: load reads a file of this name as one of Keras or PyTorch; wanted another "
            "suffix, such as .safetensors"
        )
    layers = _with_orders(model, read(model))
    write_file(path, layers, calls_as_json(model, layers))


def load(
    path: str | Path,
    model: Any,
    *,
    layers: Mapping[str, str] | None = None,
    flatten: Flatten = "auto",
    settings: str = "check",
) -> list[tuple[str, str]]:
    """Copy the weights of a file into a model of either framework, in place.

    The file is one of these; code in a file is not run:

    - one that `save` wrote, for either framework;
    - a Keras model (`.keras`, read with Keras), for either framework; where Keras is not installed,
      with `settings="ignore"`, only the `.weights.h5` in it;
    - the weights of a Keras model (`.weights.h5`, of `save_weights`, read with h5py), for a
      PyTorch module;
    - a state dict of PyTorch (safetensors, or `.pth`, `.pt`, `.bin`, `.ckpt`, read with PyTorch),
      for a Keras model.

    The last two have no settings, so none is checked (epsilon, strides, padding, activations), and
    no kinds: an entry is read as a layer of its partner's kind. The entries of a state dict are
    paired in its order, if the names do not contradict it, or by `layers`; those of a safetensors
    file, which has no order, by shape and name. A `.weights.h5` file has an order only within each
    class of layers, which is checked against the module's calls (if it can be called with one input
    of a likely shape), shapes and names. If a layer could have several partners, or a Dense may get
    a flattened image, the file does not say which is right, and is refused until `layers` or
    `flatten` does. If you have the code of the Keras model, `model.load_weights(path)` and `copy`
    check everything.

    All else is as in `copy`, with the file as the source. Also raises `WeightsError` for a file
    that is missing, truncated, of another kind or format, or has an invalid header; for entries
    that could go to several layers; and if the framework that reads it is missing.
    """
    _check_options(layers, flatten, settings)
    path = _as_path(path)
    if not path.is_file():
        what = "is a folder; wanted a file" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}")
    suffix = path.suffix.lower()
    alone = suffix == ".keras" and settings == "ignore" and not _has_keras()
    if suffix == ".keras" and not alone:
        return copy(_keras_model(path), model, layers=layers, flatten=flatten, settings=settings)
    if alone or suffix in _OF_KERAS:
        return _load_keras_weights(path, model, layers, flatten, settings)
    pickled = suffix in PICKLED
    found = read_pickled(path) if pickled else read_file(path)
    targets, traces = read(model), Traces(None, model)
    if isinstance(found, list):
        traces.calls = _calls(path, found)
        return _carry(found, targets, layers, flatten, settings, traces)
    if not is_keras(model):
        raise WeightsError(f"{path}: a state dict of PyTorch; wanted model.load_state_dict")
    _check_has_settings(path, settings)
    paired = pair_entries(entries_of(found), with_weights(targets), layers, ordered=pickled)
    return _written(paired, flatten, settings, traces)


def _load_keras_weights(
    path: Path, model: Any, layers: Mapping[str, str] | None, flatten: Flatten, settings: str
) -> list[tuple[str, str]]:
    """Copy the weights in a file of Keras's `save_weights` into a module."""
    if is_keras(model):
        raise WeightsError(f"{path}: the weights of a Keras model; wanted model.load_weights")
    targets = with_weights(read(model))
    _check_has_settings(path, settings)
    entries = read_keras_file(path)

    @cache
    def trace() -> Trace | None:
        return trace_by_layers(model, targets)

    paired = pair_file(entries, targets, layers, trace)
    check_flatten(paired, model, flatten, lambda: trace() or trace_by_layers(model, targets, True))
    return _written(paired, flatten, settings, None)


def _check_has_settings(path: Path, settings: str) -> None:
    if settings == "copy":
        raise WeightsError(
            f"{path}: holds no settings to copy; wanted settings='check', and epsilon and momentum "
            "set by hand"
        )


def _calls(path: Path, layers: list[Layer]) -> Calls | None:
    """The calls in a file of `save`; files of earlier versions have none."""
    text = read_calls(path)
    try:
        return calls_of_json(text, layers) if text else None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise WeightsError(f"{path}: the calls in the file's header cannot be read") from error


def _has_keras() -> bool:
    try:
        import keras  # noqa: F401
    except ImportError:
        return False
    return True


def _keras_model(path: Path) -> Any:
    """The model in a file of Keras; code in the file is not run."""
    try:
        import keras
    except ImportError as error:
        raise WeightsError(
            f"{path}: checking the settings of a .keras file needs Keras, which is not installed; "
            "wanted Keras, or a file of weights.save, or settings='ignore' for its weights alone"
        ) from error
    if not is_zipfile(path):
        raise WeightsError(
            f"{path}: cannot be read as a Keras model (truncated, or no zip archive)"
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # the file, or a layer that it names, may raise any exception
        why = first_sentence(error)
        raise WeightsError(f"{path}: cannot be read as a Keras model ({why})") from error


def _as_path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"path is a {type(path).__name__}; wanted the path of a file") from None


def _check_options(layers: Any, flatten: Flatten, settings: str) -> None:
    check_map(layers)
    if not isinstance(flatten, Mapping) and flatten not in _FLATTENS:
        wanted = ", ".join(map(repr, _FLATTENS))
        raise ValueError(
            f"flatten is {flatten!r}; wanted {wanted}, or a dictionary from names of Keras layers "
            "to (height, width, channels)"
        )
    if settings not in ("check", "copy", "ignore"):
        raise ValueError(f"settings is {settings!r}; wanted 'check', 'copy' or 'ignore'")


def _carry(
    sources: list[Layer],
    targets: list[Layer],
    layers: Mapping[str, str] | None,
    flatten: Flatten,
    settings: str,
    traces: Traces | None = None,
) -> list[tuple[str, str]]:
    """Pair, check everything, then write."""
    return _written(pair(sources, targets, layers, traces), flatten, settings, traces)


def _written(
    paired: Pairs, flatten: Flatten, settings: str, traces: Traces | None
) -> list[tuple[str, str]]:
    """Check everything of the pairs, then write."""
    _check_known(flatten, paired)
    _check_written(paired)
    if flatten != "channels_last":
        paired = [(_with_turned_axes(*both, flatten), both[1]) for both in paired]
    paired = folded(
        paired, traces.both()[0] if traces is not None and _lacks_bias(paired) else None
    )
    orders = _orders(paired, flatten, traces)
    both_and_orders = zip(paired, orders, strict=True)
    arrays = [fitted(*both, own, n) for n, (both, own) in enumerate(both_and_orders, 1)]
    _check_tied(paired, arrays)
    for (_, target), values in zip(paired, arrays, strict=True):
        if target.check is not None:
            target.check(values)
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


def _check_written(paired: Pairs) -> None:
    """Raises `WeightsError` if a layer of the target computes its weights from others."""
    for _, target in paired:
        if target.computed:
            raise WeightsError(
                f"{target.label} computes its {' and '.join(target.computed)} from others (weight "
                "norm, spectral norm, a parametrization or pruning), which can be read but not "
                "written; wanted a module without it, to which it is added afterwards"
            )


def _with_turned_axes(source: Layer, target: Layer, flatten: Flatten) -> Layer:
    """The source; if it normalizes all axes of an image, with its arrays in the target's layout:
    (height, width, channels) in Keras, (channels, height, width) in PyTorch. Raises `WeightsError`
    if the layout does not follow from the shapes."""
    if source.kind not in OVER_AXES or source.framework == target.framework:
        return source
    arrays = {}
    for name, value in source.arrays.items():
        moved = channels_moved(value, source.framework == KERAS)
        held = target.arrays.get(name, moved).shape
        unclear = value.shape == moved.shape == held and not np.array_equal(value, moved)
        if unclear and flatten != "channels_first":
            raise WeightsError(
                f"{source.label} and {target.label} normalize axes of equal sizes, and their "
                f"{name} {value.shape} may be channels first or last in PyTorch; wanted flatten="
                "'channels_first' or 'channels_last'"
            )
        arrays[name] = moved if unclear or (moved.shape == held != value.shape) else value
    return replace(source, arrays=arrays)


def _check_tied(paired: list[tuple[Layer, Layer]], arrays: list[dict[str, Array]]) -> None:
    """Raises `WeightsError` if weights that the target ties would get two values."""
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


def fitted(source: Layer, target: Layer, orders: Orders, number: int) -> dict[str, Array]:
    """The arrays of a layer for its partner, reordered and cast.

    Raises `WeightsError` if shapes differ, if only one side has an array and it is no identity
    (zeros of a bias, ones of a gamma), or if the partner's dtype cannot hold a value.
    """
    values = {}
    for name in ARRAYS[source.kind]:
        value, held = source.arrays.get(name), target.arrays.get(name)
        if value is None and held is not None and name in FILLS:
            value = np.full_like(held, FILLS[name])  # PyTorch has both or neither
        if value is None and held is None:
            continue
        if held is None and name in FILLS and value is not None and np.all(value == FILLS[name]):
            continue
        if value is None or held is None or value.shape != held.shape:
            raise misfit(number, source, target, name)
        turned = reordered(value, name, orders, source, target)
        if np.iscomplexobj(turned) and not np.iscomplexobj(held):
            raise WeightsError(
                f"layer {number}: {source.described(name)} is {turned.dtype}, "
                f"{target.described(name)} {held.dtype}; wanted real numbers"
            )
        with np.errstate(over="ignore"):
            values[name] = turned.astype(held.dtype)
        if np.any(np.isfinite(turned) & ~np.isfinite(values[name])):
            raise WeightsError(
                f"layer {number}: {source.described(name)} holds {np.abs(turned).max():g}, beyond "
                f"{held.dtype} of {target.described(name)}"
            )
    return values


def _orders(paired: Pairs, flatten: Flatten, traces: Traces | None) -> list[Orders]:
    """The orders of the rows and columns of each pair."""
    alike = all(source.framework == target.framework for source, target in paired)
    if alike or flatten == "channels_last":
        return [(None, None)] * len(paired)
    keras, pytorch = traces.by_framework() if traces is not None else (None, None)
    if flatten == "channels_first":
        pytorch = None
    finder = Finder(paired, keras, pytorch) if keras else None
    return [_orders_of(*both, flatten, finder) for both in paired]


def _with_orders(model: Any, layers: list[Layer]) -> list[Layer]:
    """The layers of a Keras model with the orders of their features, if they can be found."""
    trace = trace_keras(model) if is_keras(model) else None
    if trace is None:
        return layers
    finder = Finder([(layer, layer) for layer in layers], trace, None)
    found = []
    for layer in layers:
        orders = finder.of(layer, layer)
        try:
            rows, columns = (as_blocks(order) for order in orders)
        except Unclear as why:
            raise WeightsError(f"{layer.label} cannot be written: {why}") from why
        found.append(replace(layer, rows=rows, columns=columns, unsure=[]))
    return found


def _orders_of(source: Layer, target: Layer, flatten: Flatten, finder: Finder | None) -> Orders:
    keras, pytorch = (source, target) if source.framework == KERAS else (target, source)
    shape = flatten.get(keras.name) if isinstance(flatten, Mapping) else None
    is_named = shape is not None
    found = (keras.rows, keras.columns) if finder is None else finder.of(keras, pytorch, is_named)
    if shape is not None:
        check_groups(keras)
        return image_order(shape, "channels_last"), found[1]
    if keras.unsure and finder is None:
        raise WeightsError(
            f"{keras.label} seems to get a flattened image, but the model has no graph to see it "
            f"in: wanted flatten={{{keras.name!r}: {tuple(keras.unsure)}}} if so, or "
            "flatten='channels_last' where the PyTorch model flattens channels last"
        )
    return found


def reordered(array: Array, name: str, orders: Orders, source: Layer, target: Layer) -> Array:
    """An array of the source, with its features in the target's order."""
    axes = _AXES.get(name, (0, None))
    for axis, order in zip(axes, orders, strict=True):
        if axis is None or order is None or source.kind not in ORDERED:
            continue
        known = isinstance(order, np.ndarray)
        count = len(order) if known else sum(math.prod(shape) for shape, _ in order)
        if count != array.shape[axis]:
            keras = source if source.framework == KERAS else target
            raise WeightsError(
                f"{keras.described(name)} does not fit a flattened image of {count} numbers"
            )
        places = order if known else permutation(order)
        array = np.take(array, places if source.framework == PYTORCH else np.argsort(places), axis)
    return array


def _lacks_bias(paired: Pairs) -> bool:
    """Whether the source has a bias, not of zeros, and the target has none."""
    both = ((one.arrays.get("bias"), other.arrays) for one, other in paired)
    return any(bias is not None and "bias" not in held and np.any(bias) for bias, held in both)


def _check_known(flatten: Flatten, paired: list[tuple[Layer, Layer]]) -> None:
    """Raises `WeightsError` unless the dictionary has names of Keras layers and valid shapes."""
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
            raise unknown_layer(name, known, "flatten")
        whole = isinstance(shape, Sequence) and all(isinstance(n, int) and n > 0 for n in shape)
        if not whole or len(shape) < 2:
            raise WeightsError(
                f"flatten[{name!r}] is {shape!r}; wanted the shape of the image, channels last"
            )
