"""Compare two runs: their losses, where these must agree, and their histories.

Two runs with SGD or RMSprop, without dropout and otherwise with the same options, have the same
loss at each of the first steps, with the tolerance of `segact-parity train`. Other runs can only be
compared statistically, with intervals.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.common.options import implementation
from examples.common.runs import Row, Run, RunError
from parity.report.console import print_line, print_table
from parity.training.run import BOUNDS, relative

_EXACT = ("torch", "keras-tensorflow")
"""The implementations that compute float64 in float64 throughout."""
_OF_PLACE = ("framework", "backend", "data", "device")
"""Options that may differ between runs whose losses must agree."""


def name_of(run: Run) -> str:
    """`keras-jax` or `torch`."""
    return implementation(run.options["framework"], run.options["backend"])


def differing(left: Run, right: Run) -> list[str]:
    """Why the losses of two runs need not agree; empty if they must."""
    one, other = left.options, right.options
    if set(one) != set(other):
        raise RunError(f"{left.folder} and {right.folder}: runs of different examples")
    found = [
        f"--{name.replace('_', '-')} {one[name]} and {other[name]}"
        for name in one
        if name not in _OF_PLACE and one[name] != other[name]
    ]
    if left.config["data"]["sha256"] != right.config["data"]["sha256"]:
        found.append("other images")
    if not found:
        found += [f"--dropout {one['dropout']}"] if one.get("dropout") else []
        found += [f"--optimizer {one['optimizer']}"] if one["optimizer"] == "adam" else []
        found += [f"--precision {one['precision']}"] if "mixed" in one["precision"] else []
    return found


def print_steps(out: Console, left: Run, right: Run) -> bool:
    """Whether the losses of the first steps are within the bound, if they must be."""
    reasons = differing(left, right)
    if reasons:
        print_line(out, f"losses: not compared step by step: {'; '.join(reasons)}")
        return True
    names = name_of(left), name_of(right)
    exact = left.options["precision"] == "64" and all(name in _EXACT for name in names)
    bound = BOUNDS["float64" if exact else "float32"]
    pairs = list(zip(left.steps(), right.steps(), strict=False))
    if not pairs:
        raise RunError(f"{left.folder} and {right.folder}: no steps that both have")
    apart = [relative(*pair) for pair in pairs]
    worst = int(np.argmax(apart))
    passed = apart[worst] <= bound
    print_line(
        out,
        f"losses: {'ok' if passed else 'FAIL'}: {len(pairs)} steps; worst at step {worst + 1}: "
        f"{pairs[worst][0]:.9g} in {names[0]}, {pairs[worst][1]:.9g} in {names[1]}, "
        f"{apart[worst]:.2g} relative, bound {bound:g}",
    )
    if not exact and left.options["precision"] == "64":
        print_line(
            out,
            "  the bound of float32: on JAX and torch Keras's means of float64 are float32",
        )
    if not passed and left.options["precision"] == "32":
        print_line(
            out,
            "  two correct trainings diverge when a rounding error crosses a kink of ReLU or max "
            "pooling: try --precision 64, or a smaller --learning-rate",
        )
    epochs = list(zip(left.history("loss"), right.history("loss"), strict=False))
    found = max(relative(one["loss"], other["loss"]) for one, other in epochs)
    print_line(
        out,
        f"epochs: the training loss of {len(epochs)} is {found:.2g} apart, relative; not judged",
    )
    return passed


def print_histories(out: Console, left: Run, right: Run, columns: Sequence[str]) -> None:
    """Epoch by epoch."""
    names = name_of(left), name_of(right)
    rows: tuple[list[Row], list[Row]] = (left.history(*columns), right.history(*columns))
    title = f"epoch by epoch, {names[0]} / {names[1]}"
    shown = Table("epoch", title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    for epoch in range(max(map(len, rows))):
        cells = [" / ".join(_cell(side, epoch, column) for side in rows) for column in columns]
        shown.add_row(str(epoch + 1), *cells)
    print_table(out, shown)


def _cell(rows: list[Row], epoch: int, column: str) -> str:
    value: Any = rows[epoch][column] if epoch < len(rows) else None
    if value is None:
        return "-"
    return str(value) if "clipped" in column else f"{value:.4g}"
