"""The one rule by which a user's arrays are held against each other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.common.tolerance import check_tolerance, difference, round_up

FLOATS = st.floats(-1e6, 1e6, width=32)
PAIRS = hnp.arrays(np.float32, (2, 7), elements=FLOATS)


@given(PAIRS)
def test_the_tolerances_it_names_pass_and_smaller_ones_do_not(pair):
    found = difference(*pair)
    if found.passed:
        return
    enough = float(round_up(found.needed_rtol)), float(round_up(found.needed_atol))
    assert difference(*pair, rtol=enough[0], atol=found.atol).passed
    assert difference(*pair, rtol=found.rtol, atol=enough[1]).passed
    assert not difference(*pair, rtol=0.99 * found.needed_rtol, atol=found.atol).passed
    assert not difference(*pair, rtol=found.rtol, atol=0.99 * found.needed_atol).passed


@given(PAIRS, st.floats(0, 1), st.floats(0, 1e3))
def test_it_counts_what_the_rule_says(pair, rtol, atol):
    a, b = pair.astype(np.float64)
    misses = np.abs(a - b) > atol + rtol * np.maximum(np.abs(a), np.abs(b))
    found = difference(*pair, rtol=rtol, atol=atol)
    assert found.over == np.count_nonzero(misses)
    assert found.passed == (not misses.any())
    if misses.any():
        assert misses[found.index]
    assert (found.left, found.right) == (a[found.index], b[found.index])


def test_ulp_and_relative_are_those_of_the_lower_precision():
    a = np.array([1.0, 2.0], np.float32)
    found = difference(a, np.nextafter(a, np.float32(9)).astype(np.float64), rtol=0, atol=0)
    assert found.dtype == "float32"
    assert found.ulp == 1
    assert found.relative == pytest.approx(2.0**-23, rel=1e-6)


def test_sums_may_lose_the_last_digits_of_their_largest_entry_by_default_only():
    a, b = np.array([1.0, 1e-9], np.float32), np.array([1.0, 3e-9], np.float32)
    assert difference(a, b).passed
    assert not difference(a, b, atol=0).passed


@pytest.mark.parametrize(
    ("left", "right", "over"),
    [
        ([np.inf, 1], [np.inf, 1], 0),
        ([np.inf, 1], [-np.inf, 1], 1),
        ([np.inf, 1], [1e30, 1], 1),
        ([np.nan, 1], [np.nan, 1], 1),
    ],
)
def test_infinities_agree_with_themselves_and_nan_with_nothing(left, right, over):
    found = difference(np.array(left), np.array(right), rtol=1, atol=1)
    assert found.over == over
    assert math.isinf(found.needed_atol) == bool(over)
    assert not over or "with no tolerance" in "\n".join(found.lines(("a", "b")))


def test_shapes_that_differ_are_told_as_such():
    found = difference(np.zeros((2, 1)), np.zeros(2))
    assert not found.passed
    assert found.lines(("old", "new")) == ["old     shape (2, 1)", "new     shape (2,)"]


def test_the_words_hold_everything():
    a = np.zeros((2, 3), np.float32)
    b = a.copy()
    b[1, 2] = 0.25
    text = "\n".join(difference(a, b).lines(("old", "new"), "x = 7"))
    for words in ("index (1, 2): x = 7", "old     0\n", "new     0.25", "1 of 6", "atol=2.5e-01"):
        assert words in text, text


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1e-3"])
def test_other_tolerances_are_refused(value):
    with pytest.raises(ValueError, match="rtol is"):
        check_tolerance(value, None)
