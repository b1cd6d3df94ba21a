"""Output activations as cumulative distribution functions.

Each activation F is the cdf of a distribution and has the methods of `scipy.stats`: `cdf` (calling
the activation does the same), `sf` = 1 - F, `logcdf`, `logsf`, `pdf`, `ppf` and `effective_domain`.
In the seven no method takes the logarithm of a rounded probability, and none subtracts a number
close to 1 from 1.

>>> import torch, segact_torch
>>> x = torch.tensor([-100.0, 0.0, 100.0])
>>> segact_torch.arctan(x)
tensor([0.0032, 0.5000, 0.9968])
>>> segact_torch.normal_cdf.logcdf(x)
tensor([-5.0055e+03, -6.9315e-01, -0.0000e+00])
>>> segact_torch.get_activation("arctan", epsilon=1e-7).ppf(torch.tensor(0.9))
tensor(3.0777)

Sources: L. Nieradzik, "Sigmoid activation is not optimal with binary segmentation" (2021), and the
paper arXiv:2109.00903 for the seven activations, epsilon and the effective domain.

float16 and bfloat16 are computed in float32 and returned in the input's dtype. The methods are
differentiable twice, with analytic first derivatives.
"""

import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from segact_torch import _special
from segact_torch._checks import check_epsilon, check_flag, checked_axis
from segact_torch._definitions import same
from segact_torch._derivatives import Function, _apply, _differentiate, _is_recorded, _save
from segact_torch._distributed import ProcessGroup, all_extremes, all_reduce, is_distributed
from segact_torch._names import unknown

__all__ = [
    "Activation",
    "Arctan",
    "HardTanh",
    "InverseSquareRoot",
    "Linear",
    "NormalCDF",
    "OutputActivation",
    "Sigmoid",
    "Softsign",
    "arctan",
    "get_activation",
    "hardtanh",
    "inverse_square_root",
    "linear",
    "normal_cdf",
    "register_activation",
    "sigmoid",
    "softsign",
]

Axis = tuple[int, ...]

# From here on, 1 + t^2 rounds to t^2 also in float64, and a tail equals its leading term.
FAR = 1e8


def _wide(x: Tensor, name: str = "x") -> Tensor:
    """x in the precision of the computation: float64 stays, all else is float32."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be of a floating dtype, got {x.dtype}")
    return x if x.dtype == torch.float64 else x.float()


def _probability(p: Any) -> Tensor:
    """p as a tensor, for `ppf`; a number has to lie in [0, 1]."""
    if isinstance(p, numbers.Real):
        if not 0 <= float(p) <= 1:
            raise ValueError(f"p must lie in [0, 1], got {p!r}")
        return torch.tensor(float(p) if isinstance(p, numbers.Rational) else p)
    _wide(p, "p")
    return p


def _elementwise(x: Tensor, f: Function, derivative: Function) -> Tensor:
    """f(x), computed in at least float32 and returned in the dtype of x."""
    return _differentiate(_wide(x), f, derivative).to(x.dtype)


@fx.wrap
def _cdf(f: "Activation", x: Tensor) -> Tensor:
    """f(x), which torch.fx does not trace into."""
    return f.cdf(x)


def _zero_from(t: Tensor) -> float:
    """From here on the slope of a density is 0 in the precision of t, whose square is finite."""
    return _special.largest(t) ** 0.4


def _clamped_log(probability: Tensor) -> Tensor:
    """log(max(probability, the smallest normal number)); the gradient is 0 where it clamps."""
    return torch.log(_special.at_least(probability, _special.tiny(probability)))


class Activation:
    """A cumulative distribution function as output activation.

    Subclass it and define `cdf`, `sf`, `logcdf` and `logsf`, differentiable and elementwise, or let
    `register_activation` build one from functions. Every method takes a floating tensor of any
    shape and returns one of the same shape and dtype.

    Args:
        epsilon: as in the published code, in [0, 1/2): every method is that of
            epsilon + (1 - 2 epsilon) F(x), without rounding it first. 0 is the exact F.
    """

    name = "activation"
    default_epsilon = 0.0

    def __init__(self, epsilon: float | None = None) -> None:
        if epsilon is not None:
            check_epsilon(epsilon)
        self.epsilon = self.default_epsilon if epsilon is None else float(epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return _cdf(self, x)

    def __fx_create_arg__(self, tracer: fx.Tracer) -> fx.Node:
        """How torch.fx puts it into a graph: as an attribute of the traced module."""
        name = next(
            n for i in itertools.count() if not hasattr(tracer.root, n := f"_activation{i}")
        )
        setattr(tracer.root, name, self)
        return tracer.create_node("get_attr", name, (), {})

    def cdf(self, x: Tensor) -> Tensor:
        """F(x), the probability of class 1."""
        raise NotImplementedError(f"{self.name} defines no cdf")

    def sf(self, x: Tensor) -> Tensor:
        """1 - F(x), the probability of class 0, without the subtraction."""
        raise NotImplementedError(f"{self.name} defines no sf")

    def logcdf(self, x: Tensor) -> Tensor:
        """log F(x)."""
        raise NotImplementedError(f"{self.name} defines no logcdf")

    def logsf(self, x: Tensor) -> Tensor:
        """log(1 - F(x))."""
        raise NotImplementedError(f"{self.name} defines no logsf")

    def pdf(self, x: Tensor) -> Tensor:
        """The density F'(x)."""
        raise NotImplementedError(f"{self.name} has no pdf")

    def ppf(self, p: Tensor | float) -> Tensor:
        """The raw output at which F reaches p: the decision threshold for the probability p.

        p is a tensor, or a number; NaN beyond [0, 1], where a number raises ValueError.
        """
        raise NotImplementedError(f"{self.name} has no ppf")

    def effective_domain(self, epsilon: float = 0.0025) -> tuple[float, float]:
        """(ppf(epsilon), ppf(1 - epsilon)): the raw outputs between which F rises."""
        check_epsilon(epsilon, open=True)
        p = torch.tensor([epsilon, 1 - epsilon], dtype=torch.float64, device="cpu")
        low, high = self.ppf(p).tolist()
        return low, high

    def _fill_invalid(self, x: Tensor, valid: Tensor) -> Tensor:
        """x, with placeholders where it is not valid, which change F(x) nowhere else."""
        return torch.where(valid, x, 0.0)

    def _squeeze(self, probability: Tensor) -> Tensor:
        if self.epsilon == 0:
            return probability
        return self.epsilon + (1 - 2 * self.epsilon) * probability

    def get_config(self) -> dict[str, Any]:
        """The arguments that create this activation again."""
        return {"epsilon": self.epsilon}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.epsilon))

    def __repr__(self) -> str:
        config = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({config})"


class _Symmetric(Activation):
    """F(-x) = 1 - F(x), so everything follows from the tail F(-t) at t = abs(x) >= 0.

    A subclass defines, for t >= 0, `_tail`, `_log_tail`, `_density`, its derivative `_slope`, the
    hazard `_hazard` = density / tail, and `_lower_quantile` for p <= 1/2 with q = p - 1/2.
    """

    def _tail(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_tail(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _density(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _slope(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _hazard(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _lower_quantile(self, p: Tensor, q: Tensor) -> Tensor:
        raise NotImplementedError

    def cdf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._cdf, self.pdf)

    def sf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._sf, lambda x: -self.pdf(x))

    def logcdf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._logcdf, self._logcdf_derivative)

    def logsf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._logsf, self._logsf_derivative)

    def pdf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._pdf, self._pdf_derivative)

    def ppf(self, p: Tensor | float) -> Tensor:
        return _elementwise(_probability(p), self._ppf, lambda p: 1 / self.pdf(self.ppf(p)))

    # The distance of the tail from 0 or 1. `where` would take longer, on a CPU several times.

    def _cdf(self, x: Tensor) -> Tensor:
        return torch.abs(_special.one_less(self._squeezed_tail(x.abs()), x > 0))

    def _sf(self, x: Tensor) -> Tensor:
        return torch.abs(_special.one_less(self._squeezed_tail(x.abs()), x < 0))

    def _logcdf(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, *self._logarithms(x.abs()))

    def _logsf(self, x: Tensor) -> Tensor:
        far, near = self._logarithms(x.abs())
        return torch.where(x < 0, near, far)

    def _squeezed_tail(self, t: Tensor) -> Tensor:
        """The tail with epsilon; one expression, which a compiler shares between two methods."""
        return self._squeeze(self._tail(t))

    def _logarithms(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """log F(-t) and log F(t)."""
        tail = self._squeezed_tail(t)
        return self._log_tail(t) if self.epsilon == 0 else torch.log(tail), torch.log1p(-tail)

    def _logcdf_derivative(self, x: Tensor) -> Tensor:
        below = x < 0
        t = torch.where(below, -x, x)  # abs, but with a derivative of 1 at 0
        return torch.where(below, *self._hazards(t))

    def _logsf_derivative(self, x: Tensor) -> Tensor:
        below = x < 0
        far, near = self._hazards(torch.where(below, -x, x))
        return -torch.where(below, near, far)

    def _hazards(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """pdf / cdf at -t, which never underflows, and at t."""
        density, near = self._upper_pdf(t), self._upper_cdf(t)
        far = self._hazard(t) if self.epsilon == 0 else density / self.sf(t)
        return far, density / near

    def _upper_pdf(self, t: Tensor) -> Tensor:
        """pdf(t) for t >= 0, which is not checked."""
        scale = 1 - 2 * self.epsilon
        return _elementwise(t, lambda t: scale * self._density(t), lambda t: scale * self._slope(t))

    def _upper_cdf(self, t: Tensor) -> Tensor:
        """cdf(t) for t >= 0, which is not checked."""
        return _elementwise(t, lambda t: 1 - self._squeezed_tail(t), self._upper_pdf)

    def _pdf(self, x: Tensor) -> Tensor:
        return (1 - 2 * self.epsilon) * self._density(x.abs())

    def _pdf_derivative(self, x: Tensor) -> Tensor:
        below = x < 0
        slope = (1 - 2 * self.epsilon) * self._slope(torch.where(below, -x, x))
        return torch.where(below, -slope, slope)

    def _ppf(self, p: Tensor) -> Tensor:
        below = p <= 0.5
        nearer = torch.where(below, p, 1 - p)
        # p - 1/2 before the first rounding: for p near 1/2 the result depends on its last digits.
        q = (nearer - 0.5) / (1 - 2 * self.epsilon)
        # Where nothing is subtracted, a number below the smallest normal one is not flushed.
        p = (nearer - self.epsilon) / (1 - 2 * self.epsilon) if self.epsilon else nearer
        x = self._lower_quantile(torch.abs(_special.at_least(p, 0.0)), q)
        return torch.where(nearer < 0, math.nan, torch.where(below, x, -x))


class Sigmoid(_Symmetric):
    """The logistic distribution: F(x) = 1 / (1 + exp(-x))."""

    name = "sigmoid"

    def _tail(self, t: Tensor) -> Tensor:
        e = torch.exp(-t)
        return e / (1 + e)

    def _logarithms(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.epsilon > 0:
            return super()._logarithms(t)
        near = -torch.log1p(torch.exp(-t))
        return near - t, near

    def _density(self, t: Tensor) -> Tensor:
        e = torch.exp(-t)
        return e / (1 + e * (2 + e))

    def _slope(self, t: Tensor) -> Tensor:
        return -self._density(t) * _special.tanh_half(t)

    def _hazards(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.epsilon > 0:
            return super()._hazards(t)
        e = torch.exp(-t)
        return 1 / (1 + e), e / (1 + e)

    def _lower_quantile(self, p: Tensor, q: Tensor) -> Tensor:
        # From 1/3 on, log1p keeps the digits that log would lose near 1/2.
        centre = torch.log1p(2 * q / (1 - p))
        odds = torch.log(_special.at_least(p, _special.tiny(p)) / (1 - p))
        tail = torch.where(p < _special.tiny(p), _special.log_small(p), odds)
        return torch.where(p < 1 / 3, tail, centre)


class NormalCDF(_Symmetric):
    """The standard normal distribution: F(x) = (1 + erf(x / sqrt 2)) / 2."""

    name = "normal_cdf"

    def _tail(self, t: Tensor) -> Tensor:
        return _special.normal_tail(t)

    def _log_tail(self, t: Tensor) -> Tensor:
        return _special.normal_log_tail(t)

    def _density(self, t: Tensor) -> Tensor:
        return _special.normal_pdf(t)

    def _slope(self, t: Tensor) -> Tensor:
        return _special.normal_pdf_slope(t)

    def _hazard(self, t: Tensor) -> Tensor:
        return _special.normal_hazard(t)

    def _lower_quantile(self, p: Tensor, q: Tensor) -> Tensor:
        return _special.normal_lower_quantile(p, q)


class Arctan(_Symmetric):
    """The Cauchy distribution: F(x) = 1/2 + atan(x) / pi."""

    name = "arctan"

    def _tail(self, t: Tensor) -> Tensor:
        return _special.atan_tail(t)

    def _log_tail(self, t: Tensor) -> Tensor:
        # Past FAR the tail is 1 / (pi t), which underflows close to the largest float.
        near = torch.log(self._tail(_special.at_most(t, FAR)))
        return torch.where(t > FAR, -math.log(math.pi) - torch.log(t), near)

    def _density(self, t: Tensor) -> Tensor:
        return 1 / (math.pi * (1 + t * t))

    def _slope(self, t: Tensor) -> Tensor:
        t = _special.at_most(t, _zero_from(t))
        return -2 * self._density(t) * (t / (1 + t * t))

    def _hazard(self, t: Tensor) -> Tensor:
        near = _special.at_most(t, FAR)
        hazard = 1 / ((1 + near * near) * torch.atan2(torch.ones_like(near), near))
        return torch.where(t > FAR, 1 / _special.at_least(t, 1.0), hazard)

    def _lower_quantile(self, p: Tensor, q: Tensor) -> Tensor:
        centre = torch.tan(math.pi * q)
        return torch.where(p < 0.25, -1 / torch.tan(math.pi * p), centre)


class Softsign(_Symmetric):
    """F(x) = (1 + x / (1 + abs(x))) / 2."""

    name = "softsign"

    def _tail(self, t: Tensor) -> Tensor:
        return 0.5 / (1 + t)

    def _log_tail(self, t: Tensor) -> Tensor:
        return -math.log(2) - torch.log1p(t)

    def _density(self, t: Tensor) -> Tensor:
        return 0.5 / (1 + t) / (1 + t)

    def _slope(self, t: Tensor) -> Tensor:
        return -1 / (1 + t) / (1 + t) / (1 + t)

    def _hazard(self, t: Tensor) -> Tensor:
        return 1 / (1 + t)

    def _lower_quantile(self, p: Tensor, q: Tensor) -> Tensor:
        return q / p


class InverseSquareRoot(_Symmetric):
    """Student's t with two degrees of freedom, scaled: F(x) = (1 + x / sqrt(1 + x^2)) / 2."""

    name = "inverse_square_root"

    def _tail(self, t: Tensor) -> Tensor:
        # Past FAR the tail is 1 / (2 t)^2.
        near = _special.at_most(t, FAR)
        square = 1 + near * near
        tail = 0.5 / (square + near * torch.sqrt(square))
        return torch.where(t > FAR, 0.5 / t * (0.5 / t), tail)

    def _log_tail(self, t: Tensor) -> Tensor:
        near = torch.log(self._tail(_special.at_most(t, FAR)))
        return torch.where(t > FAR, -2 * (math.log(2) + torch.log(t)), near)

    def _density(self, t: Tensor) -> Tensor:
        return 0.5 / ((1 + t * t) * torch.hypot(torch.ones_like(t), t))

    def _slope(self, t: Tensor) -> Tensor:
        t = _special.at_most(t, _zero_from(t))
        square = 1 + t * t
        return -1.5 * (t / square) / square / torch.sqrt(square)

    def _hazard(self, t: Tensor) -> Tensor:
        near = _special.at_most(t, FAR)
        h = torch.sqrt(1 + near * near)
        return torch.where(t > FAR, 2 / _special.at_least(t, 1.0), (1 + near / h) / h)

    def _lower_quantile(self, p: Tensor, q: Tensor) -> Tensor:
        return q / torch.sqrt(p * (1 - p))


class HardTanh(Activation):
    """The uniform distribution on [0, 1], clipped: F(x) = clip(x, epsilon, 1 - epsilon).

    As published, it is not centred: F(0) = epsilon and F(1/2) = 1/2. The derivative of every method
    is 0 at both limits and beyond them.
    """

    name = "hardtanh"
    default_epsilon = 1e-7

    def cdf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._cdf, self.pdf)

    def sf(self, x: Tensor) -> Tensor:
        return _elementwise(x, lambda x: self._cdf(1 - x), lambda x: -self.pdf(x))

    def logcdf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._logcdf, self._logcdf_derivative)

    def logsf(self, x: Tensor) -> Tensor:
        return _elementwise(x, self._logsf, self._logsf_derivative)

    def pdf(self, x: Tensor) -> Tensor:
        """1 between the limits, 0 at them and beyond."""
        return _elementwise(x, self._pdf, torch.zeros_like)

    def ppf(self, p: Tensor | float) -> Tensor:
        return _elementwise(_probability(p), self._ppf, lambda p: 1 / self.pdf(p))

    def _pdf(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # inductor would save booleans, in a slow loop
            above, below = (x - self.epsilon).relu(), (1 - x - self.epsilon).relu()
            return above.sign() * below.sign()
        return self._inside(x).to(x.dtype)

    def _inside(self, x: Tensor) -> Tensor:
        # 1 - x is exact where the clip compares it; 1 - epsilon is not.
        return (x > self.epsilon) & (1 - x > self.epsilon)

    def _cdf(self, x: Tensor) -> Tensor:
        return _special.clip(x, self.epsilon, 1 - self.epsilon)

    def _logcdf(self, x: Tensor) -> Tensor:
        log = torch.log(_special.at_least(x, self.epsilon))
        return torch.where(1 - x <= self.epsilon, math.log1p(-self.epsilon), log)

    def _logsf(self, x: Tensor) -> Tensor:
        left = torch.log1p(-_special.at_most(x, 0.5))
        right = torch.log(_special.at_least(1 - x, self.epsilon))
        inside = torch.where(x > 0.5, right, left)
        return torch.where(x <= self.epsilon, math.log1p(-self.epsilon), inside)

    def _logcdf_derivative(self, x: Tensor) -> Tensor:
        inside = self._inside(x)
        return torch.where(inside, 1 / torch.where(inside, x, 1.0), 0.0)

    def _logsf_derivative(self, x: Tensor) -> Tensor:
        inside = self._inside(x)
        return torch.where(inside, -1 / (1 - torch.where(inside, x, 0.0)), 0.0)

    def _ppf(self, p: Tensor) -> Tensor:
        x = torch.where(p <= self.epsilon, -math.inf, p)
        x = torch.where(1 - p < self.epsilon, math.inf, x)
        return torch.where((p >= 0) & (p <= 1), x, math.nan)


class _Stretch(torch.autograd.Function):
    """(x - min) / (max - min) over axes and the ranks of a group; 1/2 for a constant input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, axis: frozenset[int], group: ProcessGroup | None) -> Tensor:
        x, low, high, span = _extremes(x, tuple(axis), group)
        return torch.where(low == high, 0.5, (x - low) / span)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.axis, ctx.group = inputs
        _save(ctx, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), axis, group = ctx.saved_tensors, tuple(ctx.axis), ctx.group
        unit = _apply(_Stretch, x, ctx.axis, group)
        x, low, high, span = _extremes(x, axis, group)
        grad = torch.where(low == high, 0.0, grads[0])
        # The slope of an extreme and its share of all slopes cancel: subtract these two first.
        at_low, at_high = x == low, x == high
        through_low = torch.where(at_low, 0.0, grad * (1 - unit))
        through_high = torch.where(at_high, 0.0, grad * unit)
        for at, through in ((at_low, through_low), (at_high, through_high)):
            sums = (at.to(x.dtype), torch.where(at, grad, 0.0), through)
            ties, own, through = _totals(axis, group, *sums)
            grad = torch.where(at, grad - own / ties - through / ties, grad)
        return grad / 8 / span, None, None

    @staticmethod
    def push(ctx: Any, saved: Sequence[Tensor], *tangents: Any) -> Tensor:
        (x,), axis, group = saved, tuple(ctx.axis), ctx.group
        unit = _apply(_Stretch, x, ctx.axis, group)
        x, low, high, span = _extremes(x, axis, group)
        tangent = torch.where(low == high, 0.0, tangents[0])
        at_low, at_high = x == low, x == high
        of_extremes = []
        for at in (at_low, at_high):
            own, ties = _totals(axis, group, torch.where(at, tangent, 0.0), at.to(x.dtype))
            of_extremes.append(own / ties)
        of_low, of_high = of_extremes
        moved = torch.where(at_low, 0.0, (1 - unit) * of_low)
        moved = moved + torch.where(at_high, 0.0, unit * of_high)
        own = torch.where(at_low, of_low, torch.where(at_high, of_high, 0.0))
        return (tangent - own - moved) / 8 / span


def _extremes(
    x: Tensor, axis: Axis, group: ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x / 8, its min and max over all ranks, and max - min.

    That difference cannot overflow, nor its inverse underflow.
    """
    x = x / 8
    if not _is_recorded() and x.numel() == 0:  # it has no minimum
        low = high = x.sum(axis, keepdim=True)
    else:
        low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
    if group is not None:
        low, high = (_tied(x, t, axis, group) for t in all_extremes(group, low, high))
    return x, low, high, torch.where(low == high, 1.0, high - low)


def _tied(x: Tensor, extreme: Tensor, axis: Axis, group: ProcessGroup) -> Tensor:
    """An extreme of all ranks; the elements equal to it share its gradient, if one is needed.

    As `amin` and `amax` do on one rank.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return extreme
    at = x == extreme
    zeros = torch.where(at, x - extreme, 0.0)
    moved, ties = _totals(axis, group, zeros, at.to(x.dtype))
    return extreme + moved / ties


def _totals(axis: Axis, group: ProcessGroup | None, *values: Tensor) -> tuple[Tensor, ...]:
    """The sum of each tensor over `axis` (kept, with size 1) and over the ranks."""
    return all_reduce(group, *(each.sum(axis, keepdim=True) for each in values))


class Linear(Activation):
    """F(x) = epsilon + (1 - 2 epsilon) (x - min) / (max - min), the batch scaled to (0, 1).

    The minimum and maximum are of the whole input, or over `axis` (a dimension or several, such as
    (1, 2, 3) for each image of NCHW). Gradients flow through both; elements that tie for one share
    its gradient equally. A constant input gives 1/2 with a gradient of 0. There is no `pdf` and no
    `ppf`: F(x) depends on the batch.
    """

    name = "linear"
    default_epsilon = 1e-7
    _group: ProcessGroup | None = None  # the ranks that have the other parts of the batch

    def __init__(
        self, epsilon: float | None = None, axis: int | tuple[int, ...] | None = None
    ) -> None:
        super().__init__(epsilon)
        self.axis = checked_axis(axis)
        if self.axis == ():
            raise ValueError("axis must name a dimension, or be None for all, got ()")

    def get_config(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "axis": self.axis}

    def cdf(self, x: Tensor) -> Tensor:
        return self._squeezed(_wide(x)).to(x.dtype)

    def sf(self, x: Tensor) -> Tensor:
        return self.cdf(-x)

    def logcdf(self, x: Tensor) -> Tensor:
        p, q = self._squeezed(_wide(x)), self._squeezed(_wide(-x))
        # If p is 0, it is 0 for every input, and its logarithm has a slope of 0.
        left = torch.log(torch.where(p == 0, 1.0, p))
        right = torch.log1p(-torch.where(p > 0.5, q, 0.0))
        log = torch.where(p > 0.5, right, torch.where(p == 0, -math.inf, left))
        return log.to(x.dtype)

    def logsf(self, x: Tensor) -> Tensor:
        return self.logcdf(-x)

    def _fill_invalid(self, x: Tensor, valid: Tensor) -> Tensor:
        axis = self._axis(x)
        low = torch.where(valid, x, math.inf).amin(axis, keepdim=True)
        high = torch.where(valid, x, -math.inf).amax(axis, keepdim=True)
        low, high = all_extremes(self._group, low, high)
        middle = torch.where(low <= high, low / 2 + high / 2, 0.0)  # a value between min and max
        return torch.where(valid, x, middle.detach())

    def _axis(self, x: Tensor) -> Axis:
        if self.axis is None:
            # () is of any rank, also one other than torch.jit.trace saw; a DTensor reduces each
            # part alone by it
            return tuple(range(x.ndim)) if is_distributed(x) else ()
        wanted = (self.axis,) if isinstance(self.axis, int) else self.axis
        if any(not -x.ndim <= a < x.ndim for a in wanted):
            raise ValueError(
                f"axis {self.axis} is out of range for an input of shape {tuple(x.shape)}"
            )
        numbered = tuple(a % x.ndim for a in wanted)
        if len({*numbered}) < len(numbered):
            raise ValueError(
                f"axis {self.axis} is twice the same in an input of shape {tuple(x.shape)}"
            )
        return numbered

    def _squeezed(self, x: Tensor) -> Tensor:
        return self._squeeze(_apply(_Stretch, x, frozenset(self._axis(x)), self._group))


class _LinearOverRanks(Linear):
    """`Linear` on one part of a batch, with the min and max of all parts."""

    def __init__(self, f: Linear, group: ProcessGroup) -> None:
        super().__init__(f.epsilon, f.axis)
        self._group = group


class _Custom(Activation):
    """The activation that `register_activation` makes of a user's functions."""

    def __init__(
        self,
        epsilon: float | None = None,
        *,
        name: str,
        cdf: Function,
        logcdf: Function | None = None,
        symmetric: bool = False,
        pdf: Function | None = None,
        ppf: Function | None = None,
    ) -> None:
        super().__init__(epsilon)
        self.name = name
        self.symmetric = symmetric
        self._cdf, self._logcdf, self._pdf, self._ppf = cdf, logcdf, pdf, ppf

    def cdf(self, x: Tensor) -> Tensor:
        return self._squeeze(self._cdf(_wide(x))).to(x.dtype)

    def sf(self, x: Tensor) -> Tensor:
        return self.cdf(-x) if self.symmetric else (1 - self.cdf(_wide(x))).to(x.dtype)

    def logcdf(self, x: Tensor) -> Tensor:
        if self._logcdf is not None and self.epsilon == 0:
            return self._logcdf(_wide(x)).to(x.dtype)
        return _clamped_log(self.cdf(_wide(x))).to(x.dtype)

    def logsf(self, x: Tensor) -> Tensor:
        if self.symmetric:
            return self.logcdf(-x)
        return _clamped_log(self.sf(_wide(x))).to(x.dtype)

    def pdf(self, x: Tensor) -> Tensor:
        if self._pdf is None:
            return super().pdf(x)
        return ((1 - 2 * self.epsilon) * self._pdf(_wide(x))).to(x.dtype)

    def ppf(self, p: Tensor | float) -> Tensor:
        if self._ppf is None:
            return super().ppf(p)
        p = _probability(p)
        inner = (_wide(p) - self.epsilon) / (1 - 2 * self.epsilon)
        return self._ppf(inner).to(p.dtype)

    def get_config(self) -> dict[str, Any]:
        """What `get_activation` finds it again by, once it is registered."""
        return {"epsilon": self.epsilon, "name": self.name}


sigmoid = Sigmoid()
normal_cdf = NormalCDF()
arctan = Arctan()
softsign = Softsign()
inverse_square_root = InverseSquareRoot()
hardtanh = HardTanh()
linear = Linear()

_REGISTRY: dict[str, Callable[..., Activation]] = {
    kind.name: kind
    for kind in (Sigmoid, NormalCDF, Arctan, Softsign, InverseSquareRoot, HardTanh, Linear)
}


def get_activation(activation: str | Activation, **params: Any) -> Activation:
    """The activation of that name, or the one given.

    Args:
        activation: "sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root",
            "hardtanh", "linear", a registered name, or an `Activation`, which is returned.
        params: `epsilon`, and for "linear" `axis`.

    Raises:
        ValueError: an unknown name; the message lists the known ones, and a similar one if any.
        TypeError: neither a name nor an activation, or params together with an activation.

    >>> get_activation("linear", axis=(1, 2, 3))
    Linear(epsilon=1e-07, axis=(1, 2, 3))
    """
    if isinstance(activation, Activation):
        if params:
            raise TypeError(f"params go with a name, got {params} together with {activation!r}")
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"activation must be a name or an Activation, got {activation!r}; "
            "register_activation makes an Activation of a function"
        )
    if activation not in _REGISTRY:
        raise ValueError(unknown("activation", activation, _REGISTRY))
    return _REGISTRY[activation](**params)


def register_activation(
    name: str,
    cdf: Function,
    logcdf: Function | None = None,
    *,
    symmetric: bool = False,
    pdf: Function | None = None,
    ppf: Function | None = None,
    replace: bool = False,
) -> Activation:
    """Register your own activation under a name, and return it.

    The functions are elementwise, on float32 or float64 tensors, and differentiated as they are.
    The same definition may be registered again, as when a notebook's cell is run twice. An object
    that holds the activation, such as a loss, can be pickled only if the functions can: functions
    at the top level of a module can, lambdas and nested functions cannot.

    Args:
        name: the name for `get_activation` and the losses.
        cdf: F(x), rising from 0 to 1.
        logcdf: log F(x). Without it the logarithms are those of the rounded probability, clamped
            to the smallest normal number (-87.3 in float32), with a gradient of 0 where they are.
        symmetric: F(-x) = 1 - F(x). Then sf(x) = cdf(-x) and logsf(x) = logcdf(-x); otherwise
            sf = 1 - cdf, and logsf is its clamped logarithm.
        pdf, ppf: F'(x) and the inverse of F; no loss calls them.
        replace: replace another definition of this name; existing losses keep the old one.

    Raises:
        ValueError: another definition has the name, or it is one of the seven names.
        TypeError: the name is not a string, one of the functions is not callable, or `symmetric` or
            `replace` is not True or False.

    >>> gumbel = register_activation("gumbel", lambda x: torch.exp(-torch.exp(-x)),
    ...                              lambda x: -torch.exp(-x))
    >>> gumbel.logcdf(torch.tensor([-3.0]))
    tensor([-20.0855])
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be text, got {name!r}")
    for argument, function in (("cdf", cdf), ("logcdf", logcdf), ("pdf", pdf), ("ppf", ppf)):
        if not callable(function) and (function is not None or argument == "cdf"):
            raise TypeError(f"{argument} must be a function of a tensor, got {function!r}")
    check_flag("symmetric", symmetric)
    check_flag("replace", replace)
    make = partial(
        _Custom, name=name, cdf=cdf, logcdf=logcdf, symmetric=symmetric, pdf=pdf, ppf=ppf
    )
    known = _REGISTRY.get(name, make)
    if not isinstance(known, partial):
        raise ValueError(f"name is that of one of the seven activations, got {name!r}")
    if not same(known, make):
        if not replace:
            raise ValueError(
                f"activation {name!r} is already registered with another definition; "
                "replace=True replaces it"
            )
        known = make
    _REGISTRY[name] = known
    return get_activation(name)


class OutputActivation(nn.Module):
    """An output activation as the last module of a network.

    Args:
        activation: a name or an `Activation`.
        params: as for `get_activation`.

    >>> nn.Sequential(nn.Linear(8, 1), OutputActivation("arctan"))
    Sequential(
      (0): Linear(in_features=8, out_features=1, bias=True)
      (1): OutputActivation(Arctan(epsilon=0.0))
    )
    """

    def __init__(self, activation: str | Activation, **params: Any) -> None:
        super().__init__()
        self.activation = get_activation(activation, **params)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            if input.dtype == torch.float64:
                return self._double(input)
            return self._single(input.float()).to(input.dtype)
        return self.activation(input)

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by torch.jit.script, which cannot compile an activation: returns its traces."""
        if type(self.activation) not in _REGISTRY.values():
            raise TypeError(
                "torch.jit.script takes an activation of segact_torch, "
                f"got {self.activation!r}; torch.jit.trace takes any"
            )
        x = torch.tensor([0.25, 0.75], dtype=torch.float32, device="cpu")
        self._single = torch.jit.trace(self.activation.cdf, x)
        self._double = torch.jit.trace(self.activation.cdf, x.double())
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_single", "_double")}

    def extra_repr(self) -> str:
        return repr(self.activation)
