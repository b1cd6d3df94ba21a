"""Backends: the sums of `segact_torch._sums` and their gradients, each in one pass.

The functions here have the names of those in `_sums`. Each uses the first backend that supports the
batch, or else the formula. A backend is a module with `serves` and functions of these names; each
returns the sum and the function that computes its gradient, or None for a batch that it does not
support. `chosen` selects the backends of a batch; `availability` finds out which ones work here.

    cpu         loops in C, compiled when the package is installed
    triton      kernels for a GPU
    operators   loops and kernels as operators, for compiled code
    compact     PyTorch's own operations, as few as possible, on every device
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from segact_torch import _sums
from segact_torch._backends import compact, cpu, operators
from segact_torch._backends.availability import loaded_triton, uses_kernels, uses_loops
from segact_torch._batch import Axis, Batch
from segact_torch._derivatives import _eager_before_2_6, _is_recorded
from segact_torch._distributed import all_mean, all_reduce

Formula = Callable[[Batch], Tensor]
Found = tuple[Tensor, Callable[[Tensor], Tensor] | None]

_PLAIN = (Tensor, torch.nn.Parameter)
_dispatch_mode = torch.utils._python_dispatch._get_current_dispatch_mode


@_eager_before_2_6
def cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    pos_weight: float | Tensor = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`_sums.cross_entropy`."""
    return _elements("cross_entropy", batch, axis, mean, pos_weight, label_smoothing)


@_eager_before_2_6
def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    gamma: float,
    alpha: float | None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`_sums.focal_cross_entropy`."""
    return _elements("focal_cross_entropy", batch, axis, mean, gamma, alpha, label_smoothing)


@_eager_before_2_6
def squared_error(batch: Batch, axis: Axis, mean: bool) -> Tensor:
    """`_sums.squared_error`."""
    return _elements("squared_error", batch, axis, mean)


@_eager_before_2_6
def overlap(batch: Batch, axis: Axis, *, tp: float, fp: float, fn: float) -> tuple[Tensor, Tensor]:
    """`_sums.overlap`."""

    def formula(batch: Batch) -> Tensor:
        return torch.stack(_sums.overlap(batch, axis, tp=tp, fp=fp, fn=fn))

    found = _served("overlap", formula, batch, axis, tp, fp, fn)
    if found is not None:
        error, hit = found
        return error, hit
    return _sums.overlap(batch, axis, tp=tp, fp=fp, fn=fn)


@_eager_before_2_6
def overlap_ratio(
    batch: Batch, axis: Axis, smooth: float, *, tp: float, fp: float, fn: float
) -> Tensor:
    """`_sums.overlap_ratio` of the sums over all ranks."""
    if batch.across is not None:
        sums = overlap(batch, axis, tp=tp, fp=fp, fn=fn)
        error, hit = all_reduce(batch.across, *sums)
        return _sums.ratio(error, hit, smooth)

    def formula(batch: Batch) -> Tensor:
        return _sums.overlap_ratio(batch, axis, smooth, tp=tp, fp=fp, fn=fn)

    found = _served("overlap_ratio", formula, batch, axis, smooth, tp, fp, fn)
    if found is not None:
        return found
    return _sums.ratio(*overlap(batch, axis, tp=tp, fp=fp, fn=fn), smooth)


@_eager_before_2_6
def ratio_and_entropy(
    batch: Batch,
    axis: Axis,
    smooth: float,
    pos_weight: float | Tensor,
    label_smoothing: float,
    *,
    tp: float,
    fp: float,
    fn: float,
) -> tuple[Tensor, Tensor]:
    """`_sums.overlap_ratio` and the mean of `_sums.cross_entropy`, in one pass if possible."""
    entropy = (axis, True, pos_weight, label_smoothing)
    if batch.across is None:

        def formula(batch: Batch) -> Tensor:
            ratio = _sums.overlap_ratio(batch, axis, smooth, tp=tp, fp=fp, fn=fn)
            return torch.stack((ratio, _sums.cross_entropy(batch, *entropy)))

        options = (smooth, pos_weight, label_smoothing, tp, fp, fn)
        found = _served("ratio_and_entropy", formula, batch, axis, *options)
        if found is not None:
            ratio, mean = found
            return ratio, mean
    ratio = overlap_ratio(batch, axis, smooth, tp=tp, fp=fp, fn=fn)
    return ratio, cross_entropy(batch, *entropy)


def _served(name: str, formula: Formula, batch: Batch, axis: Axis, *options: Any) -> Tensor | None:
    """The result of the first backend that has this function and supports the batch, or None."""
    for backend in chosen(batch) if axis else ():
        function = getattr(backend, name, None)
        found = None if function is None else function(batch, axis, *options)
        if found is not None:
            return _with_gradient(found, formula, batch, *options)
    return None


def _elements(name: str, batch: Batch, axis: Axis, mean: bool, *options: Any) -> Tensor:
    """The sum of elementwise losses on this rank, or their mean over all ranks."""
    result = _of_this_rank(name, batch, axis, mean, *options)
    if mean and batch.across is not None:
        return all_mean(batch.across, result, batch.count(axis))
    return result if mean or axis else batch.cut(result, axis)


def _of_this_rank(name: str, batch: Batch, axis: Axis, mean: bool, *options: Any) -> Tensor:
    """The same for the elements on this rank."""

    def formula(batch: Batch) -> Tensor:
        result: Tensor = getattr(_sums, name)(batch, axis, mean, *options)
        return result

    for backend in chosen(batch):
        served = getattr(backend, name, None)
        if served is not None:
            scale = batch.share(axis) if mean and axis else 1.0
            found = served(batch, axis, scale, *options)
            if found is not None:
                return _with_gradient(found, formula, batch, *options)
    return formula(batch)


def chosen(batch: Batch) -> Iterator[Any]:
    """The backends that may support a batch, the fastest first."""
    if batch.target.requires_grad or torch._C._are_functorch_transforms_active():
        return
    if torch.compiler.is_compiling():
        candidates: tuple[Any, ...] = () if _is_recorded() else (operators, compact)
    elif _is_traced(batch.input, batch.target, batch.weight):
        candidates = ()
    else:
        device = "cpu" if batch.input.is_cpu else batch.input.device.type  # `.type` is slow
        fast = cpu if uses_loops(device) else loaded_triton() if uses_kernels(device) else None
        candidates = (compact,) if fast is None else (fast, compact)
    for backend in candidates:
        if backend.serves(batch):
            yield backend


def _is_traced(*tensors: Tensor | None) -> bool:
    """Whether a subclass, jit.trace, a dispatch mode or forward-mode AD records operations."""
    for t in tensors:
        if t is not None and type(t) not in _PLAIN:
            return True
    return (
        torch._C._is_tracing()
        or _dispatch_mode() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _with_gradient(found: Found, formula: Formula, batch: Batch, *options: Any) -> Tensor:
    value, gradient = found
    if gradient is None:
        return value
    rest = batch.f, batch.validate, batch.hard, batch.group
    tensors = batch.input, batch.target, batch.weight, batch.valid
    others = [each for each in options if isinstance(each, Tensor)]
    return _WithGradient.apply((value, gradient, formula, rest), *tensors, *others)


class _WithGradient(torch.autograd.Function):
    """A value and the function that computes its gradient.

    `gradient` overwrites its buffer, so it can run only once, but for float64, which only the loops
    support. A second backward pass, or one with `create_graph=True`, computes the gradient again by
    the formula.
    """

    @staticmethod
    def forward(ctx: Any, known: tuple[Any, ...], *tensors: Tensor | None) -> Tensor:
        value, ctx.gradient, ctx.formula, ctx.rest = known
        # all of them, so that autograd detects an in-place change before the backward pass, and
        # nowhere else, so that it frees them after that pass
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, target, weight, valid, *others = ctx.saved_tensors
        gradient = ctx.gradient
        ctx.gradient = gradient if x.dtype == torch.float64 else None
        again = torch.is_grad_enabled()  # with create_graph=True
        batched = torch._C._functorch.is_legacy_batchedtensor(grads[0])  # is_grads_batched=True
        if gradient is None or again or batched:
            with torch.enable_grad():
                # not x itself: its hooks would run here, too
                x = x.view_as(x) if again else x.detach().requires_grad_()
                value = ctx.formula(Batch(x, target, weight, valid, *ctx.rest))
            upstream = grads[0].to(value.dtype)
            (found,) = torch.autograd.grad(value, x, upstream, create_graph=again)
        else:
            found = gradient(grads[0])
            if found.dtype != x.dtype:  # `to` is slow even if it does nothing
                found = found.to(x.dtype)
        return None, found, None, None, None, *[None] * len(others)
