# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The activations on the device, at the distance t >= 0 from where F is 1/2.

For each there are

    shares      the tail a = F(-t) and the density
    surprise    a, then for the outcomes beside the tail (probability 1 - a) and in it (probability
                a) -log of the probability, and the density divided by it

All are NaN for t = NaN. Where there is an epsilon, a is at least that, and all follows from the
shares.
"""

import triton
import triton.language as tl

from segact_torch._backends.triton.arithmetic import (
    INFINITY,
    LARGEST,
    LN2,
    arctangent,
    beside,
    exponential,
    exponential_parts,
    from_bits,
    inverse_of,
    log1p_unit,
    logarithm,
    quotient,
    reciprocal,
    to_bits,
)

# From here on a tail is its leading term.
FAR = tl.constexpr(1e12)


@triton.jit
def sigmoid_shares(t):
    e = exponential(-t)
    s = 1.0 + e
    inverse = inverse_of(s)
    # the inverse of all of 1 + e, also of what rounding took from s
    inverse -= inverse * inverse * (e - (s - 1.0))
    a = e * inverse
    # not a times the inverse: what a is off by counts less in this product, and nothing at 1/2
    return a, a * (1.0 - a)


@triton.jit
def sigmoid_surprise(t):
    e = exponential(-t)
    inverse = inverse_of(1.0 + e)
    a = e * inverse
    near = log1p_unit(e)
    return a, near, near + t, a, inverse


INV_SQRT_TWO_PI = tl.constexpr(0.398942280401432678)
# The part of it that float32 cannot hold in one number.
INV_SQRT_TWO_PI_HIGH = tl.constexpr(0.39892578125)
INV_SQRT_TWO_PI_LOW = tl.constexpr(1.6499151432678e-5)


@triton.jit
def bell(t):
    """(power, rest, low): exp(-t^2 / 2) = power (1 + rest) (1 + low), from exact leading bits."""
    bounded = tl.where(t > 14.0, 14.0, t)  # from where on it is 0
    lead = from_bits(to_bits(bounded) & ~0xFFF)
    rest = bounded - lead
    r = -rest * (lead + 0.5 * rest)
    low = r * (1.0 + r * (0.5 + r * (0.16666666666666666 + r * 0.041666666666666664)))
    power, r, high = exponential_parts(-0.5 * (lead * lead))
    return power, r + high, low


@triton.jit
def scaled_numerator(t):
    """n with exp(t^2 / 2) F(-t) = (1/2 + n) / (t + 5/4)."""
    v = quotient(t, t + 4.0) - 0.5
    n = 0.0283247357754663
    n = n * v - 0.05460541208378212
    n = n * v - 0.04965036304160064
    n = n * v + 0.1588576077921915
    n = n * v - 0.0166806916052337
    n = n * v - 0.31116256707109075
    n = n * v + 0.5060506196009433
    n = n * v - 0.3917557367528137
    n = n * v + 0.0853874137819784
    n = n * v + 0.18037884252112035
    n = n * v - 0.2786058130573424
    return n * v - 0.004344136795443492


@triton.jit
def normal_tail(t):
    """F(-t), exp(t^2 / 2) F(-t), the density, and the numerator of the second."""
    t = tl.where(t > 1e9, 1e9, t)
    power, rest, low = bell(t)
    n = scaled_numerator(t)
    over, under = 0.5 + n, t + 1.25
    scaled = quotient(over, under)
    # what both sums lost counts in the product, to a quarter: `over` is about 1/2
    lost_over, lost_under = n - (over - 0.5), t - (under - 1.25)
    better = low + 2.0 * (lost_over - lost_under * scaled)
    # 1 + rest is not rounded on the way to F(-t), whose bound is the nearest
    mass = power * (scaled + scaled * (rest + (better + better * rest)))
    density = INV_SQRT_TWO_PI_HIGH + (INV_SQRT_TWO_PI * low + INV_SQRT_TWO_PI_LOW)
    return mass, scaled, power * (1.0 + rest) * density, over


@triton.jit
def normal_shares(t):
    a, _, density, _ = normal_tail(t)
    return a, density


@triton.jit
def normal_surprise(t):
    a, scaled, density, over = normal_tail(t)
    rest = 1.0 - a
    inverse = inverse_of(over * rest)  # for both quotients
    # it tends to 1: rounded beyond, the largest floats would overflow
    ratio = (INV_SQRT_TWO_PI * rest) * inverse
    steep = (t + 1.25) * tl.where(ratio > 1.0, 1.0, ratio)
    far = (0.5 * t) * t - logarithm(scaled)
    # not a times something: that is below the smallest normal number when this is not
    return a, beside(a), far, (density * over) * inverse, steep


INV_PI = tl.constexpr(0.318309886183790672)
LOG_PI = tl.constexpr(1.14472988584940017)
# What rounding takes from pi / 2.
HALF_PI, HALF_PI_LOW = tl.constexpr(1.57079632679489662), tl.constexpr(-4.37113900018624283e-8)


@triton.jit
def arctan_tail(t):
    """F(-t); whether t > 1, s = min(t, 1 / t), s^2 and atan(s) / s."""
    outside = t > 1.0
    s = tl.where(outside, reciprocal(t), t)
    square, slope = arctangent(s)
    angle = s + s * slope
    a = tl.where(outside, angle, HALF_PI - (angle - HALF_PI_LOW)) * INV_PI
    return a, outside, s, square, 1.0 + slope


@triton.jit
def arctan_shares(t):
    a, outside, _, square, _ = arctan_tail(t)
    density = quotient(INV_PI, 1.0 + square)
    return a, tl.where(outside, square, 1.0) * density


@triton.jit
def arctan_surprise(t):
    a, outside, s, square, slope = arctan_tail(t)
    distant = t > FAR
    log = logarithm(tl.where(distant, t, a))
    far = tl.where(t < INFINITY, tl.where(distant, LOG_PI + log, -log), t)
    # both quotients from one: outside, a is s / pi times the slope, and s^2 (1 + 1 / s^2) = 1 + s^2
    rest = 1.0 - a
    both = (1.0 + square) * tl.where(outside, slope, a) * rest
    inverse = tl.where(outside, s, INV_PI) * inverse_of(both)
    return a, beside(a), far, a * inverse, rest * inverse


@triton.jit
def softsign_shares(t):
    a = 0.5 * reciprocal(1.0 + t)
    return a, 2.0 * a * a


@triton.jit
def softsign_surprise(t):
    s = 1.0 + t
    inverse = reciprocal(s)
    a = 0.5 * inverse
    far = tl.where(t < INFINITY, LN2 + logarithm(s), t)
    return a, beside(a), far, a * reciprocal(0.5 + t), inverse


@triton.jit
def inverse_square_root_shares(t):
    square = tl.fma(t, t, 1.0)
    h = tl.sqrt_rn(square)
    return tl.div_rn(0.5, tl.fma(t, h, square)), tl.div_rn(0.5, square * h)


@triton.jit
def inverse_square_root_surprise(t):
    # far away, in units of 2^66: there 1 + t^2 is t^2, and not beyond the largest float
    distant = t > FAR
    unit = tl.where(distant, 1.3552527156068805e-20, 1.0)
    bounded = tl.where(t > LARGEST, LARGEST, t) * unit
    one = tl.where(distant, 0.0, 1.0)
    square = tl.fma(bounded, bounded, one)
    inverse = tl.rsqrt(square)
    h = square * inverse
    h += (0.5 * inverse) * tl.fma(-h, h, square)
    inverse += inverse * tl.fma(-h, inverse, 1.0)
    half = tl.fma(bounded, h, square)  # of 1 / F(-t)
    a = quotient(0.5, half)
    # what rounding took from the square, also by way of h, and from their sum
    lost = tl.fma(bounded, bounded, one - square) * tl.fma(0.5 * bounded, inverse, 1.0)
    lost += tl.fma(bounded, h, square - half)
    a -= 2.0 * a * a * lost
    log = LN2 + logarithm(half)
    far = tl.where(t < INFINITY, tl.where(distant, 132.0 * LN2 + log, log), t)
    # the density is 1/2 h^-3, and 1 - a is (h + t) / (2 h)
    share = bounded * inverse
    inverse *= tl.where(t < INFINITY, unit, 0.0)
    a *= unit * unit
    return a, beside(a), far, 2.0 * a * inverse, inverse + inverse * share


@triton.jit
def hardtanh_shares(x, epsilon):
    a = tl.where(x < 0.5, x, 1.0 - x)
    inside = tl.where(a > epsilon, 1.0, 0.0)
    return tl.where(a < epsilon, epsilon, a), inside


@triton.jit
def squeezed_surprise(a, density):
    return a, beside(a), -logarithm(a), quotient(density, 1.0 - a), quotient(density, a)


@triton.jit
def is_below(x, ACTIVATION: tl.constexpr):
    """Whether F(x) < 1/2."""
    return x < 0.5 if ACTIVATION == "hardtanh" else x < 0.0


@triton.jit
def tail(x, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """The tail on this side of where F is 1/2, and the density."""
    if ACTIVATION == "sigmoid":
        a, density = sigmoid_shares(tl.abs(x))
    elif ACTIVATION == "normal_cdf":
        a, density = normal_shares(tl.abs(x))
    elif ACTIVATION == "arctan":
        a, density = arctan_shares(tl.abs(x))
    elif ACTIVATION == "softsign":
        a, density = softsign_shares(tl.abs(x))
    elif ACTIVATION == "inverse_square_root":
        a, density = inverse_square_root_shares(tl.abs(x))
    else:
        a, density = hardtanh_shares(x, epsilon)
    if SQUEEZED and ACTIVATION != "hardtanh":
        keep = 1.0 - 2.0 * epsilon
        a, density = tl.fma(keep, a, epsilon), keep * density
    return a, density


@triton.jit
def shares(x, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """F(x), 1 - F(x) and the density."""
    a, density = tail(x, epsilon, ACTIVATION, SQUEEZED)
    below = is_below(x, ACTIVATION)
    return tl.where(below, a, 1.0 - a), tl.where(below, 1.0 - a, a), density


@triton.jit
def surprise(x, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """What is said above of `surprise`."""
    if SQUEEZED:
        a, density = tail(x, epsilon, ACTIVATION, SQUEEZED)
        return squeezed_surprise(a, density)
    elif ACTIVATION == "sigmoid":
        return sigmoid_surprise(tl.abs(x))
    elif ACTIVATION == "normal_cdf":
        return normal_surprise(tl.abs(x))
    elif ACTIVATION == "arctan":
        return arctan_surprise(tl.abs(x))
    elif ACTIVATION == "softsign":
        return softsign_surprise(tl.abs(x))
    else:
        return inverse_square_root_surprise(tl.abs(x))
