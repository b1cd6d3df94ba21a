"""Losses for binary classification and segmentation, each written once for every activation.

`segact_tf.losses` has each of these functions as a class. `y_pred` holds raw outputs and the loss
applies the activation; if the last layer of the network applies it, pass `from_logits=False`.
Keras's own default is the opposite: with our `from_logits=True` the activation of such a layer is
applied twice.

>>> import numpy as np, segact_tf
>>> logits, y_true = np.array([-2.0, 0.0, 30.0], "float32"), np.array([0.0, 1.0, 0.0], "float32")
>>> round(float(segact_tf.binary_cross_entropy(y_true, logits, "arctan")), 4)
1.7997
>>> probabilities = segact_tf.arctan(logits)
>>> round(float(segact_tf.binary_cross_entropy(y_true, probabilities, from_logits=False)), 4)
1.7997

Every loss takes `y_true` and `y_pred` of one shape, any number of dimensions. float16 and bfloat16
are computed in float32; the result is float32, or float64 for float64 `y_pred`. Targets lie in
[0, 1], in any dtype; floating ones are differentiable. Options of all losses:

    activation: F, by name or as an `Activation`; None is "sigmoid". F(x) is the probability of 1.
    from_logits: False if `y_pred` holds probabilities; then do not pass an activation.
    axis: the axis, or several, over which an elementwise loss takes the mean; None is all, () is
        none.
    sample_weight: one for each element, >= 0, with the rank of `y_pred` and sizes equal to those of
        `y_pred` or 1, such as (N, 1, 1, 1) for one weight a sample. Elementwise losses are
        multiplied by it, and their mean still divides by the number of elements, as Keras does.
        Overlap losses multiply each element in their sums; there a weight that is constant over a
        group cancels. An element with weight 0 adds exactly zero to value and gradient, for any raw
        output and any target, NaN included. No gradient flows into weight or `pos_weight`.
    ignore_index: elements whose target is this number, such as 255, are ignored: their weight is
        0, and the mean is over the others; 0 if there are none.
    mask: elements where it is 0 or False are ignored, in the same way.
    validate: whether to check the values of target, weight, and probabilities. None checks them if
        that needs no synchronization with a device: on a CPU, outside of compiled code; True checks
        always, and raises in compiled code; False never checks.

Targets within 1e-6 of [0, 1], such as interpolation gives, count as 0 or 1. If validate=None cannot
check the values, targets are clamped to [0, 1], and a target or probability outside of [-1/2, 3/2],
such as 255 in a mask of 0 and 255, makes the loss NaN; so does a negative weight in compiled code.

On a CPU a loss warns of raw outputs that all lie in [0, 1] and are not all 0 or 1
(`ActivatedInputWarning`): once for each object of a class, and for each activation of a function.
It also warns of the outputs of an `OutputActivation` or of Keras's sigmoid, where Keras marks them.

The overlap losses (`dice`, `jaccard`, `tversky`, `focal_tversky`, `dice_cross_entropy`, `lovasz`,
`lovasz_hinge`) sum over the whole batch, as published, or over groups of elements:

    per_sample: each sample is a group, that is each index of the first dimension;
    channel_axis: each channel is a group: -1 for NHWC and NDHWC, 1 for NCHW and NCDHW. The channels
        are independent labels.

They return the loss of each of these groups: of shape (), (N,), (C,) or (N, C). A group without a
valid element, by `ignore_index` or `mask`, has a loss of 0 and does not count in the mean: the
losses of the others are scaled, so that Keras's mean over all groups is right.

Without any target, a group has TP = FN = 0: then `dice` is FP / (FP + smooth), so 1 for any output
when smooth = 0, without a gradient, and 0 where the denominator is 0 (or below the smallest normal
number). `lovasz` is the largest error.

On several devices a loss is that of the whole batch, and so is the gradient:

    Under `tf.distribute`, in `strategy.run` and in `fit`, the sums TP, FP and FN of an overlap
    loss, or the sum and count of a mean, are added up over the replicas, and so are their upstream
    gradients. A function returns the value of the whole batch on each replica; a class returns its
    share of it, so that the sum over the replicas, which Keras and TensorFlow take, is the loss and
    its gradient.
    With `per_sample=True` a sample belongs to one replica: only the sum and the count of the
    samples' losses are added up. Losses that are not reduced, or only summed, of elements or
    samples, exchange nothing.
    "linear" has the minimum and maximum of all replicas, unless its `axis` omits the first axis.
    `lovasz` and `lovasz_hinge` sort all errors of a group, and raise without per_sample=True.
    Under `keras.distribution.DataParallel` on JAX, compiled code sees the whole batch; in
    `jax.pmap` and `jax.shard_map` a loss is that of the part.
    On torch, Keras has no such distribution: in processes of `torch.distributed` a loss is that of
    the process's own part; `segact_torch` has a `process_group` for that.

With one replica it is the loss without a strategy. docs/scaling.md has an example.

In `compile(loss=...)`, use the classes: Keras multiplies the result of a function by the sample
weights only after the sums.

What raises, in every loss: TypeError for integer `y_pred`; ValueError for shapes that differ, for
an empty input that is no replica's part, for an unknown activation or convention, for an activation
together with `from_logits=False`, for a number out of its range, and for targets or probabilities
outside [0, 1] or negative weights, if they are checked (`validate`). TypeError if an argument has
to be True or False, a number or a tensor, and is not.
"""

from typing import Any

import keras

from segact_tf import _engine
from segact_tf._batch import Batch
from segact_tf._checks import check_lovasz_groups, check_number
from segact_tf._compact import (
    cross_entropy,
    focal_cross_entropy,
    overlap_ratio,
    ratio_and_entropy,
    squared_error,
)
from segact_tf._sums import lovasz_extension, power, scale_groups, times
from segact_tf.activations import Activation, _Symmetric
from segact_tf.conventions import distribution

__all__ = [
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


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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

    A term with weight zero adds exactly zero to value and gradient.

    Args:
        convention: how to compute the logarithms, see `segact_tf.conventions`: "exact", the
            only one from raw outputs, or with `from_logits=False` "keras", the default, "keras2",
            "keras_logit", "torch" or "torch_legacy".
        pos_weight: a factor of the term with y, a number, or an array that broadcasts to the shape
            of `y_pred`, such as (C,) for NHWC.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        y_true, y_pred, activation, from_logits, axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.functional`.

    Source: arXiv:2109.00903; H. Hentschke, "Sigmoid activation and binary crossentropy: a less than
    perfect match?" (2019), for the errors of the clipped form.
    """
    check_number("label_smoothing", label_smoothing, high=1.0)
    f = distribution(activation, from_logits, convention)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    factor = batch.broadcast_pos_weight(pos_weight)
    axis, mean = batch.elements(axis)
    return cross_entropy(batch, axis, mean, factor, label_smoothing)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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
    (1 - alpha) unless alpha is None. The paper uses gamma = 2 with alpha = 0.25.

    Args:
        convention: of the cross entropy, as in `binary_cross_entropy`.
        gamma: >= 0; 0 is cross entropy.
        alpha: the weight of class 1, in [0, 1]; that of class 0 is 1 - alpha. None: no weights.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        y_true, y_pred, activation, from_logits, axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.functional`.

    Source: Lin et al., "Focal loss for dense object detection" (arXiv:1708.02002).
    """
    check_number("gamma", gamma)
    if alpha is not None:
        check_number("alpha", alpha, high=1.0)
    check_number("label_smoothing", label_smoothing, high=1.0)
    f = distribution(activation, from_logits, convention)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis, mean = batch.elements(axis)
    return focal_cross_entropy(batch, axis, mean, gamma, alpha, label_smoothing)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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
            see `segact_tf.functional`.

    Source: arXiv:2109.00903.
    """
    f = distribution(activation, from_logits)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis, mean = batch.elements(axis)
    return squared_error(batch, axis, mean)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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
        smooth: >= 0, added to numerator and denominator of the overlap. 0 gives a group without
            any target a loss of 1 and no gradient.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.functional`.

    Source: arXiv:2109.00903. (V-Net, arXiv:1606.04797, squares the terms of the denominator.)
    """
    check_number("smooth", smooth)
    f = distribution(activation, from_logits)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=2, fp=1, fn=1)
    return scale_groups(ratio, batch, axis)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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
        smooth: >= 0, added to intersection and union. 0 gives a group without
            any target a loss of 1 and no gradient.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.functional`.

    Source: Rahman and Wang, "Optimizing intersection-over-union in deep neural networks for image
    segmentation" (2016).
    """
    check_number("smooth", smooth)
    f = distribution(activation, from_logits)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=1, fp=1, fn=1)
    return scale_groups(ratio, batch, axis)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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
        beta: the weight of false negatives, >= 0. (Up to Keras 3.15 `keras.losses.Tversky`
            has the two swapped, contrary to its documentation.)
        smooth: >= 0, added to numerator and denominator of the index. 0 gives a group without
            any target a loss of 1 and no gradient.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.functional`.

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks" (arXiv:1706.05721).
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        check_number(name, value)
    f = distribution(activation, from_logits)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=1, fp=alpha, fn=beta)
    return scale_groups(ratio, batch, axis)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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
        smooth: >= 0, added to numerator and denominator of the index. 0 gives a group without
            any target a loss of 1 and no gradient.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.functional`.

    Source: Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
    lesion segmentation" (arXiv:1810.07842).
    """
    check_number("gamma", gamma, open=True)
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        check_number(name, value)
    f = distribution(activation, from_logits)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=1, fp=alpha, fn=beta)
    return scale_groups(power(ratio, 1 / gamma), batch, axis)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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

    Both are taken over the same groups of elements.

    Args:
        lambda_dice, lambda_ce: the weights of the two losses, >= 0.
        smooth: of Dice. 0 gives a group without any target a Dice loss of 1 and no gradient.
        convention, pos_weight, label_smoothing: of the cross entropy.
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.functional`.

    Source: Isensee et al., "nnU-Net" (arXiv:1809.10486).
    """
    numbers = (("lambda_dice", lambda_dice), ("lambda_ce", lambda_ce), ("smooth", smooth))
    for name, value in numbers:
        check_number(name, value)
    check_number("label_smoothing", label_smoothing, high=1.0)
    f = distribution(activation, from_logits, convention)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate)
    axis = batch.groups(per_sample, channel_axis)
    factor = batch.broadcast_pos_weight(pos_weight)
    options = (smooth, factor, label_smoothing)
    ratio, entropy = ratio_and_entropy(batch, axis, *options, tp=2, fp=1, fn=1)
    loss = times(lambda_dice, ratio) + times(lambda_ce, entropy)
    return scale_groups(loss, batch, axis)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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

    The errors e are sorted in descending order, and each is weighted by the increase of the Jaccard
    loss when its element is added to those before it: with i targets left and a union u, 1 / u for
    a target (then i falls by one) and i / (u (u + 1)) for background (then u grows by one). The
    sort is stable: of equal errors the earlier element comes first, on every device and backend.

    Args:
        y_true, y_pred, activation, from_logits, per_sample, channel_axis, sample_weight,
            ignore_index, mask, validate: see `segact_tf.functional`.

    Source: Berman et al., "The Lovasz-Softmax loss" (arXiv:1705.08790); arXiv:2109.00903, which
    names it as untested.
    """
    check_lovasz_groups(per_sample)
    f = distribution(activation, from_logits)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate, hard=True)

    def error(x: Any, y: Any) -> Any:
        if isinstance(batch.f, _Symmetric):
            return batch.f.cdf(x * (1 - 2 * y))
        return y * batch.f.sf(x) + (1 - y) * batch.f.cdf(x)

    axis = batch.groups(per_sample, channel_axis)
    return scale_groups(lovasz_extension(batch, axis, error), batch, axis)


@keras.saving.register_keras_serializable(package="segact")
@_engine.symbolic
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

    It takes margins, raw outputs whose sign is the prediction, so no activation. See `lovasz`.

    Args:
        y_true, y_pred, per_sample, channel_axis, sample_weight, ignore_index, mask, validate:
            see `segact_tf.functional`.

    Source: Yu and Blaschko, "The Lovasz hinge" (arXiv:1512.07797); Berman et al.
    (arXiv:1705.08790).
    """
    check_lovasz_groups(per_sample)
    f = distribution(None, from_logits=True)
    batch = Batch.of(y_pred, y_true, f, sample_weight, ignore_index, mask, validate, hard=True)

    def error(x: Any, y: Any) -> Any:
        return 1 - x * (2 * y - 1)

    axis = batch.groups(per_sample, channel_axis)
    return scale_groups(lovasz_extension(batch, axis, error), batch, axis)
