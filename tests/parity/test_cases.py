"""The cases: their names, and the regimes that the grids cover."""

import numpy as np
import pytest

from parity.cases import Case, file_cases, grid, input_sets, shown_cases, standard_cases


def test_names_are_unique_and_readable() -> None:
    names = [case.name for case in standard_cases()]
    assert len(names) == len(set(names))
    assert "grid-float32/arctan/logcdf" in names
    assert "thin-float32/arctan,epsilon=1e-07/logcdf" in names
    assert "grid-float64/hardtanh/binary_cross_entropy,y=0" in names
    assert "segmentation-soft-float64/arctan/dice,per_sample" in names


def test_every_case_has_its_inputs_in_its_dtype() -> None:
    for case in standard_cases():
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
            assert np.array_equal(array, first[name][key]), (name, key)


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
    judged = {case.name for case in standard_cases()}
    assert shown_cases("torch")
    assert not judged & {case.name for case in shown_cases("torch")}


def test_a_constant_is_judged_with_targets() -> None:
    labels = {case.label for case in standard_cases() if case.inputs == "linear-constant"}
    assert {"cdf", "binary_cross_entropy,y=soft", "squared_error,y=soft", "dice"} <= labels
