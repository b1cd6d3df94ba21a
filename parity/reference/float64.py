"""The oracle: float64 numpy and scipy, fast enough for millions of inputs.

It computes the same as the reference (`multiprecision`), to about 1e-13 relative at float32 inputs;
a test compares the two. It also gives the scales relative to which errors are counted if the two
terms of soft targets cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np
from scipy import special

from parity.common.arrays import Array
from parity.suite.case import NO_ACTIVATION, Batch, Case
from parity.suite.inputs import PUBLISHED_EPSILON

_SQRT_HALF = np.sqrt(0.5)


@dataclass(frozen=True)
class Distribution:
    """An activation at an array of x.

    The hazards pdf / cdf and pdf / sf, which are the slopes of the logarithms, stay finite where
    cdf or sf underflows.
    """

    cdf: Array
    sf: Array
    logcdf: Array
    logsf: Array
    pdf: Array
    dpdf: Array
    reverse_hazard: Array
    hazard: Array


@dataclass(frozen=True)
class _Tail:
    """A symmetric distribution at -|x|: F, log F, density f, its derivative at |x|, h = f / F."""

    F: Array
    logF: Array
    f: Array
    df: Array
    h: Array


def _sigmoid(a: Array) -> _Tail:
    t = np.exp(-a)
    f = t / (1 + t) ** 2
    return _Tail(t / (1 + t), -a - np.log1p(t), f, -f * np.tanh(a / 2), 1 / (1 + t))


def _normal_cdf(a: Array) -> _Tail:
    """With the scaled erfcx, and a^2 in two numbers, so that exp(-a^2/2) keeps its digits."""
    near = np.minimum(a, 1e4)  # 0 from 39 on; far out the second factor would be 0 or infinite
    high = near.astype(np.float32).astype(np.float64)
    gauss = np.exp(-high * high / 2) * np.exp(-(near - high) * (near + high) / 2)
    mills = special.erfcx(a * _SQRT_HALF) / 2
    f = gauss / np.sqrt(2 * np.pi)
    return _Tail(
        gauss * mills, np.log(mills) - a * a / 2, f, -a * f, 1 / (np.sqrt(2 * np.pi) * mills)
    )


def _arctan(a: Array) -> _Tail:
    F = np.arctan2(1, a) / np.pi
    f = 1 / (np.pi * (1 + a * a))
    return _Tail(F, np.log(F), f, -2 * f * (a / (1 + a * a)), f / F)


def _softsign(a: Array) -> _Tail:
    h = 1 / (1 + a)
    df = np.where(a == 0, np.nan, -(h**3))
    return _Tail(h / 2, -np.log(2) - np.log1p(a), h * h / 2, df, h)


def _inverse_square_root(a: Array) -> _Tail:
    r = np.hypot(1, a)
    F = 1 / (2 * r * (r + a))
    return _Tail(
        F, -np.log(2 * r) - np.log(r + a), 1 / (2 * r**3), -1.5 * (a / r) / r**4, (r + a) / r**2
    )


_TAILS: dict[str, Callable[[Array], _Tail]] = {
    "sigmoid": _sigmoid,
    "normal_cdf": _normal_cdf,
    "arctan": _arctan,
    "softsign": _softsign,
    "inverse_square_root": _inverse_square_root,
}


def _smooth(case: Case, x: Array) -> Distribution:
    """eps + (1 - 2 eps) F, both halves from the tail at -|x|."""
    eps = case.exact_epsilon
    tail = _TAILS[case.activation](np.abs(x))
    left = x < 0
    dp = (1 - 2 * eps) * np.where(left, -tail.df, tail.df)
    p = (1 - 2 * eps) * tail.f
    small = eps + (1 - 2 * eps) * tail.F
    log_small = np.log(small) if eps else tail.logF
    h_small = p / small if eps else tail.h
    large, log_large, h_large = 1 - small, np.log1p(-small), p / (1 - small)
    return Distribution(
        cdf=np.where(left, small, large),
        sf=np.where(left, large, small),
        logcdf=np.where(left, log_small, log_large),
        logsf=np.where(left, log_large, log_small),
        pdf=p,
        dpdf=dp,
        reverse_hazard=np.where(left, h_small, h_large),
        hazard=np.where(left, h_large, h_small),
    )


def _from_both_sides(c: Array, s: Array, p: Array) -> Distribution:
    """A piecewise linear activation: c and s = 1 - c given exactly, and a constant density."""
    logc = np.where(c <= 0.5, np.log(c), np.log1p(-s))
    logs = np.where(s <= 0.5, np.log(s), np.log1p(-c))
    hc = np.divide(p, c, out=np.zeros_like(c), where=c > 0)
    hs = np.divide(p, s, out=np.zeros_like(s), where=s > 0)
    return Distribution(c, s, logc, logs, p, np.zeros_like(c), hc, hs)


def _hardtanh(case: Case, x: Array) -> Distribution:
    eps = case.exact_epsilon
    c, s = np.clip(x, eps, 1 - eps), np.clip(1 - x, eps, 1 - eps)
    return _from_both_sides(c, s, ((x > eps) & (x < 1 - eps)).astype(np.float64))


def _convention(case: Case, x: Array) -> Distribution:
    """How a convention computes log p and log(1 - p), and their slopes hc and -hs.

    Clip limits, 1 - p and added epsilons are rounded to the dtype first.
    """
    number = np.dtype(case.dtype).type
    p, one = x.astype(case.dtype), number(1)
    if case.convention.startswith("keras"):
        low, high = number(PUBLISHED_EPSILON), number(1 - PUBLISHED_EPSILON)
        k = np.clip(p, low, high)
        more = low if case.convention == "keras2" else number(0)
        c, s = ((v + more).astype(np.float64) for v in (k, one - k))
        logit = case.convention == "keras_logit"
        logc, logs = (-np.log1p(s / c), -np.log1p(c / s)) if logit else (np.log(c), np.log(s))
        inside = ((p > low) & (p < high)).astype(np.float64)
        return Distribution(c, s, logc, logs, inside, np.zeros_like(x), inside / c, inside / s)
    tiny, c, s = number(1e-12), x, (one - p).astype(np.float64)
    if case.convention == "torch":
        product = np.maximum((one - p) * p, tiny).astype(np.float64)
        logc, logs = np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)
    else:
        a, b = ((v + tiny).astype(np.float64) for v in (p, one - p))
        product, logc, logs = a * b, np.log(a), np.log(b)
    ones = np.ones_like(x)
    return Distribution(c, s, logc, logs, ones, np.zeros_like(x), s / product, c / product)


def _position(x: Array) -> tuple[Array, Array, float]:
    """(x - min) / (max - min), its complement, and half the range (halved: nothing overflows)."""
    low, high = x.min() / 2, x.max() / 2
    half = float(high - low)
    if half == 0:
        return np.full_like(x, 0.5), np.full_like(x, 0.5), half
    return (x / 2 - low) / half, (high - x / 2) / half, half


def _linear(case: Case, x: Array) -> Distribution:
    """p is 1 here: `_through_ends` turns derivatives in c into derivatives in x."""
    eps = case.exact_epsilon
    u, v, _ = _position(x)
    scale = 1 - 2 * eps
    return _from_both_sides(eps + scale * u, eps + scale * v, np.ones_like(x))


def _through_ends(case: Case, x: Array, weight: Array) -> Array:
    """sum_i weight_i dc_i/dx_j for `linear`; ties at the minimum and the maximum share equally."""
    u, v, half = _position(x)
    if half == 0:
        return np.zeros_like(x)
    gradient = weight.copy()
    for end, towards in ((x == x.min(), v), (x == x.max(), u)):
        # at the ends c is constant but for ties: their own large weights must cancel exactly
        pull = np.sum(weight * towards, where=~end) / np.count_nonzero(end)
        gradient[end] = weight[end] - np.mean(weight[end]) - pull
    return (0.5 - case.exact_epsilon) / half * gradient


def distribution(case: Case, x: Array) -> Distribution:
    """The activation of the case at float64 x."""
    if case.activation == "linear":
        return _linear(case, x)
    if case.activation == "hardtanh":
        return _hardtanh(case, x)
    if case.activation == NO_ACTIVATION:
        return _from_both_sides(x, 1 - x, np.ones_like(x))
    return _convention(case, x) if case.convention else _smooth(case, x)


def quantile(case: Case, p: Array) -> Array:
    """The x with cdf(x) = p, without cancellation at either end or at 1/2."""
    if case.activation == "hardtanh":
        return p
    eps = case.exact_epsilon
    left, right, u = ((v / (1 - 2 * eps)) for v in (p - eps, (1 - p) - eps, 2 * p - 1))
    small, near = np.minimum(left, right), np.abs(u) < 0.5
    if case.activation == "sigmoid":
        return np.where(near, np.log1p(u / right), np.log(left / right))
    if case.activation == "normal_cdf":
        middle: Array = _SQRT_HALF * 2 * special.erfinv(u)
        return np.where(near, middle, np.sign(-u) * special.ndtri(small))
    if case.activation == "arctan":
        return np.where(near, np.tan(np.pi / 2 * u), np.sign(u) / np.tan(np.pi * small))
    found: dict[str, Callable[[], Array]] = {
        "softsign": lambda: u / (2 * small),
        "inverse_square_root": lambda: u / (2 * np.sqrt(left * right)),
    }
    return found[case.activation]()


@dataclass(frozen=True)
class Loss:
    """Values, and derivatives as terms: the derivative is their sum, its scale that of magnitudes.

    `root` is there where the value is a square: the magnitude of the terms of its root. `usual` are
    the terms of both derivatives in the usual formula, where those cancel and the ones here do not.
    """

    value: Array
    in_x: tuple[Array, ...]
    in_y: tuple[Array, ...] = ()
    root: Array | None = None
    usual: tuple[tuple[Array, ...], ...] = ()

    def slopes(self) -> tuple[Array, ...]:
        """The derivatives in x and, if there are any, in y."""
        return tuple(reduce(np.add, terms) for terms in (self.in_x, self.in_y) if terms)

    def magnitudes(self) -> tuple[Array, ...]:
        """The scales of both."""
        terms = self.usual or (self.in_x, self.in_y)
        in_x, in_y = (tuple(map(np.abs, each)) for each in terms)
        return Loss(self.value, in_x, in_y).slopes()

    def times(self, factor: Any) -> "Loss":
        """All derivatives times the factor; the values stay."""
        all = (self.in_x, self.in_y, *self.usual)
        in_x, in_y, *usual = (tuple(factor * term for term in terms) for terms in all)
        return Loss(self.value, in_x, in_y, usual=tuple(usual))


def _weighted(weight: Array, term: Array) -> Array:
    """weight * term, exactly zero where the weight is, also for an infinite term."""
    product: Array = np.multiply(weight, term, out=np.zeros_like(term), where=weight != 0)
    return product


def _cross_entropy(a: Distribution, y: Array, pos_weight: float = 1.0) -> Loss:
    on = pos_weight * y
    value = -(_weighted(on, a.logcdf) + _weighted(1 - y, a.logsf))
    in_x = (_weighted(1 - y, a.hazard), -_weighted(on, a.reverse_hazard))
    return Loss(value, in_x, (a.logsf, -pos_weight * a.logcdf))


def _focal(a: Distribution, y: Array, gamma: float = 2.0, alpha: float | None = None) -> Loss:
    """A e^gamma times the cross entropy, with e = y s + (1 - y) c, A = alpha y + ..."""
    entropy = _cross_entropy(a, y)
    e = y * a.sf + (1 - y) * a.cdf
    on, off = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    A = on * y + off * (1 - y)
    power, steep = A * e**gamma, A * gamma * e ** (gamma - 1)
    moved = steep * _weighted(a.pdf, entropy.value)
    in_x = ((1 - y) * moved, -y * moved, *(power * term for term in entropy.in_x))
    in_y = (
        *(_weighted(slope, steep * entropy.value) for slope in (a.sf, -a.cdf)),
        *(power * term for term in entropy.in_y),
        *(e**gamma * entropy.value * slope for slope in (on, -off) if alpha is not None),
    )
    return Loss(power * entropy.value, in_x, in_y)


def _squared_error(a: Distribution, y: Array) -> Loss:
    wrong, missed = (1 - y) * a.cdf, y * a.sf
    in_x = (2 * a.pdf * wrong, -2 * a.pdf * missed)
    return Loss((wrong - missed) ** 2, in_x, (-2 * wrong, 2 * missed), wrong + missed)


_ELEMENTWISE: dict[str, Callable[..., Loss]] = {
    "binary_cross_entropy": _cross_entropy,
    "binary_focal_cross_entropy": _focal,
    "squared_error": _squared_error,
    "mean_squared_error": _squared_error,
}


@dataclass(frozen=True)
class Groups:
    """The sums of a reduced loss, over `axes`; elements that are not `valid` have weight 0.

    An output below `smallest` is 0 in the sums of areas; see `evaluate`.
    """

    a: Distribution
    y: Array
    w: Array
    valid: Array
    axes: tuple[int, ...]
    smallest: float

    def sum(self, term: Array) -> Array:
        """The weighted sum of a term, one for every group."""
        total: Array = np.sum(self.w * term, self.axes, keepdims=True)
        return total


def _inverse(x: Array) -> Array:
    """1 / x, and 0 for 0."""
    found: Array = np.divide(1, x, out=np.zeros_like(x), where=x > 0)
    return found


def _mean(
    term: Callable[..., Loss], b: Groups, label_smoothing: float = 0.0, **options: Any
) -> Loss:
    """The mean of an elementwise loss, of targets y (1 - L) + L / 2, L the smoothing."""
    kept = 1 - label_smoothing
    loss = term(b.a, b.y * kept + label_smoothing / 2, **options)
    inverse = _inverse(np.asarray(np.sum(b.valid, b.axes, np.float64, keepdims=True)))
    share = loss.times(b.w * inverse)
    return Loss(b.sum(loss.value) * inverse, share.in_x, tuple(kept * t for t in share.in_y))


def _tversky(b: Groups, alpha: float = 0.5, beta: float = 0.5, smooth: float = 0.0) -> Loss:
    """(alpha FP + beta FN) / (TP + alpha FP + beta FN + smooth), 0 where the denominator is."""
    a, y = b.a, b.y
    c = np.where(a.cdf < b.smallest, 0, a.cdf)
    wrong = b.sum(alpha * (1 - y) * c + beta * y * a.sf)
    right = b.sum(y * c) + smooth
    inverse = _inverse(wrong + right)
    loss, rest = wrong * inverse, right * inverse
    in_c, in_y = alpha * (1 - y) - beta * y, beta * a.sf - alpha * a.cdf
    terms = (rest * a.pdf * in_c, -loss * a.pdf * y), (rest * in_y, -loss * a.cdf)
    usual = (a.pdf * in_c, -loss * a.pdf * (in_c + y)), (in_y, -loss * (in_y + a.cdf))
    return Loss(loss, *terms, usual=usual).times(b.w * inverse)


def _dice(b: Groups, smooth: float = 0.0) -> Loss:
    return _tversky(b, 0.5, 0.5, smooth / 2)


def _jaccard(b: Groups, smooth: float = 0.0) -> Loss:
    return _tversky(b, 1.0, 1.0, smooth)


def _focal_tversky(
    b: Groups, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3, smooth: float = 0.0
) -> Loss:
    """The Tversky loss to the power 1 / gamma."""
    loss = _tversky(b, alpha, beta, smooth)
    steep = np.where(loss.value > 0, loss.value ** (1 / gamma - 1) / gamma, 0)
    found = loss.times(steep)
    return replace(found, value=loss.value ** (1 / gamma))


def _dice_cross_entropy(
    b: Groups,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    smooth: float = 0.0,
    **options: float,
) -> Loss:
    """The weighted sum of the Dice loss and of the mean cross entropy."""
    overlap, entropy = _dice(b, smooth), _mean(_cross_entropy, b, **options)
    value = lambda_dice * overlap.value + lambda_ce * entropy.value
    overlap, entropy = overlap.times(lambda_dice), entropy.times(lambda_ce)
    of_entropy = entropy.in_x, entropy.in_y
    usual = tuple(a + b for a, b in zip(overlap.usual, of_entropy, strict=True))
    in_x, in_y = overlap.in_x + entropy.in_x, overlap.in_y + entropy.in_y
    return Loss(value, in_x, in_y, usual=usual)


def _lovasz_weights(b: Groups, errors: Array) -> Array:
    """The increases of a group's Jaccard loss as elements, largest error first, become wrong."""
    kept = [axis for axis in range(b.y.ndim) if axis not in b.axes]
    front = range(len(kept))
    errors = np.moveaxis(np.where(b.valid, errors, -np.inf), kept, front)
    groups = int(np.prod(errors.shape[: len(kept)]))
    order = np.argsort(-errors.reshape(groups, -1), axis=1, kind="stable")
    y, w = (
        np.take_along_axis(np.moveaxis(part, kept, front).reshape(groups, -1), order, 1)
        for part in (b.y, b.w)
    )
    hit, miss = y * w, (1 - y) * w
    total = hit.sum(1, keepdims=True)
    found, union = total - np.cumsum(hit, 1) + hit, total + np.cumsum(miss, 1) - miss
    negative = np.where(union > 0, found * w / (union * (union + w)), 1)
    weights = np.empty_like(y)
    np.put_along_axis(weights, order, np.where(y > 0, w / union, negative), 1)
    return np.moveaxis(weights.reshape(errors.shape), front, kept)


def _lovasz(b: Groups) -> Loss:
    """The sum of the errors y s + (1 - y) c, each times its Lovasz weight; hard targets."""
    errors = b.y * b.a.sf + (1 - b.y) * b.a.cdf
    weights = _lovasz_weights(b, errors)
    value = np.sum(errors * weights, b.axes, keepdims=True)
    return Loss(value, (weights * (1 - 2 * b.y) * b.a.pdf,))


def _lovasz_hinge(b: Groups) -> Loss:
    """The same with the errors 1 - x (2 y - 1), where they are positive; c is x here."""
    errors = 1 - b.a.cdf * (2 * b.y - 1)
    weights = _lovasz_weights(b, errors) * (errors > 0)
    value = np.sum(errors * weights, b.axes, keepdims=True)
    return Loss(value, (weights * (1 - 2 * b.y),))


_REDUCED: dict[str, Callable[..., Loss]] = {
    "binary_cross_entropy": partial(_mean, _cross_entropy),
    "mean_squared_error": partial(_mean, _squared_error),
    "binary_focal_cross_entropy": partial(_mean, _focal),
    "dice": _dice,
    "jaccard": _jaccard,
    "tversky": _tversky,
    "focal_tversky": _focal_tversky,
    "dice_cross_entropy": _dice_cross_entropy,
    "lovasz": _lovasz,
    "lovasz_hinge": _lovasz_hinge,
}


def _method(case: Case, a: Distribution) -> Loss:
    value, slope = {
        "cdf": (a.cdf, a.pdf),
        "sf": (a.sf, -a.pdf),
        "logcdf": (a.logcdf, a.reverse_hazard),
        "logsf": (a.logsf, -a.hazard),
        "pdf": (a.pdf, a.dpdf),
    }[case.quantity]
    return Loss(value, (slope,))


def _loss(batch: Batch, at: Distribution | None, smallest: float) -> tuple[Array, Loss]:
    """The x of the case, in float64, with placeholders where it is not used, and the loss there."""
    case, x, used = batch.case, batch.x.astype(np.float64), batch.used
    # neither the smallest nor the largest of the used values
    x = x if used.all() else np.where(used, x, (x[used].min() + x[used].max()) / 2)
    a = distribution(case, x) if at is None else at
    if not case.is_loss:
        return x, _method(case, a)
    y = np.where(used, batch.y, 0).astype(np.float64)
    if not case.reduced:
        return x, _ELEMENTWISE[case.quantity](a, y, **batch.parameters)
    w = np.where(used, batch.w, 0).astype(np.float64)
    groups = Groups(a, y, w, batch.valid, batch.axes, smallest)
    loss = _REDUCED[case.quantity](groups, **batch.parameters)
    mean = loss.times(1 / loss.value.size)
    return x, replace(mean, value=np.asarray(np.mean(loss.value)))


def evaluate(
    batch: Batch, at: Distribution | None = None, smallest: float | None = None
) -> dict[str, Array]:
    """`value`, `grad_x` and, for soft targets, `grad_y` of a case in float64.

    `at` is `distribution(case, x)` where the caller has it already. An output below `smallest` (if
    not given, what the dtype of the case rounds to 0) is 0 in the overlap losses: it decides
    whether a sample without any target is right, a loss of 0, or all wrong, a loss of 1.
    """
    case = batch.case
    if smallest is None:
        smallest = float(np.finfo(case.dtype).smallest_subnormal) / 2
    with np.errstate(all="ignore"):
        if case.quantity == "ppf":
            return {"value": quantile(case, batch.x.astype(np.float64))}
        x, loss = _loss(batch, at, smallest)
        in_x, *in_y = loss.slopes()
        if case.activation == "linear":
            in_x = _through_ends(case, x, in_x)
        return dict(zip(case.parts, (loss.value, in_x, *in_y), strict=False))


def _scale_through_ends(case: Case, x: Array, weight: Array) -> Array:
    """The magnitude of the terms of `_through_ends`.

    The ends' own weights, which cancel exactly, count only where there is nothing but ends.
    """
    u, v, half = _position(x)
    if half == 0:
        return np.zeros_like(x)
    scale = weight.copy()
    inside = (x > x.min()) & (x < x.max())
    for end, towards in ((x == x.min(), v), (x == x.max(), u)):
        if inside.any():
            scale[end] = np.sum(weight * towards, where=inside) / np.count_nonzero(end)
    return (0.5 - case.exact_epsilon) / half * scale


def scales(batch: Batch) -> dict[str, Array]:
    """The magnitudes of the terms that may cancel; errors are then counted relative to them.

    For soft targets of elementwise losses: a difference a - b is counted against |a| + |b|. For the
    square of d = a - b that is 2 |d| (|a| + |b|) to first order, and u (|a| + |b|)^2, u the
    rounding unit, where d vanishes. For reduced gradients see `error.reduced_error`. Empty for
    other cases, there an error is counted against the value itself; and for an empty mask, whose
    small gradient a formula without such terms keeps.
    """
    case = batch.case
    linear = case.activation == "linear"
    if (not case.reduced and not case.soft and not linear) or case.inputs == "empty":
        return {}
    with np.errstate(all="ignore"):
        x, loss = _loss(batch, None, 0.0)
        in_x, *in_y = loss.magnitudes()
        in_x = _scale_through_ends(case, x, in_x) if linear else in_x
        found = dict(zip(case.parts[1:], (in_x, *in_y), strict=False))
        if case.soft and loss.root is not None:
            unit = float(np.finfo(case.dtype).eps)
            found["value"] = loss.root * (2 * np.sqrt(loss.value) + unit * loss.root)
    return found
