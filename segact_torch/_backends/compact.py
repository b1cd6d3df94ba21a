"""The sums and their gradients by PyTorch's own operations, value and slope from one tail.

On a device each operation reads and writes whole tensors: so they are few here, many of them in
place, and the slope is worked out beside the value. The formulas of `segact_torch._sums` stay the
definition, and serve what is differentiated again. The five smooth activations without epsilon are
served in float32, on every device; nothing is read on the host but by the check of a batch that may
be looked at, and float64 is asked for in sums alone, where the device has it.

With t = abs(x), a = F(-t) and q the target where x < 0, else 1 - target, cross entropy is

    -log F(t) + q log(F(t) / F(-t)),    with the slope    sign(x) r (q - a),

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
from segact_torch._sums import smooth_labels
from segact_torch.activations import (
    Activation,
    Arctan,
    InverseSquareRoot,
    NormalCDF,
    Sigmoid,
    Softsign,
)


def serves(batch: Batch) -> bool:
    """Whether this activation is served."""
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
    """Cross entropies summed over `axis` times `scale`, or each if there is no axis."""
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        on = smooth_labels(y, label_smoothing)
        off, whole = 1 - on, batch.w
        if isinstance(pos_weight, Tensor) or pos_weight != 1:
            on = on * pos_weight
            whole = on + off if whole is None else (on + off).mul_(whole)
        q = torch.where(_is_below(x), on, off)
        q = q if batch.w is None else q.mul_(batch.w)
        tail = TAILS[type(batch.f)](x)
        slopes = tail.slope(q, whole) if differentiated else None
        near = tail.near if whole is None else tail.near * whole
        return _reduced(batch, near, tail.times_log_odds(q), slopes, axis, scale)


def focal_cross_entropy(
    batch: Batch,
    axis: Axis,
    scale: float | Tensor,
    gamma: float,
    alpha: float | None,
    label_smoothing: float,
) -> Found | None:
    """Focal cross entropies, likewise, for gamma >= 1: another power of a small number is large.

    With e = q (1 - a) + (1 - q) a the slope is sign(x) r e^(gamma - 1) times
    e (q - a) + gamma a (1 - a) (2 q - 1) times cross entropy.
    """
    if gamma < 1:
        return None
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        y, w = smooth_labels(y, label_smoothing), batch.w
        if alpha is not None:
            of_class = (y * (2 * alpha - 1)).add_(1 - alpha)
            w = of_class if w is None else of_class.mul_(w)
        q = torch.where(_is_below(x), y, 1 - y)
        tail = TAILS[type(batch.f)](x)
        a, rest = tail.mass, tail.rest
        entropy, slopes = tail.near - tail.times_log_odds(q), None
        e = torch.lerp(a, rest, q)
        less = e if gamma == 2 else e.pow(gamma - 1)
        if differentiated:
            moved = (q - 0.5).mul_(a).mul_(rest)  # 0 where the entropy is infinite
            slopes = (q - a).mul_(e)
            slopes.addcmul_(moved, _finite(entropy), value=2 * gamma)
            slopes = tail.times_rate_(slopes.mul_(less))
            slopes = slopes if w is None else _times(w, slopes)
        loss = _times_(less * e, entropy)
        loss = loss if w is None else _times(w, loss)
        return _reduced(batch, loss, None, slopes, axis, scale)


def squared_error(batch: Batch, axis: Axis, scale: float | Tensor) -> Found:
    """Squared errors, likewise: (q - a)^2."""
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail = TAILS[type(batch.f)](x)
        error = torch.where(_is_below(x), y, 1 - y).sub_(tail.mass)
        slopes = None
        if differentiated:
            slopes = (tail.density * error).mul_(torch.copysign(x.new_full((), 2.0), x))
            slopes = slopes if batch.w is None else slopes.mul_(batch.w)
        loss = error.square_()
        loss = loss if batch.w is None else loss.mul_(batch.w)
        return _reduced(batch, loss, None, slopes, axis, scale)


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found | None:
    """fp FP + fn FN and tp TP + fp FP + fn FN over `axis`, stacked."""
    if torch.compiler.is_compiling():  # of the formula it makes the same
        return None
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail = TAILS[type(batch.f)](x)
        density = tail.density_beside_both if differentiated else None
        p, rest = tail.both_sides
        hit = p * y
        # fp (1 - y) F(x) + fn y (1 - F(x)), of which one term is 0 where y is 0 or 1
        miss = torch.lerp(p if fp == 1 else p.mul_(fp), rest if fn == 1 else rest.mul_(fn), y)
        if batch.w is not None:
            hit.mul_(batch.w)
            miss.mul_(batch.w)
            density = None if density is None else density.mul_(batch.w)
        error = _sum(miss, axis)
        value = torch.stack((error, torch.add(error, _sum(hit, axis), alpha=tp))).to(x.dtype)
    if density is None:
        return value, None
    shape = x.shape

    def gradient(upstream: Tensor) -> Tensor:
        of_error, of_whole = (spread(u, shape, axis) for u in upstream)
        off, on = fp * (of_error + of_whole), (tp - fn) * of_whole - fn * of_error
        return _times_(density, torch.lerp(off, on, y))

    return value, gradient


def _once(method: Callable[[Any], Any]) -> Any:
    """`functools.cached_property`, whose lock the compiler does not know."""
    name = f"_{method.__name__}"

    def value(self: Any) -> Any:
        if name not in self.__dict__:
            setattr(self, name, method(self))
        return self.__dict__[name]

    return property(value)


class Tail:
    """F(-t) at t = abs(x), and what follows from it: each when it is asked for."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @_once
    def t(self) -> Tensor:
        return self.x.abs()

    @_once
    def mass(self) -> Tensor:
        """a = F(-t)."""
        raise NotImplementedError

    @_once
    def rest(self) -> Tensor:
        """F(t)."""
        return 1 - self.mass

    @_once
    def both_sides(self) -> tuple[Tensor, Tensor]:
        """F(x) and F(-x)."""
        below = _is_below(self.x)
        return torch.where(below, self.mass, self.rest), torch.where(below, self.rest, self.mass)

    @_once
    def density(self) -> Tensor:
        """pdf(t)."""
        raise NotImplementedError

    @property
    def density_beside_both(self) -> Tensor:
        """The density, by way of `both_sides` if that is shorter."""
        return self.density

    @_once
    def odds(self) -> Tensor:
        """F(-t) / F(t)."""
        return self.mass / self.rest

    @_once
    def near(self) -> Tensor:
        """-log F(t)."""
        return torch.log1p(self.odds)

    def times_log_odds(self, q: Tensor) -> Tensor:
        """q log(F(-t) / F(t)), 0 for q = 0."""
        return _xlogy(q, self.odds)

    def slope(self, q: Tensor, whole: Tensor | None) -> Tensor:
        """That of cross entropy in x: sign(x) r (q - whole a); whole is 1 if None."""
        a = self.mass if whole is None else self.mass * whole
        return self.times_rate_(q - a)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        """Slopes in the logarithm of the odds, which are overwritten: times sign(x) r."""
        raise NotImplementedError


class SigmoidTail(Tail):
    """The logarithm of the odds is -t, and r = 1."""

    @_once
    def log_odds(self) -> Tensor:
        return torch.copysign(self.x, self.x.new_full((), -1.0))

    @_once
    def mass(self) -> Tensor:
        return torch.sigmoid(self.log_odds)

    @_once
    def both_sides(self) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.x), torch.sigmoid(-self.x)

    @_once
    def density(self) -> Tensor:
        return self.mass * self.rest

    @_once
    def density_beside_both(self) -> Tensor:
        low, high = self.both_sides
        return low * high

    @_once
    def near(self) -> Tensor:
        return torch.nn.functional.softplus(self.log_odds)

    def times_log_odds(self, q: Tensor) -> Tensor:
        return _times(q, self.log_odds)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return slopes.mul_(torch.copysign(self.x.new_ones(()), self.x))


class ArctanTail(Tail):
    """With the angle v = pi a = atan(1 / t) the density is sin(v)^2 / pi."""

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
        return self.angle / math.pi

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

    def slope(self, q: Tensor, whole: Tensor | None) -> Tensor:
        angle = self.angle if whole is None else self.angle * whole
        return self._times_rate_of_angles_(torch.sub(angle, q, alpha=math.pi))

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return self._times_rate_of_angles_(slopes.mul_(-math.pi))

    def _times_rate_of_angles_(self, slopes: Tensor) -> Tensor:
        # -sign(x) r / pi, with r / pi = sin(v) (sin(v) / v) / (pi - v)
        slopes.mul_(self.turned_angle.sin()).mul_(torch.sinc(self.mass))
        return slopes.div_(self.other_angle)


class SoftsignTail(Tail):
    """The odds are 1 / (1 + 2 t), and r is 1 / (t + 1/2)."""

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
    def density(self) -> Tensor:
        return torch.addcmul(self.mass.new_zeros(()), self.mass, self.mass, value=2)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return slopes.div_(torch.copysign(self.half, self.x))


class InverseSquareRootTail(Tail):
    """With h = sqrt(1 + t^2): the logarithm of the odds is -2 asinh(t), and r = 2 / h."""

    @_once
    def hypotenuse(self) -> Tensor:
        return torch.hypot(self.t, self.t.new_ones(()))

    @_once
    def mass(self) -> Tensor:
        # h (h + t); the square overflows only where the tail has underflown
        square = torch.addcmul(self.t.new_ones(()), self.t, self.t)
        return _over(0.5, square.addcmul_(self.t, self.hypotenuse))

    @_once
    def density(self) -> Tensor:
        return self.hypotenuse.pow(-3).mul_(0.5)

    @_once
    def near(self) -> Tensor:
        return _minus_log1p(-self.mass)

    def times_log_odds(self, q: Tensor) -> Tensor:
        return _times(q, self.t.asinh(), -2)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        signed = torch.copysign(self.hypotenuse, self.x)
        return torch.addcdiv(slopes.new_zeros(()), slopes, signed, value=2)


class NormalTail(Tail):
    """F(-t) = exp(-t^2 / 2) (1/2 + n) / d, as `_special` has it."""

    @_once
    def near_t(self) -> Tensor:
        """t, but with a finite square."""
        return _special.at_most(self.t, 1e18)

    @_once
    def bell(self) -> tuple[Tensor, Tensor]:
        """E and e with exp(-t^2 / 2) = E (1 + e)."""
        t = self.near_t
        # of few enough bits for an exact square
        high = t.view(torch.int32).bitwise_and(-(2**12)).view(t.dtype)
        low = high - t
        e = torch.add(high, low, alpha=-0.5).mul_(low).expm1_()
        return torch.addcmul(t.new_zeros(()), high, high, value=-0.5).exp_(), e

    @_once
    def n(self) -> Tensor:
        t = self.near_t
        v = torch.addcdiv(t.new_full((), -0.5), t, t + 4)
        return _horner(v, _special.SCALED_TAIL["float32"])

    @_once
    def half(self) -> Tensor:
        return self.n + 0.5

    @_once
    def d(self) -> Tensor:
        return self.t + 1.25

    @_once
    def mass(self) -> Tensor:
        bulk, e = self.bell
        d = self.near_t + 1.25
        part = bulk / d
        # neither 1/2 + n nor 1 + e is rounded before it is multiplied, nor d before it divides
        e = torch.addcdiv(e, (d - 1.25).sub_(self.near_t), d)
        rest = torch.addcmul(self.n, self.half, e)
        return torch.addcmul(part * 0.5, part, rest)

    @_once
    def density(self) -> Tensor:
        bulk, e = self.bell
        scaled = bulk * _special.INV_SQRT_TWO_PI
        return torch.addcmul(scaled, scaled, e)

    @_once
    def hazard(self) -> Tensor:
        """pdf(t) / F(-t)."""
        return _over(_special.INV_SQRT_TWO_PI, self.half).clamp_(max=1.0).mul_(self.d)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return _times_(slopes, self.hazard).div_(self.rest.copysign(self.x))

    def slope(self, q: Tensor, whole: Tensor | None) -> Tensor:
        # by the density, since the mass underflows before it
        beside = self.density if whole is None else self.density * whole
        return _times(q, self.hazard).sub_(beside).div_(self.rest.copysign(self.x))

    @_once
    def near(self) -> Tensor:
        return _minus_log1p(-self.mass)

    def times_log_odds(self, q: Tensor) -> Tensor:
        log_tail = (self.half / self.d).log_().addcmul_(self.t * 0.5, self.t, value=-1)
        return _times(q, log_tail.add_(self.near))


TAILS: dict[type, type[Tail]] = {
    Sigmoid: SigmoidTail,
    NormalCDF: NormalTail,
    Arctan: ArctanTail,
    Softsign: SoftsignTail,
    InverseSquareRoot: InverseSquareRootTail,
}


def _is_below(x: Tensor) -> Tensor:
    """Whether x < 0, or -0, as `copysign` has it."""
    if torch.compiler.is_compiling():  # a sign bit makes its loop a slow one
        return torch.copysign(x.new_ones(()), x) < 0
    return x.signbit()


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A polynomial, the highest power first, by an operation a power."""
    compiling = torch.compiler.is_compiling()  # then numbers cost no operations
    numbers: Any = coefficients if compiling else _constants(coefficients, x.dtype, x.device)
    total, *rest = numbers
    for c in rest:
        total = total * x + c if compiling else torch.addcmul(c, total, x)
    return total


@lru_cache(maxsize=64)
def _constants(numbers: tuple[float, ...], dtype: Any, device: Any) -> list[Tensor]:
    return list(torch.tensor(numbers, dtype=dtype, device=device).unbind())


def _minus_log1p(x: Tensor) -> Tensor:
    """-log1p(x), by one operation."""
    compiling = torch.compiler.is_compiling()
    return -torch.log1p(x) if compiling else torch.special.xlog1py(-1.0, x)


def _xlogy(weight: Tensor, x: Tensor) -> Tensor:
    """`torch.xlogy`, whose test for NaN makes the compiler's loop a slow one."""
    return _times(weight, x.log()) if torch.compiler.is_compiling() else torch.xlogy(weight, x)


def _over(number: float, x: Tensor) -> Tensor:
    """number / x, by one operation and with one rounding."""
    return torch.div(x.new_full((), number), x)


def _reduced(
    batch: Batch,
    loss: Tensor,
    less: Tensor | None,
    slopes: Tensor | None,
    axis: Axis,
    scale: float | Tensor,
) -> Found:
    """Losses, less those of `less`, and their slopes, summed over `axis` times `scale`."""
    if torch.compiler.is_compiling():  # which makes the sum and its gradient itself
        loss = loss if less is None else loss - less
        with torch.enable_grad():
            loss = loss if slopes is None else _Given.apply(batch.x, loss, slopes)
            return (_sum(loss, axis) * scale).to(loss.dtype) if axis else loss, None
    if axis:
        sums = _sum(loss, axis) if less is None else _sum(loss, axis) - _sum(less, axis)
        value = (sums * scale).to(loss.dtype)
    else:
        value = loss if less is None else loss - less
    if slopes is None:
        return value, None
    shape = loss.shape

    def gradient(upstream: Tensor) -> Tensor:
        if not axis:
            return _times_(slopes, upstream.to(slopes.dtype))
        factor = spread(upstream * scale, shape, axis).to(slopes.dtype)
        largest = _special.largest(factor)
        # two factors for infinity, whose product with 0 is 0
        slopes.mul_(_special.clip(factor, -largest, largest))
        return slopes.mul_(torch.where(factor.isinf(), largest, 1.0))

    return value, gradient


def _sum(x: Tensor, axis: Axis) -> Tensor:
    """The sum over `axis`, in float64 where the device has it."""
    wide = x.device.type not in _special.NO_FLOAT64
    return x.sum(axis, dtype=torch.float64 if wide else None)


def _finite(x: Tensor) -> Tensor:
    """x, and the largest number for infinity."""
    return x.clamp(max=torch.finfo(x.dtype).max)


def _times(weight: Tensor, value: Tensor, factor: float = 1.0) -> Tensor:
    """weight * value * factor; where the weight is 0, exactly 0, also of infinity and NaN."""
    if factor == 1:
        product = weight * value
    else:
        product = torch.addcmul(value.new_zeros(()), weight, value, value=factor)
    return product.masked_fill_(weight == 0, 0.0)


def _times_(weight: Tensor, value: Tensor) -> Tensor:
    """The same, in place of the weight."""
    zero = weight == 0
    return weight.mul_(value).masked_fill_(zero, 0.0)
