"""Who is measured: our losses and their peers in PyTorch, each as a function of (logits, target).

A `Contestant` is measured forward and backward. `baseline` names the one that its ratio is to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

import segact_torch
from parity.cases import ACTIVATIONS, SMOOTH
from parity.implementations.torch import PUBLISHED
from parity.inputs import PUBLISHED_EPSILON

Loss = Callable[[Tensor, Tensor], Tensor]
Activation = Callable[[Tensor], Tensor]

STOCK = "F.binary_cross_entropy_with_logits"


@dataclass(frozen=True)
class Contestant:
    """A loss in a group of its kind; ours has a `goal`, the largest ratio to its baseline."""

    group: str
    name: str
    loss: Loss
    baseline: str
    goal: float | None = None


def _hardtanh(x: Tensor) -> Tensor:
    return torch.clamp(x, PUBLISHED_EPSILON, 1 - PUBLISHED_EPSILON)


def _linear(x: Tensor) -> Tensor:
    low, high = x.min(), x.max()
    return PUBLISHED_EPSILON + (1 - 2 * PUBLISHED_EPSILON) * ((x - low) / (high - low))


def _published(name: str) -> Activation:
    """As published: squeezed, in the input's own precision."""
    piecewise = {"hardtanh": _hardtanh, "linear": _linear}
    if name in piecewise:
        return piecewise[name]
    return lambda x: PUBLISHED_EPSILON + (1 - 2 * PUBLISHED_EPSILON) * PUBLISHED[name](x)


def _published_cross_entropy(name: str) -> Loss:
    activation = _published(name)
    return lambda x, y: F.binary_cross_entropy(activation(x), y)


def _published_dice(name: str) -> Loss:
    activation = _published(name)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        p = activation(x)
        return 1 - 2 * (p * y).sum() / (p + y).sum()

    return loss


def _log_ndtr(x: Tensor, y: Tensor) -> Tensor:
    on, off = torch.special.log_ndtr(x), torch.special.log_ndtr(-x)
    return -(y * on + (1 - y) * off).mean()


def cross_entropy() -> list[Contestant]:
    """Cross entropy, eager, against PyTorch's own from logits."""
    group = "cross entropy"
    found = [Contestant(group, STOCK, F.binary_cross_entropy_with_logits, STOCK)]
    for name in SMOOTH:
        found.append(Contestant(group, f"published, {name}", _published_cross_entropy(name), STOCK))
    found.append(Contestant(group, "torch.special.log_ndtr", _log_ndtr, STOCK))
    for name in SMOOTH:
        loss = segact_torch.BinaryCrossEntropyLoss(name)
        goal = 1.05 if name == "sigmoid" else 2.0
        found.append(Contestant(group, f"segact, {name}", loss, STOCK, goal))
    return found


def _monai_dice(name: str) -> Loss | None:
    try:
        from monai.losses import DiceLoss
    except ImportError:
        return None
    if name == "sigmoid":
        return DiceLoss(sigmoid=True)
    return DiceLoss(other_act=_published(name))


def _smp_dice() -> Loss | None:
    try:
        from segmentation_models_pytorch.losses import DiceLoss
    except (ImportError, RuntimeError):  # a torchvision that does not load
        return None
    return DiceLoss("binary")


def dice() -> list[Contestant]:
    """Dice, eager, against MONAI's with the same activation, or else the published formula."""
    group, found = "Dice", []
    for name in ACTIVATIONS:
        peer = _monai_dice(name)
        published = f"published, {name}"
        baseline = published if peer is None else f"MONAI, {name}"
        if peer is not None:
            found.append(Contestant(group, baseline, peer, baseline))
        found.append(Contestant(group, published, _published_dice(name), baseline))
        ours = segact_torch.DiceLoss(name)
        found.append(Contestant(group, f"segact, {name}", ours, baseline, 0.5))
    smp = _smp_dice()
    if smp is not None:
        found.append(
            Contestant(group, "segmentation_models_pytorch, sigmoid", smp, found[0].baseline)
        )
    return found


def _one_graph(loss: Loss) -> Loss:
    # One function with many losses is what a benchmark does and nobody else.
    torch._dynamo.config.recompile_limit = 64
    compiled: Loss = torch.compile(loss, fullgraph=True)
    return compiled


def _compiled(group: str, baseline: str, goal: float) -> list[Contestant]:
    found = []
    for name in SMOOTH:
        for what, loss in (
            ("cross entropy", segact_torch.binary_cross_entropy),
            ("Dice", segact_torch.dice),
        ):
            title = f"segact, {name}, {what}"
            graph = _one_graph(partial(loss, activation=name))
            found.append(Contestant(group, title, graph, baseline, goal))
    return found


def compiled() -> list[Contestant]:
    """`torch.compile` in one graph, against the compiled sigmoid cross entropy."""
    group, baseline = "torch.compile", f"compiled {STOCK}"
    stock = Contestant(group, baseline, _one_graph(F.binary_cross_entropy_with_logits), baseline)
    others = {
        "Dice + cross entropy": segact_torch.dice_cross_entropy,
        "squared error": segact_torch.mean_squared_error,
        "focal cross entropy": segact_torch.binary_focal_cross_entropy,
    }
    found = [stock, *_compiled(group, baseline, 1.3)]
    for what, loss in others.items():
        graph = _one_graph(partial(loss, activation="arctan"))
        found.append(Contestant(group, f"segact, arctan, {what}", graph, baseline, 1.3))
    graph = _one_graph(partial(segact_torch.dice, activation="hardtanh"))
    return [*found, Contestant(group, "segact, hardtanh, Dice", graph, baseline, 1.3)]


def _copy(tensors: int) -> Loss:
    """Reads and writes as many bytes as so many tensors of x's size, half of them each."""

    def copy(x: Tensor, y: Tensor) -> Tensor:
        left = tensors * x.numel() // 2
        flat = x.detach().view(-1)
        for part in (flat, y.view(-1), flat):
            if left > 0:
                part[:left].clone()
            left -= x.numel()
        return flat

    return copy


LARGE = "bandwidth"
COPY_3, COPY_5 = "copy of as many bytes, 3 tensors", "copy of as many bytes, 5 tensors"


def bandwidth() -> list[Contestant]:
    """Our losses against copies of as many bytes; 1.25 is 80 % of their bandwidth.

    One pass reads x and y and writes the gradient: 3 tensors. The compiled losses and those of
    areas, which know the factor of the gradient at the end only, read x and y twice: 5.
    """
    group = LARGE
    found = [
        Contestant(group, COPY_3, _copy(3), COPY_3),
        Contestant(group, COPY_5, _copy(5), COPY_5),
    ]
    found.append(Contestant(group, STOCK, F.binary_cross_entropy_with_logits, COPY_3))
    for name in SMOOTH:
        title, loss = f"segact, {name}", segact_torch.BinaryCrossEntropyLoss(name)
        found.append(Contestant(group, f"{title}, cross entropy", loss, COPY_3, 1.25))
        loss_of_areas = segact_torch.DiceLoss(name)
        found.append(Contestant(group, f"{title}, Dice", loss_of_areas, COPY_5, 1.25))
    return found


def compiled_bandwidth() -> list[Contestant]:
    """The compiled losses against a copy of as many bytes."""
    group = f"{LARGE}, torch.compile"
    return [Contestant(group, COPY_5, _copy(5), COPY_5), *_compiled(group, COPY_5, 1.25)]
