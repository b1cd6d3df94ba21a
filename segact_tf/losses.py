"""Losses for binary classification and segmentation, each written once for every activation.

A function and a `keras.losses.Loss` over it, in pairs. `y_pred` holds raw outputs and the loss
applies the activation: `from_logits=True` is the default here and False in Keras. A network whose
last layer applies the activation already must say `from_logits=False`; under the default it would
be squashed twice, and nothing can notice.

>>> import numpy as np, segact_tf
>>> y_true = np.array([[0.0], [1.0], [0.0]], "float32")
>>> logits = np.array([[-2.0], [0.0], [30.0]], "float32")
>>> round(float(BinaryCrossentropy("arctan")(y_true, logits)), 4)  # head: Dense(1)
1.7997
>>> probabilities = segact_tf.arctan(logits)  # head: Dense(1, activation=segact_tf.arctan)
>>> round(float(BinaryCrossentropy(from_logits=False)(y_true, probabilities)), 4)
1.7997

Every function takes `y_true` and `y_pred` of one shape, any number of dimensions. float16 and
bfloat16 are computed in float32; the result is float32, or float64 for float64 `y_pred`. Targets
lie in [0, 1], in any dtype, and are differentiable where they are floating. What they share:

    activation: F, by name or as an `Activation`; None is "sigmoid". F(x) is the probability of 1.
    from_logits: False where `y_pred` holds probabilities; then there is no activation to name.
    axis: of the elementwise losses, the axis, or several, over which the mean is taken; None is
        all, () is none.
    sample_weight: of each element, >= 0, of the rank of `y_pred` with sizes equal to its own or 1,
        such as (N, 1, 1, 1) for one weight a sample. Elementwise losses are multiplied by it and
        their mean still divides by the number of elements, as Keras does; overlap losses weigh each
        element inside of their sums, where one that is constant over a group cancels. Where it is
        0, the element contributes exactly nothing to value and gradient, whatever its raw output
        and target, NaN included. It is a constant: no gradient flows into it.
    ignore_index: elements whose target is this number, such as 255, are left out: their weight is
        0, and the mean is over the others; 0 if there are none.
    mask: elements where it is 0 or False are left out.
    validate: whether to look at the values of target, weight, and probabilities. None does so where
        that does not make a device wait: on a CPU, outside of compiled code; True always, and
        raises in compiled code, False never.

The overlap losses (`dice`, `jaccard`, `tversky`, `focal_tversky`, `dice_cross_entropy`, `lovasz`,
`lovasz_hinge`) sum over the whole batch, as published, to one number, or apart over

    per_sample: each sample, that is each index of the first dimension;
    channel_axis: each channel: -1 for NHWC and NDHWC, 1 for NCHW and NCDHW, where the channels are
        labels independent of each other.

They return the loss of each such group: of shape (), (N,), (C,) or (N, C). A group without any
target has a defined loss. In the ratios only false positives are left: FP / (FP + smooth) in
`dice`, which is 1 for any output at all, or less with `smooth`, and 0 where the denominator is 0
(or below the smallest normal number). `lovasz` is the largest error.

The classes take the same options, but for `sample_weight` and `mask`, which come with a call or
from `fit` and from masked layers; a mask leaves elements out. They convert to their own dtype, as
every Keras loss does, and align one trailing axis of size 1. A `sample_weight` of a lower rank is
aligned from the left: (N,) is one weight a sample. Of an overlap loss with `per_sample=True` such
weights multiply the losses of the samples. (In `compile(loss=...)`, take the classes: what a
function returns Keras weighs itself, after the sums.)

What raises: TypeError for integer `y_pred` in the functions; ValueError for shapes that differ, for
an empty input, for an unknown activation or convention, for an activation together with
`from_logits=False`, for a number out of its range, and for targets or probabilities outside [0, 1]
or negative weights, where they are looked at (`validate`).
"""

import inspect
import math
import numbers
import re
import sys
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from segact_tf import _special
from segact_tf.activations import (
    Activation,
    _differentiable,
    _weigh,
    _wide,
    get_activation,
)
from segact_tf.conventions import CONVENTIONS, Convention, get_convention

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "Dice",
    "DiceCrossentropy",
    "FocalTversky",
    "Jaccard",
    "Lovasz",
    "LovaszHinge",
    "MeanSquaredError",
    "Tversky",
    "binary_cross_entropy",
    "binary_focal_cross_entropy",
    "dice",
    "dice_cross_entropy",
    "focal_tversky",
    "jaccard",
    "lovasz",
    "lovasz_hinge",
    "mean_squared_error",
    "tversky",
]

Axis = int | tuple[int, ...] | None

# The options that are numbers >= 0, if they are numbers.
NUMBERS = {
    *("alpha", "beta", "gamma", "smooth", "label_smoothing", "pos_weight"),
    *("lambda_dice", "lambda_ce"),
}


@keras.saving.register_keras_serializable(package="segact")
def binary_cross_entropy(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    axis: Axis = -1,
    *,
    convention: str | None = None,
    pos_weight: float | Any = None,
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """-(y log F(x) + (1 - y) log(1 - F(x))), from the logarithms of the tails: nothing is clipped.

    A term of weight zero adds exactly zero to value and gradient.

    Args:
        convention: what to take for the logarithms, see `segact_tf.conventions`: "exact", the
            only one from raw outputs, or with `from_logits=False` "keras", the default, "keras2",
            "keras_logit", "torch" or "torch_legacy".
        pos_weight: a factor of the term of y, a number, or an array that broadcasts to the shape of
            `y_pred`, such as (C,) for NHWC.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        y_true, y_pred, activation, from_logits, axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.losses`.

    Source: arXiv:2109.00903; H. Hentschke, "Sigmoid activation and binary crossentropy: a less than
    perfect match?" (2019), for what the clipped form loses.
    """
    f = _logarithms(activation, from_logits, convention)
    y, x, w, valid = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    loss = _cross_entropy(x, _smooth(y, label_smoothing), f, pos_weight)
    return _mean(_weighted(loss, w), valid, axis)


@keras.saving.register_keras_serializable(package="segact")
def binary_focal_cross_entropy(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    axis: Axis = -1,
    *,
    convention: str | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """The focal loss: cross entropy times the error to the power gamma.

    (y (1 - F(x)) + (1 - y) F(x))^gamma times `binary_cross_entropy`, times y alpha + (1 - y)
    (1 - alpha) if there is an alpha. The paper uses gamma = 2 with alpha = 0.25.

    Computed in float64 where the backend has it. JAX has it with `jax_enable_x64` alone; without,
    an element is within 13 instead of 8 ulp.

    Args:
        convention: of the cross entropy, as in `binary_cross_entropy`.
        gamma: >= 0; 0 is cross entropy.
        alpha: the weight of class 1, in [0, 1]; that of class 0 is 1 - alpha. None weighs neither.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        y_true, y_pred, activation, from_logits, axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.losses`.

    Source: Lin et al., "Focal loss for dense object detection" (arXiv:1708.02002).
    """
    _check_number("gamma", gamma)
    f = _logarithms(activation, from_logits, convention)
    y, x, w, valid = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    y = _smooth(y, label_smoothing)
    # A power multiplies the relative error of its base, and float32 has no digits to spare.
    wide = _widen(x, f)
    wide_y = ops.cast(y, wide.dtype)
    p, q = _probabilities(wide, f)
    error = _weigh(wide_y, q) + _weigh(1 - wide_y, p)
    loss = ops.cast(_power(error, gamma) * _cross_entropy(wide, wide_y, f), x.dtype)
    if alpha is not None:
        _check_number("alpha", alpha, high=1.0)
        loss = _weigh(y * alpha + (1 - y) * (1 - alpha), loss)
    return _mean(_weighted(loss, w), valid, axis)


@keras.saving.register_keras_serializable(package="segact")
def mean_squared_error(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    axis: Axis = -1,
    *,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """(F(x) - y)^2, the squared error of the probability, as ((1 - y) F(x) - y (1 - F(x)))^2.

    Args:
        y_true, y_pred, activation, from_logits, axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.losses`.

    Source: arXiv:2109.00903.
    """
    f = _logarithms(activation, from_logits)
    y, x, w, valid = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    p, q = _probabilities(x, f)
    loss = ((1 - y) * p - y * q) ** 2
    return _mean(_weighted(loss, w), valid, axis)


@keras.saving.register_keras_serializable(package="segact")
def dice(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    *,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """1 - (2 sum(F(x) y) + smooth) / (sum(F(x) + y) + smooth), without its cancellation.

    Computed as (FP + FN) / (2 TP + FP + FN + smooth) from the sums of `tversky`.

    Args:
        smooth: >= 0, added to numerator and denominator of the overlap.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.losses`.

    Source: arXiv:2109.00903. (V-Net, arXiv:1606.04797, squares the terms of the denominator.)
    """
    f = _logarithms(activation, from_logits)
    y, x, w, _ = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    axis = _summed(x, per_sample, channel_axis)
    return _overlap(x, y, f, (2, 1, 1), smooth, w, axis)


@keras.saving.register_keras_serializable(package="segact")
def jaccard(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    *,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """1 - (TP + smooth) / (TP + FP + FN + smooth): one minus intersection over union.

    Computed as (FP + FN) / (TP + FP + FN + smooth) from the sums of `tversky`.

    Args:
        smooth: >= 0, added to intersection and union.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.losses`.

    Source: Rahman and Wang, "Optimizing intersection-over-union in deep neural networks for image
    segmentation" (2016).
    """
    f = _logarithms(activation, from_logits)
    y, x, w, _ = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    axis = _summed(x, per_sample, channel_axis)
    return _overlap(x, y, f, (1, 1, 1), smooth, w, axis)


@keras.saving.register_keras_serializable(package="segact")
def tversky(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth).

    TP = sum(y F(x)), FP = sum((1 - y) F(x)), FN = sum(y (1 - F(x))). Computed as
    (alpha FP + beta FN) / (TP + alpha FP + beta FN + smooth), 0 where that denominator is 0.
    alpha = beta = 1/2 is Dice (with half its smooth), alpha = beta = 1 is Jaccard.

    Args:
        alpha: the weight of false positives, >= 0.
        beta: the weight of false negatives, >= 0. (`keras.losses.Tversky` of Keras 3.15 has the two
            the other way round, against its own documentation.)
        smooth: >= 0, added to numerator and denominator of the index.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.losses`.

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks" (arXiv:1706.05721).
    """
    f = _logarithms(activation, from_logits)
    y, x, w, _ = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    axis = _summed(x, per_sample, channel_axis)
    return _overlap(x, y, f, (1, alpha, beta), smooth, w, axis)


@keras.saving.register_keras_serializable(package="segact")
def focal_tversky(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """The loss of `tversky` to the power 1 / gamma, with the paper's defaults.

    Where the loss is 0, so is the gradient, which tends to infinity there.

    Args:
        alpha: the weight of false positives, >= 0 (beta in the paper).
        beta: the weight of false negatives, >= 0 (alpha in the paper).
        gamma: > 0; the exponent is 1 / gamma, as in the paper (some libraries call the exponent
            itself gamma).
        smooth: >= 0, added to numerator and denominator of the index.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.losses`.

    Source: Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
    lesion segmentation" (arXiv:1810.07842).
    """
    _check_number("gamma", gamma, open=True)
    f = _logarithms(activation, from_logits)
    y, x, w, _ = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    axis = _summed(x, per_sample, channel_axis)
    loss = _overlap(x, y, f, (1, alpha, beta), smooth, w, axis)
    return _power(loss, 1 / gamma)


@keras.saving.register_keras_serializable(package="segact")
def dice_cross_entropy(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    *,
    convention: str | None = None,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    pos_weight: float | Any = None,
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """lambda_dice times `dice` plus lambda_ce times the mean of `binary_cross_entropy`.

    Both over each group of elements that Dice sums over.

    Args:
        lambda_dice, lambda_ce: the weights of the two losses, >= 0.
        smooth: of Dice.
        convention, pos_weight, label_smoothing: of the cross entropy.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.losses`.

    Source: Isensee et al., "nnU-Net" (arXiv:1809.10486).
    """
    _check_number("lambda_dice", lambda_dice)
    _check_number("lambda_ce", lambda_ce)
    f = _logarithms(activation, from_logits, convention)
    y, x, w, valid = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate)
    axis = _summed(x, per_sample, channel_axis)
    overlap = _overlap(x, y, f, (2, 1, 1), smooth, w, axis)
    entropy = _cross_entropy(x, _smooth(y, label_smoothing), f, pos_weight)
    entropy = _mean(_weighted(entropy, w), valid, axis)
    return _times(lambda_dice, overlap) + _times(lambda_ce, entropy)


@keras.saving.register_keras_serializable(package="segact")
def lovasz(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    *,
    per_sample: bool = False,
    channel_axis: int | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """The Lovasz extension of the Jaccard loss at the errors abs(y - F(x)); y is 0 or 1.

    The errors e in descending order are weighted by what each adds to the Jaccard loss of those
    before it: with i targets left and a union u, 1 / u for a target (then i falls by one) and
    i / (u (u + 1)) for background (then u grows by one). The sort is stable: where errors are
    equal, the earlier element counts as the larger, and the gradient is the same everywhere.

    Args:
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.losses`.

    Source: Berman et al., "The Lovasz-Softmax loss" (arXiv:1705.08790); arXiv:2109.00903, which
    names it as untested.
    """
    f = _logarithms(activation, from_logits)
    y, x, w, _ = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate, hard=True)
    p, q = _probabilities(x, f)
    axis = _summed(x, per_sample, channel_axis)
    return _lovasz_extension(y * q + (1 - y) * p, y, w, axis)


@keras.saving.register_keras_serializable(package="segact")
def lovasz_hinge(
    y_true: Any,
    y_pred: Any,
    *,
    per_sample: bool = False,
    channel_axis: int | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    mask: Any = None,
    validate: bool | None = None,
) -> Any:
    """The Lovasz extension of the Jaccard loss at the hinge max(0, 1 - x (2 y - 1)); y is 0 or 1.

    It takes margins, raw outputs whose sign decides, and therefore no activation. See `lovasz`.

    Args:
        y_true, y_pred, per_sample, channel_axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.losses`.

    Source: Yu and Blaschko, "The Lovasz hinge" (arXiv:1512.07797); Berman et al.
    (arXiv:1705.08790).
    """
    f = _logarithms(None, from_logits=True)
    y, x, w, _ = _prepare(y_true, y_pred, f, sample_weight, ignore_index, mask, validate, hard=True)
    axis = _summed(x, per_sample, channel_axis)
    return _lovasz_extension(1 - x * (2 * y - 1), y, w, axis)


def _prepare(
    y_true: Any,
    y_pred: Any,
    f: Activation | Convention,
    sample_weight: Any,
    ignore_index: int | None,
    mask: Any,
    validate: bool | None,
    hard: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """y, x, the weights and which elements are valid, or an error that says what is wrong.

    In the precision that they are computed in. Elements that are left out have a weight of 0; where
    the weight is 0, x and y are harmless. None stands for weights of 1, and for all being valid.
    """
    x = _wide(y_pred, "y_pred")
    y = ops.convert_to_tensor(y_true)
    if _differ(y, x):
        raise ValueError(
            "y_true and y_pred must have the same shape, "
            f"got y_true {tuple(y.shape)} and y_pred {tuple(x.shape)}"
        )
    if 0 in tuple(x.shape):
        raise ValueError(f"y_pred is empty: its shape is {tuple(x.shape)}")
    if None in tuple(y.shape) + tuple(x.shape):
        y = ops.reshape(y, ops.shape(x))  # or else sizes that are known late might broadcast
    y, w = ops.cast(y, x.dtype), _fitted(sample_weight, "sample_weight", x)
    valid = _valid(x, y, ignore_index, mask)
    if valid is not None:
        w = ops.cast(valid, x.dtype) if w is None else ops.where(valid, w, 0.0)
    if w is not None:
        x, y = f._without(x, w != 0), ops.where(w != 0, y, 0.0)
    if _is_looked_at(x, validate) and _is_looked_at(y, validate):
        _check_values(x, y, w, f, hard)
    return y, x, w, valid


def _differ(left: Any, right: Any) -> bool:
    """Whether two shapes differ in what is known of them."""
    pairs = zip(left.shape, right.shape, strict=False)
    differ = any(a != b for a, b in pairs if a is not None and b is not None)
    return differ or len(left.shape) != len(right.shape)


def _valid(x: Any, y: Any, ignore_index: int | None, mask: Any) -> Any:
    """Which elements are not left out, by target or by mask."""
    _check_ignore_index(ignore_index)
    fitted = _fitted(mask, "mask", x)
    named = None if ignore_index is None else y != ignore_index
    if fitted is None:
        return named
    return fitted != 0 if named is None else ops.logical_and(named, fitted != 0)


def _fitted(values: Any, name: str, x: Any) -> Any:
    """Numbers of the rank of x, with sizes equal or 1, in the shape and dtype of x."""
    if values is None:
        return None
    values = ops.stop_gradient(ops.cast(ops.convert_to_tensor(values), x.dtype))
    pairs = zip(values.shape, x.shape, strict=False)
    fit = all(size in (None, 1, whole) or whole is None for size, whole in pairs)
    if len(values.shape) != len(x.shape) or not fit:
        raise ValueError(
            f"{name} must have the rank of y_pred and sizes equal to its own or 1, "
            f"got {name} {tuple(values.shape)} and y_pred {tuple(x.shape)}"
        )
    return ops.broadcast_to(values, ops.shape(x))


def _is_looked_at(x: Any, validate: bool | None) -> bool:
    if _is_traced(x):
        if validate:
            raise ValueError(
                "validate=True reads y_true, which has no values in compiled code; "
                "call the loss eagerly, or use validate=None"
            )
        return False
    return "cpu" in str(x.device).lower() if validate is None else validate


def _is_traced(x: Any) -> bool:
    """Whether x stands for values that are not there yet, in compiled or transformed code."""
    kinds = {kind.__name__ for kind in type(x).__mro__}
    if kinds & {"KerasTensor", "SymbolicTensor", "Tracer", "FakeTensor"}:
        return True
    torch = sys.modules["torch"] if keras.backend.backend() == "torch" else None
    return torch is not None and torch.compiler.is_compiling()


def _check_values(x: Any, y: Any, w: Any, f: Activation | Convention, hard: bool) -> None:
    _check_range(y, "y_true")
    if isinstance(f, Convention):
        _check_range(x, "y_pred")
    if w is not None and not _is_traced(w):
        _check_range(w, "sample_weight", _special.largest(w))
    if hard and not ops.all(ops.logical_or(y == 0, y == 1)):
        raise ValueError("y_true must be 0 or 1: a Lovasz loss is not defined in between")


def _check_range(values: Any, name: str, high: float = 1.0) -> None:
    values = ops.stop_gradient(values)
    low, top = float(ops.min(values)), float(ops.max(values))
    if not (low >= 0 and top <= high):  # so that NaN is refused
        wanted = "lie in [0, 1]" if high == 1 else "be >= 0 and finite"
        raise ValueError(f"{name} must {wanted}, got values from {low} to {top}")


def _check_number(name: str, value: float, high: float = math.inf, open: bool = False) -> None:
    """0 <= value <= high, or 0 < value if `open`; and finite."""
    number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not number or not (value > 0 if open else value >= 0) or value > high:
        wanted = f"in [0, {high:g}]" if high < math.inf else "> 0" if open else ">= 0"
        raise ValueError(f"{name} must be a number {wanted}, got {value!r}")


def _check_ignore_index(ignore_index: int | None) -> None:
    number = isinstance(ignore_index, numbers.Real) and not isinstance(ignore_index, bool)
    if ignore_index is not None and not number:
        raise TypeError(f"ignore_index must be a number, got {ignore_index!r}")


def _logarithms(
    activation: str | Activation | None, from_logits: bool, convention: str | None = None
) -> Activation | Convention:
    """What has the `logcdf` and `logsf` of a cross entropy: an activation, or a convention."""
    if convention is not None and convention not in CONVENTIONS:
        get_convention(convention)
    if from_logits:
        if convention not in (None, "exact"):
            raise ValueError(
                f"convention={convention!r} goes with probabilities, got from_logits=True; "
                "say from_logits=False and pass probabilities"
            )
        return get_activation("sigmoid" if activation is None else activation)
    if activation is not None:
        raise ValueError(
            f"activation={activation!r} goes with raw outputs, got from_logits=False, "
            "which says that y_pred is activated already; leave out one of the two"
        )
    return get_convention("keras" if convention is None else convention)


def _probabilities(x: Any, f: Activation | Convention) -> tuple[Any, Any]:
    """F(x) and 1 - F(x)."""
    return (x, 1 - x) if isinstance(f, Convention) else (f.cdf(x), f.sf(x))


def _widen(x: Any, f: Activation | Convention) -> Any:
    return x if isinstance(f, Convention) else f._widen(x)


def _smooth(y: Any, label_smoothing: float) -> Any:
    _check_number("label_smoothing", label_smoothing, high=1.0)
    return y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y


def _cross_entropy(x: Any, y: Any, f: Activation | Convention, pos_weight: Any = None) -> Any:
    positive = y if pos_weight is None else _broadcast(pos_weight, x) * y
    return _weigh(positive, -f.logcdf(x)) + _weigh(1 - y, -f.logsf(x))


def _broadcast(pos_weight: Any, x: Any) -> Any:
    if isinstance(pos_weight, (int, float, np.number)):
        _check_number("pos_weight", float(pos_weight))
        return float(pos_weight)
    weights = ops.cast(ops.convert_to_tensor(pos_weight), x.dtype)
    pairs = zip(reversed(weights.shape), reversed(x.shape), strict=False)
    fit = all(size in (1, whole) or whole is None for size, whole in pairs)
    if len(weights.shape) > len(x.shape) or not fit:
        raise ValueError(
            "pos_weight must broadcast to the shape of y_pred, "
            f"got pos_weight {tuple(weights.shape)} and y_pred {tuple(x.shape)}"
        )
    return ops.broadcast_to(weights, ops.shape(x))


def _overlap(
    x: Any,
    y: Any,
    f: Activation | Convention,
    costs: tuple[float, float, float],
    smooth: float,
    w: Any,
    axis: tuple[int, ...],
) -> Any:
    """(b FP + c FN) / (a TP + b FP + c FN + smooth), costs = (a, b, c); 0 where that is 0 / 0."""
    for name, value in zip(("alpha", "beta", "smooth"), (*costs[1:], smooth), strict=True):
        _check_number(name, value)
    p, q = _probabilities(x, f)
    a, b, c = costs
    error = b * ((1 - y) * p) + c * (y * q)
    total = a * (y * p) + error
    error, total = (_special.sum(_weighted(t, w), axis) for t in (error, total))
    return _ratio(error, total + smooth)


def _lovasz_extension(error: Any, y: Any, w: Any, axis: tuple[int, ...]) -> Any:
    """sum e g over `axis`, with max(e, 0) in descending order and the weights g of `lovasz`."""
    w = ops.ones_like(error) if w is None else w
    error, y, w = (_flat(t, axis) for t in (error, y, w))
    order = ops.argsort(-ops.stop_gradient(error), axis=-1)  # stable on every backend
    error, y, w = (ops.take_along_axis(t, order, axis=-1) for t in (error, y, w))
    # Areas, which float32 cannot count beyond 2^24.
    hit, miss = (_special.double(t) for t in (y * w, (1 - y) * w))
    i = ops.sum(hit, axis=-1, keepdims=True) - (ops.cumsum(hit, axis=-1) - hit)
    u = ops.sum(hit, axis=-1, keepdims=True) + (ops.cumsum(miss, axis=-1) - miss)
    i = _special.at_least(i, 0.0)
    first = ops.cast(miss > 0, u.dtype)  # of a group without a target
    least = ops.where(u == 0, 1.0, u)
    g = ops.where(u == 0, first, hit / least + i / least * (miss / (least + miss)))
    g = ops.cast(ops.stop_gradient(g), error.dtype)
    rectified, last = ops.where(error <= 0, 0.0, error), len(error.shape) - 1
    return _special.sum(_weigh(g, rectified), (last,))


def _flat(x: Any, axis: tuple[int, ...]) -> Any:
    """The axes `axis` as one, the last."""
    kept = tuple(a for a in range(len(x.shape)) if a not in axis)
    sizes = ops.shape(x)
    return ops.reshape(ops.transpose(x, kept + axis), (*(sizes[a] for a in kept), -1))


def _summed(x: Any, per_sample: bool, channel_axis: int | None) -> tuple[int, ...]:
    """The axes that an overlap loss sums over: all but those of samples and of channels."""
    rank = len(x.shape)
    kept = {0} if per_sample else set()
    if per_sample and rank == 0:
        raise ValueError("per_sample=True wants an axis of samples, got y_pred ()")
    if channel_axis is not None:
        if not isinstance(channel_axis, numbers.Integral):
            raise TypeError(f"channel_axis must be an integer, got {channel_axis!r}")
        if not -rank <= channel_axis < rank:
            raise ValueError(
                f"channel_axis {channel_axis} is out of range for y_pred {tuple(x.shape)}"
            )
        if channel_axis % rank in kept:
            raise ValueError(f"channel_axis={channel_axis} is the axis of per_sample=True")
        kept.add(channel_axis % rank)
    return tuple(a for a in range(rank) if a not in kept)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """0 where the denominator is 0, or so small that its inverse overflows."""
    empty = denominator < _special.tiny(denominator)
    return ops.where(empty, 0.0, _divide(numerator, ops.where(empty, 1.0, denominator)))


@ops.custom_gradient
def _divide(numerator: Any, denominator: Any) -> tuple[Any, Any]:
    """Their quotient; JAX's own gradient squares the denominator, and loses it below 1e-19."""

    def grad(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
        (upstream,) = args if upstream is None else (upstream,)
        return upstream / denominator, -upstream * (numerator / denominator) / denominator

    return numerator / denominator, grad


def _power(x: Any, exponent: float) -> Any:
    """x^exponent for x >= 0, with a gradient of 0 at 0."""

    def derivative(x: Any) -> Any:
        positive = ops.where(x > 0, x, 1.0)
        return ops.where(x > 0, exponent * _special.power(positive, exponent - 1), 0.0)

    return _differentiable(lambda x: _special.power(x, exponent), derivative)(x)


def _times(factor: float, loss: Any) -> Any:
    return _weigh(ops.full_like(loss, factor), loss)


def _weighted(loss: Any, w: Any) -> Any:
    return loss if w is None else _weigh(w, loss)


def _mean(loss: Any, valid: Any, axis: Axis) -> Any:
    """The mean over `axis` of what is valid; 0 where nothing is."""
    return _special.mean(loss, _special.axes(loss, axis), valid)


def _with_self(parameters: list[inspect.Parameter]) -> inspect.Signature:
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([own, *parameters])


class _Loss(keras.losses.Loss):
    """A loss function as a Keras loss: the function's options are those of the constructor.

    Args:
        reduction, name, dtype: as in `keras.losses.Loss`.
        options: all others of the function, but for its tensors.
    """

    function: ClassVar[Any]
    signature: ClassVar[inspect.Signature]
    elementwise: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        """The function's own signature, without its tensors, is that of the constructor."""
        if "function" not in vars(cls):
            return  # somebody's subclass
        parameters = inspect.signature(cls.function).parameters
        tensors = ("y_true", "y_pred", "sample_weight", "mask")
        options = [p for name, p in parameters.items() if name not in tensors]
        keras_own = inspect.signature(_Loss.__init__).parameters

        def __init__(self: _Loss, *args: Any, **options: Any) -> None:
            super(cls, self).__init__(*args, **options)

        cls.signature = inspect.Signature(options)
        shown = [*options, *(keras_own[name] for name in ("reduction", "name", "dtype"))]
        __init__.__signature__ = _with_self(shown)  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]
        cls.elementwise = "axis" in parameters

    def __init__(
        self,
        *args: Any,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        name = name or re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        try:
            bound = self.signature.bind(*args, **options)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        self.options: dict[str, Any] = bound.arguments
        if "activation" in self.options:
            names = {"activation", "from_logits", "convention"} & self.options.keys()
            f = _logarithms(**{option: self.options[option] for option in names})
            if isinstance(f, Activation):
                self.options["activation"] = f
        _check_ignore_index(self.options["ignore_index"])
        if isinstance(self.options.get("axis"), list):
            self.options["axis"] = tuple(self.options["axis"])
        if not isinstance(self.options.get("pos_weight"), (int, float, list, type(None))):
            pos_weight = ops.stop_gradient(ops.convert_to_tensor(self.options["pos_weight"]))
            self.options["pos_weight"] = ops.convert_to_numpy(pos_weight).tolist()
        for name in NUMBERS & self.options.keys():
            if self.options[name] is not None and not isinstance(self.options[name], list):
                _check_number(name, self.options[name])

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Keras's own, with weights and masks of elements, and a sum that XLA adds up in pairs."""
        if type(self).call is not _Loss.call:  # somebody's own
            return super().__call__(y_true, y_pred, sample_weight)
        options, mask = dict(self.options), self._mask(y_pred)
        y_true, y_pred = (ops.convert_to_tensor(t, dtype=self.dtype) for t in (y_true, y_pred))
        y_true, y_pred = _align(y_true, y_pred)
        averaged = self.reduction not in ("sum", "none", None)
        if averaged and self.elementwise:
            options["axis"] = None
        if mask is not None:
            options["mask"] = _align_left(mask, y_pred, "the mask")
        of_groups, w = None, None
        if sample_weight is not None:
            w = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            w = _align_left(w, y_pred, "sample_weight")
            options["sample_weight"] = w
            if not self.elementwise and _are_of_groups(sample_weight, w, options["per_sample"]):
                of_groups = w
                # a group of weight 0 is left out, whatever is in it
                options["sample_weight"] = ops.cast(w != 0, w.dtype)
        losses = type(self).function(y_true, y_pred, **options)
        if of_groups is not None:
            losses = _weigh_groups(of_groups, losses, self.options["validate"])
        if self.reduction in (None, "none"):
            return losses
        reduce = _special.mean if averaged else _special.sum
        total = reduce(losses, _special.axes(losses, None))
        if self.reduction == "mean_with_sample_weight" and of_groups is not None:
            total = _ratio(total, _special.mean(of_groups, _special.axes(of_groups, None)))
        elif self.reduction == "mean_with_sample_weight" and w is not None and self.elementwise:
            total = _ratio(total, _average(w, y_true, y_pred, options))
        # Keras divides by the replicas of a TensorFlow strategy: what it makes of a 1 is its share.
        share = _Apply(lambda y, x: x, self.reduction)(0.0, ops.ones((1,)))
        return total * ops.cast(share, total.dtype)

    def _mask(self, y_pred: Any) -> Any:
        """The mask that a masked layer left on `y_pred`: what Keras makes of a 1, if not one 1."""
        mask = _Apply(lambda y, x: ops.ones(()), "none", self.dtype)(0.0, y_pred)
        return mask if len(mask.shape) else None

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return type(self).function(*_align(y_true, y_pred), **self.options)

    def get_config(self) -> dict[str, Any]:
        options = dict(self.options)
        if options.get("activation") is not None:
            options["activation"] = keras.saving.serialize_keras_object(options["activation"])
        dtype = keras.saving.serialize_keras_object(self._dtype_policy)
        return {**super().get_config(), "dtype": dtype, **options}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Loss":
        parts = ("activation", "dtype")
        loaded = {k: keras.saving.deserialize_keras_object(config[k]) for k in parts if k in config}
        return cls(**{**config, **loaded})


class _Apply(keras.losses.Loss):
    """A function of (y_true, y_pred) as a Keras loss."""

    def __init__(self, function: Any, reduction: str, dtype: Any = None) -> None:
        super().__init__(name="apply", reduction=reduction, dtype=dtype)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def _align(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """(N,) and (N, 1), which `fit` hands over, and the like: one trailing axis of size 1."""
    true_rank, pred_rank = len(y_true.shape), len(y_pred.shape)
    if pred_rank == true_rank + 1 and y_pred.shape[-1] == 1:
        return ops.expand_dims(y_true, -1), y_pred
    if true_rank == pred_rank + 1 and y_true.shape[-1] == 1:
        return y_true, ops.expand_dims(y_pred, -1)
    return y_true, y_pred


def _align_left(values: Any, x: Any, name: str) -> Any:
    """(N,) for x of (N, H, W, C), and the like; or one trailing axis of size 1 too many."""
    shape, wanted = tuple(values.shape), tuple(x.shape)
    if len(shape) == len(wanted) + 1 and shape[-1] == 1:
        values = ops.squeeze(values, -1)
    sizes = tuple(values.shape)
    fit = all(a in (1, None, b) or b is None for a, b in zip(sizes, wanted, strict=False))
    if len(sizes) > len(wanted) or not fit:
        raise ValueError(
            f"{name} must have sizes equal to those of y_pred or 1, from the first on, "
            f"got {name} {shape} and y_pred {wanted}"
        )
    return ops.reshape(values, (*ops.shape(values), *[1] * (len(wanted) - len(sizes))))


def _are_of_groups(given: Any, w: Any, per_sample: bool) -> bool:
    """Whether weights are one for all, or one for each sample that is a group of its own."""
    ones = all(size == 1 for size in tuple(w.shape)[1:])
    return len(np.shape(given)) == 0 or (per_sample and ones)


def _weigh_groups(w: Any, losses: Any, validate: bool | None) -> Any:
    """The losses of shape (), (N,), (C,) or (N, C), times weights of shape (N, 1, ...)."""
    if _is_looked_at(w, validate):
        _check_range(w, "sample_weight", _special.largest(w))
    w = ops.reshape(w, (-1, *[1] * (len(losses.shape) - 1)) if len(losses.shape) else ())
    return _weigh(ops.broadcast_to(w, ops.shape(losses)), losses)


def _average(w: Any, y: Any, x: Any, options: dict[str, Any]) -> Any:
    """The mean weight of what is not left out."""
    w = ops.broadcast_to(w, ops.shape(x))
    valid = _valid(x, y, options["ignore_index"], options.get("mask"))
    w = w if valid is None else ops.where(valid, w, 0.0)
    return _special.mean(w, _special.axes(w, None), valid)


@keras.saving.register_keras_serializable(package="segact")
class BinaryCrossentropy(_Loss):
    """`binary_cross_entropy` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = BinaryCrossentropy("normal_cdf")
    >>> round(float(loss(np.array([[1.0]]), np.array([[-100.0]]))), 4)
    5005.5244
    """

    function = staticmethod(binary_cross_entropy)


@keras.saving.register_keras_serializable(package="segact")
class BinaryFocalCrossentropy(_Loss):
    """`binary_focal_cross_entropy` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = BinaryFocalCrossentropy(gamma=2.0)
    >>> round(float(loss(np.array([[1.0]]), np.array([[-4.0]]))), 4)
    3.8749
    """

    function = staticmethod(binary_focal_cross_entropy)


@keras.saving.register_keras_serializable(package="segact")
class MeanSquaredError(_Loss):
    """`mean_squared_error` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = MeanSquaredError("softsign")
    >>> round(float(loss(np.array([[0.0]]), np.array([[3.0]]))), 4)
    0.7656
    """

    function = staticmethod(mean_squared_error)


@keras.saving.register_keras_serializable(package="segact")
class Dice(_Loss):
    """`dice` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = Dice("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0396
    """

    function = staticmethod(dice)


@keras.saving.register_keras_serializable(package="segact")
class Jaccard(_Loss):
    """`jaccard` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = Jaccard("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0762
    """

    function = staticmethod(jaccard)


@keras.saving.register_keras_serializable(package="segact")
class Tversky(_Loss):
    """`tversky` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = Tversky(alpha=0.3, beta=0.7)
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[2.0, -2.0]]))), 4)
    0.1192
    """

    function = staticmethod(tversky)


@keras.saving.register_keras_serializable(package="segact")
class FocalTversky(_Loss):
    """`focal_tversky` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = FocalTversky()
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[2.0, -2.0]]))), 4)
    0.2029
    """

    function = staticmethod(focal_tversky)


@keras.saving.register_keras_serializable(package="segact")
class DiceCrossentropy(_Loss):
    """`dice_cross_entropy` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = DiceCrossentropy()
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[2.0, -2.0]]))), 4)
    0.2461
    """

    function = staticmethod(dice_cross_entropy)


@keras.saving.register_keras_serializable(package="segact")
class Lovasz(_Loss):
    """`lovasz` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = Lovasz("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0396
    """

    function = staticmethod(lovasz)


@keras.saving.register_keras_serializable(package="segact")
class LovaszHinge(_Loss):
    """`lovasz_hinge` as a Keras loss, for `model.compile(loss=...)`.

    Its options are explained in `segact_tf.losses`.

    >>> loss = LovaszHinge()
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[0.5, -3.0]]))), 4)
    0.5
    """

    function = staticmethod(lovasz_hinge)
