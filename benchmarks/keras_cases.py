"""Our Keras losses and Keras's own, on the active backend."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

import segact_tf
from benchmarks.cases import IGNORED, LARGE, USUAL, Case, Inputs, Loss, as_they_are
from parity.suite.case import ACTIVATIONS
from parity.suite.inputs import PUBLISHED_EPSILON

FORMULAS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": ops.sigmoid,
    "normal_cdf": lambda x: 0.5 * (1 + ops.erf(x * 2**-0.5)),
    "arctan": lambda x: 0.5 + ops.arctan(x) / 3.141592653589793,
    "softsign": lambda x: 0.5 * (1 + x / (1 + ops.abs(x))),
    "inverse_square_root": lambda x: 0.5 * (1 + x / ops.sqrt(1 + x * x)),
    "hardtanh": lambda x: ops.clip(x, PUBLISHED_EPSILON, 1 - PUBLISHED_EPSILON),
    "linear": lambda x: (
        PUBLISHED_EPSILON
        + (1 - 2 * PUBLISHED_EPSILON) * ((x - ops.min(x)) / (ops.max(x) - ops.min(x)))
    ),
}
"""The activations as published, of few operations."""

# Up to Keras 3.15 its alpha weighs false negatives, and its beta false positives.
SWAPPED = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16)
WEIGHTS = {"alpha": 0.3, "beta": 0.7}
THEIR_WEIGHTS = {"alpha": 0.7, "beta": 0.3} if SWAPPED else WEIGHTS
CLASSES = {
    "binary_cross_entropy": "BinaryCrossentropy",
    "binary_focal_cross_entropy": "BinaryFocalCrossentropy",
    "mean_squared_error": "MeanSquaredError",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "tversky": "Tversky",
    "focal_tversky": "FocalTversky",
    "dice_cross_entropy": "DiceCrossentropy",
    "lovasz": "Lovasz",
    "lovasz_hinge": "LovaszHinge",
}
ONLY_SIGMOID = ("binary_cross_entropy", "binary_focal_cross_entropy")
BOTH = ("binary_cross_entropy", "dice")
"""The losses that are measured with every activation and every kind of input."""


def _lovasz(errors: Any, y: Any) -> Any:
    """The Lovasz extension of the Jaccard loss by its published algorithm: one sort, two sums."""
    errors, y = ops.reshape(errors, (-1,)), ops.reshape(y, (-1,))
    order = ops.argsort(-errors)
    errors, hits = ops.take(errors, order), ops.take(y, order)
    union = ops.sum(hits) + ops.cumsum(1 - hits)
    jaccard = 1 - (ops.sum(hits) - ops.cumsum(hits)) / union
    return ops.sum(errors * ops.concatenate([jaccard[:1], jaccard[1:] - jaccard[:-1]]))


def _counterpart(loss: str, activation: str) -> tuple[str, Loss]:
    """Keras's own loss; it gets the values of the activation if it takes no raw outputs."""
    F, own = FORMULAS[activation], keras.losses
    cross_entropy = own.BinaryCrossentropy(from_logits=True)
    focal = own.BinaryFocalCrossentropy(from_logits=True)
    square, dice = own.MeanSquaredError(), own.Dice()
    tversky, jaccard = own.Tversky(**THEIR_WEIGHTS), own.Tversky(alpha=1.0, beta=1.0)
    found: dict[str, tuple[str, Loss]] = {
        "binary_cross_entropy": ("BinaryCrossentropy(from_logits=True)",
            lambda x, y: cross_entropy(y, x)),
        "binary_focal_cross_entropy": ("BinaryFocalCrossentropy(from_logits=True)",
            lambda x, y: focal(y, x)),
        "mean_squared_error": ("MeanSquaredError of F(x)", lambda x, y: square(y, F(x))),
        "dice": ("Dice of F(x)", lambda x, y: dice(y, F(x))),
        "jaccard": ("Tversky(alpha=1, beta=1) of F(x)", lambda x, y: jaccard(y, F(x))),
        "tversky": ("Tversky of F(x)", lambda x, y: tversky(y, F(x))),
        "focal_tversky": ("Tversky of F(x), ** (3 / 4)", lambda x, y: tversky(y, F(x)) ** 0.75),
        "dice_cross_entropy": ("Dice of F(x) + BinaryCrossentropy",
            lambda x, y: dice(y, F(x)) + cross_entropy(y, x)),
        "lovasz": ("the published algorithm", lambda x, y: _lovasz(ops.abs(F(x) - y), y)),
        "lovasz_hinge": ("the published algorithm",
            lambda x, y: _lovasz(ops.relu(1 - x * (2 * y - 1)), y)),
    }  # fmt: skip
    return found[loss]


def _ours(loss: str, *activation: Any, **options: Any) -> Loss:
    options |= WEIGHTS if loss in ("tversky", "focal_tversky") else {}
    found = getattr(segact_tf, CLASSES[loss])(*activation, **options)
    return lambda x, y: found(y, x)


def _activations() -> list[Case]:
    """Every loss, two of them with every activation."""
    hinge = "lovasz_hinge"
    found = [Case(hinge, "", _ours(hinge), *_counterpart(hinge, "sigmoid"), sizes=(LARGE,))]
    for loss in CLASSES:
        if loss == hinge:
            continue
        for name in ACTIVATIONS if loss in BOTH else ("sigmoid", "arctan"):
            same = name == "sigmoid" or loss not in (*ONLY_SIGMOID, "dice_cross_entropy")
            swept = loss in BOTH and name in ("sigmoid", "arctan")
            sizes = USUAL if swept else (LARGE,)
            found.append(Case(loss, name, _ours(loss, name), *_counterpart(loss, name), same,
                              sizes=sizes))  # fmt: skip
    return found


def _of_type(dtype: str) -> Inputs:
    return lambda x, y: (ops.cast(x, dtype), ops.cast(y, dtype))


def _void(x: Any, y: Any) -> tuple[Any, Any]:
    """Every tenth target is ignored."""
    left_out = ops.reshape(ops.arange(int(ops.size(y))) % 10 == 0, ops.shape(y))
    return x, ops.where(left_out, float(IGNORED), y)


INPUTS: dict[str, Inputs] = {
    "float16": _of_type("float16"),
    "bfloat16": _of_type("bfloat16"),
    "int32 targets": lambda x, y: (x, ops.cast(y, "int32")),
}


def _of_inputs() -> list[Case]:
    """The sigmoid's losses of other tensors; both cast them to float32, as Keras's losses do."""
    return [
        Case(loss, what, _ours(loss), *_counterpart(loss, "sigmoid"), inputs=inputs, sizes=(LARGE,))
        for loss in BOTH
        for what, inputs in INPUTS.items()
    ]


def _cross_entropy_of_valid(x: Any, y: Any) -> Any:
    left = ops.cast(y != IGNORED, x.dtype)
    each = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)
    return ops.sum(each(y[..., None] * left[..., None], x[..., None]) * left) / ops.sum(left)


def _dice_of_valid(x: Any, y: Any) -> Any:
    left = ops.cast(y != IGNORED, x.dtype)
    return keras.losses.Dice()(y * left, ops.sigmoid(x) * left)


def _of_options() -> list[Case]:
    """The options, each written by hand with Keras's own losses."""
    own = keras.losses
    stock, each_sample = own.BinaryCrossentropy(from_logits=True), own.Dice(axis=(1, 2))
    entropy, dice = BOTH
    rows: list[tuple[str, str, Loss, str, Loss, Inputs]] = [
        (entropy, "ignore_index", _ours(entropy, ignore_index=IGNORED),
            "BinaryCrossentropy of y != 255", _cross_entropy_of_valid, _void),
        (dice, "ignore_index", _ours(dice, ignore_index=IGNORED),
            "Dice of y != 255", _dice_of_valid, _void),
        (dice, "per_sample", _ours(dice, per_sample=True),
            "Dice(axis=(1, 2)) of F(x)", lambda x, y: each_sample(y, ops.sigmoid(x)), as_they_are),
        (entropy, "pos_weight=3.0", _ours(entropy, pos_weight=3.0),
            "BinaryCrossentropy, sample_weight", lambda x, y: stock(y, x, 1 + 2 * y), as_they_are),
        (entropy, "label_smoothing", _ours(entropy, label_smoothing=0.1),
            "BinaryCrossentropy of smoothed targets",
            lambda x, y: stock(y * 0.9 + 0.05, x), as_they_are),
    ]  # fmt: skip
    return [
        Case(loss, options, ours, name, theirs, inputs=inputs, sizes=(LARGE,))
        for loss, options, ours, name, theirs, inputs in rows
    ]


def cases() -> list[Case]:
    """All cases, for each backend."""
    return [*_activations(), *_of_inputs(), *_of_options()]
