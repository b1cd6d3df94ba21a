"""Checks of arguments: each raises an error that says what is wanted and what was given."""

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from segact_tf import _engine, _special
from segact_tf._distributed import group_of


def check_flag(name: str, value: bool) -> None:
    """Raise unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_number(name: str, value: Any, high: float = math.inf, open: bool = False) -> None:
    """Raise unless 0 <= value <= high, or 0 < value if `open`, and value is finite."""
    real = type(value) is float or _is_real(value)  # the quick check first
    number = real and -math.inf < value < math.inf
    if not number or not (value > 0 if open else value >= 0) or value > high:
        wanted = f"in [0, {high:g}]" if high < math.inf else "> 0" if open else ">= 0"
        error = ValueError if real else TypeError
        raise error(f"{name} must be a number {wanted}, got {value!r}")


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_epsilon(epsilon: Any, open: bool = False) -> None:
    """0 <= epsilon < 1/2, or 0 < epsilon < 1/2 if `open`."""
    if not _is_real(epsilon) or not (0 < epsilon < 0.5 or (epsilon == 0 and not open)):
        interval = "(0, 1/2)" if open else "[0, 1/2)"
        raise ValueError(f"epsilon must lie in {interval}, got {epsilon!r}")


def checked_axis(axis: Any) -> int | tuple[int, ...] | None:
    """An integer, several different ones as a tuple, or None; raises for anything else."""
    if axis is None:
        return None
    several = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    integers = all(isinstance(a, numbers.Integral) and not isinstance(a, bool) for a in several)
    if not integers or len({*several}) < len(several):
        raise TypeError(f"axis must be an integer, several, or None, got {axis!r}")
    plain = tuple(map(int, several))  # NumPy's integers, too
    return plain if isinstance(axis, (tuple, list)) else plain[0]


def check_groups(per_sample: bool, channel_axis: int | None) -> None:
    """True or False, and an integer or None."""
    check_flag("per_sample", per_sample)
    if channel_axis is None:
        return
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, numbers.Integral):
        raise TypeError(f"channel_axis must be an integer or None, got {channel_axis!r}")


def check_lovasz_groups(per_sample: bool) -> None:
    """Raise if replicas share a group of a Lovasz loss."""
    group = group_of()
    if group is not None and not per_sample:
        raise ValueError(
            "per_sample must be True under tf.distribute: a Lovasz loss sorts all errors of a "
            "group, and no sums of the replicas' parts replace that; "
            f"got {per_sample!r} on {group.num_replicas_in_sync} replicas"
        )


def check_validate(validate: bool | None) -> None:
    """True, False or None."""
    if validate is not None and not isinstance(validate, bool):
        raise TypeError(f"validate must be True, False or None, got {validate!r}")


def check_ignore_index(ignore_index: int | None) -> None:
    """A number or None."""
    if ignore_index is None:
        return
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, numbers.Real):
        raise TypeError(f"ignore_index must be a number, got {ignore_index!r}")
    if ignore_index != ignore_index:
        raise ValueError("ignore_index must not be NaN, which equals no target; wanted a mask")


def checked_tensor(values: Any, name: str = "x") -> Any:
    """A tensor of the values; raises for what is no number, as each backend does in other words."""
    if isinstance(values, keras.Variable):  # on TensorFlow it stays one, without a device
        values = values.value
    try:
        tensor = ops.convert_to_tensor(values)
        if keras.backend.standardize_dtype(tensor.dtype) == "string":
            raise TypeError("TensorFlow has tensors of text")
        if type(tensor).__name__ in ("RaggedTensor", "SparseTensor"):
            raise TypeError("TensorFlow's other kinds of tensors have no place for each element")
        return tensor
    except (TypeError, ValueError) as error:
        dtype = getattr(values, "dtype", None)
        kind = type(values).__name__ if dtype is None else f"{type(values).__name__} of {dtype}"
        raise TypeError(f"{name} must be a tensor of numbers, got {kind}") from error


def check_rank(tensor: Any, name: str) -> None:
    """Raise if a graph of TensorFlow does not know the number of dimensions."""
    if getattr(tensor.shape, "rank", 0) is None:
        raise ValueError(
            f"{name} must have a known number of dimensions, got a tensor of unknown rank, as of "
            "tf.numpy_function; say set_shape((None, None, None, 1)) or the like"
        )


def check_range(
    values: Any, name: str, high: float = 1.0, slack: float = 0.0
) -> tuple[float, float]:
    """The smallest and the largest value; raises if they are outside of [0, high]."""
    if 0 in _engine.sizes(values):  # the part of a replica may be empty
        return 0.0, 0.0
    values = ops.stop_gradient(values)
    low, top = float(ops.min(values)), float(ops.max(values))
    if not (low >= -slack and top <= high + slack):  # written so that NaN raises, too
        wanted = "lie in [0, 1]" if high == 1 else "be >= 0 and finite"
        raise ValueError(f"{name} must {wanted}, got values from {low} to {top}")
    return low, top


def check_pos_weight(pos_weight: Any) -> None:
    """Raise unless all numbers are >= 0 and finite."""
    check_range(pos_weight, "pos_weight", _special.largest(pos_weight))
