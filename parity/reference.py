"""The reference: values and gradients at 50 digits, from the definitions, with mpmath.

Everything is evaluated at the exact floating-point inputs and rounded to float64 at the end.
Gradients are analytic: every quantity is written as a function of c = cdf(x), whose derivative
`weight` multiplies dc/dx, so one chain rule serves all activations. Where a definition cancels, the
working precision is raised by the digits that cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mpmath as mp
import numpy as np

from parity.cases import Array, Case, Inputs

Real = Any
"""An mpmath number (mpmath has no type annotations)."""

DIGITS = 50
_ZERO, _HALF, _ONE = mp.mpf(0), mp.mpf(1) / 2, mp.mpf(1)
_INFINITE = mp.mpf(10) ** 400
"""Derivatives at an infinite input are limits, taken here: beyond every float64."""


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


def _cross_entropy(a: Squeezed, y: Real) -> tuple[Real, Real, Real]:
    """-(y log c + (1 - y) log s): value, derivative in c, derivative in y."""
    value = -(y * a.logc if y else _ZERO) - ((1 - y) * a.logs if y != 1 else _ZERO)
    return value, _over(1 - y, a.s) - _over(y, a.c), a.logs - a.logc


def _squared_error(a: Squeezed, y: Real) -> tuple[Real, Real, Real]:
    """((1 - y) c - y s)^2: value, derivative in c, derivative in y."""
    d = (1 - y) * a.c - y * a.s
    return d * d, 2 * d, -2 * d


_METHODS: dict[str, Callable[[Squeezed], tuple[Real, Real]]] = {
    "cdf": lambda a: (a.c, _ONE),
    "sf": lambda a: (a.s, -_ONE),
    "logcdf": lambda a: (a.logc, _over(_ONE, a.c)),
    "logsf": lambda a: (a.logs, -_over(_ONE, a.s)),
}
_LOSSES = {
    "binary_cross_entropy": _cross_entropy,
    "squared_error": _squared_error,
    "mean_squared_error": _squared_error,
}

Terms = tuple[list[Real], list[Real], list[Real]]
"""Values, derivatives in c and derivatives in y, element by element."""


def _dice(points: list[Squeezed], ys: list[Real]) -> tuple[Real, list[Real], list[Real]]:
    """sum(y s + (1 - y) c) / sum(c + y), 0 where the denominator is; its derivatives in c and y."""
    pairs = list(zip(points, ys, strict=True))
    denominator = mp.fsum(a.c + y for a, y in pairs)
    if not denominator:
        return _ZERO, [_ZERO] * len(ys), [_ZERO] * len(ys)
    loss = mp.fsum(y * a.s + (1 - y) * a.c for a, y in pairs) / denominator
    in_c = [(1 - 2 * y - loss) / denominator for y in ys]
    return loss, in_c, [(a.s - a.c - loss) / denominator for a in points]


def _terms(case: Case, points: list[Squeezed], ys: list[Real], samples: int) -> Terms:
    """The quantity's terms; a reduced loss has one value, and a mean is folded into its weights."""
    if case.quantity in _METHODS:
        both = [_METHODS[case.quantity](a) for a in points]
        return [value for value, _ in both], [weight for _, weight in both], []
    if case.quantity == "dice":
        count = samples if case.option == "per_sample" else 1
        size = len(points) // count
        parts = [slice(i * size, (i + 1) * size) for i in range(count)]
        dices = [_dice(points[part], ys[part]) for part in parts]
        loss = mp.fsum(value for value, _, _ in dices) / count
        in_c = [w / count for _, weights, _ in dices for w in weights]
        return [loss], in_c, [g / count for _, _, slopes in dices for g in slopes]
    terms = [_LOSSES[case.quantity](a, y) for a, y in zip(points, ys, strict=True)]
    values, in_c, in_y = ([term[i] for term in terms] for i in range(3))
    if case.option != "mean":
        return values, in_c, in_y
    n = len(points)
    return [mp.fsum(values) / n], [w / n for w in in_c], [g / n for g in in_y]


def _rounded(values: list[Real], shape: tuple[int, ...]) -> Array:
    return np.array([float(value) for value in values], np.float64).reshape(shape)


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


def evaluate(case: Case, inputs: Inputs) -> dict[str, Array]:
    """`value`, `grad_x` and, for soft targets, `grad_y` of a case as float64 arrays.

    The gradient of an elementwise quantity is that of its sum. NaN marks a derivative that does not
    exist (the kink of softsign's density). Working precision is 50 digits and more; the results are
    rounded once, and are infinite beyond the range of float64.
    """
    with mp.workdps(DIGITS + 10):
        if case.quantity == "ppf":
            p = inputs["p"]
            return {"value": _rounded([_quantile(case, float(v)) for v in p.ravel()], p.shape)}
        shape = inputs["x"].shape
        xs = [float(x) for x in inputs["x"].ravel()]
        if case.activation == "linear":
            points = _linear(case, xs)
        else:
            at = _hardtanh if case.activation == "hardtanh" else _smooth
            points = [at(case, x) for x in xs]
        if case.quantity == "pdf":
            value, slope = [a.p for a in points], [a.dp for a in points]
            return {"value": _rounded(value, shape), "grad_x": _rounded(slope, shape)}
        ys = [mp.mpf(float(y)) for y in case.targets(inputs).ravel()] if case.is_loss else []
        values, in_c, in_y = _terms(case, points, ys, shape[0])
        if case.activation == "linear":
            grad_x = _through_ends(case, xs, in_c)
        else:
            grad_x = [w * a.p for w, a in zip(in_c, points, strict=True)]
        result = {
            "value": _rounded(values, () if case.reduced else shape),
            "grad_x": _rounded(grad_x, shape),
        }
        if case.soft:
            result["grad_y"] = _rounded(in_y, shape)
        return result
