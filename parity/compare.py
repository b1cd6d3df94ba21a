"""How far two results are from each other, and whether that is within bounds.

Elementwise float32 errors are counted in ulp of the expected value, float64 ones relative to it,
either against a given scale where terms cancel. A reduced loss is judged relatively, its gradient
against the largest entry, or against the largest term where all entries cancel. See `parity.bounds`
for the figures.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity import bounds, oracle
from parity.cases import Case, judged_cases, standard_cases
from parity.inputs import Array, Inputs
from parity.records import Record

_EDGE = 16
"""Rounding units by which a result may miss the edge of the range and still be on it."""


_CANCELLED = 0.05
"""The part of its largest term below which the largest entry of a reduced gradient cancelled.

Then the bound of float32 is 4 rounding units of that term; no standard case comes to that.
"""


@dataclass(frozen=True)
class Measurement:
    """The worst error of one part of one case between two implementations (or the reference)."""

    left: str
    right: str
    case: str
    dtype: str
    activation: str
    quantity: str
    part: str
    unit: str
    error: float
    bound: float
    x: float | None
    y: float | None
    got: float
    expected: float
    over: int
    count: int

    @property
    def judged_alone(self) -> bool:
        """Against the reference or the oracle, not against another implementation."""
        return self.right in bounds.TRUTHS

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound."""
        return self.error <= self.bound

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What is aggregated over input sets: dtype, activation, quantity and part."""
        return self.dtype, self.activation, self.quantity, self.part

    def line(self) -> str:
        """One plain line that says everything about it."""
        letter = "p" if self.quantity == "ppf" or "_convention" in self.activation else "x"
        at = "" if self.x is None else f" at {letter}={self.x:.9g}"
        at += "" if self.y is None else f", y={self.y:.9g}"
        part = "value" if self.part == "value" else f"gradient in {self.part[-1]}"
        return (
            f"{self.left} against {self.right}: {self.activation}{' ' if self.activation else ''}"
            f"{self.quantity} {part}{at}: "
            f"got {self.got:.9g}, expected {self.expected:.9g}, "
            f"error {self.error:.3g} {self.unit}, bound {self.bound:g} "
            f"({self.case}; {self.over} of {self.count} over)"
        )


def ulp(values: Array, dtype: str) -> Array:
    """The spacing of the dtype at each magnitude, not below that of the smallest normal number."""
    info = np.finfo(dtype)
    magnitude = np.clip(np.abs(values), float(info.tiny), float(info.max))
    _, exponent = np.frexp(magnitude)
    spacing: Array = np.ldexp(1.0, exponent - info.nmant - 1)
    return spacing


def _flushed(zero: Array, other: Array, dtype: str) -> Array:
    """Where one side is 0 and the other below the smallest normal number, give or take rounding."""
    info = np.finfo(dtype)
    return (zero == 0) & (np.abs(other) <= float(info.tiny) * (1 + _EDGE * float(info.eps)))


def _overflowed(got: Array, expected: Array, dtype: str) -> Array:
    """Where `got` is an infinity that the expected value reaches in the dtype."""
    info = np.finfo(dtype)
    reached = np.abs(expected) >= float(info.max) * (1 - _EDGE * float(info.eps))
    return np.isinf(got) & reached & (np.sign(got) == np.sign(expected))


def elementwise_error(
    got: Array, expected: Array, magnitude: Array, dtype: str, underflow: float = 0.0
) -> Array:
    """The error of each element in ulp (float32) or relative (float64) of the magnitude.

    0 where both are the same infinity, or `got` is an infinity that the expected value reaches in
    the dtype; 0 where a value below the smallest normal number was flushed to zero, or a factor of
    it was (`bounds.underflow`); infinite where `got` is NaN or a wrong infinity. An expected NaN
    marks an undefined value: only NaN is wrong.
    """
    got, tiny = got.astype(np.float64), float(np.finfo(dtype).tiny)
    with np.errstate(all="ignore"):
        if dtype == "float32":
            error = np.abs(got - expected) / ulp(magnitude, dtype)
        else:
            error = np.abs(got - expected) / np.maximum(magnitude, tiny)
        lost = np.abs(got - expected) <= underflow * tiny
    right = (
        lost
        | (got == expected)
        | _flushed(got, expected, dtype)
        | _overflowed(got, expected, dtype)
    )
    error = np.where(right | np.isnan(expected), 0.0, error)
    return np.where(np.isnan(got) | np.isnan(error), np.inf, error)


def _both_below(got: Array, expected: Array, floor: float) -> Array:
    """Where neither side is larger than the floor."""
    return (np.abs(got) <= floor) & (np.abs(expected) <= floor)


def reduced_error(
    got: Array, expected: Array, dtype: str, both: bool, scale: Array | None = None
) -> Array:
    """The error of each entry relative to the largest expected one (of either side if `both`).

    As elsewhere, what lies below the smallest normal number may be flushed to zero, and what lies
    beyond the largest is an infinity. `scale` is the magnitude of the terms whose sums are judged:
    where all of them cancel, the largest entry is no measure, and counts as a twentieth of the
    largest term at least.
    """
    got = got.astype(np.float64)
    candidates = [np.abs(expected)]
    if both:
        candidates.append(np.abs(got))
    if scale is not None:
        candidates.append(_CANCELLED * scale)
    finite = [float(np.max(a, where=np.isfinite(a), initial=0.0)) for a in candidates]
    largest = max(*finite, float(np.finfo(dtype).tiny))
    right = (got == expected) | _flushed(got, expected, dtype) | _overflowed(got, expected, dtype)
    error = np.where(right, 0.0, np.abs(got - expected) / largest)
    return np.where(np.isnan(error), np.inf, error)


def errors(
    case: Case,
    part: str,
    got: Array,
    expected: Array,
    inputs: Inputs,
    scale: Array | None = None,
    pair: bool = False,
) -> Array:
    """The error of every entry of one part of a case, in `bounds.unit(case, part)`.

    `scale` is the magnitude to count against, if larger than the expected value. With `pair`,
    neither side is the truth: the larger magnitude of the two counts, and NaN is wrong on both.
    """
    expected = expected.astype(np.float64)
    broken = np.isnan(expected) & pair
    if pair:
        lost = _flushed(expected, got, case.dtype) | _overflowed(expected, got, case.dtype)
        expected = np.where(lost, got, expected)
    if bounds.kind(case, part).startswith("reduced"):
        with np.errstate(all="ignore"):
            error = reduced_error(got, expected, case.dtype, pair, scale)
    else:
        magnitude = np.abs(expected)
        if pair:
            magnitude = np.fmax(magnitude, np.abs(got.astype(np.float64)))
        if scale is not None:
            magnitude = np.fmax(magnitude, scale)
        underflow = bounds.underflow(case, part)
        error = elementwise_error(got, expected, magnitude, case.dtype, underflow)
    error = np.where(broken, np.inf, error)
    floor = bounds.far_floor(case, part)
    if floor:
        negligible = (np.abs(inputs["x"]) > bounds.FAR) & _both_below(got, expected, floor)
        error = np.where(negligible, 0.0, error)
    return error


Seen = Callable[[Case, str, Inputs, Array], None]
"""Is shown a part of a case, its inputs and the error of every entry."""


def measure(
    left: str,
    right: str,
    case: Case,
    part: str,
    got: Array,
    expected: Array,
    inputs: Inputs,
    scale: Array | None = None,
    seen: Seen | None = None,
) -> Measurement:
    """The worst error of one part of a case, with where it happened.

    Another shape than expected, or another dtype than the inputs', is an infinite error.
    """
    pair = right not in bounds.TRUTHS
    fits = got.shape == expected.shape and all(
        side in bounds.TRUTHS or array.dtype == case.dtype
        for side, array in ((left, got), (right, expected))
    )
    if fits:
        error = errors(case, part, got, expected, inputs, scale, pair)
    else:
        error = np.full(expected.shape, np.inf)
    if seen:
        seen(case, part, inputs, error)
    bound = bounds.bound(left, right, case, part)
    worst = int(np.argmax(error))
    inside = {key: array.flat[worst] for key, array in inputs.items() if array.size == error.size}
    x = inside.get("x", inside.get("p"))
    y = float(case.targets(inputs).flat[worst]) if case.is_loss and "x" in inside else None
    return Measurement(
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
        x=None if x is None else float(x),
        y=y,
        got=float(got.flat[worst]) if fits else float("nan"),
        expected=float(expected.flat[worst]),
        over=int(np.count_nonzero(error > bound)),
        count=error.size,
    )


Results = Mapping[str, Array]


def measure_case(
    left: str,
    right: str,
    case: Case,
    got: Results,
    expected: Results,
    inputs: Inputs,
    seen: Seen | None = None,
) -> list[Measurement]:
    """One measurement for every part of the case."""
    scale = oracle.scales(case, inputs)

    def against(truth: Results) -> list[Measurement]:
        return [
            measure(left, right, case, part, got[part], truth[part], inputs, scale.get(part), seen)
            for part in case.parts
        ]

    found = against(expected)
    if right == "oracle" and case.reduced and not all(m.passed for m in found):
        # subnormal outputs may be flushed, and then an overlap of nothing else has a loss of 0
        flushed = against(oracle.evaluate(case, inputs, smallest=float(np.finfo(case.dtype).tiny)))
        found = flushed if all(m.passed for m in flushed) else found
    return found


def compare(
    left: Record,
    right: Record,
    cases: Iterable[Case] | None = None,
    seen: Seen | None = None,
) -> list[Measurement]:
    """Every measurement between two records, the right one perhaps the reference.

    What the reference does not hold is held against the oracle. Raises `RecordError` if the records
    hold other cases or other inputs.
    """
    if cases is None:
        cases = standard_cases() if left.implementation == "reference" else judged_cases()
    chosen = list(cases)
    left.check_comparable(right, chosen)
    found = []
    for case in chosen:
        inputs, name = left.inputs(case.input_set), right.implementation
        if name == "reference" and not right.has(case):
            name, expected = "oracle", oracle.evaluate(case, inputs)
        else:
            expected = right.result(case)
        got = left.result(case)
        found += measure_case(left.implementation, name, case, got, expected, inputs, seen)
    return found


def _badness(m: Measurement) -> tuple[bool, float]:
    """A failure is worse than anything that passes, and what is not a number worse than that."""
    return not m.passed, np.inf if np.isnan(m.error) else m.error


def worst(measurements: Iterable[Measurement]) -> dict[Any, Measurement]:
    """The worst measurement of every (left, right, dtype, activation, quantity, part).

    Measurements against the oracle count as against the reference, which the oracle stands for.
    """
    found: dict[Any, Measurement] = {}
    for m in measurements:
        key = (m.left, "reference" if m.judged_alone else m.right, *m.key)
        held = found.get(key)
        if held is None:
            found[key] = m
            continue
        worse = m if _badness(m) > _badness(held) else held
        found[key] = replace(worse, over=m.over + held.over, count=m.count + held.count)
    return found


def stale_exceptions(measurements: Iterable[Measurement], judged: set[str]) -> list[str]:
    """One line for every entry of `bounds.EXCEPTIONS` that `judged` do not need."""
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
