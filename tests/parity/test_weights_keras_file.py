"""`weights.load` of a `.weights.h5` file of Keras into a PyTorch module."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ported import image, keras_model, outputs, randomised, unchanged

from parity import weights
from parity.weights import WeightsError
from parity.weights.keras_file import read_keras_file
from parity.weights.read import read

pytestmark = pytest.mark.needs("torch", "keras")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.weights.h5"


def assert_as_copied(one: Any, other: Any, path: Path, **options: Any) -> None:
    """Loaded from the file, the module has what `copy` puts into it, and the same pairs."""
    import torch

    one.save_weights(path)
    pairs = weights.copy(one, other, settings="ignore", layers=options.get("layers"))
    wanted = {key: value.clone() for key, value in other.state_dict().items()}
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.zero_()
    assert sorted(weights.load(path, other, **options)) == sorted(pairs)
    for key, value in other.state_dict().items():
        assert value.equal(wanted[key]) or key.endswith("num_batches_tracked"), key


def convolutional() -> tuple[Any, Any]:
    """All that is in order within its class, of which there are several in PyTorch's order; a
    nested model; what an optimizer and seeds hold."""
    from keras import layers
    from torch import nn

    encoder = keras_model(
        (8, 8, 3),
        *[layers.Conv2D(4, 3, padding="same", name=f"conv_{n}") for n in (1, 2)],
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5),
    )
    encoder.name = "encoder"
    one = keras_model(
        (8, 8, 3),
        encoder,
        layers.SeparableConv2D(6, 3, padding="same", name="separable"),
        layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
        layers.PReLU(shared_axes=[1, 2], name="slopes"),
        layers.Conv2DTranspose(5, 2, name="up"),
        layers.GroupNormalization(5, name="groups"),
        layers.Conv2D(6, 1, name="pixel"),
        *[layers.Dense(6, name=f"dense_{n}") for n in range(12)],
    )
    one.compile("sgd", "mse", metrics=["mae"])
    one.optimizer.build(one.trainable_variables[:2])
    other = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.PReLU(6),
        nn.ConvTranspose2d(6, 5, 2),
        nn.GroupNorm(5, 5),
        nn.Conv2d(5, 6, 1),
        *[nn.Conv2d(6, 6, 1) if n == 1 else nn.Linear(6, 6) for n in range(12)],
    )
    return randomised(one), other


def of_sequences() -> tuple[Any, Any]:
    from keras import layers
    from torch import nn

    embedded = layers.Embedding(9, 4, name="words")
    one = keras_model(
        (5,),
        embedded,
        layers.LSTM(6, return_sequences=True, name="forwards"),
        layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both"),
        layers.SimpleRNN(6, return_sequences=True, name="simple"),
        layers.LayerNormalization(name="norm"),
        layers.RMSNormalization(name="rms"),
        layers.TimeDistributed(layers.Dense(2, name="tags"), name="each"),
    )

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 4)
            self.forwards = nn.LSTM(4, 6, batch_first=True)
            self.both = nn.GRU(6, 3, batch_first=True, bidirectional=True)
            self.simple = nn.RNN(6, 6, batch_first=True)
            self.norm, self.rms = nn.LayerNorm(6), nn.RMSNorm(6)
            self.tags = nn.Linear(6, 2)

    return one, Tagger()


def of_attention() -> tuple[Any, Any]:
    import keras
    from keras import layers
    from torch import nn

    x = keras.Input((4, 6))
    y = layers.MultiHeadAttention(2, 3, dropout=0.1, name="first")(x, x)
    y = layers.MultiHeadAttention(2, 3, name="second")(y, y)
    one = randomised(keras.Model(x, layers.Dense(2, name="head")(y)))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.MultiheadAttention(6, 2) for _ in range(2))
            self.head = nn.Linear(6, 2)

    return one, Port()


def of_blocks() -> tuple[Any, Any]:
    """Subclassed, with layers as attributes, of which the file keeps no order, a list, and a weight
    of its own."""
    import keras
    from keras import layers
    from torch import nn

    class Block(layers.Layer):
        def __init__(self, name: str) -> None:
            super().__init__(name=name)
            self.upper, self.lower = layers.Dense(4, name="upper"), layers.Dense(4, name="lower")
            self.many = [layers.Dense(4) for _ in range(2)]

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(1, 4), name="scale")
            for layer in (self.upper, self.lower, *self.many):
                layer.build((None, 4))

        def call(self, x: Any) -> Any:
            for layer in (self.upper, self.lower, *self.many):
                x = layer(x)
            return x * self.scale

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.adapted = layers.Normalization()
            self.adapted.build((None, 4))
            self.blocks_1, self.blocks_2 = Block("a"), Block("b")
            self.out = layers.Dense(2, name="out")

        def call(self, x: Any) -> Any:
            return self.out(self.blocks_2(self.blocks_1(self.adapted(x))))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks_1, self.blocks_2 = self.block(), self.block()
            self.out = nn.Linear(4, 2)

        @staticmethod
        def block() -> nn.Module:
            import torch

            class Inner(nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.scale = nn.Parameter(torch.zeros(4))
                    self.upper, self.lower = nn.Linear(4, 4), nn.Linear(4, 4)
                    self.many = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

            return Inner()

    one = Model()
    one(image(4))
    return randomised(one), Port()


def test_convolutions(path: Path) -> None:
    assert_as_copied(*convolutional(), path)


def test_sequences(path: Path) -> None:
    assert_as_copied(*of_sequences(), path)


def test_attention(path: Path) -> None:
    assert_as_copied(*of_attention(), path)


def test_a_subclassed_model_with_blocks(path: Path) -> None:
    one, other = of_blocks()
    one.save_weights(path)
    pairs = dict(weights.load(path, other))
    assert pairs["a/upper"] == "blocks_1.upper"
    assert pairs["b/lower"] == "blocks_2.lower"
    for block, there in ((one.blocks_1, other.blocks_1), (one.blocks_2, other.blocks_2)):
        for name in ("upper", "lower"):
            kernel = np.array(getattr(block, name).kernel)
            np.testing.assert_array_equal(getattr(there, name).weight.detach().T, kernel)
        for mine, theirs in zip(block.many, there.many, strict=True):
            np.testing.assert_array_equal(theirs.weight.detach().T, np.array(mine.kernel))
        np.testing.assert_array_equal(there.scale.detach(), np.array(block.scale)[0])


@pytest.mark.parametrize("make", [convolutional, of_sequences, of_attention])
def test_the_layers_have_the_names_that_they_have_in_the_model(
    make: Callable[[], tuple[Any, Any]], path: Path
) -> None:
    """So that a map fits the file as it fits the model."""
    one, _ = make()
    one.save_weights(path)
    assert {entry.name for entry in read_keras_file(path)} == {layer.name for layer in read(one)}


def saved(path: Path, *layers: Any, size: tuple[int, ...] = (4,)) -> Path:
    keras_model(size, *layers).save_weights(path)
    return path


def test_the_outputs_agree(path: Path) -> None:
    from keras import layers
    from torch import nn

    one = keras_model(
        (6, 6, 3), layers.Conv2D(4, 3, name="conv"), layers.ReLU(), *dense("fc", units=2)
    )
    one.save_weights(path)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert weights.load(path, other) == [("conv", "0"), ("fc", "2")]
    there, here = outputs(one, other, image(6, 6, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def dense(*names: str, units: int = 4) -> list[Any]:
    from keras import layers

    return [layers.Dense(units, name=name) for name in names]


def named_linears(*names: str, size: int = 4) -> Any:
    from torch import nn

    return nn.ModuleDict({name: nn.Linear(size, size) for name in names})


def test_names_that_contradict_the_order(path: Path) -> None:
    saved(path, *dense("fc1", "fc2", "fc3"))
    other = named_linears("fc3", "fc1", "fc2")
    message = "disagrees with their names: by order Keras fc1 .* would go into PyTorch fc3"
    unchanged(lambda: weights.load(path, other), other, message)
    layers = {name: name for name in ("fc1", "fc2", "fc3")}
    with pytest.raises(WeightsError, match=r"'fc1': 'fc1',\n    'fc2': 'fc2',\n    'fc3': 'fc3'"):
        weights.load(path, other)
    assert dict(weights.load(path, other, layers=layers)) == layers


def test_a_module_that_holds_its_layers_in_another_order(path: Path) -> None:
    """The map that fits the shapes is printed, to paste."""
    from torch import nn

    saved(path, *dense("a"), *dense("b", units=3), *dense("c", units=4))
    other = nn.ModuleDict({"c": nn.Linear(3, 4), "b": nn.Linear(4, 3), "a": nn.Linear(4, 4)})
    with pytest.raises(WeightsError, match="another order; the map that fits") as refused:
        weights.load(path, other)
    text = str(refused.value)
    layers = eval(text[text.index("layers={") + len("layers=") :])
    assert layers == {name: name for name in "abc"}
    assert dict(weights.load(path, other, layers=layers)) == layers


def test_a_module_that_calls_its_layers_in_another_order(path: Path) -> None:
    """It is called, on fake tensors, and its calls are what counts, not how it holds its layers."""
    from torch import nn

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.second = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Any) -> Any:
            return self.last(self.second(self.first(x).tanh()).tanh())

    from keras import layers

    activated = [layers.Dense(4, "tanh", name=name) for name in "ab"]
    one, other = keras_model((4,), *activated, *dense("c")), Port()
    one.save_weights(path)
    assert weights.load(path, other) == [("a", "first"), ("b", "second"), ("c", "last")]
    there, here = outputs(one, other, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def branches(*names: str) -> tuple[Any, Any]:
    """Two layers of one shape side by side, the one first that Keras has second."""
    import keras
    import torch
    from torch import nn

    x = keras.Input((4,))
    outer, inner = dense(*names)
    one = randomised(keras.Model(x, keras.layers.Concatenate()([outer(x), inner(x)])))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            inner = self.inner(x)
            return torch.cat([self.outer(x), inner], -1)

    return one, Port()


def test_layers_side_by_side(path: Path) -> None:
    """As a shortcut's convolution: the file does not say which comes first, their names may."""
    one, other = branches("a", "b")
    one.save_weights(path)
    message = "PyTorch has inner and outer, of one shape, side by side, and the file does not say"
    unchanged(lambda: weights.load(path, other), other, message)
    weights.load(path, other, layers={"a": "outer", "b": "inner"})
    there, here = outputs(one, other, image(4), first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    one, other = branches("outer", "inner")
    one.save_weights(path)
    with pytest.raises(WeightsError, match="the map by names") as refused:
        weights.load(path, other)
    assert refused.value.layers == {"outer": "outer", "inner": "inner"}


def test_another_order_that_shapes_do_not_settle(path: Path) -> None:
    """No map is printed that might be wrong."""
    from torch import nn

    saved(path, *dense("a", "b", units=3), *dense("c"), size=(3,))
    other = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 3), nn.Linear(3, 3)])
    message = r"another order than the module's: PyTorch 0 \(Linear\) fits none that comes next"
    unchanged(lambda: weights.load(path, other), other, message)


def test_a_map_that_is_wrong(path: Path) -> None:
    saved(path, *dense("a", "b"))
    other = named_linears("a", "b")
    for layers, message in [
        ({"a": "a"}, "layers leaves out 'b' of the file"),
        ({"a": "a", "z": "b"}, r"the file has no 'z'; it has \['a', 'b'\]"),
        ({"a": "a", "b": "z"}, "no layer with weights is called 'z'"),
    ]:
        unchanged(lambda: weights.load(path, other, layers=layers), other, message)  # noqa: B023
    wide = named_linears("a", "b", size=5)
    with pytest.raises(WeightsError, match=r"a \(4, 4\) does not fit PyTorch a \(Linear, weight"):
        weights.load(path, wide, layers={"a": "a", "b": "b"})


def test_layers_that_could_go_to_several_or_to_none(path: Path) -> None:
    from keras import layers
    from torch import nn

    encoders = [keras_model((4,), *dense(name)) for name in ("x", "y")]
    for name, encoder in zip("pq", encoders, strict=True):
        encoder.name = name
    import keras

    given = keras.Input((4,))
    both = [encoder(given) for encoder in encoders]
    loose = layers.Dense(4, name="z")
    keras.Model(given, loose(layers.Add()(both))).save_weights(path)
    with pytest.raises(
        WeightsError, match=r"the file has z \(4, 4\), p/x \(4, 4\); wanted layers="
    ):
        weights.load(path, nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]))
    with pytest.raises(WeightsError, match=r"3 layers .* 2 in the module: q/y \(4, 4\) has no pa"):
        weights.load(path, named_linears("z", "x"))
    with pytest.raises(WeightsError, match=r"3 layers .* 4 in the module: PyTorch w .* has no pa"):
        weights.load(path, named_linears("z", "x", "y", "w"))
    with pytest.raises(WeightsError, match=r"BatchNorm1d.* fits no layer .* its kind it has nothi"):
        weights.load(path, nn.BatchNorm1d(4))


@pytest.mark.parametrize("scale", [True, False])
def test_a_normalization_that_has_gamma_or_beta_alone(scale: bool, path: Path) -> None:
    """Which of the two, the file does not say."""
    from keras import layers
    from torch import nn

    saved(path, layers.BatchNormalization(scale=scale, center=not scale, name="norm"))
    other = nn.BatchNorm1d(4)
    message = "norm of the file has one array for the gamma and beta of PyTorch model .*the Keras m"
    unchanged(lambda: weights.load(path, other), other, message)
    bare = layers.BatchNormalization(scale=False, center=False)
    saved(path, bare)
    weights.load(path, other)
    np.testing.assert_array_equal(other.running_var, np.array(bare.moving_variance))
    np.testing.assert_array_equal(other.weight.detach(), np.ones(4))


def test_a_gru_that_resets_before(path: Path) -> None:
    from keras import layers
    from torch import nn

    saved(path, layers.GRU(3, reset_after=False, name="rnn"), size=(5, 4))
    message = "rnn of the file is a GRU with reset_after=False, .*; wanted reset_after=True"
    other = nn.GRU(4, 3, batch_first=True)
    unchanged(lambda: weights.load(path, other), other, message)


def test_a_flattened_image_is_asked_for(path: Path) -> None:
    """The file does not say that the Dense gets one, nor in which order its rows then are."""
    from keras import layers
    from torch import nn

    one = keras_model((5, 4, 3), layers.Conv2D(6, 2), layers.Flatten(), *dense("fc", "head"))
    one.save_weights(path)
    other = nn.Sequential(nn.Conv2d(3, 6, 2), nn.Flatten(), nn.Linear(72, 4), nn.Linear(4, 4))
    message = r"fc of the file may get a flattened image.*wanted flatten=\{'fc': \(12, 6\)\} if so"
    unchanged(lambda: weights.load(path, other), other, message)
    weights.load(path, other, flatten={"fc": (12, 6)})
    there, here = outputs(one, other, image(5, 4, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    weights.load(path, other, flatten="channels_last")
    kernel = np.array(one.get_layer("fc").kernel)
    np.testing.assert_array_equal(other[2].weight.detach().T, kernel)

    saved(path, layers.Flatten(), *dense("first"), size=(4, 4, 3))
    other = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    message = r"wanted flatten=\{'first': \(height, width, channels\)\} if so"
    unchanged(lambda: weights.load(path, other), other, message)
    weights.load(path, other, flatten={"first": (4, 4, 3)})
    weights.load(path, nn.Sequential(nn.Linear(48, 4)))  # nothing flattens


def test_steps_that_are_flattened_are_no_image(path: Path) -> None:
    """No shape of an image is suggested, as the rows would be put in another order."""
    from keras import layers
    from torch import nn

    one = keras_model((5,), layers.Embedding(7, 6, name="body"), layers.Flatten(), *dense("fc"))
    one.save_weights(path)
    other = nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(30, 4))
    message = "fc of the file may get what body gives, flattened.*wanted flatten='channels_last'"
    unchanged(lambda: weights.load(path, other), other, message)
    weights.load(path, other, flatten="channels_last")
    ids = np.random.default_rng(1).integers(0, 7, (3, 5))
    there, here = outputs(one, other, ids, first=False)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_an_image_is_asked_for_after_a_branch_of_features(path: Path) -> None:
    """The layer before it in order is the last one of a squeeze and excitation."""
    import keras
    from keras import layers
    from torch import nn

    picture = keras.Input((5, 4, 3))
    x = layers.Conv2D(6, 2)(picture)
    gate = layers.Reshape((1, 1, 6))(layers.Dense(6)(layers.GlobalAveragePooling2D()(x)))
    out = layers.Dense(4, name="fc")(layers.Flatten()(layers.Multiply()([x, gate])))
    randomised(keras.Model(picture, out)).save_weights(path)

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate, self.fc = nn.Conv2d(3, 6, 2), nn.Linear(6, 6), nn.Linear(72, 4)

        def forward(self, x: Any) -> Any:
            x = self.conv(x)
            return self.fc((x * self.gate(x.mean((2, 3)))[..., None, None]).flatten(1))

    other = Port()
    message = r"fc of the file may get a flattened image.*flatten=\{'fc': \(12, 6\)\} if so"
    unchanged(lambda: weights.load(path, other), other, message)


def test_a_dense_after_a_normalization_of_flat_features_is_asked_for(path: Path) -> None:
    """Both are: the normalization gives as many features, in the order of the flattened image."""
    from keras import layers
    from torch import nn

    def of(kind: str) -> tuple[Any, Any]:
        own = {"name": "norm", "epsilon": 1e-5}
        return {
            "batch": lambda: (layers.BatchNormalization(**own), nn.BatchNorm1d(72)),
            "RMS": lambda: (layers.RMSNormalization(**own), nn.RMSNorm(72, eps=1e-5)),
            "PReLU": lambda: (layers.PReLU(name="norm"), nn.PReLU(72)),
        }[kind]()

    for kind in ("batch", "RMS", "PReLU"):
        before, after = of(kind)
        one = keras_model((5, 4, 3), layers.Conv2D(6, 2), layers.Flatten(), before, *dense("fc"))
        one.save_weights(path)
        other = nn.Sequential(nn.Conv2d(3, 6, 2), nn.Flatten(), after, nn.Linear(72, 4))
        named: dict[str, tuple[int, int]] = {}
        for name in ("norm", "fc"):
            message = rf"{name} of the file may get a flattened image.*\{{'{name}': \(12, 6\)\}}"
            options = {"flatten": {**named}} if named else {}
            unchanged(lambda o=other, k=options: weights.load(path, o, **k), other, message)
            named[name] = (12, 6)
        weights.load(path, other, flatten=named)
        there, here = outputs(one, other, image(5, 4, 3), first=True)
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_a_layer_of_many_channels_of_an_image_is_not_asked_for(path: Path) -> None:
    """It takes more than the convolution before it gives, but images."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    picture = keras.Input((5, 4, 3))
    x = layers.Conv2D(3, 1, name="conv")(picture)
    x = layers.Concatenate()([x, picture])
    x = layers.PReLU(shared_axes=[1, 2])(layers.GroupNormalization(2, epsilon=1e-5)(x))
    one = randomised(keras.Model(picture, layers.Dense(4, name="fc")(layers.Flatten()(x))))
    one.save_weights(path)

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.GroupNorm(2, 6)
            self.act, self.fc = nn.PReLU(6), nn.Linear(120, 4)

        def forward(self, x: Any) -> Any:
            x = self.act(self.norm(torch.cat([self.conv(x), x], 1)))
            return self.fc(x.flatten(1))

    other = Port()
    weights.load(path, other, flatten={"fc": (5, 4, 6)})
    there, here = outputs(one, other, image(5, 4, 3), first=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_a_flatten_in_a_function_that_a_module_holds(path: Path) -> None:
    from functools import partial

    import torch
    from keras import layers
    from torch import nn

    class Lambda(nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Any) -> Any:
            return self.function(x)

    saved(path, layers.Conv2D(6, 2), layers.Flatten(), *dense("fc"), size=(5, 4, 3))
    for function in (lambda x: x.flatten(1), partial(torch.flatten, start_dim=1)):
        other = nn.Sequential(nn.Conv2d(3, 6, 2), Lambda(function), nn.Linear(72, 4))
        message = "fc of the file may get a flattened image"
        unchanged(lambda o=other: weights.load(path, o), other, message)


def test_an_image_that_a_dense_makes_is_asked_for(path: Path) -> None:
    from keras import layers
    from torch import nn

    fc, shape, up = layers.Dense(36, name="fc"), layers.Reshape((3, 4, 3)), layers.Conv2D(5, 2)
    saved(path, fc, shape, up)
    other = nn.Sequential(nn.Linear(4, 36), nn.Unflatten(1, (3, 3, 4)), nn.Conv2d(3, 5, 2))
    message = "an image of 3 channels may be made from the output of fc of the file"
    unchanged(lambda: weights.load(path, other), other, message)
    weights.load(path, other, flatten="channels_last")


def test_there_are_no_settings_to_copy(path: Path) -> None:
    from torch import nn

    saved(path, *dense("fc"))
    for given in ("check", "ignore"):
        weights.load(path, nn.Linear(4, 4), settings=given)
    with pytest.raises(WeightsError, match="holds no settings to copy; wanted settings='check'"):
        weights.load(path, nn.Linear(4, 4), settings="copy")


def test_a_keras_model_loads_it_itself(path: Path) -> None:
    saved(path, *dense("fc"))
    with pytest.raises(WeightsError, match=r"wanted model.load_weights"):
        weights.load(path, keras_model((4,), *dense("fc")))


def test_files_of_older_versions(path: Path) -> None:
    """Without names, which Keras 3 did not write at first; of Keras 2, which are another format."""
    import h5py
    from torch import nn

    saved(path, *dense("a", "b"))
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, one: one.attrs.pop("name", None) and None)
        del file["vars"]
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert weights.load(path, other) == [("dense", "0"), ("dense_1", "1")]
    with h5py.File(path, "a") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    assert weights.load(path, other) == [("dense", "0"), ("dense_1", "1")]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["dense"]
    with pytest.raises(
        WeightsError, match=r"in the format of Keras 2,.*; wanted the Keras model i"
    ):
        weights.load(path, nn.Linear(4, 4))


def test_bfloat16(path: Path) -> None:
    from keras import layers
    from torch import nn

    saved(path, layers.Dense(4, dtype="bfloat16", name="fc"))
    other = nn.Linear(4, 4)
    weights.load(path, other)
    assert (other.weight.detach().numpy().view(np.uint32) & 0xFFFF == 0).all()
    assert other.weight.abs().max() > 0.1


def _damage(path: Path, how: str) -> None:
    import h5py

    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "foreign":
        path.write_bytes(b"PK" * 500)
    elif how == "empty":
        path.write_bytes(b"")
    if how in ("truncated", "foreign", "empty"):
        return
    with h5py.File(path, "a") as file:
        group = file["layers/dense"]
        if how == "hdf5 of others":
            del file["layers"], file["vars"]
            file["numbers"] = np.ones(3)
        elif how == "no arrays":
            del group["vars/0"], group["vars/1"]
        elif how == "soft link":
            group["more"] = h5py.SoftLink("/layers")
        elif how == "external link":
            with h5py.File(path.with_name("other.h5"), "w") as other:
                other["x"] = np.ones((4, 4), np.float32)
            del group["vars/0"]
            group["vars/0"] = h5py.ExternalLink("other.h5", "/x")
        elif how == "circle":
            group["more"] = file["layers"]
        elif how == "text":
            del group["vars/0"]
            group["vars/0"] = "text"
        elif how == "huge":
            del group["vars/0"]
            group["vars"].create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(64, 64))
        elif how == "numbered otherwise":
            group["vars"].move("0", "kernel")
        elif how == "group for array":
            del group["vars/0"]
            group["vars"].create_group("0")


@pytest.mark.parametrize(
    "how",
    [
        *("truncated", "foreign", "empty", "hdf5 of others", "no arrays", "soft link", "circle"),
        *("external link", "text", "huge", "numbered otherwise", "group for array"),
    ],
)
def test_damaged_and_foreign_files(how: str, path: Path) -> None:
    saved(path, *dense("fc"))
    _damage(path, how)
    from torch import nn

    other = nn.Linear(4, 4)
    message = r"model.weights.h5: (truncated or not a file of save_weights|holds no weights of Ker)"
    unchanged(lambda: weights.load(path, other), other, message)
    with pytest.raises(WeightsError) as refused:
        weights.load(path, other)
    assert "\n" not in str(refused.value)


def test_neither_keras_nor_a_backend_is_imported(path: Path) -> None:
    """A fresh process that cannot import Keras reads the file into a module."""
    saved(path, *dense("a", "b"))
    code = (
        "import sys\n"
        "for name in ('keras', 'tensorflow', 'jax'):\n"
        "    sys.modules[name] = None\n"
        "from torch import nn\n"
        "from parity import weights\n"
        "other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        f"print(weights.load({str(path)!r}, other))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[('a', '0'), ('b', '1')]\n"


def test_a_keras_file_without_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are not known then, so it must be said that they are not looked at."""
    from torch import nn

    path = tmp_path / "model.keras"
    one, other = (
        keras_model((4,), *dense("a", "b")),
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
    )
    one.save(path)
    kernel = np.array(one.get_layer("b").kernel)
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(WeightsError, match=r"needs Keras, which is .*settings='ignore'"):
        weights.load(path, other)
    assert weights.load(path, other, settings="ignore") == [("a", "0"), ("b", "1")]
    np.testing.assert_array_equal(other[1].weight.detach().T, kernel)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(WeightsError, match=r"model.keras: truncated or not a file of save_weights"):
        weights.load(path, other, settings="ignore")


def test_h5py_is_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(path, *dense("a"))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match="needs h5py, which is not installed; wanted h5py"):
        read_keras_file(path)
