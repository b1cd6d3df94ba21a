"""Losses for binary classification and segmentation, each written once for every activation.

A function and a `keras.losses.Loss` over it, in pairs. `y_pred` holds raw outputs and the loss
applies the activation: `from_logits=True` is the default here and False in Keras. A network whose
last layer applies the activation already must say `from_logits=False`; under the default it would
be squashed twice, and nothing can notice.

>>> import numpy as np, segact_tf
>>> y_true = np.array([[0.0], [1.0], [0.0]], "float32")
>>> logits = np.array([[-2.0], [0.0], [30.0]], "float32")
>>> round(float(BinaryCrossentropy("arctan")(y_true, logits)), 4)  # head: Dense(1)
1.7997
>>> probabilities = segact_tf.arctan(logits)  # head: Dense(1, activation=segact_tf.arctan)
>>> round(float(BinaryCrossentropy(from_logits=False)(y_true, probabilities)), 4)
1.7997

Every function takes `y_true` and `y_pred` of one shape, any number of dimensions. float16 and
bfloat16 are computed in float32; the result is float32, or float64 for float64 `y_pred`. Targets
lie in [0, 1], in any dtype, and are differentiable where they are floating. The classes convert
both to their own dtype, as every Keras loss does, and align one trailing axis of size 1.

What raises: TypeError for integer `y_pred` in the functions; ValueError for shapes that differ, for
an empty input, for an unknown activation, for an activation together with `from_logits=False`, and
for targets (and probabilities) outside [0, 1], which are checked (`validate=None`) where that does
not make a device wait: on a CPU, outside of compiled code. `validate=True` checks always, and
raises in compiled code, `False` never.
"""

import sys
from typing import Any

import keras
from keras import ops

from segact_tf import _special
from segact_tf.activations import Activation, _weigh, _wide, get_activation

__all__ = [
    "BinaryCrossentropy",
    "Dice",
    "MeanSquaredError",
    "binary_cross_entropy",
    "dice",
    "mean_squared_error",
]

Axis = int | tuple[int, ...] | None


@keras.saving.register_keras_serializable(package="segact")
def binary_cross_entropy(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    axis: Axis = -1,
    validate: bool | None = None,
) -> Any:
    """-(y log F(x) + (1 - y) log(1 - F(x))), from the logarithms of the tails: nothing is clipped.

    A term of weight zero adds exactly zero to value and gradient.

    Args:
        y_true: y in [0, 1], of the shape of `y_pred`.
        y_pred: raw outputs x, or probabilities with `from_logits=False`; then the loss is Keras's
            own on probabilities, which clips them to [1e-7, 1 - 1e-7] (`keras.config.epsilon`), on
            every backend: on TensorFlow, too, where the stock loss finds the logits behind a
            sigmoid and quietly takes those.
        activation: F, by name or as an `Activation`; None is "sigmoid".
        axis: the axis, or several, over which the mean is taken; None is all, () is none.

    Source: arXiv:2109.00903; H. Hentschke, "Sigmoid activation and binary crossentropy: a less than
    perfect match?" (2019), for what the clipped form loses.
    """
    y, x = _check(y_true, y_pred, validate, from_logits)
    if from_logits:
        f = _resolve(activation)
        loss = _weigh(y, -f.logcdf(x)) + _weigh(1 - y, -f.logsf(x))
    else:
        _refuse_activation(activation)
        epsilon = keras.config.epsilon()
        p = ops.clip(x, epsilon, 1 - epsilon)
        loss = -(y * ops.log(p) + (1 - y) * ops.log(1 - p))
    return _special.mean(loss, _special.axes(loss, axis))


@keras.saving.register_keras_serializable(package="segact")
def dice(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    per_sample: bool = False,
    validate: bool | None = None,
) -> Any:
    """1 - 2 sum(F(x) y) / sum(F(x) + y), the soft Dice loss, without its cancellation.

    Computed as sum(y (1 - F(x)) + (1 - y) F(x)) / sum(F(x) + y); 0 where that denominator is 0.

    Args:
        y_true: y in [0, 1], of the shape of `y_pred`.
        y_pred: raw outputs x, or probabilities with `from_logits=False`.
        activation: F, by name or as an `Activation`; None is "sigmoid".
        per_sample: sum over each sample, all axes but the first, for a loss of shape (N,); by
            default the sums run over the whole batch, as published, and the loss is one number.

    Source: arXiv:2109.00903.
    """
    y, x = _check(y_true, y_pred, validate, from_logits)
    p, q = _probabilities(x, activation, from_logits)
    axis = tuple(range(1 if per_sample else 0, len(x.shape)))
    error = _special.sum(y * q + (1 - y) * p, axis)
    total = _special.sum(p + y, axis)
    return _ratio(error, total)


@keras.saving.register_keras_serializable(package="segact")
def mean_squared_error(
    y_true: Any,
    y_pred: Any,
    activation: str | Activation | None = None,
    from_logits: bool = True,
    axis: Axis = -1,
    validate: bool | None = None,
) -> Any:
    """(F(x) - y)^2, the squared error of the probability, as ((1 - y) F(x) - y (1 - F(x)))^2.

    Args:
        y_true: y in [0, 1], of the shape of `y_pred`.
        y_pred: raw outputs x, or probabilities with `from_logits=False`.
        activation: F, by name or as an `Activation`; None is "sigmoid".
        axis: the axis, or several, over which the mean is taken; None is all, () is none.

    Source: arXiv:2109.00903.
    """
    y, x = _check(y_true, y_pred, validate, from_logits)
    p, q = _probabilities(x, activation, from_logits)
    loss = ((1 - y) * p - y * q) ** 2
    return _special.mean(loss, _special.axes(loss, axis))


def _check(y_true: Any, y_pred: Any, validate: bool | None, from_logits: bool) -> tuple[Any, Any]:
    """Both in the precision that they are computed in, or an error that says what is wrong."""
    x = _wide(y_pred, "y_pred")
    y = ops.convert_to_tensor(y_true)
    true_shape, pred_shape = tuple(y.shape), tuple(x.shape)
    pairs = zip(true_shape, pred_shape, strict=False)
    differ = any(a != b for a, b in pairs if a is not None and b is not None)
    if differ or len(true_shape) != len(pred_shape):
        raise ValueError(
            "y_true and y_pred must have the same shape, "
            f"got y_true {true_shape} and y_pred {pred_shape}"
        )
    if 0 in pred_shape:
        raise ValueError(f"y_pred is empty: its shape is {pred_shape}")
    checked = {"y_true": y} if from_logits else {"y_true": y, "y_pred": x}
    for name, values in checked.items():
        if validate or (validate is None and _is_readable(values)):
            _check_range(values, name)
    if None in true_shape + pred_shape:
        y = ops.reshape(y, ops.shape(x))  # or else sizes that are known late might broadcast
    return ops.cast(y, x.dtype), x


def _is_readable(x: Any) -> bool:
    """Whether the values of x can be looked at without a device sync: on a CPU, and not traced."""
    return not _is_traced(x) and "cpu" in str(x.device).lower()


def _is_traced(x: Any) -> bool:
    """Whether x stands for values that are not there yet, in compiled or transformed code."""
    kinds = {kind.__name__ for kind in type(x).__mro__}
    if kinds & {"KerasTensor", "SymbolicTensor", "Tracer", "FakeTensor"}:
        return True
    torch = sys.modules["torch"] if keras.backend.backend() == "torch" else None
    return torch is not None and torch.compiler.is_compiling()


def _check_range(x: Any, name: str) -> None:
    if _is_traced(x):
        raise ValueError(
            f"validate=True reads {name}, which has no values in compiled code; "
            "call the loss eagerly, or use validate=None"
        )
    x = ops.cast(x, "float32")
    low, high = float(ops.min(x)), float(ops.max(x))
    if not (low >= 0 and high <= 1):  # so that NaN is refused
        raise ValueError(f"{name} must lie in [0, 1], got values from {low} to {high}")


def _resolve(activation: str | Activation | None) -> Activation:
    return get_activation("sigmoid" if activation is None else activation)


def _refuse_activation(activation: str | Activation | None) -> None:
    if activation is not None:
        raise ValueError(
            f"activation={activation!r} goes with raw outputs, got from_logits=False, "
            "which says that y_pred is activated already; leave out one of the two"
        )


def _probabilities(
    x: Any, activation: str | Activation | None, from_logits: bool
) -> tuple[Any, Any]:
    """F(x) and 1 - F(x)."""
    if from_logits:
        f = _resolve(activation)
        return f.cdf(x), f.sf(x)
    _refuse_activation(activation)
    return x, 1 - x


def _ratio(numerator: Any, denominator: Any) -> Any:
    """0 where the denominator is 0."""
    empty = denominator == 0
    return ops.where(empty, 0.0, _divide(numerator, ops.where(empty, 1.0, denominator)))


@ops.custom_gradient
def _divide(numerator: Any, denominator: Any) -> tuple[Any, Any]:
    """Their quotient; JAX's own gradient squares the denominator, and loses it below 1e-19."""

    def grad(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
        (upstream,) = args if upstream is None else (upstream,)
        return upstream / denominator, -upstream * (numerator / denominator) / denominator

    return numerator / denominator, grad


class _Loss(keras.losses.Loss):
    """A loss function with its options as a Keras loss."""

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        validate: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if from_logits:
            activation = _resolve(activation)
        else:
            _refuse_activation(activation)
        self.options = {
            "activation": activation,
            "from_logits": from_logits,
            "validate": validate,
            **options,
        }

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Keras's own, but for the sum over the batch, which XLA may add one after the other."""
        if self.reduction not in ("sum_over_batch_size", "mean", "sum"):
            return super().__call__(y_true, y_pred, sample_weight)
        losses = _Apply(self.call, "none", self.dtype)(y_true, y_pred, sample_weight)
        axes = _special.axes(losses, None)
        if self.reduction == "sum":
            total = _special.sum(losses, axes)
        else:
            # Keras masks what it reduces: the mean of ones is the part that is left.
            ones = _Apply(lambda y, x: ops.ones_like(y), "none", self.dtype)(losses, y_pred)
            total = _ratio(_special.mean(losses, axes), _special.mean(ones, axes))
        # Keras divides by the replicas of a TensorFlow strategy: what it makes of a 1 is its share.
        share = _Apply(lambda y, x: x, self.reduction)(0.0, ops.ones((1,)))
        return total * ops.cast(share, total.dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        activation = self.options["activation"]
        return {
            **super().get_config(),
            "dtype": keras.saving.serialize_keras_object(self._dtype_policy),
            **self.options,
            "activation": activation and keras.saving.serialize_keras_object(activation),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Loss":
        parts = ("activation", "dtype")
        loaded = {k: keras.saving.deserialize_keras_object(config[k]) for k in parts if k in config}
        return cls(**{**config, **loaded})


class _Apply(keras.losses.Loss):
    """A function of (y_true, y_pred) as a Keras loss."""

    def __init__(self, function: Any, reduction: str, dtype: Any = None) -> None:
        super().__init__(name="apply", reduction=reduction, dtype=dtype)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def _align(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """(N,) and (N, 1), which `fit` hands over, and the like: one trailing axis of size 1."""
    true_rank, pred_rank = len(y_true.shape), len(y_pred.shape)
    if pred_rank == true_rank + 1 and y_pred.shape[-1] == 1:
        return ops.expand_dims(y_true, -1), y_pred
    if true_rank == pred_rank + 1 and y_true.shape[-1] == 1:
        return y_true, ops.expand_dims(y_pred, -1)
    return y_true, y_pred


@keras.saving.register_keras_serializable(package="segact")
class BinaryCrossentropy(_Loss):
    """`binary_cross_entropy` as a Keras loss, for `model.compile(loss=...)`.

    Args:
        activation, from_logits, axis, validate: as in `binary_cross_entropy`. The default
            `from_logits=True` is the opposite of Keras's own and goes with a head of raw outputs.
        reduction, name, dtype: as in `keras.losses.Loss`.

    >>> import numpy as np
    >>> loss = BinaryCrossentropy("normal_cdf")
    >>> round(float(loss(np.array([[1.0]]), np.array([[-100.0]]))), 3)
    5005.524
    """

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        axis: Axis = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            activation,
            from_logits,
            reduction=reduction,
            name=name,
            dtype=dtype,
            validate=validate,
            axis=tuple(axis) if isinstance(axis, list) else axis,
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return binary_cross_entropy(*_align(y_true, y_pred), **self.options)


@keras.saving.register_keras_serializable(package="segact")
class Dice(_Loss):
    """`dice` as a Keras loss, for `model.compile(loss=...)`.

    Args:
        activation, from_logits, per_sample, validate: as in `dice`. The default `from_logits=True`
            is the opposite of Keras's own and goes with a head of raw outputs.
        reduction, name, dtype: as in `keras.losses.Loss`.

    >>> import numpy as np
    >>> loss = Dice("arctan")
    >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[8.0, -8.0]]))), 4)
    0.0396
    """

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        per_sample: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dice",
        dtype: Any = None,
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            activation,
            from_logits,
            reduction=reduction,
            name=name,
            dtype=dtype,
            validate=validate,
            per_sample=per_sample,
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return dice(*_align(y_true, y_pred), **self.options)


@keras.saving.register_keras_serializable(package="segact")
class MeanSquaredError(_Loss):
    """`mean_squared_error` as a Keras loss, for `model.compile(loss=...)`.

    Args:
        activation, from_logits, axis, validate: as in `mean_squared_error`. The default
            `from_logits=True` goes with a head of raw outputs.
        reduction, name, dtype: as in `keras.losses.Loss`.

    >>> import numpy as np
    >>> loss = MeanSquaredError("softsign")
    >>> float(loss(np.array([[0.0]]), np.array([[3.0]])))
    0.765625
    """

    def __init__(
        self,
        activation: str | Activation | None = None,
        from_logits: bool = True,
        axis: Axis = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_squared_error",
        dtype: Any = None,
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            activation,
            from_logits,
            reduction=reduction,
            name=name,
            dtype=dtype,
            validate=validate,
            axis=tuple(axis) if isinstance(axis, list) else axis,
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return mean_squared_error(*_align(y_true, y_pred), **self.options)
