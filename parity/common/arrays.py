"""Arrays of any precision."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def without_bfloat16(array: Array) -> Array:
    """The array, bfloat16 as float32, since neither NumPy nor `torch.from_numpy` has bfloat16."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), in the precision of x."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)), x.dtype)
