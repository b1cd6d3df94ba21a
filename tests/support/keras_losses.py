"""The loss classes of `segact_tf`, by the names of the functions."""

import keras

import segact_tf

BACKEND = keras.backend.backend()
LOSSES = {
    "binary_cross_entropy": segact_tf.losses.BinaryCrossentropy,
    "dice": segact_tf.losses.Dice,
    "mean_squared_error": segact_tf.losses.MeanSquaredError,
    "binary_focal_cross_entropy": segact_tf.losses.BinaryFocalCrossentropy,
    "jaccard": segact_tf.losses.Jaccard,
    "tversky": segact_tf.losses.Tversky,
    "focal_tversky": segact_tf.losses.FocalTversky,
    "dice_cross_entropy": segact_tf.losses.DiceCrossentropy,
    "lovasz": segact_tf.losses.Lovasz,
    "lovasz_hinge": segact_tf.losses.LovaszHinge,
}


def make(loss, activation, **options):
    return (
        LOSSES[loss](**options) if loss == "lovasz_hinge" else LOSSES[loss](activation, **options)
    )
