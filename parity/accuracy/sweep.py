"""The dense sweep: more than a million float32 inputs per quantity, against the float64 oracle.

It runs in the process of the implementation, in chunks, and gives one `Comparison` for every
quantity, part and region.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from parity.accuracy import bounds
from parity.accuracy.comparison import Comparison
from parity.accuracy.measurement import Observer, measure, worst
from parity.common.arrays import Array
from parity.reference import float64
from parity.suite.case import ACTIVATIONS, METHODS, Case, default_epsilon
from parity.suite.cases import elementwise_losses, focal_losses
from parity.suite.inputs import PUBLISHED_EPSILON, SEED, Inputs

COUNT = 1 << 20
FAR_COUNT = 1 << 16
CHUNK = FAR_COUNT
"""Small enough for the memory of a laptop; the same for all chunks, so it compiles once."""

_SWITCHES = (
    *(1e-4, 1e-3, 0.01, 0.1, 0.25, 0.46875, 0.5, 0.67, 1, 2, 4, 5, 8, 12, 13, 14, 16, 17, 26),
    *(37.5, 50, 64, 87, 88, 103, 104, 128, 256, 1000, 2048, 4096, 5000),
    *(PUBLISHED_EPSILON, 1 - PUBLISHED_EPSILON),
)
"""The points at which formulas switch or saturate, in float32."""

Evaluate = Callable[[Case, Inputs], dict[str, Array]]


def _bits(low: float, high: float, count: int) -> Array:
    """`count` float32 from low to high, evenly spaced in bit pattern."""
    first, last = np.array([low, high], np.float32).view(np.uint32)
    return np.linspace(first, last, count).astype(np.uint32).view(np.float32)


def near_inputs() -> Array:
    """|x| <= 1e4: half evenly spaced in bit pattern, the rest on [-20, 20] and around switches."""
    rng = np.random.default_rng((SEED, 100))
    bits = _bits(float(np.finfo(np.float32).tiny), bounds.FAR, COUNT // 4)
    uniform = rng.uniform(-20, 20, 3 * COUNT // 8)
    around = rng.choice(_SWITCHES, COUNT // 8) * (1 + rng.normal(0, 1e-4, COUNT // 8))
    around *= rng.choice([-1, 1], COUNT // 8)
    x = np.concatenate([bits, -bits, uniform.astype(np.float32), around.astype(np.float32)])
    return rng.permutation(x)


def far_inputs() -> Array:
    """1e4 < |x|, up to the largest float, evenly spaced in bit pattern."""
    largest = float(np.finfo(np.float32).max)
    bits = _bits(bounds.FAR, largest, FAR_COUNT // 2 + 1)[1:]
    return np.concatenate([bits, -bits])


def probabilities() -> Array:
    """On (1e-6, 1 - 1e-6): half uniform, the rest logarithmic at both ends and around 1/2."""
    rng = np.random.default_rng((SEED, 101))
    uniform = rng.uniform(1e-6, 1 - 1e-6, COUNT // 2)
    ends = np.exp(rng.uniform(np.log(1.01e-6), np.log(0.5), COUNT // 4))
    middle = 0.5 + rng.choice([-0.5, 0.5], COUNT // 8) * np.exp(rng.uniform(-15, 0, COUNT // 8))
    p = np.concatenate([uniform, ends, 1 - ends[: COUNT // 8], middle])
    return rng.permutation(np.clip(p, 1.01e-6, 1 - 1.01e-6)).astype(np.float32)


def cases_of(activation: str, inputs: str) -> list[Case]:
    """The swept quantities of an activation on the input set `dense` or `far`."""
    methods = METHODS[:4] if activation == "linear" else METHODS
    targets = ("y=0", "y=1")
    quantities = [(method, "") for method in methods] + elementwise_losses(targets)
    quantities += [] if activation == "linear" else focal_losses(targets)
    epsilon = default_epsilon(activation)
    return [Case(inputs, "float32", activation, *quantity, epsilon) for quantity in quantities]


def _measure_chunk(
    name: str, evaluate: Evaluate, cases: list[Case], x: Array, observer: Observer | None
) -> list[Comparison]:
    with np.errstate(all="ignore"):
        at = float64.distribution(cases[0], x.astype(np.float64))
    found = []
    for batch in (case.bind({"x": x}) for case in cases):
        got, expected = evaluate(batch.case, batch.inputs), float64.evaluate(batch, at)
        found += [
            measure(name, "oracle", batch, part, got[part], expected[part], observer=observer)
            for part in batch.case.parts
        ]
    return found


def _quantiles(name: str, evaluate: Evaluate, activation: str, p: Array) -> Comparison:
    case = Case("dense", "float32", activation, "ppf", "", default_epsilon(activation))
    batch = case.bind({"p": p})
    got, expected = evaluate(case, batch.inputs), float64.evaluate(batch)
    return measure(name, "oracle", batch, "value", got["value"], expected["value"])


def swept(measurements: Iterable[Comparison]) -> set[tuple[str, str, str]]:
    """The activation, quantity and part of each measurement."""
    return {(m.activation, m.quantity, m.part) for m in measurements}


def wanted() -> set[tuple[str, str, str]]:
    """The activation, quantity and part of each measurement of a complete sweep."""
    found = {
        (activation, case.label, part)
        for activation in ACTIVATIONS
        for case in cases_of(activation, "dense")
        for part in case.parts
    }
    return found | {(activation, "ppf", "value") for activation in ACTIVATIONS[:-1]}


def sweep(
    name: str, evaluate: Evaluate, observer: Observer | None = None
) -> Iterator[tuple[str, list[Comparison]]]:
    """Sweep every activation; yields its name and its measurements, the worst over all chunks.

    `linear` is swept in batches of one chunk, each with its own minimum and maximum; far out its
    range overflows for every element at once, so it is swept on |x| <= 1e4 only.
    """
    near, far, p = near_inputs(), far_inputs(), probabilities()
    for activation in ACTIVATIONS:
        found = []
        for chunk in np.split(near, COUNT // CHUNK):
            found += _measure_chunk(name, evaluate, cases_of(activation, "dense"), chunk, observer)
        if activation != "linear":
            found += _measure_chunk(name, evaluate, cases_of(activation, "far"), far, observer)
            found += [
                _quantiles(name, evaluate, activation, c) for c in np.split(p, COUNT // CHUNK)
            ]
        yield activation, list(worst(found).values())
