"""`assert_model_parity` on models some of whose layers have weights of a kind that is not known."""

from typing import Any

import numpy as np
import pytest

from parity import weights
from parity.common.findings import ParityError
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")

X = np.random.default_rng(5).normal(size=(4, 8, 8, 3)).astype(np.float32)
KNOWN = ["conv_1", "conv_2", "norm_2", "conv_3", "dense"]


@pytest.fixture(scope="module")
def keras_model() -> Any:
    """With a layer of the user's own in the middle, and one that PyTorch's model has as two."""
    import keras
    from keras import layers

    class Squares(layers.Layer):
        """w_0 + w_1 x^2, by channel."""

        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(2, shape[-1]), initializer="random_normal", name="w")

        def call(self, x: Any) -> Any:
            return self.w[0] + self.w[1] * x * x

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            Squares(name="squares"),
            layers.Conv2D(6, 3, name="conv_2"),
            layers.BatchNormalization(epsilon=1e-3, name="norm_2"),
            layers.ReLU(),
            Squares(name="more"),
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

    class Squares(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, channels))

        def forward(self, x: Any) -> Any:
            w = self.w[:, :, None, None]
            return w[0] + w[1] * x * x

    class More(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(channels))
            self.scale = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)

        def forward(self, x: Any) -> Any:
            return self.w[:, None, None] + self.scale(x * x)

    model = nn.Sequential()
    for name, module in {
        "conv_1": nn.Conv2d(3, 4, 3),
        "relu_1": nn.ReLU(),
        "squares": Squares(4),
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
    squares, more = (
        torch.from_numpy(np.array(keras_model.get_layer(name).w)) for name in ("squares", "more")
    )
    model.squares.w.data, model.more.w.data = squares, more[0]
    model.more.scale.weight.data = more[1].reshape(6, 1, 1, 1).clone()
    return model


def message(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ParityError) as raised:
        assert_model_parity(*arguments, **options)
    print(raised.value)
    return str(raised.value)


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
        "not compared, as their kind is not known\n  Keras squares (Squares)\n  Keras more (Sq"
        in text
    )
    assert "  PyTorch squares (Squares)\n  PyTorch more (More)\n" in text
    assert "not compared, as none of the other model fits\n  PyTorch more.scale (Conv2d)" in text


def test_a_fault_of_an_unknown_layer_is_between_its_neighbours(
    keras_model: Any, torch_model: Any
) -> None:
    torch_model.squares.w.data *= 2
    text = message(keras_model, torch_model, X)
    assert "first between Keras conv_1 / PyTorch conv_1 and Keras conv_2 / PyTorch conv_2" in text
    assert "Keras: activation=relu, squares (Squares)\n  PyTorch: relu_1 (ReLU), squares (S" in text


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
    """They are named as wholes; what is inside of PyTorch's is no layer to compare."""
    import keras
    from torch import nn

    x = keras.Input((5, 4))
    attended = keras.layers.MultiHeadAttention(2, 2, name="attend")(x, x)
    model = keras.Model(x, keras.layers.Dense(3, name="head")(attended))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.attend(x, x, x)[0])

    other = Port()
    weights.copy(model.get_layer("head"), other.head)
    text = message(model, other, np.ones((2, 5, 4), np.float32))
    assert "before the first layer with weights" in text
    assert "not known\n  Keras attend (MultiHeadAttention)\n  PyTorch attend (Multi" in text
