"""The sums and their gradients by compiled loops, on a CPU.

The formulas of `segact_torch._sums` write a tensor at every step. The loops in `loops/` read the
input once, and write the gradient in the same pass: one tensor, which the backward pass returns.
They are compiled when the package is installed, if there is a C compiler. They have the seven
activations, in float32 and float64, and read inputs, targets and weights of any dtype without a
copy; they refuse raw outputs beyond 1e12 (1e100 in float64), or 256 that add up to that, NaN, and
targets or weights out of range.
"""

import ctypes
import functools
import math
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segact_torch._batch import Axis, Batch, level_of_caller
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
from segact_torch.conventions import Convention

Gradient = Callable[[Tensor], Tensor]
Found = tuple[Tensor, Gradient | None]
Numbers = ctypes.Array[ctypes.c_double]

# The numbers of activations and losses in loops/elements.h; two activations have other loops with
# an epsilon.
SMOOTH = (Sigmoid, NormalCDF, Arctan, Softsign, InverseSquareRoot)
ORDER = (*SMOOTH, HardTanh, Linear)
EXACT: dict[type, int] = {f: i for i, f in enumerate(ORDER)}
SQUEEZED: dict[type, int] = {**EXACT, Sigmoid: 7, NormalCDF: 8}
CROSS_ENTROPY, SQUARED_ERROR, FOCAL, OVERLAP, OVERLAP_AND_ENTROPY = range(5)
# The numbers of types in loops/rows.h.
TYPES = {
    **{torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3},
    **{torch.bool: 4, torch.uint8: 4, torch.int8: 5, torch.int16: 6, torch.int32: 7},
    torch.int64: 8,
}
# The smallest epsilon and the largest gamma that the loops support.
LEAST, STEEPEST = 1e-30, 1e4

_INT, _FLOAT, _DATA = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
_FULL = [_DATA, _INT]
_SUMS = [_INT, _INT, _DATA, _INT, _INT, *_FULL, *_FULL, _DATA, _DATA, _DATA, _INT]
_OVERLAP = [_DATA, _INT, _INT, *_FULL, _DATA, _DATA, _DATA, _DATA, _DATA]
_ARGUMENTS = {
    "sums": [*_SUMS, _DATA, _FLOAT, _FLOAT, _DATA, _DATA, _DATA, _DATA],
    "slopes": [_INT, _INT, _DATA, _DATA, _INT, _DATA, _FLOAT, *_FULL],
    "overlap_slopes": [*_OVERLAP, _DATA, _FLOAT, *_FULL],
    "through_extremes": [_INT, *_FULL, _FLOAT, _FLOAT, _DATA],
}


class _Expanded(ctypes.Structure):
    """`struct tensor` of rows.h."""

    _fields_ = (("data", _DATA), ("type", _INT), ("inner", _INT), ("count", _INT))


def _load(folder: Path) -> tuple[ctypes.CDLL | None, str]:
    """The compiled loops in a folder and "", or None and the reason."""
    found = folder / "_cpu.so"
    if not found.is_file():
        return None, _why_not_compiled(folder)
    again = f"`pip install -e {folder.parents[1]}` compiles it again"
    try:
        loaded = ctypes.CDLL(str(found))
        for name, arguments in _ARGUMENTS.items():
            for dtype in ("float32", "float64"):
                getattr(loaded, f"segact_{name}_{dtype}").argtypes = arguments
        loaded.segact_parallel.argtypes = [_DATA]
        loaded.segact_source.restype = ctypes.c_uint32
    except (OSError, AttributeError) as error:  # of another system or version
        return None, f"{found} does not load ({error}); {again}"
    source = sorted((folder / "loops").glob("*.[ch]"))
    checksum = zlib.crc32(b"".join(path.read_bytes() for path in source))
    if source and checksum != loaded.segact_source():
        return None, f"{found} was compiled before {folder / 'loops'} changed; {again}"
    loaded.segact_parallel(_threads_of_torch())
    return loaded, ""


def _threads_of_torch() -> ctypes.c_void_p | None:
    """PyTorch's function that runs a range on its threads, exported since 2.10; None before."""
    try:
        function = ctypes.CDLL(torch._C.__file__).torch_parallel_for
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p)


def _why_not_compiled(folder: Path) -> str:
    root = folder.parents[1]
    if sys.platform == "win32":
        return "there are none for Windows"
    if (root / "setup.py").is_file():  # on the import path before an installed package
        return (
            f"segact_torch comes from the clone {root}, where they are not compiled; "
            f"`pip install -e {root}` does it, with GCC or Clang"
        )
    return f"segact was installed in {root} without them; install it again where GCC or Clang is"


LIBRARY, WHY_NOT = _load(Path(__file__).parent)


def serves(batch: Batch) -> bool:
    """Whether the loops support this activation."""
    f = batch.f
    if type(f) not in ORDER or not isinstance(f, Activation):
        return False
    return f.epsilon >= LEAST or (f.epsilon == 0 and type(f) in SMOOTH)


def cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Found | None:
    """Cross entropies summed over `axis` times `scale`; elementwise if `axis` is empty."""
    factor, on = (pos_weight, 1.0) if isinstance(pos_weight, Tensor) else (None, pos_weight)
    options = numbers_of(batch, label_smoothing=label_smoothing, on=on)
    return _elements(batch, axis, scale, CROSS_ENTROPY, options, factor)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
) -> Found | None:
    """Focal cross entropies, as `cross_entropy`."""
    if gamma > STEEPEST:
        return None
    on, off = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    options = numbers_of(batch, label_smoothing=label_smoothing, gamma=gamma, on=on, off=off)
    return _elements(batch, axis, scale, FOCAL, options)


def squared_error(batch: Batch, axis: Axis, scale: float | Tensor) -> Found | None:
    """Squared errors, as `cross_entropy`."""
    return _elements(batch, axis, scale, SQUARED_ERROR, numbers_of(batch))


def _elements(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    loop: int,
    numbers: Numbers | None,
    factor: Tensor | None = None,
) -> Found | None:
    if numbers is None:
        return None
    if LIBRARY is None:
        return _warn()
    rows = Rows(batch.input, batch.target, batch.weight, axis, scale)
    slopes = rows.empty() if is_differentiated(batch) else None
    losses = None if axis else rows.empty()
    sums = rows.sums(loop, batch.f, numbers, losses=losses, slopes=slopes, factor=factor)
    if sums is None:
        return None
    value = sums if losses is None else losses
    if slopes is None:
        return value, None
    rows.forget("y", "w")

    def gradient(upstream: Tensor) -> Tensor:
        return rows.slopes(slopes, upstream)

    return value, rows.complete(gradient, batch.f, numbers)


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found | None:
    """fp FP + fn FN and tp TP over `axis`, stacked."""
    return _overlap(batch, axis, None, numbers_of(batch, tp=tp, fp=fp, fn=fn))


def overlap_ratio(
    batch: Batch, axis: Axis, smooth: float, tp: float, fp: float, fn: float
) -> Found | None:
    """The first sum of `overlap` / (both + `smooth`), or 0 where the denominator is 0."""
    return _overlap(batch, axis, smooth, numbers_of(batch, tp=tp, fp=fp, fn=fn))


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
    """`overlap_ratio` and the mean of cross entropies over `axis`, stacked, in one pass."""
    factor, on = (pos_weight, 1.0) if isinstance(pos_weight, Tensor) else (None, pos_weight)
    numbers = numbers_of(batch, label_smoothing=label_smoothing, on=on, tp=tp, fp=fp, fn=fn)
    return _overlap(batch, axis, smooth, numbers, OVERLAP_AND_ENTROPY, batch.share(axis), factor)


def _overlap(
    batch: Batch,
    axis: Axis,
    smooth: float | None,
    numbers: Numbers | None,
    loop: int = OVERLAP,
    scale: float | Tensor = 1.0,
    factor: Tensor | None = None,
) -> Found | None:
    if numbers is None:
        return None
    if LIBRARY is None:
        return _warn()
    rows = Rows(batch.input, batch.target, batch.weight, axis, scale)
    differentiated = is_differentiated(batch)
    density = rows.empty() if differentiated else None
    slopes = rows.empty() if differentiated and loop == OVERLAP_AND_ENTROPY else None
    into_sums = None if smooth is None else rows.empty_sums(2, torch.float64)
    value = rows.sums(
        *(loop, batch.f, numbers),
        factor=factor,
        smooth=smooth,
        into_sums=into_sums,
        slopes=slopes,
        density=density,
    )
    if value is None or density is None:
        return None if value is None else (value, None)

    def gradient(upstream: Tensor) -> Tensor:
        return rows.overlap_slopes(density, upstream, numbers, into_sums, slopes)

    return value, rows.complete(gradient, batch.f, numbers)


@functools.cache
def _warn() -> None:
    """Warns once that this loss would use the loops, which are missing."""
    warnings.warn(
        f"the losses run without the compiled loops, slower: {WHY_NOT}"
        ". SEGACT_KERNELS=0 in the environment says that this is wanted",
        RuntimeWarning,
        stacklevel=level_of_caller(),
    )


def spread(reduced: Tensor, shape: Sequence[int], axis: Sequence[int]) -> Tensor:
    """Sums over `axis` of a tensor of this shape, in a shape that broadcasts with it."""
    return reduced.reshape([1 if a in axis else size for a, size in enumerate(shape)])


def is_differentiated(batch: Batch) -> bool:
    """Whether a gradient may be needed."""
    return batch.input.requires_grad and torch.is_grad_enabled()


def numbers_of(batch: Batch, **options: float) -> Numbers | None:
    """The parameters of the activation and the options of the loss, as an array for the loops.

    Those of linear are the minimum and maximum of x. None if they are not those of the whole input,
    or too close.
    """
    f = batch.f
    assert isinstance(f, Activation)
    if not isinstance(f, Linear):
        return _numbers(f.epsilon, **options)
    if f.axis is not None or batch.weight is not None:
        return None
    low, high = (t.item() for t in torch.aminmax(batch.input.detach()))
    limits = torch.finfo(batch.dtype)
    return (
        _numbers(f.epsilon, low, high, **options) if limits.tiny < high - low < limits.max else None
    )


@functools.lru_cache(maxsize=256)
def _numbers(
    epsilon: float,
    low: float = 0.0,
    high: float = 0.0,
    *,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    tp: float = 0.0,
    fp: float = 0.0,
    fn: float = 0.0,
    on: float = 1.0,
    off: float = 1.0,
) -> Numbers:
    kept = (1 - label_smoothing, label_smoothing / 2)
    all = (epsilon, low, high, *kept, gamma, tp, fp, fn, on, off)
    return (ctypes.c_double * len(all))(*all)


class Layout(NamedTuple):
    """How a tensor is read as rows: the order of its dimensions, the kept ones first."""

    order: list[int]
    straight: bool  # whether this is the order in memory
    kept: list[int]  # sizes of the kept dimensions
    rows: int
    length: int  # of a row


@functools.lru_cache(maxsize=256)
def _layout(shape: torch.Size, strides: tuple[int, ...], contiguous: bool, axis: Axis) -> Layout:
    all = list(range(len(shape)))
    kept = [a for a in all if a not in axis] if axis else []
    sizes = [shape[a] for a in kept]
    count = math.prod(sizes)
    order = all
    if kept or not contiguous:
        order = kept + sorted(axis or all, key=strides.__getitem__, reverse=True)
    return Layout(order, order == all, sizes, count, math.prod(shape) // count)


class Rows:
    """x, y and w as rows in the memory order of x; each row is summed, over the dimensions `axis`.

    Without an axis there is one row. The sum of a row's losses is multiplied by `scale`.
    """

    def __init__(
        self, x: Tensor, y: Tensor, w: Tensor | None, axis: Axis, scale: float | Tensor = 1.0
    ) -> None:
        self.shape, self.type_of_gradient = x.shape, x.dtype
        self.repeats = x.dtype == torch.float64
        self.dtype = torch.float64 if self.repeats else torch.float32
        self.layout = _layout(x.shape, x.stride(), x.is_contiguous(), axis)
        self.x, self.y = self.of(x), self.of(y)
        self.w = None if w is None else self.expanded(w)
        self.scales: Tensor | None = None
        self.scale = 1.0
        if isinstance(scale, Tensor):
            self.scales = scale.contiguous()
        else:
            self.scale = scale

    def forget(self, *names: str) -> None:
        """Delete tensors that may be copies and that the backward pass does not need."""
        for name in names:
            delattr(self, name)

    def of(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x, laid out in rows; the tensor itself if it already is."""
        if x.dtype not in TYPES:
            x = x.to(self.dtype)
        if self.layout.straight and x.is_contiguous() and not x.is_neg():
            return x
        return x.detach().resolve_neg().permute(self.layout.order).contiguous()

    def expanded(self, x: Tensor) -> tuple[Tensor, Any]:
        """A tensor of the shape of x without its expanded dimensions, and its C struct.

        Element i is number (i / inner) % count. Dimensions along which the tensor was expanded are
        not copied if they are the first and last ones. The struct points into the tensor, so the
        caller keeps both.
        """
        strides, own = x.stride(), [a for a in self.layout.order if self.shape[a] != 1]
        while own and strides[own[0]] == 0:
            own = own[1:]
        inner = 1
        while own and strides[own[-1]] == 0:
            inner *= self.shape[own.pop()]
        if len(own) == x.ndim or any(strides[a] == 0 for a in own):
            numbers, inner = self.of(x), 1
        else:
            numbers = x.detach()[tuple(slice(None) if a in own else 0 for a in range(x.ndim))]
            numbers = numbers.permute([sorted(own).index(a) for a in own])
            numbers = numbers if numbers.dtype in TYPES else numbers.to(self.dtype)
            numbers = numbers.resolve_neg().contiguous()
        return numbers, ctypes.byref(_Expanded(*_full(numbers), inner, numbers.numel()))

    def empty(self) -> Tensor:
        """A tensor in the shape of x, laid out in rows, in the precision of the loops."""
        if self.layout.straight:
            return torch.empty_like(self.x, dtype=self.dtype)
        order = self.layout.order
        return torch.empty_permuted(self.shape, order, dtype=self.dtype, device="cpu")

    def empty_sums(self, number: int, dtype: torch.dtype) -> Tensor:
        """A tensor for one number per row, or for several, stacked."""
        sizes = self.layout.kept if number == 1 else [number, *self.layout.kept]
        return torch.empty(sizes, dtype=dtype, device="cpu")

    def sums(
        self,
        loop: int,
        f: Activation | Convention,
        numbers: Numbers,
        *,
        losses: Tensor | None = None,
        slopes: Tensor | None = None,
        density: Tensor | None = None,
        factor: Tensor | None = None,
        smooth: float | None = None,
        into_sums: Tensor | None = None,
        wide: bool = False,
    ) -> Tensor | None:
        """The sum of each row, in float64 if `wide`; None if the loops refuse the input.

        Losses, slopes and densities of elements are written to the tensors of these names, if
        given. The loop of overlap has two sums, stacked, to which that of overlap and entropy adds
        a third. With `smooth` the ratio replaces the two, and its slopes in them are written to
        `into_sums`.
        """
        of_overlap = 2 if smooth is None else 1
        number = {OVERLAP: of_overlap, OVERLAP_AND_ENTROPY: of_overlap + 1}.get(loop, 1)
        values = self.empty_sums(number, torch.float64 if wide else self.dtype)
        factors = None if factor is None else self.expanded(factor)
        index = (SQUEEZED if isinstance(f, Activation) and f.epsilon else EXACT)[type(f)]
        done = _function("sums", self.dtype)(
            *(loop, index, numbers, self.layout.rows, self.layout.length),
            *(*_full(self.x), *_full(self.y), self.w and self.w[1], factors and factors[1]),
            *(values.data_ptr(), wide, _at(self.scales), self.scale),
            *(smooth or 0.0, _at(into_sums), _at(losses), _at(slopes), _at(density)),
        )
        return values if done else None

    def complete(self, of_rows: Gradient, f: Activation | Convention, numbers: Numbers) -> Gradient:
        """The gradient; for linear with the part through the minimum and maximum of x."""
        if not isinstance(f, Linear):
            self.forget("x")
            return of_rows

        self.type_of_gradient = self.dtype  # until that part is added
        low, high = numbers[1], numbers[2]

        def gradient(upstream: Tensor) -> Tensor:
            found = of_rows(upstream)
            where = (self.x.numel(), *_full(self.x), low, high, found.data_ptr())
            self._finish("through_extremes", *where)
            return found

        return gradient

    def slopes(self, slopes: Tensor, upstream: Tensor) -> Tensor:
        """The gradient of sums times `scale`, or of elementwise losses, from their slopes."""
        each = len(upstream.shape) == len(self.shape)
        upstream = upstream if upstream.dtype == self.dtype else upstream.to(self.dtype)
        upstream = self.of(upstream) if each else upstream.resolve_neg().contiguous()
        gradient = self.gradient_buffer(slopes)
        self._finish(
            "slopes",
            *(self.layout.rows, self.layout.length, slopes.data_ptr(), upstream.data_ptr()),
            *(each, _at(self.scales), self.scale, *_full(gradient)),
        )
        return gradient

    def overlap_slopes(
        self,
        density: Tensor,
        upstream: Tensor,
        numbers: Numbers,
        into_sums: Tensor | None = None,
        slopes: Tensor | None = None,
    ) -> Tensor:
        """The gradient of the two sums of overlap, or of their ratio, from the density.

        For the ratio, `into_sums` are its slopes. With `slopes` the gradient of the losses is
        added; `upstream` is then stacked: that of the ratio, that of the losses.
        """
        upstream = upstream if upstream.dtype == self.dtype else upstream.to(self.dtype)
        upstream = upstream.resolve_neg().contiguous()
        gradient = self.gradient_buffer(density)
        self._finish(
            "overlap_slopes",
            *(numbers, self.layout.rows, self.layout.length, *_full(self.y), self.w and self.w[1]),
            *(density.data_ptr(), _at(slopes), upstream.data_ptr(), _at(into_sums)),
            *(_at(self.scales), self.scale, *_full(gradient)),
        )
        return gradient

    def _finish(self, name: str, *arguments: Any) -> None:
        """Calls a function that fails only if PyTorch's threads do."""
        if not _function(name, self.dtype)(*arguments):
            raise RuntimeError(f"PyTorch's threads did not compute all of a gradient ({name})")

    def gradient_buffer(self, slopes: Tensor) -> Tensor:
        """The tensor for the gradient: the slopes themselves, overwritten, if the dtype fits.

        In float64 a new one, since `gradcheck` calls the backward pass twice and compares the bits.
        """
        if self.type_of_gradient == slopes.dtype and not self.repeats:
            return slopes
        return torch.empty_like(slopes, dtype=self.type_of_gradient)


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., int]:
    function: Callable[..., int] = getattr(LIBRARY, f"segact_{name}_{str(dtype)[6:]}")
    return function


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _full(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), TYPES[x.dtype]
