"""The sums and their gradients by compiled loops, for float32 on a CPU.

The formulas of `segact_torch._sums` make a tensor of every step. The loops of `cpu.c` go over the
input once, and leave the gradient behind: one tensor, which the backward pass hands on. They are
compiled when the package is installed, where there is a C compiler. They serve the five smooth
activations without epsilon, and for areas the two others as published; they refuse raw outputs
beyond 1e12, NaN, and targets or weights out of their range.
"""

import ctypes
import functools
import math
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segact_torch._batch import Axis, Batch, level_of_caller
from segact_torch._derivatives import _weigh
from segact_torch.activations import (
    Activation,
    Arctan,
    HardTanh,
    InverseSquareRoot,
    Linear,
    NormalCDF,
    Sigmoid,
    Softsign,
)

Found = tuple[Tensor, Callable[[Tensor], Tensor] | None]

# As in cpu.c.
BLOCK = 1024
TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
SMOOTH = (Sigmoid, NormalCDF, Arctan, Softsign, InverseSquareRoot)
ORDER = (*SMOOTH, HardTanh, Linear)

_ACTIVATION = ctypes.c_int
_COUNT, _FLOAT, _DATA = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ROWS = [_COUNT, _COUNT, _DATA, _DATA, _DATA]  # of x, y and w
_ARGUMENTS = {
    "segact_cross_entropy": [*_ROWS, _ACTIVATION, _FLOAT, _FLOAT, _DATA, _DATA, _DATA],
    "segact_overlap": [*_ROWS, _ACTIVATION, *[_FLOAT] * 5, _DATA, _DATA],
    "segact_overlap_gradient": [*_ROWS, *[_FLOAT] * 3, _DATA, _DATA],
    "segact_through_extremes": [_COUNT, _DATA, _FLOAT, _FLOAT, _DATA],
    "segact_parallel": [_DATA],
    "segact_source": [],
}


def _load(folder: Path) -> tuple[ctypes.CDLL | None, str]:
    """The compiled loops in a folder, or None and why."""
    found = folder / "_cpu.so"
    if not found.is_file():
        return None, _why_not_compiled(folder)
    again = f"`pip install -e {folder.parents[1]}` compiles it again"
    try:
        loaded = ctypes.CDLL(str(found))
        for name, arguments in _ARGUMENTS.items():
            getattr(loaded, name).argtypes = arguments
        loaded.segact_source.restype = ctypes.c_uint32
    except (OSError, AttributeError) as error:  # of another system or version
        return None, f"{found} does not load ({error}); {again}"
    source = folder / "cpu.c"
    if source.is_file() and zlib.crc32(source.read_bytes()) != loaded.segact_source():
        return None, f"{found} was compiled before {source} changed; {again}"
    loaded.segact_parallel(_threads_of_torch())
    return loaded, ""


def _threads_of_torch() -> ctypes.c_void_p | None:
    """What shares a range among PyTorch's threads, exported since 2.10; else there is one."""
    try:
        function = ctypes.CDLL(torch._C.__file__).torch_parallel_for
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p)


def _why_not_compiled(folder: Path) -> str:
    root = folder.parents[1]
    if sys.platform == "win32":
        return "there are none for Windows"
    if (root / "setup.py").is_file():  # found before an installed package, which may have them
        return (
            f"segact_torch comes from the clone {root}, where they are not compiled; "
            f"`pip install -e {root}` does it, with GCC or Clang"
        )
    return f"segact was installed in {root} without them; install it again where GCC or Clang is"


LIBRARY, WHY_NOT = _load(Path(__file__).parent)


def serves(batch: Batch) -> bool:
    """Whether the loops have this activation, and can read these tensors, where they are."""
    f = batch.f
    return (
        type(f) in ORDER
        and isinstance(f, Activation)
        and f.epsilon == f.default_epsilon
        and batch.dtype == torch.float32
    )


def cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Found | None:
    """Cross entropies summed over `axis` times `scale`, or each if there is no axis."""
    if isinstance(pos_weight, Tensor) or type(batch.f) not in SMOOTH:
        return None
    if LIBRARY is None:
        return _warn()
    x = batch.x
    rows = Rows(x, batch.y, batch.w, axis or tuple(range(x.ndim)))
    slopes = rows.empty() if is_differentiated(batch) else None
    options = (ORDER.index(type(batch.f)), pos_weight, label_smoothing)
    sums = rows.cross_entropy(slopes, not axis, *options)
    if sums is None:
        return None
    value = (sums * scale).float() if axis else sums
    if slopes is None:
        return value, None
    return value, lambda upstream: multiply_(
        slopes, spread(upstream * scale, x.shape, axis) if axis else upstream
    )


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found | None:
    """fp FP + fn FN and tp TP + fp FP + fn FN over `axis`, stacked."""
    x, f, costs = batch.x, batch.f, (tp, fp, fn)
    span = _span(batch, f) if isinstance(f, Linear) else (0.0, 0.0)
    if span is None:
        return None
    if LIBRARY is None:
        return _warn()
    rows = Rows(x, batch.y, batch.w, axis)
    density = rows.empty() if is_differentiated(batch) else None
    sums = rows.overlap(density, ORDER.index(type(f)), costs, *span)
    if sums is None or density is None:
        return None if sums is None else (sums, None)
    if not isinstance(f, Linear):
        rows.x = rows.y  # a copy, if x does not lie in rows, and no longer needed

    def gradient(upstream: Tensor) -> Tensor:
        rows.overlap_gradient(upstream, density, costs)
        if isinstance(f, Linear):
            _call("segact_through_extremes", x.numel(), rows.x, *span, density)
        return density

    return sums, gradient


@functools.cache
def _warn() -> None:
    """Once, that the loops would have served and are not there."""
    warnings.warn(
        f"the losses run without the compiled loops, slower: {WHY_NOT}"
        ". SEGACT_KERNELS=0 in the environment says that this is wanted",
        RuntimeWarning,
        stacklevel=level_of_caller(),
    )


def multiply_(slopes: Tensor, factor: Tensor) -> Tensor:
    """slopes * factor, in place where no factor is infinite."""
    if factor.isfinite().all():
        return slopes.mul_(factor)
    return _weigh(factor.expand(slopes.shape), slopes)


def spread(reduced: Tensor, shape: Sequence[int], axis: Sequence[int]) -> Tensor:
    """What was summed over `axis`, in a shape that broadcasts to the one that it was summed of."""
    return reduced.reshape([1 if a in axis else size for a, size in enumerate(shape)])


def _span(batch: Batch, f: Linear) -> tuple[float, float] | None:
    """The extremes of x, if they are those of the whole input and their distance is normal."""
    low, high = (t.item() for t in torch.aminmax(batch.x.detach()))
    good = f.axis is None and batch.w is None and TINY < high - low < LARGEST
    return (low, high) if good else None


def _empty(sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of this dtype and on the CPU, under any defaults of PyTorch."""
    return torch.empty(sizes, dtype=dtype, device="cpu")


def is_differentiated(batch: Batch) -> bool:
    """Whether a gradient may be asked for."""
    return batch.input.requires_grad and torch.is_grad_enabled()


class Rows:
    """x, y and w as rows, each summed over `axis` and in the order of its memory."""

    def __init__(self, x: Tensor, y: Tensor, w: Tensor | None, axis: Axis) -> None:
        kept = [a for a in range(x.ndim) if a not in axis]
        self.shape, self.kept = x.shape, [x.shape[a] for a in kept]
        self.order = [*kept, *sorted(axis, key=x.stride().__getitem__, reverse=True)]
        self.straight = self.order == list(range(x.ndim))
        self.count = math.prod(self.kept)
        self.length = x.numel() // self.count
        self.blocks = -(-self.length // BLOCK)
        self.x, self.y = self.of(x), self.of(y)
        self.w = None if w is None else self.of(w)

    def of(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x, laid out in rows: x itself, if it is."""
        if self.straight and x.is_contiguous() and not x.is_neg():
            return x
        return x.detach().resolve_neg().permute(self.order).contiguous()

    def empty(self) -> Tensor:
        """A tensor in the shape of x, laid out in rows."""
        if self.straight:
            return _empty(self.shape, torch.float32)
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

    def overlap(
        self,
        density: Tensor | None,
        activation: int,
        costs: tuple[float, float, float],
        low: float = 0.0,
        high: float = 0.0,
    ) -> Tensor | None:
        """The two sums of each row, stacked, and into `density` what its name says."""
        parts = _empty([2, self.count, self.blocks], torch.float64)
        if not self.run("segact_overlap", activation, *costs, low, high, parts, density):
            return None
        return parts.sum(2).float().reshape(2, *self.kept)

    def overlap_gradient(
        self, upstream: Tensor, density: Tensor, costs: tuple[float, float, float]
    ) -> None:
        """Makes the gradient of `density`, in place; upstream (2, ...) is that of the sums."""
        self.run("segact_overlap_gradient", *costs, upstream.contiguous(), density)

    def run(self, name: str, *arguments: Any) -> bool:
        """Call a compiled loop on the rows."""
        return _call(name, self.count, self.length, self.x, self.y, self.w, *arguments)


def _call(name: str, *arguments: Any) -> bool:
    """Call a compiled loop, which takes tensors by their address."""
    plain = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    return bool(getattr(LIBRARY, name)(*plain))
