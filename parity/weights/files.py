"""Layers with weights in a safetensors file: the arrays, and all else as JSON in its header."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.extras import imports_of
from parity.common.files import write_atomically
from parity.weights.layer import ARRAYS, KERAS, PYTORCH, SETTINGS, Layer, WeightsError

with imports_of("parity"):
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save as to_bytes

FORMAT = "1"
_MADE_BY = "segact-weights"
_FIELDS = ("framework", "name", "class_name", "kind", "settings", "rows", "columns", "unsure")


def write_file(path: Path, layers: list[Layer], calls: str = "") -> None:
    """Writes layers, and their calls as text, to a file. Raises `WeightsError` if the folder is
    missing, or `path` is one."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; wanted the path of a file")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: no such folder")
    tensors = {
        f"{number}.{layer.name}/{name}": np.array(array, order="C")
        for number, layer in enumerate(layers)
        for name, array in layer.arrays.items()
    }
    described = [{key: getattr(layer, key) for key in _FIELDS} for layer in layers]
    header = {"format": f"{_MADE_BY} {FORMAT}", "layers": json.dumps(described)}
    if calls:
        header["calls"] = calls
    write_atomically(path, to_bytes(tensors, metadata=header))


def read_file(path: Path) -> list[Layer] | dict[str, Array]:
    """The layers of a file of `write_file`, or the state dict in a file of PyTorch; raises
    `WeightsError` for another file."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: truncated or not a safetensors file ({error})") from error
    if tensors and header.get("format", "pt") == "pt" and not any("/" in key for key in tensors):
        return tensors
    made_by, _, number = header.get("format", "").partition(" ")
    if made_by != _MADE_BY:
        raise WeightsError(f"{path}: a safetensors file, but not one of parity.weights")
    if number != FORMAT:
        raise WeightsError(f"{path}: weights format {number or 'unknown'}, this is format {FORMAT}")
    layers = _layers(path, header.get("layers", ""))
    for key, array in tensors.items():
        _put(path, layers, key, array)
    return layers


def read_calls(path: Path) -> str:
    """The calls in a file that `read_file` has read; "" if there are none."""
    with safe_open(path, framework="numpy") as file:
        return str((file.metadata() or {}).get("calls", ""))


def _layers(path: Path, text: str) -> list[Layer]:
    """The layers in the header, without their arrays."""
    unreadable = f"{path}: the layers in the file's header cannot be read"
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(unreadable) from error
    if not isinstance(described, list):
        raise WeightsError(unreadable)
    for number, one in enumerate(described):
        wrong = _wrong_field(one)
        if wrong:
            raise WeightsError(f"{unreadable}: {wrong} of layer {number} is invalid")
    return [Layer(**{key: one[key] for key in _FIELDS}, arrays={}) for one in described]


def _put(path: Path, layers: list[Layer], key: str, array: Array) -> None:
    place, _, rest = key.partition(".")
    name, _, of = rest.rpartition("/")
    layer = layers[int(place)] if place.isdecimal() and int(place) < len(layers) else None
    if layer is None or layer.name != name or of not in ARRAYS[layer.kind]:
        raise WeightsError(f"{path}: {key} belongs to none of the layers in the file's header")
    rank = len(layer.settings["size"]) + 2 if "size" in layer.settings else array.ndim
    if of == "kernel" and array.ndim != rank:
        raise WeightsError(f"{path}: {key} has shape {array.shape}, not as in the header")
    layer.arrays[of] = array


# Checks of the header


def _wrong_field(described: Any) -> str:
    """The first field or setting of a layer that is missing or invalid; or ""."""
    if not isinstance(described, dict):
        return "all"
    checks: dict[str, Callable[[Any], bool]] = {
        "framework": (KERAS, PYTORCH).__contains__,
        "kind": lambda kind: isinstance(kind, str) and kind in ARRAYS,
        "name": _is_text,
        "class_name": _is_text,
        "rows": _is_order,
        "columns": _is_order,
        "unsure": lambda shape: isinstance(shape, list) and all(map(_is_whole, shape)),
        "settings": lambda settings: isinstance(settings, dict),
    }
    for key, makes_sense in checks.items():
        if key not in described or not makes_sense(described[key]):
            return key
    settings = described["settings"]
    rank = len(settings["size"]) if isinstance(settings.get("size"), list) else 0
    for key in SETTINGS.get(described["kind"], ()):
        if key not in settings or not _is_setting(key, settings[key], rank):
            return f"settings[{key!r}]"
    return ""


def _is_setting(key: str, value: Any, rank: int) -> bool:
    if key in ("epsilon", "momentum", "max_norm"):
        return _is_number(value) or (value is None and key != "epsilon")
    if key == "groups":
        return _is_whole(value) and value > 0
    if key == "padding_mode":
        return _is_text(value)
    if key == "padding" and value in ("same", "causal"):
        return True
    if not isinstance(value, list) or not rank or len(value) != rank:
        return False
    if key in ("padding", "added", "crop"):
        pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        return pairs and all(_is_whole(number) for pair in value for number in pair)
    return all((_is_whole(n) and n > 0) or (key == "size" and n is None) for n in value)


def _is_order(order: Any) -> bool:
    """Whether it is None, or blocks `[shape, axes]` as in `parity.weights.flatten`."""
    if order is None:
        return True
    if not isinstance(order, list) or not order:
        return False
    return all(isinstance(block, list) and len(block) == 2 and _is_block(*block) for block in order)


def _is_block(shape: Any, axes: Any) -> bool:
    if not isinstance(shape, list) or not isinstance(axes, list):
        return False
    positive = all(_is_whole(size) and size > 0 for size in shape)
    return positive and all(map(_is_whole, axes)) and sorted(axes) == list(range(len(shape)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
