"""Which operations only move elements, and where to: found by running them on numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity.weights.elements import Tracker, moves
from parity.weights.trace import Trace, Value

SHAPE = (1, 6, 8)
X, Y = Value(SHAPE, "input"), Value(SHAPE, "input")


def of(run: Callable[..., Any], *sources: Value) -> Value:
    given = [np.zeros(source.shape, np.float32) for source in sources]
    return Value(run(*given).shape, "an operation", list(sources), run=run)


def neighbours(x: np.ndarray) -> np.ndarray:
    """The mean of the elements on both sides, which is the element itself of 1, 2, 3, ..."""
    return (x[..., :-2] + x[..., 2:]) / 2


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.swapaxes(1, 2),
        lambda x: x.reshape(1, -1)[:, ::-1],
        lambda x: np.maximum(x, 0),
        lambda x: x[:, :0],
        lambda x: np.repeat(x, 2, axis=1),
    ],
)
def test_elements_that_move(run):
    numbers = np.arange(48).reshape(SHAPE)
    assert np.array_equal(moves(of(run, X)), run(numbers))


def test_an_activation_that_changes_each_element_keeps_its_place():
    assert np.array_equal(moves(of(lambda x: np.tanh(x), X)), np.arange(48).reshape(SHAPE))


@pytest.mark.parametrize(
    "run",
    [
        neighbours,
        lambda x: x[..., 1:] + x[..., :-1],
        lambda x: x.max(-1),
        lambda x: x * np.float32(np.nan),
        lambda x: np.sort(x, -1),
    ],
)
def test_results_computed_from_several_elements(run):
    assert moves(of(run, X)) is None


def test_no_elements():
    assert moves(of(lambda x: x, Value((1, 0), "input"))) is None


def test_elements_of_several_sources():
    """One of two inputs twice, the other between: numbered in both together."""
    joined = of(lambda *parts: np.concatenate(parts, -1), X, Y, X)
    part = of(lambda x: x[..., 4:], joined)
    tracker = Tracker(Trace([X, Y], [part], []), lambda layer: False)
    again = of(lambda *parts: np.concatenate([p.reshape(1, -1) for p in parts], -1), part, Y)
    whole = of(lambda *parts: np.concatenate([p.reshape(1, -1) for p in parts], -1), Y, again)
    sources, elements = tracker.resolved(whole)
    assert [id(source) for source in sources] == [id(Y), id(X)]
    y, x = np.arange(96).reshape(2, *SHAPE)
    wanted = np.concatenate([y, np.concatenate([x, y, x], -1)[..., 4:], y], None)
    assert np.array_equal(elements.ravel(), wanted)
