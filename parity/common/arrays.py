"""The type of arrays, whatever their precision."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
