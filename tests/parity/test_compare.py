"""Errors on values made by hand, and the verdict on whole records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import bounds, compare
from parity.bounds import Exceedance
from parity.cases import Case
from parity.records import REFERENCE_PATH, Record

CDF = Case("grid", "float32", "arctan", "cdf")
TINY = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)


def error_of(got: float, expected: float, dtype: str = "float32") -> float:
    """The elementwise error of one number."""
    value = np.array([got], dtype)
    exact = np.array([expected], np.float64)
    return float(compare.elementwise_error(value, exact, np.abs(exact), dtype)[0])


def test_ulp_is_the_spacing_of_the_dtype() -> None:
    values = np.array([1.0, 1.999, 2.0, -3.0, 0.0, 1e-45, TINY])
    expected = [2**-23, 2**-23, 2**-22, 2**-22, 2**-149, 2**-149, 2**-149]
    assert compare.ulp(values, "float32").tolist() == expected
    assert compare.ulp(np.array([1.0]), "float64").tolist() == [2**-52]


@pytest.mark.parametrize(
    ("got", "expected", "error"),
    [
        (1.0, 1.0, 0.0),
        (1 + 3 * 2**-23, 1.0, 3.0),
        (1.0, 1 + 2**-24, 0.5),
        (-1.0, 1.0, 2.0**24),
        (np.inf, np.inf, 0.0),
        (-np.inf, np.inf, np.inf),
        (np.inf, 1e39, 0.0),
        (-np.inf, 1e39, np.inf),
        (np.inf, 1e38, np.inf),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, 0.0),
        (np.nan, np.nan, np.inf),
        (0.0, TINY / 2, 0.0),
        (0.0, 2 * TINY, 2.0**23),
        (TINY / 2, TINY, 2.0**22),
    ],
)
def test_float32_errors_by_hand(got: float, expected: float, error: float) -> None:
    assert error_of(got, expected) == error


def test_float64_errors_are_relative() -> None:
    assert error_of(1 + 2**-40, 1.0, "float64") == 2**-40
    assert error_of(0.0, 1e-310, "float64") == 0
    assert error_of(2e-300, 1e-300, "float64") == pytest.approx(1)


def test_a_flushed_factor_may_cost_its_multiple_of_the_smallest_normal_number() -> None:
    """2 (F - y) f with f flushed, f / epsilon with f flushed, and nothing else."""
    x, zero = np.array([-88.0]), np.array([0.0])
    squared = Case("grid", "float32", "sigmoid", "squared_error", "y=1")
    squeezed = Case("grid", "float32", "sigmoid", "logcdf", epsilon=1e-7)
    for case, part, expected, right in (
        (squared, "grad_x", 1.9 * TINY, True),
        (squared, "grad_x", 2.1 * TINY, False),
        (squared, "value", 1.9 * TINY, False),
        (squeezed, "grad_x", 0.9 * TINY / 1e-7, True),
        (squeezed, "grad_x", 1.1 * TINY / 1e-7, False),
        (CDF, "grad_x", 1.9 * TINY, False),
    ):
        error = compare.errors(case, part, zero, np.array([expected]), {"x": x})
        assert (error[0] == 0) == right, (case.name, part, expected)


def test_far_out_only_nan_and_false_infinities_are_wrong() -> None:
    got = np.array([5.0, np.nan, np.inf, -np.inf, np.inf])
    expected = np.array([1.0, 1.0, 1e30, -1e40, -1e40])
    wrong = compare.far_error(got, expected, "float32")
    assert wrong.tolist() == [0, np.inf, np.inf, 0, np.inf]
    errors = compare.errors(CDF, "value", got, expected, {"x": np.full(5, 2e4)})
    assert errors.tolist() == wrong.tolist()


def test_reduced_gradients_count_against_the_largest_entry() -> None:
    case = Case("segmentation-hard", "float32", "arctan", "dice")
    got, expected = np.array([1.0, 1e-3 + 1e-6]), np.array([1.0, 1e-3])
    errors = compare.errors(case, "grad_x", got, expected, {"x": got})
    np.testing.assert_allclose(errors, [0, 1e-6], rtol=1e-9)
    zeros = np.zeros(2)
    assert compare.errors(case, "grad_x", zeros, zeros, {"x": zeros}).tolist() == [0, 0]
    assert np.all(compare.errors(case, "grad_x", got, zeros, {"x": got}) > 1)
    small = np.array([1e-40, 5e-39])
    assert compare.errors(case, "grad_x", zeros, small, {"x": got}).tolist() == [0, 0]
    assert compare.errors(case, "grad_x", -small, small, {"x": got})[1] > 0.5
    nan = np.array([np.nan, 1e-3])
    assert compare.errors(case, "grad_x", nan, expected, {"x": nan})[0] == np.inf


def test_a_scale_counts_where_terms_cancel() -> None:
    got, expected = np.array([2.0**-23]), np.array([0.0])
    x = {"x": np.array([1.0])}
    assert compare.errors(CDF, "value", got, expected, x)[0] == 2.0**126
    assert compare.errors(CDF, "value", got, expected, x, np.array([1.0]))[0] == 1


def test_pairs_are_symmetric_and_may_flush() -> None:
    a, b = np.array([1.0, 0.0, 3.0]), np.array([1 + 2**-23, TINY / 4, np.nan])
    x = {"x": np.array([1.0, 1.0, 1e5])}
    one = compare.errors(CDF, "value", a, b, x, pair=True)
    two = compare.errors(CDF, "value", b, a, x, pair=True)
    assert one.tolist() == two.tolist() == [1, 0, np.inf]


def test_another_shape_or_dtype_is_an_infinite_error() -> None:
    zeros = np.zeros(3, np.float32)
    for got in (zeros[:, None], zeros[:1], zeros.astype(np.float64)):
        m = compare.measure("torch", "reference", CDF, "value", got, zeros, {"x": zeros})
        assert m.error == np.inf
        assert m.over == 3
    m = compare.measure("torch", "reference", CDF, "value", zeros, zeros, {"x": zeros})
    assert m.error == 0


def test_the_reference_passes_and_one_wrong_number_fails(
    perfect_record: Callable[..., Path],
) -> None:
    reference = Record.load(REFERENCE_PATH)
    good = compare.compare(Record.load(perfect_record()), reference)
    assert good
    assert all(m.passed for m in good)

    def change(case: Case, found: dict[str, Any]) -> None:
        if case.name == "grid-float32/arctan/logsf":
            found["grad_x"][60] *= 1 + 2e-6

    bad = compare.compare(Record.load(perfect_record(change=change)), reference)
    (failed,) = [m for m in bad if not m.passed]
    assert (failed.case, failed.part, failed.over) == ("grid-float32/arctan/logsf", "grad_x", 1)
    assert failed.x == float(reference.inputs("grid-float32")["x"][60])
    for word in ("torch", "arctan", "logsf", "gradient in x", "got", "expected", "ulp, bound 8"):
        assert word in failed.line()


def test_bounds_of_a_pair_add_up() -> None:
    assert bounds.bound("torch", "reference", CDF, "value") == 4
    assert bounds.bound("keras-jax", "oracle", CDF, "grad_x") == 16
    assert bounds.bound("torch", "keras-jax", CDF, "value") == 12
    assert 0 < bounds.bound("oracle", "reference", CDF, "value") < 1e-5
    case = Case("linear", "float32", "linear", "cdf", "", 1e-7)
    assert bounds.kind(case, "grad_x") == "reduced gradient"
    assert bounds.unit(case, "grad_x") == "relative"


def test_exceptions_are_strict(
    perfect_record: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listed figure is allowed and no more, and an entry that is not needed fails."""

    def change(case: Case, found: dict[str, Any]) -> None:
        if case.name == "grid-float32/sigmoid/cdf":
            found["value"][90] *= 1 + 1.5e-6

    reference, record = Record.load(REFERENCE_PATH), Record.load(perfect_record(change=change))

    def judged(figure: float, quantity: str) -> tuple[bool, list[str]]:
        entry = Exceedance("torch", "float32", "sigmoid", quantity, "value", figure, "a test")
        monkeypatch.setattr(bounds, "EXCEPTIONS", (entry,))
        found = compare.compare(record, reference)
        return all(m.passed for m in found), compare.stale_exceptions(found, {"torch"})

    assert judged(30, "cdf") == (True, [])
    assert judged(5, "cdf")[0] is False
    passed, stale = judged(30, "sf")
    assert not passed
    assert len(stale) == 1
    assert "sigmoid sf" in stale[0]
