"""The reference against other people's definitions, numerical derivatives, and its own record."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import stats

from parity import reference
from parity.cases import ACTIVATIONS, SMOOTH, Case, input_sets, standard_cases
from parity.records import REFERENCE_PATH, Record

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
X = np.array([-20.5, -3.0, -0.7, -1e-3, 1e-3, 0.25, 1.0, 4.75, 12.0])


def at(
    activation: str, quantity: str, option: str = "", x: Any = X, **fields: Any
) -> dict[str, Any]:
    """The reference at x, with targets of 0.3 if they are soft."""
    case = Case("test", "float64", activation, quantity, option, **fields)
    x = np.asarray(x, np.float64)
    return reference.evaluate(case, {"x": x, "y": np.full_like(x, 0.3), "p": x})


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
    found = reference.evaluate(case, {"x": x, "y": y})
    step = 1e-5
    for key, part in (("x", "grad_x"), ("y", "grad_y")):
        for index in np.ndindex(x.shape):
            losses = []
            for sign in (1, -1):
                moved = {"x": x.copy(), "y": y.copy()}
                moved[key][index] += sign * step
                losses.append(float(reference.evaluate(case, moved)["value"]))
            slope = (losses[0] - losses[1]) / (2 * step)
            assert found[part][index] == pytest.approx(slope, rel=1e-5, abs=1e-8), (part, index)


def test_dice_is_the_published_formula() -> None:
    """1 - 2 sum(f y) / sum(f + y), and the mean over samples; 0 where the denominator is 0."""
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(3, 5)), rng.uniform(size=(3, 5))
    f = stats.logistic.cdf(x)
    per_sample = 1 - 2 * np.sum(f * y, 1) / np.sum(f + y, 1)
    found = reference.evaluate(Case("t", "float64", "sigmoid", "dice"), {"x": x, "y": y})
    assert float(found["value"]) == pytest.approx(1 - 2 * np.sum(f * y) / np.sum(f + y))
    case = Case("t", "float64", "sigmoid", "dice", "per_sample")
    assert float(reference.evaluate(case, {"x": x, "y": y})["value"]) == pytest.approx(
        per_sample.mean()
    )
    off = reference.evaluate(Case("t", "float32", "hardtanh", "dice"), {"x": -abs(x), "y": 0 * y})
    assert float(off["value"]) == 0
    assert not off["grad_x"].any()


def test_linear_shares_ties_and_survives_a_constant() -> None:
    x = np.array([1.0, 1.0, 2.0, 3.0])
    case = Case("t", "float64", "linear", "cdf")
    found = reference.evaluate(case, {"x": x})
    assert found["value"].tolist() == [0, 0, 0.5, 1]
    # sum F = 1.5: d/dmin = -(1 + 1 + 1/2)/2 shared by two, beside the direct 1/2 of each
    np.testing.assert_allclose(found["grad_x"], [0.5 - 0.625, 0.5 - 0.625, 0.5, 0.5 - 0.75])
    constant = reference.evaluate(case, {"x": np.full(3, 7.0)})
    assert constant["value"].tolist() == [0.5] * 3
    assert constant["grad_x"].tolist() == [0] * 3


def test_epsilon_is_rounded_to_the_dtype_of_the_inputs() -> None:
    x = {"x": np.array([-1.0])}
    value = reference.evaluate(Case("t", "float32", "hardtanh", "cdf", "", 1e-7), x)["value"]
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
        again = reference.evaluate(cases[index], input_sets()[cases[index].input_set])
        for part, array in record.result(cases[index]).items():
            assert array.tobytes() == again[part].tobytes(), (cases[index].name, part)


def test_record_is_small() -> None:
    assert REFERENCE_PATH.stat().st_size < 900_000
