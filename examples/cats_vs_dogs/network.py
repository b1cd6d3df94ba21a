"""The networks, each twice: same layers, same initial weights, one linear output.

`convnet` is the write-up's, F. Chollet's small one. `vgg16` and `inception_v3` are a frozen
convolutional base, from keras.applications and from torchvision, with the convnet's dense layers.
"""

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from examples.common.runs import RunError
from parity import weights
from parity.common.arrays import Array
from parity.weights.layer import KERAS, PYTORCH, Layer
from parity.weights.read import assign, read

CHANNELS = (32, 64, 128, 128)
HIDDEN = 512
# The preprocessing of the bases, x * scale + offset for x in [0, 1], by the source of the weights.
_CAFFE = (255.0, (-103.939, -116.779, -123.68))  # for blue, green and red, in this order
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AROUND_0 = (2.0, -1.0)


class BaseError(RunError):
    """A pretrained base that cannot be loaded."""


def build(options: Any) -> Any:
    """The network of a run, in its framework, with its initial weights.

    Raises `BaseError` if the weights of a base cannot be loaded.
    """
    make = keras_network if options.framework == "keras" else torch_network
    source = preprocessing(options)
    network = make(options.model, options.size, options.dropout, source, options.base_weights)
    initialise(network, options)
    return network


def preprocessing(options: Any) -> str:
    """Which preprocessing the weights of the base need: "keras", "torchvision" or neither."""
    if options.model == "convnet" or options.base_weights == "random":
        return ""
    if options.base_weights == "imagenet":
        return "keras" if options.framework == "keras" else "torchvision"
    return "keras" if _made_by(Path(options.base_weights)) == KERAS else "torchvision"


def _made_by(path: Path) -> str:
    """The framework of the model whose weights a file of `parity.weights.save` holds."""
    if not path.is_file():
        raise BaseError(f"--base-weights {path}: no such file; wanted imagenet, random or a file")
    try:
        with safe_open(path, framework="numpy") as file:
            return str(json.loads((file.metadata() or {})["layers"])[0]["framework"])
    except (SafetensorError, OSError, KeyError, IndexError, ValueError) as error:
        raise BaseError(f"--base-weights {path}: not written by parity.weights.save") from error


# Keras


def keras_network(
    model: str, size: int, dropout: float, source: str = "", base_weights: str = "random"
) -> Any:
    """Images (N, size, size, 3) to raw outputs (N, 1)."""
    import keras
    from keras import layers

    image = layers.Input((size, size, 3))
    if model == "convnet":
        x = image
        for channels in CHANNELS:
            x = layers.Conv2D(channels, 3, activation="relu")(x)
            x = layers.MaxPooling2D(2)(x)
    else:
        base = _keras_base(model, size, base_weights)
        x = base(_keras_preprocessed(image, model, source), training=False)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(HIDDEN, activation="relu")(x)
    # float32 also in mixed precision: a raw output of 16 has to be exact here
    return keras.Model(image, layers.Dense(1, dtype=keras.config.floatx())(x), name=model)


def _keras_base(model: str, size: int, base_weights: str) -> Any:
    import keras

    makers = {"vgg16": keras.applications.VGG16, "inception_v3": keras.applications.InceptionV3}
    asked = "imagenet" if base_weights == "imagenet" else None
    try:
        base = makers[model](include_top=False, weights=asked, input_shape=(size, size, 3))
    except Exception as error:  # a download fails in many ways
        if asked is None:
            raise
        raise _not_had(model, error) from error
    base.trainable = False
    return base


def _keras_preprocessed(image: Any, model: str, source: str) -> Any:
    from keras import layers, ops

    flipped, scale, offset = _affine(model, source)
    if flipped:
        image = ops.flip(image, axis=-1)
    return layers.Rescaling(scale, offset)(image) if source else image


# PyTorch


def torch_network(
    model: str, size: int, dropout: float, source: str = "", base_weights: str = "random"
) -> Any:
    """Images (N, 3, size, size) to raw outputs (N, 1)."""
    from torch import nn

    parts: list[tuple[str, Any]] = []
    if model == "convnet":
        for number, (before, after) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False), 1):
            parts += [
                (f"conv_{number}", nn.Conv2d(before, after, 3)),
                (f"relu_{number}", nn.ReLU()),
                (f"pool_{number}", nn.MaxPool2d(2)),
            ]
    else:
        parts += [("preprocessed", _torch_preprocessing(model, source))] if source else []
        parts.append(("base", _torch_base(model, base_weights)))
    features = math.prod(_features(nn.Sequential(OrderedDict(parts)), size))
    parts += [
        ("flatten", nn.Flatten()),
        ("dropout", nn.Dropout(dropout)),
        ("dense_1", nn.Linear(features, HIDDEN)),
        ("relu", nn.ReLU()),
        ("dense_2", nn.Linear(HIDDEN, 1)),
    ]
    return nn.Sequential(OrderedDict(parts))


def _torch_base(model: str, base_weights: str) -> Any:
    from torch import nn

    try:
        from torchvision import models
    except Exception as error:  # without its compiled part it raises errors of its own
        raise BaseError(f"--model {model}: torchvision cannot be imported ({error})") from error
    asked = "DEFAULT" if base_weights == "imagenet" else None
    options = {} if model == "vgg16" else {"transform_input": False, "init_weights": False}
    try:
        whole = getattr(models, model)(weights=asked, **options)
    except Exception as error:  # a download fails in many ways
        if asked is None:
            raise
        raise _not_had(model, error) from error
    if model == "vgg16":
        base = whole.features
    else:
        tail = ("AuxLogits", "avgpool", "dropout", "fc")
        kept = [(name, part) for name, part in whole.named_children() if name not in tail]
        base = nn.Sequential(OrderedDict(kept))
    return base.requires_grad_(False).eval()


def _torch_preprocessing(model: str, source: str) -> Any:
    import torch
    from torch import nn

    flipped, scale, offset = _affine(model, source)
    columns = [torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (scale, offset)]

    class Preprocessing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, column in zip(("scale", "offset"), columns, strict=True):
                self.register_buffer(name, column)

        def forward(self, image: Any) -> Any:
            return (image.flip(1) if flipped else image) * self.scale + self.offset

    return Preprocessing()


# Both


def _affine(model: str, source: str) -> tuple[bool, Any, Any]:
    """The preprocessing of the base: whether blue comes first, then scale and offset."""
    if source == "keras" and model == "vgg16":
        return True, *_CAFFE
    if source == "torchvision":
        mean, spread = (np.array(v) for v in _IMAGENET)
        return False, (1 / spread).tolist(), (-mean / spread).tolist()
    return False, *_AROUND_0


def _not_had(model: str, error: Exception) -> BaseError:
    return BaseError(
        f"--model {model}: the ImageNet weights cannot be had ({error}); --base-weights random, or "
        "a file that parity.weights.save wrote"
    )


def _features(before: Any, size: int) -> tuple[int, int, int]:
    """Channels, height and width of the features that PyTorch's network flattens."""
    import torch

    with torch.no_grad():
        _, *shape = before.eval()(torch.zeros(1, 3, size, size)).shape
    before.train()
    channels, height, width = shape
    return channels, height, width


def initialise(network: Any, options: Any) -> None:
    """Give every layer its initial weights, the same numbers in both frameworks.

    Glorot uniform with biases of 0, as in Keras; in a random base He uniform, so that the signal
    does not vanish over many layers. (The layers of the base of inception_v3 have another order in
    each framework.) A base with pretrained weights keeps them, or gets those of a file.
    """
    generator = np.random.default_rng((options.seed, 0, 2))
    layers = read(network)
    head = layers if options.model == "convnet" else layers[-2:]
    based = layers[: len(layers) - len(head)]
    for layer in based if options.base_weights == "random" else ():
        assign(layer, _initial(layer, generator, he=True), {})
    if based and options.base_weights not in ("random", "imagenet"):
        base = network.base if layers[0].framework == PYTORCH else network.get_layer(options.model)
        weights.load(Path(options.base_weights), base, settings="copy")
    for layer in head:
        values = _initial(layer, generator, he=False)
        if layer is head[-2] and layer.framework == PYTORCH:  # which flattens channels first
            places = [name for name, _ in network.named_children()].index("flatten")
            channels, height, width = _features(network[:places], options.size)
            rows = values["kernel"].reshape(height, width, channels, -1)
            values["kernel"] = rows.transpose(2, 0, 1, 3).reshape(values["kernel"].shape)
        assign(layer, values, {})


def _initial(layer: Layer, generator: np.random.Generator, he: bool) -> dict[str, Array]:
    """The initial arrays of a layer, in Keras's layout; float32 for any precision."""
    found = {}
    for name, array in layer.arrays.items():
        if name == "kernel":
            *window, inputs, outputs = array.shape
            fan = math.prod(window) * np.array([inputs, outputs])
            limit = math.sqrt(6 / (fan[0] if he else fan.sum()))
            found[name] = generator.uniform(-limit, limit, array.shape).astype(np.float32)
        else:
            found[name] = np.full_like(array, name in ("gamma", "moving_variance"))
    return found
