/* The activations. The smooth ones are symmetric; each is computed from its tail F(-t) and its
   density at t = abs(x) >= 0. */

#include "special.h"

/* Of eps + (1 - 2 eps) F(x): eps and 1 - 2 eps; for linear the minimum and maximum of x. */
struct setting {
    real epsilon, scale, low, high;
};

/* F, -log F and pdf / F at x, or the same of 1 - F. */
struct side {
    real mass, loss, hazard;
};
struct point {
    struct side on, off; /* of F(x) and of 1 - F(x) */
    real density;
};

/* The relative rounding error of f = 1 - a for 0 <= a <= 1/2, to two digits: 1 / f, without a
   division, is about 1 + a + 2 a^2. */
INLINE real lost_of(real f, real a) { return ((1 - f) - a) * (1 + a * (1 + 2 * a)); }

/* A side whose mass is a if `far`, else 1 - a. */
INLINE struct side side_of(int far, real a, real density) {
    real f = far ? a : 1 - a;
    return (struct side){f, -logarithm(f, far ? 0 : lost_of(f, a)), density / f};
}

/* Both sides from a, the smaller of F(x) and 1 - F(x); `below`: it is F(x). */
INLINE struct point point_of(int below, real a, real density) {
    return (struct point){side_of(below, a, density), side_of(!below, a, density), density};
}

/* Both sides with epsilon, from the tail and the density without it. */
INLINE struct point squeezed(real x, real tail, real density, struct setting s) {
    return point_of(x < 0, s.epsilon + s.scale * tail, s.scale * density);
}

INLINE struct point sigmoid(real x, struct setting s) {
    (void)s;
    int below = x < 0;
    real t = ABS(x), e = exponential(-t, 0), sum = 1 + e, near = 1 / sum, far = e / sum;
    real loss = logarithm(sum, (e - (sum - 1)) * near); /* -log F(t) */
    struct side at_far = {far, loss + t, near}, at_near = {near, loss, far};
    struct point p = {below ? at_far : at_near, below ? at_near : at_far, far * near};
    return p;
}

INLINE struct point sigmoid_squeezed(real x, struct setting s) {
    real e = exponential(-ABS(x), 0), near = 1 / (1 + e), far = e / (1 + e);
    return squeezed(x, far, far * near, s);
}

/* exp(-t^2 / 2) = high (1 + low), from the exact square of the leading digits of t. */
struct bell {
    real lead, high, low;
};

INLINE struct bell bell(real t) {
    real bounded = t > ZERO_FROM ? ZERO_FROM : t;
    real lead = leading(bounded), rest = bounded - lead;
    real r = -rest * (lead + R(0.5) * rest);
    real low = r * (1 + r * (R(0.5) + r * (R(1) / 6 + r * (R(1) / 24))));
    return (struct bell){lead, exponential(R(-0.5) * (lead * lead), 0), low};
}

static const real INV_SQRT_TWO_PI = R(0.398942280401432678);

struct normal {
    real half, d, scaled; /* half / d = scaled = exp(t^2 / 2) F(-t), d = t + 5/4 */
    real mass, density;
};

INLINE struct normal normal_of(real t) {
    struct bell b = bell(t);
    real n = scaled_tail_of(t / (t + 4) - R(0.5)), half = R(0.5) + n;
    real d = t + R(1.25), inverse = 1 / d;
    /* divided by lead + 5/4, which is exact, the quotient is off by the factor 1 - off */
    real bounded = t > ZERO_FROM ? ZERO_FROM : t, off = (bounded - b.lead) * inverse;
    real low = b.low - off * (1 + b.low);
    real mass = b.high * ((R(0.5) + (n + half * low)) / (b.lead + R(1.25)));
    real density =
        b.high * (INV_SQRT_TWO_PI_HIGH + (INV_SQRT_TWO_PI * b.low + INV_SQRT_TWO_PI_LOW));
    return (struct normal){half, d, half / d, mass, density};
}

INLINE struct side normal_side(int far, real t, struct normal a) {
    /* F; if `far`, times exp(t^2 / 2) */
    real f = far ? a.scaled : 1 - a.mass;
    real loss = (far ? R(0.5) * t * t : 0) - logarithm(f, far ? 0 : lost_of(f, a.mass));
    real hazard = (far ? INV_SQRT_TWO_PI * a.d : a.density) / (far ? a.half : f);
    return (struct side){far ? a.mass : f, loss, hazard};
}

INLINE struct point normal(real x, struct setting s) {
    (void)s;
    int below = x < 0;
    real t = ABS(x);
    struct normal a = normal_of(t);
    return (struct point){normal_side(below, t, a), normal_side(!below, t, a), a.density};
}

INLINE struct point normal_squeezed(real x, struct setting s) {
    struct normal a = normal_of(ABS(x));
    return squeezed(x, a.mass, a.density, s);
}

INLINE struct point arctan(real x, struct setting s) {
    const real pi = R(3.14159265358979324), half_pi = R(1.57079632679489662);
    real t = ABS(x), angle = arctangent(t > 1 ? 1 / t : t);
    angle = t > 1 ? angle : half_pi - (angle - HALF_PI_LOW);
    return squeezed(x, angle / pi, 1 / (pi * (1 + t * t)), s);
}

INLINE struct point softsign(real x, struct setting s) {
    real t = ABS(x), a = R(0.5) / (1 + t);
    return squeezed(x, a, a / (1 + t), s);
}

INLINE struct point inverse_square_root(real x, struct setting s) {
    real t = ABS(x), square = 1 + t * t, h = SQRT(square);
    return squeezed(x, R(0.5) / (square + t * h), R(0.5) / (square * h), s);
}

INLINE struct point hardtanh(real x, struct setting s) {
    int below = x < R(0.5);
    real a = below ? x : 1 - x; /* exact where it is the smaller one */
    return point_of(below, a > s.epsilon ? a : s.epsilon, a > s.epsilon ? R(1) : 0);
}

INLINE struct point linear(real x, struct setting s) {
    real width = s.high - s.low, left = x - s.low, right = s.high - x;
    int below = left < right;
    return point_of(below, s.epsilon + s.scale * ((below ? left : right) / width),
                    s.scale / width);
}
