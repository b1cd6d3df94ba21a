"""The sums of the backends as operators, for compiled code.

The compiler knows of an operator its shapes and its gradient. It refuses nothing, for there is no
other way from within: what the loops refuse, an operator computes by the formula, from targets
`in_range` if it is `guarded`. The operators of the gradients take x, which they may not need, so
that the compiler sees who asks for second derivatives, and says that there are none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segact_torch import _sums
from segact_torch._backends import cpu
from segact_torch._batch import Axis, Batch, in_range
from segact_torch._derivatives import _weigh
from segact_torch.activations import Activation

Found = tuple[Tensor, None]


def _serves(batch: Batch) -> bool:
    f = batch.f
    exact = isinstance(f, Activation) and type(f) in cpu.SMOOTH and f.epsilon == 0
    return exact and batch.dtype == torch.float32


def cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Found | None:
    """Cross entropies summed over `axis` times `scale`, or each if there is no axis."""
    if isinstance(pos_weight, Tensor) or not _serves(batch):
        return None
    options = (cpu.SMOOTH.index(type(batch.f)), pos_weight, label_smoothing)
    of_batch = (batch.x, batch.y, batch.w, list(axis), batch.guarded)
    sums, _ = cross_entropy_operator(*of_batch, *options)
    return ((sums * scale).float() if axis else sums), None


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found | None:
    """fp FP + fn FN and tp TP + fp FP + fn FN over `axis`, stacked."""
    if not _serves(batch):
        return None
    options = (cpu.SMOOTH.index(type(batch.f)), float(tp), float(fp), float(fn))
    of_batch = (batch.x, batch.y, batch.w, list(axis), batch.guarded)
    sums, _ = overlap_operator(*of_batch, *options)
    return sums, None


@torch.library.custom_op(
    "segact::cross_entropy",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, int[] axis, bool guarded, int activation, "
    "float pos_weight, float label_smoothing) -> (Tensor, Tensor)",
)
def cross_entropy_operator(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Sequence[int],
    guarded: bool,
    activation: int,
    pos_weight: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Sums in float64, or each loss if there is no axis, and the gradient of their sum."""
    f, rows = cpu.SMOOTH[activation](), cpu.Rows(x, y, w, tuple(axis))
    slopes, losses = rows.empty(), None if axis else rows.empty()
    numbers = cpu._numbers(0.0, on=pos_weight, label_smoothing=label_smoothing)
    value = rows.sums(cpu.CROSS_ENTROPY, f, numbers, losses, slopes, wide=True)
    if value is not None:
        return (value if losses is None else losses.contiguous()), slopes.contiguous()
    y = in_range(y) if guarded else y
    each = _sums.cross_entropy(
        Batch(x, y, w, None, f, validate=False), (), False, pos_weight, label_smoothing
    )
    y = _sums.smooth_labels(y, label_smoothing)
    on, off = (t if w is None else _weigh(w, t) for t in (pos_weight * y, 1 - y))
    slopes = -(_weigh(on, f._logcdf_derivative(x)) + _weigh(off, f._logsf_derivative(x)))
    return each.double().sum(tuple(axis)) if axis else each.contiguous(), slopes.contiguous()


@cross_entropy_operator.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], *options: Any) -> Any:
    sums = x.new_empty(_kept(x, axis), dtype=torch.float64) if axis else x.new_empty(x.shape)
    return sums, x.new_empty(x.shape)


@torch.library.custom_op(
    "segact::cross_entropy_gradient",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor slopes, Tensor upstream, int[] axis) -> Tensor",
)
def _cross_entropy_gradient(
    x: Tensor, slopes: Tensor, upstream: Tensor, axis: Sequence[int]
) -> Tensor:
    factor = cpu.spread(upstream.float(), x.shape, axis) if axis else upstream
    return _weigh(factor.expand(slopes.shape), slopes)


@_cross_entropy_gradient.register_fake
def _(x: Tensor, slopes: Tensor, upstream: Tensor, axis: Sequence[int]) -> Tensor:
    return torch.empty_like(slopes)


def _save_slopes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, _, ctx.axis, *_ = inputs
    ctx.save_for_backward(x, output[1])


def _cross_entropy_backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    return _cross_entropy_gradient(*ctx.saved_tensors, upstream, ctx.axis), *[None] * 7


cross_entropy_operator.register_autograd(_cross_entropy_backward, setup_context=_save_slopes)


@torch.library.custom_op(
    "segact::overlap",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, int[] axis, bool guarded, int activation, float tp, "
    "float fp, float fn) -> (Tensor, Tensor)",
)
def overlap_operator(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Sequence[int],
    guarded: bool,
    activation: int,
    tp: float,
    fp: float,
    fn: float,
) -> tuple[Tensor, Tensor]:
    """The two sums over `axis`, stacked, and the density of every element."""
    f, rows = cpu.SMOOTH[activation](), cpu.Rows(x, y, w, tuple(axis))
    density = rows.empty()
    numbers = cpu._numbers(0.0, tp=tp, fp=fp, fn=fn)
    value = rows.sums(cpu.OVERLAP, f, numbers, None, density)
    if value is not None:
        return value, density.contiguous()
    y = in_range(y) if guarded else y
    batch = Batch(x, y, w, None, f, validate=False)
    sums = _sums.overlap(batch, tuple(axis), tp=tp, fp=fp, fn=fn)
    return torch.stack(sums), f.pdf(x).contiguous()


@overlap_operator.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], *options: Any) -> Any:
    return x.new_empty([2, *_kept(x, axis)]), x.new_empty(x.shape)


@torch.library.custom_op(
    "segact::overlap_gradient",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, Tensor density, Tensor upstream, int[] axis, "
    "float tp, float fp, float fn) -> Tensor",
)
def _overlap_gradient(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    density: Tensor,
    upstream: Tensor,
    axis: Sequence[int],
    tp: float,
    fp: float,
    fn: float,
) -> Tensor:
    rows = cpu.Rows(x, y, w, tuple(axis))
    gradient = rows.empty().copy_(density)
    numbers = cpu._numbers(0.0, tp=tp, fp=fp, fn=fn)
    return rows.overlap_slopes(gradient, upstream, numbers).contiguous()


@_overlap_gradient.register_fake
def _(x: Tensor, y: Tensor, w: Any, density: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(density)


def _save_density(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, w, ctx.axis, _, _, *ctx.costs = inputs
    ctx.save_for_backward(x, y, w, output[1])


def _overlap_backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    gradient = _overlap_gradient(*ctx.saved_tensors, upstream, ctx.axis, *ctx.costs)
    return gradient, *[None] * 8


overlap_operator.register_autograd(_overlap_backward, setup_context=_save_density)


def _kept(x: Tensor, axis: Sequence[int]) -> list[int]:
    """The sizes of x without the dimensions `axis`."""
    return [size for a, size in enumerate(x.shape) if a not in axis]
