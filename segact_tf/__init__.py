"""Output activations and losses for binary classification and segmentation, in Keras 3.

On the TensorFlow, JAX and torch backends. The PyTorch implementation is `segact_torch`; the two
agree, and `segact-parity run` proves it.
"""

from segact_tf import activations, conventions, losses
from segact_tf._batch import ActivatedInputWarning
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
from segact_tf.conventions import CONVENTIONS, Convention, get_convention
from segact_tf.losses import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    Dice,
    DiceCrossentropy,
    FocalTversky,
    Jaccard,
    Lovasz,
    LovaszHinge,
    MeanSquaredError,
    Tversky,
    binary_cross_entropy,
    binary_focal_cross_entropy,
    dice,
    dice_cross_entropy,
    focal_tversky,
    jaccard,
    lovasz,
    lovasz_hinge,
    mean_squared_error,
    tversky,
)

__version__ = "0.1.0"

__all__ = [
    "CONVENTIONS",
    "ActivatedInputWarning",
    "Activation",
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "Convention",
    "Dice",
    "DiceCrossentropy",
    "FocalTversky",
    "Jaccard",
    "Lovasz",
    "LovaszHinge",
    "MeanSquaredError",
    "OutputActivation",
    "Tversky",
    "activations",
    "arctan",
    "binary_cross_entropy",
    "binary_focal_cross_entropy",
    "conventions",
    "dice",
    "dice_cross_entropy",
    "focal_tversky",
    "get_activation",
    "get_convention",
    "hardtanh",
    "inverse_square_root",
    "jaccard",
    "linear",
    "losses",
    "lovasz",
    "lovasz_hinge",
    "mean_squared_error",
    "normal_cdf",
    "register_activation",
    "sigmoid",
    "softsign",
    "tversky",
]
