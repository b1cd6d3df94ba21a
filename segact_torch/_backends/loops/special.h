/* Elementary functions, written to be vectorised: without branches, and without calls except of
   inline functions. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define R(number) ((real)(number))

INLINE bits to_bits(real x) {
    bits b;
    memcpy(&b, &x, sizeof b);
    return b;
}

INLINE real from_bits(bits b) {
    real x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* The polynomial with the coefficients of FIT, at v: p + v q with p and q in v^2, since two short
   chains of products take less time than a long one. */
#define FIRST(c) real p = R(c), q = 0, next;
#define NEXT(c) next = q * square + R(c), q = p, p = next;
#define POLYNOMIAL(NAME, FIT)                                                                      \
    INLINE real NAME(real v) {                                                                     \
        real square = v * v;                                                                       \
        FIT(FIRST, NEXT)                                                                           \
        return p + q * v;                                                                          \
    }
POLYNOMIAL(exp_of, EXP)
POLYNOMIAL(log1p_of, LOG1P)
POLYNOMIAL(atan_of, ATAN)
POLYNOMIAL(scaled_tail_of, SCALED_TAIL)

/* exp(high + low) for high < 88 and a small low; 0 below the smallest normal number. */
INLINE real exponential(real high, real low) {
    const real shift = R((bits)3 << (MANTISSA - 1)); /* adding it rounds to an integer */
    real shifted = high * R(1.44269504088896341) + shift;
    real k = shifted - shift;
    real r = ((high - k * LN2_HIGH) - k * LN2_LOW) + low;
    real whole = 1 + r; /* its rounding error is added to the rest */
    real mantissa = whole + (exp_of(r) * (r * r) + (r - (whole - 1)));
    bits exponent = to_bits(shifted) - to_bits(shift) + BIAS;
    return high + low < LOG_TINY ? 0 : mantissa * from_bits(exponent << MANTISSA);
}

/* k ln 2 + f + rest */
struct logarithm {
    real k, f, rest;
};

/* log(s (1 + lost)), where `lost` is the relative rounding error of s; s is normal. */
INLINE struct logarithm logarithm_of(real s, real lost) {
    const bits one = (bits)BIAS << MANTISSA, fraction = ((bits)1 << MANTISSA) - 1;
    const bits root_half = to_bits(R(0.70710678118654752));
    const real whole = R((bits)1 << MANTISSA); /* its last digit is 1 */
    bits b = to_bits(s) + (one - root_half);
    real k = from_bits((b >> MANTISSA) | to_bits(whole)) - (whole + BIAS);
    real f = from_bits((b & fraction) + root_half) - 1; /* [sqrt(1/2), sqrt(2)) - 1 */
    real v = f / (2 + f), w = v * v;
    /* log(1 + f) = 2 atanh(v) = f - v (f - 2 v^2 p) */
    real rest = (lost + k * LN2_LOW) - v * (f - 2 * w * log1p_of(w));
    return (struct logarithm){k, f, rest};
}

INLINE real logarithm(real s, real lost) {
    struct logarithm l = logarithm_of(s, lost);
    return (l.f + l.rest) + l.k * LN2_HIGH;
}

/* x with the leading half of its digits. */
INLINE real leading(real x) { return from_bits(to_bits(x) & ~(bits)HALF_MANTISSA); }

/* e^g for 0 <= e <= 1 and 0 <= g; 0 for a subnormal e, unless g is 0. The logarithm and the product
   are in two parts each, since the absolute error of the exponent is the relative one of e^g. */
INLINE real power(real e, real g) {
    struct logarithm l = logarithm_of(e < TINY ? R(1) : e, 0);
    real large = l.k * LN2_HIGH, high = large + l.f, low = ((large - high) + l.f) + l.rest;
    real top = leading(high), g_top = leading(g);
    real product = g_top * top, rest = (g_top * (high - top) + (g - g_top) * high) + g * low;
    real sum = product + rest;
    real result = exponential(sum, (product - sum) + rest);
    return (e < TINY) & (g > 0) ? 0 : result;
}

/* atan(s) for 0 <= s <= 1. */
INLINE real arctangent(real s) {
    real w = s * s;
    return s + s * (w * atan_of(w));
}
