# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The kernels as functions of tensors: how these are laid out in rows, and what is launched.

The formulas of activations.py and _sums.py stay the definition, and `loops/` has the same functions
for a CPU. Unlike there nothing can be refused, since that would make the host wait: any raw output
up to the largest float, and infinity, gives its value or the true infinity.

x is float32, float16 or bfloat16, y and w are of any dtype, and are read as they are. Each block of
elements leaves its float32 sum, and these are added in float64, in one order.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from segact_torch._backends.triton import kernels
from segact_torch._batch import Axis
from segact_torch.activations import Activation

NAMES = ("sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root", "hardtanh")
"""The activations that are served, with any epsilon, or none but for `hardtanh`."""

# Of each program: 8 elements a thread are two loads of 16 bytes in flight, and short enough a run
# for a float32 sum.
BLOCK, NUM_WARPS = 512, 2
# What `rescale` goes through in one program, which mostly has nothing to do but to look.
CHUNK, CHUNK_WARPS = 65536, 8
# A kernel is compiled for every whole part of gamma.
LARGEST_GAMMA = 1024.0
# Rows shorter than this are rather copied, if copying makes them longer.
SHORT = 256


class Rows:
    """How a tensor of this shape and these strides lies in rows of what is summed over `axis`.

    The rows lie over the smallest leading set of dimensions, in the order of the memory, that holds
    all kept ones: their sums are then added over those of them that are not kept. Only where a row
    would be short for no need are tensors copied, with the kept dimensions first, and otherwise if
    they have gaps.

    Mostly a tensor lies so already (`in_place`), and rows are groups in their order (`plain`): then
    nothing is done here but to allocate and to launch, since the time of the host is what a small
    loss takes.
    """

    def __init__(self, shape: torch.Size, strides: tuple[int, ...], axis: Axis) -> None:
        self.shape, self.strides = shape, strides
        self.kept = [a for a in range(len(shape)) if a not in axis] if axis else []
        self.order = sorted(range(len(shape)), key=strides.__getitem__, reverse=True)
        self._lead()
        if self.length < SHORT and any(a not in self.kept for a in self.leading):
            self.order = self.kept + [a for a in self.order if a not in self.kept]
            self._lead()
        dense = [1]
        for a in reversed(self.order[1:]):
            dense.append(dense[-1] * shape[a])
        pairs = zip(self.order, reversed(dense), strict=False)
        self.in_place = all(shape[a] == 1 or strides[a] == stride for a, stride in pairs)
        self.groups = [shape[a] for a in self.kept]
        self.plain = [a for a in self.leading if shape[a] > 1] == [
            a for a in self.kept if shape[a] > 1
        ]
        self.compiled: dict[Any, Any] = {}

    def _lead(self) -> None:
        last = max((self.order.index(a) for a in self.kept if self.shape[a] > 1), default=-1)
        self.leading = self.order[: last + 1]
        self.rows = math.prod(self.shape[a] for a in self.leading)
        self.length = math.prod(self.shape[a] for a in self.order[last + 1 :])

    def of(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x, laid out in rows; bool as the bytes that it is."""
        if not self.in_place or x.stride() != self.strides or x.is_neg():
            x = x.detach().resolve_neg().permute(self.order).contiguous()
        return x.detach().view(torch.uint8) if x.dtype == torch.bool else x

    def empty(self, x: Tensor) -> Tensor:
        """A float32 tensor of the shape of x, laid out in rows."""
        if self.in_place:
            return torch.empty_like(x, dtype=torch.float32)
        flat = x.new_empty([self.shape[a] for a in self.order], dtype=torch.float32)
        return flat.permute([self.order.index(a) for a in range(len(self.order))])

    def back(self, values: Tensor, x: Tensor) -> Tensor:
        """What `empty` gave, in the memory layout of x."""
        return values if self.in_place else torch.empty_like(x, dtype=torch.float32).copy_(values)

    def parts(self, x: Tensor, *front: int) -> Tensor:
        """Room for what every block leaves, (*front, rows, blocks), as `gather` wants it."""
        rows = self.groups if self.plain else [self.rows]
        return x.new_empty((*front, *rows, self.blocks), dtype=torch.float64)

    def gather(self, parts: Tensor) -> Tensor:
        """The sums (*front, *groups) of `parts`."""
        if self.plain:
            return parts.sum(-1)
        front = parts.shape[:-2]
        ones = [1] * (len(self.order) - len(self.leading))
        full = parts.view(*front, *(self.shape[a] for a in self.leading), *ones, parts.shape[-1])
        summed = [len(front) + i for i, a in enumerate(self.order) if a not in self.kept]
        sums = full.sum([*summed, -1])
        order = [a for a in self.order if a in self.kept]
        back = [order.index(a) for a in self.kept]
        return sums.permute([*range(len(front)), *(len(front) + i for i in back)]).contiguous()

    def spread(self, groups: Tensor) -> Tensor:
        """What there is for every group, (..., *groups), for every row, (..., rows)."""
        if self.plain:
            return groups.contiguous()
        front = groups.shape[: groups.ndim - len(self.kept)]
        sizes = [size if a in self.kept else 1 for a, size in enumerate(self.shape)]
        full = groups.reshape(*front, *sizes)
        ordered = full.permute([*range(len(front)), *(len(front) + a for a in self.order)])
        leading = [self.shape[a] for a in self.leading]
        rest = [1] * (len(self.order) - len(leading))
        return ordered.expand([*front, *leading, *rest]).reshape([*front, self.rows]).contiguous()

    @property
    def blocks(self) -> int:
        """Of a row."""
        return -(-self.length // block_of(self.length)[0])

    def launch(
        self,
        kernel: Any,
        tensors: tuple[Tensor, ...],
        numbers: tuple[float, ...],
        constants: tuple[Any, ...],
        chunked: bool = False,
    ) -> None:
        """Run a kernel on all blocks, or on chunks of many.

        Its parameters are tensors, length, blocks, numbers, constants, SINGLE and BLOCK, and CHUNK
        if there are chunks.
        """
        if chunked:
            block, warps = block_of(self.length, CHUNK_WARPS)
            part = block
            while part < min(self.length, CHUNK):
                part *= 2
            constants = (*constants, self.rows == 1, block, part)
        else:
            block, warps = block_of(self.length)
            part = block
            constants = (*constants, self.rows == 1, block)
        blocks = -(-self.length // part)
        arguments = (*tensors, self.length, blocks, *numbers, *constants)
        device = tensors[0].get_device()  # -1 on a CPU
        if device >= 0 and device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._launch(kernel, arguments, len(tensors), constants, warps, device)
        else:
            self._launch(kernel, arguments, len(tensors), constants, warps, device)

    def _launch(
        self,
        kernel: Any,
        arguments: tuple[Any, ...],
        tensors: int,
        constants: tuple[Any, ...],
        warps: int,
        device: int,
    ) -> None:
        # Triton works out for each launch which of its compiled variants fits: it depends on the
        # dtypes and on what is a multiple of 16. Here lengths are known, and the rest is looked up.
        pointers = arguments[:tensors]
        key = (
            *(kernel.fn, device, warps, constants),
            *[t.dtype for t in pointers],
            *[t.data_ptr() % 16 == 0 for t in pointers],
        )
        grid = (self.rows * arguments[tensors + 1], 1, 1)
        found = self.compiled.get(key)
        if found is not None:
            found[grid](*arguments)
            return
        found = kernel[grid](*arguments, num_warps=warps)
        # Before Triton 3.3 what is compiled takes other arguments than the kernel.
        signature = getattr(getattr(found, "src", None), "signature", ())
        if list(signature) == list(kernel.arg_names):
            self.compiled[key] = found


rows_of = functools.lru_cache(maxsize=4096)(Rows)


def block_of(length: int, warps: int = 0) -> tuple[int, int]:
    """The elements of a program, or of one turn of its loop, and its warps: less for short rows."""
    block, warps = (BLOCK // NUM_WARPS * warps, warps) if warps else (BLOCK, NUM_WARPS)
    while block > 128 and block // 2 >= length:
        block, warps = block // 2, max(1, warps // 2)
    return block, warps


def _losses(
    loss: str,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    scale: float,
    gradient: bool,
    guarded: bool,
    label_smoothing: float = 0.0,
    pos_weight: float | Tensor = 1.0,
    alpha: float | None = None,
    gamma: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    rows = rows_of(x.shape, x.stride(), axis)
    ordered = rows.of(x)
    each = not axis
    out = rows.empty(x) if each else rows.parts(x)
    slopes = rows.empty(x) if gradient else None
    factors = pos_weight if isinstance(pos_weight, Tensor) else None
    on = 1.0 if isinstance(pos_weight, Tensor) else float(pos_weight)
    whole = math.floor(gamma)
    fraction = gamma - whole
    high = math.floor(fraction * 4096) / 4096
    rows.launch(
        kernels.losses,
        (
            *(ordered, rows.of(y), ordered if w is None else rows.of(w)),
            *(ordered if factors is None else rows.of(factors), out),
            ordered if slopes is None else slopes,
        ),
        (
            *(float(scale), float(label_smoothing), on),
            *(float(alpha or 0.0), float(gamma), high, fraction - high, f.epsilon),
        ),
        (
            *(loss, f.name, f.epsilon > 0, w is not None, guarded, label_smoothing != 0),
            *(on != 1, factors is not None, alpha is not None, whole, fraction != 0, each),
            gradient,
        ),
    )
    value = rows.back(out, x) if each else rows.gather(out)
    return value, None if slopes is None else rows.back(slopes, x)


def cross_entropy(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    pos_weight: float | Tensor = 1.0,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    gradient: bool = True,
    guarded: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sums of w (pos_weight y (-log F(x)) + (1 - y) (-log(1 - F(x)))), and their gradient in x.

    Args:
        x: float32, float16 or bfloat16.
        y: targets of the shape of x, of any real dtype, before smoothing.
        w: weights >= 0 of the shape of x, of any real dtype, or None. Where one is 0, the element
            contributes exactly nothing.
        axis: what is summed over; () for no sum.
        f: one of NAMES.
        pos_weight: a number, or a tensor of the shape of x, of any real dtype.
        scale: a factor of the gradient alone.
        gradient: whether it is wanted.
        guarded: whether targets are to be `in_range`, as `_batch` has it.

    Returns:
        The sums in float64, in the shape of x without `axis`; without an axis the loss of every
        element in float32. And the gradient times `scale`, or None: float32, in the shape and
        memory layout of x.
    """
    options: dict[str, Any] = {"pos_weight": pos_weight, "label_smoothing": label_smoothing}
    return _losses("cross_entropy", x, y, w, axis, f, scale, gradient, guarded, **options)


def squared_error(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    scale: float = 1.0,
    gradient: bool = True,
    guarded: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sums of w (F(x) - y)^2, and their gradient in x; otherwise as `cross_entropy`."""
    return _losses("squared_error", x, y, w, axis, f, scale, gradient, guarded)


def focal_cross_entropy(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
    scale: float = 1.0,
    gradient: bool = True,
    guarded: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sums of w a e^gamma times the cross entropy, and their gradient in x.

    e = y (1 - F(x)) + (1 - y) F(x); a = alpha y + (1 - alpha) (1 - y), or 1 without alpha. A kernel
    is compiled for every whole part of gamma, which must be below LARGEST_GAMMA. Otherwise as
    `cross_entropy`.
    """
    options: dict[str, Any] = {"gamma": gamma, "alpha": alpha, "label_smoothing": label_smoothing}
    return _losses("focal", x, y, w, axis, f, scale, gradient, guarded, **options)


def rescale(gradient: Tensor, upstream: Tensor, axis: Axis) -> Tensor:
    """The gradient under `upstream`, in place, which is neither read nor written where that is 1.

    A gradient of 0 stays 0 under any upstream.

    Args:
        gradient: what one of the losses returned for this axis.
        upstream: of the shape of their value.
    """
    rows = rows_of(gradient.shape, gradient.stride(), axis)
    ordered = rows.of(gradient)
    if axis:
        tensors = (ordered, ordered, rows.spread(upstream))
        rows.launch(kernels.rescale, tensors, (), (False,), chunked=True)
    else:
        rows.launch(kernels.multiply, (ordered, rows.of(upstream)), (), ())
    if ordered is not gradient:
        gradient.permute(rows.order).copy_(ordered)
    return gradient


def rescaled(gradient: Tensor, upstream: Tensor, axis: Axis) -> Tensor:
    """The same for a contiguous gradient and an axis, in a tensor of its own."""
    rows, into = rows_of(gradient.shape, gradient.stride(), axis), torch.empty_like(gradient)
    if not rows.in_place:
        return rescale(into.copy_(gradient), upstream, axis)
    tensors = (gradient, into, rows.spread(upstream))
    rows.launch(kernels.rescale, tensors, (), (True,), chunked=True)
    return into


def _overlap_sums(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: tuple[float, float, float],
    guarded: bool,
) -> Tensor:
    """What `overlap` gives, in float64."""
    rows = rows_of(x.shape, x.stride(), axis)
    ordered = rows.of(x)
    out = rows.parts(x, 2)
    tensors = (ordered, rows.of(y), ordered if w is None else rows.of(w), out)
    constants = (f.name, f.epsilon > 0, w is not None, guarded)
    rows.launch(kernels.overlap, tensors, (*costs, f.epsilon), constants)
    return rows.gather(out)


def overlap(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: tuple[float, float, float],
    guarded: bool = True,
) -> Tensor:
    """fp FP + fn FN and tp TP + fp FP + fn FN, stacked: float32, (2, *groups).

    TP, FP and FN are the sums of w y F(x), w (1 - y) F(x) and w y (1 - F(x)) over `axis`; costs is
    (tp, fp, fn); x, y, w and f are as for `cross_entropy`.
    """
    return _overlap_sums(x, y, w, axis, f, costs, guarded).float()


def overlap_ratio(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: tuple[float, float, float],
    smooth: float,
    guarded: bool = True,
) -> tuple[Tensor, Tensor]:
    """The first of those two over the second plus `smooth`, (*groups), and its slopes in the two.

    Both are float32, and 0 where that is 0; the slopes are (2, *groups).
    """
    sums = _overlap_sums(x, y, w, axis, f, costs, guarded)
    value = torch.empty_like(sums[0], dtype=torch.float32)
    slopes = torch.empty_like(sums, dtype=torch.float32)
    groups = rows_of(value.shape, value.stride(), ())
    groups.launch(kernels.ratio, (sums, value, slopes), (float(smooth),), ())
    return value, slopes


def overlap_gradient(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: tuple[float, float, float],
    slopes: Tensor,
    upstream: Tensor | None = None,
    guarded: bool = True,
) -> Tensor:
    """The gradient in x of a loss with these slopes, (2, *groups), in its two sums.

    The density times w times (1 - y) fp (e + v) + y ((tp - fn) v - fn e), where (e, v) are the
    slopes, times `upstream`, (*groups), if there is one: in float32 and in the memory layout of x.
    An infinite slope of what weighs 0, or has a density of 0, is 0.
    """
    rows = rows_of(x.shape, x.stride(), axis)
    ordered = rows.of(x)
    gradient = rows.empty(x)
    slopes = rows.spread(slopes.float())
    tensors = (
        *(ordered, rows.of(y), ordered if w is None else rows.of(w), slopes),
        *(slopes if upstream is None else rows.spread(upstream.float()), gradient),
    )
    numbers = (rows.rows, *costs, f.epsilon)
    constants = (f.name, f.epsilon > 0, w is not None, guarded, upstream is not None)
    rows.launch(kernels.overlap_gradient, tensors, numbers, constants)
    return rows.back(gradient, x)
