"""Arrays of any precision."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), in the precision of x."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)), x.dtype)
