"""A user's own functions: recorded, compared with each other, or held against the judge's losses.

A function at `mypkg.losses:focal` runs in a process of its own on the input sets of
`parity.inputs.case_inputs`. Its record holds `INPUT SET/function/value` and, if it has one,
`INPUT SET/function/grad_x`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import numpy as np

from parity import oracle
from parity.backends import RemoteError, Server
from parity.cases import (
    ACTIVATIONS,
    CONVENTIONS,
    ELEMENTWISE,
    NO_ACTIVATION,
    REDUCED,
    Case,
    default_epsilon,
)
from parity.compare import Measurement
from parity.difference import Difference, difference, lowest_precision
from parity.functions import direction
from parity.inputs import Array, Inputs, case_inputs
from parity.records import Record, RecordError, RecordWriter
from parity.signatures import KNOWN, Order

_SPECIAL = ("weight", "ignore_index")
"""Options that need arrays or targets of their own, which a user's function does not get."""
_MODERATE = 4.0
"""Raw outputs up to this are far from where anybody clips."""
_LOST = ", whose gradient was lost:"
_NEAR = 1e-2
"""A function whose typical error is larger is another one."""
_SAME = 1e-5
"""Typical errors up to this tell nothing: then the value does."""
PARTS = ("value", "grad_x")
Results = dict[str, dict[str, Array]]
"""By input set, the `value` and perhaps `grad_x`."""


class FunctionError(ValueError):
    """Functions that cannot be judged; the message says why."""


@dataclass
class Evaluated:
    """What a function gave on every input set.

    `order` says how its parameters were read; where that is not certain, `other` is what it gave
    with its first two inputs the other way round, if anything.
    """

    name: str
    cases: str
    inputs: dict[str, Inputs]
    results: Results = field(default_factory=dict)
    framework: str = ""
    order: Order = KNOWN
    other: "Evaluated | None" = None

    @property
    def doubt(self) -> str:
        """What was assumed of the order of its parameters, in words; empty if nothing was."""
        return self.order.doubt(self.name)


def evaluate(name: str, target: str, cases: str, server: Server) -> Evaluated:
    """Run the function at `target` on the input sets; the gradient is that in the outputs.

    Raises `backends.TargetError` if there is none, `backends.RemoteError` if it fails, with what it
    said, and `FunctionError` where a Keras backend is asked for and the function is of another
    framework.
    """
    found = Evaluated(name, cases, case_inputs(cases))
    described = server.describe(target, {})
    found.framework = " on ".join(filter(None, (described["framework"], described["backend"])))
    if server.backend and not described["backend"]:
        raise FunctionError(f"{target} is of {found.framework}; --backend goes with one of Keras")
    found.order = order = described["order"]
    if order.certain:
        found.results = _results(target, found.inputs, server)
        return found
    orders = found, replace(found, order=replace(order, targets_first=not order.targets_first))
    able, errors = [], []
    for one, swapped in zip(orders, (False, True), strict=True):
        try:  # it need not take both
            one.results = _results(target, found.inputs, server, swapped)
            able.append(one)
        except RemoteError as error:
            errors.append(error)
    if not able:
        raise errors[0]
    able[0].other = able[1] if len(able) > 1 else None
    return able[0]


def _results(
    target: str, input_sets: dict[str, Inputs], server: Server, swapped: bool = False
) -> Results:
    """Value and gradient on every input set; `swapped`: the first two inputs the other way."""
    found: Results = {}
    for set_name, inputs in input_sets.items():
        arrays = list(inputs.values())
        if swapped:
            arrays[:2] = arrays[1], arrays[0]
        value, (gradient,) = server.evaluate(target, {}, arrays, [1 if swapped else 0])
        found[set_name] = {"value": value}
        if gradient is not None:
            found[set_name]["grad_x"] = gradient
    return found


def writer(found: Evaluated, device: str) -> RecordWriter:
    """The record of a function."""
    record = RecordWriter(found.name, device, cases=found.cases, framework=found.framework)
    for set_name, inputs in found.inputs.items():
        record.add_inputs(set_name, inputs)
    for set_name, parts in found.results.items():
        for part, array in parts.items():
            record.tensors[f"{set_name}/function/{part}"] = np.array(array, order="C")
    return record


def read(record: Record) -> Evaluated:
    """What a function's record holds."""
    inputs = {name: record.inputs(name) for name in record.input_sets}
    found = Evaluated(record.implementation, record.cases, inputs, framework=record.framework)
    for key in sorted(record.keys):
        set_name, _, part = key.partition("/function/")
        if part in PARTS:
            found.results.setdefault(set_name, {})[part] = record.tensor(key)
    return found


def _measurement(
    names: tuple[str, str],
    set_name: str,
    part: str,
    found: Difference,
    inputs: Inputs,
    case: Case | None = None,
) -> Measurement:
    """A difference as the judge's tables and reports have it; its error is the rtol it needs."""
    same = found.comparable and found.count > 0
    inside = {
        key: float(array[found.index])
        for key, array in inputs.items()
        if same and array.shape == found.shapes[0]
    }
    shapes = "" if found.comparable else f", of shape {found.shapes[0]}, not {found.shapes[1]}"
    return Measurement(
        left=names[0],
        right=names[1],
        case=set_name,
        dtype=found.dtype,
        activation=case.activation if case else "",
        quantity=(describe(case) if case else "function") + shapes,
        part=part,
        unit="relative",
        error=found.needed_rtol,
        bound=found.rtol,
        x=inside.get("x"),
        y=inside.get("y"),
        got=found.left,
        expected=found.right,
        over=found.over if found.comparable else 1,
        count=max(1, found.count),
    )


def _lost(names: tuple[str, str], set_name: str, case: Case | None, values: Array) -> Measurement:
    """That one side has a gradient and the other has none."""
    apart = difference(np.array(np.nan, values.dtype), np.array(np.nan, values.dtype))
    quantity = (describe(case) if case else "function") + _LOST
    found = _measurement(names, set_name, "grad_x", apart, {}, case)
    return replace(found, quantity=quantity)


def compare_pair(
    left: Evaluated, right: Evaluated, rtol: float | None, atol: float | None
) -> list[Measurement]:
    """Two functions on the same input sets, in value and gradient; NumPy has no gradients."""
    names = (left.name, right.name)
    found = []
    for set_name, inputs in left.inputs.items():
        one, two = left.results[set_name], right.results[set_name]
        for part in PARTS:
            if part in one and part in two:
                precision = lowest_precision(one["value"], two["value"], one[part], two[part])
                apart = difference(one[part], two[part], rtol, atol, precision)
                found.append(_measurement(names, set_name, part, apart, inputs))
            elif (part in one or part in two) and "numpy" not in (left.framework, right.framework):
                found.append(_lost(names, set_name, None, one["value"]))
    return found


def losses_of_gradient(measurements: list[Measurement]) -> list[str]:
    """A line for every pair in which one side has lost its gradient."""
    pairs = dict.fromkeys((m.left, m.right) for m in measurements if _LOST in m.quantity)
    why = "detached, or computed outside of its framework"
    return [
        f"{left} has no gradient in x ({why})"
        if right == "oracle"
        else f"one of {left} and {right} has no gradient in x ({why})"
        for left, right in pairs
    ]


def compare_all(
    functions: list[Evaluated], rtol: float | None, atol: float | None
) -> list[Measurement]:
    """Every pair."""
    pairs = combinations(functions, 2)
    return [m for left, right in pairs for m in compare_pair(left, right, rtol, atol)]


def orders_that_agree(
    functions: list[Evaluated], rtol: float | None, atol: float | None
) -> list[str]:
    """Of pairs that differ: what was assumed of parameters, and where the other order agrees."""
    found = []
    for left, right in combinations(functions, 2):
        if all(m.passed for m in compare_pair(left, right, rtol, atol)):
            continue
        for one, two in ((left, right), (right, left)):
            found += [one.doubt] if one.doubt else []
            if one.other and all(m.passed for m in compare_pair(one.other, two, rtol, atol)):
                found.append(f"{left.name} and {right.name} agree if {one.name} is given them so")
    return list(dict.fromkeys(found))


def compare_records(
    left: Record, right: Record, rtol: float | None, atol: float | None
) -> list[Measurement]:
    """Two records of functions; raises `RecordError` if their inputs are not the same."""
    left.check_cases(right)
    if set(left.input_sets) != set(right.input_sets):
        raise RecordError(f"{right.path}: other cases than {left.path}; the input sets differ")
    left.check_inputs(right, left.input_sets)
    one, two = read(left), read(right)
    for record, found in ((left, one), (right, two)):
        absent = [n for n in found.inputs if "value" not in found.results.get(n, {})]
        if absent:
            raise RecordError(f"{record.path}: holds no value of the function on {absent[0]}")
    if one.name == two.name:
        one.name, two.name = left.path.name, right.path.name
    return compare_pair(one, two, rtol, atol)


def _candidates(set_name: str) -> Iterator[Case]:
    """The judge's own losses on an input set."""
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
    exact = oracle.evaluate(case, inputs)
    value, gradient = exact["value"], exact["grad_x"]
    if each:
        return {"value": value, "grad_x": gradient * direction(shape, case.dtype)}
    if mean:
        return {"value": value.mean(), "grad_x": gradient / value.size}
    return {"value": value, "grad_x": gradient}


def describe(case: Case) -> str:
    """A loss of the judge with all its parameters: `binary_focal_cross_entropy(gamma=2)`."""
    options = ", ".join(f"{key}={value:.4g}" for key, value in case.keywords.items())
    return f"{case.quantity}({options})" if options else case.quantity


def _moderate(array: Array, x: Array) -> Array:
    """Its entries at raw outputs where nobody clips, if it has one for each; else all."""
    return array[np.abs(x) <= _MODERATE] if array.shape == x.shape else array.ravel()


def _typical_error(got: Array, expected: Array, x: Array) -> tuple[float, float]:
    """The median relative error at moderate x, and the same after taking out a constant factor."""
    got, expected = (_moderate(np.asarray(a, np.float64), x) for a in (got, expected))
    with np.errstate(all="ignore"):
        errors = []
        for factor in (1.0, np.median(got / expected)):
            error = np.abs(got - factor * expected) / np.maximum(np.abs(got), np.abs(expected))
            error = np.where(got == expected, 0.0, np.nan_to_num(error, nan=np.inf, posinf=np.inf))
            errors.append(float(np.median(error)))
    return errors[0], errors[1]


@dataclass
class Nearest:
    """A function against one loss of the judge.

    `typical` is its error at the median of moderate elements, of the gradient if there is one (the
    value of a mean is ruled by the tails), `scaled` the same up to a constant factor.
    """

    case: Case
    typical: float
    scaled: float
    value: float
    measurements: list[Measurement]

    def note(self, name: str) -> str:
        """Whether that is the function at all, in words; empty if it is."""
        if self.typical < _NEAR:
            return ""
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
    """The function against a loss of the judge; None if their shapes differ."""
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
            measured = _measurement(names, case.input_set, part, apart, inputs, case)
            nearest.measurements.append(measured)
        if "grad_x" not in got and function.framework != "numpy":
            nearest.measurements.append(_lost(names, case.input_set, case, got["value"]))
    return nearest


def nearest(
    function: Evaluated,
    rtol: float | None,
    atol: float | None,
    loss: str | None = None,
    activation: str | None = None,
) -> Nearest:
    """The function against the loss of the judge that it comes nearest to, on every input set.

    `loss` and `activation` say which losses come into question. Raises `FunctionError` if none
    gives values of the function's shape.
    """
    by_name: dict[tuple[str, str], list[Case]] = {}
    for set_name in function.results:
        for case in _candidates(set_name):
            if loss in (None, case.quantity) and activation in (None, case.activation):
                by_name.setdefault((case.activation, case.label), []).append(case)
    # a loss that has no case on one of the sets cannot be told
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
    """What is `nearest`, and what is to be said of it.

    A function whose parameters do not say which takes the targets is held against the losses both
    ways, and the order in which it is one of them is its own.
    """
    best = nearest(function, rtol, atol, loss, activation)
    if best.note(function.name) and function.other:
        again = nearest(function.other, rtol, atol, loss, activation)
        if again.typical < _NEAR:
            function, best = function.other, again
    notes = [best.note(function.name), function.doubt]
    return best, [note for note in notes if note]
