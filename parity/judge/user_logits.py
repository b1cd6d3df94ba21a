"""Raw outputs and targets of a user: reading the file, and judging the results on it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from parity.accuracy import bounds
from parity.accuracy.comparison import Comparison
from parity.accuracy.measurement import measure, measure_case
from parity.common.arrays import Array
from parity.reference import float64, multiprecision
from parity.suite.case import Batch
from parity.suite.cases import file_cases
from parity.suite.inputs import PUBLISHED_EPSILON, SEED, Inputs
from parity.suite.records import Record

SAMPLES = 2000


class InputError(ValueError):
    """A user's file that cannot be used; the message is one line."""


def _read(path: Path) -> tuple[Array, Array]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; wanted an .npz with logits and targets")
    try:
        with path.open("rb") as opened:  # numpy does not close a damaged file
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: not an .npz file with logits and targets")
            missing = [key for key in ("logits", "targets") if key not in file.files]
            if missing:
                raise InputError(f"{path}: lacks {' and '.join(missing)}; it holds {file.files}")
            return file["logits"], file["targets"]
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a damaged file
        reason = _unreadable(error)
        raise InputError(f"{path}: {reason}; wanted plain logits and targets") from error


def _unreadable(error: Exception) -> str:
    if "Object arrays" in str(error):
        return "object arrays"
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    if isinstance(error, RuntimeError) and "encrypted" in str(error):
        return "encrypted"
    return "not a readable .npz file"


def load_file(path: Path) -> Inputs:
    """Read `logits` (float16, float32 or float64, any shape) and `targets` (same shape, in [0, 1]).

    Arrays with the other byte order are converted, and float16 becomes float32, the precision in
    which every loss computes it.

    Returns x and y, both in the dtype of the logits. Raises `InputError` for a file that is not an
    .npz file, lacks an array, or holds objects, integer logits, empty arrays, different shapes,
    logits that are not finite, or targets outside [0, 1].
    """
    logits, targets = (array.astype(array.dtype.newbyteorder("=")) for array in _read(path))
    if logits.dtype == np.float16:
        logits = logits.astype(np.float32)
    if logits.dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: logits are {logits.dtype}; wanted float16, float32 or float64")
    if targets.dtype.kind not in "biuf":
        raise InputError(f"{path}: targets are {targets.dtype}; wanted numbers in [0, 1]")
    if logits.shape != targets.shape:
        raise InputError(
            f"{path}: logits {logits.shape} and targets {targets.shape} differ in shape"
        )
    if logits.size == 0:
        raise InputError(f"{path}: logits and targets are empty")
    if not np.all(np.isfinite(logits)):
        raise InputError(f"{path}: logits hold NaN or infinity; wanted finite raw outputs")
    if not np.all((targets >= 0) & (targets <= 1)):
        if np.any(np.isnan(targets)):
            raise InputError(f"{path}: targets hold NaN; wanted numbers in [0, 1]")
        found = f"{targets.min():g} to {targets.max():g}"
        raise InputError(f"{path}: targets lie outside [0, 1]: they go from {found}")
    return {"x": logits, "y": targets.astype(logits.dtype)}


def look_like_probabilities(inputs: Inputs) -> bool:
    """Whether all logits lie in [0, 1]: then an activation was probably applied to them."""
    return bool(np.all((inputs["x"] >= 0) & (inputs["x"] <= 1)))


def sample(inputs: Inputs) -> Array:
    """Flat indices to compare with the reference: 2,000 seeded ones and the extremes of x."""
    x = inputs["x"].ravel()
    rng = np.random.default_rng((SEED, 200))
    chosen = rng.choice(x.size, min(SAMPLES, x.size), replace=False)
    extremes = [np.argmin(x), np.argmax(x), np.argmin(np.abs(x)), np.argmax(np.abs(x))]
    return np.unique(np.concatenate([chosen, extremes]))


@dataclass(frozen=True)
class Formula:
    """The results of another formula of the sigmoid's cross entropy on the file.

    `stuck` elements have an output on the wrong side of 1/2 and a gradient of exactly zero.
    """

    name: str
    loss: float
    stuck: int


@dataclass(frozen=True)
class Baselines:
    """The sigmoid's cross entropy on the user's file by other formulas: shown, not judged.

    `stuck` is that of the first implementation, as in `Formula`.
    """

    outputs: int
    past_16: int
    exact: float
    stuck: int
    formulas: tuple[Formula, ...]

    def off(self, loss: float) -> float:
        """The relative error of a loss."""
        return abs(loss - self.exact) / self.exact if self.exact else abs(loss)


def baselines(inputs: Inputs, exact: float, gradient: Array) -> Baselines:
    """The frameworks' and the published formulas on the file, in its dtype; `gradient` is ours."""
    x, y = inputs["x"], inputs["y"]
    eps = x.dtype.type(PUBLISHED_EPSILON)
    with np.errstate(all="ignore"):
        t = np.exp(-np.abs(x))
        F = np.where(x < 0, t / (1 + t), 1 / (1 + t))
        slope, wrong = F * (1 - F), np.abs(F - y) > 0.5
        squeezed = eps + (1 - 2 * eps) * F
        clipped = np.clip(F, eps, 1 - eps)
        moves = slope != 0

        def logs(p: Array, least: float = -np.inf) -> Array:
            on, off = np.maximum(np.log(p), least), np.maximum(np.log1p(-p), least)
            return -np.where(y > 0, y * on, 0) - np.where(y < 1, (1 - y) * off, 0)

        found = {
            "stock, from raw outputs": (np.maximum(x, 0) - x * y + np.log1p(t), F - y != 0),
            "stock PyTorch, from probabilities": (logs(F, -100.0), moves),
            "clipped at 1e-7, as stock Keras": (logs(clipped), moves & (clipped == F)),
            "published, epsilon 1e-7": (logs(squeezed), moves),
        }
    formulas = [
        Formula(name, float(np.mean(loss, dtype=np.float64)), int(np.sum(wrong & ~moving)))
        for name, (loss, moving) in found.items()
    ]
    past, stuck = int(np.sum(np.abs(x) > 16)), int(np.sum(wrong & (gradient == 0)))
    return Baselines(x.size, past, exact, stuck, tuple(formulas))


@dataclass(frozen=True)
class LossRow:
    """A reduced loss of every implementation on the user's file."""

    activation: str
    loss: str
    expected: float
    values: dict[str, float]
    baselines: Baselines | None = None

    @property
    def spread(self) -> float:
        """The largest relative difference between two implementations."""
        found = list(self.values.values())
        largest = max(abs(value) for value in found)
        if not np.all(np.isfinite(found)):
            return float("inf")
        return (max(found) - min(found)) / largest if largest else 0.0

    @property
    def passed(self) -> bool:
        """Whether all implementations agree to 1e-6."""
        return self.spread <= bounds.FILE_AGREEMENT

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON, whose format calls the baselines `beside`."""
        found = asdict(self)
        found["beside"] = found.pop("baselines")
        return found | {"spread": self.spread, "passed": self.passed}


def _measure_on_sample(
    batch: Batch, exact: dict[str, Array], records: list[Record]
) -> Iterator[Comparison]:
    """The implementations and the oracle against the 50-digit reference, at the sampled elements.

    The gradients of `linear` are sums over the whole file: those are left to the oracle. Its
    values need the minimum and the maximum of the file only, and both are in the sample.
    """
    case, index = batch.case, sample(batch.inputs)
    few = case.bind({key: array.ravel()[index] for key, array in batch.inputs.items()})
    expected, scales = multiprecision.evaluate(few), float64.scales(few)
    for part in case.parts:
        if case.activation == "linear" and part == "grad_x":
            continue
        at_sample = exact[part].ravel()[index]
        yield measure("oracle", "reference", few, part, at_sample, expected[part], scales.get(part))
        for record in records:
            got = record.result(case)[part].ravel()[index]
            yield measure(
                record.implementation, "reference", few, part, got, expected[part], scales.get(part)
            )


def judge_file(
    inputs: Inputs, records: list[Record]
) -> Iterator[tuple[list[Comparison], LossRow | None]]:
    """Judge every case of a user's file; yields its measurements and, for a reduced loss, its row.

    Every pair of implementations is compared on all elements. Elementwise quantities are judged at
    the sample by the reference and, in float32, everywhere by the oracle; reduced losses by the
    oracle.
    """
    for case in file_cases(inputs):
        batch = case.bind(inputs)
        exact = float64.evaluate(batch)
        results = {record.implementation: record.result(case) for record in records}
        found: list[Comparison] = []
        if not case.reduced:
            found += _measure_on_sample(batch, exact, records)
        for name, result in results.items():
            if case.reduced or case.dtype == "float32":
                found += measure_case(name, "oracle", batch, result, exact)
        for left, right in combinations(results, 2):
            found += measure_case(left, right, batch, results[left], results[right])
        row = None
        if case.reduced:
            values = {name: float(result["value"]) for name, result in results.items()}
            others = None
            if (case.activation, case.label) == ("sigmoid", "binary_cross_entropy,mean"):
                first = results[records[0].implementation]
                others = baselines(inputs, float(exact["value"]), first["grad_x"])
            row = LossRow(case.activation, case.label, float(exact["value"]), values, others)
        yield found, row
