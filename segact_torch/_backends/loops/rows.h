/* The functions that Python calls: sums over rows of n elements, and their gradients.

Tensors are of any type in `enum type`, and are converted one run at a time. The sums of runs are
added up in order, so the result has the same bits for any number of threads. */

#include "elements.h"
#include "parallel.h"

#include <stdlib.h>

/* How far a target may lie outside of [0, 1], as in _batch.py. */
#define SLACK R(1e-6)

/* ---- types, in the order of cpu.py ---- */

enum type { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, UINT8, INT8, INT16, INT32, INT64 };
static const int SIZE[] = {4, 8, 2, 2, 1, 1, 2, 4, 8};

INLINE uint32_t bits_of_single(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

INLINE float single_of_bits(uint32_t b) {
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

INLINE float from_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = (uint32_t)(h & 0x7fff) << 13;
    uint32_t normal = magnitude + (112u << 23), special = magnitude | 0x7f800000u;
    float small = (float)(int32_t)(h & 0x3ff) * 0x1p-24f;
    uint32_t b = (h & 0x7c00) == 0 ? bits_of_single(small) : (h & 0x7c00) == 0x7c00 ? special : normal;
    return single_of_bits(b | sign);
}

INLINE uint16_t to_half(float x) {
    uint32_t b = bits_of_single(x), a = b & 0x7fffffffu, sign = b >> 16 & 0x8000u;
    uint32_t normal = (a + 0xfffu + (a >> 13 & 1) - (112u << 23)) >> 13;
    uint32_t small = bits_of_single(single_of_bits(a) + 0.5f) - 0x3f000000u;
    uint32_t h = a < 113u << 23 ? small : a >= 0x477ff000u ? 0x7c00u : normal;
    return (uint16_t)((a > 0x7f800000u ? 0x7e00u : h) | sign);
}

INLINE float from_bfloat16(uint16_t h) { return single_of_bits((uint32_t)h << 16); }

INLINE uint16_t to_bfloat16(float x) {
    uint32_t b = bits_of_single(x), rounded = (b + 0x7fffu + (b >> 16 & 1)) >> 16;
    return (uint16_t)((b & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

#define READ(TYPE, VALUE)                                                                          \
    {                                                                                              \
        const TYPE *restrict from = data;                                                          \
        for (int64_t i = 0; i < n; i++) into[i] = R(VALUE(from[i]));                               \
        return;                                                                                    \
    }

/* Converts n numbers from a type. */
WIDEST static void convert(real *restrict into, const void *data, enum type type, int64_t n) {
    switch (type) {
    case FLOAT32: READ(float, )
    case FLOAT64: READ(double, )
    case FLOAT16: READ(uint16_t, from_half)
    case BFLOAT16: READ(uint16_t, from_bfloat16)
    case UINT8: READ(uint8_t, )
    case INT8: READ(int8_t, )
    case INT16: READ(int16_t, )
    case INT32: READ(int32_t, )
    case INT64: READ(int64_t, )
    }
}

/* Converts n numbers to the type of a gradient. */
WIDEST static void store(void *data, enum type type, const real *restrict from, int64_t n) {
    uint16_t *halves = data;
    if (type == FLOAT16)
        for (int64_t i = 0; i < n; i++) halves[i] = to_half((float)from[i]);
    else if (type == BFLOAT16)
        for (int64_t i = 0; i < n; i++) halves[i] = to_bfloat16((float)from[i]);
    else if (data != from)
        memcpy(data, from, (size_t)n * sizeof(real));
}

/* ---- tensors ---- */

/* Element i of a tensor is number (i / inner) % count of data, so that an expanded tensor, such as
   one weight per sample or channel, needs no copy. data is NULL if there is no tensor. */
struct tensor {
    const void *data;
    int64_t type, inner, count;
};

static const enum type OWN = sizeof(real) == 4 ? FLOAT32 : FLOAT64;

static const char *at(const struct tensor *t, int64_t i) {
    return (const char *)t->data + i * SIZE[t->type];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Copies elements [start, start + n) of a tensor. */
static void fetch(real *into, const struct tensor *t, int64_t start, int64_t n) {
    int64_t period = t->inner * t->count, own = least(n, period);
    int64_t i = start / t->inner % t->count, left = t->inner - start % t->inner, filled = 0;
    while (filled < own) {
        int64_t m = least(own - filled, t->inner == 1 ? t->count - i : left);
        if (t->inner == 1) {
            convert(into + filled, at(t, i), (enum type)t->type, m);
            i = 0;
        } else {
            real value;
            convert(&value, at(t, i), (enum type)t->type, 1);
            for (int64_t j = 0; j < m; j++) into[filled + j] = value;
            left = t->inner, i = i + 1 == t->count ? 0 : i + 1;
        }
        filled += m;
    }
    for (; filled < n; filled += own) {
        own = least(n - filled, filled);
        memcpy(into + filled, into, (size_t)own * sizeof(real));
    }
}

/* Elements [start, start + n) of a tensor: where they are, or a copy in the buffer. */
static const real *view(real *buffer, const struct tensor *t, int64_t start, int64_t n) {
    if (t->type == OWN && t->inner == 1 && start + n <= t->count)
        return (const real *)at(t, start);
    fetch(buffer, t, start, n);
    return buffer;
}

/* ---- runs ---- */

struct task {
    int64_t loop, activation, rows, n;
    struct tensor x, y, w, factor;     /* weights of elements, and of the term of y */
    struct options options;
    real on[RUN], off[RUN];            /* the weights of the two terms without those */
    double *sums;                      /* (3, runs) */
    real *loss, *slope, *density;      /* one per element, or NULL */
    const real *upstream;              /* from here on for gradients alone */
    const double *into_sums, *scales;
    double scale;
    int64_t each, type;
    void *gradient;
    int32_t refused;
};

static int64_t runs_of(int64_t n) { return (n + RUN - 1) / RUN; }

/* Where run i starts, how long it is, and its row. */
static int64_t locate(const struct task *t, int64_t i, int64_t *n, int64_t *row) {
    int64_t of_row = runs_of(t->n), within = i % of_row * RUN;
    *row = i / of_row;
    *n = least(t->n - within, RUN);
    return *row * t->n + within;
}

struct run {
    const real *x, *y, *on, *off;
    real buffers[4][RUN];
};

/* Multiplies by the weights; where one is 0, x and y become 0. Returns whether all are finite and
   >= 0. */
WIDEST static int put_weights(struct run *b, const real *w, real by_on, real by_off, int64_t n) {
    const real *x = b->x, *y = b->y;
    real *of_x = b->buffers[0], *of_y = b->buffers[1], bad = 0;
    real *on = b->buffers[2], *off = b->buffers[3];
#pragma omp simd reduction(+ : bad)
    for (int64_t i = 0; i < n; i++) {
        real weight = w[i];
        of_x[i] = weight == 0 ? 0 : x[i];
        of_y[i] = weight == 0 ? 0 : y[i];
        on[i] = weight * by_on, off[i] = weight * by_off;
        bad += (weight >= 0) & (weight < INFINITY) ? 0 : 1;
    }
    b->x = of_x, b->y = of_y, b->on = on, b->off = off;
    return bad == 0;
}

/* Multiplies the weights of the term of y by the factor. Returns whether it is finite and >= 0. */
WIDEST static int put_factor(struct run *b, const real *factor, int64_t n) {
    const real *from = b->on;
    real *on = b->buffers[2], bad = 0;
#pragma omp simd reduction(+ : bad)
    for (int64_t i = 0; i < n; i++) {
        real weight = from[i], by = factor[i];
        on[i] = weight == 0 ? 0 : weight * by;
        bad += (weight == 0) | ((by >= 0) & (by < INFINITY)) ? 0 : 1;
    }
    b->on = on;
    return bad == 0;
}

/* Fills a run up to a multiple of LANES with elements of weight 0. */
static void pad(struct run *b, int64_t n) {
    const real **of[] = {&b->x, &b->y, &b->on, &b->off};
    for (int k = 0; k < 4; k++) {
        if (*of[k] != b->buffers[k]) memcpy(b->buffers[k], *of[k], (size_t)n * sizeof(real));
        for (int64_t i = n; i % LANES; i++) b->buffers[k][i] = 0;
        *of[k] = b->buffers[k];
    }
}

INLINE real in_range(real y) {
    real above = y < 0 ? 0 : y;
    return above > 1 ? 1 : above;
}

/* Clamps targets to [0, 1]. Returns whether no target moved by more than SLACK. */
WIDEST static int put_targets(struct run *b, int64_t n) {
    const real *y = b->y;
    real *into = b->buffers[1], bad = 0;
#pragma omp simd reduction(+ : bad)
    for (int64_t i = 0; i < n; i++) {
        real inside = in_range(y[i]);
        bad += ABS(y[i] - inside) <= SLACK ? 0 : 1;
        into[i] = inside;
    }
    b->y = into;
    return bad == 0;
}

/* Returns whether the magnitudes of x add up to less than FAR and all targets are in [0, 1] or
   within SLACK of it. Sets `hard`: whether all targets are 0 or 1. */
WIDEST static int inspect(struct run *b, int64_t n, int *hard) {
    const real *x = b->x, *y = b->y;
    real distance = 0, softness = 0; /* sums, so that NaN stays in them */
#pragma omp simd reduction(+ : distance, softness)
    for (int64_t i = 0; i < n; i++) {
        distance += ABS(x[i]);
        softness += ABS(y[i] - y[i] * y[i]);
    }
    *hard = softness == 0;
    return (*hard || put_targets(b, n)) & (distance < FAR);
}

static int prepare(struct run *b, const struct task *t, int64_t start, int64_t n, int *hard) {
    int good = 1;
    real buffer[RUN];
    b->x = view(b->buffers[0], &t->x, start, n), b->y = view(b->buffers[1], &t->y, start, n);
    b->on = t->on, b->off = t->off;
    if (t->w.data) good &= put_weights(b, view(buffer, &t->w, start, n), t->on[0], t->off[0], n);
    if (t->factor.data) good &= put_factor(b, view(buffer, &t->factor, start, n), n);
    good &= inspect(b, n, hard);
    if (n % LANES) pad(b, n);
    return good;
}

static int64_t loop_of(const struct task *t, int hard) {
    if (t->loop == CROSS_ENTROPY && hard) return HARD_CROSS_ENTROPY;
    if (t->loop == OVERLAP_AND_ENTROPY && hard) return HARD_OVERLAP_AND_ENTROPY;
    if (t->loop != FOCAL || t->options.gamma != 2) return t->loop;
    return hard ? HARD_FOCAL_SQUARED : FOCAL_SQUARED;
}

/* Where a loop writes its numbers of elements: into the tensor, or, if the run is not full, into a
   buffer, from which `keep` copies them. */
static real *place(real *all, int64_t start, int full, real *buffer) {
    return all && full ? all + start : buffer;
}

static void keep(real *all, int64_t start, int64_t n, int full, const real *buffer) {
    if (all && !full) memcpy(all + start, buffer, (size_t)n * sizeof(real));
}

static void sums_of_runs(int64_t from, int64_t to, void *task) {
    struct task *t = task;
    int64_t runs = t->rows * runs_of(t->n);
    int good = 1;
    for (int64_t i = from; i < to; i++) {
        struct run b;
        real losses[RUN], slopes[RUN], densities[RUN];
        int64_t n, row, start = locate(t, i, &n, &row);
        int hard, full = n % LANES == 0;
        good &= prepare(&b, t, start, n, &hard);
        int64_t loop = loop_of(t, hard && t->options.shift == 0);
        struct sums s = ALL[t->activation][loop](
            (uint64_t)n + LANES - 1, b.x, b.y, b.on, b.off, &t->options,
            place(t->loss, start, full, losses), place(t->slope, start, full, slopes),
            place(t->density, start, full, densities));
        keep(t->loss, start, n, full, losses), keep(t->slope, start, n, full, slopes);
        keep(t->density, start, n, full, densities);
        t->sums[i] = s.loss, t->sums[runs + i] = s.error, t->sums[2 * runs + i] = s.hit;
    }
    if (!good) __atomic_store_n(&t->refused, 1, __ATOMIC_RELAXED);
}

/* Where to write the sums of rows, in float64 if `wide`, and their scales: one per row, or one. */
struct outcome {
    void *values;
    int64_t wide;
    const double *scales;
    double scale, smooth, *into_sums;
};

static void put(const struct outcome *o, int64_t i, double value) {
    if (o->wide) ((double *)o->values)[i] = value;
    else ((real *)o->values)[i] = R(value);
}

/* error / (error + hit + smooth), and its slopes in the two sums; 0 if the denominator is 0, as in
   _sums.py. */
static void put_ratio(const struct outcome *o, int64_t rows, int64_t row, double error, double hit) {
    double rest = hit + o->smooth, whole = error + rest, inverse = whole < TINY ? 0 : 1 / whole;
    put(o, row, error * inverse);
    o->into_sums[row] = rest * inverse * inverse;
    o->into_sums[rows + row] = -error * inverse * inverse;
}

static void add_up(const struct task *t, const struct outcome *o) {
    int64_t of_row = runs_of(t->n), runs = t->rows * of_row;
    for (int64_t row = 0; row < t->rows; row++) {
        double loss = 0, error = 0, hit = 0;
        for (int64_t i = row * of_row; i < (row + 1) * of_row; i++)
            loss += t->sums[i], error += t->sums[runs + i], hit += t->sums[2 * runs + i];
        hit *= t->options.tp;
        double entropy = loss * (o->scales ? o->scales[row] : o->scale);
        int64_t next = row;
        if (t->loop == OVERLAP || t->loop == OVERLAP_AND_ENTROPY) {
            if (o->into_sums) put_ratio(o, t->rows, row, error, hit), next += t->rows;
            else put(o, row, error), put(o, t->rows + row, hit), next += 2 * t->rows;
        }
        if (t->loop != OVERLAP) put(o, next, entropy);
    }
}

static struct options options_of(const double *numbers) {
    const double *s = numbers;
    return (struct options){
        {R(s[0]), R(1 - 2 * s[0]), R(s[1]), R(s[2])}, R(s[3]), R(s[4]), R(s[5]), R(s[6]),
        R(s[7]),                                      R(s[8])};
}

#define EXPORTED(name) EXPORT int IN_TYPE(segact_##name)

/* Writes the sums of a loss over (rows, n) elements to `values`:

       losses                (rows)     times `scale`
       overlap               (2, rows)  fp FP + fn FN and tp TP
       overlap and entropy   (3, rows)  these and the losses

   With `into_sums` the ratio of the two sums stands in their place, and its slopes in them, (2, rows),
   go to `into_sums`.

   Losses of elements are written to `loss`, their slopes to `slope`, the densities of overlap to
   `density`; each may be NULL, and so may w and factor. `numbers` are those of `options_of`, then the
   weights of the two terms. Returns 0 if it refuses the input. */
EXPORTED(sums)(int64_t loop, int64_t activation, const double *numbers, int64_t rows, int64_t n,
               const void *x, int64_t type_of_x, const void *y, int64_t type_of_y,
               const struct tensor *w, const struct tensor *factor, void *values, int64_t wide,
               const double *scales, double scale, double smooth, double *into_sums, real *loss,
               real *slope, real *density) {
    struct outcome outcome = {values, wide, scales, scale, smooth, into_sums};
    int64_t runs = rows * runs_of(n);
    double few[24];
    struct task t = {.loop = loop, .activation = activation, .rows = rows, .n = n};
    t.x = (struct tensor){x, type_of_x, 1, rows * n}, t.y = (struct tensor){y, type_of_y, 1, rows * n};
    if (w) t.w = *w;
    if (factor) t.factor = *factor;
    t.options = options_of(numbers), t.loss = loss, t.slope = slope, t.density = density;
    for (int64_t i = 0; i < RUN; i++) t.on[i] = R(numbers[9]), t.off[i] = R(numbers[10]);
    t.sums = runs <= 8 ? few : malloc(3 * (size_t)runs * sizeof(double));
    int done = t.sums && in_parallel(runs, least(n, RUN), sums_of_runs, &t) && !t.refused;
    if (done) add_up(&t, &outcome);
    if (t.sums != few) free(t.sums);
    return done;
}

/* ---- gradients ---- */

/* slope * factor, one factor or `each`; exactly 0 where either is 0, even if the other is infinite */
WIDEST static void times(real *into, const real *slope, const real *each, real factor, int64_t n) {
    if (!each && factor - factor == 0) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) into[i] = slope[i] * factor;
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        real by = each ? each[i] * factor : factor;
        into[i] = (slope[i] == 0) | (by == 0) ? 0 : slope[i] * by;
    }
}

/* The factor of the slopes of a row. */
static real factor_of(const struct task *t, const real *upstream, int64_t row) {
    return R(upstream[row] * (t->scales ? t->scales[row] : t->scale));
}

static void slopes_of_runs(int64_t from, int64_t to, void *task) {
    const struct task *t = task;
    for (int64_t i = from; i < to; i++) {
        real buffer[RUN];
        int64_t n, row, start = locate(t, i, &n, &row);
        char *into = (char *)t->gradient + start * SIZE[t->type];
        real *target = t->type == OWN ? (real *)into : buffer;
        if (t->each) times(target, t->slope + start, t->upstream + start, R(1), n);
        else times(target, t->slope + start, NULL, factor_of(t, t->upstream, row), n);
        store(into, (enum type)t->type, target, n);
    }
}

/* Writes the gradient: slopes times the upstream gradient of their row and `scale`, or of `each`
   element. It may overwrite the slopes. */
EXPORTED(slopes)(int64_t rows, int64_t n, real *slope, const real *upstream, int64_t each,
                 const double *scales, double scale, void *gradient, int64_t type) {
    struct task t = {.rows = rows, .n = n, .slope = slope, .upstream = upstream, .each = each,
                     .scales = scales, .scale = scale, .gradient = gradient, .type = type};
    return in_parallel(rows * runs_of(n), least(n, RUN), slopes_of_runs, &t);
}

/* density * w * (y on + (1 - y) off) */
WIDEST static void times_areas(real *into, const real *density, const real *y, const real *w,
                               real on, real off, int64_t n) {
    if (!w && on - on == 0 && off - off == 0) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            real inside = in_range(y[i]);
            into[i] = density[i] * ((1 - inside) * off + inside * on);
        }
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) { /* 0 if weight or density is 0 */
        real weight = w ? w[i] : 1, inside = in_range(weight == 0 ? 0 : y[i]);
        real gradient = density[i] * (weight * ((1 - inside) * off + inside * on));
        into[i] = (weight == 0) | (density[i] == 0) ? 0 : gradient;
    }
}

/* into + slope * factor, with the zeros of `times` */
WIDEST static void add_times(real *into, const real *slope, real factor, int64_t n) {
    real buffer[RUN];
    times(buffer, slope, NULL, factor, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) into[i] += buffer[i];
}

static void overlap_of_runs(int64_t from, int64_t to, void *task) {
    const struct task *t = task;
    struct options o = t->options;
    for (int64_t i = from; i < to; i++) {
        real buffers[3][RUN];
        int64_t n, row, start = locate(t, i, &n, &row);
        double error, hit;
        if (t->into_sums) {
            error = t->upstream[row] * t->into_sums[row];
            hit = t->upstream[row] * t->into_sums[t->rows + row];
        } else error = t->upstream[row], hit = t->upstream[t->rows + row];
        char *into = (char *)t->gradient + start * SIZE[t->type];
        real *target = t->type == OWN ? (real *)into : buffers[0];
        const real *y = view(buffers[1], &t->y, start, n);
        const real *w = t->w.data ? view(buffers[2], &t->w, start, n) : NULL;
        real on = R(o.tp * hit - o.fn * error), off = R(o.fp * error);
        times_areas(target, t->density + start, y, w, on, off, n);
        if (t->slope)
            add_times(target, t->slope + start, factor_of(t, t->upstream + t->rows, row), n);
        store(into, (enum type)t->type, target, n);
    }
}

/* Writes the gradient of overlap, from the densities. `upstream` is that of the sums, (2, rows), or,
   with `into_sums`, that of their ratio, (rows). With `slope` the gradient of the losses is added,
   and `upstream` is (2, rows): that of the ratio, that of the losses. */
EXPORTED(overlap_slopes)(const double *numbers, int64_t rows, int64_t n, const void *y,
                         int64_t type_of_y, const struct tensor *w, real *density, real *slope,
                         const real *upstream, const double *into_sums, const double *scales,
                         double scale, void *gradient, int64_t type) {
    struct task t = {.rows = rows, .n = n, .density = density, .slope = slope,
                     .upstream = upstream, .into_sums = into_sums, .scales = scales,
                     .scale = scale, .gradient = gradient, .type = type};
    t.options = options_of(numbers), t.y = (struct tensor){y, type_of_y, 1, rows * n};
    if (w) t.w = *w;
    return in_parallel(rows * runs_of(n), least(n, RUN), overlap_of_runs, &t);
}

/* The gradient through the minimum or the maximum of x in `linear`: `own` is that of the elements
   there, `through` that of all others, which depend on it. */
struct extreme {
    double own, through, ties;
};

WIDEST static void gather(int64_t n, const real *x, struct setting s, const real *gradient,
                          struct extreme *low, struct extreme *high) {
    real through_low = 0, through_high = 0, width = s.high - s.low;
    int32_t ties_low = 0, ties_high = 0;
#pragma omp simd reduction(+ : through_low, through_high, ties_low, ties_high)
    for (int64_t i = 0; i < n; i++) {
        real g = gradient[i], raw = x[i];
        through_low += raw == s.low ? 0 : g * ((s.high - raw) / width);
        through_high += raw == s.high ? 0 : g * ((raw - s.low) / width);
        ties_low += raw == s.low, ties_high += raw == s.high;
    }
    low->through += through_low, low->ties += ties_low;
    high->through += through_high, high->ties += ties_high;
    /* in float64, so that the share of equal gradients is each of them to the last digit */
    if (ties_low + ties_high == 0) return;
    for (int64_t i = 0; i < n; i++) {
        low->own += x[i] == s.low ? gradient[i] : 0;
        high->own += x[i] == s.high ? gradient[i] : 0;
    }
}

WIDEST static void share(int64_t n, const real *x, real at, struct extreme e, real *gradient) {
    /* the gradient and its share of `own` nearly cancel: subtract these first */
    real own = R(e.own / e.ties), through = R(e.through / e.ties);
    for (int64_t i = 0; i < n; i++)
        gradient[i] = x[i] == at ? (gradient[i] - own) - through : gradient[i];
}

/* Adds the gradient through the minimum and the maximum of x to that of `linear` in n elements;
   elements that are equal have equal shares. */
EXPORTED(through_extremes)(int64_t n, const void *x, int64_t type_of_x, double low, double high,
                           real *gradient) {
    struct tensor all = {x, type_of_x, 1, n};
    struct setting s = {.low = R(low), .high = R(high)};
    struct extreme at_low = {0}, at_high = {0};
    real buffer[RUN];
    for (int64_t i = 0; i < n; i += RUN) {
        int64_t m = least(n - i, RUN);
        gather(m, view(buffer, &all, i, m), s, gradient + i, &at_low, &at_high);
    }
    for (int64_t i = 0; i < n; i += RUN) {
        int64_t m = least(n - i, RUN);
        const real *raw = view(buffer, &all, i, m);
        share(m, raw, s.low, at_low, gradient + i);
        share(m, raw, s.high, at_high, gradient + i);
    }
    return 1;
}
