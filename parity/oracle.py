"""The oracle: float64 numpy and scipy, fast enough for millions of inputs.

It answers the same question as `parity.reference`, to about 1e-13 relative at float32 inputs, and a
test holds it to the reference. It also gives the scales against which errors are counted where
soft targets make two terms cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from parity.cases import Array, Case, Inputs

_SQRT_HALF = np.sqrt(0.5)


@dataclass(frozen=True)
class Curve:
    """An activation at an array of x.

    c = cdf, s = sf, their logs, the density p = dc/dx, its derivative dp, and the derivatives of
    the logs: hc = p / c, hs = p / s, which stay finite where c or s underflows.
    """

    c: Array
    s: Array
    logc: Array
    logs: Array
    p: Array
    dp: Array
    hc: Array
    hs: Array


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
    """With the scaled erfcx, and a^2 split in two so that exp(-a^2/2) keeps its digits."""
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


def _smooth(case: Case, x: Array) -> Curve:
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
    return Curve(
        c=np.where(left, small, large),
        s=np.where(left, large, small),
        logc=np.where(left, log_small, log_large),
        logs=np.where(left, log_large, log_small),
        p=p,
        dp=dp,
        hc=np.where(left, h_small, h_large),
        hs=np.where(left, h_large, h_small),
    )


def _from_both_sides(c: Array, s: Array, p: Array) -> Curve:
    """A piecewise linear activation: c and s = 1 - c given exactly, and a constant density."""
    logc = np.where(c <= 0.5, np.log(c), np.log1p(-s))
    logs = np.where(s <= 0.5, np.log(s), np.log1p(-c))
    hc = np.divide(p, c, out=np.zeros_like(c), where=c > 0)
    hs = np.divide(p, s, out=np.zeros_like(s), where=s > 0)
    return Curve(c, s, logc, logs, p, np.zeros_like(c), hc, hs)


def _hardtanh(case: Case, x: Array) -> Curve:
    eps = case.exact_epsilon
    c, s = np.clip(x, eps, 1 - eps), np.clip(1 - x, eps, 1 - eps)
    return _from_both_sides(c, s, ((x > eps) & (x < 1 - eps)).astype(np.float64))


def _position(x: Array) -> tuple[Array, Array, float]:
    """(x - min) / (max - min), its complement, and half the range (halved: nothing overflows)."""
    low, high = x.min() / 2, x.max() / 2
    half = float(high - low)
    if half == 0:
        return np.full_like(x, 0.5), np.full_like(x, 0.5), half
    return (x / 2 - low) / half, (high - x / 2) / half, half


def _linear(case: Case, x: Array) -> Curve:
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


def curve(case: Case, x: Array) -> Curve:
    """The case's activation at float64 x."""
    if case.activation == "linear":
        return _linear(case, x)
    if case.activation == "hardtanh":
        return _hardtanh(case, x)
    return _smooth(case, x)


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
    algebraic: Array = (
        u / (2 * small) if case.activation == "softsign" else u / (2 * np.sqrt(left * right))
    )
    return algebraic


Terms = tuple[Array, Array, Array]
"""A loss's values, derivatives in x and derivatives in y, element by element."""


def _weighted(weight: Array, term: Array) -> Array:
    """weight * term, exactly zero where the weight is, however infinite the term."""
    product: Array = np.multiply(weight, term, out=np.zeros_like(term), where=weight != 0)
    return product


def _cross_entropy(a: Curve, y: Array) -> Terms:
    value = -(_weighted(y, a.logc) + _weighted(1 - y, a.logs))
    return value, _weighted(1 - y, a.hs) - _weighted(y, a.hc), a.logs - a.logc


def _squared_error(a: Curve, y: Array) -> Terms:
    d = (1 - y) * a.c - y * a.s
    return d * d, 2 * d * a.p, -2 * d


def _dice(a: Curve, y: Array, axes: tuple[int, ...], smallest: float) -> Terms:
    """The loss over `axes`, averaged over the rest, with its derivatives; see `evaluate`."""
    bottom = np.sum(np.where(a.c < smallest, 0, a.c) + y, axes, keepdims=True)
    top = np.sum(y * a.s + (1 - y) * a.c, axes, keepdims=True)
    inverse = np.divide(1, bottom, out=np.zeros_like(bottom), where=bottom > 0)
    loss = top * inverse
    share = inverse / loss.size
    return np.asarray(np.mean(loss)), a.p * (1 - 2 * y - loss) * share, (a.s - a.c - loss) * share


def _axes(case: Case, y: Array) -> tuple[int, ...]:
    """What one Dice loss covers."""
    return tuple(range(1 if case.option == "per_sample" else 0, y.ndim))


def _loss(case: Case, a: Curve, y: Array, smallest: float) -> Terms:
    if case.quantity == "dice":
        return _dice(a, y, _axes(case, y), smallest)
    terms = _cross_entropy if case.quantity == "binary_cross_entropy" else _squared_error
    value, in_x, in_y = terms(a, y)
    if not case.reduced:
        return value, in_x, in_y
    return np.asarray(np.mean(value)), in_x / y.size, in_y / y.size


def evaluate(
    case: Case, inputs: Inputs, at: Curve | None = None, smallest: float | None = None
) -> dict[str, Array]:
    """`value`, `grad_x` and, for soft targets, `grad_y` of a case in float64.

    `at` is `curve(case, x)` where the caller has it already. An output below `smallest` (if not
    given, what the dtype of the case rounds to 0) is 0 in the denominator of Dice: it decides
    whether a sample without any target is right, a loss of 0, or all wrong, a loss of 1.
    """
    if smallest is None:
        smallest = float(np.finfo(case.dtype).smallest_subnormal) / 2
    with np.errstate(all="ignore"):
        if case.quantity == "ppf":
            return {"value": quantile(case, inputs["p"].astype(np.float64))}
        x = inputs["x"].astype(np.float64)
        a = curve(case, x) if at is None else at
        methods = {
            "cdf": (a.c, a.p),
            "sf": (a.s, -a.p),
            "logcdf": (a.logc, a.hc),
            "logsf": (a.logs, -a.hs),
            "pdf": (a.p, a.dp),
        }
        if not case.is_loss:
            value, in_x = methods[case.quantity]
            in_y = value
        else:
            value, in_x, in_y = _loss(case, a, case.targets(inputs).astype(np.float64), smallest)
        if case.activation == "linear":
            in_x = _through_ends(case, x, in_x)
        result = {"value": value, "grad_x": in_x, "grad_y": in_y}
        return {part: result[part] for part in case.parts}


def _loss_scales(case: Case, a: Curve, y: Array) -> dict[str, Array]:
    """The sum of the terms' magnitudes for every element of a loss; see `scales`."""
    if case.quantity == "dice":
        axes = _axes(case, y)
        bottom = np.sum(a.c + y, axes, keepdims=True)
        share = np.divide(1, bottom, out=np.zeros_like(bottom), where=bottom > 0)
        loss = np.sum(y * a.s + (1 - y) * a.c, axes, keepdims=True) * share
        share = share / loss.size
        in_x = a.p * (np.abs(1 - 2 * y) + loss) * share
        return {"grad_x": in_x, "grad_y": (np.abs(a.s - a.c) + loss) * share}
    if case.quantity == "binary_cross_entropy":
        in_x = _weighted(y, a.hc) + _weighted(1 - y, a.hs)
        return {"grad_x": in_x, "grad_y": -a.logs - a.logc}
    both = (1 - y) * a.c + y * a.s
    d = (1 - y) * a.c - y * a.s
    value = both * (2 * np.abs(d) + float(np.finfo(case.dtype).eps) * both)
    return {"value": value, "grad_x": 2 * a.p * both, "grad_y": 2 * both}


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


def scales(case: Case, inputs: Inputs) -> dict[str, Array]:
    """The magnitudes of the terms that may cancel, against which errors are then counted.

    For soft targets of elementwise losses: a difference a - b is counted against |a| + |b|. For the
    square of d = a - b that is 2 |d| (|a| + |b|) to first order, and u (|a| + |b|)^2, u the
    rounding unit, where d vanishes. For reduced gradients see `compare.reduced_error`. Empty for
    other cases: there an error is counted against the value itself.
    """
    linear = case.activation == "linear"
    if not case.reduced and not case.soft and not linear:
        return {}
    with np.errstate(all="ignore"):
        x = inputs["x"].astype(np.float64)
        a = curve(case, x)
        if not case.is_loss:
            weights = {"cdf": a.p, "sf": a.p, "logcdf": a.hc, "logsf": a.hs}
            found = {"grad_x": weights[case.quantity]}
        else:
            found = _loss_scales(case, a, case.targets(inputs).astype(np.float64))
        if linear:
            found["grad_x"] = _scale_through_ends(case, x, found["grad_x"])
    if case.reduced:
        size = 1 if case.quantity == "dice" else x.size
        found = {part: array / size for part, array in found.items() if part != "value"}
    elif not case.soft:
        found = {"grad_x": found["grad_x"]}
    return {part: array for part, array in found.items() if part in case.parts}
