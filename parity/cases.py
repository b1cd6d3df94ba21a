"""What is judged: named sets of inputs, and the cases evaluated on them.

A `Case` is one quantity of one activation on one input set. Elementwise quantities are evaluated on
a grid over every regime, reduced losses on small batches in the shapes that users train with.

What is not judged, and which tests cover it: `linear` along an axis, `reduction="sum"`, activations
and losses as classes (layers, modules, Keras losses), labels of several classes, lower precisions,
graph mode and compilation. Those are the same formulas called in another way: see
tests/test_activations.py, tests/test_losses.py, tests/segact_torch and tests/segact_tf.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = dict[str, Array]
"""The arrays of one input set: `x` (raw outputs) and perhaps `y` (targets), or `p`."""

SEED = 20210902
"""Of every random input; kept in the records."""

SMOOTH = ("sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root")
ACTIVATIONS = (*SMOOTH, "hardtanh", "linear")
METHODS = ("cdf", "sf", "logcdf", "logsf", "pdf")
PUBLISHED_EPSILON = 1e-7
DTYPES = ("float32", "float64")

REDUCED = (
    ("binary_cross_entropy", "mean"),
    ("mean_squared_error", "mean"),
    ("dice", ""),
    ("dice", "per_sample"),
)
SHOWN = ("published", "stock_from_logits", "stock_from_probabilities")


def default_epsilon(activation: str) -> float:
    """The activation's own epsilon: 1e-7 for the two published piecewise linear ones, else 0."""
    return 0.0 if activation in SMOOTH else PUBLISHED_EPSILON


@dataclass(frozen=True)
class Case:
    """One quantity of one activation on one input set.

    `option` says more about the quantity: "y=0", "y=1", "y=soft" or "y=given" for an elementwise
    loss, "mean" or "per_sample" for a reduced one.
    """

    inputs: str
    dtype: str
    activation: str
    quantity: str
    option: str = ""
    epsilon: float = 0.0

    @property
    def input_set(self) -> str:
        """The name of the input set in `input_sets()`."""
        return f"{self.inputs}-{self.dtype}"

    @property
    def name(self) -> str:
        """Readable and stable: `grid-float32/arctan,epsilon=1e-07/binary_cross_entropy,y=0`."""
        activation = self.activation
        if self.epsilon != default_epsilon(activation):
            activation += f",epsilon={self.epsilon:g}"
        return f"{self.input_set}/{activation}/{self.label}"

    @property
    def label(self) -> str:
        """The quantity with its option: `dice,per_sample`."""
        return f"{self.quantity},{self.option}" if self.option else self.quantity

    @property
    def soft(self) -> bool:
        """Whether targets lie strictly between 0 and 1, so that gradients in y are judged too."""
        return self.option == "y=soft" or (
            self.inputs.endswith("soft") and self.option not in ("y=0", "y=1") and self.is_loss
        )

    @property
    def is_loss(self) -> bool:
        """Whether the quantity takes targets."""
        return self.quantity not in (*METHODS, "ppf")

    @property
    def reduced(self) -> bool:
        """Whether the value is one number for the whole set."""
        return (self.quantity, self.option) in REDUCED

    @property
    def parts(self) -> tuple[str, ...]:
        """What an evaluation gives: `value`, `grad_x` and, for soft targets, `grad_y`."""
        if self.quantity == "ppf" or self.quantity in SHOWN:
            return ("value",)
        return ("value", "grad_x", "grad_y") if self.soft else ("value", "grad_x")

    @property
    def exact_epsilon(self) -> float:
        """Epsilon as the implementation sees it: rounded to the dtype of the inputs."""
        return float(np.dtype(self.dtype).type(self.epsilon))

    def targets(self, inputs: Inputs) -> Array:
        """The targets of a loss: zeros, ones or the set's own y, like x in shape and dtype."""
        x = inputs["x"]
        if self.option == "y=0":
            return np.zeros_like(x)
        return np.ones_like(x) if self.option == "y=1" else inputs["y"]


def _around(points: tuple[float, ...], dtype: np.dtype[Any]) -> list[Array]:
    """Each point with its two neighbours in the dtype."""
    at = np.array(points, dtype)
    return [at, np.nextafter(at, dtype.type(np.inf)), np.nextafter(at, dtype.type(0))]


def grid(dtype_name: str) -> Array:
    """A sorted grid over every regime of the dtype, the same points on both sides of zero.

    Binades from the smallest normal number to 2^14, denser on [0, 20]; neighbours of the points
    where methods switch and functions saturate; the range up to 1e4, the range beyond, infinity.
    """
    dtype = np.dtype(dtype_name)
    info = np.finfo(dtype)
    rng = np.random.default_rng(SEED)
    narrow = dtype_name == "float32"
    tiny = np.array(np.linspace(int(info.minexp), -32, 8), dtype=int)
    exponents = np.concatenate([tiny, np.arange(-30, 14, 2 if narrow else 4)])
    steps = 40 if narrow else 16
    switches = (
        (0.25, 0.5, 0.67, 1.0, 16.0, 88.0, 104.0) if narrow else (0.5, 1.0, 16.0, 37.0, 708.0)
    )
    near_one = 1 - np.array([1, 2, 3]) * float(info.epsneg)
    epsilon = float(dtype.type(PUBLISHED_EPSILON))
    parts = [
        np.array([0.0, float(info.tiny)]),
        np.ldexp(rng.uniform(1, 2, len(exponents)), exponents),
        (np.arange(steps) + rng.uniform(0, 1, steps)) * (20 / steps),
        *_around(switches, dtype),
        *_around((epsilon, 1 - epsilon), dtype),
        near_one,
        np.geomspace(21, 9000, 10 if narrow else 6),
        np.array([1e4, 1e5, 1e10, 1e19, 2e19, 1e30, float(info.max), np.inf]),
    ]
    half = np.unique(np.concatenate([np.asarray(part, dtype) for part in parts]))
    return np.concatenate([-half[::-1], half])


def _soft_targets(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Targets strictly between 0 and 1, a tenth of them within 1e-3 of an end."""
    y = rng.uniform(0.001, 0.999, shape)
    near = rng.uniform(1e-6, 1e-3, shape)
    return np.where(rng.uniform(size=shape) < 0.1, np.where(y < 0.5, near, 1 - near), y)


def _batch(shape: tuple[int, ...], soft: bool, dtype: str, seed: int) -> Inputs:
    """Raw outputs ~ N(0, 4), one in eight of them saturating (up to 30), and their targets."""
    rng = np.random.default_rng((SEED, seed))
    x = rng.normal(0, 2, shape)
    x = np.where(rng.uniform(size=shape) < 1 / 8, rng.uniform(-30, 30, shape), x)
    hard = (x + rng.normal(0, 3, shape) > 0).astype(float)
    y = _soft_targets(rng, shape) if soft else hard
    return {"x": x.astype(dtype), "y": y.astype(dtype)}


def _probabilities(dtype: str) -> Array:
    """A grid on (1e-6, 1 - 1e-6), dense at both ends and around 1/2."""
    rng = np.random.default_rng(SEED)
    ends = np.geomspace(1.1e-6, 0.49, 24)
    around = np.geomspace(1e-6, 0.1, 8)
    middle = np.concatenate([0.5 - around, [0.5], 0.5 + around])
    return np.unique(np.concatenate([ends, 1 - ends, middle, rng.uniform(0, 1, 16)]).astype(dtype))


def _linear_sets(dtype: str) -> dict[str, Inputs]:
    """Batches for `linear`: ties at both ends, a constant, and a range that overflows."""
    rng = np.random.default_rng((SEED, 3))
    x = np.concatenate([rng.normal(0, 5, 40), rng.uniform(-1e4, 1e4, 20), [0, 1e-3, -1e-3]])
    x = np.concatenate([x, [-1e4, -1e4, 1e4, 1e4, 1e4]]).astype(dtype)
    y = _soft_targets(rng, x.shape).astype(dtype)
    huge = x.copy()
    huge[[0, -1]] = np.array([-1, 1]) * np.finfo(dtype).max
    return {
        "linear": {"x": x, "y": y},
        "linear-constant": {"x": np.full_like(x, 3.7), "y": y},
        "linear-huge": {"x": huge},
    }


@cache
def input_sets() -> dict[str, Inputs]:
    """Every input set of the standard cases by its full name, such as `grid-float32`."""
    sets: dict[str, Inputs] = {}
    for dtype in DTYPES:
        x = grid(dtype)
        y = _soft_targets(np.random.default_rng((SEED, 1)), x.shape).astype(dtype)
        sets[f"grid-{dtype}"] = {"x": x, "y": y}
        keep = np.zeros(len(x), bool)
        keep[::6] = keep[-1] = keep[1] = keep[-2] = True  # the infinities, the largest numbers
        sets[f"thin-{dtype}"] = {"x": x[keep], "y": y[keep]}
        sets[f"probabilities-{dtype}"] = {"p": _probabilities(dtype)}
        sets.update({f"{name}-{dtype}": s for name, s in _linear_sets(dtype).items()})
        sets[f"segmentation-soft-{dtype}"] = _batch((2, 1, 8, 8), True, dtype, 10)
        sets[f"classification-soft-{dtype}"] = _batch((32, 1), True, dtype, 11)
    sets["segmentation-hard-float32"] = _batch((2, 1, 8, 8), False, "float32", 12)
    sets["classification-hard-float32"] = _batch((32, 1), False, "float32", 13)
    off = np.array([[-5.0, -1.0, -0.5], [-3.0, -0.25, 0.0]], "float32")
    sets["all-off-float32"] = {"x": off, "y": np.zeros_like(off)}
    return sets


def elementwise_losses(options: tuple[str, ...]) -> list[tuple[str, str]]:
    """(quantity, option) of both elementwise losses with every kind of target named."""
    return list(product(("binary_cross_entropy", "squared_error"), options))


def _grid_cases(dtype: str) -> list[Case]:
    methods = [(method, "") for method in METHODS]
    quantities = methods + elementwise_losses(("y=0", "y=1", "y=soft"))
    cases = []
    for activation in (*SMOOTH, "hardtanh"):
        own = default_epsilon(activation)
        other = PUBLISHED_EPSILON if own == 0 else 0.0
        for inputs, epsilon in (("grid", own), ("thin", other)):
            cases += [Case(inputs, dtype, activation, *q, epsilon) for q in quantities]
            cases.append(Case("probabilities", dtype, activation, "ppf", "", epsilon))
    return cases


def _linear_cases(dtype: str) -> list[Case]:
    eps = PUBLISHED_EPSILON
    methods = [(method, "") for method in ("cdf", "sf", "logcdf", "logsf")]
    losses = elementwise_losses(("y=0", "y=1", "y=soft"))
    cases = [Case("linear", dtype, "linear", *q, eps) for q in methods + losses]
    cases += [Case("linear", dtype, "linear", method, "", 0.0) for method in ("cdf", "sf")]
    for name in ("linear-constant", "linear-huge"):
        cases += [Case(name, dtype, "linear", *q, eps) for q in methods]
    soft = elementwise_losses(("y=soft",))
    cases += [Case("linear-constant", dtype, "linear", *q, eps) for q in [*soft, ("dice", "")]]
    return cases


def _reduced_cases() -> list[Case]:
    """Every reduced loss on every batch; Dice, an overlap of areas, on segmentation only."""
    sets = [
        f"{shape}-soft-{dtype}"
        for shape, dtype in product(("segmentation", "classification"), DTYPES)
    ]
    sets += ["segmentation-hard-float32", "classification-hard-float32"]
    cases = []
    for name, activation, quantity in product(sets, ACTIVATIONS, REDUCED):
        inputs, _, dtype = name.rpartition("-")
        if inputs.startswith("classification") and quantity[0] == "dice":
            continue
        cases.append(Case(inputs, dtype, activation, *quantity, default_epsilon(activation)))
    # no target and, at epsilon 0, no output: the denominator of Dice is zero and the loss is 0
    cases += [
        Case("all-off", "float32", "hardtanh", "dice", option) for option in ("", "per_sample")
    ]
    return cases


@cache
def standard_cases() -> tuple[Case, ...]:
    """Every judged case of `segact-parity run`, in the order in which they are evaluated."""
    cases = [case for dtype in DTYPES for case in _grid_cases(dtype) + _linear_cases(dtype)]
    return tuple(cases + _reduced_cases())


def shown_cases(implementation: str) -> list[Case]:
    """Cases that are shown and never judged: the published formulas and the stock losses."""
    cases = [Case("grid", "float32", "sigmoid", stock, "y=1") for stock in SHOWN[1:]]
    if implementation == "torch":
        cases += [
            Case("grid", "float32", activation, "published", "y=1", PUBLISHED_EPSILON)
            for activation in SMOOTH
        ]
    return cases


def file_cases(inputs: Inputs) -> list[Case]:
    """The cases of a user's raw outputs and targets; in y too, if there are soft ones.

    Dice per sample is left out where a sample has one element only: there an output that underflows
    decides between 0 and 1.
    """
    x, y = inputs["x"], inputs["y"]
    dtype, several = str(x.dtype), x.ndim > 1 and x.size > len(x)
    soft = bool(np.any((y > 0) & (y < 1)))
    name = "file-soft" if soft else "file"
    quantities = [("cdf", ""), ("logcdf", ""), ("logsf", "")]
    quantities += elementwise_losses(("y=given",))
    quantities += [q for q in REDUCED if several or q[1] != "per_sample"]
    return [
        Case(name, dtype, activation, *quantity, default_epsilon(activation))
        for activation, quantity in product(ACTIVATIONS, quantities)
    ]
