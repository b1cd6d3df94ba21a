"""Elementwise losses, TP, FP and FN in few operations: value and slope from one tail.

Fewer operations are faster where each runs by itself, as on torch, and where XLA compiles them. The
formulas of `segact_tf._sums` stay the definition, and compute second derivatives. The five smooth
activations without epsilon are supported, in float32. All tensors are flattened: XLA's loops over a
last axis of 1, such as one channel, are slow.

With t = abs(x), a = F(-t) and q the target where x < 0, else 1 - target, cross entropy is

    -log F(t) + q log(F(t) / F(-t)),    with the slope    sign(x) r (q - a),

r being pdf(t) / (F(t) F(-t)), the slope of that logarithm. What depends on the side is computed
from the sign, which loses nothing, as in q = abs([x >= 0] - target): a selection by a mask is slow
on torch on a CPU (docs/performance.md).
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import keras
from keras import ops

from segact_tf import _derivatives, _engine, _special, _sums
from segact_tf._batch import Axis, Batch
from segact_tf._distributed import all_mean, all_reduce
from segact_tf.activations import (
    FAR,
    Activation,
    Arctan,
    InverseSquareRoot,
    NormalCDF,
    Sigmoid,
    Softsign,
)

# A value, and the function that computes its slope.
Both = tuple[Any, Callable[[], Any]]


def serves(batch: Batch) -> bool:
    """Whether this activation and precision are supported.

    Not on JAX, which derives reverse mode from forward mode: the second derivative would be wrong
    where the slope is exactly 0, as at a raw output of 0 with a target of 1/2.
    """
    f = batch.f
    if keras.backend.backend() == "jax":
        return False
    served = isinstance(f, Activation) and type(f) in TAILS and f.epsilon == 0
    return served and keras.backend.standardize_dtype(batch.x.dtype) == "float32"


def cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    pos_weight: Any = 1.0,
    label_smoothing: float = 0.0,
) -> Any:
    """`_sums.cross_entropy`."""
    if not serves(batch):
        loss = _sums.cross_entropy(batch, axis, mean, pos_weight, label_smoothing)
        return _of_all(loss, batch, axis, mean)
    kind = TAILS[type(batch.f)]
    rest = [] if isinstance(pos_weight, float) else [pos_weight]

    def both(x: Any, y: Any, w: Any, pos_weight: Any = pos_weight) -> Both:
        tail, whole = kind(x), None
        if rest or pos_weight != 1:
            on = pos_weight * _sums.smooth_labels(y, label_smoothing)
            off = _sums.smooth_labels(1 - y, label_smoothing)
            q, whole = tail.below * on + tail.above * off, on + off
        else:
            q = tail.outside(y, label_smoothing)
        return _weighted(w, tail.entropy(q, whole)), lambda: _weighted(w, tail.slope(q, whole))

    def formula(batch: Batch, pos_weight: Any = pos_weight) -> Any:
        return _sums.cross_entropy(batch, (), False, pos_weight, label_smoothing)

    return _reduced(_in_a_row(both, formula, batch, *rest), batch, axis, mean)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    mean: bool,
    gamma: float,
    alpha: float | None,
    label_smoothing: float = 0.0,
) -> Any:
    """`_sums.focal_cross_entropy`, in few operations for gamma >= 1.

    With a smaller gamma the slope has a negative power of the error, which is large.

    With e = q (1 - a) + (1 - q) a the slope is sign(x) r e^(gamma - 1) times
    e (q - a) + gamma a (1 - a) (2 q - 1) times cross entropy.
    """
    if gamma < 1 or not serves(batch):
        smooth_on_jax = keras.backend.backend() == "jax" and type(batch.f) in TAILS
        wide = _in_float64(batch) if smooth_on_jax else batch
        loss = _sums.focal_cross_entropy(wide, axis, mean, gamma, alpha, label_smoothing)
        return _of_all(ops.cast(loss, batch.x.dtype), batch, axis, mean)
    kind = TAILS[type(batch.f)]

    def both(x: Any, y: Any, w: Any) -> Both:
        if alpha is not None:
            on, off = (_sums.smooth_labels(each, label_smoothing) for each in (y, 1 - y))
            of_class = on * alpha + off * (1 - alpha)
            w = of_class if w is None else of_class * w
        tail = kind(x)
        a, rest, q = tail.mass, tail.rest, tail.outside(y, label_smoothing)
        entropy, e = tail.entropy(q, None), a + q * (rest - a)
        less = e if gamma == 2 else _special.power(e, gamma - 1)

        def slope() -> Any:
            # a is 0 where the entropy is infinite
            moved = ((a * rest) * (2 * gamma * q - gamma)) * tail.finite(entropy)
            # the power last: an earlier product could underflow
            return _weighted(w, less * tail.times_rate(e * (q - a) + moved))

        loss = entropy * e  # with an infinite entropy the error is not 0, but its power may be
        loss = loss * less if gamma == 2 else _engine.times(less, loss)
        return _weighted(w, loss), slope

    def formula(batch: Batch) -> Any:
        return _sums.focal_cross_entropy(batch, (), False, gamma, alpha, label_smoothing)

    return _reduced(_in_a_row(both, formula, batch), batch, axis, mean)


def squared_error(batch: Batch, axis: Axis, mean: bool) -> Any:
    """`_sums.squared_error`: (q - a)^2."""
    if not serves(batch):
        return _of_all(_sums.squared_error(batch, axis, mean), batch, axis, mean)
    kind = TAILS[type(batch.f)]

    def both(x: Any, y: Any, w: Any) -> Both:
        tail = kind(x)
        error = tail.outside(y) - tail.mass
        slope = lambda: _weighted(w, tail.signed(2 * tail.density * error))  # noqa: E731
        return _weighted(w, error * error), slope

    def formula(batch: Batch) -> Any:
        return _sums.squared_error(batch, (), False)

    return _reduced(_in_a_row(both, formula, batch), batch, axis, mean)


def overlap(batch: Batch, axis: Axis, *, tp: float, fp: float, fn: float) -> tuple[Any, Any]:
    """`_sums.overlap`."""
    if not serves(batch):
        return _sums.overlap(batch, axis, tp=tp, fp=fp, fn=fn)
    kind = TAILS[type(batch.f)]

    def both(x: Any, y: Any, w: Any) -> Both:
        tail, off = kind(x), 1 - y
        signed = tail.signed(tail.mass)
        p = tail.above - signed
        of_fp = off if fp == 1 else fp * off
        of_fn = y if fn == 1 else fn * y
        of_tp = y if tp == 1 else tp * y
        error = of_fp * p + of_fn * (tail.below + signed)
        hit = of_tp * p

        def slopes() -> tuple[Any, Any]:
            density = tail.density if w is None else tail.density * w
            return density * (of_fp - of_fn), density * of_tp

        return (error, hit) if w is None else (error * w, hit * w), slopes

    def formula(batch: Batch) -> Any:
        return _sums.overlap(batch, (), tp=tp, fp=fp, fn=fn)

    error, hit = _in_a_row(both, formula, batch)
    return _sums.total(error, axis), _sums.total(hit, axis)


def overlap_ratio(
    batch: Batch, axis: Axis, smooth: float, *, tp: float, fp: float, fn: float
) -> Any:
    """`_sums.overlap_ratio` of the sums over all replicas."""
    sums = overlap(batch, axis, tp=tp, fp=fp, fn=fn)
    error, hit = all_reduce(batch.across(axis), *sums)
    return _sums.ratio(error, hit, smooth)


def ratio_and_entropy(
    batch: Batch,
    axis: Axis,
    smooth: float,
    pos_weight: Any,
    label_smoothing: float,
    *,
    tp: float,
    fp: float,
    fn: float,
) -> tuple[Any, Any]:
    """`overlap_ratio` and the mean of `cross_entropy`."""
    ratio = overlap_ratio(batch, axis, smooth, tp=tp, fp=fp, fn=fn)
    return ratio, cross_entropy(batch, axis, True, pos_weight, label_smoothing)


def _in_a_row(
    both: Callable[..., Both],
    formula: Callable[..., Any],
    batch: Batch,
    *rest: Any,
) -> Any:
    """The values of `both` for flattened tensors, in the shape of x, with their slopes."""
    batch.check_values()
    x, y = batch.masked()
    tensors = [x, y, *rest]
    if batch.w is not None:
        tensors.append(batch.w)

    def with_weight(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, y: Any, *rest: Any) -> Any:
            if batch.w is None:
                return function(x, y, None, *rest)
            return function(x, y, rest[-1], *rest[:-1])

        return call

    def plain(x: Any, y: Any, w: Any, *rest: Any) -> Any:
        return formula(Batch(x, y, w, None, batch.f, validate=False), *rest)

    flat = [ops.reshape(t, (-1,)) for t in tensors]
    found = _derivatives._given(with_weight(both), with_weight(plain), *flat)
    several = isinstance(found, (tuple, list))
    values = [ops.reshape(value, ops.shape(x)) for value in (found if several else [found])]
    return tuple(values) if several else values[0]


def _in_float64(batch: Batch) -> Batch:
    """The batch in float64 if JAX has it: in float32 terms of a slope may be flushed to 0."""
    x, y = _special.double(batch.x), _special.double(batch.y)
    w = None if batch.w is None else _special.double(batch.w)
    others = (batch.f, batch.validate, batch.hard, batch.weighted)
    return Batch(x, y, w, batch.valid, *others)


def _reduced(loss: Any, batch: Batch, axis: Axis, mean: bool) -> Any:
    loss = _sums._mean(loss, batch.valid, axis) if mean else _sums.total(loss, axis)
    return _of_all(loss, batch, axis, mean)


def _of_all(loss: Any, batch: Batch, axis: Axis, mean: bool) -> Any:
    """The sum of elementwise losses on this replica, or their mean over all replicas."""
    if not mean or batch.across(axis) is None:
        return loss
    return all_mean(batch.group, loss, batch.count(axis))


class Tail:
    """F(-t) at t = abs(x) and tensors computed from it, each when it is first used."""

    def __init__(self, x: Any) -> None:
        self.t, self.sign = ops.abs(x), _engine.sign(x)

    @cached_property
    def above(self) -> Any:
        """[x >= 0]."""
        return 0.5 + 0.5 * self.sign

    @cached_property
    def below(self) -> Any:
        """[x < 0]."""
        return 1 - self.above

    def outside(self, y: Any, label_smoothing: float = 0.0) -> Any:
        """q: the target where x < 0, else 1 - target."""
        return _sums.smooth_labels(ops.abs(self.above - y), label_smoothing)

    @cached_property
    def mass(self) -> Any:
        """a = F(-t)."""
        raise NotImplementedError

    @cached_property
    def rest(self) -> Any:
        """F(t)."""
        return 1 - self.mass

    @cached_property
    def density(self) -> Any:
        """pdf(t)."""
        raise NotImplementedError

    @cached_property
    def odds_over_density(self) -> Any:
        """1 / r = F(t) F(-t) / pdf(t)."""
        raise NotImplementedError

    def signed(self, value: Any) -> Any:
        """sign(x) value."""
        return self.sign * value

    def slope(self, q: Any, whole: Any) -> Any:
        """The slope of `entropy` in x: sign(x) r (q - whole a)."""
        a = self.mass if whole is None else self.mass * whole
        return self.times_rate(q - a)

    def times_rate(self, slopes: Any) -> Any:
        """sign(x) r times the slopes in the logarithm of the odds."""
        return self.signed(slopes / self.odds_over_density)

    def entropy(self, q: Any, whole: Any) -> Any:
        """-whole log F(t) + q log(F(t) / F(-t)), 0 if whole = q = 0; None for `whole` means 1."""
        near = self.log_rest if whole is None else self.log_rest * whole
        return _engine.times(q, self.log_odds) - near

    def finite(self, entropy: Any) -> Any:
        """An entropy, with the largest finite number in place of infinity."""
        return ops.minimum(entropy, _special.largest(entropy))

    @cached_property
    def log_rest(self) -> Any:
        """log F(t)."""
        return _special.log1p(-self.mass)

    @cached_property
    def log_odds(self) -> Any:
        """log(F(t) / F(-t))."""
        raise NotImplementedError


class SigmoidTail(Tail):
    """F(-t) / F(t) is e^-t, and r = 1."""

    @cached_property
    def odds(self) -> Any:
        return ops.exp(-self.t)

    @cached_property
    def mass(self) -> Any:
        return self.odds / (1 + self.odds)

    @cached_property
    def density(self) -> Any:
        return self.mass * self.rest

    def times_rate(self, slopes: Any) -> Any:
        return self.signed(slopes)

    @cached_property
    def log_rest(self) -> Any:
        return -_special.log1p(self.odds)

    @cached_property
    def log_odds(self) -> Any:
        return self.t


class ArctanTail(Tail):
    """For t > FAR the tail is 1 / (pi t), which underflows close to the largest float."""

    @cached_property
    def mass(self) -> Any:
        return _special.atan_tail(self.t)

    @cached_property
    def far(self) -> Any:
        return self.t > FAR

    @cached_property
    def angle(self) -> Any:
        return math.pi * self.mass

    @cached_property
    def density(self) -> Any:
        return ops.reciprocal(math.pi * (1 + self.t * self.t))

    @cached_property
    def odds_over_density(self) -> Any:
        # pi (1 + t^2) a, without the square that overflows; far out, pi t a is 1
        near_one = _special.where(self.far, 1.0, self.t * self.angle)
        return (self.angle + self.t * near_one) * self.rest

    @cached_property
    def log_odds(self) -> Any:
        return ops.log(ops.where(self.far, self.t, self.rest / self.angle)) + math.log(math.pi)


class SoftsignTail(Tail):
    """F(-t) / F(t) is 1 / (1 + 2 t)."""

    @cached_property
    def half(self) -> Any:
        return self.t + 0.5

    @cached_property
    def mass(self) -> Any:
        return ops.divide(0.5, 1 + self.t)

    @cached_property
    def density(self) -> Any:
        return 2 * self.mass * self.mass

    @cached_property
    def odds_over_density(self) -> Any:
        return self.half

    @cached_property
    def log_rest(self) -> Any:
        return -_special.log1p(ops.divide(0.5, self.half))

    @cached_property
    def log_odds(self) -> Any:
        return ops.log(self.half) + math.log(2)


class InverseSquareRootTail(Tail):
    """With h = sqrt(1 + t^2). For t > FAR h is t, and the tail is 1 / (2 t)^2."""

    @cached_property
    def far(self) -> Any:
        return self.t > FAR

    @cached_property
    def square(self) -> Any:
        return 1 + self.t * self.t

    @cached_property
    def hypotenuse(self) -> Any:
        return ops.where(self.far, self.t, ops.sqrt(self.square))

    @cached_property
    def mass(self) -> Any:
        # h (h + t); the square overflows only where the tail has underflown
        return ops.divide(0.5, self.square + self.t * self.hypotenuse)

    @cached_property
    def density(self) -> Any:
        return ops.divide(0.5, self.square * self.hypotenuse)

    @cached_property
    def odds_over_density(self) -> Any:
        return 0.5 * self.hypotenuse

    @cached_property
    def log_odds(self) -> Any:
        # log of (h + t) / (h - t), which is (h + t)^2
        half = ops.where(self.far, self.t, 0.5 * (self.hypotenuse + self.t))
        return 2 * (ops.log(half) + math.log(2))


class NormalTail(Tail):
    """From exp(t^2 / 2) F(-t) = (1/2 + n) / d, as in `_special`."""

    @cached_property
    def bell(self) -> tuple[Any, Any, Any, Any]:
        """high, low with t = high + low, and E, e with exp(-t^2 / 2) = E (1 + e)."""
        high, low = _special._split(_special.at_most(self.t, _special.ZERO_FROM))
        return high, low, *_special._exp_half_square(high, low)

    @cached_property
    def scaled(self) -> tuple[Any, Any, Any]:
        """n, 1/2 + n and d."""
        n, d = _special._scaled_tail(self.t)
        return n, 0.5 + n, d

    @cached_property
    def mass(self) -> Any:
        high, low, bulk, e = self.bell
        n, half, d = self.scaled
        # as in _special.normal_tail
        e = e - low / d * (1 + e)
        return bulk * ((0.5 + (n + half * e)) / (high + 1.25))

    @cached_property
    def density(self) -> Any:
        _, _, bulk, e = self.bell
        # in this order: bulk / sqrt(2 pi) may be flushed to 0 where the density is not
        return bulk * (_special.INV_SQRT_TWO_PI + _special.INV_SQRT_TWO_PI * e)

    @cached_property
    def hazard(self) -> Any:
        """pdf(t) / F(-t)."""
        _, half, d = self.scaled
        return d * _special.at_most(_special.INV_SQRT_TWO_PI / half, 1.0)

    def times_rate(self, slopes: Any) -> Any:
        return self.signed(_engine.times(slopes, self.hazard) / self.rest)

    def slope(self, q: Any, whole: Any) -> Any:
        # from the density, since the mass underflows earlier
        beside = self.density if whole is None else self.density * whole
        return self.signed((_engine.times(q, self.hazard) - beside) / self.rest)

    @cached_property
    def log_odds(self) -> Any:
        _, half, d = self.scaled
        return (self.t * 0.5) * self.t - (ops.log(half / d) - self.log_rest)


TAILS: dict[type, type[Tail]] = {
    Sigmoid: SigmoidTail,
    NormalCDF: NormalTail,
    Arctan: ArctanTail,
    Softsign: SoftsignTail,
    InverseSquareRoot: InverseSquareRootTail,
}


def _weighted(w: Any, value: Any) -> Any:
    return value if w is None else _engine.times(w, value)
