"""The worst errors of results and records, and whether they are within bounds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity.accuracy import bounds
from parity.accuracy.comparison import Comparison
from parity.accuracy.error import errors
from parity.common.arrays import Array
from parity.reference import float64
from parity.suite.case import Batch, Case
from parity.suite.cases import judged_cases, standard_cases
from parity.suite.inputs import Inputs
from parity.suite.records import Record

Observer = Callable[[Case, str, Inputs, Array], None]
"""A function that gets a part of a case, its inputs and the error of every entry."""


def measure(
    left: str,
    right: str,
    batch: Batch,
    part: str,
    got: Array,
    expected: Array,
    scale: Array | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """The worst error of one part of a case, and its place.

    Another shape than expected, or another dtype than the inputs', is an infinite error.
    """
    case, pair = batch.case, right not in bounds.TRUTHS
    fits = got.shape == expected.shape and all(
        side in bounds.TRUTHS or array.dtype == case.dtype
        for side, array in ((left, got), (right, expected))
    )
    if fits:
        error = errors(batch, part, got, expected, scale, pair)
    else:
        error = np.full(expected.shape, np.inf)
    if observer:
        observer(case, part, batch.inputs, error)
    bound = bounds.bound(left, right, case, part)
    worst = int(np.argmax(error))
    inside = {"x": batch.x, "y": batch.y} if case.is_loss else {"x": batch.x}
    return Comparison(
        left=left,
        right=right,
        case=case.name,
        dtype=case.dtype,
        activation=case.activation,
        quantity=case.label,
        part=part,
        unit=bounds.unit(case, part),
        error=float(error.flat[worst]),
        bound=bound,
        inside={n: float(a.flat[worst]) for n, a in inside.items() if a.size == error.size},
        got=float(got.flat[worst]) if fits else float("nan"),
        expected=float(expected.flat[worst]),
        over=int(np.count_nonzero(error > bound)),
        count=error.size,
    )


Results = Mapping[str, Array]


def measure_case(
    left: str,
    right: str,
    batch: Batch,
    got: Results,
    expected: Results,
    observer: Observer | None = None,
) -> list[Comparison]:
    """One measurement for every part of the case."""
    case, scale = batch.case, float64.scales(batch)

    def against(truth: Results) -> list[Comparison]:
        return [
            measure(left, right, batch, part, got[part], truth[part], scale.get(part), observer)
            for part in case.parts
        ]

    found = against(expected)
    if right == "oracle" and case.reduced and not all(m.passed for m in found):
        # subnormal outputs may be flushed: an overlap of only such outputs has a loss of 0
        tiny = float(np.finfo(case.dtype).tiny)
        flushed = against(float64.evaluate(batch, smallest=tiny))
        found = flushed if all(m.passed for m in flushed) else found
    return found


def compare(
    left: Record,
    right: Record,
    cases: Iterable[Case] | None = None,
    observer: Observer | None = None,
) -> list[Comparison]:
    """Every measurement between two records; the right one may be the reference.

    Cases that the reference does not hold are compared with the oracle. Raises `RecordError` if the
    records hold different cases or inputs.
    """
    if cases is None:
        cases = standard_cases() if left.implementation == "reference" else judged_cases()
    chosen = list(cases)
    left.check_comparable(right, chosen)
    found = []
    for case in chosen:
        batch, name = case.bind(left.inputs(case.input_set)), right.implementation
        if name == "reference" and not right.has(case):
            name, expected = "oracle", float64.evaluate(batch)
        else:
            expected = right.result(case)
        got = left.result(case)
        found += measure_case(left.implementation, name, batch, got, expected, observer)
    return found


def _badness(m: Comparison) -> tuple[bool, float]:
    """The order of errors: a failure is worse than a pass, and NaN is worse than all."""
    return not m.passed, np.inf if np.isnan(m.error) else m.error


def worst(measurements: Iterable[Comparison]) -> dict[Any, Comparison]:
    """The worst measurement of every (left, right, dtype, activation, quantity, part).

    Comparisons with the oracle count as comparisons with the reference.
    """
    found: dict[Any, Comparison] = {}
    for m in measurements:
        key = (m.left, "reference" if m.against_exact else m.right, *m.key)
        held = found.get(key)
        if held is None:
            found[key] = m
            continue
        worse = m if _badness(m) > _badness(held) else held
        found[key] = replace(worse, over=m.over + held.over, count=m.count + held.count)
    return found


def stale_exceptions(measurements: Iterable[Comparison], judged: set[str]) -> list[str]:
    """One line for every entry of `bounds.EXCEPTIONS` that no comparison in `judged` needs."""
    figures = worst(measurements)
    lines = []
    for entry in bounds.EXCEPTIONS:
        if entry.implementation not in judged:
            continue
        key = (entry.implementation, "reference", entry.dtype, entry.activation, entry.quantity)
        m = figures.get((*key, entry.part))
        named = (entry.dtype, entry.activation, entry.quantity)
        cases = (c for c in judged_cases() if (c.dtype, c.activation, c.label) == named)
        case = next(cases, None)
        if case is None or entry.part not in case.parts:
            lines.append(f"exception for no case: {' '.join((*key[:1], *named, entry.part))}")
            continue
        limit = bounds.table_bound(entry.implementation, case, entry.part)
        if m is None or m.error <= limit:
            lines.append(
                f"stale exception: {entry.implementation} {entry.dtype} {entry.activation} "
                f"{entry.quantity} {entry.part} keeps its bound of {limit:g}"
            )
    return lines
