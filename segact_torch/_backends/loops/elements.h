/* The losses of an element, and the loops over a run of at most RUN elements. */

#include "activations.h"

/* One library for every x86: the loader selects the widest version that the processor supports. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

/* The number of elements that are added up in `real`; the sums of runs are added in float64. The
   narrower the vectors, the more elements one lane adds up: with eight lanes and 512 elements, the
   sum of equal numbers has an error of 1.3e-6 in float32. */
enum { RUN = 256 };
/* The lengths of runs are multiples of this, so that loops end with full vectors. */
enum { LANES = 16 };

/* The parameters of activation and loss, from Python. */
struct options {
    struct setting setting;
    real keep, shift;     /* label smoothing: y becomes y keep + shift, and 1 - y likewise */
    real gamma;           /* of focal cross entropy */
    real tp, fp, fn;      /* the costs of TP, FP and FN */
};

/* The sum of a loss; of overlap, fp FP + fn FN and TP. */
struct sums {
    real loss, error, hit;
};

/* A loss and its slope in x. */
struct element {
    real loss, slope;
};

/* on y (-log F(x)) + off (1 - y) (-log(1 - F(x))) */
INLINE struct element cross_entropy(struct point f, real y, real on, real off, struct options o) {
    real a = on * (y * o.keep + o.shift), b = off * ((1 - y) * o.keep + o.shift);
    return (struct element){a * f.on.loss + b * f.off.loss,
                            b * f.off.hazard - a * f.on.hazard};
}

/* ((1 - y) F(x) - y (1 - F(x)))^2 */
INLINE struct element squared_error(struct point f, real y, real on, real off, struct options o) {
    (void)on, (void)o;
    real error = (1 - y) * f.on.mass - y * f.off.mass;
    return (struct element){off * (error * error), 2 * off * (error * f.density)};
}

/* (on y + off (1 - y)) e^gamma c with the error e = y (1 - F(x)) + (1 - y) F(x) and cross entropy c,
   whose slope is e^gamma (c' + gamma c e' / e). */
INLINE struct element focal(struct point f, real y, real on, real off, struct options o) {
    real z = y * o.keep + o.shift, rest = (1 - y) * o.keep + o.shift, weight = on * z + off * rest;
    real error = z * f.off.mass + rest * f.on.mass;
    real entropy = z * f.on.loss + rest * f.off.loss;
    real slope = rest * f.off.hazard - z * f.on.hazard;
    real moved = error < TINY ? 0 : (rest - z) * f.density / error;
    real factor = weight * power(error, o.gamma);
    return (struct element){factor * entropy, factor * (slope + o.gamma * (entropy * moved))};
}

/* `focal` for gamma = 2, without the general power, which takes most of the time. */
INLINE struct element focal_squared(struct point f, real y, real on, real off, struct options o) {
    real z = y * o.keep + o.shift, rest = (1 - y) * o.keep + o.shift, weight = on * z + off * rest;
    real error = z * f.off.mass + rest * f.on.mass;
    real entropy = z * f.on.loss + rest * f.off.loss;
    real slope = rest * f.off.hazard - z * f.on.hazard;
    real moved = error * slope + 2 * (entropy * ((rest - z) * f.density));
    return (struct element){weight * (error * error) * entropy, weight * error * moved};
}

/* The losses for a target of 1, with one logarithm. */
INLINE struct element cross_entropy_of_1(struct point f) {
    return (struct element){f.on.loss, -f.on.hazard};
}

INLINE struct element focal_squared_of_1(struct point f) {
    real error = f.off.mass, moved = error * f.on.hazard + 2 * (f.on.loss * f.density);
    return (struct element){error * error * f.on.loss, -(error * moved)};
}

/* The part of an element in fp FP + fn FN and in TP, where TP, FP and FN are the sums of y F(x),
   (1 - y) F(x) and y (1 - F(x)); of_0 is the factor of 1 - y, of_1 that of y, mass that of TP. */
struct areas {
    real error, hit;
};

INLINE struct areas areas(real of_0, real of_1, real mass, real y, real w, struct options o) {
    return (struct areas){w * (o.fp * ((1 - y) * of_0) + o.fn * (y * of_1)), w * (y * mass)};
}

/* n elements, rounded down to a multiple of LANES: raw outputs, targets, the weights of the terms
   of y (on) and of 1 - y (off). The weight of overlap is `off`. */
#define ARGUMENTS                                                                                  \
    uint64_t n, const real *restrict x, const real *restrict y, const real *restrict on,           \
        const real *restrict off, const struct options *options, real *restrict loss,              \
        real *restrict slope, real *restrict density
#define EACH for (uint64_t i = 0; i < (n & ~(uint64_t)(LANES - 1)); i++)

#define ELEMENTWISE(F, LOSS)                                                                       \
    WIDEST static struct sums F##_##LOSS(ARGUMENTS) {                                              \
        const struct options o = *options;                                                         \
        real total = 0;                                                                            \
        (void)density;                                                                             \
        _Pragma("omp simd reduction(+ : total)") EACH {                                            \
            struct element e = LOSS(F(x[i], o.setting), y[i], on[i], off[i], o);                   \
            loss[i] = e.loss, slope[i] = e.slope;                                                  \
            total += e.loss;                                                                       \
        }                                                                                          \
        return (struct sums){.loss = total};                                                       \
    }

/* For targets that are 0 or 1: F is symmetric, so a target of 0 at x is one of 1 at -x. */
#define HARD(F, LOSS)                                                                              \
    WIDEST static struct sums F##_hard_##LOSS(ARGUMENTS) {                                         \
        const struct options o = *options;                                                         \
        real total = 0;                                                                            \
        (void)density;                                                                             \
        _Pragma("omp simd reduction(+ : total)") EACH {                                            \
            real sign = 2 * y[i] - 1, weight = y[i] > R(0.5) ? on[i] : off[i];                     \
            struct element e = LOSS##_of_1(F(sign * x[i], o.setting));                             \
            real each = weight * e.loss;                                                           \
            loss[i] = each, slope[i] = sign * weight * e.slope;                                    \
            total += each;                                                                         \
        }                                                                                          \
        return (struct sums){.loss = total};                                                       \
    }

/* TP, fp FP + fn FN, and the density of every element, from which its slope is computed later. */
#define OVERLAP(F)                                                                                 \
    WIDEST static struct sums F##_overlap(ARGUMENTS) {                                             \
        const struct options o = *options;                                                         \
        real errors = 0, hits = 0;                                                                 \
        (void)on, (void)loss, (void)slope;                                                         \
        _Pragma("omp simd reduction(+ : errors, hits)") EACH {                                     \
            struct point f = F(x[i], o.setting);                                                   \
            struct areas a = areas(f.on.mass, f.off.mass, f.on.mass, y[i], off[i], o);             \
            errors += a.error, hits += a.hit, density[i] = f.density;                              \
        }                                                                                          \
        return (struct sums){.error = errors, .hit = hits};                                        \
    }

/* Overlap and cross entropy from one evaluation of F. */
#define OVERLAP_AND_ENTROPY(F)                                                                     \
    WIDEST static struct sums F##_overlap_and_entropy(ARGUMENTS) {                                 \
        const struct options o = *options;                                                         \
        real total = 0, errors = 0, hits = 0;                                                      \
        (void)loss;                                                                                \
        _Pragma("omp simd reduction(+ : total, errors, hits)") EACH {                              \
            struct point f = F(x[i], o.setting);                                                   \
            struct element e = cross_entropy(f, y[i], on[i], off[i], o);                           \
            struct areas a = areas(f.on.mass, f.off.mass, f.on.mass, y[i], off[i], o);             \
            errors += a.error, hits += a.hit, total += e.loss;                                     \
            slope[i] = e.slope, density[i] = f.density;                                            \
        }                                                                                          \
        return (struct sums){total, errors, hits};                                                 \
    }

/* Overlap and cross entropy for targets that are 0 or 1. */
#define HARD_OVERLAP_AND_ENTROPY(F)                                                                \
    WIDEST static struct sums F##_hard_overlap_and_entropy(ARGUMENTS) {                            \
        const struct options o = *options;                                                         \
        real total = 0, errors = 0, hits = 0;                                                      \
        (void)loss;                                                                                \
        _Pragma("omp simd reduction(+ : total, errors, hits)") EACH {                              \
            real sign = 2 * y[i] - 1, weight = y[i] > R(0.5) ? on[i] : off[i];                     \
            struct point f = F(sign * x[i], o.setting);                                            \
            struct element e = cross_entropy_of_1(f);                                              \
            struct areas a = areas(f.off.mass, f.off.mass, f.on.mass, y[i], off[i], o);            \
            errors += a.error, hits += a.hit, total += weight * e.loss;                            \
            slope[i] = sign * weight * e.slope, density[i] = f.density;                            \
        }                                                                                          \
        return (struct sums){total, errors, hits};                                                 \
    }

#define SMOOTH(F)                                                                                  \
    HARD(F, cross_entropy) HARD(F, focal_squared) HARD_OVERLAP_AND_ENTROPY(F) PIECEWISE(F)
#define PIECEWISE(F)                                                                               \
    ELEMENTWISE(F, cross_entropy) ELEMENTWISE(F, squared_error) ELEMENTWISE(F, focal)              \
    ELEMENTWISE(F, focal_squared) OVERLAP(F) OVERLAP_AND_ENTROPY(F)
SMOOTH(sigmoid)
SMOOTH(normal)
SMOOTH(arctan)
SMOOTH(softsign)
SMOOTH(inverse_square_root)
PIECEWISE(hardtanh)
PIECEWISE(linear)
SMOOTH(sigmoid_squeezed)
SMOOTH(normal_squeezed)

/* In the order of cpu.py. */
typedef struct sums loop(ARGUMENTS);
enum {
    CROSS_ENTROPY, SQUARED_ERROR, FOCAL, OVERLAP, OVERLAP_AND_ENTROPY, FOCAL_SQUARED,
    HARD_CROSS_ENTROPY, HARD_OVERLAP_AND_ENTROPY, HARD_FOCAL_SQUARED, LOOPS
};
#define LOOPS_OF(F)                                                                                \
    F##_cross_entropy, F##_squared_error, F##_focal, F##_overlap, F##_overlap_and_entropy,         \
        F##_focal_squared
#define SMOOTH_LOOPS(F)                                                                            \
    {LOOPS_OF(F), F##_hard_cross_entropy, F##_hard_overlap_and_entropy, F##_hard_focal_squared}
#define PIECEWISE_LOOPS(F)                                                                         \
    {LOOPS_OF(F), F##_cross_entropy, F##_overlap_and_entropy, F##_focal_squared}
static loop *const ALL[][LOOPS] = {
    SMOOTH_LOOPS(sigmoid),
    SMOOTH_LOOPS(normal),
    SMOOTH_LOOPS(arctan),
    SMOOTH_LOOPS(softsign),
    SMOOTH_LOOPS(inverse_square_root),
    PIECEWISE_LOOPS(hardtanh),
    PIECEWISE_LOOPS(linear),
    SMOOTH_LOOPS(sigmoid_squeezed),
    SMOOTH_LOOPS(normal_squeezed),
};
