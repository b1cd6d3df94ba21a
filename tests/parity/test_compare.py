"""Errors on values made by hand, and the verdict on whole records."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.accuracy import bounds
from parity.accuracy import measurement as compare
from parity.accuracy.bounds import Exceedance
from parity.accuracy.comparison import Comparison
from parity.accuracy.error import elementwise_error, ulp
from parity.reference import REFERENCE_PATH
from parity.reference import float64 as oracle
from parity.suite.case import Case
from parity.suite.cases import judged_cases
from parity.suite.records import Record

CDF = Case("grid", "float32", "arctan", "cdf")
TINY = float(np.finfo(np.float32).tiny)


def error_of(got: float, expected: float, dtype: str = "float32") -> float:
    """The elementwise error of one number."""
    value = np.array([got], dtype)
    exact = np.array([expected], np.float64)
    return float(elementwise_error(value, exact, np.abs(exact), dtype)[0])


def test_ulp_is_the_spacing_of_the_dtype() -> None:
    values = np.array([1.0, 1.999, 2.0, -3.0, 0.0, 1e-45, TINY])
    expected = [2**-23, 2**-23, 2**-22, 2**-22, 2**-149, 2**-149, 2**-149]
    assert ulp(values, "float32").tolist() == expected
    assert ulp(np.array([1.0]), "float64").tolist() == [2**-52]


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
        error = compare.errors(case.bind({"x": x}), part, zero, np.array([expected]))
        assert (error[0] == 0) == right, (case.name, part, expected)


def test_the_bounds_hold_at_every_x() -> None:
    got = np.array([5.0, np.nan, np.inf, -np.inf, np.inf, 0.25])
    expected = np.array([1.0, 1.0, 1e30, -1e40, -1e40, 1.0])
    for x in (1.0, 2e4, 1e30, np.inf):
        errors = compare.errors(CDF.bind({"x": np.full(6, x)}), "value", got, expected)
        assert errors.tolist() == [2.0**25, np.inf, np.inf, 0, np.inf, 0.75 * 2**23]
        pairs = compare.errors(CDF.bind({"x": np.full(6, x)}), "value", got, expected, pair=True)
        assert np.all((pairs > 12) == (errors > 0)), x


def test_far_out_the_slope_of_a_density_counts_too() -> None:
    pdf = Case("grid", "float64", "arctan", "pdf")
    got, expected = np.array([-6e-49, 0.0, 0.0, 1e-30]), np.array([-1e-57, -1e-60, 1e-39, 0.0])
    for x in (1e4, 1e20):
        batch = pdf.bind({"x": np.full(4, x)})
        for pair in (False, True):
            assert np.all(compare.errors(batch, "grad_x", got, expected, pair=pair) > 0)


def test_reduced_gradients_count_against_the_largest_entry() -> None:
    case = Case("segmentation-hard", "float32", "arctan", "dice")
    got, expected = np.array([1.0, 1e-3 + 1e-6]), np.array([1.0, 1e-3])
    errors = compare.errors(case.bind({"x": got}), "grad_x", got, expected)
    np.testing.assert_allclose(errors, [0, 1e-6], rtol=1e-9)
    zeros = np.zeros(2)
    assert compare.errors(case.bind({"x": zeros}), "grad_x", zeros, zeros).tolist() == [0, 0]
    assert np.all(compare.errors(case.bind({"x": got}), "grad_x", got, zeros) > 1)
    small = np.array([1e-40, 5e-39])
    assert compare.errors(case.bind({"x": got}), "grad_x", zeros, small).tolist() == [0, 0]
    assert compare.errors(case.bind({"x": got}), "grad_x", -small, small)[1] > 0.5
    for wrong in (np.nan, np.inf):
        bad = np.array([wrong, 1e-3])
        assert compare.errors(case.bind({"x": bad}), "grad_x", bad, expected).tolist() == [
            np.inf,
            0,
        ]


def test_a_reduced_loss_may_be_the_true_infinity_and_no_other_number() -> None:
    case = Case("segmentation-hard", "float32", "arctan", "binary_cross_entropy", "mean")
    for got, expected, right in (
        (np.inf, 1.67e39, True),
        (np.inf, np.inf, True),
        (-np.inf, 1.67e39, False),
        (np.inf, 1e38, False),
        (1.0, np.inf, False),
        (np.nan, np.inf, False),
    ):
        error = compare.errors(case.bind({}), "value", np.array(got), np.array(expected))
        assert error == (0 if right else np.inf), (got, expected)


def test_where_all_entries_cancel_the_largest_term_counts() -> None:
    """Dice of a batch without targets has no gradient: every entry is a difference of equals."""
    case = Case("file", "float32", "sigmoid", "dice")
    inputs = {"x": np.linspace(-3, 3, 32).astype(np.float32)}
    inputs["y"] = np.zeros_like(inputs["x"])
    exact, scale = oracle.evaluate(case.bind(inputs)), oracle.scales(case.bind(inputs))
    assert np.abs(exact["grad_x"]).max() < 1e-17
    term = scale["grad_x"].max()
    assert 1e-3 < term < 0.1
    for size, right in ((1e-7, True), (1e-6, False)):
        got = exact | {"grad_x": np.full(32, size * term)}
        got = {part: np.float32(array) for part, array in got.items()}
        found = compare.measure_case("torch", "oracle", case.bind(inputs), got, exact)
        assert [m.passed for m in found] == [True, right]


def test_an_output_that_underflows_decides_dice_of_a_sample_without_targets() -> None:
    case = Case("file", "float32", "normal_cdf", "dice", "per_sample")
    inputs = {"x": np.array([[-30.0, -28.0], [1.0, 2.0]], np.float32)}
    inputs["y"] = np.zeros_like(inputs["x"])
    assert oracle.evaluate(case.bind(inputs))["value"] == pytest.approx(0.5)
    inputs["x"][0] = -13.5  # subnormal: flushed or not, both are right, and nothing else is
    exact = oracle.evaluate(case.bind(inputs))
    assert exact["value"] == pytest.approx(1)
    slope = np.zeros((2, 2), np.float32)
    for value, right in ((1.0, True), (0.5, True), (0.75, False)):
        got = {"value": np.float32(value).reshape(()), "grad_x": slope}
        found = compare.measure_case("torch", "oracle", case.bind(inputs), got, exact)
        assert all(m.passed for m in found) == right, value


def test_a_scale_counts_where_terms_cancel() -> None:
    got, expected = np.array([2.0**-23]), np.array([0.0])
    x = {"x": np.array([1.0])}
    assert compare.errors(CDF.bind(x), "value", got, expected)[0] == 2.0**126
    assert compare.errors(CDF.bind(x), "value", got, expected, np.array([1.0]))[0] == 1


def test_pairs_are_symmetric_and_may_flush() -> None:
    a, b = np.array([1.0, 0.0, 3.0]), np.array([1 + 2**-23, TINY / 4, np.nan])
    x = {"x": np.array([1.0, 1.0, 1e5])}
    one = compare.errors(CDF.bind(x), "value", a, b, pair=True)
    two = compare.errors(CDF.bind(x), "value", b, a, pair=True)
    assert one.tolist() == two.tolist() == [1, 0, np.inf]


def test_another_shape_or_dtype_is_an_infinite_error() -> None:
    zeros = np.zeros(3, np.float32)
    for got in (zeros[:, None], zeros[:1], zeros.astype(np.float64)):
        m = compare.measure("torch", "reference", CDF.bind({"x": zeros}), "value", got, zeros)
        assert m.error == np.inf
        assert m.over == 3
    m = compare.measure("torch", "reference", CDF.bind({"x": zeros}), "value", zeros, zeros)
    assert m.error == 0
    wide = zeros.astype(np.float64)
    for right, error in (("keras-jax", np.inf), ("reference", 0), ("oracle", 0)):
        assert (
            compare.measure("torch", right, CDF.bind({"x": zeros}), "value", zeros, wide).error
            == error
        )
    assert (
        compare.measure("oracle", "reference", CDF.bind({"x": zeros}), "value", wide, wide).error
        == 0
    )


def measurement(error: float, case: str = "one") -> Comparison:
    """A measurement of a bound of 4 with that error."""
    exact = np.ones(1)
    m = compare.measure(
        "torch", "reference", CDF.bind({"x": exact}), "value", np.float32(exact), exact
    )
    return replace(m, error=error, case=case, over=int(not error <= 4))


@pytest.mark.parametrize("bad", [5.0, np.inf, np.nan])
def test_the_worst_is_never_one_that_passes(bad: float) -> None:
    chosen = [measurement(1.0), measurement(bad, "two"), measurement(3.0, "three")]
    for order in (chosen, chosen[::-1], [chosen[1], chosen[0], chosen[2]]):
        (found,) = compare.worst(order).values()
        assert (found.case, found.passed, found.over, found.count) == ("two", False, 1, 3)
    (found,) = compare.worst([measurement(6.0), measurement(np.nan, "two")]).values()
    assert found.case == "two"


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


def test_what_the_reference_leaves_out_is_held_against_the_oracle(
    perfect_record: Callable[..., Path],
) -> None:
    reference, record = Record.load(REFERENCE_PATH), Record.load(perfect_record())
    found = compare.compare(record, reference)
    judged_by_float64 = {case.name for case in judged_cases() if case.judged_by_float64}
    assert judged_by_float64 == {m.case for m in found if m.right == "oracle"}
    assert not any(reference.has(case) for case in judged_cases() if case.judged_by_float64)
    assert all(m.against_exact for m in found)
    assert {m.case for m in found} == {case.name for case in judged_cases()}
    assert compare.compare(reference, reference)


DESIGN = {
    ("cdf", "value"): (4, 8, 1e-14, 1e-13),
    ("squared_error,y=1", "value"): (8, 16, 1e-13, 1e-12),
    ("squared_error,y=soft", "grad_y"): (8, 16, 1e-13, 1e-12),
    ("logsf", "grad_x"): (8, 16, 1e-13, 1e-12),
    ("binary_cross_entropy,y=soft", "grad_y"): (8, 16, 1e-13, 1e-12),
    ("ppf", "value"): (8, 16, 1e-13, 1e-12),
    ("binary_focal_cross_entropy,y=1", "value"): (13, 25, 1e-13, 1e-12),
    ("binary_focal_cross_entropy,y=0", "grad_x"): (16, 32, 1e-13, 1e-12),
    ("dice,per_sample", "value"): (1e-6, 2e-6, 1e-13, 1e-12),
    ("focal_tversky,ignore_index", "value"): (1e-6, 2e-6, 1e-13, 1e-12),
    ("lovasz,channels_last", "grad_x"): (1e-5, 1e-5, 1e-12, 1e-12),
    ("mean_squared_error,mean", "grad_x"): (1e-5, 1e-5, 1e-12, 1e-12),
}


@pytest.mark.parametrize(("label", "part"), DESIGN)
def test_bounds_are_those_of_the_design(label: str, part: str) -> None:
    """The whole table, and nothing that widens it."""
    quantity, _, option = label.partition(",")
    columns = [(n, d) for d in ("float32", "float64") for n in ("torch", "keras-jax")]
    found = tuple(
        bounds.bound(name, "reference", Case("grid", dtype, "arctan", quantity, option), part)
        for name, dtype in columns
    )
    assert found == DESIGN[label, part]
    assert bounds.EXCEPTIONS == ()
    assert (bounds.FILE_AGREEMENT, bounds.ORACLE, bounds.FAR) == (1e-6, 1e-13, 1e4)


def test_every_bound_is_in_the_table() -> None:
    table = set(DESIGN.values())
    for case in judged_cases():
        column = 2 * (case.dtype == "float64")
        for part in case.parts:
            both = tuple(bounds.bound(name, "oracle", case, part) for name in ("torch", "keras-tf"))
            assert both in {row[column : column + 2] for row in table}, case.name


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
    assert "exception for no case: torch float32 sigmoid cfd value" in judged(30, "cfd")[1]
