"""Curves over the raw output x: the worst error of a run, and the cross entropy itself."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from parity.accuracy import bounds
from parity.common.arrays import Array
from parity.suite.case import ACTIVATIONS, SMOOTH, Case
from parity.suite.cases import baseline_cases
from parity.suite.inputs import Inputs
from parity.suite.records import Record

BINS = 80
"""The bins between x = -1e4 and 1e4; one more on each side holds everything beyond."""

Figures = dict[str, dict[str, list[float]]]
"""Activation -> "value" or "gradient" -> the worst error by bin, NaN for empty bins."""


def position(x: Array) -> Array:
    """The position of x on an axis that is linear on [-1, 1], logarithmic beyond: 1e4 is at 5."""
    magnitude = np.abs(np.asarray(x, np.float64))
    beyond = 1 + np.log10(np.maximum(magnitude, 1))
    found: Array = np.sign(x) * np.where(magnitude <= 1, magnitude, beyond)
    return found


END = float(position(np.array(bounds.FAR)))
CENTRES = (np.arange(-1, BINS + 1) + 0.5) * (2 * END / BINS) - END
"""The middle of every bin, in `position`."""


def _bins(x: Array) -> Array:
    """The bin of every x; 0 and BINS + 1 are the bins beyond."""
    x = np.asarray(x, np.float64).ravel()
    inside = np.abs(x) <= bounds.FAR
    index = np.floor((position(np.where(inside, x, 0)) / END + 1) * BINS / 2).astype(int)
    index = np.clip(index, 0, BINS - 1) + 1
    return np.where(inside, index, np.where(x < 0, 0, BINS + 1))


@dataclass
class ErrorCurves:
    """The worst float32 error in ulp of one implementation over x, of all values and gradients.

    Over every elementwise quantity except the quantile, as in `accuracy_tables.summary_table`: the
    highest point of a curve is the number in that table.
    """

    worst: dict[tuple[str, str], Array] = field(default_factory=dict)
    _last: tuple[Array, Array] | None = field(default=None, repr=False, compare=False)

    def add(self, case: Case, part: str, inputs: Inputs, error: Array) -> None:
        """Add the errors of one part of a case, if it is elementwise and float32."""
        elementwise = bounds.unit(case, part) == "ulp" and case.activation in ACTIVATIONS
        if not elementwise or case.quantity == "ppf" or part == "grad_y":
            return
        x = inputs["x"]
        if x.size != error.size:  # a result with a wrong shape, which fails as a whole
            return
        if self._last is None or self._last[0] is not x:
            self._last = x, _bins(x)
        kind = "value" if part == "value" else "gradient"
        held = self.worst.setdefault((case.activation, kind), np.full(BINS + 2, -1.0))
        np.maximum.at(held, self._last[1], error.ravel())

    def merge(self, found: Figures) -> None:
        """Add the curves of another `as_dict`."""
        for activation, parts in found.items():
            for kind, errors in parts.items():
                held = self.worst.setdefault((activation, kind), np.full(BINS + 2, -1.0))
                np.fmax(held, np.array(errors, np.float64), out=held)

    def along(self, activation: str, kind: str) -> Array:
        """The worst error in every bin, NaN for empty bins."""
        held = self.worst.get((activation, kind), np.full(BINS + 2, -1.0))
        return np.where(held < 0, np.nan, held)

    def as_dict(self) -> Figures:
        """For JSON, and `merge`."""
        found: Figures = {}
        for activation, kind in self.worst:
            found.setdefault(activation, {})[kind] = self.along(activation, kind).tolist()
        return found


@dataclass(frozen=True)
class LossCurve:
    """-log F(x) of one activation in float32, and its gradient: formula -> one number for every x.

    The formulas are "exact", "ours" and, where it was evaluated, "published".
    """

    activation: str
    x: list[float]
    loss: dict[str, list[float]]
    gradient: dict[str, list[float]]


def _loss_curve(activation: str, records: list[Record], reference: Record) -> LossCurve:
    case = Case("grid", "float32", activation, "binary_cross_entropy", "y=1")
    x = records[0].inputs(case.input_set)["x"].astype(np.float64)
    inside = np.abs(x) <= bounds.FAR
    found = {"exact": reference.result(case), "ours": records[0].result(case)}
    for record in records:
        for shown in baseline_cases(record.implementation):
            if (shown.quantity, shown.activation) == ("published", activation) and record.has(
                shown
            ):
                found["published"] = record.result(shown)
    loss, gradient = (
        {name: result[part][inside].astype(np.float64).tolist() for name, result in found.items()}
        for part in ("value", "grad_x")
    )
    return LossCurve(activation, x[inside].tolist(), loss, gradient)


def loss_curves(records: Iterable[Record], reference: Record) -> list[LossCurve]:
    """The curve of every smooth activation, "ours" from the first record."""
    records = list(records)
    return [_loss_curve(activation, records, reference) for activation in SMOOTH]
