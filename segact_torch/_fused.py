"""Cross entropy and the areas of overlap by compiled loops, for float32 on a CPU.

The formulas of `segact_torch.losses` make a tensor of every step. The loops of `_kernels.c` go over
the input once, and leave the gradient behind: one tensor, which the backward pass hands on. They
are compiled when the package is installed, where there is a C compiler. They serve the five smooth
activations without epsilon, and for areas the two others as published. For everything else each
function here returns None, and the formula decides: other activations, precisions and devices, raw
outputs beyond 1e12, NaN, targets or weights out of their range, function transforms, export, and
gradients in the target.

`SEGACT_KERNELS=0` in the environment, before the import, leaves them out.
"""

import ctypes
import importlib.machinery
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segact_torch.activations import (
    Activation,
    Arctan,
    HardTanh,
    InverseSquareRoot,
    Linear,
    NormalCDF,
    Sigmoid,
    Softsign,
    _Weigh,
)

Axis = tuple[int, ...]
Formula = Callable[[Tensor], Tensor]

# As in _kernels.c.
BLOCK = 1024
# An area below this counts as none, as in the formula.
TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
SMOOTH = (Sigmoid, NormalCDF, Arctan, Softsign, InverseSquareRoot)
ORDER = (*SMOOTH, HardTanh, Linear)

_THREADS = _ACTIVATION = ctypes.c_int
_COUNT, _FLOAT, _DATA = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ROWS = [_THREADS, _COUNT, _COUNT, _DATA, _DATA, _DATA]  # of x, y and w
_ARGUMENTS = {
    "segact_cross_entropy": [*_ROWS, _ACTIVATION, _FLOAT, _FLOAT, _DATA, _DATA, _DATA],
    "segact_areas": [*_ROWS, _ACTIVATION, _FLOAT, _FLOAT, _DATA, _DATA],
    "segact_areas_gradient": [*_ROWS, _DATA, _DATA],
    "segact_through_extremes": [_COUNT, _DATA, _FLOAT, _FLOAT, _DATA],
}


def _load() -> ctypes.CDLL | None:
    """The compiled loops; None where there are none."""
    names = [f"_kernels{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    found = [path for path in map(Path(__file__).with_name, names) if path.is_file()]
    if not found or os.environ.get("SEGACT_KERNELS") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(found[0]))
    except OSError:  # of another system, or without its OpenMP
        return None
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


LIBRARY = _load()


def serves(f: object, *tensors: Tensor | None) -> bool:
    """Whether the loops have this activation, and can read these: the input, then constants."""
    given = [t for t in tensors if t is not None]
    return (
        LIBRARY is not None
        and type(f) in ORDER
        and isinstance(f, Activation)
        and f.epsilon == f.default_epsilon
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in given)
        and not any(t.requires_grad for t in given[1:])
        and not torch._C._are_functorch_transforms_active()
        and not _is_followed(given)
    )


def _is_followed(tensors: list[Tensor]) -> bool:
    """Whether somebody follows the operations on these, who would not see the loops."""
    if torch.compiler.is_compiling():  # to be run here, or to be taken elsewhere
        return not torch.compiler.is_dynamo_compiling() or _is_exporting()
    return (
        any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors)
        or torch.jit.is_tracing()
        or torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _is_exporting() -> bool:
    known = getattr(torch.compiler, "is_exporting", None)  # since PyTorch 2.7
    return known is not None and known()


def cross_entropy(
    each: Formula,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    f: object,
    axis: Axis,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Tensor | None:
    """What each(x) gives, summed over `axis` in float64; each loss if there is no axis."""
    if isinstance(pos_weight, Tensor) or type(f) not in SMOOTH or not serves(f, x, y, w):
        return None
    options = (ORDER.index(type(f)), pos_weight, label_smoothing)
    if torch.compiler.is_compiling():
        return _cross_entropy(x, y, w, list(axis), *options)[0]
    rows = _Rows(x, y, w, axis or tuple(range(x.ndim)))
    slopes = rows.empty() if _is_differentiated(x) else None
    value = rows.cross_entropy(slopes, not axis, *options)
    del rows  # copies, if x does not lie in rows
    if value is None or slopes is None:
        return value

    def gradient(upstream: Tensor) -> Tensor:
        factor = _spread(upstream.float(), x.shape, axis) if axis else upstream
        if factor.isfinite().all():
            return slopes.mul_(factor)
        return _Weigh.forward(factor.expand(x.shape), slopes)

    def formula(x: Tensor) -> Tensor:
        return each(x).double().sum(axis) if axis else each(x)

    return _known(value, gradient, formula, x, y, w)


def overlap(
    formula: Formula,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    f: object,
    axis: Axis,
    costs: tuple[float, float, float],
    smooth: float,
) -> Tensor | None:
    """What formula(x) gives: the ratio of weighted areas over `axis`."""
    if not axis or not serves(f, x, y, w):
        return None
    activation = ORDER.index(type(f))
    if torch.compiler.is_compiling():
        if type(f) not in SMOOTH:
            return None
        return _ratio(_areas(x, y, w, list(axis), activation)[0], costs, smooth, torch)[0].float()
    span = _span(x, w, f) if isinstance(f, Linear) else (0.0, 0.0)
    if span is None:
        return None
    rows = _Rows(x, y, w, axis)
    density = rows.empty() if _is_differentiated(x) else None
    areas = rows.areas(density, activation, *span)
    if areas is None:
        return None
    if not isinstance(f, Linear):
        rows.x = rows.y  # a copy, if x does not lie in rows, and no longer needed
    ratio, slopes = _ratio(areas.numpy(), costs, smooth, np)  # a few numbers, and NumPy is quick
    value = torch.from_numpy(np.asarray(ratio, np.float32))
    if density is None:
        return value

    def gradient(upstream: Tensor) -> Tensor:
        rows.run("segact_areas_gradient", _chained(upstream.numpy(), slopes), density)
        if isinstance(f, Linear):
            _call("segact_through_extremes", x.numel(), rows.x, *span, density)
        return density

    return _known(value, gradient, formula, x, y, w)


def _span(x: Tensor, w: Tensor | None, f: Linear) -> tuple[float, float] | None:
    """The extremes of x, if they are those of the whole input and their distance is normal."""
    low, high = (t.item() for t in torch.aminmax(x.detach()))
    good = f.axis is None and w is None and TINY < high - low < LARGEST
    return (low, high) if good else None


def _ratio(
    areas: Any, costs: tuple[float, float, float], smooth: float, xp: Any
) -> tuple[Any, Any]:
    """(b FP + c FN) / (a TP + b FP + c FN + smooth), and its slopes in TP, FP and FN."""
    (hits, false_alarms, misses), (a, b, c) = areas, costs
    error, kept = b * false_alarms + c * misses, a * hits + smooth
    total = error + kept
    inverse = xp.where(total < TINY, 0.0, 1 / xp.where(total < TINY, 1.0, total))
    value = error * inverse
    share = kept * inverse * inverse
    return value, (-a * value * inverse, b * share, c * share)


def _chained(upstream: Any, slopes: tuple[Any, ...]) -> Tensor:
    """The slopes of a row in its areas, (rows, 3); 0 where they are, under any upstream."""
    with np.errstate(invalid="ignore", over="ignore"):
        products = [np.where(slope == 0, 0.0, upstream * slope) for slope in slopes]
    return torch.from_numpy(np.stack(products, axis=-1).astype(np.float32))


def _empty(sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Whatever the default dtype and device are."""
    return torch.empty(sizes, dtype=dtype, device="cpu")


def _is_differentiated(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


class _Rows:
    """x, y and w as rows of what is summed over `axis`, each row in the order of its memory."""

    def __init__(self, x: Tensor, y: Tensor, w: Tensor | None, axis: Axis) -> None:
        kept = [a for a in range(x.ndim) if a not in axis]
        self.shape, self.kept = x.shape, rest(x, axis)
        self.order = [*kept, *sorted(axis, key=x.stride, reverse=True)]
        self.count = math.prod(self.kept)
        self.length = x.numel() // self.count
        self.blocks = -(-self.length // BLOCK)
        self.x, self.y = self.of(x), self.of(y)
        self.w = None if w is None else self.of(w)

    def of(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x, laid out in rows."""
        return x.detach().resolve_neg().permute(self.order).contiguous()

    def empty(self) -> Tensor:
        """A tensor in the shape of x, laid out in rows."""
        return torch.empty_permuted(self.shape, self.order, dtype=torch.float32, device="cpu")

    def cross_entropy(
        self, slopes: Tensor | None, elementwise: bool, *options: int | float
    ) -> Tensor | None:
        """The sum of each row in float64, or every loss, and into `slopes` its gradient."""
        sums = _empty([self.count, self.blocks], torch.float64)
        losses = self.empty() if elementwise else None
        if not self.run("segact_cross_entropy", *options, sums, losses, slopes):
            return None
        return sums.sum(1).reshape(self.kept) if losses is None else losses

    def areas(
        self, density: Tensor | None, activation: int, low: float = 0.0, high: float = 0.0
    ) -> Tensor | None:
        """The areas of each row in float64, stacked, and into `density` what its name says."""
        parts = _empty([self.count, self.blocks, 3], torch.float64)
        if not self.run("segact_areas", activation, low, high, parts, density):
            return None
        return parts.sum(1).T.reshape(3, *self.kept)

    def run(self, name: str, *arguments: Any) -> bool:
        """Call a compiled loop on the rows."""
        shape = (torch.get_num_threads(), self.count, self.length)
        return _call(name, *shape, self.x, self.y, self.w, *arguments)


def _call(name: str, *arguments: Any) -> bool:
    """Call a compiled loop, which takes tensors by their address."""
    plain = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    return bool(getattr(LIBRARY, name)(*plain))


class _Known(torch.autograd.Function):
    """A value whose gradient is at hand: `gradient(upstream)` gives it in place, and so once."""

    @staticmethod
    def forward(ctx: Any, known: tuple[Tensor, Formula, Formula], *inputs: Tensor) -> Tensor:
        value, ctx.gradient, ctx.formula = known
        # all of them, so that autograd notices when one is changed before the backward pass
        ctx.save_for_backward(*inputs)
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
                value = ctx.formula(x)
            (found,) = torch.autograd.grad(value, x, grads[0], create_graph=again)
        else:
            found = gradient(grads[0])
        return None, found, *[None] * len(constants)


def _known(value: Tensor, gradient: Formula, formula: Formula, *inputs: Tensor | None) -> Tensor:
    return _Known.apply((value, gradient, formula), *(t for t in inputs if t is not None))


# In compiled code the loops are operators, of which the compiler knows shapes and gradients. They
# refuse nothing: there is no other way from within. Their gradients take x, which they do not need,
# so that the compiler sees who asks for second derivatives, and says that it has none.


@torch.library.custom_op(
    "segact::cross_entropy",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, int[] axis, int activation, float pos_weight, "
    "float label_smoothing) -> (Tensor, Tensor)",
)
def _cross_entropy(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Sequence[int],
    activation: int,
    pos_weight: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """What `cross_entropy` returns, and the gradient of its sum."""
    rows = _Rows(x, y, w, tuple(axis) or tuple(range(x.ndim)))
    slopes = rows.empty()
    value = rows.cross_entropy(slopes, not axis, activation, pos_weight, label_smoothing)
    if value is not None:
        return value.contiguous(), slopes.contiguous()
    f, y = SMOOTH[activation](), y * (1 - label_smoothing) + label_smoothing / 2
    on, off = (t if w is None else _Weigh.forward(w, t) for t in (pos_weight * y, 1 - y))
    loss = _Weigh.forward(on, -f.logcdf(x)) + _Weigh.forward(off, -f.logsf(x))
    up, down = f._logcdf_derivative(x), f._logsf_derivative(x)
    slopes = -(_Weigh.forward(on, up) + _Weigh.forward(off, down)).contiguous()
    return loss.double().sum(tuple(axis)) if axis else loss.contiguous(), slopes


@_cross_entropy.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], *options: Any) -> Any:
    if not axis:
        return _empty(x.shape, x.dtype), _empty(x.shape, x.dtype)
    return _empty(rest(x, axis), torch.float64), _empty(x.shape, x.dtype)


@torch.library.custom_op(
    "segact::cross_entropy_gradient",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor slopes, Tensor upstream, int[] axis) -> Tensor",
)
def _cross_entropy_gradient(
    x: Tensor, slopes: Tensor, upstream: Tensor, axis: Sequence[int]
) -> Tensor:
    factor = _spread(upstream.float(), x.shape, axis) if axis else upstream
    if factor.isfinite().all():
        return slopes * factor
    return _Weigh.forward(factor.expand(x.shape), slopes)


@_cross_entropy_gradient.register_fake
def _(x: Tensor, slopes: Tensor, upstream: Tensor, axis: Sequence[int]) -> Tensor:
    return torch.empty_like(slopes)


def _save_slopes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, _, ctx.axis, *_ = inputs
    ctx.save_for_backward(x, output[1])


def _cross_entropy_backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    return _cross_entropy_gradient(*ctx.saved_tensors, upstream, ctx.axis), *[None] * 6


_cross_entropy.register_autograd(_cross_entropy_backward, setup_context=_save_slopes)


@torch.library.custom_op(
    "segact::areas",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, int[] axis, int activation) -> (Tensor, Tensor)",
)
def _areas(
    x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], activation: int
) -> tuple[Tensor, Tensor]:
    """The areas TP, FP and FN over `axis`, stacked, and the density of every element."""
    rows = _Rows(x, y, w, tuple(axis))
    density = rows.empty()
    value = rows.areas(density, activation)
    if value is not None:
        return value.contiguous(), density.contiguous()
    f = SMOOTH[activation]()
    p, q = f.cdf(x), f.sf(x)
    parts = [t if w is None else _Weigh.forward(w, t) for t in (y * p, (1 - y) * p, y * q)]
    sums = torch.stack([part.double().sum(tuple(axis)) for part in parts])
    return sums, f.pdf(x).contiguous()


@_areas.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None, axis: Sequence[int], activation: int) -> Any:
    return _empty([3, *rest(x, axis)], torch.float64), _empty(x.shape, x.dtype)


@torch.library.custom_op(
    "segact::areas_gradient",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor y, Tensor? w, Tensor density, Tensor upstream, int[] axis) -> Tensor",
)
def _areas_gradient(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    density: Tensor,
    upstream: Tensor,
    axis: Sequence[int],
) -> Tensor:
    rows = _Rows(x, y, w, tuple(axis))
    gradient = rows.empty().copy_(density)
    slopes = upstream.reshape(3, rows.count).T.float().contiguous()
    rows.run("segact_areas_gradient", slopes, gradient)
    return gradient.contiguous()


@_areas_gradient.register_fake
def _(x: Tensor, y: Tensor, w: Any, density: Tensor, upstream: Tensor, axis: Any) -> Tensor:
    return torch.empty_like(density)


def _save_density(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, w, ctx.axis, _ = inputs
    ctx.save_for_backward(x, y, w, output[1])


def _areas_backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    return _areas_gradient(*ctx.saved_tensors, upstream, ctx.axis), *[None] * 4


_areas.register_autograd(_areas_backward, setup_context=_save_density)


def rest(x: Tensor, axis: Sequence[int]) -> list[int]:
    """The sizes of x without the dimensions `axis`."""
    return [size for a, size in enumerate(x.shape) if a not in axis]


def _spread(reduced: Tensor, shape: Sequence[int], axis: Sequence[int]) -> Tensor:
    """What was summed over `axis`, in a shape that broadcasts to the one that it was summed of."""
    return reduced.reshape([1 if a in axis else size for a, size in enumerate(shape)])
