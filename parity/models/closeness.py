"""Whether two arrays of a layer, or of a model, are the same but for rounding."""

import numpy as np

from parity.common.arrays import Array
from parity.common.tolerance import Difference, difference, lowest_precision

TOLERANCE = {
    "bfloat16": 16 * 2.0**-7,
    "float16": 64 * 2.0**-10,
    "float32": 256 * 2.0**-23,
    "float64": 256 * 2.0**-52,
}
"""The tolerance for layers and models as a share of the largest entry: in float32 256 rounding
units, 3e-5. Sound ports of 20 layers came to 4e-6 (untrained, where every BatchNorm rounds to the
same side), of 40 layers to 2e-5, trained-like ones to 1e-6."""


def compare(
    left: Array,
    right: Array,
    rtol: float | None = None,
    atol: float | None = None,
    share: float = 0.0,
) -> Difference:
    """The difference of two outputs; without tolerances, `TOLERANCE` (or `share`, if that is more)
    and no relative one: rounding is of the size of the largest entry, not of each."""
    if atol is None:
        share = max(share, TOLERANCE[lowest_precision(left, right)])
        atol = share * max(largest(left), largest(right))
    return difference(left, right, 0.0 if rtol is None else rtol, atol)


def agree(left: Array, right: Array, share: float = 0.0) -> bool:
    """Whether two arrays are the same but for rounding, or but for a share of the largest entry."""
    if left.shape != right.shape:
        return False
    share = max(share, TOLERANCE[lowest_precision(left, right)])
    return relative_error(left, right) <= share or compare(left, right, share=share).passed


def relative_error(left: Array, right: Array) -> float:
    """The largest error, relative to the largest entry; NaN where one is no finite number."""
    with np.errstate(all="ignore"):
        error = wide(left) - wide(right)
        worst = float(np.max(np.abs(error), initial=0.0))
    return worst / (max(largest(left), largest(right)) or 1.0)


def wide(array: Array) -> Array:
    """In a precision to subtract in."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def largest(array: Array) -> float:
    """The largest finite entry, without its sign."""
    numbers = wide(array)
    found = max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))
    if np.isfinite(found):
        return found
    return float(np.max(np.abs(numbers), where=np.isfinite(numbers), initial=0.0))
