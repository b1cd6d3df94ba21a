"""The reference against other people's definitions, numerical derivatives, and its own record."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import stats

from parity.common.arrays import Array
from parity.reference import REFERENCE_PATH
from parity.reference import multiprecision as reference
from parity.suite.case import ACTIVATIONS, REDUCED, SMOOTH, Case
from parity.suite.cases import standard_cases
from parity.suite.inputs import input_sets
from parity.suite.records import Record

# scipy's name for each distribution; inverse square root is Student's t with two degrees of
# freedom, scaled by 1/sqrt 2
SCIPY = {
    "sigmoid": stats.logistic(),
    "normal_cdf": stats.norm(),
    "arctan": stats.cauchy(),
    "inverse_square_root": stats.t(2, scale=np.sqrt(0.5)),
    "hardtanh": stats.uniform(),
}
CDF: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "normal_cdf": mp.ncdf,
    "arctan": lambda x: mp.atan2(1, -x) / mp.pi,
    "softsign": lambda x: (1 + x / (1 + abs(x))) / 2,
    "inverse_square_root": lambda x: (1 + mp.sin(mp.atan(x))) / 2,
}


def entropy(c: Any, y: Any, pos_weight: float = 1.0) -> Any:
    """Cross entropy."""
    return -mp.mpf(pos_weight) * y * mp.log(c) - (1 - y) * mp.log(1 - c)


def focal(c: Any, y: Any, gamma: float, alpha: float | None = None) -> Any:
    """The focal loss, p the probability of what is right."""
    p = y * c + (1 - y) * (1 - c)
    A = 1 if alpha is None else alpha * y + (1 - mp.mpf(alpha)) * (1 - y)
    return A * (1 - p) ** mp.mpf(gamma) * entropy(c, y)


X = np.array([-20.5, -3.0, -0.7, -1e-3, 1e-3, 0.25, 1.0, 4.75, 12.0])


def at(
    activation: str, quantity: str, option: str = "", x: Any = X, **fields: Any
) -> dict[str, Any]:
    """The reference at x, with targets of 0.3 if they are soft."""
    case = Case("test", "float64", activation, quantity, option, **fields)
    x = np.asarray(x, np.float64)
    return reference.evaluate(case.bind({"x": x, "y": np.full_like(x, 0.3), "p": x}))


@pytest.mark.parametrize("method", ["cdf", "sf", "logcdf", "logsf", "pdf"])
@pytest.mark.parametrize("activation", SCIPY)
def test_values_are_those_of_scipy(activation: str, method: str) -> None:
    x = X[(X > 0) & (X < 1)] if activation == "hardtanh" else X
    expected = getattr(SCIPY[activation], method)(x)
    # scipy's t and cauchy subtract from one here and there
    np.testing.assert_allclose(at(activation, method, x=x)["value"], expected, rtol=2e-12)


@pytest.mark.parametrize("activation", SCIPY)
def test_ppf_is_that_of_scipy(activation: str) -> None:
    p = np.array([2e-6, 0.01, 0.4, 0.75, 0.999])
    np.testing.assert_allclose(
        at(activation, "ppf", x=p)["value"], SCIPY[activation].ppf(p), rtol=1e-9
    )


@pytest.mark.parametrize("epsilon", [0.0, 1e-7])
@pytest.mark.parametrize("activation", SMOOTH)
def test_gradients_are_numerical_derivatives(activation: str, epsilon: float) -> None:
    F, e = CDF[activation], mp.mpf(epsilon)

    def c(x: Any) -> Any:
        return e + (1 - 2 * e) * F(x)

    functions: dict[tuple[str, str], Callable[[Any], Any]] = {
        ("cdf", ""): c,
        ("sf", ""): lambda x: 1 - c(x),
        ("logcdf", ""): lambda x: mp.log(c(x)),
        ("logsf", ""): lambda x: mp.log(1 - c(x)),
        ("pdf", ""): lambda x: mp.diff(c, x),
        ("binary_cross_entropy", "y=0"): lambda x: -mp.log(1 - c(x)),
        ("binary_cross_entropy", "y=1"): lambda x: -mp.log(c(x)),
        ("squared_error", "y=soft"): lambda x: (c(x) - mp.mpf(0.3)) ** 2,
        ("binary_focal_cross_entropy", "y=0"): lambda x: -(c(x) ** 2) * mp.log(1 - c(x)),
        ("binary_focal_cross_entropy", "y=1"): lambda x: -((1 - c(x)) ** 2) * mp.log(c(x)),
        ("binary_focal_cross_entropy", "y=soft"): lambda x: focal(c(x), mp.mpf(0.3), 2.0),
    }
    for (quantity, option), function in functions.items():
        found = at(activation, quantity, option, epsilon=epsilon)
        with mp.workdps(120):
            value = [float(function(mp.mpf(x))) for x in X]
            slope = [float(mp.diff(function, mp.mpf(x))) for x in X]
        np.testing.assert_allclose(
            found["value"], value, rtol=1e-15, err_msg=f"{quantity} {option}"
        )
        np.testing.assert_allclose(
            found["grad_x"], slope, rtol=1e-15, err_msg=f"{quantity} {option}"
        )


def test_known_numbers() -> None:
    """Figures from the design, and limits that can be done by hand."""
    assert at("normal_cdf", "logcdf", x=[-100.0])["value"][0] == pytest.approx(-5005.5242086942)
    squeezed = at("arctan", "binary_cross_entropy", "y=1", x=[-np.inf], epsilon=1e-7)
    assert squeezed["value"][0] == pytest.approx(-np.log(1e-7))
    far = at("arctan", "logcdf", x=[-1e300])["value"][0]
    assert far == pytest.approx(-np.log(np.pi) - 300 * np.log(10), rel=1e-15)
    assert at("normal_cdf", "logcdf", x=[-1e300, -np.inf, np.inf])["value"].tolist() == [
        -np.inf,
        -np.inf,
        0,
    ]
    assert at("normal_cdf", "logcdf", x=[-np.inf])["grad_x"][0] == np.inf
    assert at("sigmoid", "logcdf", x=[-np.inf])["grad_x"][0] == 1
    assert at("sigmoid", "sf", x=[40.0])["value"][0] == pytest.approx(np.exp(-40), rel=1e-15)
    assert np.isnan(at("softsign", "pdf", x=[0.0])["grad_x"][0])


def test_hardtanh_is_flat_at_both_limits() -> None:
    x = [1e-7, np.nextafter(1e-7, 1), 0.5, 1 - 1e-7, 1.0, -3.0]
    found = at("hardtanh", "cdf", x=x, epsilon=1e-7)
    assert found["grad_x"].tolist() == [0, 1, 1, 0, 0, 0]
    assert found["value"].tolist() == [1e-7, x[1], 0.5, 1 - 1e-7, 1 - 1e-7, 1e-7]
    assert at("hardtanh", "logcdf", x=[-1.0])["value"].tolist() == [-np.inf]
    assert at("hardtanh", "logcdf", x=[-1.0])["grad_x"].tolist() == [0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("quantity", "option"),
    [
        ("binary_cross_entropy", "mean"),
        ("mean_squared_error", "mean"),
        ("dice", ""),
        ("dice", "per_sample"),
    ],
)
def test_reduced_gradients_are_differences(activation: str, quantity: str, option: str) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.uniform(0.1, 0.9, (2, 3)), rng.uniform(0.1, 0.9, (2, 3))
    case = Case("test-soft", "float64", activation, quantity, option, 1e-3)
    found = reference.evaluate(case.bind({"x": x, "y": y}))
    step = 1e-5
    for key, part in (("x", "grad_x"), ("y", "grad_y")):
        for index in np.ndindex(x.shape):
            losses = []
            for sign in (1, -1):
                moved = {"x": x.copy(), "y": y.copy()}
                moved[key][index] += sign * step
                losses.append(float(reference.evaluate(case.bind(moved))["value"]))
            slope = (losses[0] - losses[1]) / (2 * step)
            assert found[part][index] == pytest.approx(slope, rel=1e-5, abs=1e-8), (part, index)


def test_dice_is_the_published_formula() -> None:
    """1 - 2 sum(f y) / sum(f + y), and the mean over samples; 0 where the denominator is 0."""
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(3, 5)), rng.uniform(size=(3, 5))
    f = stats.logistic.cdf(x)
    per_sample = 1 - 2 * np.sum(f * y, 1) / np.sum(f + y, 1)
    found = reference.evaluate(Case("t", "float64", "sigmoid", "dice").bind({"x": x, "y": y}))
    assert float(found["value"]) == pytest.approx(1 - 2 * np.sum(f * y) / np.sum(f + y))
    case = Case("t", "float64", "sigmoid", "dice", "per_sample")
    assert float(reference.evaluate(case.bind({"x": x, "y": y}))["value"]) == pytest.approx(
        per_sample.mean()
    )
    off = reference.evaluate(
        Case("t", "float32", "hardtanh", "dice").bind({"x": -abs(x), "y": 0 * y})
    )
    assert float(off["value"]) == 0
    assert not off["grad_x"].any()


def mean_of(term: Callable[..., Any]) -> Callable[..., Any]:
    """The mean of an elementwise loss, of smoothed targets."""

    def mean(c: Any, y: Any, w: Any, label_smoothing: float = 0.0, **options: Any) -> Any:
        L = mp.mpf(label_smoothing)
        rows = zip(c, y, w, strict=True)
        return sum(w * term(c, y * (1 - L) + L / 2, **options) for c, y, w in rows) / len(c)

    return mean


def areas(c: Any, y: Any, w: Any) -> tuple[Any, Any, Any]:
    """Of the prediction, of the target, of their intersection."""
    common = mp.fsum(a * b * weight for a, b, weight in zip(c, y, w, strict=True))
    return mp.fdot(w, c), mp.fdot(w, y), common


def tversky(c: Any, y: Any, w: Any, alpha: float, beta: float, smooth: float = 0.0) -> Any:
    """1 - (C + s) / (C + alpha (A - C) + beta (B - C) + s), C what A and B have in common."""
    A, B, C = areas(c, y, w)
    return 1 - (C + smooth) / (C + mp.mpf(alpha) * (A - C) + mp.mpf(beta) * (B - C) + smooth)


def dice(c: Any, y: Any, w: Any, smooth: float = 0.0) -> Any:
    """1 - (2 C + s) / (A + B + s)."""
    A, B, C = areas(c, y, w)
    return 1 - (2 * C + smooth) / (A + B + smooth)


def jaccard(c: Any, y: Any, w: Any, smooth: float = 0.0) -> Any:
    """1 - (C + s) / (A + B - C + s)."""
    A, B, C = areas(c, y, w)
    return 1 - (C + smooth) / (A + B - C + smooth)


def dice_cross_entropy(
    c: Any,
    y: Any,
    w: Any,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    smooth: float = 0.0,
    **options: Any,
) -> Any:
    """A sum of two."""
    return lambda_dice * dice(c, y, w, smooth) + lambda_ce * mean_of(entropy)(c, y, w, **options)


def extension(errors: Any, y: Any, w: Any) -> Any:
    """The Lovasz extension of the Jaccard loss, as the integral of its definition.

    Of D({i: e_i >= t}) over t > 0, where D(S) = |S| / |P or S| is the Jaccard loss of mistakes S,
    and |S| the weight of all in it.
    """
    levels = sorted({e for e in errors if e > 0}, reverse=True)
    total = mp.mpf(0)
    for level, below in pairwise([*levels, mp.mpf(0)]):
        wrong = {i for i, e in enumerate(errors) if e >= level}
        union = wrong | {i for i, target in enumerate(y) if target}
        areas = [mp.fsum(w[i] for i in area) for area in (wrong, union)]
        total += (level - below) * (areas[0] / areas[1] if areas[1] else 0)
    return total


TEXTBOOK: dict[str, Callable[..., Any]] = {
    "binary_cross_entropy": mean_of(entropy),
    "mean_squared_error": mean_of(lambda c, y: (c - y) ** 2),
    "binary_focal_cross_entropy": mean_of(focal),
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": lambda *a, gamma, **options: tversky(*a, **options) ** (1 / mp.mpf(gamma)),
    "dice_cross_entropy": dice_cross_entropy,
    "lovasz": lambda c, y, w: extension([abs(b - a) for a, b in zip(c, y, strict=True)], y, w),
    "lovasz_hinge": lambda x, y, w: extension(
        [1 - a * (2 * b - 1) for a, b in zip(x, y, strict=True)], y, w
    ),
}
GROUPS: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "per_sample": lambda index: index[0],
    "channels_first": lambda index: index[:2],
    "channels_last": lambda index: index[-1],
}


def by_the_book(case: Case, x: Any, y: Any, w: Array) -> Any:
    """The mean over groups of the loss by its textbook formula, ignored elements left out."""
    groups: dict[Any, list[tuple[Any, Any, Any]]] = {}
    group_of = GROUPS.get(case.option, lambda index: 0)
    for i, index in enumerate(np.ndindex(w.shape)):
        if y[i] != 255:
            c = x[i] if case.activation == "none" else CDF[case.activation](x[i])
            groups.setdefault(group_of(index), []).append((c, y[i], mp.mpf(float(w.flat[i]))))
    options = case.parameters
    values = [TEXTBOOK[case.quantity](*zip(*g, strict=True), **options) for g in groups.values()]
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("quantity", "option"), [(q, option) for q, options in REDUCED.items() for option in options]
)
def test_reduced_losses_are_those_of_textbooks(quantity: str, option: str) -> None:
    """And their gradients the numerical derivatives of those, at 60 digits."""
    hard = quantity.startswith("lovasz")
    activation = "none" if quantity == "lovasz_hinge" else "sigmoid"
    case = Case("test" if hard else "test-soft", "float64", activation, quantity, option)
    rng = np.random.default_rng(11)
    x, y, w = rng.normal(0, 2, (2, 3, 2)), rng.uniform(size=(2, 3, 2)), np.ones((2, 3, 2))
    w = rng.integers(0, 4, w.shape) / 8 if option == "weight" else w
    y = np.round(y) if hard else y
    if option == "ignore_index":
        y[0, 1] = y[1, 2, 0] = 255
    found = reference.evaluate(case.bind({"x": x, "y": y, "w": w}))
    with mp.workdps(80):
        at = {"x": [mp.mpf(v) for v in x.flat], "y": [mp.mpf(v) for v in y.flat]}
        assert float(found["value"]) == pytest.approx(float(by_the_book(case, **at, w=w)), 1e-15)
        for key in ("x",) if hard else ("x", "y"):
            for i in range(x.size):

                def moved(v: Any, key: str = key, i: int = i) -> Any:
                    return by_the_book(
                        case, **at | {key: [*at[key][:i], v, *at[key][i + 1 :]]}, w=w
                    )

                slope = 0.0 if at["y"][i] == 255 else float(mp.diff(moved, at[key][i]))
                assert found[f"grad_{key}"].flat[i] == pytest.approx(slope, 1e-14, 1e-30), (key, i)


def test_lovasz_of_an_empty_mask_is_the_largest_error() -> None:
    x = np.array([[0.5, -1.0, 2.0]])
    inputs = {"x": x, "y": np.zeros_like(x)}
    found = reference.evaluate(Case("t", "float64", "sigmoid", "lovasz").bind(inputs))
    F = stats.logistic.cdf(2.0)
    assert float(found["value"]) == pytest.approx(F, rel=1e-15)
    np.testing.assert_allclose(found["grad_x"], [[0, 0, F * (1 - F)]], rtol=1e-15)


# p, y: loss, gradient in p of every convention, in float32
CONVENTIONS = {
    ("keras", 0.0, 1.0): (16.118096, 0.0),
    ("keras", 1.0, 0.0): (15.942385, 0.0),
    ("keras2", 0.0, 1.0): (-np.log(2e-7), 0.0),
    ("keras2", 1.0, 0.0): (-np.log(1.1920929e-7 + 1e-7), 0.0),
    ("keras_logit", 0.0, 1.0): (16.118096, 0.0),
    ("torch", 0.0, 1.0): (100.0, -1e12),
    ("torch", 1.0, 0.0): (100.0, 1e12),
    ("torch_legacy", 0.0, 1.0): (27.631021, -1e12),
    ("torch_legacy", 1.0, 1.0): (0.0, 0.0),
    **{(name, 0.3, 1.0): (-np.log(0.3), -1 / 0.3) for name in ("keras", "keras_logit", "torch")},
    **{(name, 0.3, 0.0): (-np.log(0.7), 1 / 0.7) for name in ("keras2", "torch_legacy")},
}


@pytest.mark.parametrize(("name", "p", "y"), CONVENTIONS)
def test_conventions_are_those_of_their_frameworks(name: str, p: float, y: float) -> None:
    case = Case("t", "float32", f"{name}_convention", "binary_cross_entropy", "y=soft")
    inputs = {"x": np.array([p], np.float32), "y": np.array([y], np.float32)}
    found = reference.evaluate(case.bind(inputs))
    loss, gradient = CONVENTIONS[name, p, y]
    assert found["value"][0] == pytest.approx(loss, rel=1e-6)
    assert found["grad_x"][0] == pytest.approx(gradient, rel=1e-6)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("option", ["y=0", "y=1", "y=soft"])
def test_the_convention_of_torch_is_its_own_loss(option: str) -> None:
    import torch

    case = Case("predictions", "float32", "torch_convention", "binary_cross_entropy", option)
    inputs = input_sets()[case.input_set]
    exact = reference.evaluate(case.bind(inputs))
    p, y = (torch.tensor(array) for array in case.bind(inputs).arguments)
    value = torch.nn.functional.binary_cross_entropy(p.requires_grad_(), y, reduction="none")
    value.sum().backward()
    assert p.grad is not None
    np.testing.assert_allclose(value.detach().numpy(), exact["value"], rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(p.grad.numpy(), exact["grad_x"], rtol=1e-5, atol=1e-7)


def test_linear_shares_ties_and_survives_a_constant() -> None:
    x = np.array([1.0, 1.0, 2.0, 3.0])
    case = Case("t", "float64", "linear", "cdf")
    found = reference.evaluate(case.bind({"x": x}))
    assert found["value"].tolist() == [0, 0, 0.5, 1]
    # sum F = 1.5: d/dmin = -(1 + 1 + 1/2)/2 shared by two, beside the direct 1/2 of each
    np.testing.assert_allclose(found["grad_x"], [0.5 - 0.625, 0.5 - 0.625, 0.5, 0.5 - 0.75])
    constant = reference.evaluate(case.bind({"x": np.full(3, 7.0)}))
    assert constant["value"].tolist() == [0.5] * 3
    assert constant["grad_x"].tolist() == [0] * 3


def test_epsilon_is_rounded_to_the_dtype_of_the_inputs() -> None:
    x = {"x": np.array([-1.0])}
    value = reference.evaluate(Case("t", "float32", "hardtanh", "cdf", "", 1e-7).bind(x))["value"]
    assert value[0] == float(np.float32(1e-7)) != 1e-7


def test_record_is_what_the_reference_computes() -> None:
    """A seeded part of the shipped record is computed again, and is the same to the last bit."""
    record = Record.load(REFERENCE_PATH)
    assert record.implementation == "reference"
    for name, inputs in input_sets().items():
        kept = record.inputs(name)
        assert all(
            np.array_equal(kept[key], array, equal_nan=True) for key, array in inputs.items()
        )
    cases = standard_cases()
    assert all(record.has(case) for case in cases)
    for index in np.random.default_rng(9).choice(len(cases), 60, replace=False):
        again = reference.evaluate(cases[index].bind(input_sets()[cases[index].input_set]))
        for part, array in record.result(cases[index]).items():
            assert array.tobytes() == again[part].tobytes(), (cases[index].name, part)


def test_record_is_small() -> None:
    assert REFERENCE_PATH.stat().st_size < 150_000 * len(ACTIVATIONS)
