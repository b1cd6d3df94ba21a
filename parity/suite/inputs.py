"""The inputs that are judged: grids, small batches, predictions; the same on every machine.

`input_sets` has them by name. Elementwise quantities are evaluated on a grid over every regime,
reduced losses on small batches in the shapes that users train with, and their options on one small
batch of volumes.
"""

from functools import cache
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.extras import imports_of
from parity.common.naming import unknown

with imports_of("parity"):
    import mpmath as mp

Inputs = dict[str, Array]
"""The arrays of one input set: `x` (raw outputs; probabilities for the conventions) and perhaps `y`
(targets) and `w` (weights), or `p`."""

SEED = 20210902
"""The seed of every random input; stored in the records."""

DTYPES = ("float32", "float64")
PUBLISHED_EPSILON = 1e-7
IGNORED = 255
"""The target of an ignored element."""


def _around(points: tuple[float, ...], dtype: np.dtype[Any]) -> list[Array]:
    """Each point with its two neighbours in the dtype."""
    at = np.array(points, dtype)
    return [at, np.nextafter(at, dtype.type(np.inf)), np.nextafter(at, dtype.type(0))]


def grid(dtype_name: str) -> Array:
    """A sorted grid over every regime of the dtype, the same points on both sides of zero.

    Binades from the smallest normal number to 2^14, denser on [0, 20]; neighbours of the points
    where methods switch and functions saturate; the range up to 1e4, the range beyond, infinity.
    """
    dtype = np.dtype(dtype_name)
    info = np.finfo(dtype)
    rng = np.random.default_rng(SEED)
    tiny = np.array(np.linspace(int(info.minexp), -36, 4), dtype=int)
    exponents = np.concatenate([tiny, np.arange(-30, 14, 6)])
    steps = 12
    ends = (88.0, 104.0) if dtype_name == "float32" else (37.0, 708.0)
    switches = (0.5, 1.0, 16.0, *ends)
    near_one = 1 - np.array([1, 2, 3]) * float(info.epsneg)
    epsilon = float(dtype.type(PUBLISHED_EPSILON))
    parts = [
        np.array([0.0, float(info.tiny)]),
        np.ldexp(rng.uniform(1, 2, len(exponents)), exponents),
        (np.arange(steps) + rng.uniform(0, 1, steps)) * (20 / steps),
        *_around(switches, dtype),
        *_around((epsilon, 1 - epsilon), dtype),
        near_one,
        np.geomspace(21, 9000, 4),
        np.array([1e4, 1e5, 1e10, 1e19, 2e19, 1e30, float(info.max), np.inf]),
    ]
    half = np.unique(np.concatenate([np.asarray(part, dtype) for part in parts]))
    return np.concatenate([-half[::-1], half])


def _soft_targets(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Targets strictly between 0 and 1, a tenth of them within 1e-3 of an end."""
    y = rng.uniform(0.001, 0.999, shape)
    near = rng.uniform(1e-6, 1e-3, shape)
    return np.where(rng.uniform(size=shape) < 0.1, np.where(y < 0.5, near, 1 - near), y)


def _batch(shape: tuple[int, ...], soft: bool, dtype: str, seed: int) -> Inputs:
    """Raw outputs ~ N(0, 4), one in eight of them saturating (up to 30), and their targets."""
    rng = np.random.default_rng((SEED, seed))
    x = rng.normal(0, 2, shape)
    x = np.where(rng.uniform(size=shape) < 1 / 8, rng.uniform(-30, 30, shape), x)
    hard = (x + rng.normal(0, 3, shape) > 0).astype(float)
    y = _soft_targets(rng, shape) if soft else hard
    return {"x": x.astype(dtype), "y": y.astype(dtype)}


def _mixed_targets(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A third 0, a third 1, a third strictly between."""
    kind = rng.permutation(np.arange(np.prod(shape)) % 3).reshape(shape)
    return np.where(kind == 2, _soft_targets(rng, shape), kind)


def _apart(rng: np.random.Generator, y: Array) -> Array:
    """Raw outputs for hard targets whose errors are far apart, for any activation.

    So that no rounding decides their order: x is wrong by a margin between -6 and 4, no two of them
    within 0.1; the smallest and the largest x are both of targets 0, else `linear` makes a tie.
    """
    margin = np.linspace(-6, 4, y.size) + rng.uniform(-0.05, 0.05, y.size)
    x = np.where(y == 1, -1, 1) * rng.permutation(margin).reshape(y.shape)
    x[np.unravel_index(np.argmax(np.where(y == 0, x, -9)), x.shape)] = 6.5
    x[np.unravel_index(np.argmin(np.where(y == 0, x, 9)), x.shape)] = -6.5
    return x


def _anything(x: Array, where: Array) -> Array:
    """x, with arbitrary numbers where elements are ignored."""
    found = x.copy()
    found[where] = np.resize([np.nan, np.inf, -np.inf, 1e30, 2], np.count_nonzero(where))
    return found


def _with_ignored(rng: np.random.Generator, inputs: Inputs) -> Inputs:
    """A quarter of the targets ignored; the range of x stays."""
    x, y = inputs["x"], inputs["y"]
    ignored = rng.permutation(x.size) % 4 == 0
    ignored[[x.argmin(), x.argmax()]] = False
    ignored = ignored.reshape(x.shape)
    return {"x": _anything(x, ignored), "y": np.where(ignored, IGNORED, y)}


def _volumes(dtype: str) -> dict[str, Inputs]:
    """Small batches for the options: two samples of three channels, one of them without a target.

    The targets are mixed, or hard for the Lovasz losses.
    """
    shape = (2, 3, 2, 2, 2)
    rng = np.random.default_rng((SEED, 20))
    x = _batch(shape, True, "float64", 20)["x"]
    x = np.where(rng.uniform(size=shape) < 1 / 4, rng.uniform(0, 1, shape), x)
    y = _mixed_targets(rng, shape)
    hard = (rng.uniform(size=shape) < 0.4).astype(float)
    y[1, 2] = hard[1, 2] = 0
    w = rng.integers(0, 12, shape) / 8
    mixed, apart = {"x": x, "y": y}, {"x": _apart(rng, hard), "y": hard}
    # the range of x stays
    silent = (w == 0) & (apart["x"] > apart["x"].min()) & (apart["x"] < apart["x"].max())
    hard_w = np.where(silent, 0, np.maximum(w, 1 / 8))
    sets = {
        "volume-soft": mixed,
        "volume-weight-soft": {"x": _anything(x, w == 0), "y": y, "w": w},
        "volume-ignored-soft": _with_ignored(rng, mixed),
        "volume-hard": apart,
        "volume-weight-hard": {"x": _anything(apart["x"], silent), "y": hard, "w": hard_w},
        "volume-ignored-hard": _with_ignored(rng, apart),
    }
    return {name: {k: v.astype(dtype) for k, v in s.items()} for name, s in sets.items()}


def _predictions(dtype: str) -> Array:
    """Sigmoids of raw outputs from -200 to 200, rounded correctly, and neighbours of 1e-7 limits.

    Dense where they are close to 0, 1/2, 1 and the limits; without the limits and without subnormal
    numbers.
    """
    around = np.array([0, 16, -16, 17, -17, 37, -37])[:, None] + np.linspace(-0.75, 0.75, 7)
    raw = np.concatenate([np.linspace(-200, 200, 41), np.linspace(-36, 36, 33), around.ravel()])
    with mp.workdps(50):
        sigmoids = np.array([float(1 / (1 + mp.exp(-x))) for x in raw.tolist()], dtype)
    limits = np.array([PUBLISHED_EPSILON, 1 - PUBLISHED_EPSILON], dtype)
    zero, one = sigmoids.dtype.type(0), sigmoids.dtype.type(1)
    near = [np.nextafter(limits, zero), np.nextafter(limits, one), [zero, one]]
    p = np.unique(np.concatenate([sigmoids, *near]))
    return p[~np.isin(p, limits) & ((p == 0) | (p >= np.finfo(dtype).tiny))]


def _probabilities(dtype: str) -> Array:
    """A grid on (1e-6, 1 - 1e-6), dense at both ends and around 1/2."""
    rng = np.random.default_rng(SEED)
    ends = np.geomspace(1.1e-6, 0.49, 24)
    around = np.geomspace(1e-6, 0.1, 8)
    middle = np.concatenate([0.5 - around, [0.5], 0.5 + around])
    return np.unique(np.concatenate([ends, 1 - ends, middle, rng.uniform(0, 1, 16)]).astype(dtype))


def _linear_sets(dtype: str) -> dict[str, Inputs]:
    """Batches for `linear`: ties at both ends, a constant, and a range that overflows."""
    rng = np.random.default_rng((SEED, 3))
    x = np.concatenate([rng.normal(0, 5, 40), rng.uniform(-1e4, 1e4, 20), [0, 1e-3, -1e-3]])
    x = np.concatenate([x, [-1e4, -1e4, 1e4, 1e4, 1e4]]).astype(dtype)
    y = _soft_targets(rng, x.shape).astype(dtype)
    huge = x.copy()
    huge[[0, -1]] = np.array([-1, 1]) * np.finfo(dtype).max
    return {
        "linear": {"x": x, "y": y},
        "linear-constant": {"x": np.full_like(x, 3.7), "y": y},
        "linear-huge": {"x": huge},
    }


@cache
def input_sets() -> dict[str, Inputs]:
    """Every input set of the standard cases by its full name, such as `grid-float32`."""
    sets: dict[str, Inputs] = {}
    for dtype in DTYPES:
        x = grid(dtype)
        y = _soft_targets(np.random.default_rng((SEED, 1)), x.shape).astype(dtype)
        sets[f"grid-{dtype}"] = {"x": x, "y": y}
        keep = np.zeros(len(x), bool)
        keep[::6] = keep[-1] = keep[1] = keep[-2] = True  # the infinities, the largest numbers
        sets[f"thin-{dtype}"] = {"x": x[keep], "y": y[keep]}
        finite = keep & np.isfinite(x)
        sets[f"finite-{dtype}"] = {"x": x[finite], "y": y[finite]}
        sets[f"probabilities-{dtype}"] = {"p": _probabilities(dtype)}
        sets.update({f"{name}-{dtype}": s for name, s in _linear_sets(dtype).items()})
        sets[f"segmentation-soft-{dtype}"] = _batch((2, 1, 6, 6), True, dtype, 10)
        sets[f"classification-soft-{dtype}"] = _batch((32, 1), True, dtype, 11)
        sets.update({f"{name}-{dtype}": s for name, s in _volumes(dtype).items()})
        p = _predictions(dtype)
        targets = _soft_targets(np.random.default_rng((SEED, 2)), p.shape).astype(dtype)
        sets[f"predictions-{dtype}"] = {"x": p, "y": targets}
    sets["segmentation-hard-float32"] = _batch((2, 1, 6, 6), False, "float32", 12)
    sets["classification-hard-float32"] = _batch((32, 1), False, "float32", 13)
    off = np.array([[-5.0, -1.0, -0.5], [-3.0, -0.25, 0.0]], "float32")
    sets["all-off-float32"] = {"x": off, "y": np.zeros_like(off)}
    wide = _batch((1, 1, 64, 64), False, "float32", 14)["x"]
    sets["empty-float32"] = {"x": wide, "y": np.zeros_like(wide)}
    for inputs in sets.values():
        for array in inputs.values():  # stored in records, and passed to users' functions
            array.setflags(write=False)
    return sets


_CASES = {
    "segmentation": ("segmentation-soft", "segmentation-hard"),
    "classification": ("classification-soft", "classification-hard"),
    "volumes": ("volume-soft", "volume-hard"),
    "predictions": ("predictions",),
}
"""The sets of `input_sets` that fit any loss, by kind."""


def _tails(dtype: str) -> Inputs:
    """Raw outputs from -40 to 40 in quarters, each with the targets 0, 1 and one between."""
    x, y = np.meshgrid(np.linspace(-40, 40, 321), [0, 1, 0.3], indexing="ij")
    return {"x": x.astype(dtype), "y": y.astype(dtype)}


def case_names() -> tuple[str, ...]:
    """The names for `case_inputs`."""
    return (*_CASES, "tails")


def case_inputs(name: str) -> dict[str, Inputs]:
    """The input sets for any loss `f(x, y)`, by full name.

    "segmentation": (2, 1, 6, 6), NCHW; "classification": (32, 1); "volumes": (2, 3, 2, 2, 2); with
    soft targets in float32 and float64 and with hard ones in float32 (volumes: in both). "tails":
    (321, 3), raw outputs from -40 to 40, which the others rarely have. "predictions": probabilities
    from 0 to 1 instead of raw outputs. "tails-float32" is those in one precision.

    Raises `ValueError` for another name.
    """
    kind, dash, dtype = name.rpartition("-")
    dtypes, kind = ((dtype,), kind) if dash and dtype in DTYPES else (DTYPES, name)
    if kind not in case_names():
        precisions = " or ".join(f"-{dtype}" for dtype in DTYPES)
        message = unknown("cases", name, case_names())
        raise ValueError(f"{message}; in one precision with {precisions} at the end")
    if kind == "tails":
        return {f"tails-{dtype}": _tails(dtype) for dtype in dtypes}
    sets = input_sets()
    names = [f"{kind}-{dtype}" for kind in _CASES[kind] for dtype in dtypes]
    return {name: sets[name] for name in names if name in sets}
