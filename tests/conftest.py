"""Fixtures for all tests: `ns` is each installed implementation in turn."""

import os
import sys
from pathlib import Path

# Before any framework is imported: float64 on JAX, and TensorFlow without its greeting.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))  # for `namespaces`

import namespaces  # noqa: E402

hypothesis.settings.register_profile(
    "segact", deadline=None, derandomize=True, max_examples=60, database=None
)
hypothesis.settings.load_profile("segact")

SMOOTH = ["sigmoid", "normal_cdf", "arctan", "softsign", "inverse_square_root"]
ACTIVATIONS = [*SMOOTH, "hardtanh", "linear"]


@pytest.fixture(scope="session", params=namespaces.available())
def ns(request: pytest.FixtureRequest) -> namespaces.Namespace:
    return namespaces.load(request.param)


@pytest.fixture(scope="session", params=SMOOTH)
def smooth(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=ACTIVATIONS)
def activation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20210902)
