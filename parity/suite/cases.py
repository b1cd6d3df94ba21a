"""What is judged: the cases evaluated on the inputs of `parity.suite.inputs`.

A `Case` is one quantity of one activation on one input set. Elementwise quantities are judged on
grids, reduced losses on batches, with each of their options separately, and the conventions of
cross entropy from probabilities on predictions.

What is not judged, and which tests cover it: `linear` along an axis, `reduction="sum"`, activations
and losses as classes (layers, modules, Keras losses), masks, weights of other shapes, labels of
several classes, lower precisions, graph mode and compilation. Those are the same formulas called in
another way: see tests/both, tests/segact_torch and tests/segact_tf.
"""

from functools import cache
from itertools import product

import numpy as np

from parity.suite.case import (
    ACTIVATIONS,
    BASELINES,
    CONVENTIONS,
    METHODS,
    NO_ACTIVATION,
    REDUCED,
    SMOOTH,
    Case,
    default_epsilon,
)
from parity.suite.inputs import DTYPES, PUBLISHED_EPSILON, Inputs

_ON_BATCHES = (
    ("binary_cross_entropy", "mean"),
    ("mean_squared_error", "mean"),
    ("dice", ""),
    ("dice", "per_sample"),
)
"""Losses that are judged in the shapes with which users train; all others are on volumes."""

_TARGETS = ("y=0", "y=1", "y=soft")


def elementwise_losses(options: tuple[str, ...]) -> list[tuple[str, str]]:
    """(quantity, option) of the elementwise losses judged everywhere, with every option named."""
    return list(product(("binary_cross_entropy", "squared_error"), options))


def focal_losses(options: tuple[str, ...]) -> list[tuple[str, str]]:
    """The same for the focal loss, which is judged at finite x of all activations but `linear`."""
    return list(product(("binary_focal_cross_entropy",), options))


def _grid_cases(dtype: str) -> list[Case]:
    methods = [(method, "") for method in METHODS]
    quantities = methods + elementwise_losses(_TARGETS)
    cases = []
    for activation in (*SMOOTH, "hardtanh"):
        own = default_epsilon(activation)
        other = PUBLISHED_EPSILON if own == 0 else 0.0
        for inputs, epsilon in (("grid", own), ("thin", other)):
            cases += [Case(inputs, dtype, activation, *q, epsilon) for q in quantities]
            cases.append(Case("probabilities", dtype, activation, "ppf", "", epsilon))
        cases += [Case("finite", dtype, activation, *q, own) for q in focal_losses(_TARGETS)]
    return cases


def _convention_cases(dtype: str) -> list[Case]:
    return [
        Case("predictions", dtype, f"{name}_convention", "binary_cross_entropy", option)
        for name, option in product(CONVENTIONS, _TARGETS)
    ]


def _linear_cases(dtype: str) -> list[Case]:
    eps = PUBLISHED_EPSILON
    methods = [(method, "") for method in ("cdf", "sf", "logcdf", "logsf")]
    losses = elementwise_losses(_TARGETS)
    cases = [Case("linear", dtype, "linear", *q, eps) for q in methods + losses]
    cases += [Case("linear", dtype, "linear", method, "", 0.0) for method in ("cdf", "sf")]
    for name in ("linear-constant", "linear-huge"):
        cases += [Case(name, dtype, "linear", *q, eps) for q in methods]
    soft = elementwise_losses(("y=soft",))
    cases += [Case("linear-constant", dtype, "linear", *q, eps) for q in [*soft, ("dice", "")]]
    return cases


def _batch_cases() -> list[Case]:
    """The losses of `_ON_BATCHES`; Dice, an overlap of areas, on segmentation only."""
    sets = [
        f"{shape}-soft-{dtype}"
        for shape, dtype in product(("segmentation", "classification"), DTYPES)
    ]
    sets += ["segmentation-hard-float32", "classification-hard-float32"]
    cases = []
    for name, activation, quantity in product(sets, ACTIVATIONS, _ON_BATCHES):
        inputs, _, dtype = name.rpartition("-")
        if inputs.startswith("classification") and quantity[0] == "dice":
            continue
        cases.append(Case(inputs, dtype, activation, *quantity, default_epsilon(activation)))
    # both of its losses in one pass, which backends have where targets are constants
    both = ("segmentation-hard", "float32")
    cases += [Case(*both, a, "dice_cross_entropy", "", default_epsilon(a)) for a in ACTIVATIONS]
    # no target and, at epsilon 0, no output: a denominator of zero and a loss of 0
    overlaps = ("dice", "jaccard", "tversky", "focal_tversky", "dice_cross_entropy")
    all_off = [*product(overlaps, ("",)), ("dice", "per_sample")]
    cases += [Case("all-off", "float32", "hardtanh", *quantity) for quantity in all_off]
    # no target, and `smooth`: a ratio near 1 with a small gradient
    ratios = [("dice", a) for a in ACTIVATIONS]
    ratios += product(("jaccard", "tversky", "focal_tversky"), ("arctan",))
    cases += [Case("empty", "float32", a, loss, "smooth", default_epsilon(a)) for loss, a in ratios]
    return cases


def _option_cases(dtype: str) -> list[Case]:
    """Every loss with every option on volumes, except those that are on batches."""
    quantities = [
        (quantity, option)
        for quantity, options in REDUCED.items()
        for option in options
        if (quantity, option) not in _ON_BATCHES
    ]
    cases = []
    for quantity, option in quantities:
        targets = "hard" if quantity.startswith("lovasz") else "soft"
        special = {"ignore_index": "-ignored", "weight": "-weight"}.get(option, "")
        activations = (NO_ACTIVATION,) if quantity == "lovasz_hinge" else ACTIVATIONS
        cases += [
            Case(f"volume{special}-{targets}", dtype, a, quantity, option, default_epsilon(a))
            for a in activations
        ]
    return cases


@cache
def judged_cases() -> tuple[Case, ...]:
    """Every judged case of `segact-parity run`, in the order in which they are evaluated."""
    cases = [case for dtype in DTYPES for case in _grid_cases(dtype) + _linear_cases(dtype)]
    cases += [case for dtype in DTYPES for case in _convention_cases(dtype)]
    cases += _batch_cases()
    return tuple(cases + [case for dtype in DTYPES for case in _option_cases(dtype)])


@cache
def standard_cases() -> tuple[Case, ...]:
    """The judged cases that the shipped reference holds; the oracle judges the others."""
    return tuple(case for case in judged_cases() if not case.judged_by_float64)


def baseline_cases(implementation: str) -> list[Case]:
    """Cases that are shown but not judged: published formulas and the frameworks' own losses."""
    cases = [Case("grid", "float32", "sigmoid", stock, "y=1") for stock in BASELINES[1:]]
    if implementation == "torch":
        cases += [
            Case("grid", "float32", activation, "published", "y=1", PUBLISHED_EPSILON)
            for activation in SMOOTH
        ]
    return cases


def file_cases(inputs: Inputs) -> list[Case]:
    """The cases of a user's raw outputs and targets; in y too, if there are soft ones.

    Without Dice per sample if a sample has only one element: then an output that underflows decides
    between 0 and 1. Without the Lovasz loss if targets are soft.
    """
    x, y = inputs["x"], inputs["y"]
    dtype, several = str(x.dtype), x.ndim > 1 and x.size > len(x)
    soft = bool(np.any((y > 0) & (y < 1)))
    name = "file-soft" if soft else "file"
    quantities = [("cdf", ""), ("logcdf", ""), ("logsf", "")]
    quantities += elementwise_losses(("y=given",))
    quantities += [q for q in _ON_BATCHES if several or q[1] != "per_sample"]
    quantities.append(("binary_focal_cross_entropy", "mean"))
    overlaps = ("jaccard", "tversky", "focal_tversky", "dice_cross_entropy")
    quantities += product(overlaps if soft else (*overlaps, "lovasz"), ("",))
    return [
        Case(name, dtype, activation, *quantity, default_epsilon(activation))
        for activation, quantity in product(ACTIVATIONS, quantities)
    ]
