"""Weights carried between Keras and PyTorch: every kind of layer, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cnn import cnn, torch_cnn
from ported import assert_same_model, image, keras_model, outputs, own_scale, randomised, unchanged
from safetensors.numpy import load_file, save_file

from parity import weights
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
