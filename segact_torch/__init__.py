"""Output activations and losses for binary classification and segmentation, in PyTorch.

The Keras implementation is `segact_tf`; `segact-parity run` checks that the two agree.
`backends()` says whether compiled loops and GPU kernels are available.
"""

from segact_torch._backends.availability import backends
from segact_torch._batch import ActivatedInputWarning
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
from segact_torch.conventions import CONVENTIONS, Convention, get_convention
from segact_torch.losses import (
    BinaryCrossEntropyLoss,
    BinaryFocalCrossEntropyLoss,
    DiceCrossEntropyLoss,
    DiceLoss,
    FocalTverskyLoss,
    JaccardLoss,
    LovaszHingeLoss,
    LovaszLoss,
    MeanSquaredErrorLoss,
    TverskyLoss,
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
    "BinaryCrossEntropyLoss",
    "BinaryFocalCrossEntropyLoss",
    "Convention",
    "DiceCrossEntropyLoss",
    "DiceLoss",
    "FocalTverskyLoss",
    "JaccardLoss",
    "LovaszHingeLoss",
    "LovaszLoss",
    "MeanSquaredErrorLoss",
    "OutputActivation",
    "TverskyLoss",
    "arctan",
    "backends",
    "binary_cross_entropy",
    "binary_focal_cross_entropy",
    "dice",
    "dice_cross_entropy",
    "focal_tversky",
    "get_activation",
    "get_convention",
    "hardtanh",
    "inverse_square_root",
    "jaccard",
    "linear",
    "lovasz",
    "lovasz_hinge",
    "mean_squared_error",
    "normal_cdf",
    "register_activation",
    "sigmoid",
    "softsign",
    "tversky",
]
