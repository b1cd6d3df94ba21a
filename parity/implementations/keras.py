"""The adapter of `segact_tf` on any Keras backend, with that backend's own way to gradients.

TensorFlow: an eager `GradientTape`. JAX: `jax.vjp` under `jax.jit`. torch: autograd.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from parity.cases import Array, Case, Inputs
from parity.implementations import Evaluate, NoDevice
from segact_tf import activations, losses

Tensor = Any
Function = Callable[[Tensor, Tensor], Tensor]


def _stock(case: Case) -> Function:
    """Keras's own loss of every element, on a head of one unit with or without a sigmoid.

    On TensorFlow the sigmoid leaves its raw outputs on the tensor and the loss takes those.
    """
    from_logits = case.quantity == "stock_from_logits"
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits, reduction="none")
    head = (lambda x: x) if from_logits else keras.ops.sigmoid
    return lambda x, y: loss(y[:, None], head(x[:, None]))


def _mean(losses_of_samples: Tensor) -> Tensor:
    """The mean, in the dtype of the losses (`keras.ops.mean` may give a narrower one)."""
    return keras.ops.sum(losses_of_samples) / losses_of_samples.shape[0]


def _function(case: Case) -> Function:
    """The case's quantity as a function of x and y."""
    if case.quantity.startswith("stock"):
        return _stock(case)
    activation = activations.get_activation(case.activation, epsilon=case.epsilon)
    if not case.is_loss:
        method = getattr(activation, case.quantity)
        return lambda x, y: method(x)
    if case.quantity == "dice":
        if case.option == "per_sample":
            return lambda x, y: _mean(losses.dice(y, x, activation, per_sample=True))
        return lambda x, y: losses.dice(y, x, activation)
    cross_entropy = case.quantity == "binary_cross_entropy"
    loss = losses.binary_cross_entropy if cross_entropy else losses.mean_squared_error
    axis = None if case.reduced else ()
    return lambda x, y: loss(y, x, activation, axis=axis)


def _arrays(case: Case, inputs: Inputs) -> list[Array]:
    """x, and y if the case takes targets."""
    x = inputs["p" if case.quantity == "ppf" else "x"]
    return [x, case.targets(inputs)] if case.is_loss else [x]


def _tensorflow(device: str) -> Evaluate:
    import tensorflow as tf

    if device == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise NoDevice("tensorflow sees no CUDA device")

    def evaluate(case: Case, inputs: Inputs) -> dict[str, Array]:
        tensors = [tf.constant(array) for array in _arrays(case, inputs)]
        wanted = tensors[: len(case.parts) - 1]
        with tf.GradientTape() as tape:
            tape.watch(wanted)
            value = _function(case)(tensors[0], tensors[-1])
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(value, wanted, unconnected_gradients=zero)
        results = [value.numpy(), *(tf.convert_to_tensor(g).numpy() for g in gradients)]
        return dict(zip(case.parts, results, strict=True))

    return evaluate


def _jax(device: str) -> Evaluate:
    import jax

    if device == "cuda":
        try:
            jax.devices("gpu")
        except (RuntimeError, AssertionError) as error:  # by version: no backend, or none at all
            raise NoDevice("jax sees no CUDA device") from error
    compiled: dict[Case, Callable[..., Any]] = {}

    def value_and_gradients(case: Case, *tensors: Tensor) -> tuple[Tensor, ...]:
        value, pull = jax.vjp(lambda x, *y: _function(case)(x, *y or [x]), *tensors)
        return (value, *pull(jax.numpy.ones_like(value)))

    def value_alone(case: Case, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (_function(case)(tensors[0], tensors[-1]),)

    def evaluate(case: Case, inputs: Inputs) -> dict[str, Array]:
        # targets are an argument: one compilation serves every kind of target on every input set
        option = "" if case.option.startswith("y=") else case.option
        key = replace(case, inputs="", option=option)
        if key not in compiled:
            function = value_and_gradients if "grad_x" in case.parts else value_alone
            compiled[key] = jax.jit(partial(function, case))
        results = compiled[key](*_arrays(case, inputs))[: len(case.parts)]
        return dict(zip(case.parts, map(np.asarray, results), strict=True))

    return evaluate


def _torch(device: str) -> Evaluate:
    from parity.implementations import autograd

    autograd.check_device(device)
    return lambda case, inputs: autograd.evaluate_on(_function(case), device, case, inputs)


def load(device: str) -> Evaluate:
    """The function that evaluates a case with `segact_tf` on the backend Keras runs on."""
    backends = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    return backends[keras.backend.backend()](device)
