/* Cross entropy and the sums of overlap, with their gradients, in one pass over float32.

The formulas of activations.py and _sums.py stay the definition: the judge holds these loops to
the same bounds, and what they refuse is computed there. `cpu.py` calls them.

A smooth activation is symmetric and given by its tail F(-t) and its density at t = abs(x) >= 0.
All loops are written to be vectorised: no branches, and no calls but to functions that are inlined
here.
*/

#include <math.h>
#include <stdint.h>
#include <string.h>

/* One library for every x86: the loader takes the widest version that the processor runs. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif
/* Elements summed in float32 before the partial sum is added in float64. The narrower the vectors,
   the more of them one sum takes up: with eight lanes and 512, equal ones are off by 1.3e-6. */
enum { FLOAT32_RUN = 256 };
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* Elements of a block, as in cpu.py. */
enum { BLOCK = 1024 };
/* Elements from which on a second thread is worth its start. */
enum { GRAIN = 16384 };
/* Larger raw outputs would overflow in squares and cubes. */
#define FAR 1e12f
/* How far a target may lie beyond [0, 1], as in _batch.py. */
#define SLACK 1e-6f

/* ---- elementary functions; the constants are printed by scripts/fit_special.py ---- */

INLINE int32_t to_bits(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float from_bits(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ln 2 in two parts, of which the first times a small integer is exact. */
static const float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440054690583e-4f;

/* exp(high + low) for high < 88 and a small low; 0 below the smallest normal number. */
INLINE float exponential(float high, float low) {
    const float shift = 12582912.0f; /* 3/2 2^23: adding it rounds to an integer */
    float shifted = high * 1.44269504088896341f + shift;
    float k = shifted - shift;
    float r = ((high - k * LN2_HIGH) - k * LN2_LOW) + low;
    float p = 0.00019890980869750327f;
    p = p * r + 0.0013933641031986701f;
    p = p * r + 0.008333310934448869f;
    p = p * r + 0.04166646500604005f;
    p = p * r + 0.16666666681614256f;
    p = p * r + 0.5000000013457727f;
    float mantissa = (p * (r * r) + r) + 1.0f;
    uint32_t exponent = (uint32_t)to_bits(shifted) - (uint32_t)to_bits(shift) + 127u;
    float power = from_bits((int32_t)(exponent << 23));
    return high + low < -87.3365f ? 0.0f : mantissa * power;
}

/* log(s + lost), where `lost` is what rounding took from s; s is normal. */
INLINE float logarithm(float s, float lost) {
    const int32_t root_half = 0x3f3504f3;
    int32_t bits = (int32_t)((uint32_t)to_bits(s) + (uint32_t)(0x3f800000 - root_half));
    float k = (float)((bits >> 23) - 127);
    float f = from_bits((bits & 0x7fffff) + root_half) - 1.0f; /* [sqrt(1/2), sqrt(2)) - 1 */
    float v = f / (2.0f + f), w = v * v;
    float p = 0.11612164612011674f;
    p = p * w + 0.10853287900440187f;
    p = p * w + 0.14296178997151418f;
    p = p * w + 0.1999985316596486f;
    p = p * w + 0.3333333366026371f;
    /* log(1 + f) = 2 atanh(v) = f - v (f - 2 v^2 p) */
    float rest = (lost / s + k * LN2_LOW) - v * (f - 2.0f * w * p);
    return (f + rest) + k * LN2_HIGH;
}

/* atan(s) for 0 <= s <= 1. */
INLINE float arctangent(float s) {
    float w = s * s;
    float p = 0.0014886919393047597f;
    p = p * w - 0.009144629760592396f;
    p = p * w + 0.026305001110062377f;
    p = p * w - 0.04896051402709067f;
    p = p * w + 0.07031914250029966f;
    p = p * w - 0.08931826777381315f;
    p = p * w + 0.11088261628735159f;
    p = p * w - 0.1428400379473353f;
    p = p * w + 0.19999949321141888f;
    p = p * w - 0.3333333308107325f;
    return s + s * (w * p);
}

/* ---- the activations ---- */

struct tail {
    float mass, density; /* F(-t) and pdf(t) */
};
struct surprise {
    float loss, hazard; /* -log F(z) and pdf(z) / F(z) */
};
struct shares {
    float p, q, density; /* F(x), 1 - F(x) and pdf(x) */
};
struct span {
    float low, high; /* the least and the largest x, for linear */
};

/* For tails that do not underflow up to FAR. */
INLINE struct surprise surprise_of(float z, struct tail a) {
    int below = z < 0;
    float f = below ? a.mass : 1.0f - a.mass;
    float lost = below ? 0.0f : (1.0f - f) - a.mass;
    return (struct surprise){-logarithm(f, lost), a.density / f};
}

INLINE struct shares shares_of(float x, struct tail a) {
    int below = x < 0;
    return (struct shares){below ? a.mass : 1.0f - a.mass, below ? 1.0f - a.mass : a.mass,
                           a.density};
}

INLINE struct shares sigmoid_shares(float x, struct span s) {
    (void)s;
    float e = exponential(-fabsf(x), 0.0f), inverse = 1.0f / (1.0f + e), a = e * inverse;
    return (struct shares){x < 0 ? a : inverse, x < 0 ? inverse : a, a * inverse};
}

INLINE struct surprise sigmoid_surprise(float z) {
    float t = fabsf(z), e = exponential(-t, 0.0f), s = 1.0f + e;
    float loss = logarithm(s, e - (s - 1.0f)) + (z < 0 ? t : 0.0f);
    return (struct surprise){loss, (z < 0 ? 1.0f : e) / s};
}

/* exp(-t^2 / 2) = high (1 + low), from the exact square of the leading bits of t. */
struct bell {
    float lead, high, low;
};

INLINE struct bell bell(float t) {
    float bounded = t > 14.0f ? 14.0f : t;
    float lead = from_bits(to_bits(bounded) & ~0xfff), rest = bounded - lead;
    float r = -rest * (lead + 0.5f * rest);
    float low = r * (1.0f + r * (0.5f + r * (1.0f / 6.0f + r / 24.0f)));
    return (struct bell){lead, exponential(-0.5f * (lead * lead), 0.0f), low};
}

/* exp(t^2 / 2) F(-t) = (1/2 + n) / (t + 5/4) */
INLINE float scaled_numerator(float t) {
    float v = t / (t + 4.0f) - 0.5f;
    float n = 0.0283247357754663f;
    n = n * v - 0.05460541208378212f;
    n = n * v - 0.04965036304160064f;
    n = n * v + 0.1588576077921915f;
    n = n * v - 0.0166806916052337f;
    n = n * v - 0.31116256707109075f;
    n = n * v + 0.5060506196009433f;
    n = n * v - 0.3917557367528137f;
    n = n * v + 0.0853874137819784f;
    n = n * v + 0.18037884252112035f;
    n = n * v - 0.2786058130573424f;
    return n * v - 0.004344136795443492f;
}

static const float INV_SQRT_TWO_PI = 0.398942280401432678f;
/* The part of it that float32 cannot hold in one number. */
static const float INV_SQRT_TWO_PI_HIGH = 0.39892578125f, INV_SQRT_TWO_PI_LOW = 1.6499151432678e-5f;

INLINE float normal_density(struct bell b) {
    return b.high * (INV_SQRT_TWO_PI_HIGH + (INV_SQRT_TWO_PI * b.low + INV_SQRT_TWO_PI_LOW));
}

/* F(-t): divided by lead + 5/4, which is exact, the quotient is off by the factor 1 - d. */
INLINE float normal_mass(float t, float n, struct bell b) {
    float bounded = t > 14.0f ? 14.0f : t;
    float d = (bounded - b.lead) / (bounded + 1.25f);
    float low = b.low - d * (1.0f + b.low);
    return b.high * ((0.5f + (n + (0.5f + n) * low)) / (b.lead + 1.25f));
}

INLINE struct tail normal_tail(float t) {
    struct bell b = bell(t);
    return (struct tail){normal_mass(t, scaled_numerator(t), b), normal_density(b)};
}

INLINE struct shares normal_shares(float x, struct span s) {
    (void)s;
    return shares_of(x, normal_tail(fabsf(x)));
}

INLINE struct surprise normal_surprise(float z) {
    int below = z < 0;
    float t = fabsf(z), n = scaled_numerator(t);
    struct bell b = bell(t);
    float mass = normal_mass(t, n, b);
    /* F(z), below 0 times exp(t^2 / 2). */
    float f = below ? (0.5f + n) / (t + 1.25f) : 1.0f - mass;
    float lost = below ? 0.0f : (1.0f - f) - mass;
    float loss = (below ? 0.5f * t * t : 0.0f) - logarithm(f, lost);
    return (struct surprise){loss, (below ? INV_SQRT_TWO_PI : normal_density(b)) / f};
}

INLINE struct tail arctan_tail(float t) {
    const float pi = 3.14159265358979324f, half_pi = 1.57079632679489662f;
    const float half_pi_low = -4.37113900018624283e-8f; /* what rounding took from it */
    float angle = arctangent(t > 1.0f ? 1.0f / t : t);
    angle = t > 1.0f ? angle : half_pi - (angle - half_pi_low);
    return (struct tail){angle / pi, 1.0f / (pi * (1.0f + t * t))};
}

INLINE struct shares arctan_shares(float x, struct span s) {
    (void)s;
    return shares_of(x, arctan_tail(fabsf(x)));
}

INLINE struct surprise arctan_surprise(float z) {
    return surprise_of(z, arctan_tail(fabsf(z)));
}

INLINE struct tail softsign_tail(float t) {
    float a = 0.5f / (1.0f + t);
    return (struct tail){a, a / (1.0f + t)};
}

INLINE struct shares softsign_shares(float x, struct span s) {
    (void)s;
    return shares_of(x, softsign_tail(fabsf(x)));
}

INLINE struct surprise softsign_surprise(float z) {
    return surprise_of(z, softsign_tail(fabsf(z)));
}

INLINE struct tail inverse_square_root_tail(float t) {
    float square = 1.0f + t * t, h = sqrtf(square);
    return (struct tail){0.5f / (square + t * h), 0.5f / (square * h)};
}

INLINE struct shares inverse_square_root_shares(float x, struct span s) {
    (void)s;
    return shares_of(x, inverse_square_root_tail(fabsf(x)));
}

INLINE struct surprise inverse_square_root_surprise(float z) {
    return surprise_of(z, inverse_square_root_tail(fabsf(z)));
}

/* The squeeze that is the default of the two piecewise linear ones. */
#define EPSILON 1e-7f

INLINE float clipped(float x) {
    float above = x < EPSILON ? EPSILON : x;
    return above > 1.0f - EPSILON ? 1.0f - EPSILON : above;
}

INLINE struct shares hardtanh_shares(float x, struct span s) {
    (void)s;
    float inside = (x > EPSILON) & (1.0f - x > EPSILON) ? 1.0f : 0.0f;
    return (struct shares){clipped(x), clipped(1.0f - x), inside};
}

INLINE struct shares linear_shares(float x, struct span s) {
    const float slope = 1.0f - 2.0f * EPSILON;
    float width = s.high - s.low;
    return (struct shares){EPSILON + slope * ((x - s.low) / width),
                           EPSILON + slope * ((s.high - x) / width), slope / width};
}

/* ---- blocks: at most BLOCK elements of x, targets y and weights w ---- */

struct block {
    int64_t n;
    const float *x, *y, *w;
    int hard; /* every y is 0 or 1 */
};
static const float ONES[BLOCK] = {[0 ... BLOCK - 1] = 1.0f}; /* where there are no weights */

struct entropy {
    float pos_weight, label_smoothing;
};

/* The sum of w (pos_weight y (-log F(x)) + (1 - y) (-log F(-x))). */
#define CROSS_ENTROPY(NAME)                                                                        \
    WIDEST static double NAME##_cross_entropy(struct block b, struct entropy options, float *loss, \
                                              float *gradient) {                                   \
        double total = 0.0;                                                                        \
        float s = options.label_smoothing;                                                         \
        if (b.hard && s == 0.0f) {                                                                 \
            _Pragma("omp simd reduction(+ : total)")                                               \
            for (int64_t i = 0; i < b.n; i++) {                                                    \
                float sign = 2.0f * b.y[i] - 1.0f;                                                 \
                float weight = b.y[i] > 0.5f ? b.w[i] * options.pos_weight : b.w[i];               \
                struct surprise u = NAME##_surprise(sign * b.x[i]);                                \
                loss[i] = weight * u.loss;                                                         \
                gradient[i] = -(sign * weight) * u.hazard;                                         \
                total += loss[i];                                                                  \
            }                                                                                      \
            return total;                                                                          \
        }                                                                                          \
        _Pragma("omp simd reduction(+ : total)")                                                   \
        for (int64_t i = 0; i < b.n; i++) {                                                        \
            float y = b.y[i] * (1.0f - s) + s / 2.0f;                                              \
            float on = b.w[i] * options.pos_weight * y, off = b.w[i] * (1.0f - y);                 \
            struct surprise u = NAME##_surprise(b.x[i]), v = NAME##_surprise(-b.x[i]);             \
            loss[i] = on * u.loss + off * v.loss;                                                  \
            gradient[i] = off * v.hazard - on * u.hazard;                                          \
            total += loss[i];                                                                      \
        }                                                                                          \
        return total;                                                                              \
    }

struct costs {
    float tp, fp, fn;
};

/* Into `sums`: error = fp FP + fn FN and tp TP + error, where TP, FP and FN are the sums of w y F(x),
   w (1 - y) F(x) and w y (1 - F(x)). Returns the bits of all y - y^2, whose sign says whether there
   is a target beyond [0, 1]. */
#define OVERLAP_LOOP(NAME, W)                                                                      \
    _Pragma("omp simd reduction(+ : hits, errors) reduction(| : signs)")                           \
    for (int64_t i = from; i < to; i++) {                                                          \
        struct shares f = NAME##_shares(b.x[i], s);                                                \
        float y = b.y[i];                                                                          \
        signs |= to_bits(y - y * y);                                                               \
        hits += W * y * f.p;                                                                       \
        errors += W * (c.fp * ((1.0f - y) * f.p) + c.fn * (y * f.q));                              \
        density[i] = f.density;                                                                    \
    }
#define OVERLAP(NAME)                                                                              \
    WIDEST static int32_t NAME##_overlap(struct block b, struct span s, struct costs c,            \
                                         double *sums, float *density) {                           \
        int32_t signs = 0;                                                                         \
        double all_hits = 0.0, all_errors = 0.0;                                                   \
        for (int64_t from = 0; from < b.n; from += FLOAT32_RUN) {                                  \
            int64_t to = from + FLOAT32_RUN < b.n ? from + FLOAT32_RUN : b.n;                      \
            float hits = 0.0f, errors = 0.0f;                                                      \
            if (b.w == ONES) {                                                                     \
                OVERLAP_LOOP(NAME, 1.0f)                                                           \
            } else {                                                                               \
                OVERLAP_LOOP(NAME, b.w[i])                                                         \
            }                                                                                      \
            all_hits += hits, all_errors += errors;                                                \
        }                                                                                          \
        sums[0] = all_errors, sums[1] = c.tp * all_hits + all_errors;                              \
        return signs;                                                                              \
    }

#define ACTIVATION(NAME) CROSS_ENTROPY(NAME) OVERLAP(NAME)
ACTIVATION(sigmoid)
ACTIVATION(normal)
ACTIVATION(arctan)
ACTIVATION(softsign)
ACTIVATION(inverse_square_root)
OVERLAP(hardtanh)
OVERLAP(linear)

/* The order is that of cpu.py. */
static double (*const CROSS_ENTROPIES[])(struct block, struct entropy, float *, float *) = {
    sigmoid_cross_entropy, normal_cross_entropy, arctan_cross_entropy, softsign_cross_entropy,
    inverse_square_root_cross_entropy};
static int32_t (*const OVERLAPS[])(struct block, struct span, struct costs, double *, float *) = {
    sigmoid_overlap, normal_overlap, arctan_overlap, softsign_overlap,
    inverse_square_root_overlap, hardtanh_overlap, linear_overlap};

/* Room for a block whose elements of weight 0 are made harmless. */
struct room {
    float x[BLOCK], y[BLOCK], spare[BLOCK];
};

/* Puts weights on a block. Returns whether they are finite and >= 0. */
WIDEST static int put_weights(struct block *b, const float *w, struct room *room) {
    int good = 1;
    for (int64_t i = 0; i < b->n; i++) {
        float weight = w[i], x = b->x[i], y = b->y[i];
        room->x[i] = weight == 0.0f ? 0.0f : x;
        room->y[i] = weight == 0.0f ? 0.0f : y;
        good &= (weight >= 0.0f) & (weight < INFINITY);
    }
    b->x = room->x, b->y = room->y, b->w = w;
    return good;
}

INLINE float in_range(float y) {
    float above = y < 0.0f ? 0.0f : y;
    return above > 1.0f ? 1.0f : above;
}

/* Moves targets into [0, 1]. Returns whether none had to be moved farther than SLACK. */
WIDEST static int put_targets(struct block *b, struct room *room) {
    int good = 1;
    for (int64_t i = 0; i < b->n; i++) {
        float y = b->y[i], inside = in_range(y);
        good &= fabsf(y - inside) <= SLACK;
        room->y[i] = inside;
    }
    b->y = room->y;
    return good;
}

/* Finds out whether a block is hard. Returns whether all targets lie in [0, 1] and x is not FAR. */
WIDEST static int inspect(struct block *b, struct room *room) {
    const int64_t n = b->n;
    const float *x = b->x, *y = b->y;
    float distance = 0.0f, softness = 0.0f; /* sums, so that NaN stays in them */
#pragma omp simd reduction(+ : distance, softness)
    for (int64_t i = 0; i < n; i++) {
        distance += fabsf(x[i]);
        softness += fabsf(y[i] - y[i] * y[i]);
    }
    b->hard = softness == 0.0f;
    return (b->hard || put_targets(b, room)) & (distance < FAR);
}

struct rows {
    int64_t rows, n;
    const float *x, *y, *w;
};

static int64_t blocks_of(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

/* Where block i starts; it goes on for b->n elements. */
static int64_t locate(const struct rows *all, int64_t i, struct block *b) {
    int64_t of_row = blocks_of(all->n), within = i % of_row * BLOCK;
    int64_t start = i / of_row * all->n + within;
    int64_t left = all->n - within;
    *b = (struct block){left < BLOCK ? left : BLOCK, all->x + start, all->y + start, ONES, 0};
    return start;
}

/* torch's own way to share a range among its threads, since 2.10; NULL before. */
typedef void work(int64_t from, int64_t to, void *task);
static int32_t (*share_range)(int64_t from, int64_t to, int64_t grain, work *, void *task);

EXPORT void segact_parallel(void *torch_parallel_for) {
    share_range = (int32_t(*)(int64_t, int64_t, int64_t, work *, void *))torch_parallel_for;
}

/* Does `blocks` blocks of n elements each, by several threads where it is worth their start. */
static int in_parallel(int64_t blocks, int64_t n, work *of_blocks, void *task) {
    int64_t of_row = n < BLOCK ? n : BLOCK, grain = (GRAIN + of_row - 1) / of_row;
    if (share_range && blocks > grain) return share_range(0, blocks, grain, of_blocks, task) == 0;
    of_blocks(0, blocks, task);
    return 1;
}

struct elementwise {
    struct rows all;
    struct entropy options;
    int activation;
    double *sums;
    float *loss, *gradient;
    int32_t refused;
};

static void cross_entropies(int64_t from, int64_t to, void *task) {
    struct elementwise *t = task;
    int good = 1;
    for (int64_t i = from; i < to; i++) {
        struct block b;
        struct room room;
        float unwanted[BLOCK];
        int64_t start = locate(&t->all, i, &b);
        if (t->all.w) good &= put_weights(&b, t->all.w + start, &room);
        good &= inspect(&b, &room);
        t->sums[i] = CROSS_ENTROPIES[t->activation](b, t->options,
                                                    t->loss ? t->loss + start : unwanted,
                                                    t->gradient ? t->gradient + start : room.spare);
    }
    if (!good) __atomic_store_n(&t->refused, 1, __ATOMIC_RELAXED);
}

/* Losses of (rows, n) elements into `loss`, their gradients into `gradient` (either may be NULL),
   and the sum of each block into `sums` (rows, blocks). Returns 0 if it refuses the input. */
EXPORT int segact_cross_entropy(int64_t rows, int64_t n, const float *x, const float *y,
                                const float *w, int activation, float pos_weight,
                                float label_smoothing, double *sums, float *loss,
                                float *gradient) {
    struct elementwise task = {
        {rows, n, x, y, w}, {pos_weight, label_smoothing}, activation, sums, loss, gradient, 0};
    return in_parallel(rows * blocks_of(n), n, cross_entropies, &task) && !task.refused;
}

struct overlaps {
    struct rows all;
    struct span span;
    struct costs costs;
    int activation;
    double *sums;
    float *density;
    int32_t refused;
};

static void overlaps(int64_t from, int64_t to, void *task) {
    struct overlaps *t = task;
    int64_t blocks = t->all.rows * blocks_of(t->all.n);
    int good = 1;
    for (int64_t i = from; i < to; i++) {
        struct block b;
        struct room room;
        int64_t start = locate(&t->all, i, &b);
        double both[2];
        if (t->all.w) good &= put_weights(&b, t->all.w + start, &room);
        float *into = t->density ? t->density + start : room.spare;
        if (OVERLAPS[t->activation](b, t->span, t->costs, both, into) < 0) {
            good &= put_targets(&b, &room);
            OVERLAPS[t->activation](b, t->span, t->costs, both, into);
        }
        good &= !isnan(both[0] + both[1]);
        t->sums[i] = both[0], t->sums[blocks + i] = both[1];
    }
    if (!good) __atomic_store_n(&t->refused, 1, __ATOMIC_RELAXED);
}

/* The two sums of each block into `sums` (2, rows, blocks), and the density of every element into
   `density`, or nowhere if NULL. Returns 0 if it refuses the input. */
EXPORT int segact_overlap(int64_t rows, int64_t n, const float *x, const float *y, const float *w,
                          int activation, float tp, float fp, float fn, float low, float high,
                          double *sums, float *density) {
    struct overlaps task = {
        {rows, n, x, y, w}, {low, high}, {tp, fp, fn}, activation, sums, density, 0};
    return in_parallel(rows * blocks_of(n), n, overlaps, &task) && !task.refused;
}

/* density * w * (y on + (1 - y) off) */
WIDEST static void slope(struct block b, float on, float off, float *density) {
    if (b.w == ONES && isfinite(off) && isfinite(on)) {
        for (int64_t i = 0; i < b.n; i++) {
            float y = in_range(b.y[i]);
            density[i] *= (1.0f - y) * off + y * on;
        }
        return;
    }
    for (int64_t i = 0; i < b.n; i++) { /* an infinite slope of what weighs nothing is none */
        float y = in_range(b.y[i]);
        float gradient = density[i] * (b.w[i] * ((1.0f - y) * off + y * on));
        density[i] = b.w[i] == 0.0f || density[i] == 0.0f ? 0.0f : gradient;
    }
}

struct slopes {
    struct rows all;
    struct costs costs;
    const float *slopes;
    float *density;
};

static void slopes(int64_t from, int64_t to, void *task) {
    struct slopes *t = task;
    struct costs c = t->costs;
    for (int64_t i = from; i < to; i++) {
        struct block b;
        struct room room;
        int64_t start = locate(&t->all, i, &b), row = i / blocks_of(t->all.n);
        float error = t->slopes[row], whole = t->slopes[t->all.rows + row];
        if (t->all.w) put_weights(&b, t->all.w + start, &room);
        slope(b, (c.tp - c.fn) * whole - c.fn * error, c.fp * (error + whole), t->density + start);
    }
}

/* Makes the gradient of the sums of `density`, in place; `into_sums` (2, rows) are the slopes of the
   loss in the sums. */
EXPORT int segact_overlap_gradient(int64_t rows, int64_t n, const float *x, const float *y,
                                   const float *w, float tp, float fp, float fn,
                                   const float *into_sums, float *density) {
    struct slopes task = {{rows, n, x, y, w}, {tp, fp, fn}, into_sums, density};
    return in_parallel(rows * blocks_of(n), n, slopes, &task);
}

/* What flows through one extreme of `linear`: own is the gradient of the elements there, through
   that of all others by way of it. */
struct extreme {
    double own, through, ties;
};

WIDEST static void gather(int64_t n, const float *x, struct span s, const float *gradient,
                          struct extreme *low, struct extreme *high) {
    float own_low = 0.0f, own_high = 0.0f, through_low = 0.0f, through_high = 0.0f;
    int32_t ties_low = 0, ties_high = 0;
    float width = s.high - s.low;
#pragma omp simd reduction(+ : own_low, own_high, through_low, through_high, ties_low, ties_high)
    for (int64_t i = 0; i < n; i++) {
        float g = gradient[i], raw = x[i];
        own_low += raw == s.low ? g : 0.0f;
        own_high += raw == s.high ? g : 0.0f;
        through_low += raw == s.low ? 0.0f : g * ((s.high - raw) / width);
        through_high += raw == s.high ? 0.0f : g * ((raw - s.low) / width);
        ties_low += raw == s.low, ties_high += raw == s.high;
    }
    low->own += own_low, low->through += through_low, low->ties += ties_low;
    high->own += own_high, high->through += through_high, high->ties += ties_high;
}

WIDEST static void share(int64_t n, const float *x, float at, struct extreme e, float *gradient) {
    /* its own slope and its share of all slopes cancel: subtract the two first */
    float own = (float)(e.own / e.ties), through = (float)(e.through / e.ties);
    for (int64_t i = 0; i < n; i++)
        gradient[i] = x[i] == at ? (gradient[i] - own) - through : gradient[i];
}

/* Adds to the gradient of `linear` in n elements what flows through its two extremes, in equal
   shares for the elements that tie. */
EXPORT int segact_through_extremes(int64_t n, const float *x, float low, float high,
                                   float *gradient) {
    struct extreme at_low = {0}, at_high = {0};
    struct span s = {low, high};
    for (int64_t i = 0; i < n; i += FLOAT32_RUN)
        gather(n - i < FLOAT32_RUN ? n - i : FLOAT32_RUN, x + i, s, gradient + i, &at_low, &at_high);
    share(n, x, low, at_low, gradient);
    share(n, x, high, at_high, gradient);
    return 1;
}

/* The checksum of this file, when it was compiled. */
EXPORT uint32_t segact_source(void) {
    return SEGACT_SOURCE;
}
