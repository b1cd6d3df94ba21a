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
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from segact_torch import _special
from segact_torch._backends.cpu import Found, is_differentiated, spread
from segact_torch._batch import Axis, Batch
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
    if isinstance(batch.f, InverseSquareRoot):  # too many roundings on this way
        return None
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        on = smooth_labels(y, label_smoothing)
        off, whole = 1 - on, None
        if batch.w is not None or isinstance(pos_weight, Tensor) or pos_weight != 1:
            on = on * pos_weight
            if batch.w is not None:
                on, off = on.mul_(batch.w), off.mul_(batch.w)
            whole = on + off
        q = torch.where(x.signbit(), on, off)
        tail = TAILS[type(batch.f)](x)
        slopes = tail.slope(q, whole) if differentiated else None
        return _reduced(tail.entropy(q, whole), slopes, axis, scale)


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
    if isinstance(batch.f, InverseSquareRoot) or gamma < 1:
        return None
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        y, w = smooth_labels(y, label_smoothing), batch.w
        if alpha is not None:
            of_class = (y * (2 * alpha - 1)).add_(1 - alpha)
            w = of_class if w is None else of_class.mul_(w)
        q = torch.where(x.signbit(), y, 1 - y)
        tail = TAILS[type(batch.f)](x)
        a, rest = tail.mass, tail.rest
        entropy, slopes = tail.entropy(q, None), None
        e = torch.lerp(a, rest, q)
        less = e.pow(gamma - 1)
        if differentiated:
            both = a * rest  # 0 where the entropy is infinite
            moved = torch.lerp(-both, both, q)
            slopes = (q - a).mul_(e)
            slopes.addcmul_(moved, _finite(entropy), value=gamma)
            slopes = tail.times_rate_(slopes.mul_(less))
            slopes = slopes if w is None else _times(w, slopes)
        loss = _times_(less.mul_(e), entropy)
        return _reduced(loss if w is None else _times(w, loss), slopes, axis, scale)


def squared_error(batch: Batch, axis: Axis, scale: float | Tensor) -> Found:
    """Squared errors, likewise: (q - a)^2."""
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail = TAILS[type(batch.f)](x)
        error = torch.where(x.signbit(), y, 1 - y).sub_(tail.mass)
        slopes = None
        if differentiated:
            slopes = (tail.density * error).mul_(torch.copysign(x.new_full((), 2.0), x))
            slopes = slopes if batch.w is None else slopes.mul_(batch.w)
        loss = error.square_()
        loss = loss if batch.w is None else loss.mul_(batch.w)
        return _reduced(loss, slopes, axis, scale)


def overlap(batch: Batch, axis: Axis, tp: float, fp: float, fn: float) -> Found:
    """fp FP + fn FN and tp TP + fp FP + fn FN over `axis`, stacked."""
    batch.check_values()
    differentiated = is_differentiated(batch)
    with torch.no_grad():
        x, y = batch.masked()
        tail, below = TAILS[type(batch.f)](x), x.signbit()
        density = tail.density if differentiated else None
        p = torch.where(below, tail.mass, tail.rest)
        hit = p * y
        miss = p.mul_(1 - y)
        miss = miss if fp == 1 else miss.mul_(fp)
        miss.addcmul_(y, torch.where(below, tail.rest, tail.mass), value=fn)
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
        of_error, of_whole = upstream
        on = spread((tp - fn) * of_whole - fn * of_error, shape, axis)
        off = spread(fp * (of_error + of_whole), shape, axis)
        return _times_(density, torch.lerp(off, on, y))

    return value, gradient


class Tail:
    """F(-t) at t = abs(x), and what follows from it: each when it is asked for."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.t = x, x.abs()

    @cached_property
    def mass(self) -> Tensor:
        """a = F(-t)."""
        raise NotImplementedError

    @cached_property
    def rest(self) -> Tensor:
        """F(t)."""
        return 1 - self.mass

    @cached_property
    def odds(self) -> Tensor:
        """F(-t) / F(t)."""
        raise NotImplementedError

    @cached_property
    def density(self) -> Tensor:
        """pdf(t)."""
        raise NotImplementedError

    @cached_property
    def signed_odds_over_density(self) -> Tensor:
        """sign(x) / r = sign(x) F(t) F(-t) / pdf(t)."""
        raise NotImplementedError

    def slope(self, q: Tensor, whole: Tensor | None) -> Tensor:
        """That of `entropy` in x: sign(x) r (q - whole a)."""
        a = self.mass if whole is None else self.mass * whole
        return self.times_rate_(q - a)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        """Slopes in the logarithm of the odds, in place: times sign(x) r."""
        return slopes.div_(self.signed_odds_over_density)

    def entropy(self, q: Tensor, whole: Tensor | None) -> Tensor:
        """-whole log F(t) + q log(F(t) / F(-t)), which is 0 where both are; whole is 1 if None."""
        near = self.near if whole is None else self.near * whole
        return near - self.times_log_odds(q)

    @cached_property
    def near(self) -> Tensor:
        """-log F(t)."""
        return torch.log1p(self.odds)

    def times_log_odds(self, q: Tensor) -> Tensor:
        """q log(F(-t) / F(t)), 0 for q = 0."""
        return torch.xlogy(q, self.odds)


class SigmoidTail(Tail):
    """The odds are e^-t, their logarithm -t, and r = 1."""

    @cached_property
    def log_odds(self) -> Tensor:
        return -self.t

    @cached_property
    def odds(self) -> Tensor:
        return torch.exp(self.log_odds)

    @cached_property
    def mass(self) -> Tensor:
        return self.odds / (1 + self.odds)

    @cached_property
    def density(self) -> Tensor:
        return self.mass * self.rest

    @cached_property
    def signed_odds_over_density(self) -> Tensor:
        return torch.copysign(self.t.new_ones(()), self.x)

    def times_log_odds(self, q: Tensor) -> Tensor:
        return _times(q, self.log_odds)


class ArctanTail(Tail):
    """pi a = atan(1 / t), the angle."""

    @cached_property
    def angle(self) -> Tensor:
        return torch.atan2(self.t.new_ones(()), self.t)

    @cached_property
    def other_angle(self) -> Tensor:
        return math.pi - self.angle

    @cached_property
    def mass(self) -> Tensor:
        return self.angle / math.pi

    @cached_property
    def odds(self) -> Tensor:
        return self.angle / self.other_angle

    @cached_property
    def density(self) -> Tensor:
        pi = self.t.new_full((), math.pi)
        return torch.addcmul(pi, self.t, self.t, value=math.pi).reciprocal_()

    @cached_property
    def signed_odds_over_density(self) -> Tensor:
        """pi times it."""
        # (1 + t^2) angle, without the square that overflows; far out, t times the angle is 1
        near_one = (self.t * self.angle).nan_to_num_(nan=1.0)
        span = torch.addcmul(self.angle, self.t, near_one)
        return span.mul_(self.other_angle).copysign_(self.x)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return slopes.mul_(math.pi).div_(self.signed_odds_over_density)

    def slope(self, q: Tensor, whole: Tensor | None) -> Tensor:
        angle = self.angle if whole is None else self.angle * whole
        return (q * math.pi).sub_(angle).div_(self.signed_odds_over_density)


class SoftsignTail(Tail):
    """The odds are 1 / (1 + 2 t)."""

    @cached_property
    def half(self) -> Tensor:
        return self.t + 0.5

    @cached_property
    def odds(self) -> Tensor:
        return 0.5 / self.half

    @cached_property
    def mass(self) -> Tensor:
        return 0.5 / (1 + self.t)

    @cached_property
    def density(self) -> Tensor:
        return self.mass.square().mul_(2)

    @cached_property
    def signed_odds_over_density(self) -> Tensor:
        return torch.copysign(self.half, self.x)


class InverseSquareRootTail(Tail):
    """With h = sqrt(1 + t^2)."""

    @cached_property
    def hypotenuse(self) -> Tensor:
        return torch.hypot(self.t, self.t.new_ones(()))

    @cached_property
    def mass(self) -> Tensor:
        # h (h + t); the square overflows only where the tail has underflown
        square = torch.addcmul(self.t.new_ones(()), self.t, self.t)
        return 0.5 / square.addcmul_(self.t, self.hypotenuse)

    @cached_property
    def density(self) -> Tensor:
        return self.hypotenuse.reciprocal().pow_(3).mul_(0.5)


class NormalTail(Tail):
    """By exp(t^2 / 2) F(-t) = (1/2 + n) / d, as `_special` has it."""

    @cached_property
    def bell(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """high, low with t = high + low, and E, e with exp(-t^2 / 2) = E (1 + e)."""
        high, low = _special._split(_special.at_most(self.t, _special.ZERO_FROM))
        r = torch.add(high, low, alpha=0.5).mul_(low)
        e = _horner(r, (1 / 24, -1 / 6, 0.5, -1.0)).mul_(r)
        return high, low, high.square().mul_(-0.5).exp_(), e

    @cached_property
    def scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        """n, 1/2 + n and d."""
        finite = _special.at_most(self.t, 1e30)
        v = (finite / (finite + 4)).sub_(0.5)
        n = _horner(v, _special.SCALED_TAIL[_special._name(v)])
        return n, n + 0.5, self.t + 1.25

    @cached_property
    def mass(self) -> Tensor:
        high, low, bulk, e = self.bell
        n, half, d = self.scaled
        # as in _special.normal_tail
        share = low / d
        e = e - torch.addcmul(share, share, e)
        part = bulk / (high + 1.25)
        return torch.addcmul(n, half, e).mul_(part).add_(part, alpha=0.5)

    @cached_property
    def density(self) -> Tensor:
        _, _, bulk, e = self.bell
        scaled = bulk * _special.INV_SQRT_TWO_PI
        return torch.addcmul(scaled, scaled, e)

    @cached_property
    def hazard(self) -> Tensor:
        """pdf(t) / F(-t)."""
        _, half, d = self.scaled
        return (_special.INV_SQRT_TWO_PI / half).clamp_(max=1.0).mul_(d)

    def times_rate_(self, slopes: Tensor) -> Tensor:
        return _times_(slopes, self.hazard).div_(self.rest.copysign(self.x))

    def slope(self, q: Tensor, whole: Tensor | None) -> Tensor:
        # by the density, since the mass underflows before it
        beside = self.density if whole is None else self.density * whole
        return _times(q, self.hazard).sub_(beside).div_(self.rest.copysign(self.x))

    @cached_property
    def near(self) -> Tensor:
        return torch.special.xlog1py(-1.0, -self.mass)  # -log1p(-a)

    def times_log_odds(self, q: Tensor) -> Tensor:
        _, half, d = self.scaled
        far = torch.addcmul((half / d).log_(), self.t * 0.5, self.t, value=-1)
        return _times(q, far.add_(self.near))


TAILS: dict[type, type[Tail]] = {
    Sigmoid: SigmoidTail,
    NormalCDF: NormalTail,
    Arctan: ArctanTail,
    Softsign: SoftsignTail,
    InverseSquareRoot: InverseSquareRootTail,
}


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A polynomial, the highest power first, by an operation a power."""
    first, *rest = _constants(coefficients, x.dtype, x.device)
    total = first
    for c in rest:
        total = torch.addcmul(c, total, x)
    return total


@lru_cache(maxsize=64)
def _constants(numbers: tuple[float, ...], dtype: Any, device: Any) -> list[Tensor]:
    return list(torch.tensor(numbers, dtype=dtype, device=device).unbind())


def _reduced(loss: Tensor, slopes: Tensor | None, axis: Axis, scale: float | Tensor) -> Found:
    """The losses and their slopes, summed over `axis` times `scale`."""
    value = (_sum(loss, axis) * scale).to(loss.dtype) if axis else loss
    if slopes is None:
        return value, None
    shape = loss.shape

    def gradient(upstream: Tensor) -> Tensor:
        factor = spread(upstream * scale, shape, axis) if axis else upstream
        return _times_(slopes, factor.to(slopes.dtype))

    return value, gradient


def _sum(x: Tensor, axis: Axis) -> Tensor:
    """The sum over `axis`, in float64 where the device has it."""
    wide = x.device.type not in _special.NO_FLOAT64
    return x.sum(axis, dtype=torch.float64 if wide else None)


def _finite(x: Tensor) -> Tensor:
    """x, and the largest number for infinity."""
    return x.clamp(max=torch.finfo(x.dtype).max)


def _times(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value; where the weight is 0, exactly 0, also of infinity and NaN."""
    return (weight * value).masked_fill_(weight == 0, 0.0)


def _times_(weight: Tensor, value: Tensor) -> Tensor:
    """The same, in place of the weight."""
    zero = weight == 0
    return weight.mul_(value).masked_fill_(zero, 0.0)
