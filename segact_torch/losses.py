"""Losses for binary classification and segmentation, each written once for every activation.

A function and a module over it, in pairs. `input` holds raw outputs and the loss applies the
activation; a network whose last layer applies it already says `from_logits=False`. Keras's own
default is the opposite of ours: an activated head under `from_logits=True` is squashed twice, and
nothing can notice.

>>> import torch, segact_torch
>>> logits, target = torch.tensor([-2.0, 0.0, 30.0]), torch.tensor([0.0, 1.0, 0.0])
>>> segact_torch.binary_cross_entropy(logits, target, "arctan")
tensor(1.7997)
>>> probabilities = segact_torch.arctan(logits)
>>> segact_torch.binary_cross_entropy(probabilities, target, from_logits=False)
tensor(1.7997)

Every loss takes `input` and `target` of one shape, any number of dimensions. float16 and bfloat16
are computed in float32; the result is float32, or float64 for float64 input. Targets lie in [0, 1],
in any dtype, and are differentiable where they are floating. What they share:

    activation: F, by name or as an `Activation`; None is "sigmoid". F(x) is the probability of 1.
    from_logits: False where `input` holds probabilities; then there is no activation to name.
    weight: of each element, >= 0, of the rank of `input` with sizes equal to its own or 1, such as
        (N, 1, 1, 1) for one weight a sample. Elementwise losses are multiplied by it and their mean
        still divides by the number of elements, as `torch.nn` does; overlap losses weigh each
        element inside of their sums, where one that is constant over a group cancels. Where it is
        0, the element contributes exactly nothing to value and gradient, whatever its raw output
        and target, NaN included. It is a constant: no gradient flows into it.
    ignore_index: elements whose target is this number, such as 255, are left out: their weight is
        0, and the mean is over the others; 0 if there are none.
    mask: elements where it is 0 or False are left out.
    reduction: "mean", "sum" or "none".
    validate: whether to look at the values of target, weight, and probabilities. None does so where
        that does not make a device wait: on a CPU, outside of compiled code; True always, and
        raises in compiled code, False never.

The overlap losses (`dice`, `jaccard`, `tversky`, `focal_tversky`, `dice_cross_entropy`, `lovasz`,
`lovasz_hinge`) sum over the whole batch, as published, to one number, or apart over

    per_sample: each sample, that is each index of the first dimension;
    channel_axis: each channel: 1 for NCHW and NCDHW, -1 for NHWC and NDHWC, where the channels are
        labels independent of each other.

`reduction` is over these groups; "none" returns (N,), (C,) or (N, C). A group without any target
has a defined loss. In the ratios only false positives are left: FP / (FP + smooth) in `dice`, which
is 1 for any output at all, or less with `smooth`, and 0 where the denominator is 0 (or below the
smallest normal number). `lovasz` is the largest error.

All compile into one graph. With `torch.compile(..., dynamic=True)`, PyTorch 2.13 trips over Python
floats inside of custom gradients; `torch._dynamo.config.specialize_float = True` mends that. (The
default, which makes a dimension dynamic when it changes, needs nothing.)

What raises, in every loss: TypeError for integer input; ValueError for shapes that differ, for an
empty input, for an unknown activation, convention or reduction, for an activation together with
`from_logits=False`, for a number out of its range, and for targets or probabilities outside [0, 1]
or negative weights, where they are looked at (`validate`).
"""

import contextlib
import inspect
import math
import numbers
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segact_torch import _fused, _special
from segact_torch.activations import (
    Activation,
    _Differentiable,
    _Weigh,
    _wide,
    get_activation,
)
from segact_torch.conventions import CONVENTIONS, Convention, get_convention

__all__ = [
    "BinaryCrossEntropyLoss",
    "BinaryFocalCrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceLoss",
    "FocalTverskyLoss",
    "JaccardLoss",
    "LovaszHingeLoss",
    "LovaszLoss",
    "MeanSquaredErrorLoss",
    "TverskyLoss",
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

Axis = tuple[int, ...]

# The options that are numbers >= 0, if they are numbers.
NUMBERS = {
    *("alpha", "beta", "gamma", "smooth", "label_smoothing", "pos_weight"),
    *("lambda_dice", "lambda_ce"),
}


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    convention: str | None = None,
    pos_weight: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """-(y log F(x) + (1 - y) log(1 - F(x))), from the logarithms of the tails: nothing is clipped.

    A term of weight zero adds exactly zero to value and gradient.

    Args:
        convention: what to take for the logarithms, see `segact_torch.conventions`: "exact", the
            only one from raw outputs, or with `from_logits=False` "torch", the default, "keras",
            "keras2", "keras_logit" or "torch_legacy".
        pos_weight: a factor of the term of y, as in `nn.BCEWithLogitsLoss`: a number, or a tensor
            that broadcasts to the shape of `input`, such as (C, 1, 1) for NCHW.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        input, target, activation, from_logits, weight, ignore_index, mask, reduction, validate:
            see `segact_torch.losses`.

    Source: arXiv:2109.00903; H. Hentschke, "Sigmoid activation and binary crossentropy: a less than
    perfect match?" (2019), for what the clipped form loses.
    """
    f = _logarithms(activation, from_logits, convention)
    x, y, w, valid = _aligned(input, target, weight, ignore_index, mask)
    _check_reduction(reduction)
    axis = () if reduction == "none" else tuple(range(x.ndim))
    mean = reduction == "mean"
    return _entropy(x, y, f, pos_weight, label_smoothing, w, valid, axis, validate, mean)


def binary_focal_cross_entropy(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    convention: str | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """The focal loss: cross entropy times the error to the power gamma.

    (y (1 - F(x)) + (1 - y) F(x))^gamma times `binary_cross_entropy`, times y alpha + (1 - y)
    (1 - alpha) if there is an alpha. The paper uses gamma = 2 with alpha = 0.25.

    Args:
        convention: of the cross entropy, as in `binary_cross_entropy`.
        gamma: >= 0; 0 is cross entropy.
        alpha: the weight of class 1, in [0, 1]; that of class 0 is 1 - alpha. None weighs neither.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        input, target, activation, from_logits, weight, ignore_index, mask, reduction, validate:
            see `segact_torch.losses`.

    Source: Lin et al., "Focal loss for dense object detection" (arXiv:1708.02002).
    """
    _check_number("gamma", gamma)
    f = _logarithms(activation, from_logits, convention)
    x, y, w, valid = _prepare(input, target, f, weight, ignore_index, mask, validate)
    y = _smooth(y, label_smoothing)
    # A power multiplies the relative error of its base, and float32 has no digits to spare.
    wide = _widen(x, f)
    p, q = _probabilities(wide, f)
    error = _Weigh.apply(y, q) + _Weigh.apply(1 - y, p)
    loss = (_power(error, gamma) * _cross_entropy(wide, y, f)).to(x.dtype)
    if alpha is not None:
        _check_number("alpha", alpha, high=1.0)
        loss = _Weigh.apply(y * alpha + (1 - y) * (1 - alpha), loss)
    return _reduce(loss, w, valid, reduction)


def mean_squared_error(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """(F(x) - y)^2, the squared error of the probability, as ((1 - y) F(x) - y (1 - F(x)))^2.

    Args:
        input, target, activation, from_logits, weight, ignore_index, mask, reduction, validate:
            see `segact_torch.losses`.

    Source: arXiv:2109.00903.
    """
    f = _logarithms(activation, from_logits)
    x, y, w, valid = _prepare(input, target, f, weight, ignore_index, mask, validate)
    # PyTorch's bound is half of Keras's, and a square has twice the relative error of its root.
    p, q = _probabilities(_widen(x, f), f)
    loss = (((1 - y) * p - y * q) ** 2).to(x.dtype)
    return _reduce(loss, w, valid, reduction)


def dice(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """1 - (2 sum(F(x) y) + smooth) / (sum(F(x) + y) + smooth), without its cancellation.

    Computed as (FP + FN) / (2 TP + FP + FN + smooth) from the sums of `tversky`.

    Args:
        smooth: >= 0, added to numerator and denominator of the overlap.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate: see `segact_torch.losses`.

    Source: arXiv:2109.00903. (V-Net, arXiv:1606.04797, squares the terms of the denominator.)
    """
    f = _logarithms(activation, from_logits)
    x, y, w, _ = _aligned(input, target, weight, ignore_index, mask)
    axis = _summed(x, per_sample, channel_axis)
    return _reduce_groups(_overlap(x, y, f, (2, 1, 1), smooth, w, axis, validate), reduction)


def jaccard(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """1 - (TP + smooth) / (TP + FP + FN + smooth): one minus intersection over union.

    Computed as (FP + FN) / (TP + FP + FN + smooth) from the sums of `tversky`.

    Args:
        smooth: >= 0, added to intersection and union.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate: see `segact_torch.losses`.

    Source: Rahman and Wang, "Optimizing intersection-over-union in deep neural networks for image
    segmentation" (2016).
    """
    f = _logarithms(activation, from_logits)
    x, y, w, _ = _aligned(input, target, weight, ignore_index, mask)
    axis = _summed(x, per_sample, channel_axis)
    return _reduce_groups(_overlap(x, y, f, (1, 1, 1), smooth, w, axis, validate), reduction)


def tversky(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth).

    TP = sum(y F(x)), FP = sum((1 - y) F(x)), FN = sum(y (1 - F(x))). Computed as
    (alpha FP + beta FN) / (TP + alpha FP + beta FN + smooth), 0 where that denominator is 0.
    alpha = beta = 1/2 is Dice (with half its smooth), alpha = beta = 1 is Jaccard.

    Args:
        alpha: the weight of false positives, >= 0.
        beta: the weight of false negatives, >= 0. (`keras.losses.Tversky` of Keras 3.15 has the two
            the other way round, against its own documentation.)
        smooth: >= 0, added to numerator and denominator of the index.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate: see `segact_torch.losses`.

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks" (arXiv:1706.05721).
    """
    f = _logarithms(activation, from_logits)
    x, y, w, _ = _aligned(input, target, weight, ignore_index, mask)
    axis = _summed(x, per_sample, channel_axis)
    return _reduce_groups(_overlap(x, y, f, (1, alpha, beta), smooth, w, axis, validate), reduction)


def focal_tversky(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """The loss of `tversky` to the power 1 / gamma, with the paper's defaults.

    Where the loss is 0, so is the gradient, which tends to infinity there.

    Args:
        alpha: the weight of false positives, >= 0 (beta in the paper).
        beta: the weight of false negatives, >= 0 (alpha in the paper).
        gamma: > 0; the exponent is 1 / gamma, as in the paper (some libraries call the exponent
            itself gamma).
        smooth: >= 0, added to numerator and denominator of the index.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate: see `segact_torch.losses`.

    Source: Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
    lesion segmentation" (arXiv:1810.07842).
    """
    _check_number("gamma", gamma, open=True)
    f = _logarithms(activation, from_logits)
    x, y, w, _ = _aligned(input, target, weight, ignore_index, mask)
    axis = _summed(x, per_sample, channel_axis)
    loss = _overlap(x, y, f, (1, alpha, beta), smooth, w, axis, validate)
    return _reduce_groups(_power(loss, 1 / gamma), reduction)


def dice_cross_entropy(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    convention: str | None = None,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    smooth: float = 0.0,
    per_sample: bool = False,
    channel_axis: int | None = None,
    pos_weight: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """lambda_dice times `dice` plus lambda_ce times the mean of `binary_cross_entropy`.

    Both over each group of elements that Dice sums over.

    Args:
        lambda_dice, lambda_ce: the weights of the two losses, >= 0.
        smooth: of Dice.
        convention, pos_weight, label_smoothing: of the cross entropy.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate: see `segact_torch.losses`.

    Source: Isensee et al., "nnU-Net" (arXiv:1809.10486).
    """
    _check_number("lambda_dice", lambda_dice)
    _check_number("lambda_ce", lambda_ce)
    f = _logarithms(activation, from_logits, convention)
    x, y, w, valid = _aligned(input, target, weight, ignore_index, mask)
    axis = _summed(x, per_sample, channel_axis)
    overlap = _overlap(x, y, f, (2, 1, 1), smooth, w, axis, validate)
    entropy = _entropy(x, y, f, pos_weight, label_smoothing, w, valid, axis, validate)
    loss = _times(lambda_dice, overlap) + _times(lambda_ce, entropy)
    return _reduce_groups(loss, reduction)


def lovasz(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    per_sample: bool = False,
    channel_axis: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the errors abs(y - F(x)); y is 0 or 1.

    The errors e in descending order are weighted by what each adds to the Jaccard loss of those
    before it: with i targets left and a union u, 1 / u for a target (then i falls by one) and
    i / (u (u + 1)) for background (then u grows by one). The sort is stable: where errors are
    equal, the earlier element counts as the larger, and the gradient is the same everywhere.

    Args:
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate: see `segact_torch.losses`.

    Source: Berman et al., "The Lovasz-Softmax loss" (arXiv:1705.08790); arXiv:2109.00903, which
    names it as untested.
    """
    f = _logarithms(activation, from_logits)
    x, y, w, _ = _prepare(input, target, f, weight, ignore_index, mask, validate, hard=True)
    p, q = _probabilities(x, f)
    axis = _summed(x, per_sample, channel_axis)
    return _reduce_groups(_lovasz_extension(y * q + (1 - y) * p, y, w, axis), reduction)


def lovasz_hinge(
    input: Tensor,
    target: Tensor,
    *,
    per_sample: bool = False,
    channel_axis: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the hinge max(0, 1 - x (2 y - 1)); y is 0 or 1.

    It takes margins, raw outputs whose sign decides, and therefore no activation. See `lovasz`.

    Args:
        input, target, per_sample, channel_axis, weight, ignore_index, mask, reduction, validate:
            see `segact_torch.losses`.

    Source: Yu and Blaschko, "The Lovasz hinge" (arXiv:1512.07797); Berman et al.
    (arXiv:1705.08790).
    """
    f = _logarithms(None, from_logits=True)
    x, y, w, _ = _prepare(input, target, f, weight, ignore_index, mask, validate, hard=True)
    axis = _summed(x, per_sample, channel_axis)
    return _reduce_groups(_lovasz_extension(1 - x * (2 * y - 1), y, w, axis), reduction)


class _Mean(torch.autograd.Function):
    """The sum over `axis` divided by `count`, also where the sum overflows and the mean does not.

    `count` has the shape of the sum with the summed dimensions kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, count: Tensor, axis: Axis) -> Tensor:
        mean = loss.sum(axis, keepdim=True) / count
        mean = torch.where(mean.isinf(), (loss / count).sum(axis, keepdim=True), mean)
        return mean.reshape(_fused.rest(loss, axis))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Axis], output: Tensor) -> None:
        loss, count, _ = inputs
        ctx.shape = loss.shape
        ctx.save_for_backward(count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (count,) = ctx.saved_tensors
        return (grads[0].reshape(count.shape) / count).expand(ctx.shape), None, None


def _prepare(
    input: Tensor,
    target: Tensor,
    f: Activation | Convention,
    weight: Tensor | None,
    ignore_index: int | None,
    mask: Tensor | None,
    validate: bool | None,
    hard: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`_aligned`, looked at and made harmless."""
    x, y, w, valid = _aligned(input, target, weight, ignore_index, mask)
    _look(x, y, w, f, validate, hard)
    return *_harmless(x, y, w, f), w, valid


def _aligned(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """x, y, the weights and which elements are valid, or an error that says what is wrong.

    In the precision that they are computed in. Elements that are left out have a weight of 0. None
    stands for weights of 1, and for all being valid.
    """
    x = _wide(input, "input")
    _check_tensor(target, "target")
    if target.is_complex():
        raise TypeError(f"target must hold real numbers, got {target.dtype}")
    if input.shape != target.shape:
        raise ValueError(
            "input and target must have the same shape, "
            f"got input {tuple(input.shape)} and target {tuple(target.shape)}"
        )
    if input.numel() == 0:
        raise ValueError(f"input is empty: its shape is {tuple(input.shape)}")
    y, w = target.to(x.dtype), _fitted(weight, "weight", x)
    valid = _valid(x, y, ignore_index, mask)
    if valid is not None:
        w = valid.to(x.dtype) if w is None else torch.where(valid, w, 0.0)
    return x, y, w, valid


def _harmless(
    x: Tensor, y: Tensor, w: Tensor | None, f: Activation | Convention
) -> tuple[Tensor, Tensor]:
    """x and y, but where the weight is 0 something that is finite whatever they are."""
    if w is None:
        return x, y
    return f._without(x, w != 0), torch.where(w != 0, y, 0.0)


def _valid(x: Tensor, y: Tensor, ignore_index: int | None, mask: Tensor | None) -> Tensor | None:
    """Which elements are not left out, by target or by mask."""
    _check_ignore_index(ignore_index)
    fitted = _fitted(mask, "mask", x)
    named = None if ignore_index is None else y != ignore_index
    if fitted is None:
        return named
    return fitted != 0 if named is None else named & (fitted != 0)


def _fitted(values: Tensor | None, name: str, x: Tensor) -> Tensor | None:
    """A tensor of the rank of x, with sizes equal or 1, in the shape and dtype of x."""
    if values is None:
        return None
    _check_tensor(values, name)
    pairs = zip(values.shape, x.shape, strict=False)
    if values.ndim != x.ndim or any(size not in (1, whole) for size, whole in pairs):
        raise ValueError(
            f"{name} must have the rank of input and sizes equal to its own or 1, "
            f"got {name} {tuple(values.shape)} and input {tuple(x.shape)}"
        )
    return values.detach().to(x.dtype).expand(x.shape)


def _check_validate(validate: bool | None) -> None:
    if validate and torch.compiler.is_compiling():
        raise ValueError(
            "validate=True reads target, which has no values in compiled code; "
            "call the loss uncompiled, or use validate=None"
        )


def _look(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    f: Activation | Convention,
    validate: bool | None,
    hard: bool = False,
) -> None:
    """Raise for values out of their range, if `validate` lets us look."""
    _check_validate(validate)
    if torch.compiler.is_compiling():
        return
    if validate or (validate is None and x.device.type == "cpu"):
        # None where there are no values: under vmap, or of a fake tensor
        with contextlib.nullcontext() if validate else contextlib.suppress(RuntimeError):
            _check_values(*_harmless(x, y, w, f), w, f, hard)


def _check_values(
    x: Tensor, y: Tensor, w: Tensor | None, f: Activation | Convention, hard: bool
) -> None:
    _check_range(y, "target")
    if isinstance(f, Convention):
        _check_range(x, "input")
    if w is not None:
        _check_range(w, "weight", torch.finfo(w.dtype).max)
    if hard and not torch.all((y == 0) | (y == 1)):
        raise ValueError("target must be 0 or 1: a Lovasz loss is not defined in between")


def _check_range(values: Tensor, name: str, high: float = 1.0) -> None:
    low, top = torch.aminmax(values.detach())
    if not (low >= 0 and top <= high):  # so that NaN is refused
        wanted = "lie in [0, 1]" if high == 1 else "be >= 0 and finite"
        raise ValueError(f"{name} must {wanted}, got values from {low.item()} to {top.item()}")


def _check_tensor(values: Any, name: str) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(values).__name__}")


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


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


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
            "which says that input is activated already; leave out one of the two"
        )
    return get_convention("torch" if convention is None else convention)


def _probabilities(x: Tensor, f: Activation | Convention) -> tuple[Tensor, Tensor]:
    """F(x) and 1 - F(x)."""
    return (x, 1 - x) if isinstance(f, Convention) else (f.cdf(x), f.sf(x))


def _widen(x: Tensor, f: Activation | Convention) -> Tensor:
    return x if isinstance(f, Convention) else f._widen(x)


def _smooth(y: Tensor, label_smoothing: float) -> Tensor:
    _check_number("label_smoothing", label_smoothing, high=1.0)
    return y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y


def _cross_entropy(
    x: Tensor, y: Tensor, f: Activation | Convention, pos_weight: float | Tensor = 1.0
) -> Tensor:
    return _Weigh.apply(pos_weight * y, -f.logcdf(x)) + _Weigh.apply(1 - y, -f.logsf(x))


def _entropy(
    x: Tensor,
    y: Tensor,
    f: Activation | Convention,
    pos_weight: float | Tensor | None,
    label_smoothing: float,
    w: Tensor | None,
    valid: Tensor | None,
    axis: Axis,
    validate: bool | None,
    mean: bool = True,
) -> Tensor:
    """Weighted cross entropies: their mean or sum over `axis`, or each if there is none."""
    _check_number("label_smoothing", label_smoothing, high=1.0)
    factor = 1.0 if pos_weight is None else _broadcast(pos_weight, x)

    def each(x: Tensor) -> Tensor:
        x, t = _harmless(x, y, w, f)
        return _weighted(_cross_entropy(x, _smooth(t, label_smoothing), f, factor), w)

    _check_validate(validate)
    fused = _fused.cross_entropy(each, x, y, w, f, axis, factor, label_smoothing)
    if fused is not None:
        total = fused / _count(x, valid, axis).reshape(fused.shape) if mean and axis else fused
        return total.to(x.dtype)
    _look(x, y, w, f, validate)
    return _mean(each(x), valid, axis) if mean else _sum(each(x), axis)


def _broadcast(pos_weight: float | Tensor, x: Tensor) -> float | Tensor:
    if not isinstance(pos_weight, Tensor):
        _check_number("pos_weight", pos_weight)
        return float(pos_weight)
    try:
        return pos_weight.to(x.dtype).expand(x.shape)
    except RuntimeError as error:
        raise ValueError(
            "pos_weight must broadcast to the shape of input, "
            f"got pos_weight {tuple(pos_weight.shape)} and input {tuple(x.shape)}"
        ) from error


def _overlap(
    x: Tensor,
    y: Tensor,
    f: Activation | Convention,
    costs: tuple[float, float, float],
    smooth: float,
    w: Tensor | None,
    axis: Axis,
    validate: bool | None,
) -> Tensor:
    """(b FP + c FN) / (a TP + b FP + c FN + smooth), costs = (a, b, c); 0 where that is 0 / 0."""
    for name, value in zip(("alpha", "beta", "smooth"), (*costs[1:], smooth), strict=True):
        _check_number(name, value)

    def formula(x: Tensor) -> Tensor:
        return _overlap_of(_areas(x, y, f, w, axis), costs, smooth)

    _check_validate(validate)
    fused = _fused.overlap(formula, x, y, w, f, axis, costs, smooth)
    if fused is not None:
        return fused
    _look(x, y, w, f, validate)
    return formula(x)


def _areas(
    x: Tensor, y: Tensor, f: Activation | Convention, w: Tensor | None, axis: Axis
) -> Tensor:
    """TP, FP and FN of `tversky`, stacked: weighted sums over `axis`."""
    x, y = _harmless(x, y, w, f)
    p, q = _probabilities(x, f)
    parts = (y * p, (1 - y) * p, y * q)
    return torch.stack([_sum(_weighted(part, w), axis) for part in parts])


def _overlap_of(areas: Tensor, costs: tuple[float, float, float], smooth: float) -> Tensor:
    (hits, false_alarms, misses), (a, b, c) = areas, costs
    error = b * false_alarms + c * misses
    return _ratio(error, a * hits + error + smooth)


def _lovasz_extension(error: Tensor, y: Tensor, w: Tensor | None, axis: Axis) -> Tensor:
    """sum e g over `axis`, with max(e, 0) in descending order and the weights g of `lovasz`."""
    w = torch.ones_like(error) if w is None else w
    error, y, w = (_flat(t, axis) for t in (error, y, w))
    order = error.detach().argsort(dim=-1, descending=True, stable=True)
    error, y, w = (t.gather(-1, order) for t in (error, y, w))
    # Areas, which float32 cannot count beyond 2^24.
    hit, miss = (_special.double(t) for t in (y * w, (1 - y) * w))
    i = (hit.sum(-1, keepdim=True) - (hit.cumsum(-1) - hit)).clamp(min=0)
    u = hit.sum(-1, keepdim=True) + (miss.cumsum(-1) - miss)
    first = (miss > 0).to(u.dtype)  # of a group without a target
    least = torch.where(u == 0, 1.0, u)
    g = torch.where(u == 0, first, hit / least + i / least * (miss / (least + miss)))
    return _Weigh.apply(g.detach().to(error.dtype), error.relu()).sum(-1)


def _flat(x: Tensor, axis: Axis) -> Tensor:
    """The dimensions `axis` as one, the last."""
    kept = tuple(a for a in range(x.ndim) if a not in axis)
    return x.permute((*kept, *axis)).reshape(*_fused.rest(x, axis), -1)


def _summed(x: Tensor, per_sample: bool, channel_axis: int | None) -> Axis:
    """The dimensions that an overlap loss sums over: all but those of samples and of channels."""
    kept = {0} if per_sample else set()
    if per_sample and x.ndim == 0:
        raise ValueError("per_sample=True wants a dimension of samples, got input ()")
    if channel_axis is not None:
        if not isinstance(channel_axis, numbers.Integral):
            raise TypeError(f"channel_axis must be an integer, got {channel_axis!r}")
        if not -x.ndim <= channel_axis < x.ndim:
            raise ValueError(
                f"channel_axis {channel_axis} is out of range for input {tuple(x.shape)}"
            )
        if channel_axis % x.ndim in kept:
            raise ValueError(f"channel_axis={channel_axis} is the axis of per_sample=True")
        kept.add(channel_axis % x.ndim)
    return tuple(a for a in range(x.ndim) if a not in kept)


def _sum(x: Tensor, axis: Axis) -> Tensor:
    return x.sum(axis) if axis else x


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0, or so small that its inverse overflows."""
    empty = denominator < torch.finfo(denominator.dtype).tiny
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


def _power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for x >= 0, with a gradient of 0 at 0."""

    def derivative(x: Tensor) -> Tensor:
        positive = torch.where(x > 0, x, 1.0)
        return torch.where(x > 0, exponent * positive ** (exponent - 1), 0.0)

    return _Differentiable.apply(x, lambda x: x**exponent, derivative)


def _times(factor: float, loss: Tensor) -> Tensor:
    return _Weigh.apply(torch.full_like(loss, factor), loss)


def _weighted(loss: Tensor, w: Tensor | None) -> Tensor:
    return loss if w is None else _Weigh.apply(w, loss)


def _count(loss: Tensor, valid: Tensor | None, axis: Axis) -> Tensor:
    """How many over `axis`, whose dimensions are kept, are valid; at least 1."""
    if valid is not None:
        return valid.sum(axis, keepdim=True).clamp(min=1).to(loss.dtype)
    shape = [1 if a in axis else size for a, size in enumerate(loss.shape)]
    return loss.new_full(shape, loss.numel() / math.prod(shape))


def _mean(loss: Tensor, valid: Tensor | None, axis: Axis) -> Tensor:
    """The mean over `axis` of what is valid; 0 where nothing is."""
    return _Mean.apply(loss, _count(loss, valid, axis), axis) if axis else loss


def _reduce(loss: Tensor, w: Tensor | None, valid: Tensor | None, reduction: str) -> Tensor:
    """Elementwise losses, weighted and reduced."""
    _check_reduction(reduction)
    loss = _weighted(loss, w)
    if reduction == "none":
        return loss
    axis = tuple(range(loss.ndim))
    return loss.sum() if reduction == "sum" else _mean(loss, valid, axis)


def _reduce_groups(loss: Tensor, reduction: str) -> Tensor:
    return _reduce(loss, None, None, reduction)


def _with_self(parameters: list[inspect.Parameter]) -> inspect.Signature:
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([own, *parameters])


class _Loss(nn.Module):
    """A loss function as a module: the function's options are those of the constructor."""

    function: ClassVar[Any]
    signature: ClassVar[inspect.Signature]

    def __init_subclass__(cls) -> None:
        """The function's own signature, without its tensors, is that of the constructor."""
        if "function" not in vars(cls):
            return  # somebody's subclass
        parameters = inspect.signature(cls.function).parameters
        tensors = ("input", "target", "weight", "mask")
        options = [p for name, p in parameters.items() if name not in tensors]

        def __init__(self: _Loss, *args: Any, **options: Any) -> None:
            super(cls, self).__init__(*args, **options)

        cls.signature = inspect.Signature(options)
        __init__.__signature__ = _with_self(options)  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        try:
            bound = self.signature.bind(*args, **options)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        self.options: dict[str, Any] = bound.arguments
        _check_reduction(self.options["reduction"])
        if "activation" in self.options:
            names = {"activation", "from_logits", "convention"} & self.options.keys()
            f = _logarithms(**{name: self.options[name] for name in names})
            if isinstance(f, Activation):
                self.options["activation"] = f
        _check_ignore_index(self.options["ignore_index"])
        for name in NUMBERS & self.options.keys():
            if self.options[name] is not None and not isinstance(self.options[name], Tensor):
                _check_number(name, self.options[name])
        if isinstance(self.options.get("pos_weight"), Tensor):
            self.register_buffer("pos_weight", self.options.pop("pos_weight"))

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss; `weight` and `mask` are those of this batch."""
        tensors = {"weight": weight, "mask": mask, "pos_weight": self._buffers.get("pos_weight")}
        given = {name: value for name, value in tensors.items() if value is not None}
        return self.function(input, target, **given, **self.options)

    def extra_repr(self) -> str:
        pos_weight = self._buffers.get("pos_weight")
        shown = {} if pos_weight is None else {"pos_weight": pos_weight.tolist()}
        return ", ".join(f"{k}={v!r}" for k, v in {**self.options, **shown}.items())


class BinaryCrossEntropyLoss(_Loss):
    """`binary_cross_entropy` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> BinaryCrossEntropyLoss("normal_cdf")(torch.tensor([-100.0]), torch.tensor([1.0]))
    tensor(5005.5244)
    """

    function = staticmethod(binary_cross_entropy)


class BinaryFocalCrossEntropyLoss(_Loss):
    """`binary_focal_cross_entropy` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> BinaryFocalCrossEntropyLoss(gamma=2.0)(torch.tensor([-4.0]), torch.tensor([1.0]))
    tensor(3.8749)
    """

    function = staticmethod(binary_focal_cross_entropy)


class MeanSquaredErrorLoss(_Loss):
    """`mean_squared_error` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> MeanSquaredErrorLoss("softsign")(torch.tensor([3.0]), torch.tensor([0.0]))
    tensor(0.7656)
    """

    function = staticmethod(mean_squared_error)


class DiceLoss(_Loss):
    """`dice` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> DiceLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0396)
    """

    function = staticmethod(dice)


class JaccardLoss(_Loss):
    """`jaccard` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> JaccardLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0762)
    """

    function = staticmethod(jaccard)


class TverskyLoss(_Loss):
    """`tversky` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> loss = TverskyLoss(alpha=0.3, beta=0.7)
    >>> loss(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.1192)
    """

    function = staticmethod(tversky)


class FocalTverskyLoss(_Loss):
    """`focal_tversky` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> FocalTverskyLoss()(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2029)
    """

    function = staticmethod(focal_tversky)


class DiceCrossEntropyLoss(_Loss):
    """`dice_cross_entropy` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> DiceCrossEntropyLoss()(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2461)
    """

    function = staticmethod(dice_cross_entropy)


class LovaszLoss(_Loss):
    """`lovasz` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> LovaszLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0396)
    """

    function = staticmethod(lovasz)


class LovaszHingeLoss(_Loss):
    """`lovasz_hinge` as a module: its options here, `(input, target)` in the call.

    Beside them, weight and mask of a batch go into the call; see `segact_torch.losses`.

    >>> LovaszHingeLoss()(torch.tensor([[0.5, -3.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.5000)
    """

    function = staticmethod(lovasz_hinge)
