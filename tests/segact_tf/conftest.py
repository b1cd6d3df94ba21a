"""Losses, with activations, and data to fit."""

import pytest
from names import ACTIVATIONS, LOSSES

FIRST = ["binary_cross_entropy", "dice", "mean_squared_error"]
# The first three losses with every activation, the others with one: they are called alike.
PAIRS = [(loss, activation) for loss in FIRST for activation in ACTIVATIONS]
PAIRS += [(loss, "arctan") for loss in LOSSES if loss not in FIRST]


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    return request.param


@pytest.fixture
def table(rng):
    """(N, 8) inputs and (N,) labels, as `fit` gets them."""
    x = rng.normal(size=(64, 8)).astype("float32")
    return x, (x.sum(1) > 0).astype("float32")
