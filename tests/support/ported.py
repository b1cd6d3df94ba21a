"""Keras models and their ports to PyTorch: random weights, outputs of both, copies both ways."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity import weights
from parity.weights import WeightsError

Array = Any


def randomised(model: Any) -> Any:
    """A Keras model with weights that are nowhere zero, one or symmetric."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        value = rng.normal(size=variable.shape) * 0.3
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.name else value)
    return model


def keras_model(size: tuple[int | None, ...], *layers: Any) -> Any:
    """A sequential Keras model with random weights."""
    import keras

    return randomised(keras.Sequential([keras.Input(size), *layers]))


def own_scale(size: int, name: str | None = None) -> tuple[Any, Any]:
    """A Keras layer and a PyTorch module of a user's own, each with a factor for every feature."""
    import keras
    import torch

    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=shape[-1:], name="scale")

        def call(self, x: Any) -> Any:
            return x * self.scale

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(size))

        def forward(self, x: Any) -> Any:
            return x * self.scale

    return Scale(name=name), Scaled()


def outputs(
    keras_model: Any, torch_model: Any, x: Array, first: bool, vectors: bool = False
) -> tuple[Array, Array]:
    """The outputs of both models for x, in Keras's layout; `first`: PyTorch takes channels first,
    `vectors`: its outputs are vectors, if of many steps."""
    import keras
    import torch

    try:
        there = keras.ops.convert_to_numpy(keras_model(x, training=False))
    except Exception as error:
        if "do not yet support dilation" not in str(error):
            raise
        # TensorFlow uses oneDNN for it, only on processors with AVX-512
        pytest.skip("no dilated transposed convolution in TensorFlow on this processor")
    with torch.no_grad():
        given = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if first else x))
        here = torch_model.eval()(given).numpy()
    return there, np.moveaxis(here, 1, -1) if first and here.ndim > 2 and not vectors else here


def assert_same_model(
    keras_model: Any, torch_model: Any, x: Array, first: bool = True, vectors: bool = False
) -> None:
    """Copies to PyTorch and compares the outputs; then back, in place of zeros."""
    weights.copy(keras_model, torch_model)
    there, here = outputs(keras_model, torch_model, x, first, vectors)
    assert there.shape == here.shape
    assert np.abs(there).max() > 0.1
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5 * np.abs(there).max())
    before = [np.array(value) for value in keras_model.get_weights()]
    for variable in keras_model.weights:
        variable.assign(np.zeros(variable.shape))
    weights.copy(torch_model, keras_model)
    for value, other in zip(keras_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, other)


def image(*shape: int) -> Array:
    """A batch of random images."""
    return np.random.default_rng(5).normal(size=(2, *shape)).astype(np.float32)


def unchanged(action: Callable[[], Any], model: Any, message: str) -> None:
    """The action raises with the message, and no weight of the PyTorch model has changed."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        action()
    for key, value in model.state_dict().items():
        assert value.equal(before[key]), key
