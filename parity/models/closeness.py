"""Whether two arrays of a layer, or of a model, agree up to rounding."""

import numpy as np

from parity.common.arrays import Array
from parity.common.tolerance import Difference, difference, lowest_precision

TOLERANCE = {
    "bfloat16": 16 * 2.0**-7,
    "float16": 64 * 2.0**-10,
    "float32": 256 * 2.0**-23,
    "float64": 256 * 2.0**-52,
}
"""The tolerance for layers and models, relative to the largest entry: in float32 256 rounding
units, 3e-5. Correct ports of 20 layers had errors up to 4e-6 (untrained, where every BatchNorm
rounds to the same side), of 40 layers up to 2e-5; ports with weights like trained ones 1e-6."""


def compare(
    left: Array,
    right: Array,
    rtol: float | None = None,
    atol: float | None = None,
    share: float = 0.0,
) -> Difference:
    """The difference of two outputs. Without tolerances: `TOLERANCE` (or `share`, if larger) times
    the largest entry, and no relative one, since rounding errors scale with the largest entry."""
    if atol is None:
        share = max(share, TOLERANCE[lowest_precision(left, right)])
        atol = share * max(largest(left), largest(right))
    return difference(left, right, 0.0 if rtol is None else rtol, atol)


def agree(left: Array, right: Array, share: float = 0.0) -> bool:
    """Whether two arrays agree up to rounding, or up to `share` times the largest entry."""
    if left.shape != right.shape:
        return False
    share = max(share, TOLERANCE[lowest_precision(left, right)])
    return relative_error(left, right) <= share or compare(left, right, share=share).passed


def relative_error(left: Array, right: Array) -> float:
    """The largest error, relative to the largest entry; NaN if a difference is NaN."""
    with np.errstate(all="ignore"):
        error = wide(left) - wide(right)
        worst = float(np.max(np.abs(error), initial=0.0))
    return worst / (max(largest(left), largest(right)) or 1.0)


def wide(array: Array) -> Array:
    """The array in float32 or float64, to subtract in."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def largest(array: Array) -> float:
    """The largest absolute value of the finite entries."""
    numbers = wide(array)
    found = max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))
    if np.isfinite(found):
        return found
    return float(np.max(np.abs(numbers), where=np.isfinite(numbers), initial=0.0))
