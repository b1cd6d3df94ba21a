"""Weights carried between Keras and PyTorch: every kind of layer, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ported import assert_same_model, image, keras_model, outputs, own_scale, randomised, unchanged
from safetensors.numpy import load_file, save_file

from parity import assert_model_parity, weights
from parity.weights import WeightsError

pytestmark = pytest.mark.needs("torch", "keras")

CONVS = [
    # size, kernel, strides, dilation, groups, padding, PyTorch's (ZeroPad or None, padding), bias
    ((9, 4), 3, 1, 1, 1, "valid", None, 0, True),
    ((9, 4), 3, 1, 1, 2, "same", None, "same", False),
    ((9, 4), 3, 1, 2, 1, "causal", (4, 0), 0, True),
    ((8, 7, 4), 3, 2, 1, 1, "valid", None, 0, True),
    ((8, 8, 4), 3, 2, 1, 1, "same", (0, 1, 0, 1), 0, True),
    ((9, 9, 4), 3, 2, 1, 2, "same", None, 1, True),
    ((8, 9, 4), 3, 2, 1, 1, "same", (1, 1, 0, 1), 0, True),
    ((9, 8, 4), (2, 3), (3, 1), 1, 4, "same", (1, 1, 0, 0), 0, False),
    ((9, 8, 4), (3, 2), 1, 2, 1, "same", None, "same", True),
    ((5, 4, 6, 4), 2, 2, 1, 1, "valid", None, 0, True),
    ((5, 4, 6, 4), (3, 2, 1), 1, 1, 2, "same", None, "same", True),
]


@pytest.mark.parametrize("case", CONVS)
def test_convolutions(case: tuple[Any, ...]) -> None:
    from keras import layers
    from torch import nn

    size, kernel, strides, dilation, groups, padding, zeros, own, bias = case
    rank = len(size) - 1
    options = {"strides": strides, "dilation_rate": dilation, "groups": groups}
    keras_layer = getattr(layers, f"Conv{rank}D")(
        6 if groups != 4 else 8, kernel, padding=padding, use_bias=bias, **options
    )
    torch_layer = getattr(nn, f"Conv{rank}d")(
        4, keras_layer.filters, kernel, strides, own, dilation, groups, bias
    )
    before = [getattr(nn, f"ZeroPad{rank}d")(zeros)] if zeros else []
    model = nn.Sequential(*before, torch_layer)
    assert_same_model(keras_model(size, keras_layer), model, image(*size))


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_convolutions(rank: int, multiplier: int) -> None:
    from keras import layers
    from torch import nn

    size = (*(8, 9)[:rank], 4)
    layer = getattr(layers, f"DepthwiseConv{rank}D")(3, depth_multiplier=multiplier)
    module = getattr(nn, f"Conv{rank}d")(4, 4 * multiplier, 3, groups=4)
    assert_same_model(keras_model(size, layer), module, image(*size))


TRANSPOSED = [
    # size, kernel, strides, dilation, padding, output_padding,
    # PyTorch's padding, output_padding, ZeroPad behind
    ((5, 4), 3, 1, 1, "valid", None, 0, 0, None),
    ((5, 4), 2, 3, 1, "valid", None, 0, 1, None),
    ((5, 4), 3, 1, 2, "same", None, 2, 0, None),
    ((5, 4, 4), 3, 2, 1, "same", None, 0, 0, (0, -1, 0, -1)),
    ((5, 4, 4), 4, 2, 1, "same", None, 1, 0, None),
    ((5, 4, 4), (5, 2), 2, 1, "same", None, (1, 0), 0, (0, 0, 0, -1)),
    ((5, 4, 4), 3, 2, 1, "same", 0, 1, 0, None),
    ((5, 4, 4), 1, 3, 1, "same", None, 0, 2, None),
    ((3, 4, 2, 4), 3, 2, 1, "same", None, 0, 0, (0, -1, 0, -1, 0, -1)),
]


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions(case: tuple[Any, ...]) -> None:
    from keras import layers
    from torch import nn

    size, kernel, strides, dilation, padding, more, own, own_more, zeros = case
    rank = len(size) - 1
    keras_layer = getattr(layers, f"Conv{rank}DTranspose")(
        6, kernel, strides, padding, output_padding=more, dilation_rate=dilation
    )
    torch_layer = getattr(nn, f"ConvTranspose{rank}d")(
        4, 6, kernel, strides, own, own_more, dilation=dilation
    )
    behind = [getattr(nn, f"ZeroPad{rank}d")(zeros)] if zeros else []
    model = nn.Sequential(torch_layer, *behind)
    assert_same_model(keras_model(size, keras_layer), model, image(*size))


NORMS = [
    # Keras's class and options, PyTorch's class and options, size, channels first
    ("BatchNormalization", {}, "BatchNorm1d", {}, (6,), False),
    ("BatchNormalization", {"epsilon": 1e-3}, "BatchNorm1d", {}, (5, 6), True),
    ("BatchNormalization", {}, "BatchNorm2d", {}, (4, 5, 6), True),
    ("BatchNormalization", {}, "BatchNorm3d", {}, (3, 4, 2, 6), True),
    ("BatchNormalization", {"scale": False}, "BatchNorm2d", {}, (4, 5, 6), True),
    ("BatchNormalization", {"center": False}, "BatchNorm2d", {}, (4, 5, 6), True),
    (
        *("BatchNormalization", {"scale": False, "center": False}),
        *("BatchNorm2d", {"affine": False}, (4, 5, 6), True),
    ),
    ("LayerNormalization", {}, "LayerNorm", {}, (6,), False),
    ("LayerNormalization", {"center": False}, "LayerNorm", {"bias": False}, (5, 6), False),
    ("LayerNormalization", {"axis": [1, 2]}, "LayerNorm", {"shape": (5, 6)}, (5, 6), False),
    (
        *("LayerNormalization", {"scale": False, "center": False}),
        *("LayerNorm", {"elementwise_affine": False}, (5, 6), False),
    ),
]


@pytest.mark.parametrize("case", NORMS)
def test_normalisations_with_their_settings(case: tuple[Any, ...]) -> None:
    from keras import layers
    from torch import nn

    kind, options, torch_kind, torch_options, size, first = case
    one = keras_model(size, getattr(layers, kind)(**options))
    other = getattr(nn, torch_kind)(torch_options.pop("shape", 6), **torch_options)
    with pytest.raises(
        WeightsError, match=r"epsilon is 0.001 in Keras .*wanted in PyTorch model: eps="
    ):
        weights.copy(one, other)
    weights.copy(one, other, settings="copy")
    assert other.eps == 1e-3
    if kind == "BatchNormalization":
        assert other.momentum == 0.01
        assert other.num_batches_tracked == 0
    assert_same_model(one, other, image(*size), first)


def test_one_step_moves_the_variances_apart_by_n_over_n_minus_1() -> None:
    import torch
    from keras import layers
    from torch import nn

    one = keras_model((6,), layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
    other = nn.BatchNorm1d(6)
    weights.copy(one, other)
    before, x = other.running_var.numpy().copy(), image(6)[:2]
    one(x, training=True)
    other.train()(torch.from_numpy(x))
    there = one.layers[0].moving_variance.numpy() - 0.9 * before
    here = other.running_var.numpy() - 0.9 * before
    np.testing.assert_allclose(here / there, 2 / 1, rtol=1e-3)
    np.testing.assert_allclose(other.running_mean, one.layers[0].moving_mean.numpy(), rtol=1e-5)


def test_dense_and_embedding_and_nested_models() -> None:
    import keras
    from keras import layers
    from torch import nn

    inner = keras_model((7, 5), layers.Dense(4, "tanh"), layers.Dense(3, use_bias=False))
    body = randomised(keras.Sequential([keras.Input((7,)), layers.Embedding(11, 5), inner]))
    module = nn.Sequential(
        nn.Embedding(11, 5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)
    )
    tokens = np.random.default_rng(1).integers(0, 11, (2, 7))
    pairs = weights.copy(body, module)
    names = ["0", "1", "3"]
    assert [name for _, name in pairs] == names
    assert [name.split("/")[0] for name, _ in pairs[1:]] == [inner.name] * 2
    there, here = outputs(body, module, tokens, first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


def cnn(flatten: bool = True) -> Any:
    """A Keras CNN with BatchNormalization, a strided same convolution and a dense head."""
    from keras import layers

    return keras_model(
        (8, 8, 3),
        layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_1"),
        layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="bn_1"),
        layers.Conv2D(5, 3, strides=2, padding="same", name="conv_2"),
        layers.ReLU(),
        layers.Flatten() if flatten else layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5),
        layers.Dense(6, activation="tanh", name="dense_1"),
        layers.Dense(2, name="dense_2"),
    )


def torch_cnn(flatten: Any = None, head: int = 80, padding: Any = None) -> Any:
    """Its counterpart in PyTorch."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.ZeroPad2d((0, 1, 0, 1)) if padding is None else nn.Identity(),
        nn.Conv2d(4, 5, 3, stride=2, padding=padding or 0),
        nn.ReLU(),
        *(flatten or [nn.Flatten()]),
        nn.Linear(head, 6),
        nn.Tanh(),
        nn.Linear(6, 2),
    )


def pooled() -> list[Any]:
    """Global average pooling in PyTorch."""
    from torch import nn

    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class Last:
    """Makes the module that permutes to channels last."""

    def __new__(cls) -> Any:
        from torch import nn

        class Permute(nn.Module):
            def forward(self, x: Any) -> Any:
                return x.permute(0, 2, 3, 1)

        return Permute()


def test_a_whole_cnn() -> None:
    assert_same_model(cnn(), torch_cnn(), image(8, 8, 3))
    assert_same_model(cnn(flatten=False), torch_cnn(pooled(), 5), image(8, 8, 3))


def test_flatten_channels_last() -> None:
    from torch import nn

    one, other = cnn(), torch_cnn([Last(), nn.Flatten()])
    weights.copy(one, other, flatten="channels_last")
    there, here = outputs(one, other, image(8, 8, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    weights.copy(one, other)  # the permutation is seen
    np.testing.assert_array_equal(outputs(one, other, image(8, 8, 3), first=True)[1], here)
    weights.copy(one, other, flatten="channels_first")  # reordered rows, and so another model
    assert np.abs(outputs(one, other, image(8, 8, 3), first=True)[1] - there).max() > 0.01


def test_flatten_in_a_functional_model() -> None:
    """Through a nested model, a Reshape, a BatchNormalization, and beside another input."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    picture, number = keras.Input((4, 5, 3)), keras.Input((2,))
    inner = keras.Sequential([keras.Input((4, 5, 3)), layers.Conv2D(2, 2), layers.ReLU()])
    flat = keras.ops.relu(layers.Reshape((-1,))(inner(picture)))
    flat = layers.BatchNormalization(epsilon=1e-5, momentum=0.9)(flat)
    out = layers.Dense(3)(layers.Concatenate()([number, flat]))
    one = randomised(keras.Model([picture, number], out))

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 2, 2), nn.BatchNorm1d(24), nn.Linear(26, 3)

        def forward(self, picture: Any, number: Any) -> Any:
            flat = self.bn(self.conv(picture).relu().flatten(1))
            return self.fc(torch.cat([number, flat], 1))

    other = Module().eval()
    weights.copy(one, other)
    x, more = image(4, 5, 3), image(2)
    there = keras.ops.convert_to_numpy(one([x, more], training=False))
    here = other(torch.from_numpy(np.moveaxis(x, -1, 1)), torch.from_numpy(more))
    np.testing.assert_allclose(here.detach(), there, rtol=1e-4, atol=1e-5)


def test_flatten_in_one_nested_model_and_dense_in_another() -> None:
    import keras
    from keras import layers
    from torch import nn

    body = keras.Sequential([keras.Input((4, 5, 3)), layers.Conv2D(2, 2), layers.Flatten()])
    head = keras.Sequential([keras.Input((24,)), layers.Dense(3, name="fc")], name="head")
    picture = keras.Input((4, 5, 3))
    one = randomised(keras.Model(picture, head(layers.Dropout(0.5)(body(picture)))))
    assert_same_model(
        one, nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(24, 3)), image(4, 5, 3)
    )


@pytest.mark.parametrize("flatten", ["channels_last", "channels_first"])
def test_keras_channels_first(flatten: str) -> None:
    """Keras's Flatten puts the channels last itself if it is told that they come first."""
    from keras import layers
    from torch import nn

    one = keras_model(
        (3, 4, 5),
        layers.Conv2D(2, 2, data_format="channels_first"),
        layers.Flatten(data_format=flatten),
        layers.Dense(3),
    )
    other = nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(24, 3))
    weights.copy(one, other)
    rows = one.layers[-1].kernel.numpy()
    if flatten == "channels_first":
        rows = rows.reshape(3, 4, 2, 3).transpose(2, 0, 1, 3).reshape(24, 3)
    np.testing.assert_array_equal(other[2].weight.detach(), rows.T)


def test_a_generator_that_makes_an_image_of_features() -> None:
    from keras import layers
    from torch import nn

    one = keras_model(
        (6,),
        layers.Dense(24),
        layers.BatchNormalization(epsilon=1e-5, momentum=0.9),
        layers.LeakyReLU(),
        layers.Reshape((2, 3, 4)),
        layers.Conv2DTranspose(3, 4, 2, "same"),
    )
    other = nn.Sequential(
        nn.Linear(6, 24),
        nn.BatchNorm1d(24),
        nn.LeakyReLU(0.3),
        nn.Unflatten(1, (4, 2, 3)),
        nn.ConvTranspose2d(4, 3, 4, 2, 1),
    )
    assert_same_model(one, other, image(6))


def test_sequences_need_no_reordering() -> None:
    """An Embedding gives (steps, features) in both frameworks, and both flatten it alike."""
    from keras import layers
    from torch import nn

    one = keras_model((7,), layers.Embedding(9, 4), layers.Flatten(), layers.Dense(3))
    other = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(28, 3))
    weights.copy(one, other)
    there, here = outputs(one, other, np.arange(14).reshape(2, 7) % 9, first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_a_subclassed_model_that_asks_for_numbers_must_be_told() -> None:
    """It cannot be called on symbols, so nobody sees what it flattens; without that it is seen."""
    import keras
    from keras import layers, ops
    from torch import nn

    class Model(keras.Model):
        def __init__(self, asks: bool = True) -> None:
            super().__init__()
            self.conv, self.flat = layers.Conv2D(3, 2), layers.Flatten()
            self.fc, self.asks = layers.Dense(2, name="fc"), asks

        def call(self, x: Any) -> Any:
            if self.asks and not np.all(np.isfinite(ops.convert_to_numpy(x))):
                raise ValueError("x is not finite")
            return self.fc(self.flat(self.conv(x)))

    one, x = Model(), image(4, 5, 2)
    with pytest.raises(WeightsError, match="is not built; call the model on data once"):
        weights.copy(one, nn.Linear(2, 2))
    one(x)
    randomised(one)
    other = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(WeightsError, match=r"no graph.*flatten=\{'fc': \(3, 4, 3\)\}"):
        weights.copy(one, other)
    weights.copy(one, other, flatten={"fc": (3, 4, 3)})
    there, here = outputs(one, other, x, first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match=r"flatten: no layer .* 'fx'; they are "):
        weights.copy(one, other, flatten={"fx": (3, 4, 3)})
    with pytest.raises(WeightsError, match="does not fit a flattened image of 27 numbers"):
        weights.copy(one, other, flatten={"fc": (3, 3, 3)})
    one = Model(asks=False)  # on JAX a model that failed on symbols does not keep its input's shape
    one(x)
    assert_same_model(randomised(one), other, x)


# What is refused


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


def test_weights_of_a_derived_class_are_not_lost() -> None:
    """A class derived from a known one may hold more weights; they are not left out silently."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Normed(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)

    class Scaled(nn.LSTM):
        def __init__(self) -> None:
            super().__init__(3, 4)
            self.scale = nn.Parameter(torch.ones(4))

    for module, extra in ((Normed(), r"norm\.weight, norm\.bias, norm\.run"), (Scaled(), "scale")):
        with pytest.raises(WeightsError, match=rf"cannot be carried over \({extra}"):
            weights.copy(module, module)
    x = keras.Input((7, 8))
    for options, message in [
        ({"use_gate": True}, r"cannot be carried over \(gate/kernel, gate/bias\)"),
        ({"sliding_window": 2}, "has sliding_window=2, which PyTorch's does not have"),
    ]:
        try:
            layer = layers.MultiHeadAttention(2, 4, **options)
        except ValueError:  # of an earlier Keras
            continue
        one = randomised(keras.Model(x, layer(x, x)))
        other = nn.MultiheadAttention(8, 2)
        unchanged(lambda one=one, other=other: weights.copy(one, other), other, message)


def test_tied_weights_take_one_value_only() -> None:
    """Keras's Dense holds another kernel than its Embedding, PyTorch's share one."""
    from keras import layers
    from torch import nn

    one = keras_model(
        (7,), layers.Embedding(11, 4, name="emb"), layers.Dense(11, use_bias=False, name="out")
    )
    other = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11, bias=False))
    other[1].weight = other[0].weight
    text = (
        r"PyTorch 0 \(Embedding\) and PyTorch 1 \(Linear\) share their weight, but those of "
        r"Keras emb \(Embedding\) and Keras out \(Dense\) differ"
    )
    unchanged(lambda: weights.copy(one, other), other, text)
    one.layers[-1].kernel.assign(one.layers[0].embeddings.numpy().T)
    weights.copy(one, other)
    np.testing.assert_array_equal(other[0].weight.detach(), one.layers[0].embeddings.numpy())


def test_own_weights_that_are_tied_take_one_value_only() -> None:
    from torch import nn

    layers, modules = zip(own_scale(4, "a"), own_scale(4, "b"), strict=True)
    one, other = keras_model((4,), *layers), nn.Sequential(*modules)
    other[1].scale = other[0].scale
    text = (
        r"PyTorch 0.scale .* and PyTorch 1.scale .* share their scale, but those of Keras a/scale"
    )
    unchanged(lambda: weights.copy(one, other), other, text)
    one.layers[1].scale.assign(one.layers[0].scale)
    weights.copy(one, other)


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


def test_an_explicit_map() -> None:
    from keras import layers
    from torch import nn

    one = keras_model((3,), layers.Dense(3, name="a"), layers.Dense(3, name="b"))
    other = nn.ModuleDict({"second": nn.Linear(3, 3), "first": nn.Linear(3, 3)})
    assert weights.copy(one, other, layers={"a": "first", "b": "second"}) == [
        ("a", "first"),
        ("b", "second"),
    ]
    np.testing.assert_array_equal(other["first"].weight.detach(), one.layers[0].kernel.numpy().T)
    for layers_, message in [
        ({"a": "first", "b": "secnd"}, "called 'secnd'; did you mean 'second'"),
        ({"a": "first"}, r"leaves out Keras b \(Dense\)"),
        ({"a": "first", "b": "first"}, "names 'first' twice"),
    ]:
        unchanged(lambda given=layers_: weights.copy(one, other, layers=given), other, message)


def test_within_one_framework_and_between_dtypes() -> None:
    import torch
    from torch import nn

    one, two = cnn(), cnn()
    for variable in two.weights:
        variable.assign(np.zeros(variable.shape))
    weights.copy(one, two)
    for mine, theirs in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    first, second = torch_cnn().double(), torch_cnn().bfloat16()
    weights.copy(one, first)
    weights.copy(first, second)
    assert second[0].weight.dtype == torch.bfloat16
    assert first[0].weight.to(torch.bfloat16).equal(second[0].weight)
    weights.copy(second, two)
    assert two.layers[0].kernel.numpy().dtype == np.float32
    large, half = nn.Linear(1, 1), nn.Linear(1, 1).half()
    nn.init.constant_(large.weight, 1e6)
    unchanged(lambda: weights.copy(large, half), half, "holds 1e.06, beyond float16 of PyTorch")
    wave = nn.Linear(1, 1, dtype=torch.complex64)
    unchanged(lambda: weights.copy(wave, half), half, "is complex64, PyTorch .* float16; wanted re")


# Files


def test_a_file_carries_a_model_both_ways(tmp_path: Path) -> None:
    one, other, x = cnn(), torch_cnn(), image(8, 8, 3)
    weights.save(one, tmp_path / "keras.safetensors")
    names = load_file(tmp_path / "keras.safetensors").keys()
    assert {"0.conv_1/kernel", "1.bn_1/moving_variance", "4.dense_2/bias"} <= names
    weights.load(tmp_path / "keras.safetensors", other)
    there, here = outputs(one, other, x, first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    weights.save(other, tmp_path / "torch.safetensors")
    again = cnn()
    for variable in again.weights:
        variable.assign(np.zeros(variable.shape))
    strided = torch_cnn(padding=1)
    with pytest.raises(WeightsError, match="PyTorch 4 pads"):
        weights.load(tmp_path / "keras.safetensors", strided)
    weights.load(tmp_path / "torch.safetensors", again)
    for mine, theirs in zip(one.weights, again.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    from torch import nn

    module, path = nn.Linear(2, 3), tmp_path / "a"
    with pytest.raises(WeightsError, match="a: no such file"):
        weights.load(path, module)
    weights.save(module, path)
    content, tensors = path.read_bytes(), load_file(path)
    for keep in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(WeightsError, match="a: truncated or not a safetensors file"):
            weights.load(path, module)
    header = {"format": "segact-weights 1", "layers": "[]"}
    known = {"kind": "dense", "framework": "Keras", "name": "model", "class_name": "Dense"}
    layer = {**known, "settings": {}, "rows": None, "columns": None, "unsure": []}
    for metadata, message in [
        (None, "a safetensors file, but not one of parity.weights"),
        ({"format": "segact-parity 1"}, "a safetensors file, but not one of parity.weights"),
        ({**header, "format": "segact-weights 2"}, "weights format 2, this is format 1"),
        ({**header, "layers": "{"}, "the layers in the file's header cannot be read"),
        ({**header, "layers": json.dumps([known])}, "header cannot be read"),
        ({**header, "layers": json.dumps([{**layer, "kind": "capsule"}])}, "header cannot be read"),
        ({**header, "layers": "null"}, "header cannot be read"),
        ({**header, "layers": "[" * 100_000}, "header cannot be read"),
        ({**header, "layers": "[3]"}, "header cannot be read: all of layer 0"),
        *[
            ({**header, "layers": json.dumps([{**layer, **changed}])}, rf"read: {field} of layer 0")
            for changed, field in [
                ({"settings": None}, "settings"),
                ({"kind": "batch_normalization"}, r"settings\['epsilon'\]"),
                ({"kind": "batch_normalization", "settings": {"epsilon": ""}}, "settings.*"),
                ({"kind": "conv"}, r"settings\['kernel_size'\]"),
                ({"rows": "abc"}, "rows"),
                ({"rows": [[[2, 1], [0, 0]]]}, "rows"),
                ({"columns": [[2]]}, "columns"),
                ({"unsure": None}, "unsure"),
                ({"name": 3}, "name"),
            ]
        ],
        ({**header, "layers": json.dumps([{**layer, "rows": [[[10**12], [0]]]}])}, "does not fit"),
        (header, "0.model/.* belongs to none of the layers"),
        *[
            (
                {**header, "layers": json.dumps([layer]), "calls": calls},
                "the calls in the file's head",
            )
            for calls in ("{", "[]", "[" * 100_000, '{"order": [], "ends": [1, 1]}')
        ],
    ]:
        save_file(tensors, path, metadata=metadata)
        unchanged(lambda: weights.load(path, module), module, message)
    with pytest.raises(WeightsError, match="no such folder"):
        weights.save(module, tmp_path / "absent" / "a")
    with pytest.raises(WeightsError, match="is a folder; wanted the path of a file"):
        weights.save(module, tmp_path)
    for name in ("a.keras", "a.weights.h5", "a.PTH"):
        with pytest.raises(WeightsError, match=r"another suffix, such as \.safetensors"):
            weights.save(module, tmp_path / name)
    for action in (lambda: weights.save(module, None), lambda: weights.load(module, "a")):
        with pytest.raises(TypeError, match=r"path is a .*; wanted the path of a file"):
            action()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


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
