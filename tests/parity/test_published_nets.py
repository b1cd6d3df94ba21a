"""Nets as they are published, ported whole, both ways: weights carried over, and held to agree."""

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

from keras import layers  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from parity import assert_model_parity, weights  # noqa: E402


def shuffled(model: Any, rng: np.random.Generator) -> None:
    """Weights that are no defaults: means, variances and biases, too."""
    for weight in model.weights:
        if "seed" not in weight.path:
            value = rng.normal(0, 0.2, weight.shape)
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)


def held_both_ways(keras_model: Any, torch_model: Any, x: Any, rng: np.random.Generator) -> None:
    """Keras's weights into the port, and then back into a Keras model that had others."""
    shuffled(keras_model, rng)
    pairs = weights.suggest(keras_model, torch_model)
    weights.copy(keras_model, torch_model, layers=pairs, settings="copy")
    assert_model_parity(keras_model, torch_model, x, layers=pairs)
    shuffled(keras_model, rng)
    back = {torch_name: keras_name for keras_name, torch_name in pairs.items()}
    weights.copy(torch_model, keras_model, layers=back, settings="copy")
    assert_model_parity(keras_model, torch_model, x, layers=pairs)


def pets_in_keras(widths: tuple[int, ...]) -> Any:
    """The U-Net of Keras's tutorial on the Oxford pets: separable convolutions, residuals."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(widths[0], 3, strides=2, padding="same")(inputs)
    x = before = layers.Activation("relu")(layers.BatchNormalization()(x))
    for width in widths[1:]:
        for _ in range(2):
            x = layers.SeparableConv2D(width, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = before = layers.add([x, layers.Conv2D(width, 1, strides=2, padding="same")(before)])
    for width in widths[::-1]:
        for _ in range(2):
            x = layers.Conv2DTranspose(width, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        x = before = layers.add(
            [x, layers.Conv2D(width, 1, padding="same")(layers.UpSampling2D(2)(before))]
        )
    return keras.Model(inputs, layers.Conv2D(3, 3, activation="softmax", padding="same")(x))


class Down(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        blocks = []
        for channels in (before, width):
            depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            blocks += [nn.ReLU(), depthwise, nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width)]
        self.body, self.residual = nn.Sequential(*blocks), nn.Conv2d(before, width, 1, stride=2)

    def forward(self, x: Any) -> Any:
        pooled = F.max_pool2d(F.pad(self.body(x), (0, 1, 0, 1), value=-torch.inf), 3, 2)
        return pooled + self.residual(x)


class Up(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        blocks = []
        for channels in (before, width):
            transposed = nn.ConvTranspose2d(channels, width, 3, padding=1)
            blocks += [nn.ReLU(), transposed, nn.BatchNorm2d(width)]
        self.body, self.residual = nn.Sequential(*blocks), nn.Conv2d(before, width, 1)

    def forward(self, x: Any) -> Any:
        twice = (F.interpolate(one, scale_factor=2) for one in (self.body(x), x))
        grown, before = twice
        return grown + self.residual(before)


class Pets(nn.Module):
    """The port, with the padding that Keras calls "same" in `forward`."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, widths[0], 3, stride=2)
        self.norm = nn.BatchNorm2d(widths[0])
        self.down = nn.Sequential(*[Down(*pair) for pair in pairwise(widths)])
        back = (widths[-1], *widths[::-1])
        self.up = nn.Sequential(*[Up(*pair) for pair in pairwise(back)])
        self.last = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.norm(self.first(F.pad(x, (0, 1, 0, 1)))))
        return self.last(self.up(self.down(x))).softmax(1)


def test_the_unet_of_the_oxford_pets(rng: np.random.Generator) -> None:
    widths = (8, 12, 16)
    x = rng.uniform(size=(2, 32, 32, 3)).astype("float32")
    held_both_ways(pets_in_keras(widths), Pets(widths).eval(), x, rng)


def basic_unet_in_keras(features: tuple[int, ...]) -> Any:
    def two(x: Any, width: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same")(x)
            x = layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)
            x = layers.LeakyReLU(negative_slope=0.1)(x)
        return x

    inputs = keras.Input((32, 32, 1))
    skips = [two(inputs, features[0])]
    for width in features[1:5]:
        skips.append(two(layers.MaxPooling2D(2)(skips[-1]), width))
    x = skips.pop()
    for width in (*features[3:0:-1], features[5]):
        skip = skips.pop()
        half = x.shape[-1] // 2 if skips else x.shape[-1]
        x = layers.Conv2DTranspose(half, 2, strides=2)(x)
        x = two(layers.concatenate([skip, x]), width)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


@pytest.mark.needs("monai")
def test_monai_basic_unet(rng: np.random.Generator) -> None:
    from monai.networks.nets import BasicUNet

    features = (4, 4, 8, 16, 32, 4)
    torch_model = BasicUNet(2, 1, 2, features=features).eval()
    x = rng.normal(size=(2, 32, 32, 1)).astype("float32")
    held_both_ways(basic_unet_in_keras(features), torch_model, x, rng)


def resnet18_unet_in_keras() -> Any:
    def norm(x: Any, active: bool = True) -> Any:
        x = layers.BatchNormalization(epsilon=1e-5, momentum=0.9)(x)
        return layers.ReLU()(x) if active else x

    def conv(x: Any, width: int, size: int, stride: int = 1) -> Any:
        if size > 1:
            x = layers.ZeroPadding2D(size // 2)(x)
        return layers.Conv2D(width, size, strides=stride, use_bias=False)(x)

    def block(x: Any, width: int, stride: int) -> Any:
        y = norm(conv(norm(conv(x, width, 3, stride)), width, 3), active=False)
        if stride > 1:
            x = norm(conv(x, width, 1, stride), active=False)
        return layers.ReLU()(layers.add([y, x]))

    inputs = keras.Input((64, 64, 3))
    x = norm(conv(inputs, 64, 7, 2))
    skips = [x]
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = block(block(x, width, stride), width, 1)
        skips.append(x)
    x = skips.pop()
    for width in (256, 128, 64, 32, 16):
        x = layers.UpSampling2D(2)(x)
        if skips:
            x = layers.concatenate([x, skips.pop()])
        for _ in range(2):
            x = norm(conv(x, width, 3))
    x = layers.Conv2D(1, 3, padding="same")(x)
    return keras.Model(inputs, x)


@pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None,
    reason="not installed: segmentation_models_pytorch",
)
def test_smp_unet(rng: np.random.Generator) -> None:
    import segmentation_models_pytorch as smp

    torch_model = smp.Unet("resnet18", encoder_weights=None, classes=1).eval()
    x = rng.uniform(size=(1, 64, 64, 3)).astype("float32")
    held_both_ways(resnet18_unet_in_keras(), torch_model, x, rng)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.states = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(12, 5)

    def forward(self, words: Any) -> Any:
        return self.tags(self.states(self.words(words))[0])


def test_a_tagger(rng: np.random.Generator) -> None:
    keras_model = keras.Sequential(
        [
            layers.Input((7,), dtype="int32"),
            layers.Embedding(50, 8),
            layers.Bidirectional(layers.LSTM(6, return_sequences=True)),
            layers.Dense(5),
        ]
    )
    words = rng.integers(0, 50, (4, 7)).astype("int32")
    held_both_ways(keras_model, Tagger().eval(), words, rng)
