# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The kernels: from elementary functions by activations and losses to blocks of elements.

All arithmetic is in float32. `/` and `tl.rsqrt` are the device's quick ones, off by 2 ulp at most:
they only start the Newton step of `inverse_of` and the like, which rounds as well as `tl.div_rn`
and takes a few instructions of its twenty. `tl.exp`, `tl.log`, `tl.sqrt` would be off by more.
Contraction into fused multiply-adds is harmless everywhere: a product that something is compensated
for is either exact, or the difference is a rounding of what is small. The tests interpret the
kernels with the worst of these quotients, and with every product fused that can be.
"""

import triton
import triton.language as tl

# ---- elementary functions; the constants are printed by scripts/fit_special.py ----

INFINITY = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))
# The smallest normal number, and the largest.
TINY = tl.constexpr(1.1754943508222875e-38)
LARGEST = tl.constexpr(3.4028234663852886e38)
# From here on a tail is its leading term.
FAR = tl.constexpr(1e12)

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


# ---- the activations, at the distance t >= 0 from where F is 1/2: for each
# shares: the tail a = F(-t) and the density;
# surprise: a, then for the outcomes beside the tail (probability 1 - a) and in it (probability a)
# -log of the probability, and the density divided by it. All are NaN for t = NaN. Where there is an
# epsilon, a is at least that, and all follows from the shares ----


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


# ---- the losses of an element: value and slope in x ----


@triton.jit
def sided(on, off, below):
    """Of what weighs 1 and 0: what is beside the tail, and what is in it."""
    return tl.where(below, off, on), tl.where(below, on, off)


@triton.jit
def weighed_surprise(on, off, near, far, flat, steep, below):
    """Loss and slope where class 1 weighs `on` and class 0 `off`."""
    beside_it, in_it = sided(on, off, below)
    # in the tail what weighs 0 may be infinite
    loss = beside_it * near + unless_zero(in_it, far)
    slope = beside_it * flat - unless_zero(in_it, steep)
    return loss, tl.where(below, slope, -slope)


@triton.jit
def entropy(x, y, w, pos_weight, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """w (pos_weight y (-log F(x)) + (1 - y) (-log(1 - F(x))))."""
    _, near, far, flat, steep = surprise(x, epsilon, ACTIVATION, SQUEEZED)
    on, off = w * pos_weight * y, w * (1.0 - y)
    return weighed_surprise(on, off, near, far, flat, steep, is_below(x, ACTIVATION))


@triton.jit
def squared(x, y, w, epsilon, ACTIVATION: tl.constexpr, SQUEEZED: tl.constexpr):
    """w (F(x) - y)^2."""
    p, q, density = shares(x, epsilon, ACTIVATION, SQUEEZED)
    d = (1.0 - y) * p - y * q
    return w * (d * d), w * (2.0 * d * density)


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
def focal(
    x,
    y,
    w,
    alpha,
    gamma,
    high,
    low,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    ALPHA: tl.constexpr,
    WHOLE: tl.constexpr,
    FRACTION: tl.constexpr,
):
    """w a e^gamma times the cross entropy, e = y (1 - F(x)) + (1 - y) F(x), a = alpha y + ..."""
    if ALPHA:
        w = w * (y * alpha + (1.0 - y) * (1.0 - alpha))
        x = tl.where(w == 0.0, 0.0, x)
    a, near, far, flat, steep = surprise(x, epsilon, ACTIVATION, SQUEEZED)
    below = is_below(x, ACTIVATION)
    loss, slope = weighed_surprise(y, 1.0 - y, near, far, flat, steep, below)
    beside_it, in_it = sided(y, 1.0 - y, below)
    e = beside_it * a + in_it * (1.0 - a)
    density = (1.0 - a) * flat
    power = fractional_power(e, high, low) if FRACTION else tl.full(x.shape, 1.0, tl.float32)
    if WHOLE == 0:  # one less, of an exponent below 1
        less = tl.where(e < TINY, 0.0, tl.div_rn(power, tl.where(e < TINY, 1.0, e)))
    else:
        rest: tl.constexpr = WHOLE - 1
        square = e
        less = power
        for bit in tl.static_range(10):
            if (rest >> bit) & 1:
                less = less * square
            if (rest >> (bit + 1)) > 0:
                square = square * square
        power = less * e
    # an infinite loss is beyond where the density has any size
    moved = (gamma - 2.0 * gamma * y) * (less * tl.where(loss == INFINITY, 0.0, loss) * density)
    return w * unless_zero(power, loss), w * (moved + unless_zero(power, slope))


# ---- blocks: each program has BLOCK elements of one row ----


@triton.jit
def start_of(length, parts, SINGLE: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr):
    """Row and start of a program's part, the offsets of a block, and where in the row it starts."""
    program = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    if SINGLE:  # so that the compiler knows how the data is aligned
        row = program * 0
        within = program.to(tl.int64) * PART
        start = within
    else:
        row = program // parts
        within = (program % parts).to(tl.int64) * PART
        start = row.to(tl.int64) * length + within
    return row, start, offsets, within


@triton.jit
def place(length, blocks, SINGLE: tl.constexpr, BLOCK: tl.constexpr):
    """Row, start and offsets of a program's block, and which elements there are."""
    row, start, offsets, within = start_of(length, blocks, SINGLE, BLOCK, BLOCK)
    return row, start, offsets, within + offsets < length


@triton.jit
def load(x, y, w, start, offsets, there, WEIGHTED: tl.constexpr, GUARDED: tl.constexpr):
    """x, y and w in float32, harmless where the weight is 0; where there is none, it is 0.

    GUARDED targets are `in_range`, as in _batch.py.
    """
    x = tl.load(x + start + offsets, there, other=0.0).to(tl.float32)
    y = tl.load(y + start + offsets, there, other=0).to(tl.float32)
    if WEIGHTED:
        w = tl.load(w + start + offsets, there, other=0).to(tl.float32)
        x, y = tl.where(w == 0.0, 0.0, x), tl.where(w == 0.0, 0.0, y)
    else:
        w = tl.full(x.shape, 1.0, tl.float32)
    if GUARDED:
        inside = tl.where(y < 0.0, 0.0, tl.where(y > 1.0, 1.0, y))
        y = tl.where(tl.abs(y - 0.5) <= 1.0, inside, NAN)
    return x, y, w


@triton.jit
def total(values, there):
    """The sum, in float32."""
    return tl.sum(tl.where(there, values, 0.0), 0)


@triton.jit
def far_total(values, there):
    """The sum in float64, also where that in float32 overflows: losses can be of any size."""
    result = total(values, there).to(tl.float64)
    if result == INFINITY:
        result = tl.sum(tl.where(there, values, 0.0).to(tl.float64), 0)
    return result


@triton.jit
def losses(
    x,
    y,
    w,
    factors,
    out,
    gradient,
    length,
    blocks,
    scale,
    label_smoothing,
    pos_weight,
    alpha,
    gamma,
    high,
    low,
    epsilon,
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GUARDED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
    EACH_POSITIVE: tl.constexpr,
    ALPHA: tl.constexpr,
    WHOLE: tl.constexpr,
    FRACTION: tl.constexpr,
    EACH: tl.constexpr,
    GRADIENT: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Losses, or the sum of the block's, into `out`; their gradients times `scale`.

    The weight of class 1 is `pos_weight`, or that of each element among `factors`.
    """
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED, GUARDED)
    if SMOOTHED:
        y = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if LOSS == "cross_entropy":
        factor = 1.0
        if EACH_POSITIVE:
            factor = tl.load(factors + start + offsets, there, other=1).to(tl.float32)
        elif POSITIVE:
            factor = pos_weight
        if EACH_POSITIVE or POSITIVE:
            x = tl.where((y == 1.0) & (factor * y == 0.0), 0.0, x)  # weighs nothing
        loss, slope = entropy(x, y, w, factor, epsilon, ACTIVATION, SQUEEZED)
    elif LOSS == "squared_error":
        loss, slope = squared(x, y, w, epsilon, ACTIVATION, SQUEEZED)
    else:
        loss, slope = focal(
            x, y, w, alpha, gamma, high, low, epsilon, ACTIVATION, SQUEEZED, ALPHA, WHOLE, FRACTION
        )
    if GRADIENT:
        tl.store(gradient + start + offsets, slope * scale, there)
    if EACH:
        tl.store(out + start + offsets, loss, there)
    else:
        tl.store(out + tl.program_id(0), far_total(loss, there))


@triton.jit
def overlap(
    x,
    y,
    w,
    out,
    length,
    blocks,
    tp,
    fp,
    fn,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GUARDED: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The block's fp FP + fn FN and tp TP + fp FP + fn FN into `out` (2, programs)."""
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED, GUARDED)
    p, q, _ = shares(x, epsilon, ACTIVATION, SQUEEZED)
    error = total(w * (fp * ((1.0 - y) * p) + fn * (y * q)), there)
    out += tl.program_id(0)
    tl.store(out, error)
    tl.store(out + tl.num_programs(0).to(tl.int64), tp * total(w * y * p, there) + error)


@triton.jit
def ratio(
    sums,
    value,
    slopes,
    length,
    blocks,
    smooth,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The first of the sums (2, length) over the second plus `smooth`, and the slopes in the two.

    All are 0 where that is 0, as in _sums.py. It works in float64, which the sums are in.
    """
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    error = tl.load(sums + start + offsets, there, other=0.0)
    whole = tl.load(sums + length + start + offsets, there, other=0.0) + smooth
    whole = tl.where(whole < TINY, INFINITY, whole)
    found = error / whole
    tl.store(value + start + offsets, found, there)
    tl.store(slopes + start + offsets, 1.0 / whole, there)
    tl.store(slopes + length + start + offsets, -found / whole, there)


@triton.jit
def overlap_gradient(
    x,
    y,
    w,
    slopes,
    upstream,
    gradient,
    length,
    blocks,
    rows,
    tp,
    fp,
    fn,
    epsilon,
    ACTIVATION: tl.constexpr,
    SQUEEZED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GUARDED: tl.constexpr,
    RATIO: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of a loss whose slopes in the two sums are `slopes` (2, rows).

    Where it is a function of a RATIO of them, that has these slopes, and `upstream` (rows) it.
    """
    row, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    of_error, of_whole = tl.load(slopes + row), tl.load(slopes + rows + row)
    if RATIO:
        factor = tl.load(upstream + row)
        of_error, of_whole = weigh(factor, of_error), weigh(factor, of_whole)
    on, off = (tp - fn) * of_whole - fn * of_error, fp * (of_error + of_whole)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED, GUARDED)
    _, _, density = shares(x, epsilon, ACTIVATION, SQUEEZED)
    slope = weigh(w * (1.0 - y), off) + weigh(w * y, on)
    tl.store(gradient + start + offsets, weigh(density, slope), there)


@triton.jit
def rescale(
    gradient,
    into,
    upstream,
    length,
    chunks,
    FRESH: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Multiplies chunks of rows by what is upstream of each, in place unless `into` is FRESH.

    In place it moves nothing where that is 1.
    """
    row, start, offsets, within = start_of(length, chunks, SINGLE, BLOCK, CHUNK)
    factor = tl.load(upstream + row).to(tl.float32)
    if FRESH or factor != 1.0:
        left = length - within
        for turn in range(CHUNK // BLOCK):
            at = turn * BLOCK + offsets
            values = tl.load(gradient + start + at, at < left, other=0.0)
            tl.store(into + start + at, weigh(factor, values), at < left)


@triton.jit
def multiply(gradient, upstream, length, blocks, SINGLE: tl.constexpr, BLOCK: tl.constexpr):
    """Multiplies each element by its own, likewise."""
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    factor = tl.load(upstream + start + offsets, there, other=1.0).to(tl.float32)
    there = there & (factor != 1.0)
    values = tl.load(gradient + start + offsets, there, other=0.0)
    tl.store(gradient + start + offsets, weigh(factor, values), there)
