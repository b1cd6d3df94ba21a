"""Special functions, accurate in both precisions and on every backend.

A generic `erfc` is not enough: the rounding of x / sqrt 2 alone costs x^2 ulp in the tail, the log
of `erfc` is lost where `erfc` underflows, and XLA's has errors of 44 ulp before that. The functions
of the normal distribution are computed from one function of t >= 0,

    T(t) = exp(t^2 / 2) Q(t),    Q the upper tail,

a polynomial in t / (t + 4) over t + 5/4 (`scripts/fit_special.py` fits and prints the constants,
highest power first):

    Q(t) = exp(-t^2 / 2) T(t),    log Q(t) = -t^2 / 2 + log T(t),
    hazard = pdf / Q = 1 / (sqrt(2 pi) T).

`log1p`, `atan` and `tan` are here, too: the backends' own have errors of up to 5 ulp in float32 and
129 in float64 (XLA's log1p), and keras.ops computes two of the three in float32 on JAX, also for
float64. For a similar reason nothing here calls `keras.ops.maximum`: on torch it returns float32.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from segact_tf import _engine

SCALED_TAIL = {
    "float32": (
        0.0283247357754663,
        -0.05460541208378212,
        -0.04965036304160064,
        0.1588576077921915,
        -0.0166806916052337,
        -0.31116256707109075,
        0.5060506196009433,
        -0.3917557367528137,
        0.0853874137819784,
        0.18037884252112035,
        -0.2786058130573424,
        -0.004344136795443492,
    ),
    "float64": (
        0.0031936071685703077,
        -0.005262257057783462,
        -0.01132225929672826,
        0.01038981709819347,
        0.021312096180688193,
        -0.007818406322021824,
        -0.029391964550401453,
        -0.0019009623827937188,
        0.034816465596194744,
        0.015016654729929978,
        -0.040124402062649264,
        -0.029825057490634518,
        0.05141089312213305,
        0.045892293807625446,
        -0.08262780117453655,
        -0.05417936143562559,
        0.16591386970061883,
        -0.016117711814550028,
        -0.3120312367135439,
        0.5060183554660269,
        -0.3917061824231655,
        0.08538809775315435,
        0.18037779423696124,
        -0.27860581542727986,
        -0.004344133164663083,
    ),
}
QUANTILE_CENTRE = {
    "float32": (
        7233.18883066299,
        -539.1159911946802,
        238.5499346171508,
        43.02942554589542,
        15.763304450892425,
        5.771429527336967,
        2.6249397841876485,
        2.5066282712522097,
    ),
    "float64": (
        5215906583.44984,
        -2611016049.6977983,
        702332849.5225688,
        -107428493.14227174,
        13200467.967352342,
        -694725.3740273763,
        129779.18702066832,
        18375.7550608545,
        5948.685812077626,
        1688.145924223234,
        496.3019346916677,
        149.82947345651792,
        47.035789906836264,
        15.667608952276243,
        5.77253353863795,
        2.624934990953712,
        2.5066282746310007,
    ),
}
QUANTILE_TAIL = (
    -2330680.5412670868,
    3749655.69924669,
    -2659630.0942479833,
    1096216.7797103527,
    -291528.2689721551,
    52643.460641096346,
    -6641.830381592846,
    605.8950278955184,
    -41.19497860464469,
    5.201738456943376,
    0.008416959094476777,
)
LOG1P = {
    "float32": (
        0.11612164612011674,
        0.10853287900440187,
        0.14296178997151418,
        0.1999985316596486,
        0.3333333366026371,
    ),
    "float64": (
        0.08082022805971766,
        0.04400369243072337,
        0.06000536404795356,
        0.06657072104827468,
        0.07692785032479312,
        0.09090894718066429,
        0.11111111358713932,
        0.1428571428355438,
        0.20000000000007292,
        0.3333333333333333,
    ),
}
ATAN = {
    "float32": (
        0.0014886919393047597,
        -0.009144629760592396,
        0.026305001110062377,
        -0.04896051402709067,
        0.07031914250029966,
        -0.08931826777381315,
        0.11088261628735159,
        -0.1428400379473353,
        0.19999949321141888,
        -0.3333333308107325,
    ),
    "float64": (
        7.767624330289919e-06,
        -9.371186345052626e-05,
        0.0005376839297396244,
        -0.0019612554271685326,
        0.005140912856746939,
        -0.010412153260359241,
        0.01718398172211335,
        -0.024191345810140718,
        0.030330719265790507,
        -0.035271331066871296,
        0.03938687540798632,
        -0.043306538430670664,
        0.04758080083637821,
        -0.052624922290256754,
        0.05882264416776449,
        -0.06666657934573768,
        0.07692307078827029,
        -0.0909090906193528,
        0.11111111110268297,
        -0.14285714285701234,
        0.1999999999999992,
        -0.3333333333333333,
    ),
}
TAN = {
    "float32": (
        0.003843139779255223,
        0.0011853216520677635,
        0.00996214699884352,
        0.021621127411513202,
        0.053994464722099254,
        0.13333230944682223,
        0.33333333979455765,
    ),
    "float64": (
        3.949593305285971e-06,
        -9.74523086709087e-06,
        1.953688210814275e-05,
        -1.0197280163552528e-05,
        2.7108596383546008e-05,
        3.392890384212224e-05,
        9.876874636871174e-05,
        0.00023866159900899438,
        0.0005901127322555614,
        0.0014558233340176158,
        0.003592129022471812,
        0.008863235472360148,
        0.021869488538180618,
        0.05396825396821662,
        0.1333333333333336,
        0.3333333333333333,
    ),
}

INV_SQRT_TWO_PI = 1 / math.sqrt(2 * math.pi)
# The part of 1 / sqrt(2 pi) that float32 cannot hold in one number.
INV_SQRT_TWO_PI_HIGH = 0.39892578125
INV_SQRT_TWO_PI_LOW = INV_SQRT_TWO_PI - INV_SQRT_TWO_PI_HIGH

# exp(-t^2 / 2) is 0 from here on, also in float64.
ZERO_FROM = 40.0


def _name(x: Any) -> str:
    return keras.backend.standardize_dtype(x.dtype)


def tiny(x: Any) -> float:
    """The smallest normal number of the dtype of x."""
    return float(np.finfo(_name(x)).tiny)


def largest(x: Any) -> float:
    """The largest number of the dtype of x."""
    return float(np.finfo(_name(x)).max)


def double(x: Any) -> Any:
    """x in float64 where the backend has it: JAX with `jax_enable_x64` alone."""
    return ops.cast(x, "float64") if _engine.has_float64(x) else x


def where(condition: Any, number: float, x: Any) -> Any:
    """number where the condition holds, else x; keras.ops on torch would round it to float32."""
    if _name(x) == "float32":
        return ops.where(condition, number, x)
    return ops.where(condition, ops.full_like(x, number), x)


def at_most(x: Any, limit: float) -> Any:
    """min(x, limit), with a slope of 1 at the limit; NaN stays."""
    return clip(x, None, limit)


def at_least(x: Any, limit: float) -> Any:
    """max(x, limit), with a slope of 1 at the limit; NaN stays."""
    return clip(x, limit, None)


def clip(x: Any, low: float | None, high: float | None) -> Any:
    """x clipped to the limits that are given, with a slope of 1 at them; NaN stays."""
    if keras.backend.backend() == "torch":
        return x.clamp(low, high)  # in one operation
    x = x if low is None else where(x < low, low, x)
    return x if high is None else where(x > high, high, x)


def relu(x: Any) -> Any:
    """max(x, 0), with a slope of 0 at 0 on every backend; NaN stays."""
    return ops.where(x <= 0, 0.0, x)


def one_less(x: Any, where: Any) -> Any:
    """x - 1 where that is True, else x."""
    return x - ops.cast(where, x.dtype)


def running_count(x: Any) -> Any:
    """The number of True up to each element over the last axis, exact beyond 2^24."""
    return ops.cumsum(ops.cast(x, "int32"), axis=-1)


def cumsum(x: Any, axis: int) -> Any:
    """The sum up to each element; keras.ops on torch would round float64 to float32."""
    return x.cumsum(axis) if keras.backend.backend() == "torch" else ops.cumsum(x, axis=axis)


def places(x: Any) -> Any:
    """1, 2, 3, ... for the elements over the last axis, in the precision of x."""
    return ops.cast(ops.arange(1, ops.shape(x)[-1] + 1, dtype="int32"), x.dtype)


def descending(x: Any) -> Any:
    """The stable order of x >= 0 over its last axis, the largest first.

    The bits of such numbers, as integers, have the same order, and torch has a radix sort for
    integers on a CPU. XLA on a CPU sorts one array in a fifth of the time of numbers with their
    indices: so the upper half of an integer holds the bits, and the lower half the index.
    """
    if not _engine.sorts_bits(x):
        return ops.argsort(-x, axis=-1)  # stable on every backend
    bits = _engine.bits(ops.abs(x))  # no -0
    if _engine.sorts_indices():
        return ops.argsort(-bits, axis=-1)
    with _engine.wide_integers():
        place = ops.arange(ops.shape(x)[-1], dtype="int64")
        pairs = ops.sort(place - ops.cast(bits, "int64") * 2**32, axis=-1)
        return ops.cast(pairs & (2**32 - 1), "int32")


def put_back(x: Any, order: Any) -> Any:
    """Undoes the order over the last axis: puts each value back where it was."""
    return _engine.put_back(x, order)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    total = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        total = total * x + c
    return total


def _split(t: Any) -> tuple[Any, Any]:
    """t = high + low; high has so few bits that its square is exact while exp(-t^2 / 2) > 0."""
    scale = 2.0**20 if _name(t) == "float64" else 2.0**8
    high = ops.round(t * scale) / scale
    return high, t - high


def _exp_half_square(high: Any, low: Any) -> tuple[Any, Any]:
    """(E, e) with exp(-(high + low)^2 / 2) = E (1 + e); the square in E is exact."""
    rest = low * (high + 0.5 * low)
    return ops.exp(high * high * -0.5), rest * (rest * (0.5 - rest * (1 / 6 - rest / 24)) - 1)


def _scaled_tail(t: Any) -> tuple[Any, Any]:
    """(n, d) with T(t) = (1/2 + n) / d and d = t + 5/4."""
    finite = at_most(t, 1e18)  # where the quotient is 1; JAX squares the divisor
    return _polynomial(finite / (finite + 4) - 0.5, SCALED_TAIL[_name(t)]), t + 1.25


def normal_pdf(t: Any) -> Any:
    """exp(-t^2 / 2) / sqrt(2 pi) for t >= 0."""
    bulk, rest = _exp_half_square(*_split(at_most(t, ZERO_FROM)))
    return bulk * (INV_SQRT_TWO_PI_HIGH + (INV_SQRT_TWO_PI * rest + INV_SQRT_TWO_PI_LOW))


def normal_pdf_slope(t: Any) -> Any:
    """-t exp(-t^2 / 2) / sqrt(2 pi) for t >= 0, also where only the exponential underflows."""
    t = at_most(t, ZERO_FROM)
    high, low = _split(t)
    _, rest = _exp_half_square(high, low)
    root = ops.exp(high * high * -0.25)
    return -(t * root) * (root * (INV_SQRT_TWO_PI * (1 + rest)))


def normal_tail(t: Any) -> Any:
    """Q(t) for t >= 0."""
    t = at_most(t, ZERO_FROM)
    high, low = _split(t)
    bulk, rest = _exp_half_square(high, low)
    n, d = _scaled_tail(t)
    # The divisor high + 5/4 is exact, d is not: the quotient then lacks a factor 1 - low / d.
    rest = rest - low / d * (1 + rest)
    return bulk * ((0.5 + (n + (0.5 + n) * rest)) / (high + 1.25))


def normal_log_tail(t: Any) -> Any:
    """log Q(t) for t >= 0; -inf only where t^2 / 2 exceeds the largest float."""
    n, d = _scaled_tail(t)
    return ops.log((0.5 + n) / d) - (t * 0.5) * t


def normal_hazard(t: Any) -> Any:
    """pdf(t) / Q(t) for t >= 0, which tends to t."""
    n, d = _scaled_tail(t)
    # The factor tends to 1 from below: rounded above 1, it would make the largest floats overflow.
    return d * at_most(INV_SQRT_TWO_PI / (0.5 + n), 1.0)


def normal_lower_quantile(p: Any, q: Any) -> Any:
    """x with Q(-x) = p, for p in [0, 1/2] and q = p - 1/2: x <= 0, and -inf at 0."""
    centre = q * _polynomial(q * q, QUANTILE_CENTRE[_name(p)])
    log_p = log_small(p)
    r = ops.sqrt(log_p * -2)
    t = r - _polynomial(1 / (r + 2), QUANTILE_TAIL)
    for _ in range(2 if _name(p) == "float64" else 1):
        t = t + (normal_log_tail(t) - log_p) / normal_hazard(t)
    return ops.where(p > 0.2, centre, where(log_p == -math.inf, -math.inf, -t))


def over_one_and(x: Any, more: Any) -> Any:
    """x / (1 + more) for `more` in [-1/4, 1], off by less than the quotient for most.

    XLA computes a quotient of two tensors that is used twice in a loop of its own, before the one
    that it is for; an inverse it does not.
    """
    if keras.backend.backend() == "torch":
        return x / (1 + more)
    return x - x * (more * (1 / (1 + more)))  # TensorFlow's own reciprocal is less exact


def log1p(x: Any) -> Any:
    """log(1 + x) for x in [-1/2, 1], as 2 atanh(s) with s = x / (2 + x)."""
    if keras.backend.backend() == "torch":  # its own is exact
        return ops.log1p(x)
    twice = over_one_and(x, 0.5 * x)  # 2 s, since s itself may underflow
    square = 0.25 * (twice * twice)
    return twice + twice * (square * _polynomial(square, LOG1P[_name(x)]))


def log_small(p: Any) -> Any:
    """log(p) for p >= 0, also below the smallest normal number, which XLA flushes to 0."""
    least = np.finfo(_name(p)).smallest_subnormal
    # The bits of such a number count how many of the least it is.
    count = ops.cast(_engine.bits(p), p.dtype)
    below = ops.log(ops.where(p < tiny(p), count, 1.0)) + math.log(least)
    return ops.where(p < tiny(p), below, ops.log(at_least(p, tiny(p))))


def log_complement(p: Any) -> Any:
    """log(1 - p) for p in [0, 1]."""
    return ops.where(p > 0.5, ops.log(1 - p), log1p(-at_most(p, 0.5)))


def log1p_ratio(a: Any, b: Any) -> Any:
    """log(1 + a / b) for a, b > 0; a / b may be large."""
    small = ops.where(a < b, a / b, b / a)
    return log1p(small) + ops.where(a < b, 0.0, ops.log(a / b))


def atan_tail(t: Any) -> Any:
    """atan(1 / t) / pi for t >= 0: the Cauchy distribution's tail."""
    if keras.backend.backend() == "torch":  # its own is exact
        return _engine.atan2(1.0, t) / math.pi
    s = ops.where(t > 1, 1 / at_least(t, 1.0), t)
    square = s * s
    atan = s + s * (square * _polynomial(square, ATAN[_name(t)]))
    return ops.where(t > 1, atan / math.pi, 0.5 - atan / math.pi)


def tan(x: Any) -> Any:
    """tan(x) for abs x <= pi / 4."""
    square = x * x
    return x + x * (square * _polynomial(square, TAN[_name(x)]))


def tanh_half(t: Any) -> Any:
    """tanh(t / 2) for t >= 0, which keras.ops on JAX computes only to float32."""
    return -ops.expm1(-t) / (1 + ops.exp(-t))


def power(x: Any, exponent: float) -> Any:
    """x^exponent for x >= 0."""
    return ops.power(x, ops.full_like(x, exponent))


def divide(a: Any, b: Any) -> Any:
    """a / b; JAX's own gradient squares b, which underflows below 1e-19."""

    def push(arguments: Any, tangents: Any) -> Any:
        (a, b), (of_a, of_b) = arguments, tangents
        return of_a / b - of_b / b * (a / b)

    def pull(arguments: Any, upstream: Any) -> tuple[Any, Any]:
        a, b = arguments
        return upstream / b, -upstream * (a / b) / b

    return _engine.differentiable(lambda a, b: a / b, push, pull)(a, b)
