"""Records of a user's functions, and comparisons between them.

A function at `mypkg.losses:focal` runs in a process of its own on the input sets of
`parity.suite.inputs.case_inputs`. Its record holds `INPUT SET/function/value` and, if it has one,
`INPUT SET/function/grad_x`.
"""

from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from parity.accuracy.comparison import Comparison
from parity.common.arrays import Array
from parity.common.signatures import KNOWN, Order
from parity.common.tolerance import difference, lowest_precision
from parity.functions.causes import UNSTEADY, same_again
from parity.functions.remote import RemoteError, Server
from parity.suite.case import Case
from parity.suite.inputs import Inputs, case_inputs
from parity.suite.records import Record, RecordError, RecordWriter

PARTS = ("value", "grad_x")
Results = dict[str, dict[str, Array]]
"""By input set, the `value` and perhaps `grad_x`."""


class FunctionError(ValueError):
    """Functions that cannot be compared; the message says why."""


@dataclass
class Evaluated:
    """The results of a function on every input set.

    `order` says how its parameters were read; if that is not certain, `other` has the results with
    its first two inputs swapped, if any. `steady`: it gave the same values in a second call.
    """

    name: str
    cases: str
    inputs: dict[str, Inputs]
    results: Results = field(default_factory=dict)
    framework: str = ""
    order: Order = KNOWN
    other: "Evaluated | None" = None
    steady: bool = True

    @property
    def doubt(self) -> str:
        """A note on the assumed order of its parameters; empty if nothing was assumed."""
        return self.order.doubt(self.name)

    @property
    def unsteady(self) -> str:
        """A note on a function that gives other values when it is called again; or empty."""
        return "" if self.steady else f"{self.name} {UNSTEADY}"


def evaluate(name: str, target: str, cases: str, server: Server) -> Evaluated:
    """Run the function at `target` on the input sets; the gradient is that in the outputs.

    Raises `TargetError` if there is no such function, `RemoteError` with its message if it fails,
    and `FunctionError` if a Keras backend is named and the function is of another framework.
    """
    found = Evaluated(name, cases, case_inputs(cases))
    described = server.describe(target, {})
    found.framework = " on ".join(filter(None, (described["framework"], described["backend"])))
    if server.backend and not described["backend"]:
        raise FunctionError(f"{target} is of {found.framework}; --backend goes with one of Keras")
    found.order = order = described["order"]
    if order.certain:
        found.results = _results(target, found.inputs, server)
        found.steady = _is_steady(found, target, server)
        return found
    orders = found, replace(found, order=replace(order, targets_first=not order.targets_first))
    able, errors = [], []
    for one, swapped in zip(orders, (False, True), strict=True):
        try:  # it may not accept both orders
            one.results = _results(target, found.inputs, server, swapped)
            one.steady = _is_steady(one, target, server, swapped)
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
    """Value and gradient on every input set; `swapped`: with the first two inputs swapped."""
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


def _is_steady(found: Evaluated, target: str, server: Server, swapped: bool = False) -> bool:
    """Whether the function gives the same value again on the first input set."""
    name, inputs = next(iter(found.inputs.items()))
    again = _results(target, {name: inputs}, server, swapped)
    return same_again(found.results[name]["value"], again[name]["value"])


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
    """The results in a function's record."""
    inputs = {name: record.inputs(name) for name in record.input_sets}
    found = Evaluated(record.implementation, record.cases, inputs, framework=record.framework)
    for key in sorted(record.keys):
        set_name, _, part = key.partition("/function/")
        if part in PARTS:
            found.results.setdefault(set_name, {})[part] = record.tensor(key)
    return found


def compare_pair(
    left: Evaluated, right: Evaluated, rtol: float | None, atol: float | None
) -> list[Comparison]:
    """Two functions on the same input sets, in value and gradient; NumPy has no gradients."""
    names = (left.name, right.name)
    found = []
    for set_name, inputs in left.inputs.items():
        one, two = left.results[set_name], right.results[set_name]
        for part in PARTS:
            if part in one and part in two:
                precision = lowest_precision(one["value"], two["value"], one[part], two[part])
                apart = difference(one[part], two[part], rtol, atol, precision)
                found.append(Comparison.of_difference(names, set_name, part, apart, inputs))
            elif (part in one or part in two) and "numpy" not in (left.framework, right.framework):
                without = right.name if part in one else left.name
                where = set_name, "grad_x", one["value"].dtype
                found.append(Comparison.of_lost_gradient(names, *where, without))
    return found


def losses_of_gradient(measurements: list[Comparison]) -> list[str]:
    """A line for every pair in which one side has lost its gradient."""
    pairs = dict.fromkeys((m.left, m.right) for m in measurements if m.without_gradient)
    why = "detached, or computed outside of its framework"
    return [
        f"{left} has no gradient in x ({why})"
        if right == "oracle"
        else f"one of {left} and {right} has no gradient in x ({why})"
        for left, right in pairs
    ]


def compare_all(
    functions: list[Evaluated], rtol: float | None, atol: float | None
) -> list[Comparison]:
    """Every pair."""
    pairs = combinations(functions, 2)
    return [m for left, right in pairs for m in compare_pair(left, right, rtol, atol)]


def orders_that_agree(
    functions: list[Evaluated], rtol: float | None, atol: float | None
) -> list[str]:
    """For pairs that differ: which order was assumed, and whether the other order agrees."""
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
) -> list[Comparison]:
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


def describe(case: Case) -> str:
    """A loss of the judge with all its parameters: `binary_focal_cross_entropy(gamma=2)`."""
    options = ", ".join(f"{key}={value:.4g}" for key, value in case.keywords.items())
    return f"{case.quantity}({options})" if options else case.quantity
