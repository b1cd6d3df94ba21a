"""The judgement of a whole run: every measurement, the failures, and the baselines.

The names of fields in JSON are those of its format: `shown` has the baselines.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from parity.accuracy import bounds
from parity.accuracy.comparison import Comparison
from parity.accuracy.measurement import compare, stale_exceptions, worst
from parity.common.versions import VERSION, versions
from parity.judge.curves import ErrorCurves, LossCurve, loss_curves
from parity.judge.run import Outcome
from parity.judge.user_logits import LossRow
from parity.reference import REFERENCE_PATH
from parity.suite.case import BASELINES, Case
from parity.suite.cases import baseline_cases
from parity.suite.records import Record

BASELINE_NAMES = {
    "published": "published, epsilon 1e-7",
    "stock_from_logits": "stock, from logits",
    "stock_from_probabilities": "stock, from probabilities",
}


@dataclass(frozen=True)
class BaselineRow:
    """The error of a formula that is not judged, on `-log F(x)`, |x| <= 1e4.

    `error` is the worst relative error for x <= 0, at `x`; `largest` is its loss at -1e4, which it
    has from `largest_from` on; `smallest` and `smallest_from` are the same at 1e4.
    """

    formula: str
    implementation: str
    activation: str
    error: float
    x: float
    largest: float
    largest_from: float
    exact_largest: float
    smallest: float
    smallest_from: float
    exact_smallest: float


@dataclass
class Judgement:
    """All results of a run; `required` are the implementations that must not be skipped.

    The curves are for the figures of a report: the errors of every implementation, and the losses.
    """

    outcomes: list[Outcome]
    measurements: list[Comparison] = field(default_factory=list)
    baselines: list[BaselineRow] = field(default_factory=list)
    losses: list[LossRow] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    required: frozenset[str] = frozenset()
    error_curves: dict[str, ErrorCurves] = field(default_factory=dict)
    loss_curves: list[LossCurve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def implementations(self) -> list[str]:
        """The implementations with a record."""
        return [outcome.name for outcome in self.outcomes if outcome.record]

    def failures(self) -> list[str]:
        """One line for each failure; empty if the run passes."""
        lines = [f"{o.name} failed: {o.error}" for o in self.outcomes if o.error]
        lines += [
            f"{o.name} was asked for and skipped: {o.skipped}"
            for o in self.outcomes
            if o.skipped and o.name in self.required
        ]
        if not self.measurements:
            return [*lines, "nothing was judged: no implementation could run"]
        figures = worst(self.measurements).values()
        failed = sorted((m for m in figures if not m.passed), key=lambda m: not m.against_exact)
        lines += [m.line() for m in failed]
        for row in self.losses:
            if not row.passed:
                values = ", ".join(f"{name} {value:.9g}" for name, value in row.values.items())
                lines.append(
                    f"{row.activation} {row.loss}: implementations differ by {row.spread:.3g} "
                    f"relative, bound {bounds.FILE_AGREEMENT:g} ({values})"
                )
        return lines + self.stale

    @property
    def skipped(self) -> list[str]:
        """The implementations that did not run because something is missing."""
        return [outcome.name for outcome in self.outcomes if outcome.skipped]

    @property
    def passed(self) -> bool:
        """Whether something was judged, and everything is within bounds."""
        return not self.failures()

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": 1,
            "segact": VERSION,
            "versions": versions(),
            "passed": self.passed,
            "failures": self.failures(),
            "implementations": [
                {
                    "name": o.name,
                    "device": o.record.device if o.record else "",
                    "seconds": round(o.seconds, 2),
                    "skipped": o.skipped,
                    "error": o.error,
                }
                for o in self.outcomes
            ],
            "notes": self.notes,
            "measurements": [m.as_dict() | {"passed": m.passed} for m in self.measurements],
            "shown": [asdict(row) for row in self.baselines],
            "losses": [row.as_dict() for row in self.losses],
        }


def _baseline_row(record: Record, reference: Record, case: Case) -> BaselineRow:
    exact_case = Case("grid", "float32", case.activation, "binary_cross_entropy", "y=1")
    x = record.inputs("grid-float32")["x"].astype(np.float64)
    inside = np.abs(x) <= bounds.FAR
    x = x[inside]
    got = record.result(case)["value"].astype(np.float64).ravel()[inside]
    exact = reference.result(exact_case)["value"][inside]
    error = np.divide(np.abs(got - exact), exact, out=np.zeros_like(exact), where=x <= 0)
    at = int(np.argmax(error))
    return BaselineRow(
        formula=BASELINE_NAMES[case.quantity],
        implementation=record.implementation,
        activation=case.activation,
        error=float(error[at]),
        x=float(x[at]),
        largest=float(got[0]),
        largest_from=float(np.max(x[got == got[0]])),
        exact_largest=float(exact[0]),
        smallest=float(got[-1]),
        smallest_from=float(np.min(x[got == got[-1]])),
        exact_smallest=float(exact[-1]),
    )


def baseline_rows(records: Iterable[Record], reference: Record) -> list[BaselineRow]:
    """The rows that are shown but not judged, for every record that has them."""
    records = list(records)
    return [
        _baseline_row(record, reference, case)
        for quantity in BASELINES
        for record in records
        for case in baseline_cases(record.implementation)
        if case.quantity == quantity and record.has(case)
    ]


def judge(outcomes: list[Outcome], swept: bool) -> Judgement:
    """Judge the records of the standard cases against the shipped reference and each other."""
    judgement = Judgement(outcomes)
    records = [outcome.record for outcome in outcomes if outcome.record]
    if not records:
        return judgement
    reference = Record.load(REFERENCE_PATH)
    for record in records:
        curves = judgement.error_curves[record.implementation] = ErrorCurves()
        judgement.measurements += compare(record, reference, observer=curves.add)
    for outcome in outcomes:
        judgement.measurements += outcome.sweep
        if outcome.record:
            judgement.error_curves[outcome.name].merge(outcome.curves)
    for left, right in combinations(records, 2):
        judgement.measurements += compare(left, right)
    judgement.baselines = baseline_rows(records, reference)
    judgement.loss_curves = loss_curves(records, reference)
    if swept and all(record.device == "cpu" for record in records):
        names = {record.implementation for record in records}
        judgement.stale = stale_exceptions(judgement.measurements, names)
    return judgement
