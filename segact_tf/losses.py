"""The losses of `segact_tf.functional` as classes, with their options in the constructor.

`functional` explains the options; weights and masks, which differ by batch, are passed in the call,
or come from `fit` and from masked layers. Elements with weight 0 are ignored:

>>> import numpy as np
>>> loss = Dice("arctan", smooth=1.0)
>>> y_true, y_pred = np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]])
>>> round(float(loss(y_true, y_pred, sample_weight=np.array([[1.0, 0.0]]))), 4)
0.0134

Like every Keras loss, the classes convert their inputs to their own dtype, and add one trailing
axis of size 1 to `y_true` or `y_pred` if it has one axis less than the other. A `sample_weight` of
a lower rank is aligned from the left: (N,) is one weight for each sample. In an overlap loss with
`per_sample=True` such weights multiply the losses of the samples.

With `smooth=0`, the default, a group without any target, such as an empty mask with
`per_sample=True`, has an overlap loss of 1 for any output, and no gradient: the network does not
learn to predict an empty mask. It does with `smooth=1.0`, or with Dice + cross entropy.

Under `tf.distribute` each replica returns its share of the loss of the whole batch: the sum over
the replicas is the loss, and the sum of their gradients its gradient, for any reduction (see
`functional`).

The functions can be imported from here, too.
"""

import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from segact_tf import _engine, _pairwise, _special, functional
from segact_tf._batch import Batch, _valid, as_tensor, warn_of_probabilities
from segact_tf._checks import (
    check_groups,
    check_ignore_index,
    check_number,
    check_range,
    check_validate,
    checked_axis,
)
from segact_tf._derivatives import _weigh
from segact_tf._distributed import all_mean, group_of
from segact_tf._sums import _mean, total
from segact_tf.activations import Activation, _wide, sigmoid
from segact_tf.conventions import distribution
from segact_tf.functional import (
    Axis,
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

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "Dice",
    "DiceCrossentropy",
    "FocalTversky",
    "Jaccard",
    "Lovasz",
    "LovaszHinge",
    "MeanSquaredError",
    "Tversky",
    "binary_cross_entropy",
    "binary_focal_cross_entropy",
    "dice",
    "dice_cross_entropy",
    "focal_tversky",
    "jaccard",
    "lovasz",
    "lovasz_hinge",
    "mean_squared_error",
    "tversky",
]

# The options that must be >= 0 if they are numbers, and the largest allowed value of each.
NUMBERS = {
    **dict.fromkeys(("alpha", "beta", "gamma", "smooth", "pos_weight"), math.inf),
    **dict.fromkeys(("lambda_dice", "lambda_ce"), math.inf),
    "label_smoothing": 1.0,
}


class _Loss(keras.losses.Loss):
    """A function of `segact_tf.functional` with all options but the tensors of a batch.

    Args:
        reduction, name, dtype: as in `keras.losses.Loss`.
        options: those of the function.
    """

    function: ClassVar[Callable[..., Any]]
    _input_checked = False  # whether raw outputs were checked

    def __init__(
        self,
        *,
        reduction: str | None,
        name: str | None,
        dtype: Any,
        **options: Any,
    ) -> None:
        name = name or re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if "float" not in self.dtype:
            raise ValueError(f"dtype must be a floating one, such as 'float64', got {dtype!r}")
        check_ignore_index(options["ignore_index"])
        check_validate(options["validate"])
        if "per_sample" in options:
            check_groups(options["per_sample"], options["channel_axis"])
        if "activation" in options:
            names = {"activation", "from_logits", "convention"} & options.keys()
            f = distribution(**{name: options[name] for name in names})
            if isinstance(f, Activation):
                options["activation"] = f
        if "axis" in options:
            options["axis"] = checked_axis(options["axis"])
        if not isinstance(options.get("pos_weight"), (int, float, list, type(None))):
            options["pos_weight"] = ops.convert_to_numpy(options["pos_weight"]).tolist()
        if isinstance(options.get("pos_weight"), list):
            for value in np.ravel(options["pos_weight"]).tolist():
                check_number("pos_weight", value)
        parameters = inspect.signature(self.function).parameters
        for name in NUMBERS.keys() & options.keys():
            left_out = options[name] is None and parameters[name].default is None
            if not left_out and not isinstance(options[name], list):
                check_number(name, options[name], NUMBERS[name])
        self.options = options

    @partial(_engine.symbolic, method="__call__")
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """As in Keras, with weights and masks of elements, and a sum that XLA adds up in pairs."""
        if type(self).call is not _Loss.call:  # a subclass with a `call` of its own
            return super().__call__(y_true, y_pred, sample_weight)
        x = as_tensor(y_pred, "y_pred", self.dtype)
        options, mask = dict(self.options), self._mask(y_pred)
        elementwise = "axis" in options
        if not self._input_checked:
            f = options.get("activation", sigmoid)
            self._input_checked = f is None or warn_of_probabilities(y_pred, f)
        # y_true without a cast, which could round the number to ignore
        y_true, y_pred = _with_last_axis(
            as_tensor(y_true, "y_true", self.dtype), ops.cast(x, self.dtype)
        )
        averaged = self.reduction not in ("sum", "none", None)
        if averaged and elementwise:
            if len(y_pred.shape):  # else -1, the default, is none
                _pairwise.axes(y_pred, options["axis"])  # raises for one that there is not
            options["axis"] = None
        if mask is not None:
            options["mask"] = _from_left(mask, y_pred, "the mask")
        of_groups, w = None, None
        if sample_weight is not None:
            w = ops.cast(as_tensor(sample_weight, "sample_weight", self.dtype), self.dtype)
            w = _from_left(_wide(w, "sample_weight"), y_pred, "sample_weight")
            options["sample_weight"] = w
            if not elementwise and _are_of_groups(sample_weight, w, options["per_sample"]):
                of_groups = w
                # A group with weight 0 is ignored: NaN in it reaches no sum.
                options["sample_weight"] = ops.cast(w != 0, w.dtype)
            elif not elementwise and options["per_sample"] and None in tuple(w.shape)[1:]:
                of_groups, options["sample_weight"] = _of_groups_or_elements(w)
        losses = type(self).function(y_true, y_pred, **options)
        if of_groups is not None:
            present = _present(y_true, y_pred, options)
            of_groups = _for_groups(of_groups, losses, present, self.options["validate"])
            losses = _weigh(of_groups, losses)
        # Each replica has the losses of its own samples, or all have the losses of the batch.
        group = group_of() if options.get("per_sample") else None
        share = self._replica_share(_are_shared(y_pred, options))
        if self.reduction in (None, "none"):
            return losses * ops.cast(share, losses.dtype) if share is not None else losses
        loss = _mean_of_all(losses, None, group) if averaged else _sum_of_all(losses)
        if self.reduction == "mean_with_sample_weight" and of_groups is not None:
            loss = _over_weight(loss, _mean_of_all(of_groups, present, group))
        elif self.reduction == "mean_with_sample_weight" and w is not None and elementwise:
            loss = _over_weight(loss, _mean_weight(w, y_true, y_pred, options))
        elif self.reduction == "sum" and not elementwise:  # the losses were scaled for a mean
            present = _present(y_true, y_pred, options)
            if present is not None:
                loss = loss * _mean_of_all(ops.cast(present, loss.dtype), None, group)
        return loss if share is None else loss * ops.cast(share, loss.dtype)

    def _mask(self, y_pred: Any) -> Any:
        """The mask that a masked layer attached to `y_pred`, or None.

        Keras has no public function for it, but multiplies a loss of 1 by the mask.
        """
        mask = _Apply(lambda y, x: ops.ones(()), "none", self.dtype)(0.0, y_pred)
        return mask if len(mask.shape) else None

    def _replica_share(self, shared: bool) -> Any:
        """1 / replicas under tf.distribute, for losses that are added up over them; else 1 or None.

        Keras divides only means. Losses that all replicas have are divided for any reduction.
        """
        if self.reduction not in ("sum", "none", None) or (shared and group_of() is not None):
            # Keras has no public function for it, but multiplies a loss of 1 by the share.
            return _Apply(lambda y, x: x, "sum_over_batch_size")(0.0, ops.ones((1,)))
        return None

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return type(self).function(*_with_last_axis(y_true, y_pred), **self.options)

    def get_config(self) -> dict[str, Any]:
        options = dict(self.options)
        if options.get("activation") is not None:
            options["activation"] = keras.saving.serialize_keras_object(options["activation"])
        dtype = keras.saving.serialize_keras_object(self._dtype_policy)
        return {**super().get_config(), "dtype": dtype, **options}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Loss":
        """Options that are missing in a config of an older version get their defaults."""
        parts = ("activation", "dtype")
        loaded = {k: keras.saving.deserialize_keras_object(config[k]) for k in parts if k in config}
        return cls(**{**config, **loaded})


class _Apply(keras.losses.Loss):
    """A function of (y_true, y_pred) as a Keras loss."""

    def __init__(self, function: Any, reduction: str | None, dtype: Any = None) -> None:
        super().__init__(name="apply", reduction=reduction, dtype=dtype)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def _with_last_axis(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Both with a last axis of size 1 if one has it: `fit` passes (N,) and (N, 1)."""
    true_rank, pred_rank = len(y_true.shape), len(y_pred.shape)
    if pred_rank == true_rank + 1 and y_pred.shape[-1] == 1:
        return ops.expand_dims(y_true, -1), y_pred
    if true_rank == pred_rank + 1 and y_true.shape[-1] == 1:
        return y_true, ops.expand_dims(y_pred, -1)
    return y_true, y_pred


def _from_left(values: Any, x: Any, name: str) -> Any:
    """(N,) as (N, 1, 1, 1) for x of (N, H, W, C), and the like; or without one last axis of 1."""
    shape, wanted = tuple(values.shape), tuple(x.shape)
    if len(shape) == len(wanted) + 1 and shape[-1] == 1:
        values = ops.squeeze(values, -1)
    sizes = _engine.sizes(values)
    pairs = zip(sizes, _engine.sizes(x), strict=False)
    fit = all(size in (None, 1, whole) or whole is None for size, whole in pairs)
    if len(sizes) > len(wanted) or not fit:
        raise ValueError(
            f"{name} must have sizes equal to those of y_pred or 1, from the first on, "
            f"got {name} {shape} and y_pred {wanted}"
        )
    return ops.reshape(values, (*ops.shape(values), *[1] * (len(wanted) - len(sizes))))


def _are_of_groups(given: Any, w: Any, per_sample: bool) -> bool:
    """Whether there is one weight for all, or one for each sample and each sample is a group."""
    ones = all(size == 1 for size in tuple(w.shape)[1:])
    return len(np.shape(given)) == 0 or (per_sample and ones)


def _of_groups_or_elements(w: Any) -> tuple[Any, Any]:
    """Weights of samples and of elements, if a graph of TensorFlow learns the sizes only later.

    One of the two are ones, or mark what has a weight of 0.
    """
    rank = len(w.shape)
    ones = ops.equal(math.prod(ops.shape(w)[1:]), 1)
    first = w[(slice(None), *[slice(1)] * (rank - 1))]
    return ops.where(ones, first, 1.0), ops.where(ones, ops.cast(w != 0, w.dtype), w)


def _present(y: Any, x: Any, options: dict[str, Any]) -> Any:
    """Which groups of an overlap loss have a valid element; None if all have one."""
    valid = _valid(x, y, options["ignore_index"], options.get("mask"))
    batch = Batch(x, y, None, valid, sigmoid, group=group_of())
    return batch.present(batch.groups(options["per_sample"], options["channel_axis"]))


def _for_groups(w: Any, losses: Any, present: Any, validate: bool | None) -> Any:
    """Weights of shape (N, 1, ...) in the shape of the losses: (), (N,), (C,) or (N, C).

    That of a group without a valid element is 0.
    """
    w = ops.reshape(w, (-1, *[1] * (len(losses.shape) - 1)) if len(losses.shape) else ())
    w = ops.broadcast_to(w, ops.shape(losses))
    w = w if present is None else ops.where(present, w, 0.0)
    readable = not _engine.is_traced(w)
    if readable and (validate or (validate is None and _engine.is_on_cpu(w))):
        check_range(w, "sample_weight", _special.largest(w))
    return w


def _are_shared(x: Any, options: dict[str, Any]) -> bool:
    """Whether each loss is over samples of all replicas, not of one."""
    if "axis" in options:
        return 0 in _pairwise.axes(x, options["axis"])
    return not options["per_sample"]


def _mean_weight(w: Any, y: Any, x: Any, options: dict[str, Any]) -> Any:
    """The mean weight of the elements that are not ignored."""
    w = ops.broadcast_to(w, ops.shape(x))
    valid = _valid(x, y, options["ignore_index"], options.get("mask"))
    return _mean_of_all(w if valid is None else ops.where(valid, w, 0.0), valid, group_of())


def _over_weight(loss: Any, weight: Any) -> Any:
    """loss / weight; 0 where the weight is 0 or its inverse overflows."""
    nothing = weight < _special.tiny(weight)
    found = _special.divide(loss, ops.where(nothing, math.inf, weight))
    return ops.where(nothing, 0.0, found)


def _mean_of_all(x: Any, valid: Any = None, group: Any = None) -> Any:
    """The mean over the valid elements of all replicas."""
    axis = _pairwise.axes(x, None)
    mean = _mean(x, valid, axis)
    if group is None:
        return mean
    counted = ops.ones_like(x, dtype="bool") if valid is None else valid
    return all_mean(group, mean, _special.double(ops.sum(ops.cast(counted, "int32"))))


def _sum_of_all(x: Any) -> Any:
    return total(x, _pairwise.axes(x, None))


@keras.saving.register_keras_serializable(package="segact")
class BinaryCrossentropy(_Loss):
    """`binary_cross_entropy` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    >>> loss = BinaryCrossentropy("normal_cdf")
    >>> round(float(loss(np.array([[1.0]]), np.array([[-100.0]]))), 4)
    5005.5244
    """

    function = staticmethod(functional.binary_cross_entropy)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        axis: Axis = -1,
        *,
        convention: str | None = None,
        pos_weight: float | Any = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            axis=axis,
            convention=convention,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class BinaryFocalCrossentropy(_Loss):
    """`binary_focal_cross_entropy` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    >>> loss = BinaryFocalCrossentropy(gamma=2.0)
    >>> round(float(loss(np.array([[1.0]]), np.array([[-4.0]]))), 4)
    3.8749
    """

    function = staticmethod(functional.binary_focal_cross_entropy)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        axis: Axis = -1,
        *,
        convention: str | None = None,
        gamma: float = 2.0,
        alpha: float | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if alpha is not None:
            check_number("alpha", alpha, high=1.0)
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            axis=axis,
            convention=convention,
            gamma=gamma,
            alpha=alpha,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class MeanSquaredError(_Loss):
    """`mean_squared_error` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    >>> loss = MeanSquaredError("softsign")
    >>> round(float(loss(np.array([[0.0]]), np.array([[3.0]]))), 4)
    0.7656
    """

    function = staticmethod(functional.mean_squared_error)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        axis: Axis = -1,
        *,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            axis=axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class Dice(_Loss):
    """`dice` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> loss = Dice("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0396
    """

    function = staticmethod(functional.dice)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class Jaccard(_Loss):
    """`jaccard` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> loss = Jaccard("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0762
    """

    function = staticmethod(functional.jaccard)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class Tversky(_Loss):
    """`tversky` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> loss = Tversky(alpha=0.3, beta=0.7)
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[2.0, -2.0]]))), 4)
    0.1192
    """

    function = staticmethod(functional.tversky)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            alpha=alpha,
            beta=beta,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class FocalTversky(_Loss):
    """`focal_tversky` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> loss = FocalTversky()
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[2.0, -2.0]]))), 4)
    0.2029
    """

    function = staticmethod(functional.focal_tversky)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_number("gamma", gamma, open=True)
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class DiceCrossentropy(_Loss):
    """`dice_cross_entropy` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a Dice loss of 1 and no
    gradient of Dice, only that of the cross entropy.

    >>> loss = DiceCrossentropy()
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[2.0, -2.0]]))), 4)
    0.2461
    """

    function = staticmethod(functional.dice_cross_entropy)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        convention: str | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        pos_weight: float | Any = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            convention=convention,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class Lovasz(_Loss):
    """`lovasz` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    >>> loss = Lovasz("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0396
    """

    function = staticmethod(functional.lovasz)

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable(package="segact")
class LovaszHinge(_Loss):
    """`lovasz_hinge` as a Keras loss: options here, `(y_true, y_pred)` in the call.

    `sample_weight` is passed in the call, too; see `segact_tf.functional`.

    >>> loss = LovaszHinge()
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[0.5, -3.0]]))), 4)
    0.5
    """

    function = staticmethod(functional.lovasz_hinge)

    def __init__(
        self,
        *,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        validate: bool | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            validate=validate,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
