/* The loops in float64: the type, and its constants, printed by scripts/fit_special.py (LOG1P is
   called LOG1P_NEAR there). */

#include <math.h>
#include <stdint.h>

typedef double real;
typedef uint64_t bits;

#define IN_TYPE(name) name##_float64
#define ABS fabs
#define SQRT sqrt

enum { MANTISSA = 52, BIAS = 1023 };
/* The bits to clear so that half of the mantissa is left, whose square is exact. */
#define HALF_MANTISSA 0x7ffffffu
#define TINY 2.2250738585072014e-308
/* exp(x) is a normal number for larger x. */
#define LOG_TINY -708.396
/* Larger raw outputs would overflow in squares and cubes. */
#define FAR 1e100
/* exp(-t^2 / 2) is 0 for larger t. */
#define ZERO_FROM 40.0
/* Constants in two parts; the first part of ln 2 times a small integer is exact. */
#define LN2_HIGH 6.93147180369123816490e-1
#define LN2_LOW 1.90821492927058770002e-10
#define INV_SQRT_TWO_PI_HIGH 0.39892578125
#define INV_SQRT_TWO_PI_LOW 1.64991514326780e-5
#define HALF_PI_LOW 6.123233995736766e-17

#define EXP(FIRST, NEXT)                                                                           \
    FIRST(1.6086622436215554e-10)                                                                  \
    NEXT(2.0918129454967065e-09) NEXT(2.5052071109214447e-08) NEXT(2.755726330147475e-07)          \
    NEXT(2.755731924720479e-06) NEXT(2.480158733642132e-05) NEXT(0.00019841269841263304)           \
    NEXT(0.0013888888888879082) NEXT(0.008333333333333333) NEXT(0.04166666666666668)               \
    NEXT(0.16666666666666666) NEXT(0.5)
#define LOG1P(FIRST, NEXT)                                                                         \
    FIRST(0.06543313073920051)                                                                     \
    NEXT(0.06634386569328443) NEXT(0.07693119851407329) NEXT(0.09090897820066453)                  \
    NEXT(0.11111111195856958) NEXT(0.14285714285401807) NEXT(0.2000000000000044)                   \
    NEXT(0.3333333333333333)
#define ATAN(FIRST, NEXT)                                                                          \
    FIRST(7.767624330289919e-06)                                                                   \
    NEXT(-9.371186345052626e-05) NEXT(0.0005376839297396244) NEXT(-0.0019612554271685326)          \
    NEXT(0.005140912856746939) NEXT(-0.010412153260359241) NEXT(0.01718398172211335)               \
    NEXT(-0.024191345810140718) NEXT(0.030330719265790507) NEXT(-0.035271331066871296)             \
    NEXT(0.03938687540798632) NEXT(-0.043306538430670664) NEXT(0.04758080083637821)                \
    NEXT(-0.052624922290256754) NEXT(0.05882264416776449) NEXT(-0.06666657934573768)               \
    NEXT(0.07692307078827029) NEXT(-0.0909090906193528) NEXT(0.11111111110268297)                  \
    NEXT(-0.14285714285701234) NEXT(0.1999999999999992) NEXT(-0.3333333333333333)
#define SCALED_TAIL(FIRST, NEXT)                                                                   \
    FIRST(0.0031936071685703077)                                                                   \
    NEXT(-0.005262257057783462) NEXT(-0.01132225929672826) NEXT(0.01038981709819347)               \
    NEXT(0.021312096180688193) NEXT(-0.007818406322021824) NEXT(-0.029391964550401453)             \
    NEXT(-0.0019009623827937188) NEXT(0.034816465596194744) NEXT(0.015016654729929978)             \
    NEXT(-0.040124402062649264) NEXT(-0.029825057490634518) NEXT(0.05141089312213305)              \
    NEXT(0.045892293807625446) NEXT(-0.08262780117453655) NEXT(-0.05417936143562559)               \
    NEXT(0.16591386970061883) NEXT(-0.016117711814550028) NEXT(-0.3120312367135439)                \
    NEXT(0.5060183554660269) NEXT(-0.3917061824231655) NEXT(0.08538809775315435)                   \
    NEXT(0.18037779423696124) NEXT(-0.27860581542727986) NEXT(-0.004344133164663083)

#include "rows.h"
