"""The U-Net in both frameworks: same layers, same initial weights; it returns raw outputs.

Each level has two 3 x 3 convolutions, each with batch normalization and ReLU; on the way down 2 x 2
max pooling between the levels, on the way up nearest-neighbour doubling and a concatenation with
what was there before. The width doubles from level to level. (O. Ronneberger, P. Fischer and T.
Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015, with `same`
padding and batch normalization as is usual since.)

In training both are the same. In evaluation they differ: PyTorch's running variance averages the
unbiased variance of every batch, Keras's the biased one, a factor n / (n - 1) for n pixels.
"""

import math
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.layer import Layer
from parity.weights.read import assign, read

EPSILON, MOMENTUM = 1e-5, 0.1
"""PyTorch's settings of batch normalization; Keras's momentum is 1 minus this one."""


def build(options: Any, channels: int) -> Any:
    """The network of a run, in its framework, with its initial weights."""
    sizes = (channels, options.classes, options.width, options.depth)
    if options.framework == "keras":
        # under a strategy of TensorFlow batch normalization has to be synchronized
        together = options.devices > 1 and options.backend == "tensorflow"
        network = keras_unet(*sizes, synchronized=together)
    else:
        network = torch_unet(*sizes)
    initialise(network, options.seed)
    return network


def keras_unet(
    channels: int, classes: int, width: int, depth: int, synchronized: bool = False
) -> Any:
    """Images (N, H, W, channels) to raw outputs (N, H, W, classes); H and W by 2^depth."""
    import keras
    from keras import layers

    def block(x: Any, filters: int, name: str) -> Any:
        for number in (1, 2):
            x = layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name=f"{name}_conv_{number}"
            )(x)
            x = layers.BatchNormalization(
                epsilon=EPSILON,
                momentum=1 - MOMENTUM,
                synchronized=synchronized,
                name=f"{name}_norm_{number}",
            )(x)
            x = layers.ReLU(name=f"{name}_relu_{number}")(x)
        return x

    image = x = layers.Input((None, None, channels))
    skips = []
    for level in range(depth):
        x = block(x, width << level, f"down_{level}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool_{level}")(x)
    x = block(x, width << depth, "bottom")
    for level in reversed(range(depth)):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"upsample_{level}")(x)
        x = layers.Concatenate(name=f"join_{level}")([skips[level], x])
        x = block(x, width << level, f"up_{level}")
    # float32 also in mixed precision
    raw = layers.Conv2D(classes, 1, dtype=keras.config.floatx(), name="raw")(x)
    return keras.Model(image, raw, name="unet")


def torch_unet(channels: int, classes: int, width: int, depth: int) -> Any:
    """Images (N, channels, H, W) to raw outputs (N, classes, H, W); H and W by 2^depth."""
    import torch
    from torch import nn

    def block(inputs: int, filters: int) -> Any:
        parts: list[Any] = []
        for before in (inputs, filters):
            parts.append(nn.Conv2d(before, filters, 3, padding="same", bias=False))
            parts.append(nn.BatchNorm2d(filters, eps=EPSILON, momentum=MOMENTUM))
            parts.append(nn.ReLU())
        return nn.Sequential(*parts)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [width << level for level in range(depth)]
            self.down = nn.ModuleList(map(block, (channels, *widths), widths))
            self.pool = nn.MaxPool2d(2)
            self.bottom = block(widths[-1], width << depth)
            self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
            # from the bottom up, in the order in which they compute
            self.up = nn.ModuleList(block(3 * filters, filters) for filters in reversed(widths))
            self.raw = nn.Conv2d(width, classes, 1)

        def forward(self, x: Any) -> Any:
            skips = []
            for down in self.down:
                x = down(x)
                skips.append(x)
                x = self.pool(x)
            x = self.bottom(x)
            for up in self.up:
                x = up(torch.cat([skips.pop(), self.upsample(x)], dim=1))
            return self.raw(x)

    return UNet()


def initialise(network: Any, seed: int) -> None:
    """Give every layer its initial weights, the same numbers in both frameworks.

    He normal for the convolutions, Glorot uniform for the last one, biases of 0.
    """
    generator = np.random.default_rng((seed, 0, 2))
    *body, last = read(network)
    for layer in (*body, last):
        assign(layer, _initial(layer, generator, he=layer is not last), {})


def _initial(layer: Layer, generator: np.random.Generator, he: bool) -> dict[str, Array]:
    """The initial arrays of a layer, in Keras's layout; float32 for any precision."""
    found = {}
    for name, array in layer.arrays.items():
        if name == "kernel":
            *window, inputs, outputs = array.shape
            area = math.prod(window)
            if he:
                values = generator.normal(0, math.sqrt(2 / (area * inputs)), array.shape)
            else:
                limit = math.sqrt(6 / (area * (inputs + outputs)))
                values = generator.uniform(-limit, limit, array.shape)
            found[name] = values.astype(np.float32)
        else:
            found[name] = np.full_like(array, name in ("gamma", "moving_variance"))
    return found
