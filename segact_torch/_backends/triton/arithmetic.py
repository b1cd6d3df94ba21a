# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""Elementary functions on the device: logarithm, exponential, quotients, arctangent.

All arithmetic is in float32. `/` and `tl.rsqrt` are the device's quick ones, off by 2 ulp at most:
they only start the Newton step of `inverse_of` and the like, which rounds as well as `tl.div_rn`
and takes a few instructions of its twenty. `tl.exp`, `tl.log`, `tl.sqrt` would be off by more.
Contraction into fused multiply-adds is harmless everywhere: a product that something is compensated
for is either exact, or the difference is a rounding of what is small. The tests interpret the
kernels with the worst of these quotients, and with every product fused that can be.

The constants are printed by scripts/fit_special.py.
"""

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))
# The smallest normal number, and the largest.
TINY = tl.constexpr(1.1754943508222875e-38)
LARGEST = tl.constexpr(3.4028234663852886e38)

# ln 2 in two parts, of which the first times a small integer is exact.
LN2_HIGH, LN2_LOW = tl.constexpr(0.693359375), tl.constexpr(-2.12194440054690583e-4)
LN2 = tl.constexpr(0.693147180559945309)


@triton.jit
def to_bits(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def from_bits(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def weigh(weight, value):
    """weight * value, where 0 makes 0 of anything infinite or undefined."""
    return tl.where(weight == 0.0, 0.0, tl.where(value == 0.0, 0.0, weight * value))


@triton.jit
def unless_zero(weight, value):
    """weight * value for a finite weight, likewise."""
    return tl.where(weight == 0.0, 0.0, weight * value)


@triton.jit
def exponential_parts(x):
    """(power, r, rest): exp(x) = power (1 + r + rest) for x < 88; 0 below the smallest normal."""
    gone = x < -87.3365
    x = tl.where(gone, 0.0, x)
    shift = 12582912.0  # 3/2 2^23: adding it rounds to an integer
    shifted = x * 1.44269504088896341 + shift
    k = shifted - shift
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = 0.00019890980869750327
    p = p * r + 0.0013933641031986701
    p = p * r + 0.008333310934448869
    p = p * r + 0.04166646500604005
    p = p * r + 0.16666666681614256
    p = p * r + 0.5000000013457727
    power = from_bits((to_bits(shifted) - 0x4B400000 + 127) << 23)
    return tl.where(gone, 0.0, power), r, p * (r * r)


@triton.jit
def exponential(x):
    """exp(x) for x < 88; 0 below the smallest normal number."""
    power, r, rest = exponential_parts(x)
    whole = 1.0 + r  # what this rounds off is added to the rest
    return power * (whole + (rest + (r - (whole - 1.0))))


@triton.jit
def exponent_and_rest(s):
    """k and f with s = 2^k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)), for normal s > 0."""
    bits = to_bits(s) + (0x3F800000 - 0x3F3504F3)
    # 2^23 + k + 127 is a float with these bits: quicker than a conversion
    k = from_bits((bits >> 23) | 0x4B000000) - (8388608.0 + 127.0)
    return k, from_bits((bits & 0x7FFFFF) + 0x3F3504F3) - 1.0


@triton.jit
def log_of_rest(f):
    """log(1 + f), to 1e-7 of 1/2, without a division."""
    p = 0.08533313082996152
    p = p * f - 0.14269258206218832
    p = p * f + 0.14977401280127375
    p = p * f - 0.16577992896798863
    p = p * f + 0.1995593335838325
    p = p * f - 0.2500135218549606
    p = p * f + 0.3333419328613508
    p = p * f - 0.4999999638212389
    p = p * f + 0.9999999741310671
    return f * p


@triton.jit
def logarithm(s):
    """log(s), to 1e-7 of 1/2: for results beyond that, as those of tails are; s is normal."""
    k, f = exponent_and_rest(s)
    return k * LN2 + log_of_rest(f)


@triton.jit
def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1."""
    v = e - 0.5
    p = -0.00317605701843196
    p = p * v + 0.005250270678070283
    p = p * v - 0.006788016951938559
    p = p * v + 0.011577685182382747
    p = p * v - 0.020563182432163537
    p = p * v + 0.03663523416633938
    p = p * v - 0.06768818965399573
    p = p * v + 0.13260901577718714
    p = p * v - 0.28852710137197934
    p = p * v - 0.1890697800867573  # one less than the quotient
    return tl.fma(e, p, e)


@triton.jit
def beside(a):
    """-log(1 - a) for 0 <= a <= 1/2: the loss on the near side of a tail."""
    v = a - 0.25
    p = 1.7336119473521596
    p = p * v + 1.4416650036153633
    p = p * v + 0.9425736981747728
    p = p * v + 0.8118671938772306
    p = p * v + 0.7296140310933221
    p = p * v + 0.660913066634913
    p = p * v + 0.6249905578731398
    p = p * v + 0.6338717281332293
    p = p * v + 0.7304201789049338
    p = p * v + 0.1507282937282726  # one less than the quotient
    return tl.fma(a, p, a)


@triton.jit
def fractional_power(x, high, low):
    """x^(high + low) for 0 <= x <= 1 and an exponent in (0, 1), of which `high` has 12 bits."""
    k, f = exponent_and_rest(x)
    n = tl.floor(high * k + 0.5)
    r = (high * k - n) + low * k
    power = from_bits((n.to(tl.int32) + 127) << 23)
    result = power * exponential(r * LN2 + (high + low) * log_of_rest(f))
    return tl.where(x < TINY, 0.0, result)


@triton.jit
def inverse_of(s):
    """1 / s, nearly rounded, for an s that is far from any limit.

    Without the branch that an exact division has for extremes; so are the next two.
    """
    q = 1.0 / s
    return q + q * tl.fma(-q, s, 1.0)


@triton.jit
def quotient(x, y):
    """x / y likewise, for such a quotient."""
    inverse = 1.0 / y
    q = x * inverse
    return q + inverse * tl.fma(-q, y, x)


@triton.jit
def reciprocal(s):
    """1 / s for s >= 1: 0 where that is below the smallest normal number, and at infinity."""
    q = 1.0 / s
    return q + q * tl.fma(-q, tl.minimum(s, LARGEST), 1.0)


@triton.jit
def arctangent(s):
    """s^2 and atan(s) / s - 1 for 0 <= s <= 1."""
    w = s * s
    p = 0.0014886919393047597
    p = p * w - 0.009144629760592396
    p = p * w + 0.026305001110062377
    p = p * w - 0.04896051402709067
    p = p * w + 0.07031914250029966
    p = p * w - 0.08931826777381315
    p = p * w + 0.11088261628735159
    p = p * w - 0.1428400379473353
    p = p * w + 0.19999949321141888
    p = p * w - 0.3333333308107325
    return w, w * p
