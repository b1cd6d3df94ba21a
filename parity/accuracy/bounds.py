"""The bounds that every implementation keeps, in one place.

They are chosen once per kind of quantity and never widened to make a case pass. If a framework
itself makes a bound unreachable, the case is listed in `EXCEPTIONS` with its figure and its cause.
"""

from dataclasses import dataclass

import numpy as np

from parity.suite.case import Case

FAR = 1e4
"""Up to this |x| the first sweep goes and the curves are drawn; the second covers larger |x|."""

FILE_AGREEMENT = 1e-6
"""On a user's file, the largest relative difference of a reduced loss between implementations."""

ORACLE = 1e-13
"""The relative error that the float64 oracle may have against the reference."""

TRUTHS = ("reference", "oracle")
"""The names of the two sources of expected values."""

# kind of quantity: (float32 PyTorch, float32 Keras, float64 PyTorch, float64 Keras);
# elementwise float32 figures are ulp, all others relative
_BOUNDS = {
    "value": (4, 8, 1e-14, 1e-13),
    "gradient": (8, 16, 1e-13, 1e-12),
    # A product of n factors of F has n times its relative error.
    "squared error, value": (8, 16, 1e-13, 1e-12),
    "squared error, gradient": (8, 16, 1e-13, 1e-12),
    # gamma = 2: (1 + gamma) times the bound of F and a rounding, and (2 + gamma) times.
    "focal, value": (13, 25, 1e-13, 1e-12),
    "focal, gradient": (16, 32, 1e-13, 1e-12),
    "ppf": (8, 16, 1e-13, 1e-12),
    "reduced value": (1e-6, 2e-6, 1e-13, 1e-12),
    "reduced gradient": (1e-5, 1e-5, 1e-12, 1e-12),
}


@dataclass(frozen=True)
class Exceedance:
    """A case that misses its bound because of a framework: its worst figure, and the cause."""

    implementation: str
    dtype: str
    activation: str
    quantity: str
    part: str
    figure: float
    cause: str


EXCEPTIONS: tuple[Exceedance, ...] = ()
"""Strict: it fails if a figure is exceeded, and if an entry is no longer needed."""


def kind(case: Case, part: str) -> str:
    """The row of the table for this part (`value`, `grad_x` or `grad_y`) of a case.

    The gradient of any quantity of `linear` is a reduction, since every element moves with the
    smallest and the largest one: it is judged as the gradient of a reduced loss.
    """
    if case.quantity == "ppf":
        return "ppf"
    what = "value" if part == "value" else "gradient"
    if case.reduced or (case.activation == "linear" and part == "grad_x"):
        return f"reduced {what}"
    product = {"squared_error": "squared error", "binary_focal_cross_entropy": "focal"}
    return f"{product[case.quantity]}, {what}" if case.quantity in product else what


def unit(case: Case, part: str) -> str:
    """The unit of the error: `ulp` for elementwise float32, else `relative`."""
    reduced = kind(case, part).startswith("reduced")
    return "ulp" if case.dtype == "float32" and not reduced else "relative"


def underflow(case: Case, part: str) -> float:
    """The error, in smallest normal numbers, that a factor flushed to zero may cause.

    A result below the smallest normal number may be flushed to zero (`error.elementwise_error`),
    and so may the density f where it is a factor: in the gradient 2 (F - y) f of a squared error,
    and in f / (epsilon + (1 - 2 epsilon) F), the slope of a squeezed logarithm.
    """
    if part != "grad_x":
        return 0.0
    if case.quantity == "squared_error":
        return 2.0
    if case.epsilon and case.quantity in ("logcdf", "logsf", "binary_cross_entropy"):
        return 1 / case.exact_epsilon
    return 0.0


def find_exception(implementation: str, case: Case, part: str) -> Exceedance | None:
    """The entry of `EXCEPTIONS` that covers this part of the case, if there is one."""
    key = (implementation, case.dtype, case.activation, case.label, part)
    for entry in EXCEPTIONS:
        if key == (entry.implementation, entry.dtype, entry.activation, entry.quantity, entry.part):
            return entry
    return None


def table_bound(implementation: str, case: Case, part: str) -> float:
    """The design's bound, without exceptions. The reference itself has none: 0."""
    if implementation == "reference":
        return 0.0
    if implementation == "oracle":
        return ORACLE / float(np.finfo(np.float32).eps) if unit(case, part) == "ulp" else ORACLE
    column = 2 * (case.dtype == "float64") + implementation.startswith("keras")
    return float(_BOUNDS[kind(case, part)][column])


def bound(left: str, right: str, case: Case, part: str) -> float:
    """The bound between two implementations: the sum of theirs.

    On the right the reference and the oracle count as exact; on the left the oracle has a bound.
    """
    total = 0.0
    for implementation in (left,) if right in TRUTHS else (left, right):
        entry = find_exception(implementation, case, part)
        total += entry.figure if entry else table_bound(implementation, case, part)
    return total
