"""Calls that a type checker must not report: each class, with each of its options."""

import torch

import segact_tf
import segact_torch

# segact_torch

segact_torch.BinaryCrossEntropyLoss()
segact_torch.BinaryCrossEntropyLoss("arctan")
segact_torch.BinaryCrossEntropyLoss(segact_torch.arctan)
segact_torch.BinaryCrossEntropyLoss(
    activation="arctan",
    from_logits=True,
    convention="exact",
    pos_weight=2.0,
    label_smoothing=0.1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.BinaryCrossEntropyLoss(
    activation=None,
    convention=None,
    pos_weight=None,
    ignore_index=None,
    validate=None,
    process_group=None,
)
segact_torch.BinaryCrossEntropyLoss(pos_weight=torch.tensor([0.5, 2.0]))

segact_torch.BinaryFocalCrossEntropyLoss()
segact_torch.BinaryFocalCrossEntropyLoss("arctan")
segact_torch.BinaryFocalCrossEntropyLoss(segact_torch.arctan)
segact_torch.BinaryFocalCrossEntropyLoss(
    activation="arctan",
    from_logits=True,
    convention="exact",
    gamma=1.5,
    alpha=0.3,
    label_smoothing=0.1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.BinaryFocalCrossEntropyLoss(
    activation=None,
    convention=None,
    alpha=None,
    ignore_index=None,
    validate=None,
    process_group=None,
)

segact_torch.MeanSquaredErrorLoss()
segact_torch.MeanSquaredErrorLoss("arctan")
segact_torch.MeanSquaredErrorLoss(segact_torch.arctan)
segact_torch.MeanSquaredErrorLoss(
    activation="arctan",
    from_logits=True,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.MeanSquaredErrorLoss(
    activation=None, ignore_index=None, validate=None, process_group=None
)

segact_torch.DiceLoss()
segact_torch.DiceLoss("arctan")
segact_torch.DiceLoss(segact_torch.arctan)
segact_torch.DiceLoss(
    activation="arctan",
    from_logits=True,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.DiceLoss(
    activation=None, channel_axis=None, ignore_index=None, validate=None, process_group=None
)

segact_torch.JaccardLoss()
segact_torch.JaccardLoss("arctan")
segact_torch.JaccardLoss(segact_torch.arctan)
segact_torch.JaccardLoss(
    activation="arctan",
    from_logits=True,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.JaccardLoss(
    activation=None, channel_axis=None, ignore_index=None, validate=None, process_group=None
)

segact_torch.TverskyLoss()
segact_torch.TverskyLoss("arctan")
segact_torch.TverskyLoss(segact_torch.arctan)
segact_torch.TverskyLoss(
    activation="arctan",
    from_logits=True,
    alpha=0.3,
    beta=0.7,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.TverskyLoss(
    activation=None, channel_axis=None, ignore_index=None, validate=None, process_group=None
)

segact_torch.FocalTverskyLoss()
segact_torch.FocalTverskyLoss("arctan")
segact_torch.FocalTverskyLoss(segact_torch.arctan)
segact_torch.FocalTverskyLoss(
    activation="arctan",
    from_logits=True,
    alpha=0.3,
    beta=0.7,
    gamma=1.5,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.FocalTverskyLoss(
    activation=None, channel_axis=None, ignore_index=None, validate=None, process_group=None
)

segact_torch.DiceCrossEntropyLoss()
segact_torch.DiceCrossEntropyLoss("arctan")
segact_torch.DiceCrossEntropyLoss(segact_torch.arctan)
segact_torch.DiceCrossEntropyLoss(
    activation="arctan",
    from_logits=True,
    convention="exact",
    lambda_dice=0.5,
    lambda_ce=0.5,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    pos_weight=2.0,
    label_smoothing=0.1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.DiceCrossEntropyLoss(
    activation=None,
    convention=None,
    channel_axis=None,
    pos_weight=None,
    ignore_index=None,
    validate=None,
    process_group=None,
)
segact_torch.DiceCrossEntropyLoss(pos_weight=torch.tensor([0.5, 2.0]))

segact_torch.LovaszLoss()
segact_torch.LovaszLoss("arctan")
segact_torch.LovaszLoss(segact_torch.arctan)
segact_torch.LovaszLoss(
    activation="arctan",
    from_logits=True,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.LovaszLoss(
    activation=None, channel_axis=None, ignore_index=None, validate=None, process_group=None
)

segact_torch.LovaszHingeLoss()
segact_torch.LovaszHingeLoss(
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    reduction="sum",
    validate=True,
    process_group="world",
)
segact_torch.LovaszHingeLoss(
    channel_axis=None, ignore_index=None, validate=None, process_group=None
)

# segact_tf

segact_tf.BinaryCrossentropy()
segact_tf.BinaryCrossentropy("arctan", True, (1, 2))
segact_tf.BinaryCrossentropy(segact_tf.arctan)
segact_tf.BinaryCrossentropy(
    activation="arctan",
    from_logits=True,
    axis=(1, 2),
    convention="exact",
    pos_weight=2.0,
    label_smoothing=0.1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.BinaryCrossentropy(
    activation=None,
    axis=None,
    convention=None,
    pos_weight=None,
    ignore_index=None,
    validate=None,
    reduction=None,
    name=None,
)
segact_tf.BinaryCrossentropy(pos_weight=[0.5, 2.0])

segact_tf.BinaryFocalCrossentropy()
segact_tf.BinaryFocalCrossentropy("arctan", True, (1, 2))
segact_tf.BinaryFocalCrossentropy(segact_tf.arctan)
segact_tf.BinaryFocalCrossentropy(
    activation="arctan",
    from_logits=True,
    axis=(1, 2),
    convention="exact",
    gamma=1.5,
    alpha=0.3,
    label_smoothing=0.1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.BinaryFocalCrossentropy(
    activation=None,
    axis=None,
    convention=None,
    alpha=None,
    ignore_index=None,
    validate=None,
    reduction=None,
    name=None,
)

segact_tf.MeanSquaredError()
segact_tf.MeanSquaredError("arctan", True, (1, 2))
segact_tf.MeanSquaredError(segact_tf.arctan)
segact_tf.MeanSquaredError(
    activation="arctan",
    from_logits=True,
    axis=(1, 2),
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.MeanSquaredError(
    activation=None, axis=None, ignore_index=None, validate=None, reduction=None, name=None
)

segact_tf.Dice()
segact_tf.Dice("arctan", True)
segact_tf.Dice(segact_tf.arctan)
segact_tf.Dice(
    activation="arctan",
    from_logits=True,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.Dice(
    activation=None, channel_axis=None, ignore_index=None, validate=None, reduction=None, name=None
)

segact_tf.Jaccard()
segact_tf.Jaccard("arctan", True)
segact_tf.Jaccard(segact_tf.arctan)
segact_tf.Jaccard(
    activation="arctan",
    from_logits=True,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.Jaccard(
    activation=None, channel_axis=None, ignore_index=None, validate=None, reduction=None, name=None
)

segact_tf.Tversky()
segact_tf.Tversky("arctan", True)
segact_tf.Tversky(segact_tf.arctan)
segact_tf.Tversky(
    activation="arctan",
    from_logits=True,
    alpha=0.3,
    beta=0.7,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.Tversky(
    activation=None, channel_axis=None, ignore_index=None, validate=None, reduction=None, name=None
)

segact_tf.FocalTversky()
segact_tf.FocalTversky("arctan", True)
segact_tf.FocalTversky(segact_tf.arctan)
segact_tf.FocalTversky(
    activation="arctan",
    from_logits=True,
    alpha=0.3,
    beta=0.7,
    gamma=1.5,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.FocalTversky(
    activation=None, channel_axis=None, ignore_index=None, validate=None, reduction=None, name=None
)

segact_tf.DiceCrossentropy()
segact_tf.DiceCrossentropy("arctan", True)
segact_tf.DiceCrossentropy(segact_tf.arctan)
segact_tf.DiceCrossentropy(
    activation="arctan",
    from_logits=True,
    convention="exact",
    lambda_dice=0.5,
    lambda_ce=0.5,
    smooth=1.0,
    per_sample=True,
    channel_axis=1,
    pos_weight=2.0,
    label_smoothing=0.1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.DiceCrossentropy(
    activation=None,
    convention=None,
    channel_axis=None,
    pos_weight=None,
    ignore_index=None,
    validate=None,
    reduction=None,
    name=None,
)
segact_tf.DiceCrossentropy(pos_weight=[0.5, 2.0])

segact_tf.Lovasz()
segact_tf.Lovasz("arctan", True)
segact_tf.Lovasz(segact_tf.arctan)
segact_tf.Lovasz(
    activation="arctan",
    from_logits=True,
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.Lovasz(
    activation=None, channel_axis=None, ignore_index=None, validate=None, reduction=None, name=None
)

segact_tf.LovaszHinge()
segact_tf.LovaszHinge(
    per_sample=True,
    channel_axis=1,
    ignore_index=255,
    validate=True,
    reduction="sum",
    name="mine",
    dtype="float32",
)
segact_tf.LovaszHinge(
    channel_axis=None, ignore_index=None, validate=None, reduction=None, name=None
)
