# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The kernels as functions of tensors: how these are laid out in rows, and what is launched.

The formulas of activations.py and _sums.py stay the definition, and `cpu.c` has the same functions
for a CPU. Unlike there nothing can be refused, since that would make the host wait: any raw output
up to the largest float, and infinity, gives its value or the true infinity.

x is float32, float16 or bfloat16, y and w are of any dtype, and are read as they are. Each block of
elements leaves its float32 sum, and these are added in float64, in one order.
"""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from segact_torch._backends.triton import kernels
from segact_torch._batch import Axis

NAMES = ("sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root", "hardtanh")
"""The activations that are served: the smooth ones without epsilon, `hardtanh` with 1e-7."""

# Of each program: 8 elements a thread are two loads of 16 bytes in flight, and short enough a run
# for a float32 sum.
BLOCK, NUM_WARPS = 1024, 4
# A kernel is compiled for every whole part of gamma.
LARGEST_GAMMA = 1024.0
# Rows shorter than this are rather copied, if copying makes them longer.
SHORT = 256


class Rows:
    """x as rows of what is summed over `axis`, in the order of its memory.

    The rows lie over the smallest leading set of dimensions, in that order, that holds all kept
    ones: their sums are then added over those of them that are not kept. Only where a row would be
    short for no need is x copied, with the kept dimensions first, and otherwise if it has gaps.
    """

    def __init__(self, x: Tensor, axis: Axis) -> None:
        self.shape = x.shape
        self.kept = [a for a in range(x.ndim) if a not in axis] if axis else []
        self.order = sorted(range(x.ndim), key=x.stride().__getitem__, reverse=True)
        self._lead()
        if self.length < SHORT and any(a not in self.kept for a in self.leading):
            self.order = self.kept + [a for a in self.order if a not in self.kept]
            self._lead()

    def _lead(self) -> None:
        last = max((self.order.index(a) for a in self.kept if self.shape[a] > 1), default=-1)
        self.leading = self.order[: last + 1]
        self.rows = math.prod(self.shape[a] for a in self.leading)
        self.length = math.prod(self.shape[a] for a in self.order[last + 1 :])

    def of(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x, laid out in rows; bool as the bytes that it is."""
        x = x.detach().resolve_neg().permute(self.order).contiguous()
        return x.view(torch.uint8) if x.dtype == torch.bool else x

    def empty(self, x: Tensor) -> Tensor:
        """A float32 tensor of the shape of x, laid out in rows."""
        flat = x.new_empty([self.shape[a] for a in self.order], dtype=torch.float32)
        return flat.permute([self.order.index(a) for a in range(len(self.order))])

    def spread(self, groups: Tensor) -> Tensor:
        """What there is for every group, (..., *groups), for every row, (..., rows)."""
        front = groups.shape[: groups.ndim - len(self.kept)]
        sizes = [size if a in self.kept else 1 for a, size in enumerate(self.shape)]
        full = groups.reshape(*front, *sizes)
        ordered = full.permute([*range(len(front)), *(len(front) + a for a in self.order)])
        leading = [self.shape[a] for a in self.leading]
        rest = [1] * (len(self.order) - len(leading))
        return ordered.expand([*front, *leading, *rest]).reshape([*front, self.rows]).contiguous()

    def gather(self, parts: Tensor) -> Tensor:
        """The sums (..., *groups) of what there is for every block, (..., rows, blocks)."""
        front = parts.shape[:-2]
        ones = [1] * (len(self.order) - len(self.leading))
        full = parts.view(*front, *(self.shape[a] for a in self.leading), *ones, parts.shape[-1])
        summed = [len(front) + i for i, a in enumerate(self.order) if a not in self.kept]
        sums = full.sum([*summed, -1])
        order = [a for a in self.order if a in self.kept]
        back = [order.index(a) for a in self.kept]
        return sums.permute([*range(len(front)), *(len(front) + i for i in back)]).contiguous()

    def launch(self, kernel: Any, *arguments: Any, times: int = 1, **constants: Any) -> None:
        """Run a kernel on all blocks; the arguments are what comes around length and blocks.

        With `times`, a program has so many times the elements, and twice the warps.
        """
        before, after = arguments
        block, warps = block_of(self.length, times)
        blocks = -(-self.length // block)
        device = before[0].device
        guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        constants |= {"SINGLE": self.rows == 1, "BLOCK": block, "num_warps": warps}
        with guard:
            kernel[(self.rows * blocks,)](*before, self.length, blocks, *after, **constants)

    @property
    def blocks(self) -> int:
        """Of a row."""
        return -(-self.length // block_of(self.length)[0])


def block_of(length: int, times: int = 1) -> tuple[int, int]:
    """The elements of a program and its warps: less, if the rows are shorter."""
    whole, warps = BLOCK * times, NUM_WARPS * min(times, 2)
    block = whole
    while block > 128 and block // 2 >= length:
        block //= 2
    return block, max(1, warps * block // whole)


def _alike(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient in the memory layout of x, in which it is unless x had to be copied."""
    like = torch.empty_like(x, dtype=torch.float32, device="meta").stride()
    if gradient.stride() == like:
        return gradient
    return torch.empty_like(x, dtype=torch.float32).copy_(gradient)


def _losses(
    loss: str,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    activation: str,
    scale: float,
    gradient: bool,
    label_smoothing: float = 0.0,
    pos_weight: float = 1.0,
    alpha: float | None = None,
    gamma: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    rows = Rows(x, axis)
    ordered = rows.of(x)
    each = not axis
    out = rows.empty(x) if each else x.new_empty([rows.rows, rows.blocks], dtype=torch.float64)
    slopes = rows.empty(x) if gradient else None
    whole = math.floor(gamma)
    fraction = gamma - whole
    high = math.floor(fraction * 4096) / 4096
    numbers = (scale, label_smoothing, pos_weight, alpha or 0.0, gamma, high, fraction - high)
    rows.launch(
        kernels.losses,
        (ordered, rows.of(y), ordered if w is None else rows.of(w), out, slopes if gradient else x),
        [float(number) for number in numbers],
        LOSS=loss,
        ACTIVATION=activation,
        WEIGHTED=w is not None,
        HARD=y.dtype == torch.bool and label_smoothing == 0,
        SMOOTHED=label_smoothing != 0,
        POSITIVE=pos_weight != 1,
        ALPHA=alpha is not None,
        WHOLE=whole,
        FRACTION=fraction != 0,
        EACH=each,
        GRADIENT=gradient,
    )
    value = _alike(out, x) if each else rows.gather(out)
    return value, None if slopes is None else _alike(slopes, x)


def cross_entropy(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    activation: str,
    pos_weight: float = 1.0,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sums of w (pos_weight y (-log F(x)) + (1 - y) (-log(1 - F(x)))), and their gradient in x.

    Args:
        x: float32, float16 or bfloat16.
        y: targets of the shape of x, of any real dtype, before smoothing.
        w: weights >= 0 of the shape of x, of any real dtype, or None. Where one is 0, the element
            contributes exactly nothing.
        axis: what is summed over; () for no sum.
        scale: a factor of the gradient alone.
        gradient: whether it is wanted.

    Returns:
        The sums in float64, in the shape of x without `axis`; without an axis the loss of every
        element in float32. And the gradient times `scale`, or None: float32, in the shape and
        memory layout of x.
    """
    options: dict[str, Any] = {"pos_weight": pos_weight, "label_smoothing": label_smoothing}
    return _losses("cross_entropy", x, y, w, axis, activation, scale, gradient, **options)


def squared_error(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    activation: str,
    scale: float = 1.0,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sums of w (F(x) - y)^2, and their gradient in x; otherwise as `cross_entropy`."""
    return _losses("squared_error", x, y, w, axis, activation, scale, gradient)


def focal_cross_entropy(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    activation: str,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
    scale: float = 1.0,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sums of w a e^gamma times the cross entropy, and their gradient in x.

    e = y (1 - F(x)) + (1 - y) F(x); a = alpha y + (1 - alpha) (1 - y), or 1 without alpha. A kernel
    is compiled for every whole part of gamma, which must be below LARGEST_GAMMA. Otherwise as
    `cross_entropy`.
    """
    options: dict[str, Any] = {"gamma": gamma, "alpha": alpha, "label_smoothing": label_smoothing}
    return _losses("focal", x, y, w, axis, activation, scale, gradient, **options)


def rescale(gradient: Tensor, upstream: Tensor, scale: float, axis: Axis) -> Tensor:
    """The gradient of sums under `upstream`, in place, from one that was made with `scale`.

    Multiplied by upstream / scale, but neither read nor written where the two are equal in float32.
    A gradient of 0 stays 0 under any upstream.

    Args:
        gradient: what one of the losses returned for this axis.
        upstream: of the shape of their value.
    """
    rows = Rows(gradient, axis)
    ordered = rows.of(gradient)
    factors = rows.of(upstream.expand(rows.shape)) if not axis else rows.spread(upstream.detach())
    # few programs: they mostly have nothing to do but to look
    rows.launch(kernels.rescale, (ordered, factors), [float(scale)], times=8, EACH=not axis)
    if ordered.data_ptr() != gradient.data_ptr():
        gradient.permute(rows.order).copy_(ordered)
    return gradient


def areas(x: Tensor, y: Tensor, w: Tensor | None, axis: Axis, activation: str) -> Tensor:
    """The sums of w y F(x), w (1 - y) F(x) and w y (1 - F(x)) over `axis`: float64, (3, *groups).

    x, y and w as for `cross_entropy`.
    """
    rows = Rows(x, axis)
    ordered = rows.of(x)
    out = x.new_empty([3, rows.rows, rows.blocks], dtype=torch.float64)
    rows.launch(
        kernels.areas,
        (ordered, rows.of(y), ordered if w is None else rows.of(w), out),
        (),
        ACTIVATION=activation,
        WEIGHTED=w is not None,
    )
    return rows.gather(out)


def areas_gradient(
    x: Tensor, y: Tensor, w: Tensor | None, axis: Axis, activation: str, slopes: Tensor
) -> Tensor:
    """The gradient in x of a loss with these slopes, (3, *groups), in its areas.

    pdf(x) w ((1 - y) slopes[1] + y (slopes[0] - slopes[2])), in float32 and in the memory layout of
    x. An infinite slope of what weighs 0, or has a density of 0, is 0.
    """
    rows = Rows(x, axis)
    ordered = rows.of(x)
    gradient = rows.empty(x)
    rows.launch(
        kernels.areas_gradient,
        (
            ordered,
            rows.of(y),
            ordered if w is None else rows.of(w),
            rows.spread(slopes.detach().float()),
            gradient,
        ),
        (rows.rows,),
        ACTIVATION=activation,
        WEIGHTED=w is not None,
    )
    return _alike(gradient, x)
