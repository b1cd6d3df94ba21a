# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""Elementary functions on the device: logarithm, exponential, quotients, arctangent.

All arithmetic is in float32. `tl.rsqrt` is the device's quick one, off by 2 ulp at most: it only
starts the Newton step of `inverse_of` and the like, which rounds as well as `tl.div_rn` and takes a
few instructions of its twenty. `tl.exp`, `tl.log`, `tl.sqrt` would be off by more. Contraction into
fused multiply-adds is harmless everywhere: a product that something is compensated for is either
exact, or the difference is a rounding of what is small. The tests interpret the kernels with the
worst of these square roots, and with every product fused that can be.

Constants stand to the right of tensors: a sum or product that begins with one is itself a constant
in the interpreter of Triton 3.8. They are printed by scripts/fit_special.py.
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
PI = tl.constexpr(3.14159265358979324)
# 1 / pi is the one in float32 and this.
INV_PI, INV_PI_LOW = tl.constexpr(0.318309886183790672), tl.constexpr(1.284127663345183e-8)
# 2^-23, and ln 2 times that.
UNIT, LN2_PER_UNIT = tl.constexpr(1.1920928955078125e-7), tl.constexpr(8.262958294867817e-8)


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
def nearest_power(x):
    """k and 2^k for k = x / ln 2 rounded, if -88.3 < x < 88; 0 for the power of k = -127."""
    shift = 12582912.0  # 3/2 2^23: adding it rounds to an integer
    shifted = x * 1.44269504088896341 + shift
    return shifted - shift, from_bits((to_bits(shifted) - 0x4B400000 + 127) << 23)


@triton.jit
def exponential_rest(r):
    """exp(r) - 1 - r for |r| <= ln(2) / 2."""
    p = 0.00019890980869750327
    p = p * r + 0.0013933641031986701
    p = p * r + 0.008333310934448869
    p = p * r + 0.04166646500604005
    p = p * r + 0.16666666681614256
    p = p * r + 0.5000000013457727
    return p * (r * r)


@triton.jit
def exponential(x):
    """exp(x) for x < 88; 0 below -87.7."""
    x = tl.where(x < -88.0, -88.0, x)
    k, power = nearest_power(x)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    whole = 1.0 + r  # what this rounds off is added to the rest
    return power * (whole + (exponential_rest(r) + (r - (whole - 1.0))))


@triton.jit
def exponent_and_rest(s):
    """2^23 k and f with s = 2^k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)), for normal s > 0."""
    bits = to_bits(s)
    k = (bits - 0x3F3504F3) & ~0x7FFFFF
    return k.to(tl.float32), from_bits(bits - k) - 1.0


@triton.jit
def log_of_rest(f):
    """log(1 + f), off by at most 6e-8, without a division."""
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
    """log(s) likewise, for results of 1/2 and more, as those of tails are; s is normal."""
    k, f = exponent_and_rest(s)
    return k * LN2_PER_UNIT + log_of_rest(f)


@triton.jit
def logarithm_and(s, more):
    """log(s) + more likewise, for a small `more` or a large sum."""
    k, f = exponent_and_rest(s)
    return k * LN2_PER_UNIT + (log_of_rest(f) + more)


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
def near_loss_of(a):
    """-log(1 - a) for 0 <= a <= 1/2: the loss on the near side of a tail."""
    p = 1.2989286596065484
    p = p * a - 1.5146327812511835
    p = p * a + 1.1097159509592063
    p = p * a - 0.1801717444612514
    p = p * a + 0.22656340714821027
    p = p * a + 0.19390882433499573
    p = p * a + 0.2503050972725961
    p = p * a + 0.3333275279331317
    p = p * a + 0.5000000179696693
    return tl.fma(a, a * p, a)


@triton.jit
def fractional_power(x, high, low):
    """x^(high + low) for 0 <= x <= 1 and an exponent in (0, 1), of which `high` has 12 bits."""
    k, f = exponent_and_rest(x)
    k *= UNIT
    n = tl.floor(high * k + 0.5)
    r = (high * k - n) + low * k
    power = from_bits((n.to(tl.int32) + 127) << 23)
    result = power * exponential(r * LN2 + (high + low) * log_of_rest(f))
    return tl.where(x < TINY, 0.0, result)


@triton.jit
def negative(x):
    """-x; for that Triton subtracts x from 0, in an instruction of its own."""
    return -1.0 * x


@triton.jit
def rough_inverse(s):
    """1 / s for s > 0, off by some ulp: `/` takes 9 instructions, since it scales its arguments."""
    root = tl.rsqrt(s)
    return root * root


@triton.jit
def inverse_of(s):
    """1 / s, nearly rounded, for a normal s > 0; NaN at infinity."""
    q = rough_inverse(s)
    return tl.fma(q, tl.fma(negative(q), s, 1.0), q)


@triton.jit
def quotient(x, y):
    """x / y likewise, for such a y."""
    inverse = rough_inverse(y)
    q = x * inverse
    return tl.fma(inverse, tl.fma(negative(q), y, x), q)


@triton.jit
def reciprocal(s):
    """1 / s for s > 0 likewise, and 0 at infinity."""
    q = rough_inverse(s)
    return tl.fma(q, tl.fma(negative(q), tl.minimum(s, LARGEST), 1.0), q)


@triton.jit
def arctangent(s):
    """s^2 and atan(s) / (pi s) - 1 / pi for 0 <= s <= 1; the last 1 / pi is the rounded one."""
    w = s * s
    p = -0.0007598048442074662
    p = p * w + 0.004299657185531566
    p = p * w - 0.011418265490611632
    p = p * w + 0.019894907245876396
    p = p * w - 0.027555706244291704
    p = p * w + 0.035121561997242194
    p = p * w - 0.04545009593110347
    p = p * w + 0.06366114749785445
    p = p * w - 0.10610329030077986
    return w, p * w + INV_PI_LOW
