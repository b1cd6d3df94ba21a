/* The loops in float32: the type, and its constants, printed by scripts/fit_special.py. */

#include <math.h>
#include <stdint.h>

typedef float real;
typedef uint32_t bits;

#define IN_TYPE(name) name##_float32
#define ABS fabsf
#define SQRT sqrtf

enum { MANTISSA = 23, BIAS = 127 };
/* The bits to clear so that half of the mantissa is left, whose square is exact. */
#define HALF_MANTISSA 0xfffu
#define TINY 1.17549435e-38f
/* exp(x) is a normal number for larger x. */
#define LOG_TINY -87.3365f
/* Larger raw outputs would overflow in squares and cubes. */
#define FAR 1e12f
/* exp(-t^2 / 2) is 0 for larger t. */
#define ZERO_FROM 14.0f
/* Constants in two parts; the first part of ln 2 times a small integer is exact. */
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440054690583e-4f
#define INV_SQRT_TWO_PI_HIGH 0.39892578125f
#define INV_SQRT_TWO_PI_LOW 1.6499151432678e-5f
#define HALF_PI_LOW -4.37113900018624283e-8f

#define EXP(FIRST, NEXT)                                                                           \
    FIRST(0.00019890980869750327)                                                                  \
    NEXT(0.0013933641031986701) NEXT(0.008333310934448869) NEXT(0.04166646500604005)               \
    NEXT(0.16666666681614256) NEXT(0.5000000013457727)
#define LOG1P(FIRST, NEXT)                                                                         \
    FIRST(0.11612164612011674)                                                                     \
    NEXT(0.10853287900440187) NEXT(0.14296178997151418) NEXT(0.1999985316596486)                   \
    NEXT(0.3333333366026371)
#define ATAN(FIRST, NEXT)                                                                          \
    FIRST(0.0014886919393047597)                                                                   \
    NEXT(-0.009144629760592396) NEXT(0.026305001110062377) NEXT(-0.04896051402709067)              \
    NEXT(0.07031914250029966) NEXT(-0.08931826777381315) NEXT(0.11088261628735159)                 \
    NEXT(-0.1428400379473353) NEXT(0.19999949321141888) NEXT(-0.3333333308107325)
#define SCALED_TAIL(FIRST, NEXT)                                                                   \
    FIRST(0.0283247357754663)                                                                      \
    NEXT(-0.05460541208378212) NEXT(-0.04965036304160064) NEXT(0.1588576077921915)                 \
    NEXT(-0.0166806916052337) NEXT(-0.31116256707109075) NEXT(0.5060506196009433)                  \
    NEXT(-0.3917557367528137) NEXT(0.0853874137819784) NEXT(0.18037884252112035)                   \
    NEXT(-0.2786058130573424) NEXT(-0.004344136795443492)

#include "rows.h"
