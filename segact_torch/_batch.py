"""The arguments of a loss: checked, in one shape and in one precision."""

import contextlib
import math
import numbers
from typing import Any

import torch
from torch import Tensor

from segact_torch.activations import Activation
from segact_torch.conventions import Convention

Axis = tuple[int, ...]


class Batch:
    """Raw outputs x, targets y, weights w, which elements are valid, and F.

    All in the shape of x. x, y and w are in the precision that the loss is computed in; `input`,
    `target` and `weight` are the same as they were given, for backends that read them so. An
    element that is left out has a weight of 0; w = None stands for weights of 1, valid = None for
    every element.

    x holds probabilities where f is a `Convention`. The values are looked at by `check_values`:
    `validate` says whether to, and `hard` that targets have to be 0 or 1.
    """

    __slots__ = (
        *("_w", "_x", "_y", "dtype", "f", "hard", "input", "target", "valid", "validate"),
        "weight",
    )

    def __init__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        valid: Tensor | None,
        f: Activation | Convention,
        validate: bool | None = None,
        hard: bool = False,
    ) -> None:
        self.input, self.target, self.weight, self.valid = input, target, weight, valid
        self.f, self.validate, self.hard = f, validate, hard
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
        _check_tensor(input, "input")
        if not input.is_floating_point():
            raise TypeError(f"input must be of a floating dtype, got {input.dtype}")
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
        w, valid = _fitted(weight, "weight", input), _valid(input, target, ignore_index, mask)
        if valid is not None:
            w = valid if w is None else torch.where(valid, w, 0)
        return cls(input, target, w, valid, f, validate, hard)

    def of_outputs(self, x: Tensor) -> "Batch":
        """The same batch of other raw outputs."""
        constants = (self.target, self.weight, self.valid)
        return Batch(x, *constants, self.f, self.validate, self.hard)

    def masked(self) -> tuple[Tensor, Tensor]:
        """x and y, with finite placeholders where the weight is 0: NaN there reaches no sum."""
        if self.weight is None:
            return self.x, self.y
        kept = self.weight != 0
        return self.f._fill_invalid(self.x, kept), torch.where(kept, self.y, 0.0)

    def elements(self, reduction: str) -> tuple[Axis, bool]:
        """The dimensions that a loss of each element is reduced over, and whether to its mean."""
        check_reduction(reduction)
        axis = () if reduction == "none" else tuple(range(self.input.ndim))
        return axis, reduction == "mean"

    def groups(self, per_sample: bool, channel_axis: int | None) -> Axis:
        """The dimensions that an overlap loss sums over: all but those of samples and channels."""
        shape = tuple(self.input.shape)
        rank = len(shape)
        kept = {0} if per_sample else set()
        if per_sample and rank == 0:
            raise ValueError("per_sample=True wants a dimension of samples, got input ()")
        if channel_axis is not None:
            if not isinstance(channel_axis, numbers.Integral):
                raise TypeError(f"channel_axis must be an integer, got {channel_axis!r}")
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
        if not isinstance(pos_weight, Tensor):
            check_number("pos_weight", pos_weight)
            return float(pos_weight)
        try:
            return pos_weight.to(self.dtype).expand(self.input.shape)
        except RuntimeError as error:
            raise ValueError(
                "pos_weight must broadcast to the shape of input, "
                f"got pos_weight {tuple(pos_weight.shape)} and input {tuple(self.input.shape)}"
            ) from error

    def share(self, axis: Axis) -> float | Tensor:
        """1 / the number of valid elements over `axis`, at least 1, for each group."""
        if self.valid is not None:
            return self.valid.sum(axis).clamp_(min=1).double().reciprocal_()
        return 1 / math.prod([self.input.shape[a] for a in axis])

    def check_values(self) -> None:
        """Raise for values out of their range, once, where `validate` allows to look.

        Under vmap and on fake tensors values cannot be read; that is an error only with
        validate=True.
        """
        if torch.compiler.is_compiling():
            return
        if self.validate or (self.validate is None and self.input.device.type == "cpu"):
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
            _check_range(self.w, "weight", torch.finfo(self.dtype).max)
        if self.hard and not torch.all((y == 0) | (y == 1)):
            raise ValueError("target must be 0 or 1: a Lovasz loss is not defined in between")


def _valid(x: Tensor, y: Tensor, ignore_index: int | None, mask: Tensor | None) -> Tensor | None:
    """Which elements are not left out, by target or by mask."""
    check_ignore_index(ignore_index)
    fitted = _fitted(mask, "mask", x)
    named = None if ignore_index is None or not _holds(y, ignore_index) else y != ignore_index
    if fitted is None:
        return named
    return fitted != 0 if named is None else named & (fitted != 0)


def _holds(y: Tensor, number: float) -> bool:
    """Whether y can hold a number at all; PyTorch compares -100 with uint8 as 156."""
    if y.is_floating_point() or y.dtype == torch.bool:
        return True
    limits = torch.iinfo(y.dtype)
    return limits.min <= number <= limits.max


def _fitted(values: Tensor | None, name: str, x: Tensor) -> Tensor | None:
    """A tensor of the rank of x, with sizes equal or 1, in the shape of x."""
    if values is None:
        return None
    _check_tensor(values, name)
    pairs = zip(values.shape, x.shape, strict=False)
    if values.ndim != x.ndim or any(size not in (1, whole) for size, whole in pairs):
        raise ValueError(
            f"{name} must have the rank of input and sizes equal to its own or 1, "
            f"got {name} {tuple(values.shape)} and input {tuple(x.shape)}"
        )
    return values.detach().expand(x.shape)


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
    number = isinstance(value, numbers.Real) and -math.inf < value < math.inf
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
