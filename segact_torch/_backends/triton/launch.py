# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The kernels as functions of tensors: the layout of tensors in rows, and the launches.

The formulas of activations.py and _sums.py stay the definition, and `loops/` has the same functions
for a CPU. Unlike the loops the kernels refuse no input, since the host would have to wait for that:
all raw outputs up to the largest float, and infinity, give their value or the true infinity.

x is float32, float16 or bfloat16, y and w are of any dtype, and are read without a copy. Each block
of elements has a float32 sum; these are added in float64, always in the same order.
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
"""The supported activations, with any epsilon, and all but `hardtanh` without one."""

Costs = tuple[float, float, float]  # of TP, FP and FN
Entropy = tuple[float | Tensor, float]  # pos_weight and label_smoothing of a cross entropy

# The elements and warps of a program. 8 elements per thread are two loads of 16 bytes in flight,
# and few enough for a float32 sum.
BLOCK, NUM_WARPS = 512, 2
# The elements of a program of `rescale`, which usually only checks that the factor is 1.
CHUNK, CHUNK_WARPS = 65536, 8
# A kernel is compiled for every integer part of gamma.
LARGEST_GAMMA = 1024.0
# Tensors with rows shorter than this are copied, if that makes the rows longer.
SHORT = 256


class Rows:
    """How a tensor of this shape and these strides is read as rows, to be summed over `axis`.

    The dimensions are taken in memory order. The leading ones, up to the last kept one, number the
    rows; the others lie within a row. The sums of rows are then added over leading dimensions that
    are not kept. Tensors are copied, with the kept dimensions first, only if rows would be short
    otherwise; and if they have gaps in memory.

    Most tensors need no copy (`in_place`), and their rows are the groups, in order (`plain`). Then
    the code here only allocates and launches, since a small loss takes as long as the host.
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
        """A tensor of the shape of x, laid out in rows; bool as bytes."""
        if not self.in_place or x.stride() != self.strides or x.is_neg():
            x = x.detach().resolve_neg().permute(self.order).contiguous()
        return x.view(torch.uint8) if x.dtype == torch.bool else x

    def empty(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of the shape of x, laid out in rows."""
        if self.in_place:
            return torch.empty_like(x, dtype=dtype)
        flat = x.new_empty([self.shape[a] for a in self.order], dtype=dtype)
        return flat.permute([self.order.index(a) for a in range(len(self.order))])

    def back(self, values: Tensor, x: Tensor) -> Tensor:
        """A tensor made by `empty`, in the memory layout of x."""
        return values if self.in_place else torch.empty_like(x, dtype=values.dtype).copy_(values)

    def parts(self, x: Tensor, *front: int) -> Tensor:
        """A tensor for the sums of all blocks, (*front, rows, blocks), to pass to `gather`."""
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
        """Numbers of every group, (..., *groups), repeated for every row, (..., rows)."""
        groups = groups.resolve_neg()
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
        """The blocks of a row."""
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
        # Triton determines for each launch which of its compiled variants fits, which takes the
        # host long. It depends on dtypes, and on which lengths and addresses are multiples of 16.
        # The lengths of these rows do not change; the rest is the key of `compiled`.
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
        # Before Triton 3.3 a compiled variant takes other arguments than the kernel.
        signature = getattr(getattr(found, "src", None), "signature", ())
        if list(signature) == list(kernel.arg_names):
            self.compiled[key] = found


rows_of = functools.lru_cache(maxsize=4096)(Rows)


def block_of(length: int, warps: int = 0) -> tuple[int, int]:
    """The elements of a program, or of a turn of its loop, and its warps; fewer for short rows."""
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
    factors, on, *positive = _of_class_1(pos_weight, rows, ordered)
    whole = math.floor(gamma)
    fraction = gamma - whole
    high = math.floor(fraction * 4096) / 4096
    rows.launch(
        kernels.losses,
        (
            *(ordered, rows.of(y), ordered if w is None else rows.of(w), factors, out),
            ordered if slopes is None else slopes,
        ),
        (
            *(float(scale), float(label_smoothing), on),
            *(*_of_classes(alpha), float(gamma), high, fraction - high, f.epsilon),
        ),
        (
            *(loss, f.name, f.epsilon > 0, w is not None, guarded, label_smoothing != 0),
            *(*positive, alpha is not None, whole, fraction != 0, each, gradient),
        ),
    )
    value = rows.back(out, x) if each else rows.gather(out)
    return value, None if slopes is None else rows.back(slopes, x)


def _of_classes(alpha: float | None) -> tuple[float, float]:
    """The weights of class 1 and class 0."""
    return (1.0, 1.0) if alpha is None else (float(alpha), 1.0 - float(alpha))


def _of_class_1(
    pos_weight: float | Tensor, rows: Rows, unused: Tensor
) -> tuple[Tensor, float, bool, bool]:
    """pos_weight as a tensor in rows and as a number; POSITIVE and EACH_POSITIVE."""
    if isinstance(pos_weight, Tensor):
        return rows.of(pos_weight), 1.0, True, True
    return unused, float(pos_weight), pos_weight != 1, False


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
        axis: the dimensions to sum over; () for no sum.
        f: one of NAMES.
        pos_weight: a number, or a tensor of the shape of x, of any real dtype.
        scale: a factor of the gradient, not of the sums.
        gradient: whether to compute the gradient.
        guarded: whether targets out of range become NaN, as `in_range` of `_batch` does.

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
    is compiled for every integer part of gamma, which must be below LARGEST_GAMMA. Otherwise as
    `cross_entropy`.
    """
    options: dict[str, Any] = {"gamma": gamma, "alpha": alpha, "label_smoothing": label_smoothing}
    return _losses("focal", x, y, w, axis, f, scale, gradient, guarded, **options)


def rescale(gradient: Tensor, upstream: Tensor, axis: Axis) -> Tensor:
    """The gradient times `upstream`, in place; where that is 1, it is neither read nor written.

    A gradient of 0 stays 0 with any upstream.

    Args:
        gradient: the one that a loss returned for this axis.
        upstream: of the shape of the loss.
    """
    if not any(upstream.stride()):  # one number for all, as of the sum of elements
        axis, upstream = tuple(range(gradient.ndim)), upstream[(0,) * upstream.ndim]
    rows = rows_of(gradient.shape, gradient.stride(), axis)
    ordered = rows.of(gradient)
    if axis:
        rows.launch(kernels.rescale, (ordered, rows.spread(upstream)), (), (), chunked=True)
    else:
        rows.launch(kernels.multiply, (ordered, rows.of(upstream)), (), ())
    if ordered is not gradient:
        gradient.permute(rows.order).copy_(ordered)
    return gradient


def _overlap_sums(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: Costs,
    guarded: bool,
    entropy: Entropy | None = None,
) -> Tensor:
    """`overlap` in float64, and beside it the sums of cross entropies, if they are wanted."""
    rows = rows_of(x.shape, x.stride(), axis)
    ordered = rows.of(x)
    out = rows.parts(x, 2 if entropy is None else 3)
    pos_weight, label_smoothing = entropy or (1.0, 0.0)
    factors, on, *positive = _of_class_1(pos_weight, rows, ordered)
    rows.launch(
        kernels.overlap,
        (ordered, rows.of(y), ordered if w is None else rows.of(w), factors, out),
        (*costs, float(label_smoothing), on, f.epsilon),
        (
            *(f.name, f.epsilon > 0, w is not None, guarded, entropy is not None),
            *(label_smoothing != 0, *positive),
        ),
    )
    return rows.gather(out)


def _ratio(sums: Tensor, smooth: float, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """The ratio of the first two sums and its slopes; stacked with the third times `scale`."""
    front = () if scale is None else (2,)
    value = sums.new_empty((*front, *sums.shape[1:]), dtype=torch.float32)
    slopes = sums.new_empty((2, *sums.shape[1:]), dtype=torch.float32)
    groups = rows_of(sums.shape[1:], sums.stride()[1:], ())
    numbers = (float(smooth), 1.0 if scale is None else scale)
    groups.launch(kernels.ratio, (sums, value, slopes), numbers, (scale is not None,))
    return value, slopes


def overlap(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: Costs,
    guarded: bool = True,
) -> Tensor:
    """fp FP + fn FN and tp TP, stacked: float32, (2, *groups).

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
    costs: Costs,
    smooth: float,
    guarded: bool = True,
) -> tuple[Tensor, Tensor]:
    """The first sum of `overlap` / (both + `smooth`), and its slopes in the two sums.

    The ratio is (*groups), the slopes are (2, *groups), both float32, and 0 where the denominator
    is 0.
    """
    return _ratio(_overlap_sums(x, y, w, axis, f, costs, guarded), smooth)


def ratio_and_entropy(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: Costs,
    smooth: float,
    entropy: Entropy,
    scale: float | Tensor,
    guarded: bool = True,
) -> tuple[Tensor, Tensor]:
    """`overlap_ratio` and the sums of `cross_entropy` times `scale`, stacked; slopes of the first.

    In one pass. `entropy` is (pos_weight, label_smoothing); `scale` may be a tensor (*groups).
    """
    sums = _overlap_sums(x, y, w, axis, f, costs, guarded, entropy)
    if isinstance(scale, Tensor):
        sums[2].mul_(scale)
    return _ratio(sums, smooth, 1.0 if isinstance(scale, Tensor) else scale)


def overlap_gradient(
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    axis: Axis,
    f: Activation,
    costs: Costs,
    slopes: Tensor,
    upstream: Tensor | None = None,
    guarded: bool = True,
    entropy: Entropy | None = None,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """The gradient in x of a loss with these slopes, (2, *groups), in its two sums.

    The density times w times (1 - y) fp e + y (tp h - fn e), where (e, h) are the slopes, times
    `upstream`, (*groups), if there is one: in the dtype and memory layout of x. It is 0 where the
    weight or the density is 0, even if the slopes are infinite. With `entropy`, of
    `ratio_and_entropy` and its `scale`; then `upstream` is (2, *groups).
    """
    if isinstance(scale, Tensor) and upstream is not None:
        upstream, scale = torch.stack((upstream[0], upstream[1] * scale)), 1.0
    rows = rows_of(x.shape, x.stride(), axis)
    ordered = rows.of(x)
    gradient = rows.empty(x, x.dtype)  # complete here, so that it needs no conversion later
    slopes = rows.spread(slopes.float())
    pos_weight, label_smoothing = entropy or (1.0, 0.0)
    factors, on, *positive = _of_class_1(pos_weight, rows, ordered)
    rows.launch(
        kernels.overlap_gradient,
        (
            *(ordered, rows.of(y), ordered if w is None else rows.of(w), factors, slopes),
            *(slopes if upstream is None else rows.spread(upstream.float()), gradient),
        ),
        (rows.rows, *costs, float(scale), float(label_smoothing), on, f.epsilon),
        (
            *(f.name, f.epsilon > 0, w is not None, guarded, upstream is not None),
            *(entropy is not None, label_smoothing != 0, *positive),
        ),
    )
    return rows.back(gradient, x)
