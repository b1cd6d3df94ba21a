# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The activations on the device, at the distance t >= 0 from where F is 1/2.

For each there are

    mass          the tail a = F(-t), and the density
    log_losses    a; -log F(t) and -log F(-t), the losses of the class on the near side, which is
                  the likelier one, and of that on the far side; and the two hazards, which are the
                  density divided by F(t) and by F(-t)

All are NaN for t = NaN. With an epsilon, a is at least that, and all follows from the mass.
"""

import triton
import triton.language as tl

from segact_torch._backends.triton.arithmetic import (
    INFINITY,
    INV_PI,
    LARGEST,
    LN2,
    LN2_HIGH,
    LN2_LOW,
    LN2_PER_UNIT,
    PI,
    UNIT,
    arctangent,
    exponent_and_rest,
    exponential,
    exponential_rest,
    from_bits,
    inverse_of,
    log1p_unit,
    log_of_rest,
    logarithm,
    logarithm_and,
    near_loss_of,
    nearest_power,
    negative,
    quotient,
    reciprocal,
    rough_inverse,
    to_bits,
)


@triton.jit
def sigmoid_mass(t):
    e = exponential(negative(t))
    s = 1.0 + e
    inverse = inverse_of(s)
    # the inverse of all of 1 + e, also of what rounding took from s
    inverse -= inverse * inverse * (e - (s - 1.0))
    a = e * inverse
    # not a times the inverse: what a is off by counts less in this product, and nothing at 1/2
    return a, a * (1.0 - a)


@triton.jit
def sigmoid_log_losses(t):
    e = exponential(negative(t))
    inverse = inverse_of(1.0 + e)
    a = e * inverse
    near = log1p_unit(e)
    return a, near, near + t, a, inverse


INV_SQRT_TWO_PI = tl.constexpr(0.398942280401432678)


@triton.jit
def bell(t):
    """(power, rest): exp(-t^2 / 2) = power (1 + rest), from exact leading bits of t."""
    bounded = tl.where(t > 13.28, 13.28, t)  # where it is 0
    lead = from_bits(to_bits(bounded) & ~0xFFF)
    rest = bounded - lead
    high, low = -0.5 * (lead * lead), negative(rest) * (lead + 0.5 * rest)
    k, power = nearest_power(high)
    r = (high - k * LN2_HIGH) + (low - k * LN2_LOW)
    return power, r + exponential_rest(r)


@triton.jit
def scaled_numerator(t):
    """n with exp(t^2 / 2) F(-t) = (1/2 + n) / (t + 5/4)."""
    v = 0.5 - 4.0 * inverse_of(t + 4.0)
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
    power, rest = bell(t)
    n = scaled_numerator(t)
    over, under = 0.5 + n, t + 1.25
    start = rough_inverse(under)
    scaled = over * start
    left = tl.fma(negative(scaled), under, over)
    # what both sums lost
    left += (n - (over - 0.5)) - (t - (under - 1.25)) * scaled
    scaled = tl.fma(start, left, scaled)
    # 1 + rest is not rounded on the way to F(-t), whose bound is the nearest
    mass = power * tl.fma(scaled, rest, scaled)
    return mass, scaled, power * (1.0 + rest) * INV_SQRT_TWO_PI, over


@triton.jit
def normal_mass(t):
    a, _, density, _ = normal_tail(t)
    return a, density


@triton.jit
def normal_log_losses(t):
    a, scaled, density, over = normal_tail(t)
    rest = 1.0 - a
    inverse = inverse_of(over * rest)  # for both quotients
    # it tends to 1: rounded beyond, the largest floats would overflow
    ratio = (rest * INV_SQRT_TWO_PI) * inverse
    far_hazard = (t + 1.25) * tl.where(ratio > 1.0, 1.0, ratio)
    far = (0.5 * t) * t - logarithm(scaled)
    # not a times something: that is below the smallest normal number when this is not
    return a, near_loss_of(a), far, (density * over) * inverse, far_hazard


@triton.jit
def arctan_tail(t):
    """F(-t); min(1, 1 / t); whether t > 1, and for s = min(t, 1 / t) s^2 and atan(s) / (pi s)."""
    outside = t > 1.0
    inverse = reciprocal(tl.where(t < 1.0, 1.0, t))
    s = tl.where(t < inverse, t, inverse)
    square, rest = arctangent(s)
    angle = tl.fma(s, INV_PI, s * rest)
    return tl.where(outside, angle, 0.5 - angle), inverse, outside, square, rest + INV_PI


@triton.jit
def arctan_mass(t):
    a, _, _, _, _ = arctan_tail(t)
    return a, reciprocal((t * t) * PI + PI)


@triton.jit
def arctan_log_losses(t):
    a, share, outside, square, slope = arctan_tail(t)
    # from 2^32 a, since a may be below the smallest normal number
    k, f = exponent_and_rest(4294967296.0 * a)
    far = negative((k - 32.0 / UNIT) * LN2_PER_UNIT + log_of_rest(f))
    # both quotients from one: outside, a is s times the slope, and s^2 (1 + 1 / s^2) = 1 + s^2
    rest = 1.0 - a
    inverse = share * inverse_of((square * PI + PI) * tl.where(outside, slope, a) * rest)
    return a, near_loss_of(a), tl.where(t < INFINITY, far, t), a * inverse, rest * inverse


@triton.jit
def softsign_mass(t):
    a = 0.5 * reciprocal(1.0 + t)
    return a, 2.0 * a * a


@triton.jit
def softsign_log_losses(t):
    s = 1.0 + t
    inverse = reciprocal(s)
    a = 0.5 * inverse
    far = tl.where(t < INFINITY, logarithm_and(s, LN2), t)
    return a, near_loss_of(a), far, a * reciprocal(0.5 + t), inverse


@triton.jit
def inverse_square_root_tail(t):
    """F(-t), 1 / h for h = sqrt(1 + t^2), t / h, h^2 + t h, and whether the last is in a unit."""
    # Far away the tail is below the smallest normal number, 1 + t^2 is t^2, and the unit of t is
    # 2^66, so that nothing is beyond the largest float.
    distant = t > 4.7e18
    unit = tl.where(distant, 1.3552527156068805e-20, 1.0)
    one = tl.where(distant, 0.0, 1.0)
    bounded = tl.where(t > LARGEST, LARGEST, t) * unit
    square = tl.fma(bounded, bounded, one)
    inverse = tl.rsqrt(square)
    h = square * inverse
    h = tl.fma(0.5 * inverse, tl.fma(negative(h), h, square), h)
    inverse = tl.fma(inverse, tl.fma(negative(h), inverse, 1.0), inverse)
    share = bounded * inverse
    half = tl.fma(bounded, h, square)  # of 1 / F(-t)
    # what rounding took from the square, also by way of h, and from their sum
    lost = tl.fma(bounded, h, square - half)
    lost = tl.fma(tl.fma(bounded, bounded, one - square), 0.5 * share + 1.0, lost)
    start = rough_inverse(half)
    a = 0.5 * start
    left = tl.fma(negative(a), lost, tl.fma(negative(a), half, 0.5))
    a = tl.fma(start, left, a) * one
    return a, inverse * tl.where(t < INFINITY, unit, 0.0), share, half, distant


@triton.jit
def inverse_square_root_mass(t):
    a, inverse, _, _, _ = inverse_square_root_tail(t)
    return a, inverse * (0.5 * reciprocal(tl.fma(t, t, 1.0)))


@triton.jit
def inverse_square_root_log_losses(t):
    a, inverse, share, half, distant = inverse_square_root_tail(t)
    log = logarithm_and(half, tl.where(distant, 133.0 * LN2, LN2))
    far = tl.where(t < INFINITY, log, t)
    # the density is 1/2 h^-3, and 1 - a is (h + t) / (2 h)
    return a, near_loss_of(a), far, 2.0 * a * inverse, inverse + inverse * share


@triton.jit
def hardtanh_mass(x, epsilon):
    a = tl.where(x < 0.5, x, 1.0 - x)
    inside = tl.where(a > epsilon, 1.0, 0.0)
    return tl.where(a < epsilon, epsilon, a), inside


@triton.jit
def squeezed_log_losses(a, density):
    near_hazard, far_hazard = quotient(density, 1.0 - a), quotient(density, a)
    return a, near_loss_of(a), negative(logarithm(a)), near_hazard, far_hazard


@triton.jit
def is_below(x, ACTIVATION: tl.constexpr):
    """Whether F(x) < 1/2."""
    return x < 0.5 if ACTIVATION == "hardtanh" else x < 0.0


@triton.jit
def tail(x, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """The tail on this side of where F is 1/2, and the density."""
    if ACTIVATION == "sigmoid":
        a, density = sigmoid_mass(tl.abs(x))
    elif ACTIVATION == "normal_cdf":
        a, density = normal_mass(tl.abs(x))
    elif ACTIVATION == "arctan":
        a, density = arctan_mass(tl.abs(x))
    elif ACTIVATION == "softsign":
        a, density = softsign_mass(tl.abs(x))
    elif ACTIVATION == "inverse_square_root":
        a, density = inverse_square_root_mass(tl.abs(x))
    else:
        a, density = hardtanh_mass(x, epsilon)
    if SQUEEZED and ACTIVATION != "hardtanh":
        keep = 1.0 - 2.0 * epsilon
        a, density = tl.fma(keep, a, epsilon), keep * density
    return a, density


@triton.jit
def masses(x, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """F(x), 1 - F(x) and the density."""
    a, density = tail(x, epsilon, ACTIVATION, SQUEEZED)
    below = is_below(x, ACTIVATION)
    return tl.where(below, a, 1.0 - a), tl.where(below, 1.0 - a, a), density


@triton.jit
def log_losses(x, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """Those described above."""
    if SQUEEZED:
        a, density = tail(x, epsilon, ACTIVATION, SQUEEZED)
        return squeezed_log_losses(a, density)
    elif ACTIVATION == "sigmoid":
        return sigmoid_log_losses(tl.abs(x))
    elif ACTIVATION == "normal_cdf":
        return normal_log_losses(tl.abs(x))
    elif ACTIVATION == "arctan":
        return arctan_log_losses(tl.abs(x))
    elif ACTIVATION == "softsign":
        return softsign_log_losses(tl.abs(x))
    else:
        return inverse_square_root_log_losses(tl.abs(x))
