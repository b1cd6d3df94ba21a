"""The arguments of a loss: checked, in one shape and in one precision."""

import contextlib
import math
import numbers
from typing import Any

import torch
from torch import Tensor

from segact_torch import _special
from segact_torch.activations import Activation, _wide
from segact_torch.conventions import Convention

Axis = tuple[int, ...]


class Batch:
    """Raw outputs x, targets y, weights w, which elements are valid, and F.

    All in the shape of x and in the precision that the loss is computed in. An element that is left
    out has a weight of 0; w = None stands for weights of 1, valid = None for every element.

    x holds probabilities where f is a `Convention`. The values are looked at by `check_values`:
    `validate` says whether to, and `hard` that targets have to be 0 or 1.
    """

    __slots__ = ("f", "hard", "valid", "validate", "w", "x", "y")

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        w: Tensor | None,
        valid: Tensor | None,
        f: Activation | Convention,
        validate: bool | None = None,
        hard: bool = False,
    ) -> None:
        self.x, self.y, self.w, self.valid = x, y, w, valid
        self.f, self.validate, self.hard = f, validate, hard

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
        hard: bool = False,
    ) -> "Batch":
        """The arguments of a loss as a batch, or an error that says what is wrong with them."""
        x = _wide(input, "input")
        _check_tensor(target, "target")
        if target.is_complex():
            raise TypeError(f"target must hold real numbers, got {target.dtype}")
        if input.shape != target.shape:
            raise ValueError(
                "input and target must have the same shape, "
                f"got input {tuple(input.shape)} and target {tuple(target.shape)}"
            )
        if input.numel() == 0:
            raise ValueError(f"input is empty: its shape is {tuple(input.shape)}")
        if validate and torch.compiler.is_compiling():
            raise ValueError(
                "validate=True reads target, which has no values in compiled code; "
                "call the loss uncompiled, or use validate=None"
            )
        y, w = target.to(x.dtype), _fitted(weight, "weight", x)
        valid = _valid(x, y, ignore_index, mask)
        if valid is not None:
            w = valid.to(x.dtype) if w is None else torch.where(valid, w, 0.0)
        return cls(x, y, w, valid, f, validate, hard)

    def of_outputs(self, x: Tensor) -> "Batch":
        """The same batch of other raw outputs."""
        return Batch(x, self.y, self.w, self.valid, self.f, self.validate, self.hard)

    def masked(self) -> tuple[Tensor, Tensor]:
        """x and y, with finite placeholders where the weight is 0: NaN there reaches no sum."""
        if self.w is None:
            return self.x, self.y
        return self.f._fill_invalid(self.x, self.w != 0), torch.where(self.w != 0, self.y, 0.0)

    def elements(self, reduction: str) -> tuple[Axis, bool]:
        """The dimensions that a loss of each element is reduced over, and whether to its mean."""
        check_reduction(reduction)
        axis = () if reduction == "none" else tuple(range(self.x.ndim))
        return axis, reduction == "mean"

    def groups(self, per_sample: bool, channel_axis: int | None) -> Axis:
        """The dimensions that an overlap loss sums over: all but those of samples and channels."""
        rank = self.x.ndim
        kept = {0} if per_sample else set()
        if per_sample and rank == 0:
            raise ValueError("per_sample=True wants a dimension of samples, got input ()")
        if channel_axis is not None:
            if not isinstance(channel_axis, numbers.Integral):
                raise TypeError(f"channel_axis must be an integer, got {channel_axis!r}")
            if not -rank <= channel_axis < rank:
                raise ValueError(
                    f"channel_axis {channel_axis} is out of range for input {tuple(self.x.shape)}"
                )
            if channel_axis % rank in kept:
                raise ValueError(f"channel_axis={channel_axis} is the axis of per_sample=True")
            kept.add(channel_axis % rank)
        return tuple(a for a in range(rank) if a not in kept)

    def share(self, axis: Axis) -> float | Tensor:
        """1 / the number of valid elements over `axis`, at least 1, for each group."""
        if self.valid is not None:
            return self.valid.sum(axis).clamp(min=1).double().reciprocal()
        return 1 / math.prod([self.x.shape[a] for a in axis])

    def check_values(self) -> None:
        """Raise for values out of their range, once, where `validate` allows to look.

        Under vmap and on fake tensors values cannot be read; that is an error only with
        validate=True.
        """
        if torch.compiler.is_compiling():
            return
        if self.validate or (self.validate is None and self.x.device.type == "cpu"):
            unreadable = () if self.validate else (RuntimeError,)
            with contextlib.suppress(*unreadable):
                self._check_ranges()
            self.validate = False

    def _check_ranges(self) -> None:
        x, y = self.masked()
        _check_range(y, "target")
        if isinstance(self.f, Convention):
            _check_range(x, "input")
        if self.w is not None:
            _check_range(self.w, "weight", _special.largest(self.w))
        if self.hard and not torch.all((y == 0) | (y == 1)):
            raise ValueError("target must be 0 or 1: a Lovasz loss is not defined in between")


def _valid(x: Tensor, y: Tensor, ignore_index: int | None, mask: Tensor | None) -> Tensor | None:
    """Which elements are not left out, by target or by mask."""
    check_ignore_index(ignore_index)
    fitted = _fitted(mask, "mask", x)
    named = None if ignore_index is None else y != ignore_index
    if fitted is None:
        return named
    return fitted != 0 if named is None else named & (fitted != 0)


def _fitted(values: Tensor | None, name: str, x: Tensor) -> Tensor | None:
    """A tensor of the rank of x, with sizes equal or 1, in the shape and dtype of x."""
    if values is None:
        return None
    _check_tensor(values, name)
    pairs = zip(values.shape, x.shape, strict=False)
    if values.ndim != x.ndim or any(size not in (1, whole) for size, whole in pairs):
        raise ValueError(
            f"{name} must have the rank of input and sizes equal to its own or 1, "
            f"got {name} {tuple(values.shape)} and input {tuple(x.shape)}"
        )
    return values.detach().to(x.dtype).expand(x.shape)


def broadcast_pos_weight(pos_weight: float | Tensor | None, x: Tensor) -> float | Tensor:
    """A number, or a tensor in the shape and dtype of x."""
    if pos_weight is None:
        return 1.0
    if not isinstance(pos_weight, Tensor):
        check_number("pos_weight", pos_weight)
        return float(pos_weight)
    try:
        return pos_weight.to(x.dtype).expand(x.shape)
    except RuntimeError as error:
        raise ValueError(
            "pos_weight must broadcast to the shape of input, "
            f"got pos_weight {tuple(pos_weight.shape)} and input {tuple(x.shape)}"
        ) from error


def _check_tensor(values: Any, name: str) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(values).__name__}")


def _check_range(values: Tensor, name: str, high: float = 1.0) -> None:
    low, top = torch.aminmax(values.detach())
    if not (low >= 0 and top <= high):  # so that NaN is refused
        wanted = "lie in [0, 1]" if high == 1 else "be >= 0 and finite"
        raise ValueError(f"{name} must {wanted}, got values from {low.item()} to {top.item()}")


def check_number(name: str, value: float, high: float = math.inf, open: bool = False) -> None:
    """0 <= value <= high, or 0 < value if `open`; and finite."""
    number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not number or not (value > 0 if open else value >= 0) or value > high:
        wanted = f"in [0, {high:g}]" if high < math.inf else "> 0" if open else ">= 0"
        raise ValueError(f"{name} must be a number {wanted}, got {value!r}")


def check_ignore_index(ignore_index: int | None) -> None:
    """A number or None."""
    number = isinstance(ignore_index, numbers.Real) and not isinstance(ignore_index, bool)
    if ignore_index is not None and not number:
        raise TypeError(f"ignore_index must be a number, got {ignore_index!r}")


def check_reduction(reduction: str) -> None:
    """One of three words."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
