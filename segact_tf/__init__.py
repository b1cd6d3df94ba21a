"""Output activations and losses for binary classification and segmentation, in Keras 3.

On the TensorFlow, JAX and torch backends. The PyTorch implementation is `segact_torch`; the two
agree, and `segact-parity run` proves it.
"""

from segact_tf import activations, losses
from segact_tf.activations import (
    Activation,
    OutputActivation,
    arctan,
    get_activation,
    hardtanh,
    inverse_square_root,
    linear,
    normal_cdf,
    register_activation,
    sigmoid,
    softsign,
)
from segact_tf.losses import (
    BinaryCrossentropy,
    Dice,
    MeanSquaredError,
    binary_cross_entropy,
    dice,
    mean_squared_error,
)

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "BinaryCrossentropy",
    "Dice",
    "MeanSquaredError",
    "OutputActivation",
    "activations",
    "arctan",
    "binary_cross_entropy",
    "dice",
    "get_activation",
    "hardtanh",
    "inverse_square_root",
    "linear",
    "losses",
    "mean_squared_error",
    "normal_cdf",
    "register_activation",
    "sigmoid",
    "softsign",
]
