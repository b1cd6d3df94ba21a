"""The binary cross entropy of a sigmoid, as each installed framework computes it.

The losses of Keras 3 on its backends, of tf-keras 2 and of PyTorch as they are installed, and the
conventions of `segact_torch` and `segact_tf`. They are shown, not judged. As in the judge, each
framework runs in its own process (`parity.conventions.worker`); a missing framework is reported in
a line, and an error in one does not stop the others.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
from rich.progress import Progress

from parity.common import processes
from parity.common.versions import versions
from parity.conventions.worker import CONVENTIONS, FRAMEWORKS, LABELS
from parity.frameworks.environment import environment
from parity.frameworks.installed import absent_modules, missing

RAW = (-200, -100, -50, -20, -17, -16, -10, -1, 0, 1, 10, 16, 17, 20, 50, 100, 200)
"""The raw outputs that are evaluated by default."""
TOLERANCE = 1e-3
"""A loss or gradient with a larger relative error is marked."""
_ORDER = ("keras-tensorflow", "keras-jax", "keras-torch", "tf-keras", "torch")
_OURS = ("torch", "keras-tensorflow", "keras-jax", "keras-torch")
"""The implementations whose conventions are printed: the first of them that ran."""


@dataclass(frozen=True)
class Row:
    """The result of one line of code in one framework and mode; `labels` comes from the worker."""

    framework: str
    line: str
    variant: str
    mode: str
    code: str
    error: str
    labels: dict[str, dict[str, Any]]


@dataclass
class Results:
    """All rows, and the reason for each framework without any."""

    raw: list[float]
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> list[Row]:
        """The rows that hold numbers."""
        return [row for row in self.rows if not row.error]

    @property
    def failures(self) -> list[str]:
        """One line for every failed process, and for every error in a line of code."""
        lines = [f"{name}: {words}" for name, words in self.failed.items()]
        by_error: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row.error:
                by_error.setdefault((row.framework, row.error), []).append(row)
        for (framework, error), rows in by_error.items():
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            lines.append(f"{framework}: {rows[0].code}{more}: {error}")
        return lines

    @property
    def ours(self) -> list[Row]:
        """The conventions of one implementation of ours, in their order."""
        found = {(row.framework, row.variant): row for row in self.good if row.line == "segact"}
        for name in _OURS:
            rows = [found[name, c] for c in CONVENTIONS if (name, c) in found]
            if rows:
                return rows
        return []

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        truth = {}
        for label in LABELS:
            pairs = [exact(x, label) for x in self.raw]
            truth[str(label)] = {"loss": [a for a, _ in pairs], "gradient": [b for _, b in pairs]}
        return {
            "raw_outputs": self.raw,
            "tolerance": TOLERANCE,
            "versions": all_versions(),
            "exact": truth,
            "rows": [self._row_as_dict(row) for row in self.rows],
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def _row_as_dict(self, row: Row) -> dict[str, Any]:
        found = asdict(row)
        for label, values in found["labels"].items():
            values.pop("curve", None)
            marks = [off(row, x, i, int(label)) for i, x in enumerate(self.raw)]
            values["loss_off"], values["gradient_off"] = map(list, zip(*marks, strict=True))
        return found


def exact(x: float, label: int) -> tuple[float, float]:
    """The loss and its gradient in x, in float64."""
    wrong = x if label == 0 else -x
    small = math.exp(-abs(wrong))
    share = 1 / (1 + small) if wrong > 0 else small / (1 + small)
    return max(wrong, 0.0) + math.log1p(small), share if label == 0 else -share


def off(row: Row, x: float, index: int, label: int) -> tuple[bool, bool]:
    """Whether loss and gradient at the raw output have a larger error than allowed.

    Any result below the smallest normal number of float32 passes.
    """
    values = row.labels[str(label)]
    least = float(np.finfo(np.float32).tiny)
    pairs = zip((values["loss"][index], values["gradient"][index]), exact(x, label), strict=True)
    loss, gradient = (
        not abs(got - want) <= max(TOLERANCE * abs(want), least) for got, want in pairs
    )
    return loss, gradient


def all_versions() -> dict[str, str]:
    """The versions of all packages that may affect the results."""
    try:
        return {**versions(), "tf-keras": metadata.version("tf-keras")}
    except metadata.PackageNotFoundError:
        return versions()


def _missing(framework: str) -> str:
    """Why a framework cannot run here; empty if it can."""
    if framework != "tf-keras":
        return missing(framework)
    return absent_modules(("tensorflow", "tf_keras"))


def _follow(rows: list[Row], lines: Iterable[str], report: processes.Report) -> None:
    """Read the rows of a process, in the order in which they come."""
    for done, text in enumerate((line for line in lines if line.startswith("{")), 1):
        found = json.loads(text)
        total = found.pop("total")
        rows.append(Row(**found))
        report(completed=done, total=total, message=rows[-1].code)


def _task(name: str, raw: list[float], rows: list[Row]) -> processes.Task:
    return processes.Task(
        name=name,
        command=processes.python("parity.conventions.worker", name, "--raw", json.dumps(raw)),
        environment=partial(environment, name, "cpu"),
        follow=partial(_follow, rows),
        finish=lambda: "done",
    )


def run(raw: list[float], progress: Progress) -> Results:
    """Evaluate every installed framework, as many at a time as there are cores."""
    results = Results(raw)
    results.skipped = {name: words for name in FRAMEWORKS if (words := _missing(name))}
    rows: dict[str, list[Row]] = {n: [] for n in FRAMEWORKS if n not in results.skipped}
    tasks = [_task(name, raw, mine) for name, mine in rows.items()]
    for name, ended in processes.run(tasks, progress).items():
        if ended.error:
            results.failed[name] = ended.line
    results.rows = [row for name in _ORDER for row in rows.get(name, ())]
    return results
