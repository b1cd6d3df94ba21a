"""Special functions, accurate in both precisions.

A generic `erfc` is not enough: the rounding of x / sqrt 2 alone costs x^2 ulp in the tail, and the
log of `erfc` is lost where `erfc` underflows. The functions of the normal distribution are computed
from one function of t >= 0,

    T(t) = exp(t^2 / 2) Q(t),    Q the upper tail,

a polynomial in t / (t + 4) over t + 5/4 (`scripts/fit_special.py` fits and prints the constants,
highest power first):

    Q(t) = exp(-t^2 / 2) T(t),    log Q(t) = -t^2 / 2 + log T(t),
    hazard = pdf / Q = 1 / (sqrt(2 pi) T).
"""

import math

import torch
from torch import Tensor

from segact_torch._derivatives import _is_recorded

# Devices without double precision.
NO_FLOAT64 = ("mps",)

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

INV_SQRT_TWO_PI = 1 / math.sqrt(2 * math.pi)
# The part of 1 / sqrt(2 pi) that float32 cannot hold in one number.
INV_SQRT_TWO_PI_HIGH = 0.39892578125
INV_SQRT_TWO_PI_LOW = INV_SQRT_TWO_PI - INV_SQRT_TWO_PI_HIGH

# exp(-t^2 / 2) is 0 from here on, also in float64.
ZERO_FROM = 40.0


def _name(x: Tensor) -> str:
    return "float64" if x.dtype == torch.float64 else "float32"


def tiny(x: Tensor) -> float:
    """The smallest normal number of the dtype of x."""
    return torch.finfo(x.dtype).tiny


def largest(x: Tensor) -> float:
    """The largest number of the dtype of x."""
    return torch.finfo(x.dtype).max


def double(x: Tensor) -> Tensor:
    """x in float64 where the device has it."""
    return x if x.device.type in NO_FLOAT64 else x.double()


def at_most(x: Tensor, limit: float) -> Tensor:
    """min(x, limit), with a slope of 1 at the limit; NaN stays."""
    return torch.clamp(x, max=limit)


def at_least(x: Tensor, limit: float) -> Tensor:
    """max(x, limit), with a slope of 1 at the limit; NaN stays."""
    return torch.clamp(x, min=limit)


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """x clipped to two limits, with a slope of 1 at the limits; NaN stays."""
    return torch.clamp(x, low, high)


def one_less(x: Tensor, where: Tensor) -> Tensor:
    """x - 1 where that is True, else x."""
    return torch.add(x, where, alpha=-1)


def running_count(x: Tensor) -> Tensor:
    """The number of True up to each element over the last dimension, exact beyond 2^24."""
    return x.cumsum(-1)


def places(x: Tensor) -> Tensor:
    """1, 2, 3, ... for the elements over the last dimension, in the precision of x."""
    return torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)


def descending(x: Tensor) -> Tensor:
    """The stable order of x >= 0 over its last dimension, the largest first.

    The bits of such numbers, as integers, have the same order; a CPU has a radix sort for integers.
    """
    # TorchScript, ONNX and vmap of old versions cannot read bits.
    if _is_recorded() or torch._C._are_functorch_transforms_active():
        return x.argsort(dim=-1, descending=True, stable=True)
    bits = x.abs().view(torch.int64 if x.dtype == torch.float64 else torch.int32)  # no -0
    return (-bits).argsort(dim=-1, stable=True)


def put_back(x: Tensor, order: Tensor) -> Tensor:
    """Undoes the order over the last dimension: puts each value back where it was."""
    return x.scatter(-1, order, x)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total


def _split(t: Tensor) -> tuple[Tensor, Tensor]:
    """t = high + low; high has so few bits that its square is exact while exp(-t^2 / 2) > 0."""
    scale = 2.0**20 if _name(t) == "float64" else 2.0**8
    high = torch.round(t * scale) / scale
    return high, t - high


def _exp_half_square(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """(E, e) with exp(-(high + low)^2 / 2) = E (1 + e); the square in E is exact."""
    rest = low * (high + 0.5 * low)
    return torch.exp(high * high * -0.5), rest * (rest * (0.5 - rest * (1 / 6 - rest / 24)) - 1)


def _scaled_tail(t: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) with T(t) = (1/2 + n) / d and d = t + 5/4."""
    finite = at_most(t, 1e18)  # where the quotient is 1
    return _polynomial(finite / (finite + 4) - 0.5, SCALED_TAIL[_name(t)]), t + 1.25


def normal_pdf(t: Tensor) -> Tensor:
    """exp(-t^2 / 2) / sqrt(2 pi) for t >= 0."""
    bulk, rest = _exp_half_square(*_split(at_most(t, ZERO_FROM)))
    return bulk * (INV_SQRT_TWO_PI_HIGH + (INV_SQRT_TWO_PI * rest + INV_SQRT_TWO_PI_LOW))


def normal_pdf_slope(t: Tensor) -> Tensor:
    """-t exp(-t^2 / 2) / sqrt(2 pi) for t >= 0, also where only the exponential underflows."""
    t = at_most(t, ZERO_FROM)
    high, low = _split(t)
    _, rest = _exp_half_square(high, low)
    root = torch.exp(high * high * -0.25)
    return -(t * root) * (root * (INV_SQRT_TWO_PI * (1 + rest)))


def normal_tail(t: Tensor) -> Tensor:
    """Q(t) for t >= 0."""
    t = at_most(t, ZERO_FROM)
    high, low = _split(t)
    bulk, rest = _exp_half_square(high, low)
    n, d = _scaled_tail(t)
    # The divisor high + 5/4 is exact, d is not: the quotient then lacks a factor 1 - low / d.
    rest = rest - low / d * (1 + rest)
    part = bulk / (high + 1.25)
    # 1/2 + n is not rounded before it is multiplied
    return torch.add(part * (n + (0.5 + n) * rest), part, alpha=0.5)


def normal_log_tail(t: Tensor) -> Tensor:
    """log Q(t) for t >= 0; -inf only where t^2 / 2 exceeds the largest float."""
    n, d = _scaled_tail(t)
    return torch.log((0.5 + n) / d) - (t * 0.5) * t


def normal_hazard(t: Tensor) -> Tensor:
    """pdf(t) / Q(t) for t >= 0, which tends to t."""
    n, d = _scaled_tail(t)
    # The factor tends to 1 from below: rounded above 1, it would make the largest floats overflow.
    return d * at_most(INV_SQRT_TWO_PI / (0.5 + n), 1.0)


def normal_lower_quantile(p: Tensor, q: Tensor) -> Tensor:
    """x with Q(-x) = p, for p in [0, 1/2] and q = p - 1/2: x <= 0, and -inf at 0."""
    centre = q * _polynomial(q * q, QUANTILE_CENTRE[_name(p)])
    log_p = log_small(p)
    r = torch.sqrt(log_p * -2)
    t = r - _polynomial(1 / (r + 2), QUANTILE_TAIL)
    for _ in range(2 if _name(p) == "float64" else 1):
        t = t + (normal_log_tail(t) - log_p) / normal_hazard(t)
    return torch.where(p > 0.2, centre, torch.where(log_p == -math.inf, -math.inf, -t))


def log_small(p: Tensor) -> Tensor:
    """log(p) for p >= 0, also below the smallest normal number."""
    return torch.log(p)


def log_complement(p: Tensor) -> Tensor:
    """log(1 - p) for p in [0, 1]."""
    return torch.log1p(-p)


def log1p_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(1 + a / b) for a, b > 0; a / b may be large."""
    return torch.log1p(a / b)


def atan_tail(t: Tensor) -> Tensor:
    """atan(1 / t) / pi for t >= 0: the Cauchy distribution's tail."""
    return torch.atan2(torch.ones_like(t), t) / math.pi


def tanh_half(t: Tensor) -> Tensor:
    """tanh(t / 2) for t >= 0."""
    return torch.tanh(t / 2)
