"""In which settings two layers differ, and what to write to have them agree."""

from typing import Any

from parity.weights.layer import PYTORCH, Layer
from parity.weights.padding import describe, may_be_made_up, padding_agrees, remedy

CARRIED = ("epsilon", "momentum")
"""The settings that can be carried over to another layer."""

_COMPARED = (*CARRIED, "strides", "dilation", "groups", "padding_mode", "max_norm")
_IN_PYTORCH = {"epsilon": "eps", "strides": "stride"}
_IN_KERAS = {"dilation": "dilation_rate"}


def same_setting(one: Any, other: Any) -> bool:
    """Whether two values are one: 1 - 0.9 is 0.1."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(abs(one), abs(other))
    return bool(one == other)


def setting_differences(source: Layer, target: Layer) -> dict[str, str]:
    """By setting, both values and what is wanted in `target` to have what `source` has.

    Padding that a function of the model's forward may add is left to the comparison of outputs.
    """
    names = [f"{layer.framework} {layer.name}" for layer in (source, target)]
    found = {}
    for key in _COMPARED:
        if key in source.settings and not same_setting(source.settings[key], target.settings[key]):
            found[key] = (
                f"{key} is {_value(source, key)} in {names[0]}, {_value(target, key)} in "
                f"{names[1]}; wanted in {names[1]}: {_written(source.settings[key], target, key)}"
            )
    if source.kind in ("conv", "conv_transpose") and not found:
        pairs = zip(source.settings["size"], target.settings["size"], strict=True)
        sizes = [left or right for left, right in pairs]
        both = source.settings, target.settings, sizes
        if not (padding_agrees(*both) or may_be_made_up(*both)):
            found["padding"] = (
                f"{names[0]} {describe(source.settings, sizes)}, {names[1]} "
                f"{describe(target.settings, sizes)}; wanted in {names[1]}: "
                f"{remedy(source.settings, sizes, target.framework)}"
            )
    return found


def _value(layer: Layer, key: str) -> str:
    """A setting in the layer's own convention."""
    value = layer.settings[key]
    if key == "momentum" and layer.framework == PYTORCH:
        return "None" if value is None else f"{1 - value:.10g} (Keras's is 1 minus that)"
    return f"{value:.10g}" if isinstance(value, float) else f"{value}"


def _written(value: Any, layer: Layer, key: str) -> str:
    """How to write a value in the layer's own framework."""
    name = (_IN_PYTORCH if layer.framework == PYTORCH else _IN_KERAS).get(key, key)
    if layer.framework == PYTORCH and key == "momentum" and value is not None:
        value = 1 - value
    value = tuple(value) if isinstance(value, list) else value
    return f"{name}={value:.10g}" if isinstance(value, float) else f"{name}={value}"
