"""`assert_model_parity` on models some of whose layers have weights of a kind that is not known."""

from typing import Any

import numpy as np
import pytest
from port import message

from parity import weights
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")

X = np.random.default_rng(5).normal(size=(4, 8, 8, 3)).astype(np.float32)
KNOWN = ["conv_1", "conv_2", "norm_2", "conv_3", "dense"]


@pytest.fixture(scope="module")
def keras_model() -> Any:
    """With two layers of the user's own, whose weights have a layout that their shape does not
    tell."""
    import keras
    from keras import layers

    class Mixed(layers.Layer):
        """x + tanh(x w), over the channels."""

        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(shape[-1],) * 2, initializer="random_normal", name="w")

        def call(self, x: Any) -> Any:
            return x + keras.ops.tanh(keras.ops.matmul(x, self.w))

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            Mixed(name="mixed"),
            layers.Conv2D(6, 3, name="conv_2"),
            layers.BatchNormalization(epsilon=1e-3, name="norm_2"),
            layers.ReLU(),
            Mixed(name="more"),
            layers.Conv2D(6, 3, name="conv_3"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="dense"),
        ],
        name="net",
    )


@pytest.fixture
def torch_model(keras_model: Any) -> Any:
    """Its counterpart with the same weights; `more` has a convolution in it that is known."""
    import torch
    from torch import nn

    class Mixed(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(channels, channels))

        def forward(self, x: Any) -> Any:
            return x + torch.tanh(torch.einsum("ncyx,cd->ndyx", x, self.w))

    class More(Mixed):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.scale = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
            nn.init.ones_(self.scale.weight)

        def forward(self, x: Any) -> Any:
            return super().forward(self.scale(x))

    model = nn.Sequential()
    for name, module in {
        "conv_1": nn.Conv2d(3, 4, 3),
        "relu_1": nn.ReLU(),
        "mixed": Mixed(4),
        "conv_2": nn.Conv2d(4, 6, 3),
        "norm_2": nn.BatchNorm2d(6, eps=1e-3),
        "relu_2": nn.ReLU(),
        "more": More(6),
        "conv_3": nn.Conv2d(6, 6, 3),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "dense": nn.Linear(6, 3),
    }.items():
        model.add_module(name, module)
    for name in KNOWN:
        weights.copy(keras_model.get_layer(name), model.get_submodule(name), settings="copy")
    for name in ("mixed", "more"):
        own = model.get_submodule(name).w
        own.data = torch.from_numpy(np.array(keras_model.get_layer(name).w))
    return model


def test_a_sound_port_passes(keras_model: Any, torch_model: Any) -> None:
    assert assert_model_parity(keras_model, torch_model, X).passed


@pytest.mark.parametrize("fault", ["conv_1", "conv_2", "norm_2", "conv_3", "dense"])
def test_a_fault_is_named_at_its_own_layer(keras_model: Any, torch_model: Any, fault: str) -> None:
    if fault == "norm_2":
        torch_model.norm_2.eps = 0.1
        cause = "epsilon is 0.001 in Keras norm_2, 0.1 in PyTorch norm_2"
    elif fault == "dense":
        torch_model.dense.weight.data *= -1
        cause = "Keras's kernel and PyTorch's weight differ"
    else:
        wrong = torch_model.get_submodule(fault)
        wrong.weight.data = wrong.weight.data.transpose(2, 3).clone()
        cause = "the kernel is transposed"
    text = message(keras_model, torch_model, X)
    assert f"first at layer {KNOWN.index(fault) + 1}: Keras {fault} (" in text
    assert cause in text
    assert (
        "not compared, as their kind is not known\n  Keras mixed (Mixed)\n  Keras more (Mi" in text
    )
    assert "  PyTorch mixed (Mixed)\n  PyTorch more (More)\n" in text
    assert "not compared, as none of the other model fits\n  PyTorch more.scale (Conv2d)" in text


def test_a_fault_of_an_unknown_layer_is_between_its_neighbours(
    keras_model: Any, torch_model: Any
) -> None:
    torch_model.mixed.w.data *= 2
    text = message(keras_model, torch_model, X)
    assert "first between Keras conv_1 / PyTorch conv_1 and Keras conv_2 / PyTorch conv_2" in text
    assert "Keras: activation=relu, mixed (Mixed)\n  PyTorch: relu_1 (ReLU), mixed (M" in text


def test_a_fault_that_the_outputs_hide(keras_model: Any, torch_model: Any) -> None:
    import keras
    from torch import nn

    class Far(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x + 90.0).sigmoid()

    head = keras.layers.Lambda(lambda x: keras.ops.sigmoid(x + 90.0))
    both = keras.Sequential([keras_model, head]), nn.Sequential(torch_model, Far())
    assert assert_model_parity(*both, X).passed
    torch_model.relu_2 = nn.LeakyReLU(0.1)
    text = message(*both, X)
    assert "outputs agree on these inputs, but not all layers do: first between" in text
    assert "norm_2 and Keras net/conv_3 / PyTorch 0.conv_3" in text
    torch_model.relu_2 = nn.ReLU()
    torch_model.conv_3.weight.data[0] += 1
    assert "not all layers do: first at layer 4: Keras net/conv_3" in message(*both, X)


def test_layers_of_the_frameworks_own_that_are_not_known() -> None:
    """They are named as wholes."""
    import keras
    from torch import nn

    x = keras.Input((5, 4, 3))
    remembered = keras.layers.ConvLSTM1D(2, 3, name="remember")(x)
    model = keras.Model(x, keras.layers.Dense(3, name="head")(remembered))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pairs, self.head = nn.Bilinear(3, 3, 2), nn.Linear(2, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.pairs(x[:, 0, :2], x[:, 1, :2]))

    other = Port()
    weights.copy(model.get_layer("head"), other.head)
    numbers = np.ones((2, 5, 4, 3), np.float32)
    text = message(model, other, numbers, data_format="channels_last")
    assert "before the first layer with weights" in text
    assert "not known\n  Keras remember (ConvLSTM1D)\n  PyTorch pairs (Bilinear)" in text


def test_layers_that_have_no_partner(keras_model: Any, torch_model: Any) -> None:
    """A normalization that the port leaves out."""
    from torch import nn

    one = nn.Sequential(*list(torch_model)[:4], nn.Identity(), *list(torch_model)[5:])
    text = message(keras_model, one, X)
    assert "first between Keras conv_2 / PyTorch 3 and Keras conv_3 / PyTorch 7" in text
    assert "none of the other model fits\n  Keras norm_2 (BatchNormalization)" in text
