"""The head of a network: an activation, a loss, and perhaps a convention.

`TorchHead` and `KerasHead` are mirrors. Without a convention (or with `exact`) the loss is computed
from raw outputs; with one, from the probabilities of the activation, as the convention does it.
"""

import contextlib
import importlib
import math
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.naming import class_name, unknown
from parity.suite.case import ACTIVATIONS, CONVENTIONS, REDUCED

CLIP = 1e-7
"""Keras clips probabilities this close to 0 and 1; for a sigmoid, raw outputs of +-16.118."""
_WITH_CONVENTION = ("binary_cross_entropy", "binary_focal_cross_entropy", "dice_cross_entropy")


class HeadError(ValueError):
    """An activation, loss or convention that cannot be used; the message is one line."""


def check_names(activation: str, loss: str, convention: str | None) -> None:
    """Raises `HeadError` for a name that is unknown, or does not fit the others."""
    for kind, name, known in (
        ("activation", activation if ":" not in activation else None, ACTIVATIONS),
        ("loss", loss, REDUCED),
        ("convention", convention, ("exact", *CONVENTIONS)),
    ):
        if name is not None and name not in known:
            raise HeadError(unknown(kind, name, known))
    if convention and loss not in _WITH_CONVENTION:
        raise HeadError(
            f"--convention {convention} goes with --loss {' or '.join(_WITH_CONVENTION)}, "
            f"not with {loss}"
        )


def imported(target: str) -> Any:
    """The object that `module:name` names; raises `HeadError`."""
    module, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise HeadError(f"--activation {target}: {error}") from error
    return found


class _Head:
    """What both have in common; `xp` is the namespace of their tensors' functions.

    Attributes:
        activation: of the framework's own package.
        convention: the name of a convention on probabilities, or None.
        limits: the raw outputs at which the activation is 1e-7 and 1 - 1e-7; infinite if it has
            no `ppf`.
    """

    def __init__(
        self,
        package: Any,
        xp: Any,
        activation: str,
        loss: str,
        convention: str | None,
        loss_options: dict[str, Any],
    ) -> None:
        check_names(activation, loss, convention)
        self.package, self.xp, self.name = package, xp, loss
        self.loss_options = loss_options
        self.activation = self._activation(activation)
        self.convention = None if convention == "exact" else convention
        self.limits, self._threshold = (-math.inf, math.inf), None
        with contextlib.suppress(NotImplementedError):  # an activation without a `ppf`
            self.limits = self.activation.effective_domain(CLIP)
            self._threshold = float(self.activation.ppf(self.tensor(np.array(0.5, np.float32))))

    def _activation(self, text: str) -> Any:
        """From a name or `module:name`: an activation of the framework, or a CDF to make one."""
        if ":" not in text:
            return self.package.get_activation(text)
        found = imported(text)
        if isinstance(found, self.package.Activation):
            return found
        foreign = any("Activation" in base.__name__ for base in type(found).__mro__)
        if foreign or isinstance(found, type) or not callable(found):
            raise HeadError(
                f"--activation {text}: a {type(found).__name__}; wanted an Activation of "
                f"{self.package.__name__}, or a function from raw outputs to probabilities"
            )
        return self.package.register_activation(text, found, replace=True)

    def _loss_options(self) -> dict[str, Any]:
        found = dict(self.loss_options)
        if self.convention:
            return found | {"from_logits": False, "convention": self.convention}
        return found if self.name == "lovasz_hinge" else found | {"activation": self.activation}

    def tensor(self, array: Array) -> Any:
        """A NumPy array as a tensor of the framework."""
        raise NotImplementedError

    def array(self, tensor: Any) -> Array:
        """A tensor of the framework as a NumPy array."""
        raise NotImplementedError

    def probabilities(self, raw: Array) -> Array:
        """The probabilities of raw outputs, both NumPy arrays."""
        return self.array(self.activation.cdf(self.tensor(raw)))

    def positive(self, raw: Any) -> Any:
        """Whether the prediction is class 1: a probability above 1/2."""
        if self._threshold is None:
            return self.activation.cdf(raw) > 0.5
        return raw > self._threshold

    def wrong(self, raw: Any, labels: Any) -> Any:
        """Whether the prediction differs from the label."""
        return self.positive(raw) != (labels > 0.5)

    def clipped(self, raw: Any) -> Any:
        """Whether the probability is within 1e-7 of 0 or 1."""
        return self.xp.logical_or(raw < self.limits[0], raw > self.limits[1])


class TorchHead(_Head):
    """The head in PyTorch; raises `HeadError`."""

    def __init__(
        self, activation: str, loss: str, convention: str | None = None, **loss_options: Any
    ) -> None:
        import torch

        import segact_torch

        super().__init__(segact_torch, torch, activation, loss, convention, loss_options)
        self._loss = getattr(segact_torch, f"{class_name(self.name)}Loss")(**self._loss_options())

    def tensor(self, array: Array) -> Any:
        """A NumPy array as a tensor."""
        return self.xp.from_numpy(np.ascontiguousarray(array))

    def array(self, tensor: Any) -> Array:
        """A tensor as a NumPy array."""
        found: Array = tensor.detach().cpu().numpy()
        return found

    def loss_of(self, raw: Any, targets: Any) -> Any:
        """The loss of any input and target, as `loss` computes it."""
        return self.loss(raw, targets)

    def loss(self, raw: Any, labels: Any) -> Any:
        """The loss of a batch, from raw outputs."""
        return self._loss(self.activation.cdf(raw) if self.convention else raw, labels)


class KerasHead(_Head):
    """The head in Keras; raises `HeadError`."""

    def __init__(
        self, activation: str, loss: str, convention: str | None = None, **loss_options: Any
    ) -> None:
        import keras

        import segact_tf

        super().__init__(segact_tf, keras.ops, activation, loss, convention, loss_options)
        name = class_name(self.name).replace("CrossEntropy", "Crossentropy")
        self._loss = getattr(segact_tf, name)(**self._loss_options())

    def tensor(self, array: Array) -> Any:
        """A NumPy array as a tensor."""
        return self.xp.convert_to_tensor(array)

    def array(self, tensor: Any) -> Array:
        """A tensor as a NumPy array."""
        found: Array = self.xp.convert_to_numpy(tensor)
        return found

    def loss_of(self, raw: Any, targets: Any) -> Any:
        """The loss of any input and target, as `loss` computes it; Keras has the targets first."""
        return self.loss(targets, raw)

    def loss(self, labels: Any, raw: Any) -> Any:
        """The loss of a batch, from raw outputs."""
        return self._loss(labels, self.activation.cdf(raw) if self.convention else raw)

    def keras_loss(self) -> Any:
        """The loss for Keras's `compile`."""
        import keras

        head = self

        class OfRawOutputs(keras.losses.Loss):
            def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
                return head.loss(y_true, y_pred)

        return OfRawOutputs(name=self.name)
