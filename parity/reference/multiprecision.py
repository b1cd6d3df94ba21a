"""The reference: values and gradients at 50 digits, from the definitions, with mpmath.

Everything is evaluated at the exact floating-point inputs and rounded to float64 at the end.
Gradients are analytic: every quantity is written as a function of c = cdf(x), whose derivative
`weight` multiplies dc/dx, so one chain rule is enough for all activations. Where a definition
cancels, the working precision is raised by the digits that cancel. Elements that are ignored or
have weight 0 are removed first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import mpmath as mp
import numpy as np

from parity.common.arrays import Array
from parity.suite.case import NO_ACTIVATION, Batch, Case
from parity.suite.inputs import PUBLISHED_EPSILON

Real = Any
"""An mpmath number (mpmath has no type annotations)."""

DIGITS = 50
_ZERO, _HALF, _ONE = mp.mpf(0), mp.mpf(1) / 2, mp.mpf(1)
_INFINITE = mp.mpf(10) ** 400
"""Derivatives at an infinite input are limits, evaluated here: beyond every float64."""


@dataclass(frozen=True)
class Point:
    """A distribution at one x: F, 1 - F, the density f and f' (NaN where f has a kink)."""

    F: Real
    S: Real
    f: Real
    df: Real


def _sigmoid(x: Real) -> Point:
    F, S = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    return Point(F, S, F * S, F * S * -mp.tanh(x / 2))


def _upper_normal_tail(x: Real) -> Real:
    """1 - Phi(x); for x > 1e30 erfc is its leading term to more than 50 digits."""
    if x > 1e30:
        return mp.exp(-x * x / 2) / (x * mp.sqrt(2 * mp.pi))
    return mp.erfc(x / mp.sqrt(2)) / 2


def _normal_cdf(x: Real) -> Point:
    f = mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)
    return Point(_upper_normal_tail(-x), _upper_normal_tail(x), f, -x * f)


def _arctan(x: Real) -> Point:
    f = 1 / (mp.pi * (1 + x * x))
    return Point(
        _HALF + mp.atan(x) / mp.pi, _HALF - mp.atan(x) / mp.pi, f, -2 * x * f / (1 + x * x)
    )


def _softsign(x: Real) -> Point:
    u = x / (1 + abs(x))
    f = 1 / (2 * (1 + abs(x)) ** 2)
    df = -mp.sign(x) / (1 + abs(x)) ** 3 if x else mp.nan
    return Point((1 + u) / 2, (1 - u) / 2, f, df)


def _inverse_square_root(x: Real) -> Point:
    h = mp.sqrt(1 + x * x)
    return Point((1 + x / h) / 2, (1 - x / h) / 2, 1 / (2 * h**3), -3 * x / (2 * h**5))


_DISTRIBUTIONS: dict[str, Callable[[Real], Point]] = {
    "sigmoid": _sigmoid,
    "normal_cdf": _normal_cdf,
    "arctan": _arctan,
    "softsign": _softsign,
    "inverse_square_root": _inverse_square_root,
}


@lru_cache(maxsize=200_000)
def _point(activation: str, x: float) -> Point:
    """The distribution at x, with working digits for the cancellation of its far tail."""
    exact = mp.sign(x) * _INFINITE if mp.isinf(x) else mp.mpf(x)
    lost = 2 * max(0, int(mp.log10(abs(exact)))) if exact else 0
    with mp.workdps(DIGITS + 10 + lost):
        point = _DISTRIBUTIONS[activation](exact)
    return Point(*(+value for value in (point.F, point.S, point.f, point.df)))


@dataclass(frozen=True)
class Squeezed:
    """An activation at one x: c, s = 1 - c, log c, log s, the density dc/dx and its derivative."""

    c: Real
    s: Real
    logc: Real
    logs: Real
    p: Real
    dp: Real


def _log(value: Real, complement: Real) -> Real:
    """log(value) where value + complement = 1, to full digits on both sides of 1/2."""
    return mp.log1p(-complement) if complement < _HALF else mp.log(value)


def _squeezed(c: Real, s: Real, p: Real, dp: Real) -> Squeezed:
    return Squeezed(c, s, _log(c, s), _log(s, c), p, dp)


def _smooth(case: Case, x: float) -> Squeezed:
    """eps + (1 - 2 eps) F at x."""
    eps = mp.mpf(case.exact_epsilon)
    scale = 1 - 2 * eps
    point = _point(case.activation, x)
    both = _squeezed(
        eps + scale * point.F, eps + scale * point.S, scale * point.f, scale * point.df
    )
    if not mp.isinf(x) or eps:
        return both
    logc, logs = (_ZERO, -mp.inf) if x > 0 else (-mp.inf, _ZERO)
    return Squeezed(both.c, both.s, logc, logs, both.p, both.dp)


def _hardtanh(case: Case, x: float) -> Squeezed:
    """clip(x, eps, 1 - eps); the derivative is 0 at and beyond both limits."""
    eps = mp.mpf(case.exact_epsilon)
    c = min(max(mp.mpf(x), eps), 1 - eps)
    return _squeezed(c, 1 - c, _ONE if eps < x < 1 - eps else _ZERO, _ZERO)


def _linear(case: Case, xs: list[float]) -> list[Squeezed]:
    """eps + (1 - 2 eps)(x - min)/(max - min); p is 1 here, `_through_ends` has the derivative."""
    eps = mp.mpf(case.exact_epsilon)
    low, high = mp.mpf(min(xs)), mp.mpf(max(xs))
    units = [(x - low) / (high - low) if high > low else _HALF for x in map(mp.mpf, xs)]
    scale = 1 - 2 * eps
    return [_squeezed(eps + scale * u, eps + scale * (1 - u), _ONE, _ZERO) for u in units]


def _convention(case: Case, x: float) -> Squeezed:
    """How a convention computes log p and log(1 - p); its slopes divide by c and s.

    Clip limits, 1 - p and added epsilons are rounded to the dtype first.
    """
    number = np.dtype(case.dtype).type
    p, one = number(x), number(1)
    low, high = number(PUBLISHED_EPSILON), number(1 - PUBLISHED_EPSILON)
    k = min(max(p, low), high)
    kept = _ONE if low < p < high else _ZERO
    if case.convention == "keras":
        c, s = _exact(k, one - k)
        return Squeezed(c, s, mp.log(c), mp.log(s), kept, _ZERO)
    if case.convention == "keras2":
        c, s = _exact(k + low, (one - k) + low)
        return Squeezed(c, s, mp.log(c), mp.log(s), kept, _ZERO)
    if case.convention == "keras_logit":
        c, s = _exact(k, one - k)
        return Squeezed(c, s, -mp.log1p(s / c), -mp.log1p(c / s), kept, _ZERO)
    tiny, least = number(1e-12), mp.mpf(-100)
    on, off = _exact(p, one - p)
    if case.convention == "torch":
        (product,) = _exact(max((one - p) * p, tiny))
        logc = max(mp.log(on), least) if on else least
        logs = max(mp.log1p(-on), least) if on < 1 else least
    else:
        a, b = _exact(p + tiny, (one - p) + tiny)
        product, logc, logs = a * b, mp.log(a), mp.log(b)
    c, s = (product / part if part else mp.inf for part in (off, on))
    return Squeezed(c, s, logc, logs, _ONE, _ZERO)


def _exact(*numbers: Any) -> tuple[Real, ...]:
    return tuple(mp.mpf(float(number)) for number in numbers)


def _through_ends(case: Case, xs: list[float], weights: list[Real]) -> list[Real]:
    """sum_i weight_i dc_i/dx_j for `linear`, ties at the minimum and maximum sharing equally.

    With u = (x - min)/(max - min): du_i/dmin = -(1 - u_i)/(max - min)
    and du_i/dmax = -u_i/(max - min).
    """
    low, high = min(xs), max(xs)
    if low == high:
        return [_ZERO] * len(xs)
    width = mp.mpf(high) - mp.mpf(low)
    units = [(mp.mpf(x) - mp.mpf(low)) / width for x in xs]
    to_low = mp.fsum(w * (1 - u) for w, u in zip(weights, units, strict=True)) / xs.count(low)
    to_high = mp.fsum(w * u for w, u in zip(weights, units, strict=True)) / xs.count(high)
    scale = (1 - 2 * mp.mpf(case.exact_epsilon)) / width
    return [
        scale * (w - to_low * (x == low) - to_high * (x == high))
        for w, x in zip(weights, xs, strict=True)
    ]


def _over(numerator: Real, denominator: Real) -> Real:
    """The quotient, and 0 for a zero denominator: there the density is 0 as well."""
    return numerator / denominator if denominator else _ZERO


Term = tuple[Real, Real, Real]
"""The loss of an element: value, derivative in c, derivative in y."""


def _cross_entropy(a: Squeezed, y: Real, pos_weight: float = 1) -> Term:
    """-(P y log c + (1 - y) log s)."""
    P = mp.mpf(pos_weight)
    value = -(P * y * a.logc if y else _ZERO) - ((1 - y) * a.logs if y != 1 else _ZERO)
    return value, _over(1 - y, a.s) - _over(P * y, a.c), a.logs - P * a.logc


def _focal(a: Squeezed, y: Real, gamma: float, alpha: float | None = None) -> Term:
    """A e^gamma times the cross entropy, with e = y s + (1 - y) c, A = alpha y + ..."""
    entropy, in_c, in_y = _cross_entropy(a, y)
    e, g = y * a.s + (1 - y) * a.c, mp.mpf(gamma)
    A, slope = _ONE, _ZERO
    if alpha is not None:
        A, slope = alpha * y + (1 - mp.mpf(alpha)) * (1 - y), 2 * mp.mpf(alpha) - 1
    power, steep = e**g, g * e ** (g - 1) * entropy if e else _ZERO
    return (
        A * power * entropy,
        A * (steep * (1 - 2 * y) + power * in_c),
        A * (steep * (a.s - a.c) + power * in_y) + slope * power * entropy,
    )


def _squared_error(a: Squeezed, y: Real) -> Term:
    """((1 - y) c - y s)^2."""
    d = (1 - y) * a.c - y * a.s
    return d * d, 2 * d, -2 * d


_METHODS: dict[str, Callable[[Squeezed], tuple[Real, Real]]] = {
    "cdf": lambda a: (a.c, _ONE),
    "sf": lambda a: (a.s, -_ONE),
    "logcdf": lambda a: (a.logc, _over(_ONE, a.c)),
    "logsf": lambda a: (a.logs, -_over(_ONE, a.s)),
}
_ELEMENTWISE: dict[str, Callable[..., Term]] = {
    "binary_cross_entropy": _cross_entropy,
    "binary_focal_cross_entropy": _focal,
    "squared_error": _squared_error,
    "mean_squared_error": _squared_error,
}

Terms = tuple[list[Real], list[Real], list[Real]]
"""Values, derivatives in c and derivatives in y, element by element."""
Loss = tuple[Real, list[Real], list[Real]]
"""A loss of several elements: its value, its derivatives in every c, its derivatives in every y."""


@dataclass(frozen=True)
class Group:
    """The elements over which one loss sums, and the count of a mean, which includes weight 0."""

    points: list[Squeezed]
    ys: list[Real]
    ws: list[Real]
    count: int

    def sum(self, term: Callable[[Squeezed, Real], Real]) -> Real:
        """The weighted sum of a term over all elements."""
        return mp.fsum(
            w * term(a, y) for a, y, w in zip(self.points, self.ys, self.ws, strict=True)
        )


def _times(factor: Real, loss: Loss) -> Loss:
    value, in_c, in_y = loss
    return factor * value, [factor * g for g in in_c], [factor * g for g in in_y]


def _mean(
    term: Callable[..., Term], group: Group, label_smoothing: float = 0, **options: Any
) -> Loss:
    """The mean of an elementwise loss, of targets y (1 - L) + L / 2, L the smoothing."""
    kept = 1 - mp.mpf(label_smoothing)
    terms = [
        [w * part for part in term(a, y * kept + (1 - kept) / 2, **options)]
        for a, y, w in zip(group.points, group.ys, group.ws, strict=True)
    ]
    value = mp.fsum(t[0] for t in terms)
    loss = value, [t[1] for t in terms], [t[2] * kept for t in terms]
    return _times(_over(_ONE, group.count), loss)


def _tversky(group: Group, alpha: float = 0.5, beta: float = 0.5, smooth: float = 0) -> Loss:
    """(alpha FP + beta FN) / (TP + alpha FP + beta FN + smooth), 0 where the denominator is."""
    a, b = mp.mpf(alpha), mp.mpf(beta)
    wrong = group.sum(lambda p, y: a * (1 - y) * p.c + b * y * p.s)
    all_in_all = wrong + group.sum(lambda p, y: y * p.c) + mp.mpf(smooth)
    loss = _over(wrong, all_in_all)
    in_c = [
        _over(w * ((1 - loss) * (a * (1 - y) - b * y) - loss * y), all_in_all)
        for y, w in zip(group.ys, group.ws, strict=True)
    ]
    in_y = [
        _over(w * ((1 - loss) * (b * p.s - a * p.c) - loss * p.c), all_in_all)
        for p, w in zip(group.points, group.ws, strict=True)
    ]
    return loss, in_c, in_y


def _dice(group: Group, smooth: float = 0) -> Loss:
    """(FP + FN) / (2 TP + FP + FN + smooth)."""
    return _tversky(group, 0.5, 0.5, smooth / 2)


def _jaccard(group: Group, smooth: float = 0) -> Loss:
    """(FP + FN) / (TP + FP + FN + smooth)."""
    return _tversky(group, 1, 1, smooth)


def _focal_tversky(group: Group, gamma: float, **options: float) -> Loss:
    """The Tversky loss to the power 1 / gamma."""
    loss, in_c, in_y = _tversky(group, **options)
    power = 1 / mp.mpf(gamma)
    steep = power * loss ** (power - 1) if loss else _ZERO
    _, in_c, in_y = _times(steep, (loss, in_c, in_y))
    return loss**power, in_c, in_y


def _dice_cross_entropy(
    group: Group,
    lambda_dice: float = 1,
    lambda_ce: float = 1,
    smooth: float = 0,
    **options: float,
) -> Loss:
    """The weighted sum of the Dice loss and of the mean cross entropy."""
    overlap = _times(mp.mpf(lambda_dice), _dice(group, smooth))
    entropy = _times(mp.mpf(lambda_ce), _mean(_cross_entropy, group, **options))
    value = overlap[0] + entropy[0]
    both = ([a + b for a, b in zip(overlap[i], entropy[i], strict=True)] for i in (1, 2))
    return value, *both


def _lovasz_weights(errors: list[Real], group: Group) -> list[Real]:
    """The increases of the Jaccard loss as elements, largest error first, become wrong."""
    weights = [_ZERO] * len(errors)
    found = union = mp.fdot(group.ws, group.ys)
    for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
        w = group.ws[i]
        if group.ys[i]:
            weights[i] = w / union
            found -= w
        else:
            weights[i] = found * w / (union * (union + w)) if union else _ONE
            union += w
    return weights


def _lovasz(group: Group) -> Loss:
    """The sum of the errors y s + (1 - y) c, each times its Lovasz weight; hard targets."""
    errors = [y * a.s + (1 - y) * a.c for a, y in zip(group.points, group.ys, strict=True)]
    weights = _lovasz_weights(errors, group)
    in_c = [g * (1 - 2 * y) for g, y in zip(weights, group.ys, strict=True)]
    return mp.fdot(errors, weights), in_c, []


def _lovasz_hinge(group: Group) -> Loss:
    """The same with the errors 1 - x (2 y - 1), where they are positive; c is x here."""
    errors = [1 - a.c * (2 * y - 1) for a, y in zip(group.points, group.ys, strict=True)]
    weights = [
        g if e > 0 else _ZERO for g, e in zip(_lovasz_weights(errors, group), errors, strict=True)
    ]
    in_c = [g * (1 - 2 * y) for g, y in zip(weights, group.ys, strict=True)]
    return mp.fdot(errors, weights), in_c, []


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


def _rounded(values: list[Real], shape: tuple[int, ...], used: Array | bool = True) -> Array:
    """The values as float64, one after the other where `used` says so, and zero elsewhere."""
    found = np.zeros(shape)
    found[np.broadcast_to(used, shape)] = [float(value) for value in values]
    return found


def _quantile(case: Case, p: float) -> Real:
    """The x with cdf(x) = p."""
    if case.activation == "hardtanh":
        return mp.mpf(p)
    eps = mp.mpf(case.exact_epsilon)
    q = (mp.mpf(p) - eps) / (1 - 2 * eps)
    u = 2 * q - 1
    quantiles: dict[str, Callable[[], Real]] = {
        "sigmoid": lambda: mp.log(q / (1 - q)),
        "normal_cdf": lambda: mp.sqrt(2) * mp.erfinv(u),
        "arctan": lambda: mp.tan(mp.pi * (q - _HALF)),
        "softsign": lambda: u / (1 - abs(u)),
        "inverse_square_root": lambda: u / mp.sqrt(1 - u * u),
    }
    return quantiles[case.activation]()


def _points(case: Case, xs: list[float]) -> list[Squeezed]:
    if case.activation == "linear":
        return _linear(case, xs)
    if case.activation == NO_ACTIVATION:
        return [Squeezed(mp.mpf(x), 1 - mp.mpf(x), _ZERO, _ZERO, _ONE, _ZERO) for x in xs]
    at = _convention if case.convention else _hardtanh if case.activation == "hardtanh" else _smooth
    return [at(case, x) for x in xs]


def _reduced(batch: Batch, whole: Group) -> Loss:
    """The mean of the losses of all groups, with its derivatives at the elements of `whole`."""
    valid, used = batch.valid, batch.used
    sizes = [1 if axis in batch.axes else size for axis, size in enumerate(valid.shape)]
    groups = int(np.prod(sizes))
    labels = np.broadcast_to(np.arange(groups).reshape(sizes), valid.shape)
    values, in_c, in_y = [], [_ZERO] * len(whole.ys), [_ZERO] * len(whole.ys)
    for label in range(groups):
        chosen = np.flatnonzero(labels[used] == label)
        points, ys, ws = ([part[i] for i in chosen] for part in (whole.points, whole.ys, whole.ws))
        group = Group(points, ys, ws, int(np.count_nonzero(labels[valid] == label)))
        loss = _REDUCED[batch.case.quantity](group, **batch.parameters)
        value, *slopes = _times(mp.mpf(1) / groups, loss)
        values.append(value)
        for total, slope in zip((in_c, in_y), slopes, strict=True):
            for i, g in zip(chosen, slope, strict=False):  # no slopes in y where targets are hard
                total[i] = g
    return mp.fsum(values), in_c, in_y


def _slopes(case: Case, xs: list[float], points: list[Squeezed], in_c: list[Real]) -> list[Real]:
    """Derivatives in x from those in c."""
    if case.activation == "linear":
        return _through_ends(case, xs, in_c)
    return [w * a.p for w, a in zip(in_c, points, strict=True)]


def _terms(batch: Batch, whole: Group) -> Terms:
    """The quantity at the elements that are used; a reduced loss has one value."""
    case = batch.case
    if case.quantity in _METHODS:
        both = [_METHODS[case.quantity](a) for a in whole.points]
        return [value for value, _ in both], [weight for _, weight in both], []
    if case.reduced:
        loss, in_c, in_y = _reduced(batch, whole)
        return [loss], in_c, in_y
    term = partial(_ELEMENTWISE[case.quantity], **batch.parameters)
    terms = [term(a, y) for a, y in zip(whole.points, whole.ys, strict=True)]
    values, in_c, in_y = ([t[i] for t in terms] for i in range(3))
    return values, in_c, in_y


def evaluate(batch: Batch) -> dict[str, Array]:
    """`value`, `grad_x` and, for soft targets, `grad_y` of a case as float64 arrays.

    The gradient of an elementwise quantity is that of its sum. NaN marks a derivative that does not
    exist (the kink of softsign's density). Working precision is 50 digits and more; the results are
    rounded once, and are infinite beyond the range of float64.
    """
    case, used, shape = batch.case, batch.used, batch.x.shape
    with mp.workdps(DIGITS + 10):
        if case.quantity == "ppf":
            p = batch.x
            return {"value": _rounded([_quantile(case, float(v)) for v in p.ravel()], p.shape)}
        xs = [float(x) for x in batch.x[used]]
        points = _points(case, xs)
        if case.quantity == "pdf":
            value, slope = [a.p for a in points], [a.dp for a in points]
            return {"value": _rounded(value, shape), "grad_x": _rounded(slope, shape)}
        ys, ws = ([mp.mpf(float(v)) for v in array[used]] for array in (batch.y, batch.w))
        values, in_c, in_y = _terms(batch, Group(points, ys, ws, len(ys)))
        result = {
            "value": _rounded(values, () if case.reduced else shape),
            "grad_x": _rounded(_slopes(case, xs, points, in_c), shape, used),
            "grad_y": _rounded(in_y, shape, used) if case.soft else np.zeros(shape),
        }
        return {part: result[part] for part in case.parts}
