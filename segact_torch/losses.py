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
in any dtype, and are differentiable where they are floating.

All compile into one graph. With `torch.compile(..., dynamic=True)`, PyTorch 2.13 trips over Python
floats inside of custom gradients; `torch._dynamo.config.specialize_float = True` mends that. (The
default, which makes a dimension dynamic when it changes, needs nothing.)

What raises, in every loss: TypeError for integer input; ValueError for shapes that differ, for an
empty input, for an unknown activation or reduction, for an activation together with
`from_logits=False`, and for targets (and probabilities) outside [0, 1], which are checked
(`validate=None`) where that does not make a device wait: on a CPU, outside of compiled code.
`validate=True` checks always, `False` never.
"""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segact_torch.activations import Activation, _Weigh, _wide, get_activation

__all__ = [
    "BinaryCrossEntropyLoss",
    "DiceLoss",
    "MeanSquaredErrorLoss",
    "binary_cross_entropy",
    "dice",
    "mean_squared_error",
]


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """-(y log F(x) + (1 - y) log(1 - F(x))), from the logarithms of the tails: nothing is clipped.

    A term of weight zero adds exactly zero to value and gradient.

    Args:
        input: raw outputs x, or probabilities with `from_logits=False`; then the loss is PyTorch's
            own, `F.binary_cross_entropy`, with its logarithms clamped at -100.
        target: y in [0, 1], of the same shape.
        activation: F, by name or as an `Activation`; None is "sigmoid".
        reduction: "mean", "sum", or "none" for the loss of each element.

    Source: arXiv:2109.00903; H. Hentschke, "Sigmoid activation and binary crossentropy: a less than
    perfect match?" (2019), for what the clipped form loses.
    """
    x, y = _check(input, target, validate, from_logits)
    if from_logits:
        f = _resolve(activation)
        loss = _Weigh.apply(y, -f.logcdf(x)) + _Weigh.apply(1 - y, -f.logsf(x))
    else:
        _refuse_activation(activation)
        with torch.autocast(x.device.type, enabled=False):  # which refuses it even in float32
            loss = F.binary_cross_entropy(x, y, reduction="none")
    return _reduce(loss, reduction)


def dice(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    per_sample: bool = False,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """1 - 2 sum(F(x) y) / sum(F(x) + y), the soft Dice loss, without its cancellation.

    Computed as sum(y (1 - F(x)) + (1 - y) F(x)) / sum(F(x) + y); 0 where that denominator is 0.

    Args:
        input: raw outputs x, or probabilities with `from_logits=False`.
        target: y in [0, 1], of the same shape.
        activation: F, by name or as an `Activation`; None is "sigmoid".
        per_sample: sum over each sample, all dimensions but the first, and reduce the (N,) losses
            by `reduction`; by default the sums run over the whole batch, as published, and the loss
            is one number.

    Source: arXiv:2109.00903.
    """
    x, y = _check(input, target, validate, from_logits)
    p, q = _probabilities(x, activation, from_logits)
    axis = tuple(range(1 if per_sample else 0, x.ndim))
    error = _sum(y * q + (1 - y) * p, axis)
    total = _sum(p + y, axis)
    return _reduce(_ratio(error, total), reduction)


def mean_squared_error(
    input: Tensor,
    target: Tensor,
    activation: str | Activation | None = None,
    *,
    from_logits: bool = True,
    reduction: str = "mean",
    validate: bool | None = None,
) -> Tensor:
    """(F(x) - y)^2, the squared error of the probability, as ((1 - y) F(x) - y (1 - F(x)))^2.

    Args:
        input: raw outputs x, or probabilities with `from_logits=False`.
        target: y in [0, 1], of the same shape.
        activation: F, by name or as an `Activation`; None is "sigmoid".
        reduction: "mean", "sum", or "none" for the loss of each element.

    Source: arXiv:2109.00903.
    """
    x, y = _check(input, target, validate, from_logits)
    # A square has twice the relative error of its root, and float32 has no digits to spare.
    p, q = _probabilities(x, activation, from_logits, widen=True)
    return _reduce(((1 - y) * p - y * q) ** 2, reduction).to(x.dtype)


class _Mean(torch.autograd.Function):
    """The mean, also where the sum overflows and it does not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor) -> Tensor:
        mean = loss.mean()
        return torch.where(mean.isinf(), (loss / loss.numel()).sum(), mean)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return (grads[0] / ctx.shape.numel()).expand(ctx.shape)


def _check(
    input: Tensor, target: Tensor, validate: bool | None, from_logits: bool
) -> tuple[Tensor, Tensor]:
    """Both in the precision that they are computed in, or an error that says what is wrong."""
    x = _wide(input, "input")
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    if input.shape != target.shape:
        raise ValueError(
            "input and target must have the same shape, "
            f"got input {tuple(input.shape)} and target {tuple(target.shape)}"
        )
    if input.numel() == 0:
        raise ValueError(f"input is empty: its shape is {tuple(input.shape)}")
    checked = {"target": target} if from_logits else {"target": target, "input": input}
    for name, values in checked.items():
        if validate:
            _check_range(values, name)
        elif validate is None and values.device.type == "cpu" and not torch.compiler.is_compiling():
            with contextlib.suppress(RuntimeError):  # no values under vmap, or of a fake tensor
                _check_range(values, name)
    return x, target.to(x.dtype)


def _check_range(x: Tensor, name: str) -> None:
    if torch.compiler.is_compiling():
        raise ValueError(
            f"validate=True reads {name}, which has no values in compiled code; "
            "call the loss uncompiled, or use validate=None"
        )
    low, high = torch.aminmax(x.detach())
    if not (low >= 0 and high <= 1):  # so that NaN is refused
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {low.item()} to {high.item()}"
        )


def _resolve(activation: str | Activation | None) -> Activation:
    return get_activation("sigmoid" if activation is None else activation)


def _refuse_activation(activation: str | Activation | None) -> None:
    if activation is not None:
        raise ValueError(
            f"activation={activation!r} goes with raw outputs, got from_logits=False, "
            "which says that input is activated already; leave out one of the two"
        )


def _probabilities(
    x: Tensor, activation: str | Activation | None, from_logits: bool, widen: bool = False
) -> tuple[Tensor, Tensor]:
    """F(x) and 1 - F(x)."""
    if from_logits:
        f = _resolve(activation)
        x = f._widen(x) if widen else x
        return f.cdf(x), f.sf(x)
    _refuse_activation(activation)
    return x, 1 - x


def _sum(x: Tensor, axis: tuple[int, ...]) -> Tensor:
    return x.sum(axis) if axis else x


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    _check_reduction(reduction)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else _Mean.apply(loss)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


class _Loss(nn.Module):
    """A loss function with its options as a module, without parameters or buffers."""

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        reduction: str = "mean",
        validate: bool | None = None,
    ) -> None:
        super().__init__()
        if from_logits:
            activation = _resolve(activation)
        else:
            _refuse_activation(activation)
        _check_reduction(reduction)
        self.options: dict[str, Any] = {
            "activation": activation,
            "from_logits": from_logits,
            "reduction": reduction,
            "validate": validate,
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items())


class BinaryCrossEntropyLoss(_Loss):
    """`binary_cross_entropy` as a module: its options here, `(input, target)` in the call.

    >>> BinaryCrossEntropyLoss("normal_cdf")(torch.tensor([-100.0]), torch.tensor([1.0]))
    tensor(5005.5244)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(input, target, **self.options)


class DiceLoss(_Loss):
    """`dice` as a module: its options here, `(input, target)` in the call.

    >>> DiceLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0396)
    """

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        per_sample: bool = False,
        reduction: str = "mean",
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            activation, from_logits=from_logits, reduction=reduction, validate=validate
        )
        self.options["per_sample"] = per_sample

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return dice(input, target, **self.options)


class MeanSquaredErrorLoss(_Loss):
    """`mean_squared_error` as a module: its options here, `(input, target)` in the call.

    >>> MeanSquaredErrorLoss("softsign")(torch.tensor([3.0]), torch.tensor([0.0]))
    tensor(0.7656)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mean_squared_error(input, target, **self.options)
