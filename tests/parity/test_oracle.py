"""The float64 oracle against the 50-digit reference."""

import numpy as np
import pytest

from parity.accuracy import bounds
from parity.accuracy import sweep as dense
from parity.accuracy.error import elementwise_error, reduced_error
from parity.common.arrays import Array
from parity.reference import float64 as oracle
from parity.reference import multiprecision as reference
from parity.suite.case import SMOOTH, Case, default_epsilon
from parity.suite.cases import judged_cases
from parity.suite.inputs import input_sets

LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("activation", dict.fromkeys(c.activation for c in judged_cases()))
def test_oracle_keeps_its_bound_on_every_case(activation: str) -> None:
    for case in judged_cases():
        if case.activation != activation:
            continue
        inputs = input_sets()[case.input_set]
        exact, found = reference.evaluate(case.bind(inputs)), oracle.evaluate(case.bind(inputs))
        scale = oracle.scales(case.bind(inputs))
        for part in case.parts:
            if bounds.kind(case, part).startswith("reduced"):
                error = reduced_error(found[part], exact[part], case.dtype, both=False)
            else:
                got = np.where(np.isnan(exact[part]), 0, found[part])  # no derivative: NaN in both
                magnitude = np.fmax(np.abs(exact[part]), scale.get(part, 0))
                error = elementwise_error(got, exact[part], magnitude, "float64")
                # it judges finite float32 inputs; beyond those its squares overflow
                x = inputs.get("x", np.zeros_like(exact[part]))
                error = np.where(np.abs(x) > LARGEST, 0, error)
            assert np.max(error) <= bounds.ORACLE, (case.name, part, np.max(error))


@pytest.mark.parametrize("activation", [*SMOOTH, "hardtanh"])
def test_oracle_keeps_its_bound_on_the_dense_inputs(activation: str) -> None:
    """A seeded sample of the inputs that only the oracle judges, a tenth of it far out."""
    rng = np.random.default_rng(3)
    chosen = rng.choice(dense.COUNT, 400, replace=False)
    inputs = {"x": dense.near_inputs()[chosen]}
    inputs["x"][:40] = rng.choice(dense.far_inputs(), 40, replace=False)
    cases = dense.cases_of(activation, "dense")
    cases.append(Case("dense", "float32", activation, "ppf", "", default_epsilon(activation)))
    inputs["p"] = dense.probabilities()[chosen]
    for case in cases:
        exact, found = reference.evaluate(case.bind(inputs)), oracle.evaluate(case.bind(inputs))
        for part in case.parts:
            error = elementwise_error(found[part], exact[part], np.abs(exact[part]), "float64")
            assert np.max(error) <= bounds.ORACLE, (case.name, part)


def test_dense_inputs_are_a_million_and_in_range() -> None:
    near, far, p = dense.near_inputs(), dense.far_inputs(), dense.probabilities()
    assert near.dtype == far.dtype == p.dtype == np.float32
    assert len(near) == len(p) == 1_048_576
    assert np.abs(near).max() == 1e4
    assert np.mean(np.abs(near) < 20) > 0.5
    assert np.abs(far).min() > 1e4
    assert np.abs(far).max() == np.finfo(np.float32).max
    assert float(p.min()) > 1e-6
    assert float(p.max()) < 1 - 1e-6


def test_scales_are_the_magnitudes_of_the_cancelling_terms() -> None:
    x = np.array([-1.5, 0.2, 3.0])
    y = np.array([0.25, 0.5, 0.9])
    inputs = {"x": x, "y": y}
    F, f = 1 / (1 + np.exp(-x)), np.exp(-x) / (1 + np.exp(-x)) ** 2
    case = Case("t", "float64", "sigmoid", "binary_cross_entropy", "y=soft")
    scale = oracle.scales(case.bind(inputs))
    np.testing.assert_allclose(scale["grad_x"], y * f / F + (1 - y) * f / (1 - F))
    np.testing.assert_allclose(scale["grad_y"], -np.log(F) - np.log(1 - F))
    squared = Case("t", "float64", "sigmoid", "squared_error", "y=soft")
    both, d = (1 - y) * F + y * (1 - F), F - y
    scale = oracle.scales(squared.bind(inputs))
    np.testing.assert_allclose(scale["value"], 2 * np.abs(d) * both, rtol=1e-12)
    np.testing.assert_allclose(scale["grad_x"], 2 * f * both)
    np.testing.assert_allclose(scale["grad_y"], 2 * both)
    assert oracle.scales(Case("t", "float64", "sigmoid", "squared_error", "y=0").bind(inputs)) == {}


def test_scales_of_reduced_losses_are_the_magnitudes_of_their_terms() -> None:
    x = np.array([[-1.5, 0.2, 3.0], [0.5, -0.5, 1.0]])
    y = np.array([[0.25, 0.5, 0.9], [0.1, 0.2, 0.3]])
    inputs = {"x": x, "y": y}
    F, f = 1 / (1 + np.exp(-x)), np.exp(-x) / (1 + np.exp(-x)) ** 2

    def case(quantity: str, option: str) -> Case:
        return Case("t-soft", "float64", "sigmoid", quantity, option)

    both = (1 - y) * F + y * (1 - F)
    for quantity, in_x, in_y in (
        ("binary_cross_entropy", y * f / F + (1 - y) * f / (1 - F), -np.log(F) - np.log(1 - F)),
        ("mean_squared_error", 2 * f * both, 2 * both),
    ):
        scale = oracle.scales(case(quantity, "mean").bind(inputs))
        assert set(scale) == {"grad_x", "grad_y"}
        np.testing.assert_allclose(scale["grad_x"], in_x / 6)
        np.testing.assert_allclose(scale["grad_y"], in_y / 6)
    for option, axis, samples in (("", None, 1), ("per_sample", 1, 2)):
        loss = 1 - 2 * np.sum(F * y, axis, keepdims=True) / np.sum(F + y, axis, keepdims=True)
        share = 1 / np.sum(F + y, axis, keepdims=True) / samples
        scale = oracle.scales(case("dice", option).bind(inputs))
        np.testing.assert_allclose(scale["grad_x"], f * (np.abs(1 - 2 * y) + loss) * share)
        np.testing.assert_allclose(scale["grad_y"], (np.abs(1 - 2 * F) + loss) * share)


def test_scales_of_the_focal_loss_are_the_magnitudes_of_its_terms() -> None:
    x = np.array([-1.5, 0.2, 3.0])
    y = np.array([0.25, 0.5, 0.9])
    F, f = 1 / (1 + np.exp(-x)), np.exp(-x) / (1 + np.exp(-x)) ** 2
    case = Case("t", "float64", "sigmoid", "binary_focal_cross_entropy", "y=soft")
    scale = oracle.scales(case.bind({"x": x, "y": y}))
    entropy, e = -y * np.log(F) - (1 - y) * np.log(1 - F), y * (1 - F) + (1 - y) * F
    in_x = 2 * e * f * entropy + e**2 * (y * f / F + (1 - y) * f / (1 - F))
    in_y = 2 * e * entropy + e**2 * (-np.log(F) - np.log(1 - F))
    np.testing.assert_allclose(scale["grad_x"], in_x)
    np.testing.assert_allclose(scale["grad_y"], in_y)


def test_scales_of_linear_leave_out_the_weights_of_its_ends() -> None:
    """Those cancel; they count where all elements are ends, and nothing does in a constant."""
    case = Case("t", "float64", "linear", "cdf")

    def scale(*x: float) -> Array:
        return oracle.scales(case.bind({"x": np.array(x)}))["grad_x"]

    np.testing.assert_allclose(scale(0.0, 1.0, 4.0), [0.75 / 4, 1 / 4, 0.25 / 4])
    np.testing.assert_allclose(scale(0.0, 4.0, 4.0), 1 / 4)
    assert not np.any(scale(7.0, 7.0, 7.0))


def test_no_standard_case_is_counted_against_its_terms() -> None:
    """They are for what cancels altogether: the table's bounds are as tight with them."""
    for case in judged_cases():
        inputs = input_sets()[case.input_set]
        found = oracle.evaluate(case.bind(inputs))
        for part, scale in oracle.scales(case.bind(inputs)).items():
            if bounds.kind(case, part).startswith("reduced"):
                exact = found[part]
                plain = reduced_error(exact + 1e-3, exact, case.dtype, both=False)
                scaled = reduced_error(exact + 1e-3, exact, case.dtype, False, scale)
                assert np.array_equal(plain, scaled), (case.name, part)
