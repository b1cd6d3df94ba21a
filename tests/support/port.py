"""A CNN in Keras and its port to PyTorch, and what `assert_model_parity` says of a pair."""

from typing import Any

import numpy as np
import pytest

from parity.common.findings import ParityError
from parity.models.assertion import assert_model_parity

X = np.random.default_rng(11).normal(size=(6, 8, 8, 3)).astype(np.float32)


def keras_cnn() -> Any:
    """A CNN in Keras with random weights everywhere."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Conv2D(4, 3, strides=2, padding="same", name="conv_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.LeakyReLU(0.3, name="leaky"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.5),
            layers.Dense(64, activation="tanh", name="dense_1"),
            layers.Dense(1, name="dense_2"),
        ]
    )
    rng = np.random.default_rng(3)
    for variable in model.weights:
        value = rng.normal(size=variable.shape) * (0.3 if len(variable.shape) > 1 else 0.1)
        positive = "gamma" in variable.name or "variance" in variable.name
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else value)
    return model


def torch_cnn(**parts: Any) -> Any:
    """Its counterpart in PyTorch, some modules replaced."""
    from torch import nn

    modules: dict[str, Any] = {
        "conv1": nn.Conv2d(3, 4, 3, padding=1),
        "relu": nn.ReLU(inplace=True),
        "bn1": nn.BatchNorm2d(4),
        "pad": nn.ZeroPad2d((0, 1, 0, 1)),
        "conv2": nn.Conv2d(4, 4, 3, stride=2),
        "bn2": nn.BatchNorm2d(4),
        "leaky": nn.LeakyReLU(0.3, inplace=True),
        "flat": nn.Flatten(),
        "fc1": nn.Linear(64, 64),
        "tanh": nn.Tanh(),
        "fc2": nn.Linear(64, 1),
        **parts,
    }
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


def message(*arguments: Any, **options: Any) -> str:
    """What `assert_model_parity` raises."""
    with pytest.raises(ParityError) as raised:
        assert_model_parity(*arguments, **options)
    print(raised.value)
    return str(raised.value)


def permuting(*axes: int) -> Any:
    """A module that permutes."""
    from torch import nn

    class Permute(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(*axes)

    return Permute()
