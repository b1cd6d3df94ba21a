"""`assert_parity`: do two or more functions give the same values and gradients?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from parity.accuracy.comparison import Comparison
from parity.common.arrays import Array
from parity.common.findings import Finding, settle
from parity.common.signatures import KNOWN, Order, read
from parity.common.tolerance import (
    Difference,
    check_tolerance,
    difference,
    lowest_precision,
)
from parity.frameworks.autodiff import Evaluation
from parity.functions.causes import likely_causes
from parity.functions.function import as_function
from parity.suite.inputs import case_inputs

_NAMES = ("x", "y", "w")


@dataclass
class Parity:
    """The result of `assert_parity`: every pair of functions, in every part of every case."""

    what: str = ""
    checks: list[Comparison] = field(default_factory=list)
    causes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """One line, for a notebook."""
        failed = sum(not check.passed for check in self.checks)
        return f"<Parity of {self.what}: {failed} of {len(self.checks)} comparisons failed>"

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> Difference | None:
        """The difference that uses most of its tolerance."""
        compared = [check for check in self.checks if not check.without_gradient]
        found = [check.difference for check in compared if check.difference]
        return max(found, key=lambda d: d.share, default=None)

    def message(self) -> str:
        """For every pair that differs: the first difference in full, the others in a line each."""
        lines = []
        for names in dict.fromkeys(check.names for check in self.checks):
            checks = [check for check in self.checks if check.names == names]
            failed = [check for check in checks if not check.passed]
            if not failed:
                lines.append(f"{names[0]} and {names[1]} agree")
                continue
            parts = " and the ".join(dict.fromkeys(check.part for check in failed))
            lines.append(
                f"{names[0]} and {names[1]} differ in the {parts}: "
                f"{len(failed)} of {len(checks)} comparisons"
            )
            lines += failed[0].lines()
            lines += [check.short() for check in failed[1:]]
            if self.causes.get(names):
                lines += ["likely cause", *(f"  {cause}" for cause in self.causes[names])]
        return "\n".join([*lines, *self.notes])


def _as_array(name: str, value: Any) -> Array:
    """An input as an array, from an array, a tensor of any framework or lists of numbers."""
    if "bfloat16" in str(getattr(value, "dtype", "")):
        raise TypeError(f"input {name} is bfloat16; wanted float32, and the cast in the functions")
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"input {name} is {array.dtype}; wanted real numbers")
    if not array.size:
        raise ValueError(f"input {name} is empty, of shape {array.shape}; wanted some elements")
    if array.dtype == np.float64 and isinstance(value, list | tuple | float):
        # numbers without a precision get the default of the frameworks
        array = array.astype(np.float32)
    return array


def _cases(inputs: Any) -> dict[str, dict[str, Array]]:
    """The inputs by case: built-in sets, or the given arrays, without a name."""
    if isinstance(inputs, str):
        return case_inputs(inputs)
    if isinstance(inputs, Mapping):
        inputs = _outputs_first({str(name): value for name, value in inputs.items()})
    else:
        if not isinstance(inputs, Sequence):
            raise TypeError(
                f"inputs is {type(inputs).__name__}; wanted a list of arrays, a mapping from names "
                "to arrays, or the name of the judge's cases, such as 'segmentation'"
            )
        more = (f"input {i}" for i in range(len(_NAMES), len(inputs)))
        inputs = dict(zip((*_NAMES, *more), inputs, strict=False))
    if not inputs:
        raise ValueError("inputs is empty; wanted at least one array")
    return {"": {name: _as_array(name, value) for name, value in inputs.items()}}


def _outputs_first(inputs: dict[str, Any]) -> dict[str, Any]:
    """Named inputs in the order of the call: targets that come first are moved."""
    names = list(inputs)
    if read(names) == (True, True):
        names[:2] = names[1], names[0]
    return {name: inputs[name] for name in names}


def _wanted(gradients: Any, arrays: dict[str, Array]) -> list[str]:
    """The names of the inputs whose gradients are compared."""
    if gradients is None:
        chosen = list(arrays)[:1]
        return [n for n in chosen if arrays[n].dtype.kind == "f"]
    if isinstance(gradients, str) or not isinstance(gradients, Iterable):
        raise TypeError(f"gradients is {gradients!r}; wanted names of inputs, such as ['x'], or []")
    chosen = list(gradients)
    for name in chosen:
        if name not in arrays:
            raise ValueError(f"gradients names {name!r}; the inputs are {', '.join(arrays)}")
        if arrays[name].dtype.kind != "f":
            raise TypeError(f"gradients names {name}, which is {arrays[name].dtype}: no gradient")
    return chosen


def _labels(functions: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    """The names of the functions in messages; with their framework if two names are equal."""
    if names is not None:
        if len(names) != len(functions) or len(set(names)) != len(functions):
            raise ValueError(f"names is {list(names)}; wanted {len(functions)} different ones")
        return list(names)
    found = [f.name for f in functions]
    if len(set(found)) < len(found):
        found = [f"{f.framework} {f.name}" for f in functions]
    repeated = {name for name in found if found.count(name) > 1}
    return [f"{n} {i}" if n in repeated else n for i, n in enumerate(found, 1)]


@dataclass(frozen=True)
class _Evaluated:
    """The results of all functions on one case."""

    case: str
    arrays: dict[str, Array]
    labels: list[str]
    evaluations: list[Evaluation]
    rtol: float | None
    atol: float | None

    def check(self, part: str, pair: tuple[int, int], one: Array, two: Array) -> Comparison:
        """The comparison of two functions in one part."""
        values = [self.evaluations[i][0] for i in pair]
        # a gradient has the precision of the input, also if the value has a lower one
        precision = lowest_precision(*values, one, two)
        found = difference(one, two, self.rtol, self.atol, precision)
        return Comparison.of_difference(self.names(pair), self.case, part, found, self.arrays)

    def names(self, pair: tuple[int, int]) -> tuple[str, str]:
        """The labels of a pair."""
        return self.labels[pair[0]], self.labels[pair[1]]

    def values(self) -> list[Comparison]:
        """The comparison of values, for every pair."""
        pairs = combinations(range(len(self.labels)), 2)
        return [
            self.check("value", pair, *(self.evaluations[i][0] for i in pair)) for pair in pairs
        ]

    def gradients(self, name: str, position: int, able: Iterable[int]) -> list[Comparison]:
        """The comparison of gradients in one input, for every pair that has them."""
        part, checks = f"gradient in {name}", []
        for pair in combinations(able, 2):
            one, two = (self.evaluations[i][1][position] for i in pair)
            if one is not None and two is not None:
                checks.append(self.check(part, pair, one, two))
            elif any(gradient is not None and gradient.any() for gradient in (one, two)):
                names = self.names(pair)
                without = names[0] if one is None else names[1]
                where = self.case, part, self.evaluations[pair[0]][0].dtype
                checks.append(Comparison.of_lost_gradient(names, *where, without))
        return checks


def _add_causes(found: Parity, evaluated: _Evaluated, functions: Sequence[Any]) -> None:
    """Add why pairs differ, from the first case in which they do."""
    given = list(evaluated.arrays.values())
    for pair in combinations(range(len(functions)), 2):
        names = (evaluated.labels[pair[0]], evaluated.labels[pair[1]])
        checks = [c for c in found.checks if (c.case, c.names) == (evaluated.case, names)]
        if names in found.causes or all(check.passed for check in checks):
            continue
        calls = [functions[i].evaluate for i in pair]
        left, right = (
            (value, *(g for g in gradients if g is not None))
            for value, gradients in (evaluated.evaluations[i] for i in pair)
        )
        if len(left) == len(right):
            orders = [_order(functions[i]) for i in pair]
            found.causes[names] = likely_causes(names, calls, given, (left, right), orders)


def _order(function: Any) -> Order:
    """How the parameters of a function were read."""
    found = getattr(function, "order", None)
    return found if isinstance(found, Order) else KNOWN


def _add_doubts(found: Parity, labels: Sequence[str], functions: Sequence[Any]) -> None:
    """Add which of the differing functions were called in an order that was only assumed."""
    differing = {name for check in found.checks if not check.passed for name in check.names}
    for label, function in zip(labels, functions, strict=True):
        doubt = _order(function).doubt(label)
        if doubt and label in differing:
            found.notes.append(doubt)


def assert_parity(
    *functions: Any,
    inputs: Any,
    gradients: Iterable[str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    names: Sequence[str] | None = None,
) -> Parity:
    """Assert that functions of any frameworks agree, in value and gradient.

    >>> import numpy as np
    >>> from parity import assert_parity
    >>> def softplus(x): return np.log1p(np.exp(x))
    >>> def stable(x): return np.logaddexp(x, 0)
    >>> assert_parity(softplus, stable, inputs=[np.array([0.5, 2.0])]).passed
    True

    Args:
        functions: two or more; each a function, module, layer, model or loss of PyTorch, Keras (on
            its active backend), TensorFlow, JAX or NumPy, or a `parity.Function`, which names the
            framework if it cannot be detected, or the result of `run_in_backend`. Each must return
            one tensor or number.
        inputs: the arrays that every function gets, as tensors of its framework: a list, called x,
            y and w in messages, or a mapping from names to arrays. Or the name of built-in inputs:
            "segmentation", "classification", "volumes", "tails", "predictions" (see
            `parity.suite.inputs.case_inputs`). Outputs come first and targets second. If the names
            of a function's parameters show the opposite order (y_true, target, label or the like
            first), as in any Keras loss, it is called in that order; in a mapping the names show
            which is which. If the names do not show it, as in f(a, b), the outputs come first, and
            the message says so if the functions differ: `parity.Function(..., targets_first=True)`.
        gradients: names of inputs; None is the first one, [] is none. If the value is an array, it
            is multiplied by seeded numbers, element by element, and then summed.
        rtol, atol: an element misses if its error exceeds atol + rtol times its magnitude. The
            default of rtol is 1e-5 in float32 and 1e-11 in float64, that of atol 16 rounding units
            of the largest entry: much smaller entries are then not checked, unless `atol=0`.
        names: the names of the functions in messages.

    Returns the result. Raises `ParityError`, an `AssertionError`, if two functions differ: which,
    where, by how much in ulp and relative, how many elements miss, and the smallest tolerance that
    would pass. `TypeError` or `ValueError` if it cannot compare them.
    """
    __tracebackhide__ = True
    if len(functions) < 2:
        raise TypeError(f"{len(functions)} functions given; wanted two or more to compare")
    check_tolerance(rtol, atol)
    made = [as_function(function) for function in functions]
    labels = _labels(made, names)
    able = [i for i, function in enumerate(made) if function.framework != "numpy"]
    found = Parity(" and ".join(labels))
    if len(able) < 2:
        found.notes.append("values alone were compared: NumPy has no gradients")
    several = False
    for case, arrays in _cases(inputs).items():
        wanted = _wanted(gradients, arrays)
        if gradients is not None and wanted and len(able) < 2:
            raise ValueError(
                f"gradients names {wanted[0]}, but fewer than two of the functions have gradients: "
                "NumPy has none"
            )
        positions = [list(arrays).index(name) for name in wanted]
        given = list(arrays.values())
        evaluations = [function.evaluate(given, positions) for function in made]
        evaluated = _Evaluated(case, arrays, labels, evaluations, rtol, atol)
        found.checks += evaluated.values()
        for position, name in enumerate(wanted):
            checks = evaluated.gradients(name, position, able)
            if not checks and len(able) > 1:
                words = f"no gradient in {name} was compared: none of the functions has one"
                if gradients is not None:
                    raise ValueError(f"gradients names {name}; {words}")
                found.notes = [*dict.fromkeys([*found.notes, words])]
            found.checks += checks
        _add_causes(found, evaluated, made)
        several = several or len(arrays) > 1
    if several:
        _add_doubts(found, labels, made)
    settle(Finding(found.what, found.passed, found.worst, found.message()))
    return found
