"""Fixtures for all tests: `ns` is each installed implementation in turn."""

import gc
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# Before any framework is imported: float64 on JAX, and TensorFlow without its greeting.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import hypothesis
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))  # for `namespaces` and `names`

import namespaces
from names import ACTIVATIONS, LOSSES, SMOOTH

hypothesis.settings.register_profile(
    "segact", deadline=None, derandomize=True, max_examples=60, database=None
)
hypothesis.settings.load_profile("segact")


if find_spec("torch") is not None and version("torch").startswith(("2.4.", "2.5.")):
    import torch

    def _skip(*args, **kwargs):
        pytest.skip("PyTorch compiles and exports the losses from 2.6 on")

    torch.compile = torch.export.export = _skip


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect() -> Iterator[None]:
    """Garbage is sought among a module's own objects: there are millions, of several frameworks."""
    yield
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def dense_error():
    """The worst errors of value and gradient in ulp over 400,000 float32 inputs, by the oracle.

    For a method of a smooth activation, evaluated in whatever mode the test is about.
    """
    pytest.importorskip(
        "parity.reference.float64", reason="the judge's own needs are not installed"
    )
    from parity.accuracy.error import errors
    from parity.reference import float64 as oracle
    from parity.suite.case import Case

    generator = np.random.default_rng(7)
    bits = generator.integers(0x00800000, np.float32(1e4).view(np.int32), 100_000)
    tiny_to_large = bits.astype(np.int32).view(np.float32)
    x = np.concatenate(
        [tiny_to_large, -tiny_to_large, generator.uniform(-20, 20, 200_000)], dtype=np.float32
    )

    def error(evaluate, activation, method):
        batch = Case("dense", "float32", activation, method).bind({"x": x})
        expected = oracle.evaluate(batch)
        return [
            float(errors(batch, part, got, expected[part]).max())
            for part, got in zip(("value", "grad_x"), evaluate(x), strict=True)
        ]

    return error


def pytest_configure(config: pytest.Config) -> None:
    """The marker `needs`."""
    config.addinivalue_line("markers", "needs(*modules): skip where a module is not installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """TensorFlow runs all pairs of a loss and an activation, another backend alone a fifth of them.

    Each loss and each activation is in it, with several of the others. The judge has all pairs, on
    every backend.
    """
    if os.environ.get("SEGACT_ONLY") == "keras" and os.environ["KERAS_BACKEND"] != "tensorflow":
        left_out = [item for item in items if not _is_in_the_fifth(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_in_the_fifth(item)]


def _is_in_the_fifth(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    loss, activation = params.get("loss"), params.get("activation", params.get("smooth"))
    if loss not in LOSSES or activation not in ACTIVATIONS:
        return True
    return (LOSSES.index(loss) - ACTIVATIONS.index(activation)) % 5 == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test, saying why, where a module it needs is not installed."""
    for mark in item.iter_markers("needs"):
        absent = [module for module in mark.args if find_spec(module) is None]
        if absent:
            pytest.skip(f"not installed: {', '.join(absent)}")
