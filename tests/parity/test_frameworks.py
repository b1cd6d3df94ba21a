"""What the process of a framework is started with, and its gradients."""

import numpy as np
import pytest

from parity.frameworks.autodiff import FRAMEWORKS, differentiate
from parity.frameworks.environment import environment
from parity.frameworks.installed import IMPLEMENTATIONS


@pytest.mark.parametrize("name", [*IMPLEMENTATIONS, "tf-keras", ""])
def test_the_backend_and_the_device(name: str) -> None:
    backends = {"tf-keras": "tensorflow", "torch": None, "": None}
    backend = backends.get(name, name.removeprefix("keras-"))
    hidden, shared = environment(name), environment(name, "cuda")
    assert hidden.get("KERAS_BACKEND") == shared.get("KERAS_BACKEND") == backend
    assert hidden["CUDA_VISIBLE_DEVICES"] == ""
    assert hidden["JAX_PLATFORMS"] == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in shared
    assert shared["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert shared.get("JAX_PLATFORMS") == ("cuda" if backend == "jax" else None)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_threads_and_precision(name: str) -> None:
    few = environment(name, threads=3)
    assert few["OMP_NUM_THREADS"] == few["TF_NUM_INTRAOP_THREADS"] == "3"
    assert not any("THREADS" in key for key in environment(name))
    assert "JAX_ENABLE_X64" not in few
    assert environment(name, float64=True).get("JAX_ENABLE_X64") == (
        "1" if name == "keras-jax" else None
    )
    assert few["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert "TF_ENABLE_ONEDNN_OPTS" not in environment(name, onednn=True)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_way_to_value_and_gradients(framework: str, compiled: bool) -> None:
    """Also of what is compiled, called again on arrays of other shapes."""
    pytest.importorskip(framework)
    evaluate = differentiate(
        framework,
        lambda x, y, z: x * x * y,
        [1, 0],
        direction=lambda shape, dtype: np.full(shape, 2, dtype),
        compiled=compiled,
    )
    for shape in ((3,), (2, 2)):
        x, y, z = np.full((3, *shape), 3.0, np.float32)
        value, gradients = evaluate([x, y, z])
        assert value.tolist() == (x * x * y).tolist()
        if framework != "numpy":
            in_y, in_x = gradients
            assert (in_y.tolist(), in_x.tolist()) == ((2 * x * x).tolist(), (4 * x * y).tolist())
        else:
            assert gradients == [None, None]
