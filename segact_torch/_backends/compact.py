"""The sums and their gradients by PyTorch's own operations, value and slope from one tail.

Each operation reads and writes whole tensors; so there are few here, many of them in place, and the
slope is computed together with the value. The formulas of `segact_torch._sums` stay the definition,
and compute second derivatives. The five smooth activations without epsilon are supported, in
float32, on every device. The host reads no numbers of a tensor, except to check the values of a
batch where that is possible. Only sums are in float64, if the device has it.

With the signed tail A = sign(x) F(-abs(x)) and s = [x >= 0] - y, which lose no small numbers,

    F(x) = [x >= 0] - A    and    F(x) - y = s - A;

with t = abs(x) and a = abs(A) cross entropy is

    -log F(t) + abs(s) log(F(t) / F(-t)),    with the slope    r (s - A),

r being pdf(t) / (F(t) F(-t)), the slope of that logarithm.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from segact_torch import _special
from segact_torch._backends.cpu import Found, is_differentiated, spread
from segact_torch._batch import Axis, Batch
from segact_torch._derivatives import _Given
from segact_torch.activations import (
    Activation,
    Arctan,
    InverseSquareRoot,
    NormalCDF,
    Sigmoid,
    Softsign,
)


def serves(batch: Batch) -> bool:
    """Whether this activation and precision are supported."""
    f = batch.f
    served = isinstance(f, Activation) and type(f) in TAILS and f.epsilon == 0
    return served and batch.dtype == torch.float32


def cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    pos_weight: float | Tensor,
    label_smoothing: float,
) -> Found | None:
    """Cross entropies summed over `axis` times `scale`; elementwise if `axis` is empty."""
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail, whole = TAILS[type(batch.f)](x), batch.w
        s = tail.outside(y, label_smoothing)
        if isinstance(pos_weight, Tensor) or pos_weight != 1:
            one = y.new_ones(())
            of_on = pos_weight if isinstance(pos_weight, Tensor) else y.new_full((), pos_weight)
            s.mul_(torch.where(tail.above, one, of_on))
            of_both = torch.lerp(one, of_on, y)
            if label_smoothing:
                of_both = _smoothed_(of_both, label_smoothing, 1 + of_on)
            whole = _weighted_(of_both, whole)
        s = _weighted_(s, batch.w)
        slopes = tail.slope(s, whole) if differentiated else None
        near = tail.near if whole is None else tail.near * whole
        return _reduced(batch, near, tail.times_log_odds(s), slopes, axis, scale)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
) -> Found | None:
    """Focal cross entropies, as `cross_entropy`, for gamma >= 1.

    With a smaller gamma the slope has a negative power of the error, which is large.

    With c = 1 - 2 y and the error e = abs(s) - c A the slope is r times
    e^gamma (s - A) + gamma c a (1 - a) e^(gamma - 1) times cross entropy.
    """
    if gamma < 1:
        return None
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        w, one = batch.w, y.new_ones(())
        if alpha is not None:
            of_class = torch.lerp(one * (1 - alpha), one * alpha, y)
            if label_smoothing:
                of_class = _smoothed_(of_class, label_smoothing, one)
            w = _weighted_(of_class, w)
        tail, c = TAILS[type(batch.f)](x), torch.add(one, y, alpha=-2)
        if label_smoothing:
            c.mul_(1 - label_smoothing)
        s, slopes = tail.outside(y, label_smoothing), None
        q = s.abs()
        entropy, signed = tail.entropy(s, q), tail.signed_mass
        e = torch.addcmul(q, c, signed, value=-1)
        # with an infinite entropy the error is not 0, but its power may be
        loss = entropy.mul_(e) if gamma == 2 else _times(e.pow(gamma - 1), entropy)
        if differentiated:
            power = e.square() if gamma == 2 else e.pow(gamma)
            slopes = tail.focal_slope(torch.sub(s, signed), power, c, loss, gamma)
            slopes = slopes if w is None else _times(w, slopes)
        loss = loss.mul_(e) if tail.sign == 1 else _product(loss, e, tail.sign)
        loss = loss if w is None else _times(w, loss)
        return _reduced(batch, loss, None, slopes, axis, scale)


def squared_error(batch: Batch, axis: Axis, scale: float | Tensor) -> Found:
    """Squared errors (s - A)^2, as `cross_entropy`."""
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail = TAILS[type(batch.f)](x)
        error, slopes = tail.error(tail.outside(y)), None
        if differentiated:
            slopes = _weighted_(_product(tail.density, error, 2 * tail.unit), batch.w)
        loss = _weighted_(error.square_(), batch.w)
        return _reduced(batch, loss, None, slopes, axis, scale)


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found | None:
    """fp FP + fn FN and tp TP over `axis`, stacked."""
    if torch.compiler.is_compiling():  # it compiles the formula to the same code
        return None
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail = TAILS[type(batch.f)](x)
        density = tail.density_after_both_sides if differentiated else None
        p, rest = tail.both_sides
        hit = tp * _sum(_weighted_(p * y, batch.w), axis)
        # fp (1 - y) F(x) + fn y (1 - F(x)), of which one term is 0 where y is 0 or 1
        miss = torch.lerp(p if fp == 1 else p.mul_(fp), rest if fn == 1 else rest.mul_(fn), y)
        error = _sum(_weighted_(miss, batch.w), axis)
        value = torch.stack((error, hit)).to(x.dtype)
    if density is None:
        return value, None
    density, shape = _weighted_(density, batch.w), x.shape

    def gradient(upstream: Tensor) -> Tensor:
        of_error, of_hit = (spread(u * tail.unit, shape, axis) for u in upstream)
        return density.mul_(torch.lerp(fp * of_error, tp * of_hit - fn * of_error, y))

    return value, gradient


def _once(method: Callable[[Any], Any]) -> Any:
    """`functools.cached_property` without its lock, which the compiler does not support."""
    name = f"_{method.__name__}"

    def value(self: Any) -> Any:
        if name not in self.__dict__:
            setattr(self, name, method(self))
        return self.__dict__[name]

    return property(value)


class Tail:
    """A = sign(x) F(-abs(x)) and tensors computed from it, each when it is first used."""

    # the factor by which `signed` and `density` must be multiplied
    unit = 1.0
    # the factor that `entropy` has
    sign = 1

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @_once
    def above(self) -> Tensor:
        """Whether the sign bit of x is 0: x >= 0, but not -0, as in `copysign`."""
        if torch.compiler.is_compiling():  # with the bit its loop is slow
            return torch.copysign(self.x.new_ones(()), self.x) > 0
        return self.x.resolve_neg().view(torch.int32) >= 0

    def outside(self, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """s = [x >= 0] - y."""
        s = torch.add(self.above, y, alpha=-1)
        if label_smoothing:
            s = _smoothed_(s, label_smoothing, torch.copysign(self.x.new_ones(()), self.x))
        return s

    @_once
    def t(self) -> Tensor:
        return self.x.abs()

    @_once
    def signed(self) -> Tensor:
        """A."""
        raise NotImplementedError

    @_once
    def mass(self) -> Tensor:
        """a = F(-t)."""
        return self.signed.abs().mul_(self.unit)

    @_once
    def signed_mass(self) -> Tensor:
        """A again, computed from `mass`, with a unit of 1."""
        return torch.copysign(self.mass, self.x)

    @_once
    def rest(self) -> Tensor:
        """F(t)."""
        return 1 - self.mass

    @_once
    def both_sides(self) -> tuple[Tensor, Tensor]:
        """F(x) and F(-x)."""
        below = self.above.logical_not()
        return (
            torch.add(self.above, self.signed, alpha=-self.unit),
            torch.add(below, self.signed, alpha=self.unit),
        )

    @_once
    def density(self) -> Tensor:
        """pdf(t)."""
        raise NotImplementedError

    @property
    def density_after_both_sides(self) -> Tensor:
        """The density, computed from `both_sides` if that takes fewer operations."""
        return self.density

    @_once
    def odds(self) -> Tensor:
        """F(-t) / F(t)."""
        return self.mass / self.rest

    @_once
    def near(self) -> Tensor:
        """-log F(t)."""
        return torch.log1p(self.odds)

    def times_log_odds(self, s: Tensor) -> Tensor:
        """abs(s) log(F(t) / F(-t)), of either sign; 0 for s = 0."""
        return _xlogy(s, self.odds)

    def entropy(self, s: Tensor, q: Tensor) -> Tensor:
        """Cross entropy times `sign`, q being abs(s)."""
        return self.near - self.times_log_odds(q)

    def error(self, s: Tensor) -> Tensor:
        """F(x) - y = s - A."""
        return torch.add(s, self.signed, alpha=-self.unit)

    def slope(self, s: Tensor, whole: Tensor | None) -> Tensor:
        """The slope of cross entropy in x: r (s - whole A); None for `whole` means 1."""
        if whole is None:
            return self.times_rate_(self.error(s))
        return self.times_rate_(torch.addcmul(s, whole, self.signed, value=-self.unit))

    def focal_slope(
        self, error: Tensor, power: Tensor, c: Tensor, loss: Tensor, gamma: float
    ) -> Tensor:
        """r (power error + gamma c a (1 - a) sign loss), error being s - A; overwrites it."""
        # c a (1 - a), 0 where the loss is infinite
        moved = torch.ops.aten.sigmoid_backward(c, self.mass)
        slopes = error.mul_(power).addcmul_(moved, _finite(loss), value=self.sign * gamma)
        return self.times_rate_(slopes)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        """r times the slopes in the logarithm of the odds, which are overwritten."""
        raise NotImplementedError


class SigmoidTail(Tail):
    """The logarithm of the odds is -t, and r = 1."""

    @_once
    def log_odds(self) -> Tensor:
        return torch.copysign(self.x, self.x.new_full((), -1.0))

    @_once
    def mass(self) -> Tensor:
        return torch.sigmoid(self.log_odds)

    @property
    def signed(self) -> Tensor:
        return self.signed_mass

    @_once
    def both_sides(self) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.x), torch.sigmoid(-self.x)

    @_once
    def density(self) -> Tensor:
        return torch.ops.aten.sigmoid_backward(self.x.new_ones(()), self.mass)

    @_once
    def density_after_both_sides(self) -> Tensor:
        low, high = self.both_sides
        return low * high

    @_once
    def near(self) -> Tensor:
        return torch.nn.functional.softplus(self.log_odds)

    def times_log_odds(self, s: Tensor) -> Tensor:
        return _times(s, self.x)

    def entropy(self, s: Tensor, q: Tensor) -> Tensor:
        return _with_product(self.near, s, self.x)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return slopes


# The smallest positive float32 number.
LEAST = 2.0**-149


class ArctanTail(Tail):
    """With the angle v = pi a = atan(1 / t) the density is sin(v)^2 / pi."""

    sign = -1

    @_once
    def turned_angle(self) -> Tensor:
        """-sign(x) v."""
        return _over(-1.0, self.x).atan_()

    @_once
    def angle(self) -> Tensor:
        return self.turned_angle.abs()

    @_once
    def other_angle(self) -> Tensor:
        return math.pi - self.angle

    @_once
    def mass(self) -> Tensor:
        return self.signed.abs()

    @_once
    def signed(self) -> Tensor:
        return self.turned_angle / -math.pi

    @property
    def signed_mass(self) -> Tensor:
        return self.signed

    @_once
    def odds(self) -> Tensor:
        return self.angle / self.other_angle

    @_once
    def both_sides(self) -> tuple[Tensor, Tensor]:
        one = self.x.new_ones(())
        return torch.atan2(one, -self.x).div_(math.pi), torch.atan2(one, self.x).div_(math.pi)

    @_once
    def density(self) -> Tensor:
        pi = self.x.new_full((), math.pi)
        return torch.addcmul(pi, self.x, self.x, value=math.pi).reciprocal_()

    def slope(self, s: Tensor, whole: Tensor | None) -> Tensor:
        angle = self.turned_angle if whole is None else self.turned_angle * whole
        # r / pi = sin(v) (sin(v) / v) / (pi - v)
        slopes = torch.add(angle, s, alpha=math.pi).mul_(self.angle.sin())
        return slopes.mul_(torch.sinc(self.angle / math.pi)).div_(self.other_angle)

    def entropy(self, s: Tensor, q: Tensor) -> Tensor:
        return _with_product((-self.mass).log1p_(), q, self.mass.logit())

    def focal_slope(
        self, error: Tensor, power: Tensor, c: Tensor, loss: Tensor, gamma: float
    ) -> Tensor:
        # pdf(t) (power error / (a (1 - a)) + gamma c sign loss), a quarter of it against overflow;
        # the quotient is 0 for a = 0, which is below eps
        slopes = torch.ops.aten.logit_backward(_product(error, power, 1 / 4), self.mass, eps=LEAST)
        slopes = slopes.addcmul_(c, _finite(loss), value=self.sign * gamma / 4)
        sine = self.turned_angle.sin()
        return _product(slopes.mul_(sine), sine, 4 / math.pi)


class SoftsignTail(Tail):
    """The odds are 1 / (1 + 2 t), and r is 1 / (t + 1/2)."""

    unit = 0.5

    @_once
    def half(self) -> Tensor:
        return self.t + 0.5

    @_once
    def odds(self) -> Tensor:
        return _over(0.5, self.half)

    @_once
    def mass(self) -> Tensor:
        return _over(0.5, self.t + 1)

    @_once
    def signed(self) -> Tensor:
        return torch.copysign(self.x.new_ones(()), self.x).add_(self.x).reciprocal_()

    @_once
    def density(self) -> Tensor:
        return self.signed.square()

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return slopes.div_(self.half)


class InverseSquareRootTail(Tail):
    """With h = sqrt(1 + t^2): the logarithm of the odds is -2 asinh(t), and r = 2 / h."""

    unit = 0.5
    sign = -1

    @_once
    def hypotenuse(self) -> Tensor:
        return torch.hypot(self.x, self.x.new_ones(()))

    @_once
    def mass(self) -> Tensor:
        return self.signed_mass.abs()

    @_once
    def signed(self) -> Tensor:
        return self.turned_(self.square.copysign_(self.x)).reciprocal_()

    @_once
    def signed_mass(self) -> Tensor:
        return _over(0.5, self.turned_(torch.copysign(self.kept_square, self.x)))

    def turned_(self, square: Tensor) -> Tensor:
        """sign(x) h (h + t), in place of sign(x) h^2."""
        return square.addcmul_(self.x, self.hypotenuse)

    @_once
    def kept_square(self) -> Tensor:
        return self.square

    @property
    def square(self) -> Tensor:
        """h^2, in a new tensor; it overflows only where the tail has underflown."""
        return torch.addcmul(self.x.new_ones(()), self.x, self.x)

    @_once
    def density(self) -> Tensor:
        return self.hypotenuse.pow(-3)

    @_once
    def near(self) -> Tensor:
        return _minus_log1p(self.signed.abs().mul_(-self.unit))

    def times_log_odds(self, s: Tensor) -> Tensor:
        return _times(s, self.x.asinh(), 2)

    def entropy(self, s: Tensor, q: Tensor) -> Tensor:
        near = torch.copysign(self.signed_mass, self.x.new_full((), -1.0)).log1p_()
        return _with_product(near, s, self.x.asinh(), -2)

    def focal_slope(
        self, error: Tensor, power: Tensor, c: Tensor, loss: Tensor, gamma: float
    ) -> Tensor:
        # a (1 - a) is 1 / (4 h^2)
        moved = _finite(loss).mul_(c)
        slopes = error.mul_(power).addcdiv_(moved, self.kept_square, value=self.sign * gamma / 4)
        return self.times_rate_(slopes)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return _quotient(slopes, self.hypotenuse, 2)


# The factor by which `NormalTail` scales t.
LITTLE = 2.0**-32
# The second float32 number above 1 / sqrt(2 pi).
LEAST_HALF = 0.39894232
NORMAL_TAIL = _special.SCALED_TAIL["float32"]


class NormalTail(Tail):
    """F(-t) = exp(-t^2 / 2) (1/2 + n) / d with d = t + 5/4, as in `_special`.

    `t` and `d` are scaled by LITTLE here, so that a finite number stands for infinity, beyond all
    scaled floats.
    """

    unit = LITTLE
    sign = -1

    @_once
    def t(self) -> Tensor:
        return self.x.abs().mul_(LITTLE).clamp_(max=1e38)

    @_once
    def bell(self) -> tuple[Tensor, Tensor]:
        """E and e with exp(-t^2 / 2) = E (1 + e)."""
        # with so few bits that its square is exact
        high = self.t.view(torch.int32).bitwise_and(-(2**12)).view(self.x.dtype)
        low = high - self.t
        e = _product(low, torch.add(high, low, alpha=-0.5), LITTLE**-2).expm1_()
        return _product(high, high, -0.5 * LITTLE**-2).exp_(), e

    @_once
    def v(self) -> Tensor:
        """v - 1/2, in which n is a polynomial."""
        return torch.addcdiv(self.x.new_full((), -0.5), self.t, self.t + 4 * LITTLE)

    @_once
    def higher(self) -> Tensor:
        """That polynomial without its constant, over v - 1/2."""
        return _horner(self.v, NORMAL_TAIL[:-1])

    @_once
    def n(self) -> Tensor:
        return torch.addcmul(self.x.new_full((), NORMAL_TAIL[-1]), self.v, self.higher)

    @_once
    def half(self) -> Tensor:
        """1/2 + n, with one rounding less."""
        return torch.addcmul(self.x.new_full((), 0.5 + NORMAL_TAIL[-1]), self.v, self.higher)

    @_once
    def d(self) -> Tensor:
        return self.t + 1.25 * LITTLE

    @_once
    def bulk(self) -> Tensor:
        """exp(-t^2 / 2)."""
        bulk, e = self.bell
        return torch.addcmul(bulk, bulk, e)

    @_once
    def enlarged(self) -> Tensor:
        """F(-t) / LITTLE."""
        return self.bulk / self.hazard

    @_once
    def nearest(self) -> Tensor:
        """The same with fewer roundings, for cross entropy, whose bound is the narrowest."""
        bulk, e = self.bell
        part, rounding = _quotient(bulk, self.d, 0.5), (self.d - 1.25 * LITTLE).sub_(self.t)
        e = torch.addcdiv(e, rounding, self.d)
        # neither 1/2 + n nor 1 + e is rounded
        return torch.addcmul(part, part, torch.addcmul(self.n, self.half, e), value=2)

    @_once
    def signed(self) -> Tensor:
        return self.enlarged.copysign(self.x)

    @_once
    def mass(self) -> Tensor:
        return self.enlarged * self.unit

    @_once
    def rest(self) -> Tensor:
        return torch.add(self.x.new_ones(()), self.enlarged, alpha=-self.unit)

    @_once
    def density(self) -> Tensor:
        return self.bulk * (_special.INV_SQRT_TWO_PI / self.unit)

    @_once
    def hazard(self) -> Tensor:
        """pdf(t) / F(-t), times sqrt(2 pi) LITTLE."""
        # 1/2 + n tends to 1 / sqrt(2 pi) from above: below it, the largest floats would overflow
        return self.d / _special.at_least(self.half, LEAST_HALF)

    def times_hazard(self, s: Tensor) -> Tensor:
        return _product(s, self.hazard, _special.INV_SQRT_TWO_PI / LITTLE)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        # enlarged first: on a GPU `_product` begins with the two tensors, which may underflow
        slopes = _quotient(slopes, self.rest, _special.INV_SQRT_TWO_PI / LITTLE)
        return slopes.mul_(self.hazard)

    def slope(self, s: Tensor, whole: Tensor | None) -> Tensor:
        # from the density, since the mass underflows earlier
        beside = torch.copysign(self.bulk, self.x)
        beside = beside if whole is None else beside.mul_(whole)
        slopes = self.times_hazard(s).sub_(beside, alpha=_special.INV_SQRT_TWO_PI)
        return slopes.div_(torch.add(self.x.new_ones(()), self.nearest, alpha=-self.unit))

    @_once
    def near(self) -> Tensor:
        return _minus_log1p(self.nearest * -self.unit)

    def times_log_odds(self, s: Tensor) -> Tensor:
        far = _xlogy(s, _quotient(self.half, self.d, LITTLE)).addcmul_(s, self.near)
        # s t first: both may be 0 and infinite
        return far.addcmul_(_product(s, self.t, 1 / LITTLE), self.t, value=-0.5 / LITTLE)

    def entropy(self, s: Tensor, q: Tensor) -> Tensor:
        # F(t) / F(-t) is the product times exp(t^2 / 2)
        log_odds = _product(self.hazard, self.rest, 1 / LITTLE).log_()
        log_odds.addcmul_(self.t, self.t, value=0.5 / LITTLE**2)
        return _with_product((self.enlarged * -self.unit).log1p_(), q, log_odds, -1)


TAILS: dict[type, type[Tail]] = {
    Sigmoid: SigmoidTail,
    NormalCDF: NormalTail,
    Arctan: ArctanTail,
    Softsign: SoftsignTail,
    InverseSquareRoot: InverseSquareRootTail,
}


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A polynomial, the highest power first, in one operation per power."""
    compiling = torch.compiler.is_compiling()  # which needs no tensors for numbers
    numbers: Any = coefficients if compiling else _constants(coefficients, x.dtype, x.device)
    total, *rest = numbers
    for c in rest:
        total = total * x + c if compiling else torch.addcmul(c, total, x)
    return total


@lru_cache(maxsize=64)
def _constants(numbers: tuple[float, ...], dtype: Any, device: Any) -> list[Tensor]:
    return list(torch.tensor(numbers, dtype=dtype, device=device).unbind())


def _minus_log1p(x: Tensor) -> Tensor:
    """-log1p(x), in one operation."""
    compiling = torch.compiler.is_compiling()
    return -torch.log1p(x) if compiling else torch.special.xlog1py(-1.0, x)


def _xlogy(weight: Tensor, x: Tensor) -> Tensor:
    """`torch.xlogy`, but when compiling without its test for NaN, which makes the loop slow."""
    return _times(weight, x.log()) if torch.compiler.is_compiling() else torch.xlogy(weight, x)


def _over(number: float, x: Tensor) -> Tensor:
    """number / x, in one operation and with one rounding."""
    return torch.div(x.new_full((), number), x)


def _reduced(
    batch: Batch,
    loss: Tensor,
    far: Tensor | None,
    slopes: Tensor | None,
    axis: Axis,
    scale: float | Tensor,
) -> Found:
    """loss + abs(far), summed over `axis` times `scale`, and its gradient from the slopes."""
    if torch.compiler.is_compiling():  # which fuses the sum and its gradient
        loss = loss if far is None else loss + far.abs()
        with torch.enable_grad():  # not batch.x, converted where nothing is recorded
            x = batch.input.to(batch.dtype)
            loss = loss if slopes is None else _Given.apply(x, loss, slopes)
            return (_sum(loss, axis) * scale).to(loss.dtype) if axis else loss, None
    if axis:
        sums = _sum(loss, axis) if far is None else _sum(loss, axis) + _sum_of_sizes(far, axis)
        value = (sums * scale).to(loss.dtype)
    else:
        value = loss if far is None else loss + far.abs_()
    if slopes is None:
        return value, None
    shape = loss.shape

    def gradient(upstream: Tensor) -> Tensor:
        if not axis:
            return _times_(slopes, upstream.to(slopes.dtype))
        factor = spread(upstream * scale, shape, axis).to(slopes.dtype)
        largest = _special.largest(factor)
        # infinity as two finite factors, whose product with 0 is 0
        slopes.mul_(_special.clip(factor, -largest, largest))
        return slopes.mul_(torch.where(factor.isinf(), largest, 1.0))

    return value, gradient


def _sum(x: Tensor, axis: Axis) -> Tensor:
    """The sum over `axis`, in float64 if the device has it."""
    return x.sum(axis, dtype=_widest(x))


def _sum_of_sizes(x: Tensor, axis: Axis) -> Tensor:
    """The sum of abs(x) over `axis`, in float64 if the device has it."""
    return torch.linalg.vector_norm(x, 1, axis, dtype=_widest(x))


def _widest(x: Tensor) -> torch.dtype:
    return x.dtype if x.device.type in _special.NO_FLOAT64 else torch.float64


def _with_product(near: Tensor, s: Tensor, x: Tensor, factor: float = 1.0) -> Tensor:
    """near + s * x * factor; 0 where that is NaN.

    It is 0 for s = 0 and an infinite x. Another NaN is still in the error, the loss's other factor.
    """
    return torch.addcmul(near, s, x, value=factor).nan_to_num_(0.0, math.inf, -math.inf)


def _finite(x: Tensor) -> Tensor:
    """x, with the largest finite numbers in place of infinities."""
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)


def _smoothed_(of_y: Tensor, label_smoothing: float, of_both: Tensor) -> Tensor:
    """A linear function of y at y (1 - s) + s / 2, in place; `of_both`: the sum of it at 0 and 1.

    It is (1 - s) times the function at y, and s / 2 times that sum, which keeps a small s.
    """
    return of_y.mul_(1 - label_smoothing).add_(of_both, alpha=label_smoothing / 2)


def _weighted_(x: Tensor, w: Tensor | None) -> Tensor:
    """x times w, in place."""
    return x if w is None else x.mul_(w)


def _product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """a * b * factor, in one operation."""
    return torch.addcmul(a.new_zeros(()), a, b, value=factor)


def _quotient(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """a / b * factor, in one operation."""
    return torch.addcdiv(a.new_zeros(()), a, b, value=factor)


def _times(weight: Tensor, value: Tensor, factor: float = 1.0) -> Tensor:
    """weight * value * factor; exactly 0 where the weight is 0, even if the value is not finite."""
    value = _unless_zero(weight, value)
    return weight * value if factor == 1 else _product(weight, value, factor)


def _times_(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value as in `_times`, in place of the weight."""
    return weight.mul_(_unless_zero(weight, value))


def _unless_zero(weight: Tensor, value: Tensor) -> Tensor:
    """The value, but 0 where the weight is 0.

    It is the gradient of a hard shrinkage at 0, which is faster on a CPU than a selection by a
    mask. The compiler has it for fixed shapes alone.
    """
    if torch.compiler.is_compiling() or type(value) is not Tensor:
        return value.masked_fill(weight == 0, 0.0)
    return torch.ops.aten.hardshrink_backward(value, weight, 0.0)
