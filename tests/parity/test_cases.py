"""The cases: their names, and the regimes that the grids cover."""

from itertools import product

import numpy as np
import pytest

from parity.reference import float64 as oracle
from parity.suite.case import ACTIVATIONS, REDUCED, Case, default_epsilon
from parity.suite.cases import baseline_cases, file_cases, judged_cases
from parity.suite.inputs import DTYPES, grid, input_sets


def test_names_are_unique_and_readable() -> None:
    names = [case.name for case in judged_cases()]
    assert len(names) == len(set(names))
    assert "grid-float32/arctan/logcdf" in names
    assert "thin-float32/arctan,epsilon=1e-07/logcdf" in names
    assert "grid-float64/hardtanh/binary_cross_entropy,y=0" in names
    assert "segmentation-soft-float64/arctan/dice,per_sample" in names
    assert "volume-soft-float64/arctan/jaccard,channels_first" in names
    assert "volume-hard-float32/none/lovasz_hinge" in names
    assert "predictions-float64/keras_logit_convention/binary_cross_entropy,y=soft" in names


def test_every_case_has_its_inputs_in_its_dtype() -> None:
    for case in judged_cases():
        inputs = input_sets()[case.input_set]
        assert all(array.dtype == case.dtype for array in inputs.values()), case.name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_grid_covers_every_regime(dtype: str) -> None:
    x = grid(dtype).astype(np.float64)
    info = np.finfo(dtype)
    assert np.array_equal(np.sort(x), np.sort(-x))
    assert {np.inf, float(info.max), 1e4, 16.0, float(info.tiny), 0.0} <= set(np.abs(x))
    assert np.any(np.signbit(x) & (x == 0))
    assert np.any(~np.signbit(x) & (x == 0))
    a = np.abs(x[np.isfinite(x)])
    assert not np.any((a > 0) & (a < info.tiny)), "subnormal inputs are not judged"
    for low, high in ((1e-30, 1e-9), (1e-4, 1e-2), (15, 17), (80, 110), (1e3, 1e4), (1e5, 1e30)):
        assert np.any((a > low) & (a < high)), (low, high)


def test_inputs_are_the_same_every_time() -> None:
    first = {name: {k: v.copy() for k, v in s.items()} for name, s in input_sets().items()}
    input_sets.cache_clear()
    for name, inputs in input_sets().items():
        for key, array in inputs.items():
            assert np.array_equal(array, first[name][key], equal_nan=True), (name, key)


def test_parts_follow_the_targets() -> None:
    assert Case("grid", "float32", "arctan", "binary_cross_entropy", "y=0").parts == (
        "value",
        "grad_x",
    )
    assert "grad_y" in Case("grid", "float32", "arctan", "squared_error", "y=soft").parts
    assert "grad_y" in Case("segmentation-soft", "float32", "arctan", "dice").parts
    assert "grad_y" not in Case("segmentation-hard", "float32", "arctan", "dice").parts
    assert Case("probabilities", "float32", "arctan", "ppf").parts == ("value",)


def test_file_cases_leave_out_dice_of_single_elements() -> None:
    image = {"x": np.zeros((2, 3), np.float32), "y": np.zeros((2, 3), np.float32)}
    column = {"x": np.zeros((2, 1), np.float32), "y": np.full((2, 1), 0.5, np.float32)}
    assert any(case.option == "per_sample" for case in file_cases(image))
    assert not any(case.option == "per_sample" for case in file_cases(column))
    assert any(case.soft for case in file_cases(column))
    assert not any(case.soft for case in file_cases(image))


def test_shown_cases_are_not_judged() -> None:
    judged = {case.name for case in judged_cases()}
    assert baseline_cases("torch")
    assert not judged & {case.name for case in baseline_cases("torch")}


def test_a_constant_is_judged_with_targets() -> None:
    labels = {case.label for case in judged_cases() if case.inputs == "linear-constant"}
    assert {"cdf", "binary_cross_entropy,y=soft", "squared_error,y=soft", "dice"} <= labels


def test_every_option_of_every_loss_is_judged_with_every_activation() -> None:
    found: dict[tuple[str, str, str], set[str]] = {}
    for case in judged_cases():
        if case.reduced:
            found.setdefault((case.quantity, case.option, case.dtype), set()).add(case.activation)
    for quantity, options in REDUCED.items():
        wanted = {"none"} if quantity == "lovasz_hinge" else set(ACTIVATIONS)
        for option, dtype in product(options, DTYPES):
            assert found[quantity, option, dtype] == wanted, (quantity, option, dtype)


@pytest.mark.parametrize("quantity", REDUCED)
def test_every_option_makes_a_difference(quantity: str) -> None:
    values = []
    for option in REDUCED[quantity]:
        targets = "hard" if quantity.startswith("lovasz") else "soft"
        special = {"ignore_index": "-ignored", "weight": "-weight"}.get(option, "")
        activation = "none" if quantity == "lovasz_hinge" else "arctan"
        case = Case(f"volume{special}-{targets}", "float64", activation, quantity, option)
        values.append(float(oracle.evaluate(case.bind(input_sets()[case.input_set]))["value"]))
    assert len({f"{value:.6g}" for value in values}) == len(values) > 2, values


@pytest.mark.parametrize("dtype", DTYPES)
def test_volumes_hold_what_options_are_for(dtype: str) -> None:
    sets = (input_sets()[f"volume{name}-soft-{dtype}"] for name in ("", "-weight", "-ignored"))
    soft, weighted, ignored = sets
    x, y, w = soft["x"], soft["y"], weighted["w"]
    assert all(np.mean(part) > 0.2 for part in (y == 0, y == 1, (y > 0) & (y < 1)))
    assert not y[1, 2].any(), "a mask is empty"
    assert np.array_equal(w * 8, np.round(w * 8))
    assert 0 < np.mean(w == 0) < 0.2
    assert 0.2 < np.mean(ignored["y"] == 255) <= 0.25
    for inputs, out in ((weighted, w == 0), (ignored, ignored["y"] == 255)):
        assert {"nan", "inf", "-inf", "1e+30"} <= {f"{value:g}" for value in inputs["x"][out]}
        assert np.array_equal(inputs["x"][~out], x[~out])
        assert np.array_equal(inputs["y"][~out], y[~out])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", ["volume-hard", "volume-ignored-hard"])
def test_no_rounding_decides_the_order_of_errors(inputs: str, dtype: str) -> None:
    """Two errors lie apart by 100 roundings of float32, or have no slope."""
    found = input_sets()[f"{inputs}-{dtype}"]
    keep = found["y"] != 255
    x, y = found["x"][keep].astype(float), found["y"][keep].astype(float)
    assert 0.2 < np.mean(y) < 0.5
    for activation in ACTIVATIONS:
        a = oracle.distribution(
            Case(inputs, dtype, activation, "lovasz", "", default_epsilon(activation)), x
        )
        error = y * a.sf + (1 - y) * a.cdf
        order = np.argsort(error)
        near = np.diff(error[order]) < 6e-6 * error[order][1:]
        flat = a.pdf[order] == 0
        assert not np.any(near & ~(flat[1:] & flat[:-1])), activation
    hinge = 1 - x * (2 * y - 1)
    assert np.min(np.diff(np.sort(hinge))) > 1e-3
    assert np.min(np.abs(hinge)) > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_predictions_surround_the_limits_and_hold_both_ends(dtype: str) -> None:
    p = input_sets()[f"predictions-{dtype}"]["x"]
    one = p.dtype.type(1)
    for limit in (p.dtype.type(1e-7), p.dtype.type(1 - 1e-7)):
        assert limit not in p
        assert {np.nextafter(limit, 0 * one), np.nextafter(limit, one)} <= set(p)
    assert {0, one} <= set(p)
    assert np.all((p == 0) | (p >= np.finfo(dtype).tiny))
    assert np.any((p > 0) & (p < 1e-30))
