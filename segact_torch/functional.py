"""Losses for binary classification and segmentation, each written once for every activation.

`segact_torch.losses` has each of these functions as a module. `input` holds raw outputs and the
loss applies the activation; if the last layer of the network applies it, pass `from_logits=False`.
Keras's own default is the opposite: with our `from_logits=True` the activation of such a layer is
applied twice.

>>> import torch, segact_torch
>>> logits, target = torch.tensor([-2.0, 0.0, 30.0]), torch.tensor([0.0, 1.0, 0.0])
>>> segact_torch.binary_cross_entropy(logits, target, "arctan")
tensor(1.7997)
>>> probabilities = segact_torch.arctan(logits)
>>> segact_torch.binary_cross_entropy(probabilities, target, from_logits=False)
tensor(1.7997)

Every loss takes `input` and `target` of one shape, any number of dimensions. float16 and bfloat16
are computed in float32; the result is float32, or float64 for float64 input. Targets lie in [0, 1],
in any dtype; floating ones are differentiable. Options of all losses:

    activation: F, by name or as an `Activation`; None is "sigmoid". F(x) is the probability of 1.
    from_logits: False if `input` holds probabilities; then do not pass an activation.
    weight: one for each element, >= 0, with the rank of `input` and sizes equal to those of `input`
        or 1, such as (N, 1, 1, 1) for one weight a sample. Elementwise losses are multiplied by it,
        and their mean still divides by the number of elements, as `torch.nn` does. Overlap losses
        multiply each element in their sums; there a weight that is constant over a group cancels.
        An element with weight 0 adds exactly zero to value and gradient, for any raw output and
        any target, NaN included. No gradient flows into weight or `pos_weight`.
    ignore_index: elements whose target is this number, such as 255, are ignored: their weight is
        0, and the mean is over the others; 0 if there are none.
    mask: elements where it is 0 or False are ignored, in the same way.
    reduction: "mean", "sum" or "none".
    validate: whether to check the values of target, weight, and probabilities. None checks them if
        that needs no synchronization with a device: on a CPU, outside of compiled code; True checks
        always: torch.compile leaves the loss eager, or raises with fullgraph=True; False never
        checks.
    process_group: the ranks that have the other parts of the batch: a `torch.distributed` group
        that includes this process, or "world", the default group; None for this process alone.

Targets within 1e-6 of [0, 1], such as interpolation gives, count as 0 or 1. If validate=None cannot
check the values, targets are clamped to [0, 1], and a target or probability outside of [-1/2, 3/2],
such as 255 in a mask of 0 and 255, makes the loss NaN; so does a negative weight in compiled code.

On a CPU a loss warns of raw outputs that all lie in [0, 1] and are not all 0 or 1
(`ActivatedInputWarning`): once for each module, and for each activation of a function.

The overlap losses (`dice`, `jaccard`, `tversky`, `focal_tversky`, `dice_cross_entropy`, `lovasz`,
`lovasz_hinge`) sum over the whole batch, as published, or over groups of elements:

    per_sample: each sample is a group, that is each index of the first dimension;
    channel_axis: each channel is a group: 1 for NCHW and NCDHW, -1 for NHWC and NDHWC. The channels
        are independent labels.

`reduction` is over these groups; "none" returns (N,), (C,) or (N, C). A group without a valid
element, by `ignore_index` or `mask`, has a loss of 0 and does not count in the mean; if no group
has one, the mean is 0.

Without any target, a group has TP = FN = 0: then `dice` is FP / (FP + smooth), so 1 for any output
when smooth = 0, without a gradient, and 0 where the denominator is 0 (or below the smallest normal
number). `lovasz` is the largest error.

With a `process_group` every rank has the loss of the whole batch. The sums TP, FP and FN of an
overlap loss, or the sum and count of a mean, are added up over the ranks, and so are their upstream
gradients. So the mean of the ranks' gradients, which DDP and FSDP take, is the gradient of that
loss (if each rank multiplies the loss by a number of its own, that of the mean of the products).

    All ranks run forward and backward pass, with the same options; the sizes of their parts and
    the ignored elements may differ. A part that is empty or ignored as a whole adds zero.
    With `per_sample=True` a sample belongs to one rank: only the sum and the count of the samples'
    losses are added up.
    reduction="sum" and "none", of elements or samples, exchange nothing: they are those of this
    rank's part, and DDP takes the mean of the ranks' sums. The loss of a channel is over all ranks.
    "linear" has the minimum and maximum of all ranks, unless its `axis` omits the first dimension.
    `lovasz` and `lovasz_hinge` sort all errors of a group of elements, and take a `process_group`
    only with per_sample=True.
    Each rank checks its own input: if one raises, the others wait until the group's timeout.
    A DTensor needs no `process_group`: its sums are over all its parts. The Lovasz losses take
    none.

With one rank it is the loss without a group. docs/scaling.md has an example, and the bytes sent.

All losses compile into one graph, also with `dynamic=True`.

What raises, in every loss: TypeError for integer input; ValueError for shapes or devices that
differ, for an empty input without a `process_group`, for "world" where there is no default group,
for an unknown activation, convention or reduction, for an activation together with
`from_logits=False`, for a number out of its range, and for targets or probabilities outside [0, 1]
or negative weights, if they are checked (`validate`). TypeError if an argument has to be True or
False, a number, a tensor or a process group, and is not.
"""

from torch import Tensor

from segact_torch._backends import (
    cross_entropy,
    focal_cross_entropy,
    overlap_ratio,
    ratio_and_entropy,
    squared_error,
)
from segact_torch._batch import Batch
from segact_torch._checks import check_lovasz_groups, check_number
from segact_torch._distributed import ProcessGroup
from segact_torch._sums import lovasz_extension, power, reduce_groups, times
from segact_torch.activations import Activation, _Symmetric
from segact_torch.conventions import distribution

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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """-(y log F(x) + (1 - y) log(1 - F(x))), from the logarithms of the tails: nothing is clipped.

    A term with weight zero adds exactly zero to value and gradient.

    Args:
        convention: how to compute the logarithms, see `segact_torch.conventions`: "exact", the
            only one from raw outputs, or with `from_logits=False` "torch", the default, "keras",
            "keras2", "keras_logit" or "torch_legacy".
        pos_weight: a factor of the term with y, as in `nn.BCEWithLogitsLoss`: a number, or a tensor
            that broadcasts to the shape of `input`, such as (C, 1, 1) for NCHW.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        input, target, activation, from_logits, weight, ignore_index, mask, reduction, validate,
            process_group: see `segact_torch.functional`.

    Source: arXiv:2109.00903; H. Hentschke, "Sigmoid activation and binary crossentropy: a less than
    perfect match?" (2019), for the errors of the clipped form.
    """
    check_number("label_smoothing", label_smoothing, high=1.0)
    f = distribution(activation, from_logits, convention)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    factor = batch.broadcast_pos_weight(pos_weight)
    axis, mean = batch.elements(reduction)
    return cross_entropy(batch, axis, mean, factor, label_smoothing)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """The focal loss: cross entropy times the error to the power gamma.

    (y (1 - F(x)) + (1 - y) F(x))^gamma times `binary_cross_entropy`, times y alpha + (1 - y)
    (1 - alpha) unless alpha is None. The paper uses gamma = 2 with alpha = 0.25.

    Args:
        convention: of the cross entropy, as in `binary_cross_entropy`.
        gamma: >= 0; 0 is cross entropy.
        alpha: the weight of class 1, in [0, 1]; that of class 0 is 1 - alpha. None: no weights.
        label_smoothing: s in [0, 1], which moves targets to y (1 - s) + s / 2.
        input, target, activation, from_logits, weight, ignore_index, mask, reduction, validate,
            process_group: see `segact_torch.functional`.

    Source: Lin et al., "Focal loss for dense object detection" (arXiv:1708.02002).
    """
    check_number("gamma", gamma)
    if alpha is not None:
        check_number("alpha", alpha, high=1.0)
    check_number("label_smoothing", label_smoothing, high=1.0)
    f = distribution(activation, from_logits, convention)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis, mean = batch.elements(reduction)
    return focal_cross_entropy(batch, axis, mean, gamma, alpha, label_smoothing)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """(F(x) - y)^2, the squared error of the probability, as ((1 - y) F(x) - y (1 - F(x)))^2.

    Args:
        input, target, activation, from_logits, weight, ignore_index, mask, reduction, validate,
            process_group: see `segact_torch.functional`.

    Source: arXiv:2109.00903.
    """
    f = distribution(activation, from_logits)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis, mean = batch.elements(reduction)
    return squared_error(batch, axis, mean)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """1 - (2 sum(F(x) y) + smooth) / (sum(F(x) + y) + smooth), without its cancellation.

    Computed as (FP + FN) / (2 TP + FP + FN + smooth) from the sums of `tversky`.

    Args:
        smooth: >= 0, added to numerator and denominator of the overlap. 0 gives a group without
            any target a loss of 1 and no gradient.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate, process_group: see `segact_torch.functional`.

    Source: arXiv:2109.00903. (V-Net, arXiv:1606.04797, squares the terms of the denominator.)
    """
    check_number("smooth", smooth)
    f = distribution(activation, from_logits)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=2, fp=1, fn=1)
    return reduce_groups(ratio, batch, axis, reduction)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """1 - (TP + smooth) / (TP + FP + FN + smooth): one minus intersection over union.

    Computed as (FP + FN) / (TP + FP + FN + smooth) from the sums of `tversky`.

    Args:
        smooth: >= 0, added to intersection and union. 0 gives a group without
            any target a loss of 1 and no gradient.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate, process_group: see `segact_torch.functional`.

    Source: Rahman and Wang, "Optimizing intersection-over-union in deep neural networks for image
    segmentation" (2016).
    """
    check_number("smooth", smooth)
    f = distribution(activation, from_logits)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=1, fp=1, fn=1)
    return reduce_groups(ratio, batch, axis, reduction)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
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
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate, process_group: see `segact_torch.functional`.

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks" (arXiv:1706.05721).
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        check_number(name, value)
    f = distribution(activation, from_logits)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=1, fp=alpha, fn=beta)
    return reduce_groups(ratio, batch, axis, reduction)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """The loss of `tversky` to the power 1 / gamma, with the paper's defaults.

    Where the loss is 0, so is the gradient, which tends to infinity there.

    Args:
        alpha: the weight of false positives, >= 0 (beta in the paper).
        beta: the weight of false negatives, >= 0 (alpha in the paper).
        gamma: > 0; the exponent is 1 / gamma, as in the paper (some libraries call the exponent
            itself gamma).
        smooth: >= 0, added to numerator and denominator of the index. 0 gives a group without
            any target a loss of 1 and no gradient.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate, process_group: see `segact_torch.functional`.

    Source: Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
    lesion segmentation" (arXiv:1810.07842).
    """
    check_number("gamma", gamma, open=True)
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        check_number(name, value)
    f = distribution(activation, from_logits)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis = batch.groups(per_sample, channel_axis)
    ratio = overlap_ratio(batch, axis, smooth, tp=1, fp=alpha, fn=beta)
    return reduce_groups(power(ratio, 1 / gamma), batch, axis, reduction)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """lambda_dice times `dice` plus lambda_ce times the mean of `binary_cross_entropy`.

    Both are taken over the same groups of elements.

    Args:
        lambda_dice, lambda_ce: the weights of the two losses, >= 0.
        smooth: of Dice. 0 gives a group without any target a Dice loss of 1 and no gradient.
        convention, pos_weight, label_smoothing: of the cross entropy.
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate, process_group: see `segact_torch.functional`.

    Source: Isensee et al., "nnU-Net" (arXiv:1809.10486).
    """
    numbers = (("lambda_dice", lambda_dice), ("lambda_ce", lambda_ce), ("smooth", smooth))
    for name, value in numbers:
        check_number(name, value)
    check_number("label_smoothing", label_smoothing, high=1.0)
    f = distribution(activation, from_logits, convention)
    batch = Batch.of(input, target, f, weight, ignore_index, mask, validate, process_group)
    axis = batch.groups(per_sample, channel_axis)
    factor = batch.broadcast_pos_weight(pos_weight)
    options = (smooth, factor, label_smoothing)
    ratio, entropy = ratio_and_entropy(batch, axis, *options, tp=2, fp=1, fn=1)
    loss = times(lambda_dice, ratio) + times(lambda_ce, entropy)
    return reduce_groups(loss, batch, axis, reduction)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the errors abs(y - F(x)); y is 0 or 1.

    The errors e are sorted in descending order, and each is weighted by the increase of the Jaccard
    loss when its element is added to those before it: with i targets left and a union u, 1 / u for
    a target (then i falls by one) and i / (u (u + 1)) for background (then u grows by one). The
    sort is stable: of equal errors the earlier element comes first, on every device and backend.

    Args:
        input, target, activation, from_logits, per_sample, channel_axis, weight, ignore_index,
            mask, reduction, validate, process_group: see `segact_torch.functional`.

    Source: Berman et al., "The Lovasz-Softmax loss" (arXiv:1705.08790); arXiv:2109.00903, which
    names it as untested.
    """
    check_lovasz_groups(per_sample, process_group)
    f = distribution(activation, from_logits)
    batch = Batch.of(
        input, target, f, weight, ignore_index, mask, validate, process_group, hard=True
    )

    def error(x: Tensor, y: Tensor) -> Tensor:
        if isinstance(batch.f, _Symmetric):
            return batch.f.cdf(x * (1 - 2 * y))
        return y * batch.f.sf(x) + (1 - y) * batch.f.cdf(x)

    axis = batch.groups(per_sample, channel_axis)
    return reduce_groups(lovasz_extension(batch, axis, error), batch, axis, reduction)


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
    process_group: ProcessGroup | str | None = None,
) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the hinge max(0, 1 - x (2 y - 1)); y is 0 or 1.

    It takes margins, raw outputs whose sign is the prediction, so no activation. See `lovasz`.

    Args:
        input, target, per_sample, channel_axis, weight, ignore_index, mask, reduction, validate,
            process_group: see `segact_torch.functional`.

    Source: Yu and Blaschko, "The Lovasz hinge" (arXiv:1512.07797); Berman et al.
    (arXiv:1705.08790).
    """
    check_lovasz_groups(per_sample, process_group)
    f = distribution(None, from_logits=True)
    batch = Batch.of(
        input, target, f, weight, ignore_index, mask, validate, process_group, hard=True
    )

    def error(x: Tensor, y: Tensor) -> Tensor:
        return 1 - x * (2 * y - 1)

    axis = batch.groups(per_sample, channel_axis)
    return reduce_groups(lovasz_extension(batch, axis, error), batch, axis, reduction)
