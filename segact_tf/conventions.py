"""Cross entropy from probabilities as each framework computes it, so that a port trains the same.

A convention is how a framework computes log p and log(1 - p), and the gradient of each in p:

    loss = -(y LP + (1 - y) LQ)

| name | whose | LP, LQ | saturated |
| --- | --- | --- | --- |
| `keras` | Keras 3 | log k, log(1 - k), where k = clip(p, 1e-7, 1 - 1e-7) | gradient 0 |
| `keras2` | Keras 2.3 to 2.15, tf-keras | log(k + 1e-7), log(1 - k + 1e-7) | gradient 0 |
| `keras_logit` | Keras 2.0 to 2.2 | log F(z), log(1 - F(z)), z = log(k / (1 - k)) | gradient 0 |
| `torch` | PyTorch since 1.5 | max(log p, -100), max(log(1 - p), -100) | finite |
| `torch_legacy` | PyTorch to 0.4.0 | log(p + 1e-12), log(1 - p + 1e-12) | finite |

`exact`, the sixth name, clips nothing and needs raw outputs: it is the loss with
`from_logits=True`. The others need `from_logits=False`:

>>> import numpy as np, segact_tf
>>> y_true, p = np.zeros(1, "float32"), segact_tf.sigmoid(np.array([200.0], "float32"))
>>> for name in segact_tf.CONVENTIONS[1:]:
...     loss = segact_tf.binary_cross_entropy(y_true, p, from_logits=False, convention=name)
...     print(f"{name:12} {float(loss):.4f}")
keras        15.9424
keras2       15.3332
keras_logit  15.9424
torch        100.0000
torch_legacy 27.6310
>>> float(segact_tf.binary_cross_entropy(y_true, np.array([200.0]), convention="exact"))
200.0

k and 1 - p are rounded to the dtype of p, as the frameworks do: in float32 1 - 1e-7 is
1 - 1.192e-7, and Keras's largest loss 15.9424 for label 0 but 16.1181 for label 1.
"""

from typing import Any

import keras
from keras import ops

from segact_tf import _special
from segact_tf._checks import check_flag
from segact_tf._names import unknown
from segact_tf.activations import Activation, _elementwise, get_activation

__all__ = ["CONVENTIONS", "Convention", "get_convention"]

# The convention of a loss if none is named.
DEFAULT = "keras"

TORCH_EPSILON = 1e-12


def _keras_epsilon() -> float:
    """The epsilon with which Keras clips a probability: 1e-7, unless a program sets another."""
    return float(keras.config.epsilon())


class Convention:
    """How log p (`logcdf`) and log(1 - p) (`logsf`) are computed, each with its own gradient."""

    name = ""

    def cdf(self, p: Any) -> Any:
        """p itself: it is already a probability."""
        return p

    def sf(self, p: Any) -> Any:
        """1 - p."""
        return 1 - p

    def logcdf(self, p: Any) -> Any:
        """LP, differentiable."""
        return _elementwise(p, self._log_p, self._log_p_derivative)

    def logsf(self, p: Any) -> Any:
        """LQ, differentiable."""
        return _elementwise(p, self._log_q, self._log_q_derivative)

    def _fill_invalid(self, p: Any, valid: Any) -> Any:
        """p, with 0 as a placeholder where it is not valid."""
        return ops.where(valid, p, 0.0)

    def _log_p(self, p: Any) -> Any:
        raise NotImplementedError

    def _log_p_derivative(self, p: Any) -> Any:
        raise NotImplementedError

    def _log_q(self, p: Any) -> Any:
        raise NotImplementedError

    def _log_q_derivative(self, p: Any) -> Any:
        raise NotImplementedError


def _added(x: Any, epsilon: float) -> Any:
    """x + epsilon for x >= 0, so that a compiler cannot add epsilon to a constant inside of x."""
    return _special.at_least(x, 0.0) + epsilon


class Keras(Convention):
    """Keras 3 (3.0 to 3.15) from probabilities: clipped, with a gradient of zero beyond the limits.

    The value and gradient are exactly those of Keras's own loss on JAX; on TensorFlow, if that loss
    does not find the logits behind a sigmoid, the value exactly and the gradient to 3 ulp. Keras on
    torch clips too, but computes log1p(-k): 1.000e-7 instead of 1.192e-7 at p = 0, label 0.
    Exactly on a limit the gradient factor is 1 here, on TensorFlow and on torch, and 1/2 on JAX.

    Source: `binary_crossentropy` in keras/src/backend/{tensorflow,jax,torch}/nn.py.
    """

    name = "keras"

    def _clip(self, p: Any) -> Any:
        return _special.clip(p, _keras_epsilon(), 1 - _keras_epsilon())

    def _p(self, p: Any) -> Any:
        return self._clip(p)

    def _q(self, p: Any) -> Any:
        return 1 - self._clip(p)

    def _log_p(self, p: Any) -> Any:
        return ops.log(self._p(p))

    def _log_p_derivative(self, p: Any) -> Any:
        return ops.where(self._clip(p) == p, 1 / self._p(p), 0.0)

    def _log_q(self, p: Any) -> Any:
        return ops.log(self._q(p))

    def _log_q_derivative(self, p: Any) -> Any:
        return ops.where(self._clip(p) == p, -1 / self._q(p), 0.0)


class Keras2(Keras):
    """Keras 2.3 to 2.15, tf.keras, and tf-keras: clipped, and epsilon added again inside the log.

    Exactly the value of tf-keras 2.21, where it does not find the logits behind a sigmoid, and the
    gradient to 3 ulp. Inside of a `tf.function` TensorFlow adds 1 and epsilon first, so that its
    largest loss for label 0 is 15.2492 there, and 15.3332 eagerly and here.

    Source: `binary_crossentropy` in tf_keras/src/backend.py.
    """

    name = "keras2"

    def _p(self, p: Any) -> Any:
        return self._clip(p) + _keras_epsilon()

    def _q(self, p: Any) -> Any:
        return _added(1 - self._clip(p), _keras_epsilon())


class KerasLogit(Keras):
    """Keras 2.0 to 2.2 (2017, 2018) on TensorFlow: clipped, converted to a logit z, then softplus.

    Computed without rounding z = log(k / (1 - k)): log F(z) = -log1p((1 - k) / k). In float32 the
    original rounds z, so its small losses differ by up to 1.3e-6 relative. The gradient is that of
    `keras`.

    Source: `binary_crossentropy` in keras/backend/tensorflow_backend.py of 2.2.4, which no current
    TensorFlow version can run.
    """

    name = "keras_logit"

    def _log_p(self, p: Any) -> Any:
        return -_special.log1p_ratio(self._q(p), self._p(p))

    def _log_q(self, p: Any) -> Any:
        return -_special.log1p_ratio(self._p(p), self._q(p))


class Torch(Convention):
    """PyTorch since 1.5: the logarithms are clamped at -100, but their gradient is not zero there.

    The gradient of the loss is (p - y) / max(p (1 - p), 1e-12). For hard targets value and gradient
    agree with `F.binary_cross_entropy` to 2 ulp; for soft ones, whose terms may cancel in the
    gradient, to 2 ulp of the larger term.

    Source: aten/src/ATen/native/Loss.cpp, since pull request 31365 of January 2020.
    """

    name = "torch"

    def _log_p(self, p: Any) -> Any:
        return _special.at_least(ops.log(p), -100.0)

    def _log_p_derivative(self, p: Any) -> Any:
        return (1 - p) / self._variance(p)

    def _log_q(self, p: Any) -> Any:
        return _special.at_least(_special.log_complement(p), -100.0)

    def _log_q_derivative(self, p: Any) -> Any:
        return -p / self._variance(p)

    def _variance(self, p: Any) -> Any:
        return _special.at_least((1 - p) * p, TORCH_EPSILON)


class TorchLegacy(Convention):
    """PyTorch up to 0.4.0 (issue 4867): 1e-12 inside the logarithms.

    In float64 a loss may be -1e-12. The gradient of the loss is
    (p - y) / ((1 - p + 1e-12) (p + 1e-12)). On a CPU the original added 1e-12 in double precision,
    on CUDA in that of p, as here. From 0.4.1 to 1.4 only log 0 was replaced, by log 1e-12. No
    current Python version can run either.

    Source: aten/src/THNN/generic/BCECriterion.c, until pull request 8147.
    """

    name = "torch_legacy"

    def _p(self, p: Any) -> Any:
        return p + TORCH_EPSILON

    def _q(self, p: Any) -> Any:
        return _added(1 - p, TORCH_EPSILON)

    def _log_p(self, p: Any) -> Any:
        return ops.log(self._p(p))

    def _log_p_derivative(self, p: Any) -> Any:
        return (1 - p) / self._q(p) / self._p(p)

    def _log_q(self, p: Any) -> Any:
        return ops.log(self._q(p))

    def _log_q_derivative(self, p: Any) -> Any:
        return -p / self._p(p) / self._q(p)


_KNOWN: dict[str, Convention] = {
    kind.name: kind() for kind in (Keras, Keras2, KerasLogit, Torch, TorchLegacy)
}

CONVENTIONS = ("exact", *_KNOWN)
"""The allowed names of `convention=`."""


def get_convention(name: str) -> Convention:
    """The convention for probabilities of that name.

    Raises:
        ValueError: an unknown name, with the nearest known one; "exact", which has no
            probabilities.

    >>> import numpy as np
    >>> float(get_convention("keras").logsf(np.array([1.0], "float32"))[0])
    -15.942384719848633
    """
    if isinstance(name, str) and name in _KNOWN:
        return _KNOWN[name]
    if name == "exact":
        raise ValueError("convention='exact' goes with raw outputs: say from_logits=True")
    raise ValueError(unknown("convention", name, CONVENTIONS))


def distribution(
    activation: str | Activation | None, from_logits: bool, convention: str | None = None
) -> Activation | Convention:
    """The `Activation` or `Convention` whose cdf, sf, logcdf and logsf a loss uses.

    For raw outputs the activation (None is "sigmoid"), for probabilities the convention (None is
    `DEFAULT`).

    Raises:
        ValueError: an unknown name; a convention for probabilities with from_logits=True;
            an activation together with from_logits=False.
        TypeError: from_logits is neither True nor False.
    """
    check_flag("from_logits", from_logits)
    if convention is not None and convention not in CONVENTIONS:
        get_convention(convention)
    if from_logits:
        if convention not in (None, "exact"):
            raise ValueError(
                f"convention={convention!r} goes with probabilities, got from_logits=True; "
                "say from_logits=False and pass probabilities"
            )
        return get_activation("sigmoid" if activation is None else activation)
    if activation is not None:
        raise ValueError(
            f"activation={activation!r} goes with raw outputs, got from_logits=False, "
            "which says that y_pred is activated already; leave out one of the two"
        )
    return get_convention(DEFAULT if convention is None else convention)
