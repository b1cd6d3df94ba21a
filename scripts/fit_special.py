"""Fit the constants of both `_special.py`, of the C loops and of the GPU's kernels, and print them.

    python scripts/fit_special.py

Every fit is the polynomial through the function at Chebyshev nodes, in 60-digit arithmetic, given
with its worst error. With Q the upper tail of the standard normal:

- `SCALED_TAIL`: (t + 5/4) exp(t^2 / 2) Q(t) - 1/2 for t >= 0, over v - 1/2 with v = t / (t + 4).
  exp(t^2 / 2) Q(t) falls from 1/2 like 1 / (t sqrt(2 pi)); the factor keeps it within [0.39, 0.63],
  the subtracted 1/2 lets the sum keep its last digit.
- `QUANTILE_CENTRE`: ppf(1/2 + q) / q over q^2, for |q| <= 0.3.
- `QUANTILE_TAIL`: r + ppf(p) with r = sqrt(-2 log p) over 1 / (r + 2), for p from the smallest
  double to 0.2: the start of a Newton iteration.
- `LOG1P`: (atanh(s) / s - 1) / s^2 over s^2 <= 1/9, with s = x / (2 + x) for x in [-1/2, 1].
- `LOG1P_NEAR`: the same for 1 + x in [sqrt(1/2), sqrt(2)], for the loops in float64.
- `LOG`: log(1 + f) / f over f in [sqrt(1/2) - 1, sqrt(2) - 1], for the GPU; so are the next three.
- `LOG1P_UNIT`: log(1 + e) / e over e - 1/2 for e in [0, 1].
- `LOG1M_TAIL`: (-log(1 - a) / a - 1) / a for a in [0, 1/2].
- `ATAN_SHARE`: (atan(s) / s - 1) / (pi s^2) over s^2 <= 1.
- `ATAN`: (atan(s) / s - 1) / s^2 over s^2 <= 1.
- `EXP`: (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2.
- `TAN`: (tan(s) / s - 1) / s^2 over s^2 <= (pi / 4)^2.
"""

from parity.common.extras import needs

with needs("fit_special", "dev"):
    import mpmath as mp

mp.mp.dps = 60
HALF = mp.mpf(1) / 2


def interpolate(f, degree, low, high):
    """The polynomial through f at the Chebyshev nodes of [low, high], highest power first."""
    n = degree + 1
    middle, radius = (low + high) / 2, (high - low) / 2
    nodes = [middle + radius * mp.cos(mp.pi * (2 * j + 1) / (2 * n)) for j in range(n)]
    matrix = mp.matrix(n, n)
    for i, x in enumerate(nodes):
        for j in range(n):
            matrix[i, j] = x ** (degree - j)
    return list(mp.lu_solve(matrix, mp.matrix([f(x) for x in nodes])))


def scaled_tail(t):
    """exp(t^2 / 2) Q(t), by its asymptotic series past 1000."""
    if t > 1000:
        terms = (mp.fac2(2 * k - 1) * (-1) ** k / t ** (2 * k) for k in range(9))
        return mp.fsum(terms) / (t * mp.sqrt(2 * mp.pi))
    return mp.exp(t * t / 2) * mp.erfc(t / mp.sqrt(2)) / 2


def ppf(p):
    """Quantile of the standard normal for p < 1/2, by Newton's method on the log of the cdf."""
    x = -mp.sqrt(-2 * mp.log(p)) if p < 0.1 else (p - HALF) * mp.sqrt(2 * mp.pi)
    for _ in range(60):
        cdf = mp.erfc(-x / mp.sqrt(2)) / 2
        step = cdf * mp.log(cdf / p) / mp.npdf(x)
        x -= step
        if abs(step) < mp.mpf(10) ** -50:
            break
    return x


def scaled_tail_of(w):
    t = 4 * (HALF + w) / (HALF - w)
    return (t + mp.mpf(5) / 4) * scaled_tail(t) - HALF


def quantile_centre_of(square):
    q = mp.sqrt(square)
    return -ppf(HALF - q) / q


def quantile_tail_of(v):
    r = 1 / v - 2
    return r + ppf(mp.exp(-r * r / 2))


def log1p_of(square):
    s = mp.sqrt(square)
    return (mp.atanh(s) / s - 1) / square


def log_of(f):
    return mp.log1p(f) / f


def log1p_unit_of(v):
    return log_of(v + HALF)


def log1m_tail_of(a):
    return (log_of(-a) - 1) / a


def atan_of(square):
    s = mp.sqrt(square)
    return (mp.atan(s) / s - 1) / square


def atan_share_of(square):
    return atan_of(square) / mp.pi


def exp_of(r):
    return (mp.exp(r) - 1 - r) / r**2


def tan_of(square):
    s = mp.sqrt(square)
    return (mp.tan(s) / s - 1) / square


R_LOW, R_HIGH = mp.sqrt(-2 * mp.log(mp.mpf("0.2"))), mp.mpf("38.7")
FITS = {
    "SCALED_TAIL": (scaled_tail_of, -HALF, HALF, (11, 24)),
    "QUANTILE_CENTRE": (quantile_centre_of, mp.mpf(0), mp.mpf("0.09"), (7, 16)),
    "QUANTILE_TAIL": (quantile_tail_of, 1 / (R_HIGH + 2), 1 / (R_LOW + 2), (10,)),
    "LOG1P": (log1p_of, mp.mpf(0), mp.mpf(1) / 9, (4, 9)),
    "LOG1P_NEAR": (log1p_of, mp.mpf(0), ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2, (7,)),
    "LOG": (log_of, mp.sqrt(HALF) - 1, mp.sqrt(2) - 1, (8, 9)),
    "LOG1P_UNIT": (log1p_unit_of, -HALF, HALF, (8, 9, 10)),
    "LOG1M_TAIL": (log1m_tail_of, mp.mpf(0), HALF, (8, 9)),
    "ATAN_SHARE": (atan_share_of, mp.mpf(0), mp.mpf(1), (8, 9)),
    "ATAN": (atan_of, mp.mpf(0), mp.mpf(1), (9, 21)),
    "EXP": (exp_of, -mp.log(2) / 2, mp.log(2) / 2, (5, 11)),
    "TAN": (tan_of, mp.mpf(0), (mp.pi / 4) ** 2, (6, 15)),
}


def main():
    for name, (f, low, high, degrees) in FITS.items():
        for degree in degrees:
            power = interpolate(f, degree, low, high)
            grid = [low + (high - low) * (j + HALF) / 300 for j in range(300)]
            worst = max(abs(mp.polyval(power, x) - f(x)) for x in grid)
            print(f"# {name}, degree {degree}: off by {mp.nstr(worst, 2)} at most")
            print(f"({', '.join(repr(float(c)) for c in power)})")


if __name__ == "__main__":
    main()
