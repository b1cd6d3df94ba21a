"""A case: one quantity of one activation on one input set; and all names."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.suite.inputs import IGNORED, PUBLISHED_EPSILON, Inputs

SMOOTH = ("sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root")
ACTIVATIONS = (*SMOOTH, "hardtanh", "linear")
METHODS = ("cdf", "sf", "logcdf", "logsf", "pdf")
CONVENTIONS = ("keras", "keras2", "keras_logit", "torch", "torch_legacy")
"""Conventions for the logarithms of a probability; a case has one in place of an activation."""

NO_ACTIVATION = "none"
"""What the cases of `lovasz_hinge` have in place of an activation."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "binary_focal_cross_entropy": {"gamma": 2.0},
    "tversky": {"alpha": 0.25, "beta": 0.75},
    "focal_tversky": {"alpha": 0.25, "beta": 0.75, "gamma": 4 / 3},
}
"""The parameters of the judged losses, unless an option changes them; exact in float32, as is
1 / gamma.
"""

OPTIONS: dict[str, dict[str, Any]] = {
    "per_sample": {"per_sample": True},
    "channels_first": {"per_sample": True, "channel_axis": 1},
    "channels_last": {"channel_axis": -1},
    "smooth": {"smooth": 0.5},
    "ignore_index": {"ignore_index": IGNORED},
    "label_smoothing": {"label_smoothing": 0.125},
    "pos_weight": {"pos_weight": 2.5},
    "alpha": {"alpha": 0.25},
    "gamma": {"gamma": 1.5},
    "lambdas": {"lambda_dice": 0.25, "lambda_ce": 0.75},
}
"""The options as keyword arguments; "weight" is the one that is an array, `w` of the inputs."""

_GROUPS = ("", "per_sample", "channels_first", "channels_last")
_OVERLAP = (*_GROUPS, "smooth", "weight", "ignore_index")
_CROSS_ENTROPY = ("weight", "ignore_index", "label_smoothing")
REDUCED: dict[str, tuple[str, ...]] = {
    "binary_cross_entropy": ("mean", "pos_weight", *_CROSS_ENTROPY),
    "mean_squared_error": ("mean", "weight", "ignore_index"),
    "binary_focal_cross_entropy": ("mean", "alpha", "gamma", *_CROSS_ENTROPY),
    "dice": _OVERLAP,
    "jaccard": _OVERLAP,
    "tversky": _OVERLAP,
    "focal_tversky": _OVERLAP,
    "dice_cross_entropy": (
        *("", "lambdas", "per_sample", "channels_first", "smooth", "pos_weight"),
        *_CROSS_ENTROPY,
    ),
    "lovasz": (*_GROUPS, "weight", "ignore_index"),
    "lovasz_hinge": (*_GROUPS, "weight", "ignore_index"),
}
"""The reduced losses with their options, each judged separately."""

ELEMENTWISE = ("binary_cross_entropy", "squared_error", "binary_focal_cross_entropy")
"""The losses that have a value for every element."""

LOSSES = tuple(dict.fromkeys((*ELEMENTWISE, *REDUCED)))
"""All losses; the mean of the squared error is `mean_squared_error`."""

BASELINES = ("published", "stock_from_logits", "stock_from_probabilities")


def default_epsilon(activation: str) -> float:
    """The activation's own epsilon: 1e-7 for the two published piecewise linear ones, else 0."""
    return PUBLISHED_EPSILON if activation in ("hardtanh", "linear") else 0.0


@dataclass(frozen=True)
class Case:
    """One quantity of one activation on one input set.

    `option` says more about the quantity: "y=0", "y=1", "y=soft" or "y=given" for an elementwise
    loss, one of `REDUCED` for a reduced one. `activation` gives the probability: for a
    given probability, a convention such as `keras_convention`.
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
        return self.option in REDUCED.get(self.quantity, ())

    @property
    def convention(self) -> str:
        """The convention that is judged; empty for every other case."""
        name, found, _ = self.activation.partition("_convention")
        return name if found else ""

    @property
    def judged_by_float64(self) -> bool:
        """Whether the oracle judges it; float32 is in the shipped reference on the grids only."""
        return self.dtype == "float32" and self.inputs not in ("grid", "thin")

    @property
    def keywords(self) -> dict[str, Any]:
        """Parameters and options as keyword arguments; on a user's file, the defaults."""
        own = {} if self.inputs.startswith("file") else PARAMETERS.get(self.quantity, {})
        return own | OPTIONS.get(self.option, {})

    @property
    def parameters(self) -> dict[str, Any]:
        """The keywords that change the formula, but not the axes of its sums."""
        others = ("per_sample", "channel_axis", "ignore_index")
        return {key: value for key, value in self.keywords.items() if key not in others}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of an evaluation: `value`, `grad_x` and, for soft targets, `grad_y`."""
        if self.quantity == "ppf" or self.quantity in BASELINES[1:]:
            return ("value",)
        if self.quantity == "lovasz" and self.inputs == "file":
            return ("value",)  # with many errors, rounding decides their order, and so the gradient
        return ("value", "grad_x", "grad_y") if self.soft else ("value", "grad_x")

    @property
    def exact_epsilon(self) -> float:
        """Epsilon as the implementation sees it: rounded to the dtype of the inputs."""
        return float(np.dtype(self.dtype).type(self.epsilon))

    def bind(self, inputs: Inputs) -> "Batch":
        """The case on its inputs."""
        return Batch(self, inputs)


@dataclass(frozen=True)
class Batch:
    """A case on its inputs: its arguments as arrays, each computed once."""

    case: Case
    inputs: Inputs

    @property
    def x(self) -> Array:
        """The raw outputs; of a quantile, the probabilities."""
        return self.inputs["p" if self.case.quantity == "ppf" else "x"]

    @cached_property
    def y(self) -> Array:
        """The targets of a loss: zeros, ones or the set's own, like x in shape and dtype."""
        if self.case.option == "y=0" or not self.case.is_loss:
            return np.zeros_like(self.x)
        return np.ones_like(self.x) if self.case.option == "y=1" else self.inputs["y"]

    @cached_property
    def w(self) -> Array:
        """The weight of every element."""
        return self.inputs["w"] if self.case.option == "weight" else np.ones_like(self.x)

    @cached_property
    def valid(self) -> Array:
        """Which elements are not ignored: a mean counts these."""
        ignored = self.case.keywords.get("ignore_index")
        if ignored is not None:
            return np.asarray(self.y != ignored)
        return np.ones(self.x.shape, bool)

    @cached_property
    def used(self) -> Array:
        """Which elements affect the value: those that are not ignored and have a weight above 0."""
        return np.asarray(self.valid & (self.w != 0))

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The axes over which one loss sums; the value of a case is the mean over the others."""
        keywords = self.case.keywords
        kept = {0} if keywords.get("per_sample") else set()
        if "channel_axis" in keywords:
            kept.add(keywords["channel_axis"] % self.x.ndim)
        return tuple(axis for axis in range(self.x.ndim) if axis not in kept)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the case."""
        return self.case.parameters

    @property
    def arguments(self) -> list[Array]:
        """The arguments of the case: x, the targets of a loss, perhaps its weights."""
        targets = [self.y] if self.case.is_loss else []
        return [self.x, *targets, *([self.w] if self.case.option == "weight" else [])]
