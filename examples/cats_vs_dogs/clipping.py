"""The cross entropy of a run's samples: from probabilities, by a convention, and exact.

Raw outputs are float32; the probability is rounded to float32, as in every framework, and the
logarithms are those of the convention. The exact loss is computed in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from examples.cats_vs_dogs.data import CLASSES, SPLITS
from examples.common.batches import batches
from examples.common.heads import CLIP
from examples.common.runs import Run, RunError
from parity.common.arrays import Array
from parity.suite.case import CONVENTIONS, SMOOTH, Case

KERAS_LIMITS = (-float(np.log1p(-CLIP)), -float(np.log(CLIP)))
"""The limits of Keras's loss if 1 - 1e-7 were a float32: 1.00000005e-7 and 16.118."""
FULL = "full"


@dataclass(frozen=True)
class Samples:
    """The samples of one split after some epoch; all arrays are (N,).

    `raw`, `probability`: float32. `labels`: 0 and 1. `from_probability`, `from_raw`: the losses.
    """

    names: Array
    labels: Array
    raw: Array
    probability: Array
    from_probability: Array
    from_raw: Array

    @property
    def parted(self) -> Array:
        """Where the two losses differ by more than 1 %."""
        return relative_difference(self.from_probability, self.from_raw) > 0.01


def check_convention(convention: str) -> str:
    """Raises `RunError` for a name that is not a convention for probabilities."""
    if convention not in CONVENTIONS:
        raise RunError(f"--convention {convention}; wanted one of {', '.join(CONVENTIONS)}")
    return convention


def relative_difference(clipped: Array, exact: Array) -> Array:
    """|clipped - exact| / exact; 0 if both are equal, infinite if only `exact` is 0."""
    apart = np.abs(clipped - exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(apart == 0, 0.0, apart / exact)


def probabilities(raw: Array, activation: str) -> Array:
    """The probabilities of float32 raw outputs, rounded to float32."""
    from parity.reference import float64 as oracle

    case = Case("", "float32", activation, "cdf")
    found: Array = oracle.distribution(case, raw.astype(np.float64)).cdf.astype(np.float32)
    return found


def from_probabilities(probability: Array, labels: Array, convention: str) -> Array:
    """The loss of every sample, by the convention, from a float32 probability."""
    from parity.reference import float64 as oracle

    case = Case("", "float32", f"{convention}_convention", "binary_cross_entropy")
    with np.errstate(divide="ignore"):
        found = oracle.distribution(case, probability.astype(np.float64))
    return np.where(labels > 0, -found.logcdf, -found.logsf)


def from_raw_outputs(raw: Array, labels: Array, activation: str = "sigmoid") -> Array:
    """The loss of every sample, unclipped, float64."""
    from parity.reference import float64 as oracle

    case = Case("", "float64", activation, "binary_cross_entropy")
    found = oracle.distribution(case, raw.astype(np.float64))
    return np.where(labels > 0, -found.logcdf, -found.logsf)


def raw_limit(activation: str) -> float:
    """The raw output with probability 1 - 1e-7 (minus it has 1e-7). Sigmoid: 16.118."""
    from parity.reference import float64 as oracle

    case = Case("", "float64", activation, "ppf")
    return -float(oracle.quantile(case, np.array([CLIP]))[0])


def limits(convention: str, label: int) -> tuple[float, float]:
    """The smallest and the largest loss that a float32 probability can have with this label.

    Keras's are 1.192e-7 and, for label 0, 15.942, since 1 - 1e-7 is rounded to 1 - 1.192e-7.
    """
    ends = from_probabilities(
        np.array([0, 1], np.float32), np.array([label, label]), check_convention(convention)
    )
    return float(ends.min()), float(ends.max())


def measure(raw: Array, labels: Array, names: Array, activation: str, convention: str) -> Samples:
    """Both losses of samples; raises `RunError` if raw outputs are not finite."""
    bad = ~np.isfinite(raw)
    if bad.any():
        raise RunError(f"{bad.sum()} of {bad.size} raw outputs are not finite: no losses of them")
    found = probabilities(raw, activation)
    return Samples(
        names,
        labels,
        raw,
        found,
        from_probabilities(found, labels, convention),
        from_raw_outputs(raw, labels, activation),
    )


def moments(run: Run) -> list[str]:
    """The moments of which the run has raw outputs, in order: `epoch_8`, `full`; may be empty."""
    asked = (f"epoch_{run.options['checkpoint_epoch']}", FULL)
    return [when for when in asked if run.path(f"outputs_{when}.npz").is_file()]


def splits_of(run: Run, when: str, convention: str = "keras") -> dict[str, Samples]:
    """The samples of both splits at a moment.

    Raises `RunError`: a missing or damaged file; an activation that the oracle does not know, or
    one that depends on the batch; raw outputs that are not finite.
    """
    activation = run.options["activation"]
    if activation not in SMOOTH:
        raise RunError(
            f"{run.folder}: --activation {activation}; figures and claims are of runs with "
            f"one of {', '.join(SMOOTH)}"
        )
    check_convention(convention)
    kept, found = run.outputs(when), {}
    try:
        for split in SPLITS:
            raw, labels, names = (kept[f"{split}_{part}"] for part in ("raw", "labels", "names"))
            found[split] = measure(raw, labels, names, activation, convention)
        return found
    except KeyError as error:
        raise RunError(f"{run.folder}: outputs_{when}.npz has no {error}") from None
    except RunError as error:
        raise RunError(f"{run.folder}, {when}: {error}") from None


def batch_means(samples: Samples, size: int, seed: int) -> tuple[Array, Array]:
    """The two losses of full batches of `size`, in the order of the first epoch of a seed."""
    order = [b for b in batches(len(samples.raw), size, seed, 0) if len(b) == size]
    index = np.array(order, dtype=int).reshape(-1, size)
    return samples.from_probability[index].mean(1), samples.from_raw[index].mean(1)


def of_classes(samples: Samples) -> Iterator[tuple[str, Array]]:
    """The name of each class, and a mask of its samples."""
    for label, name in enumerate(CLASSES):
        yield name, samples.labels == label
