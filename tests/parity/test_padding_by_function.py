"""Ports that pad in `forward`, by `F.pad` or by a convolution such as timm's Conv2dSame."""

from typing import Any

import numpy as np
import pytest
from port import message

from parity import weights
from parity.models.assertion import assert_model_parity

pytestmark = pytest.mark.needs("torch", "keras")

X = np.random.default_rng(5).normal(size=(4, 9, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def keras_model() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(6, 3, strides=2, padding="same", name="conv_2"),
            layers.BatchNormalization(epsilon=1e-3, momentum=0.9, name="norm_2"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, strides=2, padding="same", name="conv_3"),
            layers.Flatten(),
            layers.Dense(3, name="dense"),
        ]
    )


def same(x: Any, conv: Any) -> Any:
    """Pads as TensorFlow's "same" does."""
    from torch.nn import functional as F

    pads: list[int] = []
    for size, kernel, stride in zip(x.shape[:1:-1], conv.kernel_size, conv.stride, strict=True):
        pads += weights.same_padding(size, kernel, stride)
    return F.pad(x, pads)


def port(by_class: bool = False, eps: float = 1e-3, stride: int = 2, pad: Any = same) -> Any:
    """The counterpart, which pads by a function in its forward, or in that of its convolutions."""
    from torch import nn

    class Conv2dSame(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return self._conv_forward(pad(x, self), self.weight, self.bias)

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = Conv2dSame if by_class else nn.Conv2d
            self.conv_1, self.conv_2 = conv(3, 4, 3, stride=2), conv(4, 6, 3, stride=stride)
            self.norm_2 = nn.BatchNorm2d(6, eps=eps)
            self.conv_3, self.dense = conv(6, 6, 3, stride=2, groups=6), nn.Linear(12, 3)

        def forward(self, x: Any) -> Any:
            around = self.nothing if by_class else pad
            x = self.conv_1(around(x, self.conv_1)).relu()
            x = self.norm_2(self.conv_2(around(x, self.conv_2))).relu()
            return self.dense(self.conv_3(around(x, self.conv_3)).flatten(1))

        @staticmethod
        def nothing(x: Any, conv: Any) -> Any:
            return x

    return Port()


@pytest.mark.parametrize("by_class", [False, True])
def test_a_sound_port_is_copied_and_passes(keras_model: Any, by_class: bool) -> None:
    model = port(by_class)
    weights.copy(keras_model, model)
    assert assert_model_parity(keras_model, model, X).passed


@pytest.mark.parametrize("by_class", [False, True])
def test_the_other_settings_are_checked_all_the_same(keras_model: Any, by_class: bool) -> None:
    for wrong, words in [({"eps": 1e-5}, "epsilon is 0.001"), ({"stride": 1}, "strides is")]:
        with pytest.raises(weights.WeightsError, match="a setting differs") as caught:
            weights.copy(keras_model, port(by_class, **wrong))
        assert words in str(caught.value)
        assert "pad" not in str(caught.value)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("fault", ["conv_2", "norm_2", "conv_3", "dense"])
def test_a_fault_behind_padding_is_named_at_its_own_layer(
    keras_model: Any, fault: str, by_class: bool
) -> None:
    model = port(by_class)
    weights.copy(keras_model, model)
    if fault == "norm_2":
        model.norm_2.eps = 1e-1
        cause = "epsilon is 0.001 in Keras norm_2, 0.1 in PyTorch norm_2"
    elif fault == "dense":
        model.dense.bias.data += 1
        cause = "Keras's bias and PyTorch's bias differ"
    else:
        convolution = getattr(model, fault)
        convolution.weight.data = convolution.weight.data.transpose(2, 3).clone()
        cause = "the kernel is transposed"
    text = message(keras_model, model, X)
    number = ["conv_1", "conv_2", "norm_2", "conv_3", "dense"].index(fault) + 1
    assert f"first at layer {number}: Keras {fault} (" in text
    assert cause in text
    assert "ZeroPad" not in text


def test_padding_at_the_wrong_end(keras_model: Any) -> None:
    def symmetric(x: Any, conv: Any) -> Any:
        from torch.nn import functional as F

        return F.pad(x, (1, 1, 1, 1))

    model = port(pad=symmetric)
    weights.copy(keras_model, model)
    text = message(keras_model, model, X)
    assert "first at layer 1: Keras conv_1 (Conv2D) and PyTorch conv_1 (Conv2d)" in text
    assert "Keras conv_1 pads ((1, 1), (0, 1)) ('same', for an input of (9, 8))" in text
    assert "PyTorch conv_1 pads ((1, 1), (1, 1))" in text


def test_padding_that_no_function_can_add_is_demanded(keras_model: Any) -> None:
    """Where no forward calls one; and where PyTorch's layer pads more than Keras's."""
    from torch import nn

    def nothing(x: Any, conv: Any) -> Any:
        return x

    for model in (port(pad=nothing), port(by_class=True, pad=nothing)):
        with pytest.raises(weights.WeightsError, match="3 settings differ") as caught:
            weights.copy(keras_model, model)
        assert "nn.ZeroPad2d((0, 1, 1, 1)) before it" in str(caught.value)
    model = port()
    model.conv_1.padding = (1, 1)
    with pytest.raises(weights.WeightsError, match=r"(?s)a setting differs.*conv_1 pads \(\(1, 1"):
        weights.copy(keras_model, model)
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize("functional", [False, True])
def test_keras_pads_by_a_function(functional: bool) -> None:
    import keras
    from torch import nn

    conv = keras.layers.Conv2D(2, 3, strides=2, name="conv")

    class Padding(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def call(self, x: Any) -> Any:
            return self.conv(keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))

    model = Padding()
    if functional:
        x = keras.Input((9, 8, 3))
        model = keras.Model(x, model.call(x))
    else:
        model(X)
    other = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1))
    weights.copy(model, other)
    assert assert_model_parity(model, other, X).passed
    weights.copy(other, model)
    other[0].bias.data += 1
    text = message(model, other, X)
    assert "first at layer 1: Keras conv (Conv2D) and PyTorch 0 (Conv2d)" in text
    assert "likely cause\n  Keras's bias and PyTorch's bias differ" in text


def test_a_transposed_convolution_that_is_cropped_by_a_slice() -> None:
    import keras
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.ConvTranspose2d(3, 2, 3, stride=2), nn.Conv2d(2, 1, 1)

        def forward(self, x: Any) -> Any:
            return self.head(self.up(x)[:, :, :-1, :-1])

    up = keras.layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="up")
    head = keras.layers.Conv2D(1, 1, name="head")
    model, other = keras.Sequential([keras.Input((9, 8, 3)), up, head]), Port()
    weights.copy(model, other)
    assert assert_model_parity(model, other, X).passed
    other.head.bias.data += 1
    assert "first at layer 2: Keras head (Conv2D) and PyTorch head" in message(model, other, X)
    other.up.weight.data *= 2
    text = message(model, other, X)
    assert "first at layer 1: Keras up (Conv2DTranspose) and PyTorch up (Conv" in text
    assert "Keras's kernel and PyTorch's weight differ" in text


def test_an_average_that_counts_the_padding() -> None:
    import keras
    from torch import nn

    def layers() -> list[Any]:
        kl = keras.layers
        return [kl.AveragePooling2D(3, 1, padding="same"), kl.Conv2D(2, 3, name="conv")]

    model = keras.Sequential([keras.Input((9, 8, 3)), *layers()])
    for counted in (False, True):
        pool = nn.AvgPool2d(3, 1, padding=1, count_include_pad=counted)
        other = nn.Sequential(pool, nn.Conv2d(3, 2, 3))
        weights.copy(model, other)
        if not counted:
            assert assert_model_parity(model, other, X).passed
            continue
        text = message(model, other, X)
        assert "first before the first layer with weights" in text
        assert "differ along the border alone: padding, or an average that counts it" in text
