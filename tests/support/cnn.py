"""A convolutional net in Keras, and its counterpart in PyTorch."""

from typing import Any

from ported import keras_model


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
