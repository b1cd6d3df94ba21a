"""The settings in which two layers differ, and the code that makes them agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parity.weights.layer import KERAS, PYTORCH, Layer, WeightsError
from parity.weights.padding import (
    describe,
    may_be_made_up,
    padding_agrees,
    pads_nothing,
    remedy,
)

CARRIED = ("epsilon", "momentum")
"""The settings that can be carried over to another layer."""

_COMPARED = (*CARRIED, "strides", "dilation", "groups", "padding_mode", "max_norm", "activation")
_IN_PYTORCH = {"epsilon": "eps", "strides": "stride", "activation": "nonlinearity"}
_IN_KERAS = {"dilation": "dilation_rate"}


@dataclass(frozen=True)
class SettingDifference:
    """A setting in which two layers differ.

    `key` is its name in Keras. `layers` are the labels of the two (`Keras norm_1
    (BatchNormalization)`), `values` the settings of both, as their frameworks write them, `wanted`
    the code that gives the second layer the setting of the first: `eps=0.001`. `str` is the text.
    """

    key: str
    layers: tuple[str, str]
    values: tuple[str, str]
    wanted: str

    @property
    def can_be_copied(self) -> bool:
        """Whether `settings="copy"` copies it. Keras has no counterpart of momentum=None."""
        to_keras = self.layers[1].startswith(f"{KERAS} ")
        return self.key in CARRIED and not (to_keras and self.values[0] == "None")

    def __str__(self) -> str:
        one, other = (label.rpartition(" (")[0] for label in self.layers)
        first, second = self.values
        if self.key == "padding":
            return f"{one} {first}, {other} {second}; wanted in {other}: {self.wanted}"
        return (
            f"{self.key} is {first} in {one}, {second} in {other}; wanted in {other}: {self.wanted}"
        )


def same_setting(one: Any, other: Any) -> bool:
    """Whether two values are equal up to rounding: 1 - 0.9 is 0.1."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(abs(one), abs(other))
    return bool(one == other)


def setting_differences(source: Layer, target: Layer) -> list[SettingDifference]:
    """The settings that differ, with the code that gives `target` the setting of `source`.

    Padding that a function in a forward may add is not checked here, but by comparing outputs.
    """
    labels = source.label, target.label
    found = []
    frozen = "frozen" in {**source.settings, **target.settings}  # without a momentum
    for key in _COMPARED:
        if key == "momentum" and frozen:
            continue
        both = key in source.settings and key in target.settings
        if key == "padding_mode" and _may_agree_in_mode(source, target):
            continue
        if both and not same_setting(source.settings[key], target.settings[key]):
            values = _value(source, key), _value(target, key)
            wanted = _written(source.settings[key], target, key)
            found.append(SettingDifference(key, labels, values, wanted))
    if source.kind in ("conv", "conv_transpose") and not found:
        pairs = zip(source.settings["size"], target.settings["size"], strict=True)
        sizes = [left or right for left, right in pairs]
        given = source.settings, target.settings, sizes
        if not (padding_agrees(*given) or may_be_made_up(*given)):
            values = describe(source.settings, sizes), describe(target.settings, sizes)
            wanted = remedy(source.settings, sizes, target.framework)
            found.append(SettingDifference("padding", labels, values, wanted))
    return found


def _may_agree_in_mode(one: Layer, other: Layer) -> bool:
    """Whether two convolutions, one of which pads with other numbers than zeros, may agree: a
    function may pad so before the other one, or (before it is a padding layer) that one pads
    nothing itself."""
    for layer, partner in ((one, other), (other, one)):
        if layer.settings.get("padding_mode") == "zeros" and (
            layer.settings.get("may_pad")
            or ("padded_by" in partner.settings and pads_nothing(layer.settings))
        ):
            return True
    return False


def grouped(
    differences: Sequence[SettingDifference], carried: str = "", labelled: bool = True
) -> list[str]:
    """One line for all layers of a class that differ in the same way, in the order of the first.

    `carried` is added to settings that can be copied. `labelled`: the line of a single pair starts
    with the labels of both layers.

    >>> both = "Keras a (BatchNormalization)", "PyTorch 1 (BatchNorm2d)"
    >>> one = SettingDifference("epsilon", both, ("0.001", "1e-05"), "eps=0.001")
    >>> print(*grouped([one, one]))  # doctest: +NORMALIZE_WHITESPACE
    2 BatchNormalization: epsilon 0.001 against 1e-05, first at Keras a and PyTorch 1; wanted in
    PyTorch: eps=0.001
    """
    groups: dict[tuple[Any, ...], list[SettingDifference]] = {}
    for one in differences:
        groups.setdefault((one.key, _class_name(one), one.values, one.wanted), []).append(one)
    lines = []
    for ones in groups.values():
        first, more = ones[0], carried if ones[0].can_be_copied else ""
        if len(ones) == 1:
            label = f"{' and '.join(first.layers)}: " if labelled else ""
            lines.append(f"{label}{first}{more}")
            continue
        names = [label.rpartition(" (")[0] for label in first.layers]
        key = "" if first.key == "padding" else f"{first.key} "
        lines.append(
            f"{len(ones)} {_class_name(first)}: {key}{' against '.join(first.values)}, first at "
            f"{' and '.join(names)}; wanted in {names[1].partition(' ')[0]}: {first.wanted}{more}"
        )
    return lines


def _class_name(one: SettingDifference) -> str:
    return one.layers[0].rpartition(" (")[2].removesuffix(")")


def check_settings(paired: Sequence[tuple[Layer, Layer]], carried: bool) -> None:
    """Raises `WeightsError` with the settings that differ; `carried`: without those copied."""
    found = [one for both in paired for one in setting_differences(*both)]
    found = [one for one in found if not (carried and one.can_be_copied)]
    if found:
        many = f"{len(found)} settings differ" if len(found) > 1 else "a setting differs"
        lines = grouped(found, ", or settings='copy'")
        raise WeightsError(f"{many}, so the two models would not agree:\n" + "\n".join(lines))


def _value(layer: Layer, key: str) -> str:
    """A setting in the convention of the layer's framework."""
    value = layer.settings[key]
    if key == "padding_mode" and "padded_by" in layer.settings:
        return f"{value} (by the {layer.settings['padded_by']} before it)"
    if key == "momentum" and layer.framework == PYTORCH:
        return "None" if value is None else f"{1 - value:.10g} (Keras's is 1 minus that)"
    return f"{value:.10g}" if isinstance(value, float) else f"{value}"


def _written(value: Any, layer: Layer, key: str) -> str:
    """The code of a value in the layer's own framework."""
    if layer.framework == KERAS and key in ("padding_mode", "max_norm", "momentum"):
        without = {
            "padding_mode": f"keras.ops.pad with mode {value!r} before it and padding='valid'",
            "max_norm": "a PyTorch module with max_norm=None, since Keras has none",
        }
        if value is None:
            without["momentum"] = "a number, since Keras has no cumulative average"
        if key in without:
            return without[key]
    if key == "padding_mode" and "padded_by" in layer.settings:
        pad = layer.settings["padded_by"]
        return f"a padding with {value} in place of the {pad}"
    if layer.kind == "group_normalization" and layer.framework == PYTORCH and key == "groups":
        return f"nn.GroupNorm with num_groups={value}"
    name = (_IN_PYTORCH if layer.framework == PYTORCH else _IN_KERAS).get(key, key)
    if layer.framework == PYTORCH and key == "momentum" and value is not None:
        value = 1 - value
    value = tuple(value) if isinstance(value, list) else value
    return f"{name}={value:.10g}" if isinstance(value, float) else f"{name}={value!r}"
