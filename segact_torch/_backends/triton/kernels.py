# mypy: allow-untyped-defs, disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""The kernels: from elementary functions by activations and losses to blocks of elements.

All arithmetic is in float32. `/` is the device's quick division, off by 2 ulp at most: it stands
where that cannot be seen in the result, and in hazards and densities, whose bounds leave room for
it. `tl.exp`, `tl.log` and `tl.sqrt` would be off by more. Contraction into fused multiply-adds is
harmless everywhere: a product that something is compensated for is either exact, or the difference
is a rounding of what is small.
"""

import triton
import triton.language as tl

# ---- elementary functions; the constants are printed by scripts/fit_special.py ----

INFINITY = tl.constexpr(float("inf"))
# The smallest normal number.
TINY = tl.constexpr(1.1754943508222875e-38)
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
def exponential(x):
    """exp(x) for x < 88; 0 below the smallest normal number."""
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
    mantissa = (p * (r * r) + r) + 1.0
    power = from_bits((to_bits(shifted) - 0x4B400000 + 127) << 23)
    return tl.where(x < -87.3365, 0.0, mantissa * power)


@triton.jit
def logarithm(s, lost):
    """log(s + lost), where `lost` is what rounding took from s <= 2; s is normal, or infinite."""
    bits = to_bits(s) + (0x3F800000 - 0x3F3504F3)
    k = ((bits >> 23) - 127).to(tl.float32)
    f = from_bits((bits & 0x7FFFFF) + 0x3F3504F3) - 1.0  # [sqrt(1/2), sqrt(2)) - 1
    # log(1 + f) = f - f^2 / 2 + f^3 p, which needs no division
    p = -0.0790274377239344
    p = p * f + 0.12622319849228378
    p = p * f - 0.1299818376365153
    p = p * f + 0.14214495923947962
    p = p * f - 0.16641281463106394
    p = p * f + 0.2000104509416068
    p = p * f - 0.25000306422569796
    p = p * f + 0.33333330728190674
    # 2 - s is 1 / s where what was lost counts, which is close to 1
    rest = (lost * (2.0 - s) + k * LN2_LOW) - f * f * (0.5 - f * p)
    return tl.where(s < INFINITY, (f + rest) + k * LN2_HIGH, s)


@triton.jit
def arctangent(s):
    """atan(s) for 0 <= s <= 1."""
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
    return s + s * (w * p)


# ---- the activations: for each
# shares: F(x), 1 - F(x) and the density, from F(-t) and the density at t = abs(x);
# surprise: -log F(z) and the hazard pdf(z) / F(z) ----


@triton.jit
def shares_of(x, mass, density):
    below = x < 0.0
    return tl.where(below, mass, 1.0 - mass), tl.where(below, 1.0 - mass, mass), density


@triton.jit
def sigmoid_shares(x):
    e = exponential(-tl.abs(x))
    inverse = tl.div_rn(1.0, 1.0 + e)
    a = e * inverse
    return tl.where(x < 0.0, a, inverse), tl.where(x < 0.0, inverse, a), a * inverse


@triton.jit
def sigmoid_surprise(z):
    below = z < 0.0
    t = tl.abs(z)
    e = exponential(-t)
    s = 1.0 + e
    loss = logarithm(s, e - (s - 1.0)) + tl.where(below, t, 0.0)
    return loss, tl.where(below, 1.0, e) / s


INV_SQRT_TWO_PI = tl.constexpr(0.398942280401432678)
# The part of it that float32 cannot hold in one number.
INV_SQRT_TWO_PI_HIGH = tl.constexpr(0.39892578125)
INV_SQRT_TWO_PI_LOW = tl.constexpr(1.6499151432678e-5)


@triton.jit
def bell(t):
    """(high, low): exp(-t^2 / 2) = high (1 + low), from the exact square of leading bits."""
    bounded = tl.where(t > 14.0, 14.0, t)  # from where on it is 0
    lead = from_bits(to_bits(bounded) & ~0xFFF)
    rest = bounded - lead
    r = -rest * (lead + 0.5 * rest)
    low = r * (1.0 + r * (0.5 + r * (0.16666666666666666 + r * 0.041666666666666664)))
    return exponential(-0.5 * (lead * lead)), low


@triton.jit
def scaled_numerator(t):
    """n with exp(t^2 / 2) F(-t) = (1/2 + n) / (t + 5/4)."""
    v = t / (t + 4.0) - 0.5
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
    t = tl.where(t > 1e30, 1e30, t)
    high, low = bell(t)
    n = scaled_numerator(t)
    over, under = 0.5 + n, t + 1.25
    scaled = tl.div_rn(over, under)
    # what both sums lost counts in the product, to a quarter: `over` is about 1/2
    lost_over, lost_under = n - (over - 0.5), t - (under - 1.25)
    better = low + 2.0 * (lost_over - lost_under * scaled)
    density = high * (INV_SQRT_TWO_PI_HIGH + (INV_SQRT_TWO_PI * low + INV_SQRT_TWO_PI_LOW))
    return high * (scaled + scaled * better), scaled, density, over


@triton.jit
def normal_shares(x):
    mass, _, density, _ = normal_tail(tl.abs(x))
    return shares_of(x, mass, density)


@triton.jit
def normal_surprise(z):
    below = z < 0.0
    t = tl.abs(z)
    mass, scaled, density, over = normal_tail(t)
    f = tl.where(below, scaled, 1.0 - mass)
    lost = tl.where(below, 0.0, (1.0 - f) - mass)
    loss = tl.where(below, (0.5 * t) * t, 0.0) - logarithm(f, lost)
    ratio = tl.where(below, INV_SQRT_TWO_PI, density) / tl.where(below, over, f)
    # below, it tends to 1: rounded beyond, the largest floats would overflow
    return loss, tl.where(below, (t + 1.25) * tl.where(ratio > 1.0, 1.0, ratio), ratio)


PI, INV_PI = tl.constexpr(3.14159265358979324), tl.constexpr(0.318309886183790672)
LOG_PI = tl.constexpr(1.14472988584940017)
# What rounding takes from pi / 2.
HALF_PI, HALF_PI_LOW = tl.constexpr(1.57079632679489662), tl.constexpr(-4.37113900018624283e-8)


@triton.jit
def arctan_mass(t):
    outside = t > 1.0
    angle = arctangent(tl.where(outside, tl.div_rn(1.0, tl.where(outside, t, 1.0)), t))
    return tl.where(outside, angle, HALF_PI - (angle - HALF_PI_LOW)) * INV_PI


@triton.jit
def arctan_shares(x):
    return shares_of(x, arctan_mass(tl.abs(x)), INV_PI / (1.0 + x * x))


@triton.jit
def arctan_surprise(z):
    below = z < 0.0
    t = tl.abs(z)
    far = below & (t > FAR)
    mass = arctan_mass(t)
    f = tl.where(below, mass, 1.0 - mass)
    lost = tl.where(below, 0.0, (1.0 - f) - mass)
    log = logarithm(tl.where(far, t, f), lost)
    return tl.where(far, LOG_PI + log, -log), 1.0 / tl.where(far, t, (1.0 + t * t) * (PI * f))


@triton.jit
def softsign_shares(x):
    inverse = tl.div_rn(1.0, 1.0 + tl.abs(x))
    return shares_of(x, 0.5 * inverse, 0.5 * inverse * inverse)


@triton.jit
def softsign_surprise(z):
    below = z < 0.0
    t = tl.abs(z)
    inverse = tl.div_rn(1.0, 1.0 + t)
    mass = 0.5 * inverse
    f = 1.0 - mass
    # 1 / F(-t) is 2 (1 + t), and F(t) is (1/2 + t) / (1 + t)
    log = logarithm(tl.where(below, 1.0 + t, f), tl.where(below, 0.0, (1.0 - f) - mass))
    return tl.where(below, LN2 + log, -log), tl.where(below, inverse, mass / (0.5 + t))


@triton.jit
def inverse_square_root_shares(x):
    t = tl.abs(x)
    square = 1.0 + t * t
    h = tl.sqrt_rn(square)
    return shares_of(x, tl.div_rn(0.5, square + t * h), tl.div_rn(0.5, square * h))


@triton.jit
def inverse_square_root_surprise(z):
    below = z < 0.0
    t = tl.abs(z)
    far = below & (t > FAR)
    square = 1.0 + t * t
    h = tl.sqrt_rn(square)
    half = square + t * h  # of 1 / F(-t); far away that is (2 t)^2
    mass = tl.div_rn(0.5, half)
    f = 1.0 - mass
    s = tl.where(far, t, tl.where(below, half, f))
    log = logarithm(s, tl.where(below, 0.0, (1.0 - f) - mass))
    loss = tl.where(below, tl.where(far, 2.0, 1.0) * (log + LN2), -log)
    # F(t) = (h + t) / (2 h)
    over = tl.where(far, 2.0, tl.where(below, h + t, 1.0))
    under = tl.where(far, t, square * tl.where(below, 1.0, h + t))
    return loss, over / under


# The squeeze that is the default.
EPSILON = tl.constexpr(1e-7)


@triton.jit
def clipped(x):
    above = tl.where(x < EPSILON, EPSILON, x)
    return tl.where(above > 1.0 - EPSILON, 1.0 - EPSILON, above)


@triton.jit
def hardtanh_inside(x):
    return tl.where((x > EPSILON) & (1.0 - x > EPSILON), 1.0, 0.0)


@triton.jit
def hardtanh_shares(x):
    return clipped(x), clipped(1.0 - x), hardtanh_inside(x)


@triton.jit
def hardtanh_surprise(x, on):
    s = tl.where(on, x, 1.0 - x)
    lost = tl.where(on, 0.0, (1.0 - s) - x)
    inside = hardtanh_inside(x)
    low, high = (inside == 0.0) & (s < 0.5), (inside == 0.0) & (s > 0.5)
    s = tl.where(low, EPSILON, tl.where(high, 1.0, s))
    lost = tl.where(low, 0.0, tl.where(high, -EPSILON, lost))
    return -logarithm(s, lost), tl.div_rn(inside, s)


@triton.jit
def shares(x, ACTIVATION: tl.constexpr):
    """F(x), 1 - F(x) and the density."""
    if ACTIVATION == "sigmoid":
        return sigmoid_shares(x)
    elif ACTIVATION == "normal_cdf":
        return normal_shares(x)
    elif ACTIVATION == "arctan":
        return arctan_shares(x)
    elif ACTIVATION == "softsign":
        return softsign_shares(x)
    elif ACTIVATION == "inverse_square_root":
        return inverse_square_root_shares(x)
    else:
        return hardtanh_shares(x)


@triton.jit
def surprise(x, on, ACTIVATION: tl.constexpr):
    """-log F(x) where the target is on, -log(1 - F(x)) where not, and pdf / F or pdf / (1 - F)."""
    z = tl.where(on, x, -x)
    if ACTIVATION == "sigmoid":
        return sigmoid_surprise(z)
    elif ACTIVATION == "normal_cdf":
        return normal_surprise(z)
    elif ACTIVATION == "arctan":
        return arctan_surprise(z)
    elif ACTIVATION == "softsign":
        return softsign_surprise(z)
    elif ACTIVATION == "inverse_square_root":
        return inverse_square_root_surprise(z)
    else:
        return hardtanh_surprise(x, on)


# ---- the losses of an element: value and slope in x ----


@triton.jit
def hard_entropy(x, y, w, pos_weight, ACTIVATION: tl.constexpr):
    on = y > 0.5
    weight = tl.where(on, w * pos_weight, w)
    loss, hazard = surprise(tl.where(weight == 0.0, 0.0, x), on, ACTIVATION)
    return weight * loss, tl.where(on, -weight, weight) * hazard


@triton.jit
def soft_entropy(x, y, w, pos_weight, ACTIVATION: tl.constexpr):
    on, off = w * pos_weight * y, w * (1.0 - y)
    loss, hazard = surprise(x, tl.full(x.shape, 1, tl.int1), ACTIVATION)
    loss_off, hazard_off = surprise(x, tl.full(x.shape, 0, tl.int1), ACTIVATION)
    return weigh(on, loss) + weigh(off, loss_off), weigh(off, hazard_off) - weigh(on, hazard)


@triton.jit
def entropy(x, y, w, pos_weight, ACTIVATION: tl.constexpr, HARD: tl.constexpr, SOFT: tl.constexpr):
    """w (pos_weight y (-log F(x)) + (1 - y) (-log(1 - F(x)))); HARD or SOFT if that is known."""
    if HARD:
        loss, slope = hard_entropy(x, y, w, pos_weight, ACTIVATION)
    elif SOFT:
        loss, slope = soft_entropy(x, y, w, pos_weight, ACTIVATION)
    else:
        if tl.max(((y != 0.0) & (y != 1.0)).to(tl.int32), 0) == 0:
            loss, slope = hard_entropy(x, y, w, pos_weight, ACTIVATION)
        else:
            loss, slope = soft_entropy(x, y, w, pos_weight, ACTIVATION)
    return loss, slope


@triton.jit
def squared(x, y, w, ACTIVATION: tl.constexpr):
    """w (F(x) - y)^2."""
    p, q, density = shares(x, ACTIVATION)
    d = (1.0 - y) * p - y * q
    return w * (d * d), w * (2.0 * d * density)


@triton.jit
def fractional_power(x, high, low):
    """x^(high + low) for 0 <= x <= 1 and an exponent in (0, 1), of which `high` has 12 bits."""
    bits = to_bits(x) + (0x3F800000 - 0x3F3504F3)
    k = ((bits >> 23) - 127).to(tl.float32)
    mantissa = from_bits((bits & 0x7FFFFF) + 0x3F3504F3)
    n = tl.floor(high * k + 0.5)
    r = (high * k - n) + low * k
    power = from_bits((n.to(tl.int32) + 127) << 23)
    result = power * exponential(r * LN2 + (high + low) * logarithm(mantissa, 0.0))
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
    ACTIVATION: tl.constexpr,
    HARD: tl.constexpr,
    SOFT: tl.constexpr,
    ALPHA: tl.constexpr,
    WHOLE: tl.constexpr,
    FRACTION: tl.constexpr,
):
    """w a e^gamma times the cross entropy, e = y (1 - F(x)) + (1 - y) F(x), a = alpha y + ..."""
    if ALPHA:
        w = w * (y * alpha + (1.0 - y) * (1.0 - alpha))
        x = tl.where(w == 0.0, 0.0, x)
    ones = tl.full(x.shape, 1.0, tl.float32)
    loss, slope = entropy(x, y, ones, 1.0, ACTIVATION, HARD, SOFT)
    p, q, density = shares(x, ACTIVATION)
    e = y * q + (1.0 - y) * p
    power = fractional_power(e, high, low) if FRACTION else ones
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
    # in this order, what underflows is lost for good
    moved = gamma * ((1.0 - 2.0 * y) * weigh(weigh(less, loss), density))
    return weigh(w, weigh(power, loss)), weigh(w, moved + weigh(power, slope))


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
def load(x, y, w, start, offsets, there, WEIGHTED: tl.constexpr):
    """x, y and w in float32, harmless where the weight is 0; where there is none, it is 0."""
    x = tl.load(x + start + offsets, there, other=0.0).to(tl.float32)
    y = tl.load(y + start + offsets, there, other=0).to(tl.float32)
    if WEIGHTED:
        w = tl.load(w + start + offsets, there, other=0).to(tl.float32)
        x, y = tl.where(w == 0.0, 0.0, x), tl.where(w == 0.0, 0.0, y)
    else:
        w = tl.full(x.shape, 1.0, tl.float32)
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
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    POSITIVE: tl.constexpr,
    ALPHA: tl.constexpr,
    WHOLE: tl.constexpr,
    FRACTION: tl.constexpr,
    EACH: tl.constexpr,
    GRADIENT: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Losses, or the sum of the block's, into `out`; their gradients times `scale`."""
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED)
    if SMOOTHED:
        y = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if LOSS == "cross_entropy":
        factor = pos_weight if POSITIVE else 1.0
        loss, slope = entropy(x, y, w, factor, ACTIVATION, False, SMOOTHED)
    elif LOSS == "squared_error":
        loss, slope = squared(x, y, w, ACTIVATION)
    else:
        loss, slope = focal(
            x, y, w, alpha, gamma, high, low, ACTIVATION, False, SMOOTHED, ALPHA, WHOLE, FRACTION
        )
    if GRADIENT:
        tl.store(gradient + start + offsets, slope * scale, there)
    if EACH:
        tl.store(out + start + offsets, loss, there)
    else:
        tl.store(out + tl.program_id(0), far_total(loss, there))


@triton.jit
def areas(
    x,
    y,
    w,
    out,
    length,
    blocks,
    ACTIVATION: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The block's sums of w y F(x), w (1 - y) F(x) and w y (1 - F(x)) into `out` (3, programs)."""
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED)
    p, q, _ = shares(x, ACTIVATION)
    out += tl.program_id(0)
    programs = tl.num_programs(0).to(tl.int64)
    tl.store(out, total(w * y * p, there))
    tl.store(out + programs, total(w * (1.0 - y) * p, there))
    tl.store(out + 2 * programs, total(w * y * q, there))


@triton.jit
def areas_gradient(
    x,
    y,
    w,
    slopes,
    gradient,
    length,
    blocks,
    rows,
    ACTIVATION: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of a loss whose slopes in the areas are `slopes` (3, rows)."""
    row, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    on = tl.load(slopes + row) - tl.load(slopes + 2 * rows + row)
    off = tl.load(slopes + rows + row)
    x, y, w = load(x, y, w, start, offsets, there, WEIGHTED)
    _, _, density = shares(x, ACTIVATION)
    slope = weigh(w * (1.0 - y), off) + weigh(w * y, on)
    tl.store(gradient + start + offsets, weigh(density, slope), there)


@triton.jit
def rescale(
    gradient,
    upstream,
    length,
    chunks,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Multiplies chunks of rows by what is upstream of each, and moves nothing where that is 1."""
    row, start, offsets, within = start_of(length, chunks, SINGLE, BLOCK, BLOCK * BLOCKS)
    factor = tl.load(upstream + row).to(tl.float32)
    if factor != 1.0:
        for turn in range(BLOCKS):
            at = offsets + turn * BLOCK
            there = within + at < length
            values = tl.load(gradient + start + at, there, other=0.0)
            tl.store(gradient + start + at, weigh(factor, values), there)


@triton.jit
def multiply(gradient, upstream, length, blocks, SINGLE: tl.constexpr, BLOCK: tl.constexpr):
    """Multiplies each element by its own, likewise."""
    _, start, offsets, there = place(length, blocks, SINGLE, BLOCK)
    factor = tl.load(upstream + start + offsets, there, other=1.0).to(tl.float32)
    there = there & (factor != 1.0)
    values = tl.load(gradient + start + offsets, there, other=0.0)
    tl.store(gradient + start + offsets, weigh(factor, values), there)
