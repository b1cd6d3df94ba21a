"""Compares training: the same small network, in every implementation.

The same initial weights, batches and optimizer; the losses before each step are compared. As in the
judge, an implementation runs in its own process (`parity.training.worker`).
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from parity.common import processes
from parity.common.naming import unknown
from parity.common.versions import VERSION, versions
from parity.frameworks.environment import environment
from parity.frameworks.installed import broken, missing
from parity.suite.case import ACTIVATIONS, REDUCED
from parity.suite.inputs import DTYPES
from parity.suite.records import RecordError
from parity.training.problem import (
    GAPS,
    OPTIMIZERS,
    Problem,
    gap_settings,
    images_and_masks,
    initial_weights,
    judged_settings,
)

LOSSES = tuple(loss for loss in REDUCED if loss != "lovasz_hinge")
"""The losses for training: all that take an activation."""

BOUNDS = {"float32": 1e-4, "float64": 1e-9}
"""By precision: the largest relative difference from torch's loss at any step."""

ENOUGH = 100
"""The loss has to halve within this number of steps; shorter trainings are not judged on that."""


def _check(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises `ValueError` for an unknown name, with a similar known one."""
    known = tuple(known)
    for name in names:
        if name not in known:
            raise ValueError(unknown(kind, name, known))


@dataclass(frozen=True)
class Options:
    """The options of the trainings. Raises `ValueError` for steps < 1 and unknown names."""

    steps: int = 100
    optimizers: tuple[str, ...] = OPTIMIZERS
    dtypes: tuple[str, ...] = DTYPES
    loss: str = "dice_cross_entropy"
    activation: str = "arctan"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; wanted a whole number >= 1")
        _check("optimizer", self.optimizers, OPTIMIZERS)
        _check("dtype", self.dtypes, DTYPES)
        _check("loss", [self.loss], LOSSES)
        _check("activation", [self.activation], ACTIVATIONS)


def relative(loss: float, other: float) -> float:
    """The distance of a loss from another, relative to the other; infinite unless both are finite.

    >>> relative(1.5, 1.0), relative(float("nan"), float("nan"))
    (0.5, inf)
    """
    if not (math.isfinite(loss) and math.isfinite(other)):
        return math.inf
    if loss == other:
        return 0.0
    return abs(loss - other) / abs(other) if other else math.inf


@dataclass(frozen=True)
class Training:
    """One optimizer in one precision: the loss of every implementation before each step."""

    optimizer: str
    dtype: str
    loss: str
    activation: str
    bound: float
    curves: dict[str, list[float]]

    @property
    def reference(self) -> str:
        """The implementation to compare the others with: torch, or else the first; or empty."""
        return "torch" if "torch" in self.curves else next(iter(self.curves), "")

    def differences(self, name: str) -> list[float]:
        """The difference from the reference's loss before each step, relative to that."""
        pairs = zip(self.curves[name], self.curves[self.reference], strict=True)
        return [relative(loss, other) for loss, other in pairs]

    def parted(self, name: str) -> int | None:
        """The first step, from 0, before which the bound is exceeded; None if at no step."""
        found = self.differences(name)
        return next((step for step, d in enumerate(found) if not d <= self.bound), None)

    def halved(self, name: str) -> int | None:
        """The first step before which the loss is at most half of the first; None if at none."""
        losses = self.curves[name]
        half = losses[0] / 2
        return next((i for i, loss in enumerate(losses) if loss <= half < math.inf), None)

    @property
    def passed(self) -> bool:
        """Whether all keep the bound at every step, and, given `ENOUGH` steps, each halves."""
        return not self.failures()

    def failures(self) -> list[str]:
        """One line for each failure."""
        lines = []
        for name, losses in self.curves.items():
            what = f"{self.optimizer} {self.dtype}"
            step = self.parted(name)
            if step is not None:
                lines.append(
                    f"{name} differs from {self.reference} in {what} at step {step}: loss "
                    f"{losses[step]:.9g} against {self.curves[self.reference][step]:.9g}, "
                    f"{self.differences(name)[step]:.2g} relative, bound {self.bound:g}"
                )
            if len(losses) >= ENOUGH and self.halved(name) is None:
                lines.append(
                    f"{name} does not learn in {what}: in {len(losses)} steps the loss never "
                    f"halves, from {losses[0]:.4g} to {losses[-1]:.4g}"
                )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        others = [name for name in self.curves if name != self.reference]
        return asdict(self) | {
            "reference": self.reference,
            "differences": {name: self.differences(name) for name in others},
            "parted": {name: self.parted(name) for name in others},
            "halved": {name: self.halved(name) for name in self.curves},
            "passed": self.passed,
        }


@dataclass(frozen=True)
class OptimizerGap:
    """The difference of Keras and PyTorch in float64 with settings that are not judged.

    `keras` and `torch` name the settings; `differences`, by implementation: of the loss before the
    last step from PyTorch's, relative to that.
    """

    optimizer: str
    keras: str
    torch: str
    steps: int
    differences: dict[str, float]


@dataclass
class Trainings:
    """All trainings, and why an implementation has none; `required` ones may not be skipped."""

    runs: list[Training] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    gaps: list[OptimizerGap] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    required: frozenset[str] = frozenset()

    @property
    def implementations(self) -> list[str]:
        """The implementations that were trained."""
        return list(dict.fromkeys(name for run in self.runs for name in run.curves))

    @property
    def compared(self) -> bool:
        """Whether there were at least two to compare."""
        return len(self.implementations) > 1

    def failures(self) -> list[str]:
        """One line for each failure; empty if it passes.

        One implementation alone passes if it learns: see `compared`.
        """
        lines = [f"{name} failed: {words}" for name, words in self.failed.items()]
        lines += [
            f"{name} was asked for and skipped: {words}"
            for name, words in self.skipped.items()
            if name in self.required
        ]
        if not self.implementations:
            return [*lines, "nothing was trained: no implementation could run"]
        return lines + [line for run in self.runs for line in run.failures()]

    @property
    def passed(self) -> bool:
        """Whether something was trained, and everything is within bounds."""
        return not self.failures()

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": 1,
            "segact": VERSION,
            "versions": versions(),
            "passed": self.passed,
            "compared": self.compared,
            "failures": self.failures(),
            "skipped": self.skipped,
            "failed": self.failed,
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "trainings": [run.as_dict() for run in self.runs],
            "remains": [asdict(row) for row in self.gaps],
        }


def problem_of(name: str, options: Options) -> Problem:
    """The input of the process of an implementation."""
    settings = judged_settings(name, options.optimizers, options.dtypes)
    if "float64" in options.dtypes:
        settings += gap_settings(name, options.optimizers)
    images, masks = images_and_masks()
    return Problem(
        options.steps,
        options.loss,
        options.activation,
        settings,
        initial_weights(),
        images,
        masks,
    )


def _read(path: Path, given: Problem) -> dict[str, list[float]]:
    """The losses that a process wrote; raises `RecordError` unless they are complete."""
    if not path.is_file():
        raise RecordError("the process ended without an error and wrote no losses")
    found: dict[str, list[float]] = json.loads(path.read_text())
    for setting in given.settings:
        steps = len(found.get(setting.label, ()))
        if steps != given.steps:
            raise RecordError(f"it wrote {steps} of {given.steps} losses of {setting.label}")
    return found


def _task(
    name: str, options: Options, folder: Path, take: Callable[[dict[str, list[float]]], None]
) -> processes.Task:
    given, path = problem_of(name, options), folder / f"{name}.safetensors"
    output = folder / f"{name}.json"
    given.write(path)

    def finish() -> str:
        take(_read(output, given))
        return "done"

    return processes.Task(
        name=name,
        command=processes.python(
            "parity.training.worker", name, "--problem", path, "--output", output
        ),
        environment=partial(environment, name, "cpu", float64=True),
        follow=processes.follow_steps,
        finish=finish,
    )


def _training(
    optimizer: str, dtype: str, options: Options, losses: dict[str, dict[str, list[float]]]
) -> Training:
    curves = {name: found[f"{optimizer}-{dtype}"] for name, found in losses.items()}
    bound = BOUNDS[dtype]
    return Training(optimizer, dtype, options.loss, options.activation, bound, curves)


def _optimizer_gaps(
    options: Options, losses: dict[str, dict[str, list[float]]]
) -> list[OptimizerGap]:
    """One row for every pair of settings; none without PyTorch, a Keras, and float64."""
    others = [name for name in losses if name != "torch"]
    if "torch" not in losses or not others or "float64" not in options.dtypes:
        return []
    rows = []
    for pair in (pair for pair in GAPS if pair.optimizer in options.optimizers):
        last = losses["torch"][pair.torch_label][-1]
        found = {name: relative(losses[name][pair.keras_label][-1], last) for name in others}
        rows.append(OptimizerGap(pair.optimizer, pair.keras, pair.torch, options.steps, found))
    return rows


def run(names: Iterable[str], options: Options, progress: Progress) -> Trainings:
    """Train with every implementation that is installed, as many at a time as there are cores."""
    trainings, names = Trainings(), list(dict.fromkeys(names))
    trainings.failed = {name: words for name in names if (words := broken(name))}
    present = [name for name in names if name not in trainings.failed]
    trainings.skipped = {name: words for name in present if (words := missing(name))}
    present = [name for name in present if name not in trainings.skipped]
    losses: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="segact-parity-") as folder:
        tasks = [
            _task(name, options, Path(folder), partial(losses.__setitem__, name))
            for name in present
        ]
        ends = processes.run(tasks, progress)
    for name, ended in ends.items():
        trainings.seconds[name] = ended.seconds
        if ended.error:
            trainings.failed[name] = "\n".join([ended.error, *ended.last_words])
    losses = {name: losses[name] for name in names if name in losses}  # the first one
    if losses:
        trainings.runs = [
            _training(optimizer, dtype, options, losses)
            for dtype in options.dtypes
            for optimizer in options.optimizers
        ]
        trainings.gaps = _optimizer_gaps(options, losses)
    return trainings
