"""Cross entropy and the areas of overlap by compiled loops, for float32 on a CPU.

The formulas of `segact_torch.losses` make a tensor of every step. The loops of `_kernels.c` go over
the input once, and leave the gradient behind: one tensor, which the backward pass hands on. They
are compiled when the package is installed, where there is a C compiler, and they serve the five
smooth activations without epsilon. For everything else each function here returns None, and the
formula decides: other activations, precisions and devices, raw outputs beyond 1e12, NaN, targets
or weights out of their range, compiled code and function transforms, gradients in the target.

`SEGACT_KERNELS=0` in the environment, before the import, leaves them out.
"""

import ctypes
import importlib.machinery
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segact_torch.activations import (
    Activation,
    Arctan,
    InverseSquareRoot,
    NormalCDF,
    Sigmoid,
    Softsign,
)

Axis = tuple[int, ...]
Formula = Callable[[Tensor], Tensor]

# As in _kernels.c.
BLOCK = 512
ORDER = (Sigmoid, NormalCDF, Arctan, Softsign, InverseSquareRoot)

_THREADS = _ACTIVATION = ctypes.c_int
_COUNT, _FLOAT, _DATA = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ROWS = [_THREADS, _COUNT, _COUNT, _DATA, _DATA, _DATA]  # of x, y and w
_ARGUMENTS = {
    "segact_cross_entropy": [*_ROWS, _ACTIVATION, _FLOAT, _FLOAT, _DATA, _DATA, _DATA],
    "segact_areas": [*_ROWS, _ACTIVATION, _DATA, _DATA],
    "segact_areas_gradient": [*_ROWS, _DATA, _DATA],
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loops; None where there are none."""
    here = [
        Path(__file__).with_name(f"_kernels{s}") for s in importlib.machinery.EXTENSION_SUFFIXES
    ]
    found = [path for path in here if path.is_file()]
    if not found or os.environ.get("SEGACT_KERNELS") == "0":
        return None
    loaded = ctypes.CDLL(str(found[0]))
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


def serves(f: object, *tensors: Tensor | None) -> bool:
    """Whether the loops have this activation, and can read these: the input, then constants."""
    given = [t for t in tensors if t is not None]
    return (
        not torch.compiler.is_compiling()
        and type(f) in ORDER
        and isinstance(f, Activation)
        and f.epsilon == 0
        and all(type(t) in (Tensor, torch.nn.Parameter) for t in given)
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in given)
        and not any(t.requires_grad for t in given[1:])
        and not _is_traced()
        and library() is not None
    )


def _is_traced() -> bool:
    """Whether somebody follows the operations, who would not see the loops."""
    return (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.utils._python_dispatch._get_current_dispatch_mode() is not None
    )


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
    if isinstance(pos_weight, Tensor) or not serves(f, x, y, w):
        return None
    rows = _Rows(x, y, w, axis or tuple(range(x.ndim)))
    sums = torch.empty(rows.count, rows.blocks, dtype=torch.float64)
    losses = None if axis else rows.empty()
    slopes = rows.empty() if _is_differentiated(x) else None
    options = (ORDER.index(type(f)), pos_weight, label_smoothing)
    if not rows.run("segact_cross_entropy", *options, sums, losses, slopes):
        return None
    value = sums.sum(1).reshape(rows.kept) if losses is None else rows.back(losses)
    if slopes is None:
        return value

    def gradient(upstream: Tensor) -> Tensor:
        factor = upstream.float().reshape(rows.count, 1) if axis else rows.of(upstream)
        return rows.back(slopes.mul_(factor))

    def formula(x: Tensor) -> Tensor:
        return each(x).double().sum(axis) if axis else each(x)

    return _Known.apply([value], gradient, formula, x, y, w)


def areas(
    formula: Formula, x: Tensor, y: Tensor, w: Tensor | None, f: object, axis: Axis
) -> Tensor | None:
    """What formula(x) gives in float64: TP, FP and FN over `axis`, stacked."""
    if not axis or not serves(f, x, y, w):
        return None
    rows = _Rows(x, y, w, axis)
    parts = torch.empty(rows.count, rows.blocks, 3, dtype=torch.float64)
    density = rows.empty() if _is_differentiated(x) else None
    if not rows.run("segact_areas", ORDER.index(type(f)), parts, density):
        return None
    value = parts.sum(1).T.reshape(3, *rows.kept)
    if density is None:
        return value

    def gradient(upstream: Tensor) -> Tensor:
        slopes = upstream.reshape(3, rows.count).T.float().contiguous()
        rows.run("segact_areas_gradient", slopes, density)
        return rows.back(density)

    return _Known.apply([value], gradient, lambda x: formula(x).double(), x, y, w)


def _is_differentiated(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


class _Rows:
    """x, y and w as rows of what is summed over `axis`, each row in the order of its memory."""

    def __init__(self, x: Tensor, y: Tensor, w: Tensor | None, axis: Axis) -> None:
        kept = [a for a in range(x.ndim) if a not in axis]
        self.order = [*kept, *sorted(axis, key=x.stride, reverse=True)]
        self.sizes = [x.shape[a] for a in self.order]
        self.kept = self.sizes[: len(kept)]
        self.count = math.prod(self.kept)
        self.length = x.numel() // self.count
        self.blocks = -(-self.length // BLOCK)
        self.tensors = [None if t is None else self.of(t) for t in (x, y, w)]

    def empty(self) -> Tensor:
        return torch.empty(self.count, self.length)

    def of(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x as rows, one after the other."""
        return x.detach().permute(self.order).reshape(self.count, self.length).contiguous()

    def back(self, rows: Tensor) -> Tensor:
        """Rows in the shape of x."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return rows.reshape(self.sizes).permute(inverse)

    def run(self, name: str, *arguments: Any) -> bool:
        """Call a compiled loop, which takes tensors by their address."""
        given = (torch.get_num_threads(), self.count, self.length, *self.tensors, *arguments)
        plain = (a.data_ptr() if isinstance(a, Tensor) else a for a in given)
        return bool(getattr(library(), name)(*plain))


class _Known(torch.autograd.Function):
    """A value whose gradient is at hand: `gradient(upstream)` gives it, once."""

    @staticmethod
    def forward(
        ctx: Any, value: list[Tensor], gradient: Formula, formula: Formula, *inputs: Tensor | None
    ) -> Tensor:
        # all of them, so that autograd notices when one is changed before the backward pass
        ctx.save_for_backward(*inputs)
        ctx.gradient, ctx.formula = gradient, formula
        return value[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *_ = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        again = torch.is_grad_enabled()  # the gradient is to be differentiated in turn
        if gradient is None or again:
            with torch.enable_grad():
                value = ctx.formula(x)
            (found,) = torch.autograd.grad(value, x, grads[0], create_graph=again)
        else:
            found = gradient(grads[0])
        return None, None, None, found, None, None
