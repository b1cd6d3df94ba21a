"""Means with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""The confidence level of the intervals, of Student's t."""


@dataclass(frozen=True)
class Interval:
    """A mean with half the width of its interval: NaN for one value alone."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "-"
        if not self.half > 0 or math.isinf(self.half):
            return f"{self.mean:.4g}" + (" ± 0" if self.half == 0 else "")
        digits = max(0, 1 - math.floor(math.log10(self.half)))
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"

    @property
    def verdict(self) -> str:
        """What the interval of a difference shows: higher or lower than 0, or neither."""
        if math.isnan(self.half):
            return "-"
        if abs(self.mean) <= self.half:
            return "none shown"
        return "higher" if self.mean > 0 else "lower"


def interval(values: Sequence[float]) -> Interval:
    """The interval of the mean of a sample of a normal distribution.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, half=2.484137711..., count=3)
    """
    from scipy import stats

    count = len(values)
    if not count:
        return Interval(math.nan, math.nan, 0)
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, math.nan, 1)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error, count)
