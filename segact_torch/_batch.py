"""The arguments of a loss: checked, in one shape and in one precision."""

import contextlib
import math
import numbers
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segact_torch import _special
from segact_torch._checks import (
    check_device,
    check_groups,
    check_ignore_index,
    check_number,
    check_pos_weight,
    check_range,
    check_reduction,
    check_tensor,
    check_validate,
)
from segact_torch._distributed import ProcessGroup, all_reduce, group_of, is_distributed
from segact_torch.activations import Activation, HardTanh, Linear, _LinearOverRanks
from segact_torch.conventions import Convention

Axis = tuple[int, ...]

# A target may be this far outside of [0, 1] and counts as 0 or 1: interpolation rounds.
SLACK = 1e-6
# The activations for which `warn_of_probabilities` has checked some raw outputs.
_CHECKED: set[str] = set()


class ActivatedInputWarning(UserWarning):
    """A loss got an input that looks like probabilities and applies F to it, as to raw outputs."""


class Batch:
    """Raw outputs x, targets y, weights w, which elements are valid, and F.

    All have the shape of x. x, y and w are in the precision in which the loss is computed; `input`,
    `target` and `weight` are the arguments before conversion, for backends that read them so. An
    ignored element has a weight of 0; w = None stands for weights of 1, valid = None for every
    element. `weighted` is False if the weights are only those of ignored elements.

    x holds probabilities if f is a `Convention`. `check_values` checks the values: `validate` says
    whether to, and `hard` that targets have to be 0 or 1. Targets that were not checked go through
    `in_range`, unless validate=False says that they are right.

    `group` are the ranks that have the other parts of the batch, if any. In an empty part each size
    of 0 becomes 1 and every element is ignored; `missing` is the original shape.
    """

    def __init__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        valid: Tensor | None,
        f: Activation | Convention,
        validate: bool | None = None,
        hard: bool = False,
        group: ProcessGroup | None = None,
    ) -> None:
        self.input, self.target, self.weight, self.valid = input, target, weight, valid
        self.f, self.validate, self.hard = f, validate, hard
        self.group, self.per_sample = group, False
        self.missing: torch.Size | None = None
        self.weighted = weight is not None and weight.dtype != torch.bool
        self.checked = False
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        self._x: Tensor | None = None
        self._y: Tensor | None = None
        self._w: Tensor | None = None

    @property
    def x(self) -> Tensor:
        if self._x is None:
            self._x = self.input.to(self.dtype)
        return self._x

    @property
    def y(self) -> Tensor:
        if self._y is None:
            self._y = self.target.to(self.dtype)
        return self._y

    @property
    def w(self) -> Tensor | None:
        if self._w is None and self.weight is not None:
            self._w = self.weight.to(self.dtype)
        return self._w

    @property
    def across(self) -> ProcessGroup | None:
        """The ranks over which a sum over `axis` goes; None if each rank has whole groups."""
        return None if self.per_sample else self.group

    @property
    def guarded(self) -> bool:
        """Whether targets that are not checked go through `in_range`."""
        return self.validate is not False

    @classmethod
    def of(
        cls,
        input: Tensor,
        target: Tensor,
        f: Activation | Convention,
        weight: Tensor | None,
        ignore_index: int | None,
        mask: Tensor | None,
        validate: bool | None,
        process_group: ProcessGroup | str | None = None,
        hard: bool = False,
    ) -> "Batch":
        """The arguments of a loss as a batch; raises for wrong ones."""
        if not type(input) is type(target) is Tensor or weight is not None or mask is not None:
            input, target, weight, mask = map(_plain, (input, target, weight, mask))
        check_tensor(input, "input")
        if not input.is_floating_point():
            raise TypeError(f"input must be of a floating dtype, got {input.dtype}")
        check_tensor(target, "target")
        if input.shape != target.shape:
            raise ValueError(
                "input and target must have the same shape, "
                f"got input {tuple(input.shape)} and target {tuple(target.shape)}"
            )
        check_device(target, "target", input)
        if hard and is_distributed(input):
            raise ValueError(
                "input must not be a DTensor: a Lovasz loss sorts all errors of a group, which has "
                "them in parts; pass input.full_tensor() and target.full_tensor()"
            )
        group = group_of(process_group)
        if input.numel() == 0 and group is None:
            raise ValueError(f"input is empty: its shape is {tuple(input.shape)}")
        check_validate(validate)
        w, valid = _fitted(weight, "weight", input), _valid(input, target, ignore_index, mask)
        if w is not None and validate is None and torch.compiler.is_compiling():
            w = torch.where(w >= 0, w, math.nan)
        if valid is not None:
            w = valid if w is None else torch.where(valid, w, 0)
        if not torch.compiler.is_compiling() and f.name not in _CHECKED:
            warn_of_probabilities(input, f)
        batch = cls(input, target, w, valid, f, validate, hard)
        batch = batch if group is None else batch._of_group(group)
        if validate:
            batch.check_values()  # here, since torch.compile may compile what follows
        return batch

    def _of_group(self, group: ProcessGroup) -> "Batch":
        """The part of this rank; an empty part becomes one that adds zero."""
        x, y, w, valid, f = self.input, self.target, self.weight, self.valid, self.f
        if is_distributed(x) or is_distributed(y):
            raise ValueError(
                "process_group must be None for a DTensor, whose sums are over all of its parts"
            )
        missing = None
        if x.numel() == 0:
            missing, shape = x.shape, [max(size, 1) for size in x.shape]
            x, y = (t.sum() + t.new_zeros(shape) for t in (x, y))  # 0, and a part of the graph
            w = valid = x.new_zeros(shape, dtype=torch.bool)
        if group.size() > 1 and isinstance(f, Linear):
            f = _LinearOverRanks(f, group) if f.axis is None or 0 in f._axis(x) else f
            # All ranks have to fill in ignored elements, also those that have none.
            w = x.new_ones([1] * x.ndim, dtype=torch.bool).expand(x.shape) if w is None else w
        others = group if group.size() > 1 else None
        batch = Batch(x, y, w, valid, f, self.validate, self.hard, others)
        batch.missing = missing
        return batch

    def masked(self) -> tuple[Tensor, Tensor]:
        """x and y, with finite placeholders where the weight is 0, so NaN there reaches no sum.

        Targets that were not checked go through `in_range`, probabilities through `_near`.
        """
        x, y = self._filled()
        if self.checked or not self.guarded:
            return x, y
        return _near(x, x) if isinstance(self.f, Convention) else x, in_range(y)

    def _filled(self) -> tuple[Tensor, Tensor]:
        if self.weight is None:
            return self.x, self.y
        used = self.weight != 0
        return self.f._fill_invalid(self.x, used), torch.where(used, self.y, 0.0)

    def elements(self, reduction: str) -> tuple[Axis, bool]:
        """The dimensions over which an elementwise loss is reduced, and whether to the mean."""
        check_reduction(reduction)
        axis = () if reduction == "none" else tuple(range(self.input.ndim))
        return axis, reduction == "mean"

    def groups(self, per_sample: bool, channel_axis: int | None) -> Axis:
        """The dimensions that an overlap loss sums over: all but those of samples and channels."""
        check_groups(per_sample, channel_axis)
        self.per_sample = per_sample
        shape = tuple(self.input.shape)
        rank = len(shape)
        kept = {0} if per_sample else set()
        if per_sample and rank == 0:
            raise ValueError("per_sample=True wants a dimension of samples, got input ()")
        if channel_axis is not None:
            if not -rank <= channel_axis < rank:
                raise ValueError(f"channel_axis {channel_axis} is out of range for input {shape}")
            if channel_axis % rank in kept:
                raise ValueError(f"channel_axis={channel_axis} is the axis of per_sample=True")
            kept.add(channel_axis % rank)
        return tuple(a for a in range(rank) if a not in kept)

    def broadcast_pos_weight(self, pos_weight: float | Tensor | None) -> float | Tensor:
        """A number, or a tensor in the shape and dtype of x."""
        if pos_weight is None:
            return 1.0
        if isinstance(pos_weight, (float, numbers.Real)):
            check_number("pos_weight", pos_weight)
            return float(pos_weight)
        check_tensor(pos_weight, "pos_weight", "a number or a torch.Tensor")
        check_device(pos_weight, "pos_weight", self.input)
        try:
            weights = _plain(pos_weight).detach().to(self.dtype).expand(self.input.shape)
        except RuntimeError as error:
            raise ValueError(
                "pos_weight must broadcast to the shape of input, "
                f"got pos_weight {tuple(pos_weight.shape)} and input {tuple(self.input.shape)}"
            ) from error
        self._run_check(lambda: check_pos_weight(pos_weight))
        return weights

    def present(self, axis: Axis) -> Tensor | None:
        """Which groups have a valid element, on any rank; None if all have one."""
        if self.across is not None:
            (count,) = all_reduce(self.across, self.count(axis))
            return count > 0
        if self.valid is None:
            return None
        return self.valid.any(axis) if axis else self.valid

    def count(self, axis: Axis) -> Tensor:
        """The number of valid elements over `axis` on this rank, for each group."""
        if self.valid is not None:
            return _special.double(self.valid.sum(axis) if axis else self.valid)
        shape = self.input.shape
        kept = [size for a, size in enumerate(shape) if a not in axis]
        number = math.prod([shape[a] for a in axis])
        return _special.double(self.input.new_ones(kept, dtype=torch.int64) * number)

    def cut(self, losses: Tensor, axis: Axis) -> Tensor:
        """Losses not summed over `axis`, without those of the placeholders of an empty part."""
        if self.missing is None:
            return losses
        kept = [size for a, size in enumerate(self.missing) if a not in axis]
        return losses[tuple(slice(size) for size in kept)]

    def share(self, axis: Axis) -> float | Tensor:
        """1 / the number of valid elements over `axis`, at least 1, for each group."""
        if self.valid is not None:
            return _special.double(self.valid.sum(axis).clamp_(min=1)).reciprocal()
        return 1 / math.prod([self.input.shape[a] for a in axis])

    def check_values(self) -> None:
        """Raise for values out of their range, once, if `validate` allows the check."""
        if not self.checked:
            self.checked = self._run_check(self._check_ranges)

    def _run_check(self, check: Callable[[], None]) -> bool:
        """Run a check of values if `validate` allows it; returns whether it ran.

        Under vmap and on fake tensors values cannot be read; that is an error only with
        validate=True.
        """
        if self.validate and torch.compiler.is_compiling():
            # without fullgraph=True torch.compile then runs the caller eagerly
            raise ValueError(
                "validate=True reads target, which has no values in compiled code; "
                "call the loss uncompiled, or use validate=None"
            )
        if torch.compiler.is_compiling() or self.validate is False:
            return False
        if self.validate is None and not self.input.is_cpu:
            return False
        unreadable = () if self.validate else (RuntimeError,)
        with contextlib.suppress(*unreadable):
            check()
            return True
        return False

    def _check_ranges(self) -> None:
        y = self.y if self.weight is None else torch.where(self.weight != 0, self.y, 0.0)
        low, top = check_range(y, "target", slack=SLACK)
        if low < 0 or top > 1:
            self._y = y = _special.clip(self.y, 0.0, 1.0)
        if isinstance(self.f, Convention):
            check_range(self._filled()[0], "input")
        if self.w is not None:
            check_range(self.w, "weight", torch.finfo(self.dtype).max)
        if self.hard and not torch.all((y == 0) | (y == 1)):
            raise ValueError("target must be 0 or 1: a Lovasz loss is not defined in between")


def in_range(y: Tensor) -> Tensor:
    """Targets whose values cannot be checked: clamped to [0, 1], NaN beyond [-1/2, 3/2]."""
    return _near(y, _special.clip(y, 0.0, 1.0))


def _near(p: Tensor, value: Tensor) -> Tensor:
    """The value, but NaN where p lies outside of [-1/2, 3/2].

    A value so far out is from a mask of 0 and 255, a class, an ignored label, or a raw output.
    """
    return torch.where((p - 0.5).abs() <= 1, value, math.nan)


def warn_of_probabilities(x: Tensor, f: Activation | Convention) -> bool:
    """Warn, once for each activation, of raw outputs on a CPU that all lie in [0, 1].

    Not for "hardtanh" and "linear", whose domain is [0, 1]. Returns whether the values could tell:
    they cannot in compiled code, or if all are 0 or 1.
    """
    if isinstance(f, (Convention, HardTanh, Linear)):
        return True
    if torch.jit.is_tracing() or not isinstance(x, Tensor) or not x.is_cpu:
        return False
    with contextlib.suppress(RuntimeError):  # values that cannot be read
        if torch.all((x == 0) | (x == 1)):
            return False
        low, top = (t.item() for t in torch.aminmax(x.detach()))
        _CHECKED.add(f.name)
        if low >= 0 and top <= 1:
            warnings.warn(
                f"input lies in [0, 1], from {low:g} to {top:g}, as probabilities do; the loss "
                "takes raw outputs and applies the activation: pass those, or from_logits=False",
                ActivatedInputWarning,
                stacklevel=level_of_caller(),
            )
        return True
    return False


def level_of_caller() -> int:
    """The `stacklevel` for a warning: the first caller outside of this package and torch."""
    packages = (Path(__file__).parent, Path(torch.__file__).parent)
    inside = tuple(f"{package}{os.sep}" for package in packages)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def _valid(x: Tensor, y: Tensor, ignore_index: int | None, mask: Tensor | None) -> Tensor | None:
    """Which elements are not ignored, by target or by mask."""
    check_ignore_index(ignore_index)
    fitted = _fitted(mask, "mask", x)
    named = None if ignore_index is None else _differs(y, ignore_index)
    if fitted is None:
        return named
    return fitted != 0 if named is None else named & (fitted != 0)


def _differs(y: Tensor, number: float) -> Tensor | None:
    """y != number; None if it cannot be equal: PyTorch compares -100 with uint8 as 156."""
    if not y.is_floating_point() and y.dtype != torch.bool:
        limits = torch.iinfo(y.dtype)
        if not limits.min <= number <= limits.max:
            return None
    return y != number


def _fitted(values: Tensor | None, name: str, x: Tensor) -> Tensor | None:
    """A tensor of the rank of x, with sizes equal or 1, in the shape of x."""
    if values is None:
        return None
    check_tensor(values, name)
    check_device(values, name, x)
    pairs = zip(values.shape, x.shape, strict=False)
    # `in` compares a variable size of compiled code by identity
    fit = all(size == 1 or size == whole for size, whole in pairs)
    if values.ndim != x.ndim or not fit:
        raise ValueError(
            f"{name} must have the rank of input and sizes equal to its own or 1, "
            f"got {name} {tuple(values.shape)} and input {tuple(x.shape)}"
        )
    return values.detach().expand(x.shape)


def _plain(values: Any) -> Any:
    """The plain tensor of a subclass that only wraps functions, as MONAI's and torchvision's do."""
    kind = type(values)
    if kind in (Tensor, torch.nn.Parameter) or not isinstance(values, Tensor):
        return values
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return values
    with torch._C.DisableTorchFunctionSubclass():
        return values.as_subclass(Tensor)
