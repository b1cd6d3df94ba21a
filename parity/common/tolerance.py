"""The difference of two arrays, where it is largest, and which tolerance would pass.

One rule for every check of a user's own functions, records, models and trainings: an element
misses where

    abs(a - b) > atol + rtol max(abs(a), abs(b))

The default of `rtol` depends on the precision (`RTOL`), that of `atol` is `ROUNDINGS` rounding
units of the largest entry: the error that a sum of numbers of that size may have. With `atol=0`
every element has to meet `rtol`, also the smallest. Equal infinities agree; NaN agrees with
nothing.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from parity.common.arrays import Array

RTOL = {"bfloat16": 2e-2, "float16": 5e-3, "float32": 1e-5, "float64": 1e-11}
"""The default relative tolerance, by precision."""

ROUNDINGS = 16
"""The default absolute tolerance, in rounding units of the largest finite entry."""

_EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
_SMALLEST = {"bfloat16": 2.0**-133, "float16": 2.0**-24, "float32": 2.0**-149, "float64": 5e-324}


def _precision(array: Array) -> str:
    """The name of the precision of an array; float64 for integers and booleans."""
    return array.dtype.name if array.dtype.name in _EPSILON else "float64"


def check_tolerance(rtol: float | None, atol: float | None) -> None:
    """Raises `ValueError` unless both are None or not negative and finite."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not (isinstance(value, Real) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value!r}; wanted a number >= 0")


def round_up(value: float) -> str:
    """Rounded up to two digits: a tolerance that passes when it is typed."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    text = f"{value:.1e}"
    step = 10.0 ** (int(text.partition("e")[2]) - 1)
    return text if float(text) >= value else f"{float(text) + step:.1e}"


@dataclass(frozen=True)
class Difference:
    """The difference of two arrays.

    `index` is the element that misses by most (or comes nearest to it), `left` and `right` are its
    two values; `over` of `count` elements miss. `needed_rtol` would let all pass with this `atol`,
    `needed_atol` with this `rtol`; `share` is how much of the tolerance is used, 1 at most if it
    passes. `narrow`: all of a side's float64 numbers are those of float32. Where `shapes` differ
    nothing else is known.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: str
    rtol: float
    atol: float
    index: tuple[int, ...] = ()
    left: float = math.nan
    right: float = math.nan
    over: int = 0
    count: int = 0
    needed_rtol: float = math.inf
    needed_atol: float = math.inf
    share: float = math.inf
    narrow: tuple[bool, bool] = (False, False)

    @property
    def comparable(self) -> bool:
        """Whether both arrays have the same shape."""
        return self.shapes[0] == self.shapes[1]

    @property
    def passed(self) -> bool:
        """Whether no element misses."""
        return self.comparable and not self.over

    @property
    def absolute(self) -> float:
        """The absolute error at `index`."""
        return 0.0 if self.left == self.right else abs(self.left - self.right)

    @property
    def relative(self) -> float:
        """The error at `index` relative to the larger of the two."""
        with np.errstate(all="ignore"):
            largest = max(abs(self.left), abs(self.right))
            return float(np.float64(self.absolute) / largest) if self.absolute else 0.0

    @property
    def ulp(self) -> float:
        """The error at `index` in units of the last place of the larger of the two."""
        largest = max(abs(self.left), abs(self.right))
        if not math.isfinite(self.absolute):
            return math.inf
        spacing = 2.0 ** math.floor(math.log2(largest)) * _EPSILON[self.dtype] if largest else 0.0
        return self.absolute / max(spacing, _SMALLEST[self.dtype])

    def _error(self) -> str:
        if math.isnan(self.absolute):
            return "one of the two is not a number, or both are"
        ulp = f"{self.ulp:.4g} ulp of {self.dtype}"
        return f"{self.absolute:.3g}, relative {self.relative:.3g}, {ulp}"

    def lines(self, names: tuple[str, str], where: str = "") -> list[str]:
        """The difference in words: both values, the error, the misses, what would pass."""
        width = max(len("misses"), *map(len, names))
        if not self.comparable:
            pairs = zip(names, self.shapes, strict=True)
            return [f"{name:{width}}  shape {shape}" for name, shape in pairs]
        place = f"index {self.index}" if self.index else "the only element"
        rows = [
            ("where", f"{place}{': ' if where else ''}{where}"),
            (names[0], f"{self.left:.17g}" if self.dtype == "float64" else f"{self.left:.9g}"),
            (names[1], f"{self.right:.17g}" if self.dtype == "float64" else f"{self.right:.9g}"),
            ("error", self._error()),
            (
                "misses",
                f"{self.over:,} of {self.count:,} elements, at rtol={self.rtol:g}, "
                f"atol={self.atol:.2g}",
            ),
        ]
        if math.isfinite(self.needed_atol):
            enough = f"rtol={round_up(self.needed_rtol)} or atol={round_up(self.needed_atol)}"
            rows.append(("passes", f"from {enough} on"))
        else:
            rows.append(("passes", "with no tolerance: the error is no finite number"))
        if self.narrow[0] != self.narrow[1]:
            name = names[self.narrow.index(True)]
            rows.append(("note", f"{name} returns float32 values as float64: it rounds internally"))
        return [f"{name:{width}}  {text}" for name, text in rows]


def lowest_precision(*arrays: Array) -> str:
    """The lowest precision of the arrays, in which their results can be compared."""
    return max(map(_precision, arrays), key=_EPSILON.__getitem__)


def _narrow(array: Array) -> bool:
    """Whether all of the float64 numbers are float32 numbers."""
    with np.errstate(over="ignore"):
        return array.dtype == np.float64 and bool(np.all(array == array.astype(np.float32)))


def difference(
    left: Array,
    right: Array,
    rtol: float | None = None,
    atol: float | None = None,
    precision: str = "",
) -> Difference:
    """The difference of two arrays, in the lower precision of both, or in the named one."""
    left, right = np.asarray(left), np.asarray(right)
    for array in (left, right):
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise TypeError(f"the numbers are {array.dtype}; wanted real ones")
    dtype = precision or lowest_precision(left, right)
    a, b = left.astype(np.float64), right.astype(np.float64)
    largest = np.fmax(np.abs(a), np.abs(b)) if a.shape == b.shape else np.zeros(1)
    rtol = RTOL[dtype] if rtol is None else float(rtol)
    if atol is None:
        top = float(np.max(largest, where=np.isfinite(largest), initial=0.0))
        atol = ROUNDINGS * _EPSILON[dtype] * top
    atol = float(atol)
    shapes = (tuple(left.shape), tuple(right.shape))
    if a.shape != b.shape:
        return Difference(shapes, dtype, rtol, atol)
    if not a.size:
        return Difference(shapes, dtype, rtol, atol, needed_rtol=0.0, needed_atol=0.0, share=0.0)
    with np.errstate(all="ignore"):
        error = np.where(a == b, 0.0, np.abs(a - b))
        if left.dtype.kind in "iub" and right.dtype.kind in "iub":
            error = np.where(left == right, 0.0, np.maximum(error, 1.0))  # also beyond 2^53
        error = np.where(np.isfinite(error), error, np.inf)
        allowed = atol + rtol * largest
        # an infinite entry gives no allowance
        allowed = np.where(np.isfinite(allowed), allowed, 0.0)
        missing = error > allowed
        share = np.where(error == 0, 0.0, np.where(allowed > 0, error / allowed, np.inf))
        # among errors without an allowance, and among infinite ones, the largest
        worst = int(np.argmax(np.where(share == share.max(), error, -1.0)))
        beyond_atol = np.where(error > atol, (error - atol) / largest, 0.0)
        beyond_rtol = np.where(error > 0, error - rtol * largest, 0.0)
    needed = [float(np.max(np.where(np.isnan(n), np.inf, n))) for n in (beyond_atol, beyond_rtol)]
    return Difference(
        shapes=shapes,
        dtype=dtype,
        rtol=rtol,
        atol=atol,
        index=tuple(int(i) for i in np.unravel_index(worst, a.shape)),
        left=float(a.flat[worst]),
        right=float(b.flat[worst]),
        over=int(np.count_nonzero(missing)),
        count=a.size,
        needed_rtol=needed[0],
        needed_atol=max(needed[1], 0.0),
        share=float(share.flat[worst]),
        narrow=(_narrow(left), _narrow(right)),
    )
