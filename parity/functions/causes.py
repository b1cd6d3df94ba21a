"""Why two losses differ: tries common mistakes of a port, one after the other.

Each trial changes one thing and checks whether the two then agree, in value or, if gradients were
compared, in gradient.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from parity.common.arrays import Array, sigmoid
from parity.common.signatures import Order
from parity.frameworks.autodiff import Evaluation

_NEAR = 1e-3
"""If the two agree to this after a change, it was the cause; the rest may be rounding."""
_CLIP = 15.0
"""Raw outputs up to this are not affected by clipping probabilities at 1e-7."""
UNSTEADY = "gives other values when it is called again: it is random, or keeps a state"
Values = tuple[Array, ...]
Evaluate = Callable[[Sequence[Array]], Evaluation]
_SWAPPED = "gets its first two inputs the other way round"


def same_again(one: Array, two: Array) -> bool:
    """Whether the values of two calls of one function are the same, up to rounding."""
    if one.shape != two.shape:
        return False
    return bool(np.allclose(one.astype(float), two.astype(float), 1e-4, 1e-6, equal_nan=True))


def _unsteady(
    names: tuple[str, str],
    calls: Sequence[Evaluate],
    arrays: Sequence[Array],
    results: tuple[Values, Values],
) -> list[str]:
    """Which of the two gives other values when it is called again."""
    found = []
    for name, call, (value, *_) in zip(names, calls, results, strict=True):
        with suppress(Exception):  # it may raise when it is called again
            if not same_again(value, call(arrays)[0]):
                found.append(f"{name} {UNSTEADY}")
    return found


def _close(one: Array, two: Array) -> bool:
    """Whether two arrays agree up to `_NEAR` of the largest entry."""
    if one.shape != two.shape or not one.size:
        return False
    with np.errstate(all="ignore"):
        apart = np.abs(one.astype(float) - two.astype(float))
        return bool(np.max(apart) <= _NEAR * np.max(np.abs(one)))


def _ratio(names: tuple[str, str], x: Array, one: Values, two: Values) -> str:
    """A constant factor between the two, also in the gradient."""
    ratios = []
    for a, b in zip(one, two, strict=True):
        if a.shape != b.shape or not np.all(np.isfinite(a)) or not np.any(a):
            return ""
        ratios.append(float(np.sum(a.astype(float) * b) / np.sum(a.astype(float) ** 2)))
        if not ratios[-1] or not _close(a * ratios[-1], b):
            return ""
    ratio = ratios[0]
    if abs(ratio - 1) < _NEAR or not np.allclose(ratios, ratio, rtol=_NEAR):
        return ""
    counts = [x.size, x.shape[0] if x.ndim else 1]
    counted = np.isclose(max(ratio, 1 / ratio), counts, rtol=_NEAR).any()
    if not counted and all(a.size == 1 for a in one):
        return ""  # single numbers always have a ratio
    larger, smaller, times = (*names[::-1], ratio) if abs(ratio) > 1 else (*names, 1 / ratio)
    what = "; the sign" if times < 0 else "; a sum in place of a mean?" if times > 1.5 else ""
    return f"{larger} is {times:.6g} times {smaller}{what}"


def _changed(
    names: tuple[str, str],
    calls: Sequence[Evaluate],
    arrays: Sequence[Array],
    orders: Sequence[Order],
) -> list[str]:
    """Which changed inputs of one function make the two agree in value.

    If the two agree when the first two inputs of one are swapped, they also agree when those of the
    other are: then the message names the one whose parameters do not show the order.
    """
    x, y, *others = arrays
    trials = {
        _SWAPPED: [y, x, *others],
        "gets sigmoid(x): it takes probabilities, the other raw outputs": [sigmoid(x), y, *others],
    }
    found = []
    unsure = [i for i in (0, 1) if not orders[i].certain]
    for words, changed in trials.items():
        for i in (unsure or (0, 1)) if words == _SWAPPED else (0, 1):
            try:
                with np.errstate(all="ignore"):
                    (again, _), (other, _) = calls[i](changed), calls[1 - i](arrays)
            except Exception:  # it may raise for inputs that it was not written for
                continue
            if _close(other, again):
                found.append(f"they agree if {names[i]} {words}")
    return found


def _clipped(x: Array, one: Values, two: Values) -> str:
    """Agreement only at moderate raw outputs."""
    inside = np.abs(x) <= _CLIP
    if inside.all() or not inside.any():
        return ""
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a.shape == b.shape == x.shape]
    if not pairs or not all(_close(a[inside], b[inside]) for a, b in pairs):
        return ""
    return (
        f"they agree where abs x <= {_CLIP:g}: one of them clips probabilities, the other does not"
    )


def likely_causes(
    names: tuple[str, str],
    calls: Sequence[Evaluate],
    arrays: Sequence[Array],
    results: tuple[Values, Values],
    orders: Sequence[Order],
) -> list[str]:
    """Likely mistakes between two losses of (x, y, ...); empty if no trial succeeds.

    `calls` evaluate them; `results` are their values and perhaps gradients; `orders` say how their
    parameters were read.
    """
    unsteady = _unsteady(names, calls, arrays, results)
    if unsteady:
        return unsteady
    ratio = _ratio(names, arrays[0], *results)
    if ratio:
        return [ratio]
    if len(arrays) < 2 or not all(_is_float(array) for array in arrays[:2]):
        return []
    clipped = _clipped(arrays[0], *results)
    return [clipped] if clipped else _changed(names, calls, arrays, orders)


def _is_float(array: Any) -> bool:
    return bool(array.dtype.kind == "f")
