"""The sums and their gradients by Triton kernels, on a GPU.

One kernel reads raw outputs (float32, float16, bfloat16), targets and weights (any dtype, without a
copy), and writes sums and gradient. An elementwise loss moves three tensors, an overlap loss five,
since its gradient computes the density again; Dice + cross entropy is one of these, too. The host
never waits for the device.

    arithmetic     elementary functions on the device
    activations    tail, density, losses and hazards of each activation
    kernels        losses, and what the device runs
    launch         the same as functions of tensors

Triton knows no numbers but Python's own: here NumPy's become such.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segact_torch._backends import cpu
from segact_torch._backends.cpu import Found, is_differentiated
from segact_torch._backends.triton import launch
from segact_torch._batch import Axis, Batch
from segact_torch.activations import Linear, softsign

OfOverlap = tuple[Tensor, Tensor, Tensor | None, Axis, Any, launch.Costs]  # x, y, w, axis, f


def serves(batch: Batch) -> bool:
    """Whether the kernels support it: what the loops do, but neither linear nor float64."""
    known = cpu.serves(batch) and not isinstance(batch.f, Linear)
    return known and batch.input.dtype in (torch.float32, torch.float16, torch.bfloat16)


def probe() -> None:
    """Run two kernels; an error shows, before any loss is computed, that they do not work here."""
    if torch.cuda.is_available():
        x = torch.zeros(1, device="cuda")
        launch.overlap(x, x, None, (0,), softsign, (1.0, 1.0, 1.0))
        launch.cross_entropy(x, x, None, (0,), softsign)


def cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Found:
    """Cross entropies summed over `axis` times `scale`; elementwise if `axis` is empty."""
    options = (pos_weight, float(label_smoothing))
    return _elements(launch.cross_entropy, batch, axis, scale, *options)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
) -> Found | None:
    """Focal cross entropies, as `cross_entropy`."""
    if gamma >= launch.LARGEST_GAMMA:
        return None
    options = (float(gamma), alpha, float(label_smoothing))
    return _elements(launch.focal_cross_entropy, batch, axis, scale, *options)


def squared_error(batch: Batch, axis: Axis, scale: float | Tensor) -> Found:
    """Squared errors, as `cross_entropy`."""
    return _elements(launch.squared_error, batch, axis, scale)


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found:
    """fp FP + fn FN and tp TP over `axis`, stacked."""
    arguments = _of_overlap(batch, axis, tp, fp, fn)
    value, guarded = launch.overlap(*arguments, batch.guarded), batch.guarded
    if not is_differentiated(batch):
        return value, None
    return value, lambda upstream: launch.overlap_gradient(*arguments, upstream, guarded=guarded)


def overlap_ratio(
    batch: Batch, axis: Axis, smooth: float, tp: float, fp: float, fn: float
) -> Found:
    """The first sum of `overlap` / (both + `smooth`), or 0 where the denominator is 0."""
    arguments, guarded = _of_overlap(batch, axis, tp, fp, fn), batch.guarded
    value, slopes = launch.overlap_ratio(*arguments, smooth, guarded)
    if not is_differentiated(batch):
        return value, None
    return value, lambda upstream: launch.overlap_gradient(*arguments, slopes, upstream, guarded)


def ratio_and_entropy(
    batch: Batch,
    axis: Axis,
    smooth: float,
    pos_weight: float | Tensor,
    label_smoothing: float,
    tp: float,
    fp: float,
    fn: float,
) -> Found:
    """`overlap_ratio` and the mean of cross entropies over `axis`, stacked, in one pass."""
    arguments, guarded = _of_overlap(batch, axis, tp, fp, fn), batch.guarded
    entropy = ((pos_weight, float(label_smoothing)), batch.share(axis))
    value, slopes = launch.ratio_and_entropy(*arguments, smooth, *entropy, guarded)
    if not is_differentiated(batch):
        return value, None
    return value, lambda upstream: launch.overlap_gradient(
        *arguments, slopes, upstream, guarded, *entropy
    )


def _of_overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> OfOverlap:
    batch.check_values()
    costs = (float(tp), float(fp), float(fn))
    return batch.input, batch.target, batch.weight, axis, batch.f, costs


def _elements(
    one_pass: Callable[..., tuple[Tensor, Tensor | None]],
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    *options: Any,
) -> Found:
    batch.check_values()
    # A float scale goes into the kernel, so the gradient is complete in the forward pass. A tensor,
    # such as 1 / (the number of valid elements), is known only on the device, and applied later.
    known = 1.0 if isinstance(scale, Tensor) else scale
    arguments = (batch.input, batch.target, batch.weight, axis, batch.f)
    sums, slopes = one_pass(*arguments, *options, known, is_differentiated(batch), batch.guarded)
    value = sums
    if axis:  # times scale, and to float32, in one operation
        value = torch.mul(sums, scale, out=torch.empty_like(sums, dtype=torch.float32))
    if slopes is None:
        return value, None
    if isinstance(scale, Tensor):
        return value, lambda upstream: launch.rescale(slopes, upstream * scale, axis)
    return value, lambda upstream: launch.rescale(slopes, upstream, axis)
