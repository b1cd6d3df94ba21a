"""The adapter of `segact_tf` on any Keras backend: eager, except for most cases on JAX."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from parity.frameworks import autodiff
from parity.frameworks.autodiff import check_device, differentiate
from parity.judge.adapters import Evaluate, parts_of, wanted
from parity.suite.case import NO_ACTIVATION, Case
from segact_tf import activations, losses

_UNCOMPILED = ("volume", "linear", "all-off")
"""On JAX, the input sets that are evaluated eagerly: compiling all would take minutes.

The grids, the batches, the conventions and the dense sweep are compiled.
"""

Tensor = Any
Function = Callable[..., Tensor]


def _stock(case: Case) -> Function:
    """Keras's own loss of every element, on one output unit with or without a sigmoid.

    On TensorFlow the sigmoid stores its raw outputs on the tensor and the loss uses those.
    """
    from_logits = case.quantity == "stock_from_logits"
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits, reduction="none")
    head = (lambda x: x) if from_logits else keras.ops.sigmoid
    return lambda x, y: loss(y[:, None], head(x[:, None]))


def _mean(loss: Tensor) -> Tensor:
    """The mean of the losses of groups, in their dtype (`keras.ops.mean` may narrow it)."""
    return keras.ops.sum(loss) / math.prod(loss.shape) if loss.shape else loss


def _loss(case: Case) -> Function:
    """A loss with the options of the case, as a function of x, y and perhaps weights."""
    name = "mean_squared_error" if case.quantity == "squared_error" else case.quantity
    options = dict(case.keywords)
    if case.convention:
        options |= {"from_logits": False, "convention": case.convention}
    elif case.activation != NO_ACTIVATION:
        options["activation"] = activations.get_activation(case.activation, epsilon=case.epsilon)
    if name in ("binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"):
        options["axis"] = None if case.reduced else ()
    loss = partial(getattr(losses, name), **options)

    def of_weights(x: Tensor, y: Tensor, *weight: Tensor) -> Tensor:
        found = loss(y, x, **dict(zip(("sample_weight",), weight, strict=False)))
        return _mean(found) if case.reduced else found

    return of_weights


def _function(case: Case) -> Function:
    """The quantity of the case, as a function of the arguments of the case."""
    if case.quantity.startswith("stock"):
        return _stock(case)
    if case.is_loss:
        return _loss(case)
    activation = activations.get_activation(case.activation, epsilon=case.epsilon)
    method: Function = getattr(activation, case.quantity)
    return method


def load(device: str) -> Evaluate:
    """The function that evaluates a case with `segact_tf` on the backend Keras runs on."""
    backend = keras.backend.backend()
    check_device(backend, device)
    kept: dict[Case, autodiff.Evaluate] = {}

    def differentiated(case: Case) -> autodiff.Evaluate:
        if backend != "jax" or case.inputs.startswith(_UNCOMPILED):
            return differentiate(backend, _function(case), wanted(case), device=device)
        # targets are an argument, so one compilation is enough for all targets and sets
        key = replace(case, inputs="", option="" if case.option.startswith("y=") else case.option)
        if key not in kept:
            both = (0, 1) if case.is_loss and len(case.parts) > 1 else wanted(case)
            kept[key] = differentiate(backend, _function(case), both, compiled=True)
        return kept[key]

    return lambda case, inputs: parts_of(case, inputs, differentiated(case))
