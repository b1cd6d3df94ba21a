"""`assert_parity`: do two or more functions give the same values and gradients?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from parity.difference import (
    Difference,
    Finding,
    check_tolerance,
    difference,
    lowest_precision,
    settle,
)
from parity.functions import as_function
from parity.inputs import Array, case_inputs

_NAMES = ("x", "y", "w")
_MOST = 6
"""How many differences are told in full."""


@dataclass(frozen=True)
class Check:
    """Two functions held against each other in one part ("value", "gradient in x") of one case.

    `inside` holds the inputs at the worst element, where they have the value's shape; `problem`
    says in words what keeps the two from being compared.
    """

    case: str
    part: str
    names: tuple[str, str]
    difference: Difference | None
    inside: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return self.difference is not None and self.difference.passed

    def lines(self) -> list[str]:
        """Who differs in what, and by how much."""
        head = f"{self.names[0]} and {self.names[1]} differ in the {self.part}"
        head += f" ({self.case})" if self.case else ""
        if self.difference is None:
            return [head, f"  {self.problem}"]
        where = ", ".join(f"{name} = {value:.9g}" for name, value in self.inside.items())
        return [head, *(f"  {line}" for line in self.difference.lines(self.names, where))]


@dataclass
class Parity:
    """What `assert_parity` found: every pair of functions, in every part of every case."""

    what: str = ""
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> Difference | None:
        """The difference that needs the largest relative tolerance."""
        found = [check.difference for check in self.checks if check.difference]
        return max(found, key=lambda d: d.needed_rtol, default=None)

    def message(self) -> str:
        """Every difference, the first few of them in full."""
        failed = [check for check in self.checks if not check.passed]
        lines = [line for check in failed[:_MOST] for line in check.lines()]
        if len(failed) > _MOST:
            lines.append(f"and {len(failed) - _MOST} more differences")
        agreed = len(self.checks) - len(failed)
        if agreed:
            lines.append(f"{agreed} of {len(self.checks)} comparisons agree")
        return "\n".join([*lines, *self.notes])


def _as_array(name: str, value: Any) -> Array:
    """An input, be it an array, a tensor of any framework or numbers in lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"input {name} is {array.dtype}; wanted numbers")
    if array.dtype == np.float64 and isinstance(value, list | tuple | float):
        array = array.astype(np.float32)  # numbers without a precision have the frameworks' own
    return array


def _cases(inputs: Any) -> dict[str, dict[str, Array]]:
    """The inputs by case: the judge's own sets, or what was given, under no name."""
    if isinstance(inputs, str):
        return case_inputs(inputs)
    if not isinstance(inputs, Mapping):
        if not isinstance(inputs, Sequence):
            raise TypeError(
                f"inputs is {type(inputs).__name__}; wanted a list of arrays, a mapping from names "
                "to arrays, or the name of the judge's cases, such as 'segmentation'"
            )
        more = (f"input {i}" for i in range(len(_NAMES), len(inputs)))
        inputs = dict(zip((*_NAMES, *more), inputs, strict=False))
    if not inputs:
        raise ValueError("inputs is empty; wanted at least one array")
    return {"": {str(name): _as_array(name, value) for name, value in inputs.items()}}


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
    """What messages call the functions; where two would be the same, with their framework."""
    if names is not None:
        if len(names) != len(functions) or len(set(names)) != len(functions):
            raise ValueError(f"names is {list(names)}; wanted {len(functions)} different ones")
        return list(names)
    found = [f.name for f in functions]
    if len(set(found)) < len(found):
        found = [f"{f.framework} {f.name}" for f in functions]
    repeated = {name for name in found if found.count(name) > 1}
    return [f"{n} {i}" if n in repeated else n for i, n in enumerate(found, 1)]


def _inside(arrays: dict[str, Array], index: tuple[int, ...], shape: tuple[int, ...]) -> dict:
    return {n: float(a[index]) for n, a in arrays.items() if a.shape == shape and a.size}


def _compare_case(
    case: str,
    arrays: dict[str, Array],
    labels: list[str],
    functions: Sequence[Any],
    wanted: list[str],
    asked: bool,
    rtol: float | None,
    atol: float | None,
) -> tuple[list[Check], list[str]]:
    """Every pair of functions on one case."""
    positions = [list(arrays).index(name) for name in wanted]
    given = list(arrays.values())
    results = [function.evaluate(given, positions) for function in functions]
    checks: list[Check] = []
    notes: list[str] = []

    def add(part: str, left: int, right: int, one: Array, two: Array) -> None:
        # a gradient comes in the input's precision, however low that of the value
        precision = lowest_precision(results[left][0], results[right][0], one, two)
        found = difference(one, two, rtol, atol, precision)
        inside = _inside(arrays, found.index, one.shape) if found.comparable else {}
        checks.append(Check(case, part, (labels[left], labels[right]), found, inside))

    for left, right in combinations(range(len(functions)), 2):
        add("value", left, right, results[left][0], results[right][0])
    for i, name in enumerate(wanted):
        part = f"gradient in {name}"
        found = {j: results[j][1][i] for j in range(len(functions))}
        able = [j for j in found if functions[j].framework != "numpy"]
        if len(able) < 2:
            if asked:
                raise ValueError(
                    f"gradients names {name}, but fewer than two of the functions have gradients: "
                    "NumPy has none"
                )
            if not notes:
                notes.append("values alone were compared: NumPy has no gradients")
            continue
        for left, right in combinations(able, 2):
            one, two = found[left], found[right]
            if one is not None and two is not None:
                add(part, left, right, one, two)
            elif one is not None or two is not None:
                without = labels[left] if one is None else labels[right]
                problem = f"{without} has none: its value does not depend on {name} as far as its "
                problem += "framework can tell (detached, or computed outside of it)"
                checks.append(
                    Check(case, part, (labels[left], labels[right]), None, problem=problem)
                )
    return checks, notes


def compare_functions(
    *functions: Any,
    inputs: Any,
    gradients: Iterable[str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    names: Sequence[str] | None = None,
) -> Parity:
    """What `assert_parity` asserts, without raising for what differs."""
    if len(functions) < 2:
        raise TypeError(f"{len(functions)} functions given; wanted two or more to compare")
    check_tolerance(rtol, atol)
    made = [as_function(function) for function in functions]
    labels = _labels(made, names)
    found = Parity(" and ".join(labels))
    for case, arrays in _cases(inputs).items():
        wanted = _wanted(gradients, arrays)
        asked = gradients is not None
        checks, notes = _compare_case(case, arrays, labels, made, wanted, asked, rtol, atol)
        found.checks += checks
        found.notes += [note for note in notes if note not in found.notes]
    return found


def assert_parity(
    *functions: Any,
    inputs: Any,
    gradients: Iterable[str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    names: Sequence[str] | None = None,
) -> Parity:
    """Assert that functions agree, in value and gradient, whatever frameworks they are from.

    >>> import numpy as np
    >>> from parity import assert_parity
    >>> def softplus(x): return np.log1p(np.exp(x))
    >>> def stable(x): return np.logaddexp(x, 0)
    >>> assert_parity(softplus, stable, inputs=[np.array([0.5, 2.0])]).passed
    True

    Args:
        functions: two or more; each a function, module, layer, model or loss of PyTorch, Keras (on
            the backend it runs on here), TensorFlow, JAX or NumPy, or a `parity.Function`, which
            says the framework where the callable does not show it, or what `run_in_backend` gives.
            Each must return one tensor or number.
        inputs: the arrays that every function gets, in its framework's tensors: a list, called x, y
            and w in messages, or a mapping from names to arrays. Or the name of the judge's cases:
            "segmentation", "classification", "volumes", "tails", "predictions" (see
            `parity.inputs.case_inputs`). Outputs come first and targets second; a function
            whose first parameters are y_true and y_pred, such as any Keras loss, gets them the
            other way round.
        gradients: names of inputs; None is the first one, [] is none. A value that is no single
            number is weighted element by element with seeded numbers, then summed.
        rtol, atol: an element misses where its error exceeds atol + rtol times its magnitude.
            Default by precision, see `parity.difference`; `atol=0` holds the smallest elements to
            rtol, too.
        names: what messages call the functions.

    Returns what was found. Raises `ParityError`, an `AssertionError`, if two functions differ: who,
    where, by how much in ulp and relative, how many elements miss, and the smallest tolerance that
    would pass. `TypeError` or `ValueError` if it cannot compare them.
    """
    __tracebackhide__ = True
    found = compare_functions(
        *functions, inputs=inputs, gradients=gradients, rtol=rtol, atol=atol, names=names
    )
    settle(Finding(found.what, found.passed, found.worst, found.message()))
    return found
