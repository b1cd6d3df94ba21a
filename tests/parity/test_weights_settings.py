"""Layers that do not fit, and settings that differ: both are named, with a remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cnn import cnn, torch_cnn
from ported import assert_same_model, image, keras_model, outputs, randomised, unchanged

from parity import assert_model_parity, weights
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")


def test_misfits_name_both_layers_and_shapes() -> None:
    from torch import nn

    one = cnn()
    for other, message in [
        (
            torch_cnn(head=81),
            r"layer 4: Keras dense_1 \(Dense, kernel \(80, 6\)\) does not fit "
            r"PyTorch 7 \(Linear, weight \(6, 81\)\)",
        ),
        (
            nn.Sequential(*list(torch_cnn())[:-1]),
            r"5 layers with weights in the source, 4 in the target: Keras dense_2 "
            r"\(Dense, kernel \(6, 2\)\) has no partner",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), *list(torch_cnn())[1:]),
            r"layer 1: Keras conv_1 \(Conv2D, kernel \(3, 3, 3, 4\)\) does not fit PyTorch 0 "
            r"\(Linear, weight \(4, 3\)\)",
        ),
        (
            nn.Sequential(*list(torch_cnn())[:-1], nn.Linear(6, 2, bias=False)),
            r"layer 5: Keras dense_2 \(Dense, bias \(2,\)\) does not fit PyTorch 9 "
            r"\(Linear, no bias\)",
        ),
        (
            nn.Sequential(*list(torch_cnn()), nn.Bilinear(2, 2, 2)),
            r"PyTorch 10 \(Bilinear\) has weights of a kind that cannot be carried over "
            r"\(weight, bias\)",
        ),
        (nn.Sequential(nn.LazyLinear(2)), r"PyTorch 0 \(LazyLinear\) has no shapes yet"),
    ]:
        if "Lazy" in message:
            with pytest.raises(WeightsError, match=message):
                weights.copy(one, other)
        else:
            unchanged(lambda other=other: weights.copy(one, other), other, message)


def test_keras_layers_of_another_kind() -> None:
    from keras import layers
    from torch import nn

    for layer in (layers.EinsumDense("abc,cd->abd", (5, 3)), layers.ConvLSTM1D(3, 2)):
        size = (2, 5, 4) if "conv" in layer.name else (5, 4)
        name = rf"Keras {layer.name}.* has weights of a kind that cannot be carried over"
        with pytest.raises(WeightsError, match=name):
            weights.copy(keras_model(size, layer), nn.Linear(4, 3))
    with pytest.raises(WeightsError, match=r"normalises axis \[1\] of 3"):
        weights.copy(keras_model((5, 4), layers.LayerNormalization(axis=1)), nn.Linear(4, 3))
    with pytest.raises(WeightsError, match=r"\(RMSNormalization\) normalises axis \[1\] of 3"):
        weights.copy(keras_model((5, 5), layers.RMSNormalization(axis=1)), nn.RMSNorm(5))
    with pytest.raises(WeightsError, match=r"\(GroupNormalization\) normalises axis 1 of 4, data"):
        weights.copy(
            keras_model((6, 6, 6), layers.GroupNormalization(3, axis=1)), nn.GroupNorm(3, 6)
        )
    with pytest.raises(WeightsError, match=r"PyTorch model \(Linear\) is on the meta device"):
        weights.copy(keras_model((5,), layers.Dense(4)), nn.Linear(5, 4, device="meta"))
    with pytest.raises(TypeError, match="target is a str; wanted a Keras model or"):
        weights.copy(nn.Linear(4, 3), "model")


def test_the_activation_of_a_simple_rnn() -> None:
    from keras import layers
    from torch import nn

    wrong = "activation is {0} in Keras rnn, {1} in PyTorch .*; wanted in .*: nonlinearity='{0}'"
    for names in (("relu", "tanh"), ("tanh", "relu")):
        one = keras_model((5, 4), layers.SimpleRNN(3, activation=names[0], name="rnn"))
        other = nn.RNN(4, 3, nonlinearity=names[1])
        unchanged(lambda o=one, t=other: weights.copy(o, t), other, wrong.format(*names))
        weights.copy(one, nn.RNN(4, 3, nonlinearity=names[0]))


def test_an_activation_that_is_a_layer() -> None:
    """Keras takes a layer in place of an activation function: it has no name of a function."""
    from keras import layers
    from torch import nn

    def lstm(activation: Any, **options: Any) -> Any:
        return keras_model((5, 4), layers.LSTM(3, activation=activation, name="rnn", **options))

    other = nn.LSTM(4, 3, batch_first=True)
    weights.copy(lstm(layers.Activation("tanh")), other)
    for one, message in [
        (lstm(layers.LeakyReLU()), "rnn .* has activation='LeakyReLU'; wanted 'tanh'"),
        (
            lstm("tanh", recurrent_activation=layers.Activation("hard_sigmoid")),
            "rnn .* has recurrent_activation='hard_sigmoid'; wanted 'sigmoid'",
        ),
    ]:
        unchanged(lambda one=one: weights.copy(one, other), other, message)
    # and through an activation no bias goes into the mean of the normalization behind it
    for activation, fits in ((layers.LeakyReLU(), False), (layers.Activation("linear"), True)):
        dense = layers.Dense(4, activation=activation)
        one = keras_model((3,), dense, layers.BatchNormalization())
        other = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
        if fits:
            weights.copy(one, other, settings="ignore")
        else:
            unchanged(
                lambda one=one, other=other: weights.copy(one, other, settings="ignore"),
                other,
                r"bias \(4,\)\) does not fit PyTorch 0 \(Linear, no bias\)",
            )


def test_the_axis_of_a_prelu() -> None:
    """Slopes along another axis than the channels fit none of PyTorch's, even of equal size."""
    from keras import layers
    from torch import nn

    other = nn.PReLU(4)
    for size, shared in (((4, 4), [2]), ((4, 4, 4), [2, 3]), ((4, 1), None)):
        one = keras_model(size, layers.PReLU(shared_axes=shared, name="slopes"))
        rank = len(size) + 1
        message = rf"Keras slopes \(PReLU\) has a slope for each place along axis 1 of {rank}"
        unchanged(lambda one=one: weights.copy(one, other), other, message)
    weights.copy(keras_model((4, 4), layers.PReLU(shared_axes=[1])), other)
    first = layers.Conv2D(4, 1, data_format="channels_first")
    one = keras_model((4, 5, 5), first, layers.PReLU(shared_axes=[2, 3]))
    weights.copy(one, nn.Sequential(nn.Conv2d(4, 4, 1), other))


def test_a_normalization_of_a_whole_image(tmp_path: Path) -> None:
    """Its arrays are (height, width, channels) in Keras, (channels, height, width) in PyTorch."""
    from keras import layers
    from torch import nn

    def pair(*size: int) -> tuple[Any, Any]:
        conv = layers.Conv2D(size[-1], 1)
        norm = layers.LayerNormalization(axis=[1, 2, 3], epsilon=1e-5)
        first = (size[-1], *size[:-1])
        module = nn.Sequential(nn.Conv2d(size[-1], size[-1], 1), nn.LayerNorm(first))
        return keras_model(size, conv, norm), module

    one, other = pair(4, 5, 3)
    assert_same_model(one, other, image(4, 5, 3))
    assert_model_parity(one, other, image(4, 5, 3))
    weights.save(one, tmp_path / "w")
    again = pair(4, 5, 3)[1]
    weights.load(tmp_path / "w", again)
    assert again[1].weight.equal(other[1].weight)
    one, other = pair(4, 4, 4)
    unchanged(lambda: weights.copy(one, other), other, r"\(4, 4, 4\) may be channels first or last")
    weights.copy(one, other, flatten="channels_first")
    assert_model_parity(one, other, image(4, 4, 4))
    other[1].eps = 1e-2
    with pytest.raises(AssertionError, match="likely cause\n  epsilon is 1e-05 in Keras"):
        assert_model_parity(one, other, image(4, 4, 4))
    weights.copy(one, other, flatten="channels_last", settings="ignore")
    np.testing.assert_array_equal(other[1].weight.detach(), np.array(one.layers[1].gamma))


def test_padding_in_another_mode() -> None:
    import keras
    from keras import layers, ops
    from torch import nn

    def padded(x: Any) -> Any:
        return ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")

    x = keras.Input((8, 8, 3))
    by_operation = randomised(keras.Model(x, layers.Conv2D(2, 3)(padded(x))))
    by_lambda = keras_model((8, 8, 3), layers.Lambda(padded, (10, 10, 3)), layers.Conv2D(2, 3))
    reflecting = nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")
    behind = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3))
    assert_same_model(by_operation, reflecting, image(8, 8, 3))
    assert_same_model(by_operation, behind, image(8, 8, 3))
    assert_same_model(by_lambda, behind, image(8, 8, 3))
    weights.copy(
        keras_model((8, 8, 3), layers.Conv2D(2, 3)), nn.Conv2d(3, 2, 3, padding_mode="reflect")
    )
    one = keras_model((8, 8, 3), layers.Conv2D(2, 3, padding="same"))
    for other, message in [
        (reflecting, "reflect in PyTorch model; wanted in PyTorch model: padding_mode='zeros'"),
        (behind, r"reflect \(by the ReflectionPad2d before it\) in .*: a padding with zeros in pl"),
    ]:
        unchanged(lambda other=other: weights.copy(one, other), other, message)
        with pytest.raises(WeightsError, match=r"keras.ops.pad with mode 'reflect' before it and"):
            weights.copy(other, one)


def test_settings_that_keras_does_not_have() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((4,), layers.BatchNormalization(epsilon=1e-5))
    other = nn.BatchNorm1d(4, momentum=None)
    for settings in ("check", "copy"):
        with pytest.raises(WeightsError, match=r"a number, since Keras has no cumulative average$"):
            weights.copy(other, one, settings=settings)
    weights.copy(one, other, settings="copy")
    assert other.momentum == pytest.approx(0.01)
    with pytest.raises(
        WeightsError, match="a PyTorch module with max_norm=None, since Keras has n"
    ):
        weights.copy(nn.Embedding(5, 4, max_norm=1), keras_model((3,), layers.Embedding(5, 4)))
    one = keras_model((6, 6, 4), layers.GroupNormalization(4, epsilon=1e-5))
    with pytest.raises(WeightsError, match=r"wanted in .*: nn.GroupNorm with num_groups=4"):
        weights.copy(one, nn.GroupNorm(2, 4))
    with pytest.raises(WeightsError, match=r"wanted in .*: padding='valid'$"):
        weights.copy(
            nn.Conv2d(4, 4, 3), keras_model((6, 6, 4), layers.Conv2D(4, 3, padding="same"))
        )


def test_the_axis_of_a_batch_normalization() -> None:
    from keras import layers
    from torch import nn

    for options in ({}, {"axis": 3}):
        weights.copy(
            keras_model((6, 6, 6), layers.BatchNormalization(**options)),
            nn.BatchNorm2d(6),
            settings="ignore",
        )
    for axis in (1, 2, -2):
        one = keras_model((6, 6, 6), layers.BatchNormalization(axis=axis, name="bn"))
        other = nn.BatchNorm2d(6)
        unchanged(
            lambda one=one, other=other: weights.copy(one, other, settings="ignore"),
            other,
            rf"Keras bn \(BatchNormalization\) normalises axis {axis} of 4, data_format is "
            "'channels_last'; wanted the axis of the channels",
        )
    first = keras_model(
        (3, 5, 5),
        layers.Conv2D(6, 1, data_format="channels_first"),
        layers.BatchNormalization(axis=1),
    )
    weights.copy(first, nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)), settings="ignore")


def test_settings_are_listed_together_with_their_remedies() -> None:
    from torch import nn

    one = cnn()
    one.get_layer("bn_1").epsilon = 1e-3
    one.get_layer("bn_1").momentum = 0.99
    other = torch_cnn(padding=1)
    unchanged(
        lambda: weights.copy(one, other),
        other,
        r"(?s)3 settings differ, so the two models would not agree:\n"
        r"Keras bn_1 \(BatchNormalization\) and PyTorch 2 \(BatchNorm2d\): epsilon is 0.001 in "
        r"Keras bn_1, 1e-05 in PyTorch 2; wanted in PyTorch 2: eps=0.001, or settings='copy'\n"
        r".*momentum is 0.99 in Keras bn_1, 0.1 \(Keras's is 1 minus that\) in PyTorch 2; wanted "
        r"in PyTorch 2: momentum=0.01, or settings='copy'\n"
        r".*conv_2 pads \(\(0, 1\), \(0, 1\)\) \('same', for an input of 8\), PyTorch 4 pads "
        r"\(\(1, 1\), \(1, 1\)\); wanted in PyTorch 4: nn.ZeroPad2d\(\(0, 1, 0, 1\)\) before it "
        r"and padding=0",
    )
    unchanged(
        lambda: weights.copy(one, other, settings="copy"), other, "(?s)a setting differs.*conv_2"
    )
    assert other[2].eps == 1e-5
    weights.copy(one, other, settings="ignore")
    assert other[2].eps == 1e-5
    weights.copy(one, torch_cnn(), settings="copy")
    again = cnn()
    fine = torch_cnn()
    fine[2].eps = 2e-4
    fine[2].momentum = 0.25
    weights.copy(fine, again, settings="copy")
    assert again.get_layer("bn_1").epsilon == 2e-4
    assert again.get_layer("bn_1").momentum == 0.75
    with pytest.raises(
        WeightsError, match=r"groups is 1 in .*, 2 in .*wanted in PyTorch 0: groups=1"
    ):
        weights.copy(_conv(2, 2), nn.Sequential(nn.Conv2d(4, 2, 3, groups=2)))


def _conv(channels: int, filters: int) -> Any:
    from keras import layers

    return keras_model((9, 9, channels), layers.Conv2D(filters, 3))


def test_strided_same_of_an_unknown_size() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((None, None, 3), layers.Conv2D(2, 3, 2, "same"))
    with pytest.raises(WeightsError, match=r"which is not known here.*\(0, 1, 0, 1\)\) before it"):
        weights.copy(one, nn.Conv2d(3, 2, 3, 2, 1))
    weights.copy(one, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 2, 3, 2)))
    with pytest.raises(WeightsError, match="not known here"):
        weights.copy(one, nn.Sequential(nn.ZeroPad2d((2, 1, 2, 1)), nn.Conv2d(3, 2, 3, 2)))
    one = keras_model((None, None, 3), layers.Conv2D(2, 2, 2, "valid"))
    weights.copy(one, nn.Conv2d(3, 2, 2, 2))


@pytest.mark.parametrize("of_torch", [(1, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("target", ["Keras", "PyTorch"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_the_remedy_of_a_transposed_convolution_is_right(
    kernel: int, padding: str, target: str, of_torch: tuple[int, int]
) -> None:
    """What the error says to write is written, and the outputs agree."""
    import re

    import keras
    from torch import nn

    kl = keras.layers
    one = kl.Conv2DTranspose(3, kernel, 2, padding)
    other = nn.ConvTranspose2d(2, 3, kernel, 2, *of_torch)
    pair = (keras_model((4, 5, 2), one), nn.Sequential(other))
    with pytest.raises(WeightsError) as refused:
        weights.copy(*(pair if target == "PyTorch" else pair[::-1]))
    wanted = str(refused.value).partition("wanted in ")[2].partition(": ")[2]
    options = dict(re.findall(r"(\w+)=('?\w+'?|\(.*?\))", wanted))
    written = {name: eval(text) for name, text in options.items()}
    old = {"padding": of_torch[0], "output_padding": of_torch[1]}
    written = {**old, **written} if target == "PyTorch" else written
    after = re.search(r"(nn\.ZeroPad2d|Cropping2D)\((\(.*\))\) after", wanted)
    added = (
        [getattr(nn if target == "PyTorch" else kl, after[1].removeprefix("nn."))(eval(after[2]))]
        if after
        else []
    )
    if target == "PyTorch":
        new = nn.Sequential(nn.ConvTranspose2d(2, 3, kernel, 2, **written), *added)
        assert_same_model(pair[0], new, image(4, 5, 2))
    else:
        new = keras_model((4, 5, 2), kl.Conv2DTranspose(3, kernel, 2, **written), *added)
        weights.copy(pair[1], new)
        there, here = outputs(new, pair[1], image(4, 5, 2), first=True)
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_keras_zero_padding_before_a_convolution() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((9, 9, 3), layers.ZeroPadding2D(1), layers.Conv2D(2, 3, 2))
    assert_same_model(one, nn.Conv2d(3, 2, 3, 2, 1), image(9, 9, 3))
    with pytest.raises(
        WeightsError, match=r"wanted in Keras .*: ZeroPadding2D\(\(\(2, 2\), \(2, 2\)\)\) before it"
    ):
        weights.copy(nn.Conv2d(3, 2, 3, 2, 2), one)


def test_same_padding() -> None:
    assert weights.same_padding(32, 3, 2) == (0, 1)
    assert weights.same_padding(33, 3, 2) == (1, 1)
    assert weights.same_padding(10, 2, 1, 3) == (1, 2)
    with pytest.raises(ValueError, match="stride is 0; wanted a whole number >= 1"):
        weights.same_padding(32, 3, 0)


@pytest.mark.parametrize(
    "options", [{"flatten": "NHWC"}, {"settings": "carry"}, {"flatten": {"fc": (3,)}}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    import keras
    from torch import nn

    one = keras_model((4,), keras.layers.Dense(3, name="fc"))
    with pytest.raises(ValueError, match="; wanted "):
        weights.copy(one, nn.Linear(4, 3), **options)
    for layers in (["fc"], "fc", 3, {"fc": 0}):
        with pytest.raises(TypeError, match=r"layers is .*; wanted a dictionary"):
            weights.copy(one, nn.Linear(4, 3), layers=layers)
