"""The error of a result, entry by entry.

Elementwise float32 errors are counted in ulp of the expected value, float64 ones relative to it,
either against a given scale where terms cancel. A reduced loss is judged relatively, its gradient
against the largest entry, or against the largest term where all entries cancel.
`parity.accuracy.bounds` has the figures.
"""

import numpy as np

from parity.accuracy import bounds
from parity.common.arrays import Array
from parity.suite.case import Batch

_EDGE = 16
"""The tolerance, in rounding units, for a result at the edge of the range."""

_CANCELLED = 0.05
"""The part of its largest term below which the largest entry of a reduced gradient cancelled.

Then the bound of float32 is 4 rounding units of that term; no standard case comes to that.
"""


def ulp(values: Array, dtype: str) -> Array:
    """The spacing of the dtype at each magnitude, not below that of the smallest normal number."""
    info = np.finfo(dtype)
    magnitude = np.clip(np.abs(values), float(info.tiny), float(info.max))
    _, exponent = np.frexp(magnitude)
    spacing: Array = np.ldexp(1.0, exponent - info.nmant - 1)
    return spacing


def _flushed(zero: Array, other: Array, dtype: str) -> Array:
    """Where one side is 0 and the other below the smallest normal number, up to rounding."""
    info = np.finfo(dtype)
    return (zero == 0) & (np.abs(other) <= float(info.tiny) * (1 + _EDGE * float(info.eps)))


def _overflowed(got: Array, expected: Array, dtype: str) -> Array:
    """Where `got` is an infinity that the expected value reaches in the dtype."""
    info = np.finfo(dtype)
    reached = np.abs(expected) >= float(info.max) * (1 - _EDGE * float(info.eps))
    return np.isinf(got) & reached & (np.sign(got) == np.sign(expected))


def elementwise_error(
    got: Array, expected: Array, magnitude: Array, dtype: str, underflow: float = 0.0
) -> Array:
    """The error of each element in ulp (float32) or relative (float64) of the magnitude.

    0 where both are the same infinity, or `got` is an infinity that the expected value reaches in
    the dtype; 0 where a value below the smallest normal number was flushed to zero, or a factor of
    it was (`bounds.underflow`); infinite where `got` is NaN or a wrong infinity. An expected NaN
    marks an undefined value: only NaN is wrong.
    """
    got, tiny = got.astype(np.float64), float(np.finfo(dtype).tiny)
    with np.errstate(all="ignore"):
        if dtype == "float32":
            error = np.abs(got - expected) / ulp(magnitude, dtype)
        else:
            error = np.abs(got - expected) / np.maximum(magnitude, tiny)
        lost = np.abs(got - expected) <= underflow * tiny
    right = (
        lost
        | (got == expected)
        | _flushed(got, expected, dtype)
        | _overflowed(got, expected, dtype)
    )
    error = np.where(right | np.isnan(expected), 0.0, error)
    return np.where(np.isnan(got) | np.isnan(error), np.inf, error)


def reduced_error(
    got: Array, expected: Array, dtype: str, both: bool, scale: Array | None = None
) -> Array:
    """The error of each entry relative to the largest expected one (of both sides if `both`).

    As elsewhere, numbers below the smallest normal one may be flushed to zero, and numbers above
    the largest are infinite. `scale` is the magnitude of the terms of the sums: if all of them
    cancel, the largest entry is too small as a measure, so it counts as at least a twentieth of the
    largest term.
    """
    got = got.astype(np.float64)
    candidates = [np.abs(expected)]
    if both:
        candidates.append(np.abs(got))
    if scale is not None:
        candidates.append(_CANCELLED * scale)
    finite = [float(np.max(a, where=np.isfinite(a), initial=0.0)) for a in candidates]
    largest = max(*finite, float(np.finfo(dtype).tiny))
    right = (got == expected) | _flushed(got, expected, dtype) | _overflowed(got, expected, dtype)
    error = np.where(right, 0.0, np.abs(got - expected) / largest)
    return np.where(np.isnan(error), np.inf, error)


def errors(
    batch: Batch,
    part: str,
    got: Array,
    expected: Array,
    scale: Array | None = None,
    pair: bool = False,
) -> Array:
    """The error of every entry of one part of a case, in `bounds.unit(batch.case, part)`.

    `scale` is the magnitude to count against, if larger than the expected value. With `pair`,
    neither side is the truth: the larger magnitude of the two counts, and NaN is wrong on both.
    """
    case, expected = batch.case, expected.astype(np.float64)
    broken = np.isnan(expected) & pair
    if pair:
        lost = _flushed(expected, got, case.dtype) | _overflowed(expected, got, case.dtype)
        expected = np.where(lost, got, expected)
    if bounds.kind(case, part).startswith("reduced"):
        with np.errstate(all="ignore"):
            error = reduced_error(got, expected, case.dtype, pair, scale)
    else:
        magnitude = np.abs(expected)
        if pair:
            magnitude = np.fmax(magnitude, np.abs(got.astype(np.float64)))
        if scale is not None:
            magnitude = np.fmax(magnitude, scale)
        underflow = bounds.underflow(case, part)
        error = elementwise_error(got, expected, magnitude, case.dtype, underflow)
    return np.where(broken, np.inf, error)
