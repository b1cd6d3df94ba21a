"""Checks of arguments: each raises an error that says what is wanted and what was given."""

import math
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segact_torch import _special
from segact_torch._distributed import ProcessGroup, check_group


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


def check_lovasz_groups(per_sample: bool, process_group: ProcessGroup | str | None) -> None:
    """Raise if ranks share a group of a Lovasz loss."""
    check_group(process_group)
    if process_group is not None and not per_sample:
        raise ValueError(
            "process_group must be None without per_sample=True: a Lovasz loss sorts all errors of "
            f"a group, and no sums of the ranks' parts replace that; got {process_group!r}"
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


def check_reduction(reduction: str) -> None:
    """One of three words."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def check_tensor(values: Any, name: str, wanted: str = "a torch.Tensor") -> None:
    """Raise unless it is a dense tensor of real numbers."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be {wanted}, got {type(values).__name__}")
    if values.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {values.dtype}")
    if values.layout is not torch.strided or values.is_nested or values.is_quantized:
        packed = "quantized" if values.is_quantized else values.layout
        kind = "nested" if values.is_nested else packed
        raise TypeError(f"{name} must be a dense tensor, got one that is {kind}")


def check_device(values: Tensor, name: str, x: Tensor) -> None:
    """Raise unless both are on one device: a backend reads addresses of the device of x."""
    if values.device != x.device:
        raise ValueError(
            f"{name} must be on the device of input, got {name} on {values.device} "
            f"and input on {x.device}"
        )


def check_range(
    values: Tensor, name: str, high: float = 1.0, slack: float = 0.0
) -> tuple[float, float]:
    """The smallest and the largest value; raises if they are outside of [0, high]."""
    low, top = (t.item() for t in torch.aminmax(values.detach()))
    if not (low >= -slack and top <= high + slack):  # written so that NaN raises, too
        wanted = "lie in [0, 1]" if high == 1 else "be >= 0 and finite"
        raise ValueError(f"{name} must {wanted}, got values from {low} to {top}")
    return low, top


def check_pos_weight(pos_weight: Tensor) -> None:
    """Raise unless all numbers are >= 0 and finite."""
    # in a dtype that has a minimum, which unsigned integers of 16 bits have not
    check_range(_special.double(pos_weight), "pos_weight", torch.finfo(torch.float64).max)
