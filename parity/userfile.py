"""A user's own raw outputs and targets: reading the file, and judging what was made of it."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from parity import bounds, oracle, reference
from parity.cases import SEED, Array, Case, Inputs, file_cases
from parity.compare import Measurement, measure, measure_case
from parity.records import Record

SAMPLES = 2000


class InputError(ValueError):
    """A user's file that cannot be judged; the message is one plain line."""


def _read(path: Path) -> tuple[Array, Array]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; wanted an .npz with logits and targets")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: not an .npz file with logits and targets")
        with file:
            missing = [key for key in ("logits", "targets") if key not in file.files]
            if missing:
                raise InputError(f"{path}: lacks {' and '.join(missing)}; it holds {file.files}")
            return file["logits"], file["targets"]
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = "object arrays" if "Object arrays" in str(error) else "not a readable .npz file"
        raise InputError(f"{path}: {reason}; wanted plain logits and targets") from error


def load_file(path: Path) -> Inputs:
    """Read `logits` (float32 or float64, any shape) and `targets` (same shape, in [0, 1]).

    Returns x and y, both in the dtype of the logits. Raises `InputError` for a file that is no
    .npz, lacks an array, holds objects, integers as logits, no elements, differing shapes, logits
    that are not finite, or targets outside [0, 1].
    """
    logits, targets = _read(path)
    if logits.dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: logits are {logits.dtype}; wanted float32 or float64")
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
        raise InputError(f"{path}: targets lie outside [0, 1]")
    return {"x": logits, "y": targets.astype(logits.dtype)}


def sample(inputs: Inputs) -> Array:
    """Flat indices that the reference judges: 2,000 seeded ones and the extremes of x."""
    x = inputs["x"].ravel()
    rng = np.random.default_rng((SEED, 200))
    chosen = rng.choice(x.size, min(SAMPLES, x.size), replace=False)
    extremes = [np.argmin(x), np.argmax(x), np.argmin(np.abs(x)), np.argmax(np.abs(x))]
    return np.unique(np.concatenate([chosen, extremes]))


@dataclass(frozen=True)
class LossRow:
    """A reduced loss of every implementation on the user's file."""

    activation: str
    loss: str
    expected: float
    values: dict[str, float]

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


def _measure_on_sample(
    case: Case, inputs: Inputs, exact: dict[str, Array], records: list[Record]
) -> Iterator[Measurement]:
    """The implementations and the oracle against the 50-digit reference, at the sampled elements.

    The gradients of `linear` are sums over the whole file: those are left to the oracle. Its
    values need the minimum and the maximum of the file only, and both are in the sample.
    """
    index = sample(inputs)
    few = {key: array.ravel()[index] for key, array in inputs.items()}
    expected = reference.evaluate(case, few)
    for part in case.parts:
        if case.activation == "linear" and part == "grad_x":
            continue
        scale = oracle.scales(case, few).get(part)
        at_sample = exact[part].ravel()[index]
        yield measure("oracle", "reference", case, part, at_sample, expected[part], few, scale)
        for record in records:
            got = record.result(case)[part].ravel()[index]
            yield measure(
                record.implementation, "reference", case, part, got, expected[part], few, scale
            )


def judge_file(
    inputs: Inputs, records: list[Record]
) -> Iterator[tuple[list[Measurement], LossRow | None]]:
    """Judge every case of a user's file; yields its measurements and, if it is reduced, its row.

    Every pair of implementations is compared on all elements. Elementwise quantities are judged at
    the sample by the reference and, in float32, everywhere by the oracle; reduced losses by the
    oracle.
    """
    for case in file_cases(inputs):
        exact = oracle.evaluate(case, inputs)
        results = {record.implementation: record.result(case) for record in records}
        found: list[Measurement] = []
        if not case.reduced:
            found += _measure_on_sample(case, inputs, exact, records)
        for name, result in results.items():
            if case.reduced or case.dtype == "float32":
                found += measure_case(name, "oracle", case, result, exact, inputs)
        for left, right in combinations(results, 2):
            found += measure_case(left, right, case, results[left], results[right], inputs)
        row = None
        if case.reduced:
            values = {name: float(result["value"]) for name, result in results.items()}
            row = LossRow(case.activation, case.label, float(exact["value"]), values)
        yield found, row
