"""Our PyTorch losses and their counterparts: PyTorch's own, MONAI's, torchvision's, SMP's."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import segact_torch
from benchmarks.cases import IGNORED, LARGE, STOCK, SWEEP, USUAL, Case, Inputs, Loss, installed
from parity.judge.adapters.torch import PUBLISHED
from parity.suite.case import ACTIVATIONS, SMOOTH
from parity.suite.inputs import PUBLISHED_EPSILON

MONAI, SMP, TORCHVISION = "monai", "segmentation_models_pytorch", "torchvision"
Peer = tuple[str, str, Callable[[], Loss]]
"""A counterpart: its name, the module it needs, and a function that makes it."""


def _hardtanh(x: Tensor) -> Tensor:
    return torch.clamp(x, PUBLISHED_EPSILON, 1 - PUBLISHED_EPSILON)


def _linear(x: Tensor) -> Tensor:
    low, high = x.min(), x.max()
    return PUBLISHED_EPSILON + (1 - 2 * PUBLISHED_EPSILON) * ((x - low) / (high - low))


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    **PUBLISHED,
    "hardtanh": _hardtanh,
    "linear": _linear,
}
"""The activations as published, of few operations."""


def _lovasz(errors: Tensor, y: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss by its published algorithm: one sort, two sums."""
    errors, order = errors.flatten().sort(descending=True)
    hits = y.flatten()[order]
    union = hits.sum() + (1 - hits).cumsum(0)
    jaccard = 1 - (hits.sum() - hits.cumsum(0)) / union
    return errors @ torch.cat([jaccard[:1], jaccard.diff()])


def _published_hinge(x: Tensor, y: Tensor) -> Tensor:
    return _lovasz((1 - x * (2 * y - 1)).relu(), y)


def _monai(name: str, /, activation: str = "sigmoid", **options: Any) -> Loss:
    from monai import losses

    if name != "FocalLoss":
        own = activation == "sigmoid"  # MONAI's own, or a function
        options |= {"sigmoid": True} if own else {"other_act": FORMULAS[activation]}
    loss: Loss = getattr(losses, name)(**options)
    return loss


def _smp(name: str, **options: Any) -> Loss:
    from segmentation_models_pytorch import losses

    loss: Loss = getattr(losses, name)("binary", **options)
    return loss


def _torchvision_focal() -> Loss:
    from torchvision.ops import sigmoid_focal_loss

    return partial(sigmoid_focal_loss, alpha=-1, gamma=2, reduction="mean")


WEIGHTS = {"alpha": 0.3, "beta": 0.7}
PARAMETERS: dict[str, dict[str, Any]] = {"tversky": WEIGHTS, "focal_tversky": WEIGHTS}
OVERLAP = ("dice", "jaccard", "tversky", "focal_tversky", "dice_cross_entropy")
LOSSES = (
    *("binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"),
    *OVERLAP,
    *("lovasz", "lovasz_hinge"),
)
ONLY_SIGMOID = ("binary_cross_entropy", "binary_focal_cross_entropy", "dice_cross_entropy")
"""The losses whose counterpart has no other activation."""


def _peer(loss: str, activation: str, **options: Any) -> Peer:
    """The counterpart of a loss, with the same activation if it takes others than the sigmoid."""
    formula = FORMULAS[activation]
    whole = {"batch": True, **options}

    def focal_tversky() -> Loss:
        tversky = _monai("TverskyLoss", activation, **WEIGHTS, **whole)
        return lambda x, y: tversky(x, y) ** 0.75

    peers: dict[str, Peer] = {
        "binary_cross_entropy": (STOCK, "", lambda: F.binary_cross_entropy_with_logits),
        "binary_focal_cross_entropy": ("MONAI FocalLoss", MONAI, lambda: _monai("FocalLoss")),
        "mean_squared_error": ("F.mse_loss(F(x), y)", "",
            lambda: lambda x, y: F.mse_loss(formula(x), y)),
        "dice": ("MONAI DiceLoss", MONAI, lambda: _monai("DiceLoss", activation, **whole)),
        "jaccard": ("MONAI DiceLoss(jaccard=True)", MONAI,
            lambda: _monai("DiceLoss", activation, jaccard=True, **whole)),
        "tversky": ("MONAI TverskyLoss", MONAI,
            lambda: _monai("TverskyLoss", activation, **WEIGHTS, **whole)),
        "focal_tversky": ("MONAI TverskyLoss ** (3 / 4)", MONAI, focal_tversky),
        "dice_cross_entropy": ("MONAI DiceCELoss", MONAI,
            lambda: _monai("DiceCELoss", activation, **whole)),
        "lovasz": ("the published algorithm", "",
            lambda: lambda x, y: _lovasz((formula(x) - y).abs(), y)),
        "lovasz_hinge": ("the published algorithm", "", lambda: _published_hinge),
    }  # fmt: skip
    return peers[loss]


OTHER_PEERS: dict[str, Peer] = {
    "binary_focal_cross_entropy": ("torchvision sigmoid_focal_loss", TORCHVISION,
        _torchvision_focal),
    "dice": ("SMP DiceLoss", SMP, lambda: _smp("DiceLoss")),
    "jaccard": ("SMP JaccardLoss", SMP, lambda: _smp("JaccardLoss")),
    "tversky": ("SMP TverskyLoss", SMP, lambda: _smp("TverskyLoss", **WEIGHTS)),
    "lovasz_hinge": ("SMP LovaszLoss", SMP, lambda: _smp("LovaszLoss", per_image=False)),
}  # fmt: skip
"""More counterparts of losses with the sigmoid."""


def _case(loss: str, options: str, peer: Peer, ours: dict[str, Any], **fields: Any) -> Case:
    name, needs, make = peer
    theirs = make() if not needs or installed(needs) else None
    function = partial(getattr(segact_torch, loss), **PARAMETERS.get(loss, {}), **ours)
    return Case(loss, options, function, name, theirs, needs=needs, **fields)


def _activations(others: bool) -> list[Case]:
    """Every loss with every activation, and compared with `OTHER_PEERS`."""
    found = []
    for loss in LOSSES:
        for name in ACTIVATIONS if loss != "lovasz_hinge" else ("sigmoid",):
            same = name == "sigmoid" or loss not in ONLY_SIGMOID
            swept = loss in ("binary_cross_entropy", "dice") and name in SMOOTH[:3]
            shown, options = ("", {}) if loss == "lovasz_hinge" else (name, {"activation": name})
            sizes = SWEEP if swept else USUAL
            found.append(_case(loss, shown, _peer(loss, name), options, same=same, sizes=sizes))
        if loss in OTHER_PEERS and others:
            shown = "" if loss == "lovasz_hinge" else "sigmoid"
            found.append(_case(loss, shown, OTHER_PEERS[loss], {}))
    return found


def _integers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y.long()


def _meta(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    from monai.data import MetaTensor

    return x, MetaTensor(y)


def _void(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Every tenth target is ignored."""
    left_out = torch.arange(y.numel(), device=y.device).view_as(y) % 10 == 0
    return x, y.masked_fill(left_out, IGNORED)


def _of_type(dtype: torch.dtype) -> Inputs:
    return lambda x, y: (x.detach().to(dtype).requires_grad_(), y.to(dtype))


INPUTS: dict[str, Inputs] = {
    "float16": _of_type(torch.float16),
    "bfloat16": _of_type(torch.bfloat16),
    "float64": _of_type(torch.float64),
    "int64 targets": _integers,
    "MetaTensor targets": _meta,
}


def _of_inputs() -> list[Case]:
    """The sigmoid's losses of other tensors; theirs takes the targets in its input's precision."""
    found = []
    for loss in LOSSES:
        for what, inputs in INPUTS.items():
            if what.startswith("Meta") and not installed(MONAI):
                continue
            case = _case(loss, what, _peer(loss, "sigmoid"), {}, inputs=inputs)
            if case.theirs and "targets" in what:
                case = replace(case, theirs=_with_floats(case.theirs))
            found.append(case)
    return found


def _with_floats(theirs: Loss) -> Loss:
    return lambda x, y: theirs(x, y.to(x.dtype))


def _without_void(theirs: Loss) -> Loss:
    """Elements ignored by hand."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        left = y != IGNORED
        value: Tensor = theirs(x[left][None, None], y[left][None, None])
        return value

    return loss


def _squeezed(x: Tensor) -> Tensor:
    return PUBLISHED_EPSILON + (1 - 2 * PUBLISHED_EPSILON) * PUBLISHED["arctan"](x)


def _sum_of_each(loss: Loss) -> Loss:
    return lambda x, y: loss(x, y, reduction="none").sum()  # type: ignore[call-arg]


def _pos_weight(y: Tensor) -> Tensor:
    return y.new_full((1,), 3.0)


def _weight(y: Tensor) -> Tensor:
    return 1 + y


def _of_options() -> list[Case]:
    """The options, each of the losses that have it."""
    found = []
    for loss in LOSSES:
        peer = _peer(loss, "sigmoid")
        if peer[1] and not installed(peer[1]):
            continue
        name, needs, make = peer
        without = (f"{name} of y != {IGNORED}", needs, lambda make=make: _without_void(make()))
        found.append(_case(loss, "ignore_index", without, {"ignore_index": IGNORED}, inputs=_void))
    for loss in OVERLAP:
        if loss == "focal_tversky":  # the power is taken for each sample
            continue
        peer = _peer(loss, "sigmoid", batch=False)
        found.append(_case(loss, "per_sample", peer, {"per_sample": True}))
    stock = F.binary_cross_entropy_with_logits
    loss = "binary_cross_entropy"
    weighted: Peer = (f"{STOCK}(pos_weight)", "",
        lambda: lambda x, y: stock(x, y, pos_weight=_pos_weight(y)))  # fmt: skip
    found += [
        _case(loss, "pos_weight=3.0", weighted, {"pos_weight": 3.0}),
        replace(
            _case(loss, "pos_weight, a tensor", weighted, {}),
            ours=lambda x, y: segact_torch.binary_cross_entropy(x, y, pos_weight=_pos_weight(y)),
        ),
        Case(loss, "weight",
            lambda x, y: segact_torch.binary_cross_entropy(x, y, weight=_weight(y)),
            f"{STOCK}(weight)", lambda x, y: stock(x, y, weight=_weight(y))),
        Case(loss, "reduction='none'", _sum_of_each(segact_torch.binary_cross_entropy),
            f"{STOCK}(reduction='none')", _sum_of_each(stock)),
        Case(loss, "label_smoothing",
            partial(segact_torch.binary_cross_entropy, label_smoothing=0.1),
            f"{STOCK} of smoothed targets", lambda x, y: stock(x, y * 0.9 + 0.05)),
    ]  # fmt: skip
    squeezed = {"activation": segact_torch.get_activation("arctan", epsilon=PUBLISHED_EPSILON)}
    options = "arctan, epsilon=1e-7"
    found += [
        _case(loss, options, _peer(loss, "sigmoid"), squeezed, same=False),
        _case(loss, options, ("F.binary_cross_entropy(F(x), y)", "",
            lambda: lambda x, y: F.binary_cross_entropy(_squeezed(x), y)), squeezed),
        _case("mean_squared_error", options, ("F.mse_loss(F(x), y)", "",
            lambda: lambda x, y: F.mse_loss(_squeezed(x), y)), squeezed),
        _case("dice", options, _peer("dice", "arctan"), squeezed),
    ]  # fmt: skip
    return found


def eager() -> list[Case]:
    """The cases without compilation."""
    return [*_activations(others=True), *_of_inputs(), *_of_options()]


def to_compile() -> list[Case]:
    """Every loss with arctan, cross entropy and Dice with others, focal and squared error with all
    smooth ones."""
    chosen = {(loss, "arctan") for loss in LOSSES} | {("lovasz_hinge", ""), ("dice", "hardtanh")}
    for name in ("sigmoid", "normal_cdf"):
        chosen |= {("binary_cross_entropy", name), ("dice", name)}
    for loss in ("binary_focal_cross_entropy", "mean_squared_error"):
        chosen |= {(loss, name) for name in SMOOTH}
    cases = (case for case in _activations(others=False) if (case.loss, case.options) in chosen)
    return [replace(case, sizes=(LARGE,)) for case in cases]


def compiled() -> list[Case]:
    """`torch.compile` of both, in one graph of ours; the counterpart's may be several."""
    # Only a benchmark calls one function with many losses.
    torch._dynamo.config.recompile_limit = 64
    return [
        replace(
            case,
            ours=torch.compile(case.ours, fullgraph=True, dynamic=False),
            theirs=case.theirs and torch.compile(case.theirs, dynamic=False),
        )
        for case in to_compile()
    ]


def _copy(tensors: int) -> Loss:
    """Copies: reads half and writes half of the bytes of `tensors` tensors of x's size."""

    def copy(x: Tensor, y: Tensor) -> Tensor:
        left = tensors * x.numel() // 2
        flat = x.detach().view(-1)
        for part in (flat, y.view(-1), flat):
            if left > 0:
                part[:left].clone()
            left -= x.numel()
        return flat

    return copy


MOVED = {"binary_cross_entropy": 3, "dice": 5, "dice_cross_entropy": 5}
"""The tensors of x's size that the kernels read and write."""


def bandwidth() -> list[Case]:
    """Our losses and copies of the same number of bytes: the limit of a GPU's memory.

    One pass reads x and y and writes the gradient: 3 tensors. The overlap losses, which know the
    factor of the gradient only at the end, read x and y twice: 5. As in training, the host does not
    wait for each step (`worker.QUEUED`).
    """
    sizes = (64 * 2**20,)
    stock = F.binary_cross_entropy_with_logits
    found = [Case(STOCK, "", stock, "copy of 3 tensors", _copy(3), False, sizes=sizes)]
    for name in SMOOTH:
        for loss, tensors in MOVED.items():
            ours = partial(getattr(segact_torch, loss), activation=name)
            copy = f"copy of {tensors} tensors"
            found.append(Case(loss, name, ours, copy, _copy(tensors), False, sizes=sizes))
    return found


CASES = {"torch": eager, "compile": compiled, "bandwidth": bandwidth}
"""By framework."""
