"""Faults planted in one layer: each is named by its layer, or by the loss."""

from typing import Any

import numpy as np
import pytest
from port import X, message, permuting, torch_cnn
from ported import image, keras_model

from parity import weights
from parity.common.findings import ParityError
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")


def test_a_wrong_epsilon(ported: tuple[Any, Any]) -> None:
    one, other = ported
    other.bn2.eps = 1e-5
    text = message(one, other, X)
    assert text.startswith(
        "the outputs differ, first at layer 4: Keras bn_2 (BatchNormalization) and PyTorch bn2 "
        "(BatchNorm2d): their inputs agree, their outputs do not\n"
    )
    assert (
        "likely cause\n  epsilon is 0.001 in Keras bn_2, 1e-05 in PyTorch bn2; wanted in PyTorch "
        "bn2: eps=0.001\n"
    ) in text
    assert "Keras conv_2 / PyTorch conv2: " in text
    assert "output of the models\n  where    index (" in text
    assert "elsewhere" not in text
    assert "  passes   from rtol=" in text


def test_a_wrong_epsilon_that_the_outputs_hide(ported: tuple[Any, Any]) -> None:
    one, other = ported
    other.bn2.eps = 1.1e-3
    with pytest.raises(ParityError, match="the outputs agree on these inputs") as caught:
        assert_model_parity(one, other, X, rtol=1e-2, atol=1e-2)
    assert "layer 4: Keras bn_2 (BatchNormalization) and PyTorch bn2 (BatchNorm2d): epsilon" in str(
        caught.value
    )
    other.bn2.momentum = 0.7  # of no account in inference
    other.bn2.eps = 1e-3
    assert assert_model_parity(one, other, X).passed


def test_a_transposed_square_kernel(ported: tuple[Any, Any]) -> None:
    one, other = ported
    other.fc1.weight.data = other.fc1.weight.data.T.clone()
    text = message(one, other, X)
    assert "first at layer 5: Keras dense_1 (Dense) and PyTorch fc1 (Linear)" in text
    what = "the kernel is transposed: PyTorch's, in Keras's layout, is equal after transpose(1, 0"
    assert f"{what})" in text
    other = torch_cnn()
    weights.copy(one, other, settings="copy")
    other.conv2.weight.data = other.conv2.weight.data.transpose(2, 3).clone()
    text = message(one, other, X)
    assert "first at layer 3: Keras conv_2 (Conv2D) and PyTorch conv2 (Conv2d)" in text
    assert (
        "the kernel is transposed: PyTorch's, in Keras's layout, is equal after transpose(1, 0"
        in text
    )
    other.conv2.weight.data = other.conv2.weight.data.transpose(2, 3).flip(2, 3).clone()
    assert "the kernel is mirrored" in message(one, other, X)


def test_an_nhwc_flatten(ported: tuple[Any, Any]) -> None:
    """Rows in Keras's order where PyTorch flattens channels first, and the other way around."""
    one, other = ported
    weights.copy(one, other, settings="copy", flatten="channels_last")
    text = message(one, other, X)
    assert "first at layer 5: Keras dense_1 (Dense) and PyTorch fc1 (Linear)" in text
    assert (
        "the rows of the kernel are in the order of an NHWC flatten; PyTorch flattens NCHW: wanted "
        "flatten='channels_first'"
    ) in text
    from torch import nn

    flat = nn.Sequential(permuting(0, 2, 3, 1), nn.Flatten())
    other = torch_cnn(flat=flat)
    weights.copy(one, other, settings="copy", flatten="channels_last")
    assert_model_parity(one, other, X)
    weights.copy(one, other, settings="copy", flatten="channels_first")
    text = message(one, other, X)
    assert "first at layer 5" in text
    assert "NCHW flatten; PyTorch's model permutes to NHWC itself: wanted flatten='chann" in text


def test_a_clipped_loss(ported: tuple[Any, Any]) -> None:
    import keras
    import torch

    one, other = ported
    head = one.get_layer("dense_2")
    head.bias.assign(head.bias + 17.0 - one(X, training=False)[3])
    weights.copy(one, other)
    y = np.zeros((6, 1), np.float32)
    exact = keras.losses.BinaryCrossentropy(from_logits=True)
    theirs = torch.nn.BCEWithLogitsLoss()
    assert assert_model_parity(one, other, X, losses=(exact, theirs), targets=y).passed

    def clipped(y_true: Any, y_pred: Any) -> Any:
        p = keras.ops.clip(keras.ops.sigmoid(y_pred), 1e-7, 1 - 1e-7)
        return -keras.ops.mean(
            y_true * keras.ops.log(p) + (1 - y_true) * keras.ops.log1p(-p), axis=-1
        )

    y[:] = 1
    y[3] = 0
    text = message(one, other, X, losses=(clipped, theirs), targets=y)
    assert text.startswith("the models agree, their losses do not: Keras clipped gives 2.6")
    assert "PyTorch BCEWithLogitsLoss 2.8" in text
    assert (
        "they differ most at sample 3: output 17, target 0, where Keras gives 15.9424 and "
        "PyTorch 17"
    ) in text


def test_a_kernel_that_is_off(ported: tuple[Any, Any]) -> None:
    one, other = ported
    other.conv1.weight.data[1, 2, 0, 1] += 0.5
    text = message(one, other, X)
    assert "first at layer 1: Keras conv_1 (Conv2D) and PyTorch conv1 (Conv2d)" in text
    assert "Keras's kernel and PyTorch's weight differ: " in text
    assert "at (0, 1, 2, 1) in Keras's layout, 1 of 108 numbers" in text
    weights.copy(one, other)
    other.bn1.running_mean.data, other.bn1.running_var.data = (
        other.bn1.running_var.data,
        other.bn1.running_mean.data.abs(),
    )
    assert "Keras's moving_variance is PyTorch's running_mean, not running_var" in message(
        one, other, X
    )


def test_padding_on_both_sides(ported: tuple[Any, Any]) -> None:
    from torch import nn

    one, _ = ported
    other = torch_cnn(pad=nn.Identity(), conv2=nn.Conv2d(4, 4, 3, stride=2, padding=1))
    weights.copy(one, other, settings="ignore")
    other.bn1.eps = other.bn2.eps = 1e-3
    text = message(one, other, X)
    assert "first at layer 3: Keras conv_2" in text
    assert "wanted in PyTorch conv2: nn.ZeroPad2d((0, 1, 0, 1)) before it and padding=0" in text


@pytest.mark.parametrize(
    ("part", "place", "cause"),
    [
        (
            {"leaky": 0.01},
            "between Keras bn_2 / PyTorch bn2 and Keras dense_1 / PyTorch fc1",
            "Keras applies leaky_relu with slope 0.3, PyTorch leaky_relu with slope 0.01",
        ),
        (
            {"tanh": None},
            "between Keras dense_1 / PyTorch fc1 and Keras dense_2 / PyTorch fc2",
            "Keras applies tanh, PyTorch nothing",
        ),
    ],
)
def test_an_activation_between_two_layers(
    ported: tuple[Any, Any], part: dict[str, Any], place: str, cause: str
) -> None:
    from torch import nn

    one, _ = ported
    ((name, slope),) = part.items()
    other = torch_cnn(**{name: nn.LeakyReLU(slope) if slope else nn.Identity()})
    weights.copy(one, other, settings="copy")
    text = message(one, other, X)
    assert f"first {place}: all before agrees, the inputs of the latter do not" in text
    assert cause in text
    if slope:
        assert "Keras: leaky (LeakyReLU), flat (Flatten)\n  PyTorch: leaky (LeakyReLU), fl" in text
    else:
        assert "Keras: activation=tanh\n  PyTorch: no layer; functions" in text


@pytest.mark.parametrize("kind", ["groups", "PReLU", "one slope", "pixel"])
def test_an_activation_after_a_layer_on_images(kind: str) -> None:
    """PyTorch's layer takes channels first: that is no difference."""
    from keras import layers
    from torch import nn

    first, second = {
        "groups": lambda: (layers.GroupNormalization(2, epsilon=1e-5), nn.GroupNorm(2, 4)),
        "PReLU": lambda: (layers.PReLU(shared_axes=[1, 2]), nn.PReLU(4)),
        "one slope": lambda: (layers.PReLU(shared_axes=[1, 2, 3]), nn.PReLU()),
        "pixel": lambda: (layers.Dense(4), nn.Conv2d(4, 4, 1)),
    }[kind]()
    convolutions = layers.Conv2D(4, 3), layers.Conv2D(2, 3)
    one = keras_model((8, 8, 3), convolutions[0], first, layers.Activation("tanh"), convolutions[1])
    other = nn.Sequential(nn.Conv2d(3, 4, 3), second, nn.Sigmoid(), nn.Conv2d(4, 2, 3))
    weights.copy(one, other)
    text = message(one, other, image(8, 8, 3))
    assert f"first between Keras {first.name} / PyTorch 1 and Keras conv" in text
    assert "Keras applies tanh, PyTorch sigmoid" in text


def test_before_the_first_layers_that_are_compared() -> None:
    """The calls of recurrent layers are not: the message names them, and does not say that there
    is no layer with weights before."""
    from keras import layers
    from torch import nn

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(self.rnn(x)[0][:, 0])  # the first step

    one, other = keras_model((5, 4), layers.LSTM(6, name="rnn"), layers.Dense(2, name="fc")), Last()
    weights.copy(one, other)
    text = message(one, other, image(5, 4))
    assert (
        "first before Keras fc / PyTorch fc, the first layers that are compared: the inputs do not "
        "agree\n" in text
    )
    assert "  Keras: rnn (LSTM)\n  PyTorch: rnn (LSTM); functions" in text


def test_behind_the_last_layer_and_before_the_first(ported: tuple[Any, Any]) -> None:
    from torch import nn

    one, other = ported
    text = message(one, nn.Sequential(other, nn.Sigmoid()), X)
    assert "first after the last layer with weights, Keras dense_2 / PyTorch 0.fc2" in text
    assert "Keras applies nothing, PyTorch sigmoid" in text
    assert "PyTorch: 1 (Sigmoid)" in text
    text = message(one, nn.Sequential(permuting(0, 1, 3, 2), other), X)
    assert "first before the first layer with weights" in text
    assert "equal after np.transpose of PyTorch's, transpose(0, 2, 1, 3)" in text


def test_settings_that_differ_elsewhere_are_listed(ported: tuple[Any, Any]) -> None:
    one, other = ported
    other.bn1.eps = other.bn2.eps = 1e-5
    text = message(one, other, X)
    assert "first at layer 2: Keras bn_1" in text
    assert "settings that differ elsewhere\n  epsilon is 0.001 in Keras bn_2, 1e-05 in" in text


def test_a_sum_in_place_of_a_mean() -> None:
    import keras
    from torch import nn

    one, other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]), nn.Linear(3, 4)
    weights.copy(one, other)
    x, y = X[:, 0, 0], np.arange(6) % 4
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    summed = nn.CrossEntropyLoss(reduction="sum")
    text = message(one, other, x, losses=(sparse, summed), targets=y)
    assert " alone gives " in text
    assert "it is the reduction that differs: PyTorch's is 6 times Keras's: a sum in pl" in text
    assert "they differ most" not in text
    y = X[:, 0, :4, 0]
    text = message(one, other, x, losses=("mse", nn.MSELoss(reduction="sum")), targets=y)
    assert "PyTorch's is 24 times Keras's: a sum in place of a mean?" in text


def test_pools_and_channels_that_are_swapped() -> None:
    import keras
    import torch
    from keras import layers
    from torch import nn

    picture = keras.Input((8, 8, 3))
    branches = [layers.Conv2D(2, 1, name=name)(picture) for name in "ab"]
    pooled = layers.MaxPooling2D()(layers.Concatenate()(branches))
    one = keras.Model(picture, layers.Conv2D(2, 1, name="c")(pooled))

    class Port(nn.Module):
        def __init__(self, swapped: bool, pool: Any) -> None:
            super().__init__()
            self.a, self.b, self.pool = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), pool
            self.c, self.swapped = nn.Conv2d(4, 2, 1), swapped

        def forward(self, x: Any) -> Any:
            both = [self.a(x), self.b(x)]
            return self.c(self.pool(torch.cat(both[::-1] if self.swapped else both, 1)))

    for swapped, pool, cause in [
        (False, nn.MaxPool2d(2), ""),
        (True, nn.MaxPool2d(2), "PyTorch has Keras's channels in another order: a concatenation"),
        (False, nn.AvgPool2d(2), "(MaxPooling2D) in Keras, pool (AvgPool2d) in PyTorch"),
    ]:
        other = Port(swapped, pool)
        weights.copy(one, other, layers={name: name for name in "abc"})
        if cause:
            assert cause in message(one, other, X)
        else:
            assert_model_parity(one, other, X)
