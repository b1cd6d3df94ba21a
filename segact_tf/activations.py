"""Output activations as cumulative distribution functions.

Each activation F is the cdf of a distribution and has the methods of `scipy.stats`: `cdf` (calling
the activation does the same), `sf` = 1 - F, `logcdf`, `logsf`, `pdf`, `ppf` and `effective_domain`.
In the seven no method takes the logarithm of a rounded probability, and none subtracts a number
close to 1 from 1.

>>> from keras.ops import convert_to_numpy
>>> x = np.array([-100.0, 0.0, 100.0], "float32")
>>> convert_to_numpy(arctan(x)).round(4)
array([0.0032, 0.5   , 0.9968], dtype=float32)
>>> convert_to_numpy(normal_cdf.logcdf(x)).round(4)
array([-5.0055244e+03, -6.9309998e-01, -0.0000000e+00], dtype=float32)
>>> float(get_activation("arctan", epsilon=1e-7).ppf(np.float32(0.9)))  # doctest: +ELLIPSIS
3.0776...

Sources: L. Nieradzik, "Sigmoid activation is not optimal with binary segmentation" (2021), and the
paper arXiv:2109.00903 for the seven activations, epsilon and the effective domain.

float16 and bfloat16 are computed in float32 and returned in the input's dtype. The methods are
differentiable twice, with analytic first derivatives. All is written in `keras.ops` and runs on the
TensorFlow, JAX and torch backends.
"""

import math
import numbers
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import keras
import numpy as np
from keras import ops

from segact_tf import _engine, _pairwise, _special
from segact_tf._checks import check_epsilon, check_flag, check_rank, checked_axis, checked_tensor
from segact_tf._definitions import same
from segact_tf._derivatives import Function, _differentiate
from segact_tf._distributed import all_extremes, all_reduce
from segact_tf._names import unknown

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


def _wide(x: Any, name: str = "x") -> Any:
    """x in the precision of the computation: float64 stays, all else is float32."""
    x = checked_tensor(x, name)
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "float" not in dtype:
        raise TypeError(f"{name} must be of a floating dtype, got {dtype}")
    return x if dtype == "float64" else ops.cast(x, "float32")


def _probability(p: Any) -> Any:
    """p as a tensor, for `ppf`; a number has to lie in [0, 1]."""
    if isinstance(p, numbers.Real):
        if not 0 <= float(p) <= 1:
            raise ValueError(f"p must lie in [0, 1], got {p!r}")
        p = np.asarray(p, None if isinstance(p, np.floating) else keras.config.floatx())
    p = checked_tensor(p, "p")
    _wide(p, "p")
    return p


def _elementwise(x: Any, f: Function, derivative: Function) -> Any:
    """f(x), computed in at least float32 and returned in the dtype of x."""
    x = checked_tensor(x)
    return ops.cast(_differentiate(_wide(x), f, derivative), x.dtype)


def _zero_from(t: Any) -> float:
    """From here on the slope of a density is 0 in the precision of t, whose square is finite."""
    return _special.largest(t) ** 0.4


def _clamped_log(probability: Any) -> Any:
    """log(max(probability, the smallest normal number)); the gradient is 0 where it clamps."""
    return ops.log(_special.at_least(probability, _special.tiny(probability)))


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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"cdf", "sf", "logcdf", "logsf", "pdf", "ppf"} & vars(cls).keys():
            if isinstance(vars(cls)[name], FunctionType):
                setattr(cls, name, _engine.symbolic(vars(cls)[name], name))

    def __call__(self, x: Any) -> Any:
        if isinstance(x, keras.KerasTensor):  # a symbolic input: a layer of the functional API
            return OutputActivation(self)(x)
        return self.cdf(x)

    def cdf(self, x: Any) -> Any:
        """F(x), the probability of class 1."""
        raise NotImplementedError(f"{self.name} defines no cdf")

    def sf(self, x: Any) -> Any:
        """1 - F(x), the probability of class 0, without the subtraction."""
        raise NotImplementedError(f"{self.name} defines no sf")

    def logcdf(self, x: Any) -> Any:
        """log F(x)."""
        raise NotImplementedError(f"{self.name} defines no logcdf")

    def logsf(self, x: Any) -> Any:
        """log(1 - F(x))."""
        raise NotImplementedError(f"{self.name} defines no logsf")

    def pdf(self, x: Any) -> Any:
        """The density F'(x)."""
        raise NotImplementedError(f"{self.name} has no pdf")

    def ppf(self, p: Any) -> Any:
        """The raw output at which F reaches p: the decision threshold for the probability p.

        p is a tensor, or a number; NaN beyond [0, 1], where a number raises ValueError.
        """
        raise NotImplementedError(f"{self.name} has no ppf")

    def effective_domain(self, epsilon: float = 0.0025) -> tuple[float, float]:
        """(ppf(epsilon), ppf(1 - epsilon)): the raw outputs between which F rises."""
        check_epsilon(epsilon, open=True)
        low, high = ops.convert_to_numpy(self.ppf(np.array([epsilon, 1 - epsilon]))).tolist()
        return low, high

    def _fill_invalid(self, x: Any, valid: Any) -> Any:
        """x, with placeholders where it is not valid, which change F(x) nowhere else."""
        return ops.where(valid, x, 0.0)

    def _squeeze(self, probability: Any) -> Any:
        if self.epsilon == 0:
            return probability
        return self.epsilon + (1 - 2 * self.epsilon) * probability

    def get_config(self) -> dict[str, Any]:
        """The arguments that create this activation again."""
        return {"epsilon": self.epsilon}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Activation":
        return cls(**config)

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

    def _tail(self, t: Any) -> Any:
        raise NotImplementedError

    def _log_tail(self, t: Any) -> Any:
        raise NotImplementedError

    def _density(self, t: Any) -> Any:
        raise NotImplementedError

    def _slope(self, t: Any) -> Any:
        raise NotImplementedError

    def _hazard(self, t: Any) -> Any:
        raise NotImplementedError

    def _lower_quantile(self, p: Any, q: Any) -> Any:
        raise NotImplementedError

    def cdf(self, x: Any) -> Any:
        return _elementwise(x, self._cdf, self.pdf)

    def sf(self, x: Any) -> Any:
        return _elementwise(x, self._sf, lambda x: -self.pdf(x))

    def logcdf(self, x: Any) -> Any:
        return _elementwise(x, self._logcdf, self._logcdf_derivative)

    def logsf(self, x: Any) -> Any:
        return _elementwise(x, self._logsf, self._logsf_derivative)

    def pdf(self, x: Any) -> Any:
        return _elementwise(x, self._pdf, self._pdf_derivative)

    def ppf(self, p: Any) -> Any:
        return _elementwise(_probability(p), self._ppf, lambda p: 1 / self.pdf(self.ppf(p)))

    # The distance of the tail from 0 or 1. `where` would take longer, on a CPU several times.

    def _cdf(self, x: Any) -> Any:
        return ops.abs(_special.one_less(self._squeezed_tail(ops.abs(x)), x > 0))

    def _sf(self, x: Any) -> Any:
        return ops.abs(_special.one_less(self._squeezed_tail(ops.abs(x)), x < 0))

    def _logcdf(self, x: Any) -> Any:
        return ops.where(x < 0, *self._logarithms(ops.abs(x)))

    def _logsf(self, x: Any) -> Any:
        far, near = self._logarithms(ops.abs(x))
        return ops.where(x < 0, near, far)

    def _squeezed_tail(self, t: Any) -> Any:
        """The tail with epsilon; one expression, which a compiler shares between two methods."""
        return self._squeeze(self._tail(t))

    def _logarithms(self, t: Any) -> tuple[Any, Any]:
        """log F(-t) and log F(t)."""
        tail = self._squeezed_tail(t)
        return self._log_tail(t) if self.epsilon == 0 else ops.log(tail), _special.log1p(-tail)

    def _logcdf_derivative(self, x: Any) -> Any:
        below = x < 0
        t = ops.where(below, -x, x)  # abs, but with a derivative of 1 at 0
        return ops.where(below, *self._hazards(t))

    def _logsf_derivative(self, x: Any) -> Any:
        below = x < 0
        far, near = self._hazards(ops.where(below, -x, x))
        return -ops.where(below, near, far)

    def _hazards(self, t: Any) -> tuple[Any, Any]:
        """pdf / cdf at -t, which never underflows, and at t."""
        density, near = self._upper_pdf(t), self._upper_cdf(t)
        far = self._hazard(t) if self.epsilon == 0 else _special.divide(density, self.sf(t))
        return far, density / near

    def _upper_pdf(self, t: Any) -> Any:
        """pdf(t) for t >= 0, which is not checked."""
        scale = 1 - 2 * self.epsilon
        return _elementwise(t, lambda t: scale * self._density(t), lambda t: scale * self._slope(t))

    def _upper_cdf(self, t: Any) -> Any:
        """cdf(t) for t >= 0, which is not checked."""
        return _elementwise(t, lambda t: 1 - self._squeezed_tail(t), self._upper_pdf)

    def _pdf(self, x: Any) -> Any:
        return (1 - 2 * self.epsilon) * self._density(ops.abs(x))

    def _pdf_derivative(self, x: Any) -> Any:
        below = x < 0
        slope = (1 - 2 * self.epsilon) * self._slope(ops.where(below, -x, x))
        return ops.where(below, -slope, slope)

    def _ppf(self, p: Any) -> Any:
        below = p <= 0.5
        nearer = ops.where(below, p, 1 - p)
        # p - 1/2 before the first rounding: for p near 1/2 the result depends on its last digits.
        q = (nearer - 0.5) / (1 - 2 * self.epsilon)
        # Where nothing is subtracted, a number below the smallest normal one is not flushed.
        p = (nearer - self.epsilon) / (1 - 2 * self.epsilon) if self.epsilon else nearer
        x = self._lower_quantile(ops.abs(_special.at_least(p, 0.0)), q)
        return ops.where(nearer < 0, math.nan, ops.where(below, x, -x))


@keras.saving.register_keras_serializable(package="segact")
class Sigmoid(_Symmetric):
    """The logistic distribution: F(x) = 1 / (1 + exp(-x))."""

    name = "sigmoid"

    def _tail(self, t: Any) -> Any:
        e = ops.exp(-t)
        return _special.over_one_and(e, e)

    def _logarithms(self, t: Any) -> tuple[Any, Any]:
        if self.epsilon > 0:
            return super()._logarithms(t)
        near = -_special.log1p(ops.exp(-t))
        return near - t, near

    def _density(self, t: Any) -> Any:
        e = ops.exp(-t)
        return e / (1 + e * (2 + e))

    def _slope(self, t: Any) -> Any:
        return -self._density(t) * _special.tanh_half(t)

    def _hazards(self, t: Any) -> tuple[Any, Any]:
        if self.epsilon > 0:
            return super()._hazards(t)
        e = ops.exp(-t)
        return 1 / (1 + e), _special.over_one_and(e, e)

    def _lower_quantile(self, p: Any, q: Any) -> Any:
        # From 1/3 on, log1p keeps the digits that log would lose near 1/2.
        centre = _special.log1p(2 * q / (1 - p))
        odds = ops.log(_special.at_least(p, _special.tiny(p)) / (1 - p))
        tail = ops.where(p < _special.tiny(p), _special.log_small(p), odds)
        return ops.where(p < 1 / 3, tail, centre)


@keras.saving.register_keras_serializable(package="segact")
class NormalCDF(_Symmetric):
    """The standard normal distribution: F(x) = (1 + erf(x / sqrt 2)) / 2."""

    name = "normal_cdf"

    def _tail(self, t: Any) -> Any:
        return _special.normal_tail(t)

    def _log_tail(self, t: Any) -> Any:
        return _special.normal_log_tail(t)

    def _density(self, t: Any) -> Any:
        return _special.normal_pdf(t)

    def _slope(self, t: Any) -> Any:
        return _special.normal_pdf_slope(t)

    def _hazard(self, t: Any) -> Any:
        return _special.normal_hazard(t)

    def _lower_quantile(self, p: Any, q: Any) -> Any:
        return _special.normal_lower_quantile(p, q)


@keras.saving.register_keras_serializable(package="segact")
class Arctan(_Symmetric):
    """The Cauchy distribution: F(x) = 1/2 + atan(x) / pi."""

    name = "arctan"

    def _tail(self, t: Any) -> Any:
        return _special.atan_tail(t)

    def _log_tail(self, t: Any) -> Any:
        # Past FAR the tail is 1 / (pi t), which underflows close to the largest float.
        near = ops.log(self._tail(_special.at_most(t, FAR)))
        return ops.where(t > FAR, -math.log(math.pi) - ops.log(t), near)

    def _density(self, t: Any) -> Any:
        return 1 / (math.pi * (1 + t * t))

    def _slope(self, t: Any) -> Any:
        t = _special.at_most(t, _zero_from(t))
        return -2 * self._density(t) * (t / (1 + t * t))

    def _hazard(self, t: Any) -> Any:
        near = _special.at_most(t, FAR)
        hazard = 1 / ((1 + near * near) * (math.pi * _special.atan_tail(near)))
        return ops.where(t > FAR, 1 / _special.at_least(t, 1.0), hazard)

    def _lower_quantile(self, p: Any, q: Any) -> Any:
        centre = _special.tan(math.pi * q)
        return ops.where(p < 0.25, -1 / _special.tan(math.pi * p), centre)


@keras.saving.register_keras_serializable(package="segact")
class Softsign(_Symmetric):
    """F(x) = (1 + x / (1 + abs(x))) / 2."""

    name = "softsign"

    def _tail(self, t: Any) -> Any:
        return 0.5 / (1 + t)

    def _log_tail(self, t: Any) -> Any:
        return -math.log(2) - ops.log(1 + t)

    def _density(self, t: Any) -> Any:
        return 0.5 / (1 + t) / (1 + t)

    def _slope(self, t: Any) -> Any:
        return -1 / (1 + t) / (1 + t) / (1 + t)

    def _hazard(self, t: Any) -> Any:
        return 1 / (1 + t)

    def _lower_quantile(self, p: Any, q: Any) -> Any:
        return q / p


@keras.saving.register_keras_serializable(package="segact")
class InverseSquareRoot(_Symmetric):
    """Student's t with two degrees of freedom, scaled: F(x) = (1 + x / sqrt(1 + x^2)) / 2."""

    name = "inverse_square_root"

    def _tail(self, t: Any) -> Any:
        # Past FAR the tail is 1 / (2 t)^2.
        near = _special.at_most(t, FAR)
        square = 1 + near * near
        tail = 0.5 / (square + near * ops.sqrt(square))
        return ops.where(t > FAR, 0.5 / t * (0.5 / t), tail)

    def _log_tail(self, t: Any) -> Any:
        near = ops.log(self._tail(_special.at_most(t, FAR)))
        return ops.where(t > FAR, -2 * (math.log(2) + ops.log(t)), near)

    def _density(self, t: Any) -> Any:
        square = 1 + t * t
        return 0.5 / (square * ops.sqrt(square))

    def _slope(self, t: Any) -> Any:
        t = _special.at_most(t, _zero_from(t))
        square = 1 + t * t
        return -1.5 * (t / square) / square / ops.sqrt(square)

    def _hazard(self, t: Any) -> Any:
        near = _special.at_most(t, FAR)
        h = ops.sqrt(1 + near * near)
        return ops.where(t > FAR, 2 / _special.at_least(t, 1.0), (1 + near / h) / h)

    def _lower_quantile(self, p: Any, q: Any) -> Any:
        return q / ops.sqrt(p * (1 - p))


@keras.saving.register_keras_serializable(package="segact")
class HardTanh(Activation):
    """The uniform distribution on [0, 1], clipped: F(x) = clip(x, epsilon, 1 - epsilon).

    As published, it is not centred: F(0) = epsilon and F(1/2) = 1/2. The derivative of every method
    is 0 at both limits and beyond them.
    """

    name = "hardtanh"
    default_epsilon = 1e-7

    def cdf(self, x: Any) -> Any:
        return _elementwise(x, self._cdf, self.pdf)

    def sf(self, x: Any) -> Any:
        return _elementwise(x, lambda x: self._cdf(1 - x), lambda x: -self.pdf(x))

    def logcdf(self, x: Any) -> Any:
        return _elementwise(x, self._logcdf, self._logcdf_derivative)

    def logsf(self, x: Any) -> Any:
        return _elementwise(x, self._logsf, self._logsf_derivative)

    def pdf(self, x: Any) -> Any:
        """1 between the limits, 0 at them and beyond."""
        return _elementwise(x, self._pdf, ops.zeros_like)

    def ppf(self, p: Any) -> Any:
        return _elementwise(_probability(p), self._ppf, lambda p: 1 / self.pdf(p))

    def _pdf(self, x: Any) -> Any:
        return ops.cast(self._inside(x), x.dtype)

    def _inside(self, x: Any) -> Any:
        # 1 - x is exact where the clip compares it; 1 - epsilon is not.
        return (x > self.epsilon) & (1 - x > self.epsilon)

    def _cdf(self, x: Any) -> Any:
        return _special.clip(x, self.epsilon, 1 - self.epsilon)

    def _logcdf(self, x: Any) -> Any:
        log = ops.log(_special.at_least(x, self.epsilon))
        return _special.where(1 - x <= self.epsilon, math.log1p(-self.epsilon), log)

    def _logsf(self, x: Any) -> Any:
        left = _special.log1p(-_special.at_most(x, 0.5))
        right = ops.log(_special.at_least(1 - x, self.epsilon))
        inside = ops.where(x > 0.5, right, left)
        return _special.where(x <= self.epsilon, math.log1p(-self.epsilon), inside)

    def _logcdf_derivative(self, x: Any) -> Any:
        inside = self._inside(x)
        return ops.where(inside, 1 / ops.where(inside, x, 1.0), 0.0)

    def _logsf_derivative(self, x: Any) -> Any:
        inside = self._inside(x)
        return ops.where(inside, -1 / (1 - ops.where(inside, x, 0.0)), 0.0)

    def _ppf(self, p: Any) -> Any:
        x = ops.where(p <= self.epsilon, -math.inf, p)
        x = ops.where(1 - p < self.epsilon, math.inf, x)
        return ops.where((p >= 0) & (p <= 1), x, math.nan)


def _stretch(x: Any, axis: Axis, group: Any) -> Any:
    """(x - min) / (max - min) over axes and the replicas; 1/2 for a constant input."""

    def forward(x: Any) -> Any:
        x, low, high, span = _extremes(x, axis, group)
        return ops.where(low == high, 0.5, (x - low) / span)

    def push(arguments: Any, tangents: Any) -> Any:
        return _stretch_tangent(arguments[0], axis, tangents[0])

    def pull(arguments: Any, upstream: Any) -> Any:
        return _stretch_gradient(arguments[0], axis, group, upstream)

    return _engine.differentiable(forward, push, pull)(x)


def _stretch_tangent(x: Any, axis: Axis, tangent: Any) -> Any:
    unit = _stretch(x, axis, None)  # only TensorFlow has replicas, and it has no forward mode
    x, low, high, span = _extremes(x, axis, None)
    tangent = ops.where(low == high, 0.0, tangent) / span / 8
    at_low, at_high = x == low, x == high

    def of_extreme(at: Any) -> Any:
        ties = _pairwise.sum(ops.cast(at, x.dtype), axis, keepdims=True)
        return ops.sum(ops.where(at, tangent, 0.0), axis, keepdims=True) / ties

    # JAX computes the gradient in the reverse of this order: so it adds first the terms that cancel
    # at an extreme, and divides last, since the smallest gradients are lost in the division.
    moved = ops.where(at_low, 0.0, (1 - unit) * of_extreme(at_low))
    moved = moved + ops.where(at_high, 0.0, unit * of_extreme(at_high))
    tangent = tangent - ops.where(at_low, of_extreme(at_low), 0.0)
    tangent = tangent - ops.where(at_high, of_extreme(at_high), 0.0)
    return tangent - moved


def _stretch_gradient(x: Any, axis: Axis, group: Any, upstream: Any) -> Any:
    unit = _stretch(x, axis, group)
    x, low, high, span = _extremes(x, axis, group)
    if group is not None:
        low, high = (_tied(x, t, axis, group) for t in (low, high))
        span = ops.where(low == high, 1.0, high - low)
    grad = ops.where(low == high, 0.0, upstream)
    # The slope of an extreme and its share of all slopes cancel: subtract these two first.
    at_low, at_high = x == low, x == high
    through_low = ops.where(at_low, 0.0, grad * (1 - unit))
    through_high = ops.where(at_high, 0.0, grad * unit)
    for at, through in ((at_low, through_low), (at_high, through_high)):
        sums = (ops.cast(at, x.dtype), ops.where(at, grad, 0.0), through)
        ties, own, through = _totals(axis, group, *sums)
        grad = ops.where(at, grad - own / ties - through / ties, grad)
    return grad / 8 / span


def _extremes(x: Any, axis: Axis, group: Any) -> tuple[Any, Any, Any, Any]:
    """x / 8, its min and max over all replicas, and max - min.

    That difference cannot overflow, nor its inverse underflow.
    """
    x = x / 8
    low, high = all_extremes(group, _engine.least(x, axis), _engine.most(x, axis))
    return x, low, high, ops.where(low == high, 1.0, high - low)


def _tied(x: Any, extreme: Any, axis: Axis, group: Any) -> Any:
    """An extreme of all replicas; the elements equal to it share its gradient.

    As `amin` and `amax` do on one replica.
    """
    at = x == extreme
    zeros = ops.where(at, x - extreme, 0.0)
    moved, ties = _totals(axis, group, zeros, ops.cast(at, x.dtype))
    return extreme + moved / ties


def _totals(axis: Axis, group: Any, *values: Any) -> tuple[Any, ...]:
    """The sum of each tensor over `axis` (kept, with size 1) and over the replicas."""
    return all_reduce(group, *(_pairwise.sum(each, axis, keepdims=True) for each in values))


@keras.saving.register_keras_serializable(package="segact")
class Linear(Activation):
    """F(x) = epsilon + (1 - 2 epsilon) (x - min) / (max - min), the batch scaled to (0, 1).

    The minimum and maximum are of the whole input, or over `axis` (a dimension or several, such as
    (1, 2, 3) for each image of NCHW). Gradients flow through both; elements that tie for one share
    its gradient equally. A constant input gives 1/2 with a gradient of 0. There is no `pdf` and no
    `ppf`: F(x) depends on the batch.
    """

    name = "linear"
    default_epsilon = 1e-7
    _group: Any = None  # this replica, if others have the other parts of the batch

    def __init__(
        self, epsilon: float | None = None, axis: int | tuple[int, ...] | None = None
    ) -> None:
        super().__init__(epsilon)
        self.axis = checked_axis(axis)
        if self.axis == ():
            raise ValueError("axis must name a dimension, or be None for all, got ()")

    def get_config(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "axis": self.axis}

    def cdf(self, x: Any) -> Any:
        x = checked_tensor(x)
        return ops.cast(self._squeezed(_wide(x)), x.dtype)

    def sf(self, x: Any) -> Any:
        return self.cdf(-checked_tensor(x))

    def logcdf(self, x: Any) -> Any:
        x = checked_tensor(x)
        p, q = self._squeezed(_wide(x)), self._squeezed(_wide(-x))
        # If p is 0, it is 0 for every input, and its logarithm has a slope of 0.
        left = ops.log(ops.where(p == 0, 1.0, p))
        right = _special.log1p(-ops.where(p > 0.5, q, 0.0))
        log = ops.where(p > 0.5, right, ops.where(p == 0, -math.inf, left))
        return ops.cast(log, x.dtype)

    def logsf(self, x: Any) -> Any:
        return self.logcdf(-checked_tensor(x))

    def _fill_invalid(self, x: Any, valid: Any) -> Any:
        axis = self._axis(x)
        low = _engine.least(ops.where(valid, x, math.inf), axis)
        high = _engine.most(ops.where(valid, x, -math.inf), axis)
        low, high = all_extremes(self._group, low, high)
        middle = ops.where(low <= high, low / 2 + high / 2, 0.0)  # a value between min and max
        return ops.where(valid, x, ops.stop_gradient(middle))

    def _axis(self, x: Any) -> Axis:
        check_rank(x, "x")
        return _pairwise.axes(x, self.axis)

    def _squeezed(self, x: Any) -> Any:
        return self._squeeze(_stretch(x, self._axis(x), self._group))


class _LinearOverRanks(Linear):
    """`Linear` on one part of a batch, with the min and max of all parts."""

    def __init__(self, f: Linear, group: Any) -> None:
        super().__init__(f.epsilon, f.axis)
        self._group = group


@keras.saving.register_keras_serializable(package="segact")
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

    def cdf(self, x: Any) -> Any:
        x = checked_tensor(x)
        return ops.cast(self._squeeze(self._cdf(_wide(x))), x.dtype)

    def sf(self, x: Any) -> Any:
        x = checked_tensor(x)
        return self.cdf(-x) if self.symmetric else ops.cast(1 - self.cdf(_wide(x)), x.dtype)

    def logcdf(self, x: Any) -> Any:
        x = checked_tensor(x)
        if self._logcdf is not None and self.epsilon == 0:
            return ops.cast(self._logcdf(_wide(x)), x.dtype)
        return ops.cast(_clamped_log(self.cdf(_wide(x))), x.dtype)

    def logsf(self, x: Any) -> Any:
        x = checked_tensor(x)
        if self.symmetric:
            return self.logcdf(-x)
        return ops.cast(_clamped_log(self.sf(_wide(x))), x.dtype)

    def pdf(self, x: Any) -> Any:
        if self._pdf is None:
            return super().pdf(x)
        x = checked_tensor(x)
        return ops.cast((1 - 2 * self.epsilon) * self._pdf(_wide(x)), x.dtype)

    def ppf(self, p: Any) -> Any:
        if self._ppf is None:
            return super().ppf(p)
        p = _probability(p)
        inner = (_wide(p) - self.epsilon) / (1 - 2 * self.epsilon)
        return ops.cast(self._ppf(inner), p.dtype)

    def get_config(self) -> dict[str, Any]:
        """What `get_activation` finds it again by, once it is registered."""
        return {"epsilon": self.epsilon, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Activation:
        # The functions are not saved: register them under the same name before loading.
        return get_activation(config["name"], epsilon=config["epsilon"])


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
    at the top level of a module can, lambdas and nested functions cannot. A saved Keras model has
    only the name: register the activation again before `keras.models.load_model`.

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

    >>> gumbel = register_activation("gumbel", lambda x: ops.exp(-ops.exp(-x)),
    ...                              lambda x: -ops.exp(-x))
    >>> round(float(gumbel.logcdf(-3.0)), 4)
    -20.0855
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


@keras.saving.register_keras_serializable(package="segact")
class OutputActivation(keras.layers.Layer):
    """An output activation as the last layer of a network.

    Args:
        activation: a name or an `Activation`.
        kwargs: `epsilon` and `axis` as for `get_activation`, and what `keras.layers.Layer` takes.

    >>> OutputActivation("arctan", epsilon=1e-7, name="head").get_config()["activation"]["config"]
    {'epsilon': 1e-07}
    """

    def __init__(
        self,
        activation: str | Activation,
        **kwargs: Any,
    ) -> None:
        params = {key: kwargs.pop(key) for key in ("epsilon", "axis") if key in kwargs}
        super().__init__(**kwargs)
        self.activation = get_activation(activation, **params)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return _engine.mark_head(self.activation(inputs), repr(self.activation))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        activation = keras.saving.serialize_keras_object(self.activation)
        return {**super().get_config(), "activation": activation}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OutputActivation":
        activation = keras.saving.deserialize_keras_object(config["activation"])
        return cls(**{**config, "activation": activation})
