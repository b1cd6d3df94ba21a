"""Compares a user's function with the losses of segact: which of them it is, if any."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from parity.accuracy.comparison import Comparison
from parity.common.arrays import Array
from parity.common.tolerance import difference, lowest_precision
from parity.functions.function import direction
from parity.functions.recorded import PARTS, Evaluated, FunctionError, describe
from parity.reference import float64
from parity.suite.case import (
    ACTIVATIONS,
    CONVENTIONS,
    ELEMENTWISE,
    NO_ACTIVATION,
    REDUCED,
    Case,
    default_epsilon,
)
from parity.suite.inputs import Inputs

_SPECIAL = ("weight", "ignore_index")
"""Options that need special arrays or targets, which a user's function does not get."""

_MODERATE = 4.0
"""Raw outputs up to this are not affected by any usual clipping."""

_NEAR = 1e-2
"""A function with a larger typical error is another function."""

_SAME = 1e-5
"""Up to this, typical errors do not decide: then the value does."""


def _candidates(set_name: str) -> Iterator[Case]:
    """The losses of segact on an input set."""
    inputs, _, dtype = set_name.rpartition("-")
    if inputs == "predictions":
        for name in CONVENTIONS:
            yield Case(inputs, dtype, f"{name}_convention", "binary_cross_entropy", "y=given")
        return
    for loss, name in product(ELEMENTWISE, ACTIVATIONS[:-1]):
        yield Case(inputs, dtype, name, loss, "y=given", default_epsilon(name))
    for loss, options in REDUCED.items():
        names = (NO_ACTIVATION,) if loss == "lovasz_hinge" else ACTIVATIONS
        for option, name in product(options, names):
            if option not in _SPECIAL and not (loss.startswith("lovasz") and "soft" in inputs):
                yield Case(inputs, dtype, name, loss, option, default_epsilon(name))


def _expected(case: Case, inputs: Inputs, shape: tuple[int, ...]) -> dict[str, Array] | None:
    """The oracle's value and gradient in the shape of the function's value, if it fits.

    The gradient of elements is in the `direction` in which a function's own is taken; of a
    convention, which has elements only, the mean serves as well.
    """
    each = shape == inputs["x"].shape and not case.reduced
    mean = shape == () and bool(case.convention)
    if not (each or mean or (shape == () and case.reduced)):
        return None
    exact = float64.evaluate(case.bind(inputs))
    value, gradient = exact["value"], exact["grad_x"]
    if each:
        return {"value": value, "grad_x": gradient * direction(shape, case.dtype)}
    if mean:
        return {"value": value.mean(), "grad_x": gradient / value.size}
    return {"value": value, "grad_x": gradient}


def _moderate(array: Array, x: Array) -> Array:
    """The entries at moderate raw outputs, if it has one for each; otherwise all."""
    return array[np.abs(x) <= _MODERATE] if array.shape == x.shape else array.ravel()


def _typical_error(got: Array, expected: Array, x: Array) -> tuple[float, float]:
    """The median relative error at moderate x, and the same after taking out a constant factor
    (which single numbers always have, and which is therefore not taken out of one)."""
    got, expected = (_moderate(np.asarray(a, np.float64), x) for a in (got, expected))
    with np.errstate(all="ignore"):
        errors = []
        for factor in (1.0, np.median(got / expected)):
            error = np.abs(got - factor * expected) / np.maximum(np.abs(got), np.abs(expected))
            error = np.where(got == expected, 0.0, np.nan_to_num(error, nan=np.inf, posinf=np.inf))
            errors.append(float(np.median(error)))
    return errors[0], errors[got.size > 1]


@dataclass
class Nearest:
    """The comparison of a function with one loss of segact.

    `typical` is its error at the median of moderate elements, of the gradient if there is one (the
    value of a mean is ruled by the tails), `scaled` the same up to a constant factor.
    """

    case: Case
    typical: float
    scaled: float
    value: float
    measurements: list[Comparison]

    def note(self, name: str) -> str:
        """A note if the function is not that loss; empty if it is."""
        if self.typical < _NEAR:
            return ""
        if not np.isfinite(self.typical):
            return f"{name} gives NaN or infinity at typical elements"
        loss = f"{describe(self.case)} of {self.case.activation}"
        if self.scaled < _NEAR / 100:
            return f"{name} is {loss} times a constant: a sum in place of a mean?"
        return (
            f"{name} is none of the judge's losses: the nearest, {loss}, is off by "
            f"{self.typical:.0%} at a typical element"
        )


def _against(
    function: Evaluated, cases: list[Case], rtol: float | None, atol: float | None
) -> Nearest | None:
    """The comparison of the function with a loss of segact; None if their shapes differ."""
    names = (function.name, "oracle")
    nearest = Nearest(cases[0], 0.0, 0.0, 0.0, [])
    for case in cases:
        inputs, got = function.inputs[case.input_set], function.results[case.input_set]
        expected = _expected(case, inputs, got["value"].shape)
        if expected is None:
            return None
        told = PARTS[-1] if PARTS[-1] in got else PARTS[0]
        typical, scaled = _typical_error(got[told], expected[told], inputs["x"])
        value, _ = _typical_error(got["value"], expected["value"], inputs["x"])
        nearest.typical = max(nearest.typical, typical)
        nearest.scaled = max(nearest.scaled, scaled)
        nearest.value = max(nearest.value, value)
        for part in (p for p in PARTS if p in got):
            precision = lowest_precision(got["value"], got[part])
            apart = difference(got[part], expected[part], rtol, atol, precision)
            measured = Comparison.of_difference(
                names, case.input_set, part, apart, inputs, case.activation, describe(case)
            )
            nearest.measurements.append(measured)
        if "grad_x" not in got and function.framework != "numpy":
            where = case.input_set, "grad_x", got["value"].dtype
            judged = case.activation, describe(case)
            lost = Comparison.of_lost_gradient(names, *where, function.name, *judged)
            nearest.measurements.append(lost)
    return nearest


def nearest(
    function: Evaluated,
    rtol: float | None,
    atol: float | None,
    loss: str | None = None,
    activation: str | None = None,
) -> Nearest:
    """The comparison with the nearest loss of segact, on every input set.

    `loss` and `activation` restrict the losses. Raises `FunctionError` if none
    gives values of the function's shape.
    """
    by_name: dict[tuple[str, str], list[Case]] = {}
    for set_name in function.results:
        for case in _candidates(set_name):
            if loss in (None, case.quantity) and activation in (None, case.activation):
                by_name.setdefault((case.activation, case.label), []).append(case)
    # without a case on one of the sets a loss cannot be identified
    everywhere = [cases for cases in by_name.values() if len(cases) == len(function.results)]
    found = [f for cases in everywhere if (f := _against(function, cases, rtol, atol))]
    if not found:
        shape = next(iter(function.results.values()))["value"].shape
        raise FunctionError(
            f"{function.name}: no loss of the judge gives a value of shape {shape} on "
            f"{function.cases}; wanted one of every element, or their mean"
        )
    best = min(found, key=lambda f: (max(f.typical, _SAME), f.value))
    scaled = min(found, key=lambda f: (max(f.scaled, _SAME), f.typical))
    return scaled if best.typical >= _NEAR and scaled.scaled < _NEAR / 100 else best


def nearest_in_any_order(
    function: Evaluated,
    rtol: float | None,
    atol: float | None,
    loss: str | None = None,
    activation: str | None = None,
) -> tuple[Nearest, list[str]]:
    """The result of `nearest`, and a note about it.

    If the parameters of a function do not show which takes the targets, both orders are compared
    with the losses, and the one in which it is one of them is taken.
    """
    best = nearest(function, rtol, atol, loss, activation)
    if best.note(function.name) and function.other:
        again = nearest(function.other, rtol, atol, loss, activation)
        if again.typical < _NEAR:
            function, best = function.other, again
    notes = [best.note(function.name), function.doubt]
    return best, [note for note in notes if note]
