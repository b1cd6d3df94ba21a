"""The sums of the backends as operators, for compiled code: loops on a CPU, kernels on a GPU.

The compiler knows the shapes and the gradient of an operator. Gradients are in PyTorch's own
operations, so that the compiler fuses them with what comes before and after, in the memory of the
slopes. An operator cannot refuse a batch: what the loops refuse, it computes with `compact` or the
formula, from targets `in_range` if `guarded`.

Compiled code is cached on disk, by the names and arguments of operators. So an operator whose
results or gradient change gets another name.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segact_torch import _special, _sums
from segact_torch._backends import availability, compact, cpu
from segact_torch._batch import Axis, Batch, in_range
from segact_torch.activations import Activation, Linear

Found = tuple[Tensor, None]

# From this number of elements on, compiled code calls the kernels for elementwise losses. With
# fewer, the host takes most of the time of both.
LARGE = 1 << 24


def serves(batch: Batch) -> bool:
    """Whether the loops or kernels support it; not linear, whose slopes need the whole batch."""
    if isinstance(batch.f, Linear):
        return False
    device = batch.input.device.type
    if availability.uses_loops(device):
        return cpu.LIBRARY is not None and cpu.serves(batch)
    large = availability.uses_kernels(device) and batch.input.numel() >= LARGE
    return large and availability.has_triton() and compact.serves(batch)


def _of(f: Any) -> tuple[int, float]:
    """The number and the epsilon of an activation, the arguments of the operators."""
    return cpu.ORDER.index(type(f)), f.epsilon


def cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Found | None:
    """Cross entropies summed over `axis` times `scale`; elementwise if `axis` is empty."""
    if isinstance(pos_weight, Tensor):
        return None
    options = (pos_weight, 1.0, 0.0, label_smoothing)
    return _elements(batch, axis, scale, cpu.CROSS_ENTROPY, *options)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
) -> Found | None:
    """Focal cross entropies, as `cross_entropy`."""
    if not 1 <= gamma <= cpu.STEEPEST:
        return None
    on, off = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return _elements(batch, axis, scale, cpu.FOCAL, on, off, gamma, label_smoothing)


def squared_error(batch: Batch, axis: Axis, scale: float | Tensor) -> Found:
    """Squared errors, as `cross_entropy`."""
    return _elements(batch, axis, scale, cpu.SQUARED_ERROR, 1.0, 1.0, 0.0, 0.0)


def _elements(batch: Batch, axis: Axis, scale: float | Tensor, loss: int, *options: float) -> Found:
    of_batch = (batch.x, batch.y, batch.w, list(axis), batch.guarded)
    sums, _ = elements_operator(*of_batch, loss, *_of(batch.f), *map(float, options))
    return ((sums * scale).to(batch.dtype) if axis else sums), None


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found | None:
    """fp FP + fn FN and tp TP over `axis`, stacked."""
    if not _serves_overlap(batch):
        return None
    of_batch = (batch.x, batch.y, batch.w, list(axis), batch.guarded, _of(batch.f)[0])
    sums, _ = overlap_operator(*of_batch, float(tp), float(fp), float(fn))
    return sums, None


def ratio_and_entropy(
    batch: Batch,
    axis: Axis,
    smooth: float,
    pos_weight: float | Tensor,
    label_smoothing: float,
    tp: float,
    fp: float,
    fn: float,
) -> Found | None:
    """The ratio of the sums of `overlap`, and the mean cross entropy over `axis`, stacked."""
    if isinstance(pos_weight, Tensor) or not _serves_overlap(batch):
        return None
    of_batch = (batch.x, batch.y, batch.w, list(axis), batch.guarded, _of(batch.f)[0])
    numbers = map(float, (tp, fp, fn, pos_weight, label_smoothing))
    sums, _, _ = overlap_and_entropy_operator(*of_batch, *numbers)
    error, hit, entropy = sums
    mean = entropy * batch.share(axis)
    return torch.stack((_sums.ratio(error, hit, smooth), mean)).to(batch.dtype), None


def _serves_overlap(batch: Batch) -> bool:
    """Whether the loops support an overlap loss.

    Not on a GPU, where the compiled formula moves no more bytes than the kernels. Nor with an
    epsilon, nor for hardtanh: the compiled formula takes half the time of the loops.
    """
    return availability.uses_loops(batch.input.device.type) and _of(batch.f)[1] == 0


def _kernels(x: Tensor) -> Any:
    """The module that launches kernels, if they compute tensors on this device; else None."""
    if not availability.uses_kernels(x.device.type):
        return None
    return availability.found_triton()[0].launch


@torch.library.custom_op(
    "segact::only_once",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor x, Tensor upstream) -> Tensor",
)
def _only_once(x: Tensor, upstream: Tensor) -> Tensor:
    """1, as a factor of a gradient in x that makes a second derivative an error.

    The compiler knows no derivative of this. Without it the part of a second derivative that flows
    through the slopes would be missing without a word.
    """
    return upstream.new_ones(())


@_only_once.register_fake
def _(x: Tensor, upstream: Tensor) -> Tensor:
    return upstream.new_empty(())


class Terms(NamedTuple):
    """An elementwise loss: the terms of y have the weight `on`, those of 1 - y the weight `off`."""

    loss: int
    f: Activation
    on: float
    off: float
    gamma: float
    label_smoothing: float

    @property
    def alpha(self) -> float | None:
        return None if self.on == self.off == 1 else self.on


@torch.library.custom_op(
    "segact::losses",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor x, Tensor y, Tensor? w, int[] axis, bool guarded, int loss, int activation, "
    "float epsilon, float on, float off, float gamma, float label_smoothing) -> (Tensor, Tensor)",
)
def elements_operator(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Sequence[int],
    guarded: bool,
    loss: int,
    activation: int,
    epsilon: float,
    on: float,
    off: float,
    gamma: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Sums in float64, or elementwise losses if there is no axis, and the gradient of their sum."""
    terms = Terms(loss, cpu.ORDER[activation](epsilon), on, off, gamma, label_smoothing)
    launch, batch = _kernels(x), (x, y, w, tuple(axis))
    if launch is None:
        found = _elements_by_loops(*batch, terms)
    else:
        found = _elements_by_kernels(launch, *batch, guarded, terms)
    if found is None:
        found = _elements_by_operations(*batch, guarded, terms)
    return found[0].contiguous(), found[1].contiguous()


def _elements_by_operations(
    x: Tensor, y: Tensor, w: Tensor | None, axis: Axis, guarded: bool, terms: Terms
) -> tuple[Tensor, Tensor]:
    y = in_range(y) if guarded else y
    batch = Batch(x.detach().requires_grad_(), y, w, None, terms.f, validate=False)
    name, options = {
        cpu.CROSS_ENTROPY: ("cross_entropy", (terms.on, terms.label_smoothing)),
        cpu.FOCAL: ("focal_cross_entropy", (terms.gamma, terms.alpha, terms.label_smoothing)),
        cpu.SQUARED_ERROR: ("squared_error", ()),
    }[terms.loss]
    if compact.serves(batch):
        with torch.enable_grad():
            each, gradient = getattr(compact, name)(batch, (), 1.0, *options)
        slopes = gradient(torch.ones_like(each))
    else:
        each, slopes = _differentiated(
            lambda: getattr(_sums, name)(batch, (), False, *options), batch
        )
    return (each.double().sum(axis) if axis else each), slopes


def _differentiated(formula: Callable[[], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """The losses of a formula and their slopes.

    In another thread, since autograd records nothing inside an operator.
    """

    def both() -> tuple[Tensor, Tensor]:
        each = formula()
        (slopes,) = torch.autograd.grad(each.sum(), batch.input)
        return each.detach(), slopes

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(both).result()


def _elements_by_loops(
    x: Tensor, y: Tensor, w: Tensor | None, axis: Axis, terms: Terms
) -> tuple[Tensor, Tensor] | None:
    loss, f, on, off, gamma, label_smoothing = terms
    rows = cpu.Rows(x, y, w, axis)
    slopes, losses = rows.empty(), None if axis else rows.empty()
    numbers = cpu._numbers(f.epsilon, gamma=gamma, label_smoothing=label_smoothing, on=on, off=off)
    value = rows.sums(loss, f, numbers, losses=losses, slopes=slopes, wide=True)
    return None if value is None else (value if losses is None else losses, slopes)


def _elements_by_kernels(
    launch: Any, x: Tensor, y: Tensor, w: Tensor | None, axis: Axis, guarded: bool, terms: Terms
) -> tuple[Tensor, Tensor] | None:
    arguments, checked = (x, y, w, axis, terms.f), {"guarded": guarded}
    if terms.loss == cpu.CROSS_ENTROPY:
        found = launch.cross_entropy(*arguments, terms.on, terms.label_smoothing, **checked)
    elif terms.loss == cpu.SQUARED_ERROR:
        found = launch.squared_error(*arguments, **checked)
    elif terms.gamma < launch.LARGEST_GAMMA:
        options = (terms.gamma, terms.alpha, terms.label_smoothing)
        found = launch.focal_cross_entropy(*arguments, *options, **checked)
    else:
        return None
    value, slopes = found
    return value, slopes


@elements_operator.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], *options: Any) -> Any:
    sums = x.new_empty(_kept(x, axis), dtype=torch.float64) if axis else x.new_empty(x.shape)
    return sums, x.new_empty(x.shape)


def _save_slopes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, _, ctx.axis, *_ = inputs
    ctx.save_for_backward(x, output[1])
    ctx.mark_non_differentiable(output[1])


def _elements_backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Any, ...]:
    x, slopes = ctx.saved_tensors
    factor = (upstream * _only_once(x, upstream)).to(slopes.dtype)
    factor = cpu.spread(factor, slopes.shape, ctx.axis) if ctx.axis else factor
    return compact._times(slopes, factor), *[None] * 11


elements_operator.register_autograd(_elements_backward, setup_context=_save_slopes)


@torch.library.custom_op(
    "segact::overlap_sums",
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
    """The two sums of `overlap`, stacked, and the density of every element."""
    f, rows = cpu.ORDER[activation](), cpu.Rows(x, y, w, tuple(axis))
    density = rows.empty()
    numbers = cpu._numbers(0.0, tp=tp, fp=fp, fn=fn)
    value = rows.sums(cpu.OVERLAP, f, numbers, density=density)
    if value is not None:
        return value, density.contiguous()
    y = in_range(y) if guarded else y
    batch = Batch(x, y, w, None, f, validate=False)
    sums = _sums.overlap(batch, tuple(axis), tp=tp, fp=fp, fn=fn)
    return torch.stack(sums), f.pdf(x).contiguous()


@overlap_operator.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], *options: Any) -> Any:
    return x.new_empty([2, *_kept(x, axis)]), x.new_empty(x.shape)


def _save_density(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, w, ctx.axis, _, _, *ctx.costs = inputs
    ctx.save_for_backward(x, y, w, output[1])
    ctx.mark_non_differentiable(output[1])


def _overlap_backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Any, ...]:
    x, y, w, density = ctx.saved_tensors
    factors = upstream * _only_once(x, upstream)
    return _overlap_slopes(y, w, density, factors, ctx.axis, *ctx.costs), *[None] * 8


def _overlap_slopes(
    y: Tensor,
    w: Tensor | None,
    density: Tensor,
    upstream: Tensor,
    axis: Axis,
    tp: float,
    fp: float,
    fn: float,
) -> Tensor:
    """The gradient in x of the two sums."""
    of_error, of_hit = (cpu.spread(u, density.shape, axis) for u in upstream)
    y = _special.clip(y, 0.0, 1.0)
    factor = (1 - y) * (fp * of_error) + y * (tp * of_hit - fn * of_error)
    density = density if w is None else compact._times(w, density)
    return compact._times(density, factor)


overlap_operator.register_autograd(_overlap_backward, setup_context=_save_density)


@torch.library.custom_op(
    "segact::overlap_and_entropy",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, int[] axis, bool guarded, int activation, float tp, "
    "float fp, float fn, float on, float label_smoothing) -> (Tensor, Tensor, Tensor)",
)
def overlap_and_entropy_operator(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Sequence[int],
    guarded: bool,
    activation: int,
    tp: float,
    fp: float,
    fn: float,
    on: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of `overlap` and of cross entropies, stacked in float64, and the gradient of the
    latter and the density of every element."""
    f, rows = cpu.ORDER[activation](), cpu.Rows(x, y, w, tuple(axis))
    density, slopes = rows.empty(), rows.empty()
    numbers = cpu._numbers(0.0, tp=tp, fp=fp, fn=fn, label_smoothing=label_smoothing, on=on)
    loop = cpu.OVERLAP_AND_ENTROPY
    value = rows.sums(loop, f, numbers, slopes=slopes, density=density, wide=True)
    if value is not None:
        return value, slopes.contiguous(), density.contiguous()
    overlaps, density = overlap_operator(x, y, w, axis, guarded, activation, tp, fp, fn)
    terms = Terms(cpu.CROSS_ENTROPY, f, on, 1.0, 0.0, label_smoothing)
    entropy, slopes = _elements_by_operations(x, y, w, tuple(axis), guarded, terms)
    return torch.cat((overlaps.double(), entropy[None])), slopes.contiguous(), density


@overlap_and_entropy_operator.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], *options: Any) -> Any:
    sums = x.new_empty([3, *_kept(x, axis)], dtype=torch.float64)
    return sums, x.new_empty(x.shape), x.new_empty(x.shape)


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, w, ctx.axis, _, _, *costs, _, _ = inputs
    ctx.costs = costs
    ctx.save_for_backward(x, y, w, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _overlap_and_entropy_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    x, y, w, slopes, density = ctx.saved_tensors
    factors = (upstream * _only_once(x, upstream)).to(slopes.dtype)
    gradient = _overlap_slopes(y, w, density, factors[:2], ctx.axis, *ctx.costs)
    of_entropy = cpu.spread(factors[2], slopes.shape, ctx.axis)
    return gradient + compact._times(slopes, of_entropy), *[None] * 10


overlap_and_entropy_operator.register_autograd(
    _overlap_and_entropy_backward, setup_context=_save_both
)


def _kept(x: Tensor, axis: Sequence[int]) -> list[int]:
    """The sizes of x without the dimensions `axis`."""
    return [size for a, size in enumerate(x.shape) if a not in axis]
