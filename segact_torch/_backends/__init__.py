"""Backends: the sums of `segact_torch._sums` and their gradients, each in one pass.

The functions here are those of `_sums`, by a backend where one serves, else by the formula, and
`overlap`, which adds the areas up with the weights that a loss gives them. A backend is a module
with `serves`, `cross_entropy` and `areas`; each of the last two returns a sum and the function that
makes its gradient, or None for a batch that it leaves to the formula. Which backend a batch has is
decided in `chosen`; `SEGACT_KERNELS=0` in the environment, before the import, forbids them all.

    cpu         loops in C, compiled when the package is installed
    operators   the same as operators, for compiled code
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from segact_torch import _sums
from segact_torch._backends import cpu, operators
from segact_torch._batch import Axis, Batch, broadcast_pos_weight, check_number

Formula = Callable[[Batch], Tensor]
Found = tuple[Tensor, Callable[[Tensor], Tensor] | None]

FORBIDDEN = os.environ.get("SEGACT_KERNELS") == "0"


def cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    pos_weight: float | Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`_sums.cross_entropy`."""
    formula = partial(
        _sums.cross_entropy,
        axis=axis,
        mean=mean,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
    )
    backend = chosen(batch)
    if backend is None or isinstance(pos_weight, Tensor):
        return formula(batch)
    check_number("label_smoothing", label_smoothing, high=1.0)
    factor = broadcast_pos_weight(pos_weight, batch.x)
    scale = batch.share(axis) if mean and axis else 1.0
    found = backend.cross_entropy(batch, axis, scale, factor, label_smoothing)
    return formula(batch) if found is None else _with_gradient(found, formula, batch)


def areas(batch: Batch, axis: Axis) -> Tensor:
    """`_sums.areas`."""
    formula = partial(_sums.areas, axis=axis)
    backend = chosen(batch) if axis else None
    found = None if backend is None else backend.areas(batch, axis)
    return formula(batch) if found is None else _with_gradient(found, formula, batch)


def overlap(batch: Batch, axis: Axis, *, tp: float, fp: float, fn: float) -> tuple[Tensor, Tensor]:
    """fp FP + fn FN, and tp TP + fp FP + fn FN."""
    hit, false_alarm, miss = areas(batch, axis)
    error = _scaled(fp, false_alarm) + _scaled(fn, miss)
    return error, _scaled(tp, hit) + error


def _scaled(factor: float, area: Tensor) -> Tensor:
    return area if factor == 1 else factor * area


def chosen(batch: Batch) -> Any:
    """The backend that serves a batch, None if the formulas do."""
    x, y, w = batch.x, batch.y, batch.w
    if FORBIDDEN or x.device.type != "cpu" or not cpu.serves(batch) or y.requires_grad:
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    if torch.compiler.is_compiling():
        exported = not torch.compiler.is_dynamo_compiling() or _is_exporting()
        return None if exported else operators
    return None if _is_traced(x, y, w) else cpu


def _is_traced(*tensors: Tensor | None) -> bool:
    """Whether a subclass, jit.trace, a dispatch mode or forward-mode AD looks on."""
    return (
        any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors if t is not None)
        or torch.jit.is_tracing()
        or torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _is_exporting() -> bool:
    known = getattr(torch.compiler, "is_exporting", None)  # since PyTorch 2.7
    return known is not None and known()


def _with_gradient(found: Found, formula: Formula, batch: Batch) -> Tensor:
    value, gradient = found
    if gradient is None:
        return value
    tensors = (batch.x, batch.y) if batch.w is None else (batch.x, batch.y, batch.w)
    return _WithGradient.apply((value, gradient, formula, batch), *tensors)


class _WithGradient(torch.autograd.Function):
    """A value with its gradient at hand.

    `gradient` overwrites its buffer, so it runs once; a second backward, and one that is to be
    differentiated in turn, recomputes by the formula.
    """

    @staticmethod
    def forward(ctx: Any, known: tuple[Any, ...], *tensors: Tensor) -> Tensor:
        value, ctx.gradient, ctx.formula, batch = known
        ctx.of_outputs = batch.of_outputs
        # all of them, so that autograd notices when one is changed before the backward pass
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *constants = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        again = torch.is_grad_enabled()  # the gradient is to be differentiated in turn
        batched = torch._C._functorch.is_legacy_batchedtensor(grads[0])  # by is_grads_batched
        if gradient is None or again or batched:
            with torch.enable_grad():
                # not x itself, whose hooks would run here as well
                x = x.view_as(x) if again else x.detach().requires_grad_()
                value = ctx.formula(ctx.of_outputs(x))
            upstream = grads[0].to(value.dtype)
            (found,) = torch.autograd.grad(value, x, upstream, create_graph=again)
        else:
            found = gradient(grads[0])
        return None, found, *[None] * len(constants)
