"""The arguments of a loss: checked, in one shape and in one precision."""

import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from segact_tf import _engine, _pairwise, _special
from segact_tf._checks import (
    check_groups,
    check_ignore_index,
    check_number,
    check_pos_weight,
    check_range,
    check_rank,
    check_validate,
    checked_axis,
    checked_tensor,
)
from segact_tf._distributed import all_reduce, group_of
from segact_tf.activations import Activation, HardTanh, Linear, _LinearOverRanks, _wide
from segact_tf.conventions import Convention

Axis = tuple[int, ...]

# A target may be this far outside of [0, 1] and counts as 0 or 1: interpolation rounds.
SLACK = 1e-6
# The activations for which `warn_of_probabilities` has checked some raw outputs.
_CHECKED: set[str] = set()


class ActivatedInputWarning(UserWarning):
    """A loss got an input that looks like probabilities and applies F to it, as to raw outputs."""


class Batch:
    """Raw outputs x, targets y, weights w, which elements are valid, and F.

    All have the shape of x and the precision in which the loss is computed. An ignored element has
    a weight of 0; w = None stands for weights of 1, valid = None for every element. `weighted` is
    False if the weights are only those of ignored elements.

    x holds probabilities if f is a `Convention`. `check_values` checks the values: `validate` says
    whether to, and `hard` that targets have to be 0 or 1. Targets that were not checked go through
    `in_range`, unless validate=False says that they are right.

    `group` is this replica, if others have the other parts of the batch.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        w: Any,
        valid: Any,
        f: Activation | Convention,
        validate: bool | None = None,
        hard: bool = False,
        weighted: bool = True,
        group: Any = None,
    ) -> None:
        self.x, self.y, self.w, self.valid = x, y, w, valid
        self.f, self.validate, self.hard = f, validate, hard
        self.group = group
        self.weighted = w is not None and weighted
        self.checked = False

    def across(self, axis: Axis) -> Any:
        """The replicas over which a sum over `axis` goes; None if each replica has whole groups.

        A sample belongs to one replica.
        """
        return self.group if 0 in axis else None

    @property
    def guarded(self) -> bool:
        """Whether targets that are not checked go through `in_range`."""
        return self.validate is not False

    @classmethod
    def of(
        cls,
        y_pred: Any,
        y_true: Any,
        f: Activation | Convention,
        sample_weight: Any,
        ignore_index: int | None,
        mask: Any,
        validate: bool | None,
        hard: bool = False,
    ) -> "Batch":
        """The arguments of a loss as a batch; raises for wrong ones."""
        x = _wide(y_pred, "y_pred")
        check_rank(x, "y_pred")
        y = as_tensor(y_true, "y_true", x.dtype)
        if _shapes_differ(x, y):
            raise ValueError(
                "y_true and y_pred must have the same shape, "
                f"got y_true {tuple(y.shape)} and y_pred {tuple(x.shape)}"
            )
        group = group_of()
        if group is not None and not len(x.shape):
            raise ValueError(
                "y_pred has no dimension of samples to share out over replicas, got ()"
            )
        if group is None and 0 in _engine.sizes(x):
            raise ValueError(f"y_pred is empty: its shape is {tuple(x.shape)}")
        check_validate(validate)
        if None in _engine.sizes(x) + _engine.sizes(y):
            y = _engine.of_one_shape(y, x)
        w, valid = _fitted(sample_weight, "sample_weight", x), _valid(x, y, ignore_index, mask)
        if w is not None and validate is None and _engine.is_traced(w):
            w = ops.where(w >= 0, w, math.nan)
        if valid is not None:
            w = ops.cast(valid, x.dtype) if w is None else ops.where(valid, w, 0.0)
        weighted = sample_weight is not None
        own = f
        if group is not None and isinstance(f, Linear) and 0 in f._axis(x):
            own = _LinearOverRanks(f, group)
        batch = cls(x, ops.cast(y, x.dtype), w, valid, own, validate, hard, weighted, group)
        if f.name not in _CHECKED:
            warn_of_probabilities(y_pred, f)
        if validate and batch._is_traced():
            raise ValueError(
                "validate=True reads y_true, which has no values in compiled code; "
                "call the loss eagerly, or use validate=None"
            )
        return batch

    def masked(self) -> tuple[Any, Any]:
        """x and y, with finite placeholders where the weight is 0, so NaN there reaches no sum.

        Targets that were not checked go through `in_range`, probabilities through `_near`.
        """
        x, y = self._filled()
        if self.checked or not self.guarded:
            return x, y
        return _near(x, x) if isinstance(self.f, Convention) else x, in_range(y)

    def _filled(self) -> tuple[Any, Any]:
        if self.w is None:
            return self.x, self.y
        used = self.w != 0
        return self.f._fill_invalid(self.x, used), ops.where(used, self.y, 0.0)

    def elements(self, axis: int | Axis | None) -> tuple[Axis, bool]:
        """The axes over which an elementwise loss is reduced, and True: to the mean."""
        return _pairwise.axes(self.x, checked_axis(axis)), True

    def groups(self, per_sample: bool, channel_axis: int | None) -> Axis:
        """The axes that an overlap loss sums over: all but those of samples and channels."""
        check_groups(per_sample, channel_axis)
        rank = len(self.x.shape)
        kept = {0} if per_sample else set()
        if per_sample and rank == 0:
            raise ValueError("per_sample=True wants an axis of samples, got y_pred ()")
        if channel_axis is not None:
            if not -rank <= channel_axis < rank:
                raise ValueError(
                    f"channel_axis {channel_axis} is out of range for y_pred {tuple(self.x.shape)}"
                )
            if channel_axis % rank in kept:
                raise ValueError(f"channel_axis={channel_axis} is the axis of per_sample=True")
            kept.add(channel_axis % rank)
        return tuple(a for a in range(rank) if a not in kept)

    def broadcast_pos_weight(self, pos_weight: Any) -> Any:
        """A number, or a tensor in the shape and dtype of x."""
        if pos_weight is None:
            return 1.0
        if isinstance(pos_weight, (int, float, np.number)):
            check_number("pos_weight", pos_weight)
            return float(pos_weight)
        weights = as_tensor(pos_weight, "pos_weight", self.x.dtype)
        weights = ops.stop_gradient(ops.cast(weights, self.x.dtype))
        sizes, wanted = _engine.sizes(weights), _engine.sizes(self.x)
        pairs = zip(reversed(sizes), reversed(wanted), strict=False)
        fit = all(size in (None, 1, whole) or whole is None for size, whole in pairs)
        if len(sizes) > len(wanted) or not fit:
            raise ValueError(
                "pos_weight must broadcast to the shape of y_pred, "
                f"got pos_weight {tuple(weights.shape)} and y_pred {tuple(self.x.shape)}"
            )
        self._run_check(lambda: check_pos_weight(weights))
        return ops.broadcast_to(weights, ops.shape(self.x))

    def present(self, axis: Axis) -> Any:
        """Which groups have a valid element, on any replica; None if all have one."""
        if self.valid is None:
            return None
        if self.across(axis) is not None:
            (count,) = all_reduce(self.group, self.count(axis))
            return count > 0
        return ops.any(self.valid, axis=axis) if axis else self.valid

    def count(self, axis: Axis) -> Any:
        """The number of valid elements over `axis` on this replica, for each group."""
        valid = ops.ones_like(self.x, dtype="bool") if self.valid is None else self.valid
        return _special.double(ops.sum(ops.cast(valid, "int32"), axis=axis))

    def check_values(self) -> None:
        """Raise for values out of their range, once, if `validate` allows the check."""
        if not self.checked:
            self.checked = self._run_check(self._check_ranges)

    def _run_check(self, check: Callable[[], None]) -> bool:
        """Run a check of values if `validate` allows it; returns whether it ran.

        In compiled code there are no values; with validate=True `of` has raised.
        """
        if self._is_traced() or self.validate is False:
            return False
        if self.validate is None and not _engine.is_on_cpu(self.x):
            return False
        check()
        return True

    def _is_traced(self) -> bool:
        return any(_engine.is_traced(t) for t in (self.x, self.y, self.w) if t is not None)

    def _check_ranges(self) -> None:
        x, y = self._filled()
        low, top = check_range(y, "y_true", slack=SLACK)
        if low < 0 or top > 1:
            self.y = y = _special.clip(self.y, 0.0, 1.0)
        if isinstance(self.f, Convention):
            check_range(x, "y_pred")
        if self.w is not None:
            check_range(self.w, "sample_weight", _special.largest(self.w))
        if self.hard and not ops.all(ops.logical_or(y == 0, y == 1)):
            raise ValueError("y_true must be 0 or 1: a Lovasz loss is not defined in between")


def in_range(y: Any) -> Any:
    """Targets whose values cannot be checked: clamped to [0, 1], NaN beyond [-1/2, 3/2]."""
    return _near(y, _special.clip(y, 0.0, 1.0))


def _near(p: Any, value: Any) -> Any:
    """The value, but NaN where p lies outside of [-1/2, 3/2].

    A value so far out is from a mask of 0 and 255, a class, an ignored label, or a raw output.
    """
    return ops.where(ops.abs(p - 0.5) <= 1, value, math.nan)


def warn_of_probabilities(x: Any, f: Activation | Convention) -> bool:
    """Warn, once for each activation, of raw outputs on a CPU that all lie in [0, 1].

    Not for "hardtanh" and "linear", whose domain is [0, 1]. Returns whether the values could tell:
    they cannot in compiled code, or if all are 0 or 1.
    """
    if isinstance(f, (Convention, HardTanh, Linear)):
        return True
    x = checked_tensor(x)
    head = _engine.head_of(x)
    found: str | None
    if head is not None:
        found = f"is what {head} made"
    elif (
        _engine.is_traced(x)
        or not _engine.is_on_cpu(x)
        or ops.all(ops.equal(x, 0) | ops.equal(x, 1))  # TensorFlow's == takes no bool
    ):
        return False
    else:
        x = ops.stop_gradient(x)
        low, top = float(ops.min(x)), float(ops.max(x))
        inside = low >= 0 and top <= 1
        found = f"lies in [0, 1], from {low:g} to {top:g}, as probabilities do" if inside else None
    _CHECKED.add(f.name)
    if found is not None:
        warnings.warn(
            f"y_pred {found}; the loss takes raw outputs and applies the activation: pass those, "
            "or from_logits=False",
            ActivatedInputWarning,
            stacklevel=level_of_caller(),
        )
    return True


def level_of_caller() -> int:
    """The `stacklevel` for a warning: the first caller outside of this package and Keras."""
    packages = (Path(__file__).parent, Path(keras.__file__).parent)
    inside = tuple(f"{package}{os.sep}" for package in packages)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def _shapes_differ(x: Any, y: Any) -> bool:
    """Whether two shapes differ in the sizes that are known."""
    pairs = zip(_engine.sizes(x), _engine.sizes(y), strict=False)
    differ = any(a != b for a, b in pairs if a is not None and b is not None)
    return differ or len(x.shape) != len(y.shape)


def _valid(x: Any, y: Any, ignore_index: int | None, mask: Any) -> Any:
    """Which elements are not ignored, by target or by mask."""
    check_ignore_index(ignore_index)
    fitted = _fitted(mask, "mask", x)
    named = None if ignore_index is None else _differs(y, ignore_index)
    if fitted is None:
        return named
    return fitted != 0 if named is None else ops.logical_and(named, fitted != 0)


def _differs(y: Any, number: float) -> Any:
    """y != number in the dtype of y, before a cast could round; None if it cannot be equal."""
    dtype = keras.backend.standardize_dtype(y.dtype)
    if dtype == "bool":
        y, dtype = ops.cast(y, "uint8"), "uint8"
    if "int" not in dtype:
        return y != number
    limits = np.iinfo(dtype)
    held = limits.min <= number <= limits.max and number == int(number)
    return y != int(number) if held else None


def _fitted(values: Any, name: str, x: Any) -> Any:
    """Numbers of the rank of x, with sizes equal or 1, in the shape and dtype of x."""
    if values is None:
        return None
    values = ops.stop_gradient(ops.cast(as_tensor(values, name, x.dtype), x.dtype))
    pairs = zip(_engine.sizes(values), _engine.sizes(x), strict=False)
    fit = all(size in (None, 1, whole) or whole is None for size, whole in pairs)
    if len(values.shape) != len(x.shape) or not fit:
        raise ValueError(
            f"{name} must have the rank of y_pred and sizes equal to its own or 1, "
            f"got {name} {tuple(values.shape)} and y_pred {tuple(x.shape)}"
        )
    return ops.broadcast_to(values, ops.shape(x))


def as_tensor(values: Any, name: str, dtype: Any) -> Any:
    """A tensor of real numbers, in the given dtype only if it is of a list of floats.

    Keras would round such a list to float32 beside tensors of float64.
    """
    tensor = checked_tensor(values, name)
    check_rank(tensor, name)
    given, wanted = map(keras.backend.standardize_dtype, (tensor.dtype, dtype))
    if "complex" in given:
        raise TypeError(f"{name} must hold real numbers, got {given}")
    if isinstance(values, (list, tuple)) and "float" in given and wanted == "float64":
        return ops.convert_to_tensor(values, dtype=dtype)
    return tensor
