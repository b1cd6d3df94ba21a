"""Calls that a type checker must report, each on its line, and nothing else: see test_typing.py.

Of each class an option that it does not have, one positional argument too many, and each option
with a value of the wrong type. (Whatever becomes a tensor is a `pos_weight` in Keras, and whatever
Keras understands a `dtype`.)
"""

import segact_tf
import segact_torch

# segact_torch

segact_torch.BinaryCrossEntropyLoss("arctan", smoth=1.0)  # error
segact_torch.BinaryCrossEntropyLoss("arctan", 1.0)  # error
segact_torch.BinaryCrossEntropyLoss(activation=3)  # error
segact_torch.BinaryCrossEntropyLoss(from_logits="no")  # error
segact_torch.BinaryCrossEntropyLoss(convention=2)  # error
segact_torch.BinaryCrossEntropyLoss(pos_weight="two")  # error
segact_torch.BinaryCrossEntropyLoss(label_smoothing="much")  # error
segact_torch.BinaryCrossEntropyLoss(ignore_index="void")  # error
segact_torch.BinaryCrossEntropyLoss(reduction=1)  # error
segact_torch.BinaryCrossEntropyLoss(validate="yes")  # error
segact_torch.BinaryCrossEntropyLoss(process_group=2)  # error

segact_torch.BinaryFocalCrossEntropyLoss("arctan", smoth=1.0)  # error
segact_torch.BinaryFocalCrossEntropyLoss("arctan", 1.0)  # error
segact_torch.BinaryFocalCrossEntropyLoss(activation=3)  # error
segact_torch.BinaryFocalCrossEntropyLoss(from_logits="no")  # error
segact_torch.BinaryFocalCrossEntropyLoss(convention=2)  # error
segact_torch.BinaryFocalCrossEntropyLoss(gamma="two")  # error
segact_torch.BinaryFocalCrossEntropyLoss(alpha="half")  # error
segact_torch.BinaryFocalCrossEntropyLoss(label_smoothing="much")  # error
segact_torch.BinaryFocalCrossEntropyLoss(ignore_index="void")  # error
segact_torch.BinaryFocalCrossEntropyLoss(reduction=1)  # error
segact_torch.BinaryFocalCrossEntropyLoss(validate="yes")  # error
segact_torch.BinaryFocalCrossEntropyLoss(process_group=2)  # error

segact_torch.MeanSquaredErrorLoss("arctan", smoth=1.0)  # error
segact_torch.MeanSquaredErrorLoss("arctan", 1.0)  # error
segact_torch.MeanSquaredErrorLoss(activation=3)  # error
segact_torch.MeanSquaredErrorLoss(from_logits="no")  # error
segact_torch.MeanSquaredErrorLoss(ignore_index="void")  # error
segact_torch.MeanSquaredErrorLoss(reduction=1)  # error
segact_torch.MeanSquaredErrorLoss(validate="yes")  # error
segact_torch.MeanSquaredErrorLoss(process_group=2)  # error

segact_torch.DiceLoss("arctan", smoth=1.0)  # error
segact_torch.DiceLoss("arctan", 1.0)  # error
segact_torch.DiceLoss(3, smooth="much")  # error
segact_torch.DiceLoss(activation=3)  # error
segact_torch.DiceLoss(from_logits="no")  # error
segact_torch.DiceLoss(smooth="much")  # error
segact_torch.DiceLoss(per_sample="yes")  # error
segact_torch.DiceLoss(channel_axis="last")  # error
segact_torch.DiceLoss(ignore_index="void")  # error
segact_torch.DiceLoss(reduction=1)  # error
segact_torch.DiceLoss(validate="yes")  # error
segact_torch.DiceLoss(process_group=2)  # error

segact_torch.JaccardLoss("arctan", smoth=1.0)  # error
segact_torch.JaccardLoss("arctan", 1.0)  # error
segact_torch.JaccardLoss(activation=3)  # error
segact_torch.JaccardLoss(from_logits="no")  # error
segact_torch.JaccardLoss(smooth="much")  # error
segact_torch.JaccardLoss(per_sample="yes")  # error
segact_torch.JaccardLoss(channel_axis="last")  # error
segact_torch.JaccardLoss(ignore_index="void")  # error
segact_torch.JaccardLoss(reduction=1)  # error
segact_torch.JaccardLoss(validate="yes")  # error
segact_torch.JaccardLoss(process_group=2)  # error

segact_torch.TverskyLoss("arctan", smoth=1.0)  # error
segact_torch.TverskyLoss("arctan", 1.0)  # error
segact_torch.TverskyLoss(activation=3)  # error
segact_torch.TverskyLoss(from_logits="no")  # error
segact_torch.TverskyLoss(alpha="half")  # error
segact_torch.TverskyLoss(beta="half")  # error
segact_torch.TverskyLoss(smooth="much")  # error
segact_torch.TverskyLoss(per_sample="yes")  # error
segact_torch.TverskyLoss(channel_axis="last")  # error
segact_torch.TverskyLoss(ignore_index="void")  # error
segact_torch.TverskyLoss(reduction=1)  # error
segact_torch.TverskyLoss(validate="yes")  # error
segact_torch.TverskyLoss(process_group=2)  # error

segact_torch.FocalTverskyLoss("arctan", smoth=1.0)  # error
segact_torch.FocalTverskyLoss("arctan", 1.0)  # error
segact_torch.FocalTverskyLoss(activation=3)  # error
segact_torch.FocalTverskyLoss(from_logits="no")  # error
segact_torch.FocalTverskyLoss(alpha="half")  # error
segact_torch.FocalTverskyLoss(beta="half")  # error
segact_torch.FocalTverskyLoss(gamma="two")  # error
segact_torch.FocalTverskyLoss(smooth="much")  # error
segact_torch.FocalTverskyLoss(per_sample="yes")  # error
segact_torch.FocalTverskyLoss(channel_axis="last")  # error
segact_torch.FocalTverskyLoss(ignore_index="void")  # error
segact_torch.FocalTverskyLoss(reduction=1)  # error
segact_torch.FocalTverskyLoss(validate="yes")  # error
segact_torch.FocalTverskyLoss(process_group=2)  # error

segact_torch.DiceCrossEntropyLoss("arctan", smoth=1.0)  # error
segact_torch.DiceCrossEntropyLoss("arctan", 1.0)  # error
segact_torch.DiceCrossEntropyLoss(activation=3)  # error
segact_torch.DiceCrossEntropyLoss(from_logits="no")  # error
segact_torch.DiceCrossEntropyLoss(convention=2)  # error
segact_torch.DiceCrossEntropyLoss(lambda_dice="one")  # error
segact_torch.DiceCrossEntropyLoss(lambda_ce="one")  # error
segact_torch.DiceCrossEntropyLoss(smooth="much")  # error
segact_torch.DiceCrossEntropyLoss(per_sample="yes")  # error
segact_torch.DiceCrossEntropyLoss(channel_axis="last")  # error
segact_torch.DiceCrossEntropyLoss(pos_weight="two")  # error
segact_torch.DiceCrossEntropyLoss(label_smoothing="much")  # error
segact_torch.DiceCrossEntropyLoss(ignore_index="void")  # error
segact_torch.DiceCrossEntropyLoss(reduction=1)  # error
segact_torch.DiceCrossEntropyLoss(validate="yes")  # error
segact_torch.DiceCrossEntropyLoss(process_group=2)  # error

segact_torch.LovaszLoss("arctan", smoth=1.0)  # error
segact_torch.LovaszLoss("arctan", 1.0)  # error
segact_torch.LovaszLoss(activation=3)  # error
segact_torch.LovaszLoss(from_logits="no")  # error
segact_torch.LovaszLoss(per_sample="yes")  # error
segact_torch.LovaszLoss(channel_axis="last")  # error
segact_torch.LovaszLoss(ignore_index="void")  # error
segact_torch.LovaszLoss(reduction=1)  # error
segact_torch.LovaszLoss(validate="yes")  # error
segact_torch.LovaszLoss(process_group=2)  # error

segact_torch.LovaszHingeLoss(smoth=1.0)  # error
segact_torch.LovaszHingeLoss("arctan")  # error
segact_torch.LovaszHingeLoss(per_sample="yes")  # error
segact_torch.LovaszHingeLoss(channel_axis="last")  # error
segact_torch.LovaszHingeLoss(ignore_index="void")  # error
segact_torch.LovaszHingeLoss(reduction=1)  # error
segact_torch.LovaszHingeLoss(validate="yes")  # error
segact_torch.LovaszHingeLoss(process_group=2)  # error

# segact_tf

segact_tf.BinaryCrossentropy("arctan", smoth=1.0)  # error
segact_tf.BinaryCrossentropy("arctan", True, (1, 2), 1.0)  # error
segact_tf.BinaryCrossentropy(activation=3)  # error
segact_tf.BinaryCrossentropy(from_logits="no")  # error
segact_tf.BinaryCrossentropy(axis="all")  # error
segact_tf.BinaryCrossentropy(convention=2)  # error
segact_tf.BinaryCrossentropy(label_smoothing="much")  # error
segact_tf.BinaryCrossentropy(ignore_index="void")  # error
segact_tf.BinaryCrossentropy(validate="yes")  # error
segact_tf.BinaryCrossentropy(reduction=1)  # error
segact_tf.BinaryCrossentropy(name=3)  # error

segact_tf.BinaryFocalCrossentropy("arctan", smoth=1.0)  # error
segact_tf.BinaryFocalCrossentropy("arctan", True, (1, 2), 1.0)  # error
segact_tf.BinaryFocalCrossentropy(activation=3)  # error
segact_tf.BinaryFocalCrossentropy(from_logits="no")  # error
segact_tf.BinaryFocalCrossentropy(axis="all")  # error
segact_tf.BinaryFocalCrossentropy(convention=2)  # error
segact_tf.BinaryFocalCrossentropy(gamma="two")  # error
segact_tf.BinaryFocalCrossentropy(alpha="half")  # error
segact_tf.BinaryFocalCrossentropy(label_smoothing="much")  # error
segact_tf.BinaryFocalCrossentropy(ignore_index="void")  # error
segact_tf.BinaryFocalCrossentropy(validate="yes")  # error
segact_tf.BinaryFocalCrossentropy(reduction=1)  # error
segact_tf.BinaryFocalCrossentropy(name=3)  # error

segact_tf.MeanSquaredError("arctan", smoth=1.0)  # error
segact_tf.MeanSquaredError("arctan", True, (1, 2), 1.0)  # error
segact_tf.MeanSquaredError(activation=3)  # error
segact_tf.MeanSquaredError(from_logits="no")  # error
segact_tf.MeanSquaredError(axis="all")  # error
segact_tf.MeanSquaredError(ignore_index="void")  # error
segact_tf.MeanSquaredError(validate="yes")  # error
segact_tf.MeanSquaredError(reduction=1)  # error
segact_tf.MeanSquaredError(name=3)  # error

segact_tf.Dice("arctan", smoth=1.0)  # error
segact_tf.Dice("arctan", True, 1.0)  # error
segact_tf.Dice(3, smooth="much")  # error
segact_tf.Dice(activation=3)  # error
segact_tf.Dice(from_logits="no")  # error
segact_tf.Dice(smooth="much")  # error
segact_tf.Dice(per_sample="yes")  # error
segact_tf.Dice(channel_axis="last")  # error
segact_tf.Dice(ignore_index="void")  # error
segact_tf.Dice(validate="yes")  # error
segact_tf.Dice(reduction=1)  # error
segact_tf.Dice(name=3)  # error

segact_tf.Jaccard("arctan", smoth=1.0)  # error
segact_tf.Jaccard("arctan", True, 1.0)  # error
segact_tf.Jaccard(activation=3)  # error
segact_tf.Jaccard(from_logits="no")  # error
segact_tf.Jaccard(smooth="much")  # error
segact_tf.Jaccard(per_sample="yes")  # error
segact_tf.Jaccard(channel_axis="last")  # error
segact_tf.Jaccard(ignore_index="void")  # error
segact_tf.Jaccard(validate="yes")  # error
segact_tf.Jaccard(reduction=1)  # error
segact_tf.Jaccard(name=3)  # error

segact_tf.Tversky("arctan", smoth=1.0)  # error
segact_tf.Tversky("arctan", True, 1.0)  # error
segact_tf.Tversky(activation=3)  # error
segact_tf.Tversky(from_logits="no")  # error
segact_tf.Tversky(alpha="half")  # error
segact_tf.Tversky(beta="half")  # error
segact_tf.Tversky(smooth="much")  # error
segact_tf.Tversky(per_sample="yes")  # error
segact_tf.Tversky(channel_axis="last")  # error
segact_tf.Tversky(ignore_index="void")  # error
segact_tf.Tversky(validate="yes")  # error
segact_tf.Tversky(reduction=1)  # error
segact_tf.Tversky(name=3)  # error

segact_tf.FocalTversky("arctan", smoth=1.0)  # error
segact_tf.FocalTversky("arctan", True, 1.0)  # error
segact_tf.FocalTversky(activation=3)  # error
segact_tf.FocalTversky(from_logits="no")  # error
segact_tf.FocalTversky(alpha="half")  # error
segact_tf.FocalTversky(beta="half")  # error
segact_tf.FocalTversky(gamma="two")  # error
segact_tf.FocalTversky(smooth="much")  # error
segact_tf.FocalTversky(per_sample="yes")  # error
segact_tf.FocalTversky(channel_axis="last")  # error
segact_tf.FocalTversky(ignore_index="void")  # error
segact_tf.FocalTversky(validate="yes")  # error
segact_tf.FocalTversky(reduction=1)  # error
segact_tf.FocalTversky(name=3)  # error

segact_tf.DiceCrossentropy("arctan", smoth=1.0)  # error
segact_tf.DiceCrossentropy("arctan", True, 1.0)  # error
segact_tf.DiceCrossentropy(activation=3)  # error
segact_tf.DiceCrossentropy(from_logits="no")  # error
segact_tf.DiceCrossentropy(convention=2)  # error
segact_tf.DiceCrossentropy(lambda_dice="one")  # error
segact_tf.DiceCrossentropy(lambda_ce="one")  # error
segact_tf.DiceCrossentropy(smooth="much")  # error
segact_tf.DiceCrossentropy(per_sample="yes")  # error
segact_tf.DiceCrossentropy(channel_axis="last")  # error
segact_tf.DiceCrossentropy(label_smoothing="much")  # error
segact_tf.DiceCrossentropy(ignore_index="void")  # error
segact_tf.DiceCrossentropy(validate="yes")  # error
segact_tf.DiceCrossentropy(reduction=1)  # error
segact_tf.DiceCrossentropy(name=3)  # error

segact_tf.Lovasz("arctan", smoth=1.0)  # error
segact_tf.Lovasz("arctan", True, 1.0)  # error
segact_tf.Lovasz(activation=3)  # error
segact_tf.Lovasz(from_logits="no")  # error
segact_tf.Lovasz(per_sample="yes")  # error
segact_tf.Lovasz(channel_axis="last")  # error
segact_tf.Lovasz(ignore_index="void")  # error
segact_tf.Lovasz(validate="yes")  # error
segact_tf.Lovasz(reduction=1)  # error
segact_tf.Lovasz(name=3)  # error

segact_tf.LovaszHinge(smoth=1.0)  # error
segact_tf.LovaszHinge("arctan")  # error
segact_tf.LovaszHinge(per_sample="yes")  # error
segact_tf.LovaszHinge(channel_axis="last")  # error
segact_tf.LovaszHinge(ignore_index="void")  # error
segact_tf.LovaszHinge(validate="yes")  # error
segact_tf.LovaszHinge(reduction=1)  # error
segact_tf.LovaszHinge(name=3)  # error
