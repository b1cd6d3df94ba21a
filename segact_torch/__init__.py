"""Output activations and losses for binary classification and segmentation, in PyTorch.

The Keras implementation is `segact_tf`; the two agree, and `segact-parity run` proves it.
"""

from segact_torch.activations import (
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
from segact_torch.losses import (
    BinaryCrossEntropyLoss,
    DiceLoss,
    MeanSquaredErrorLoss,
    binary_cross_entropy,
    dice,
    mean_squared_error,
)

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "BinaryCrossEntropyLoss",
    "DiceLoss",
    "MeanSquaredErrorLoss",
    "OutputActivation",
    "arctan",
    "binary_cross_entropy",
    "dice",
    "get_activation",
    "hardtanh",
    "inverse_square_root",
    "linear",
    "mean_squared_error",
    "normal_cdf",
    "register_activation",
    "sigmoid",
    "softsign",
]
