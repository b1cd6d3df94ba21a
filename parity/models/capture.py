"""Runs a Keras model and a PyTorch module in inference mode, and keeps the arrays of layers.

Afterwards, even after an error, both have their training mode again, and no hook and no replaced
method is left.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.forward import own_call, own_forward, stock_call, stock_forward
from parity.weights.keras_layers import kind_of_layer, known_layer, named_layers, sublayers
from parity.weights.pytorch_layers import kind_of_module, leaf_modules


@dataclass
class Call:
    """One call of a layer without layers of its own.

    Arrays are in the framework's own layout. `input` and `output` are kept for layers of a known
    kind. The output is that of the kind: before an `activation=`, and before anything that a
    forward of the layer's own adds (or after it, if the two cannot be separated). `result` is the
    value that the call returned; it is kept on request, also for layers without weights.
    `own_forward`: the layer is of a known kind, but its class defines its own forward (in Keras:
    its own call).
    """

    name: str
    layer: Any
    input: Array | None = None
    output: Array | None = None
    result: Array | None = None
    own_forward: bool = False

    @property
    def label(self) -> str:
        """Name and class."""
        return f"{self.name} ({type(self.layer).__name__})"


Inputs = list[Array] | dict[str, Array]
Outputs = dict[str, Array]


def named(outputs: Any, name: str = "") -> dict[str, Any]:
    """The tensors of nested tuples, lists and dictionaries by their keys and numbers: `masks/0`."""
    if isinstance(outputs, dict):
        parts = [(str(key), part) for key, part in outputs.items()]
    elif isinstance(outputs, tuple | list):
        parts = [(str(number), part) for number, part in enumerate(outputs)]
    else:
        return {name: outputs}
    found: dict[str, Any] = {}
    for key, part in parts:
        found |= named(part, f"{name}/{key}" if name else key)
    return found


def keras_array(tensor: Any) -> Array:
    """A copy of a tensor of the Keras backend, in its own precision."""
    import ml_dtypes  # Keras needs it too
    from keras import ops

    array = np.array(ops.convert_to_numpy(tensor))
    return array.astype(ml_dtypes.bfloat16) if "bfloat16" in str(tensor.dtype) else array


def torch_array(tensor: Any) -> Array:
    """A copy of a PyTorch tensor, in its own precision: later operations may change the tensor in
    place."""
    import ml_dtypes

    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return np.array(tensor)
    return np.asarray(tensor.float()).astype(ml_dtypes.bfloat16)


def _kept(as_array: Callable[[Any], Array], tensor: Any) -> Array | None:
    """The numbers of a tensor; None inside a traced loop or map, where it has no numbers."""
    try:
        return as_array(tensor)
    except Exception:  # each framework has its own exception; the model must run on
        return None


def has_own_forward(keras_model: Any, torch_model: Any) -> bool:
    """Whether a layer of a known kind in either model has a forward of its own."""
    keras = (layer for _, layer in named_layers(keras_model) if kind_of_layer(layer))
    pytorch = (module for _, module in leaf_modules(torch_model) if kind_of_module(module))
    return any(map(own_call, keras)) or any(map(own_forward, pytorch))


# Keras


def run_keras(
    model: Any, inputs: Inputs, calls: list[Call] | None = None, results: bool = False
) -> Outputs:
    """The outputs of a Keras model with `training=False`; each layer's call is appended to `calls`.

    `results`: keeps the result of every layer, too.
    """
    tensors: Any
    if isinstance(inputs, dict):
        tensors = {key: _to_keras(model, one) for key, one in inputs.items()}
    else:
        tensors = [_to_keras(model, one) for one in inputs]
        tensors = tensors[0] if len(tensors) == 1 else tensors
    with ExitStack() as stack:
        if calls is not None:
            stack.enter_context(_eagerly())
            for name, operation in _keras_leaves(model):
                stack.enter_context(_watched(operation, name, calls, results))
        outputs = model(tensors, training=False)
    return {key: keras_array(one) for key, one in named(outputs).items()}


def _to_keras(model: Any, array: Array) -> Any:
    """A tensor of the backend, in float64 only if the model has such weights."""
    from keras import ops

    double = any("float64" in str(weight.dtype) for weight in model.weights)
    return ops.convert_to_tensor(array, "float64" if double and array.dtype.kind == "f" else None)


@contextmanager
def _eagerly() -> Iterator[None]:
    """On TensorFlow, runs functions of `tf.function` eagerly, so that tensors have numbers."""
    from keras import backend

    if backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _keras_leaves(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers of a known kind or without layers of their own, and the operations of functional
    models."""
    for name, layer in named_layers(model):
        if known_layer(layer) or not sublayers(layer):
            yield name, layer
        for operation in getattr(layer, "operations", []):
            if not hasattr(operation, "weights"):
                yield operation.name, operation


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replaces an attribute of an object for a while, without its class's `__setattr__`."""
    own = vars(owner)
    absent = object()
    before = own.get(name, absent)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if before is absent:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, before)


@contextmanager
def _watched(operation: Any, name: str, calls: list[Call], results: bool) -> Iterator[None]:
    call: Any = operation.call
    activation: Any = getattr(operation, "activation", None)
    known = bool(kind_of_layer(operation))
    own = known and own_call(operation)
    before_activation: list[Any] = []

    def watched_call(*args: Any, **kwargs: Any) -> Any:
        before_activation.clear()
        result = call(*args, **kwargs)
        found = Call(name, operation, own_forward=own)
        if results:
            found.result = _kept(keras_array, result)
        if known:
            given = args[0] if args else next(iter(kwargs.values()))
            found.input = _kept(keras_array, given)
            output = result
            if own:
                before_activation.clear()
                output = _attempted(stock_call(operation), given, result)
            last = before_activation[0] if before_activation else output
            found.output = _kept(keras_array, last)
        calls.append(found)
        return result

    def watched_activation(x: Any, *args: Any, **kwargs: Any) -> Any:
        before_activation.append(x)
        return activation(x, *args, **kwargs)

    with _replaced(operation, "call", watched_call), ExitStack() as stack:
        if known and activation is not None:
            stack.enter_context(_replaced(operation, "activation", watched_activation))
        yield


def _attempted(function: Callable[[Any], Any], given: Any, otherwise: Any) -> Any:
    """The result of a function, or `otherwise` if it raises."""
    try:
        return function(given)
    except Exception:  # the kind's forward takes other arguments or shapes
        return otherwise


# PyTorch


def run_pytorch(
    module: Any, inputs: Inputs, calls: list[Call] | None = None, results: bool = False
) -> Outputs:
    """The outputs of a PyTorch module in eval mode without gradients, on its own device and in its
    own precision; each module's call is appended to `calls`.

    `results`: keeps the result of every module, too.
    """
    original = getattr(module, "_orig_mod", module)
    if calls is not None and original is not module:  # hooks would make it compile again
        _run_pytorch(original, inputs, calls, results)
        calls = None
    outputs = named(_run_pytorch(module, inputs, calls, results))
    return {key: torch_array(one) for key, one in outputs.items()}


def _run_pytorch(module: Any, inputs: Inputs, calls: list[Call] | None, results: bool) -> Any:
    import torch

    args, kwargs = _arguments(module, inputs)
    modes = [(one, one.training) for one in module.modules()]
    hooks = []
    try:
        if calls is not None:
            for name, one in leaf_modules(module):
                hook = _hook(name, calls, results)
                hooks.append(one.register_forward_hook(hook, with_kwargs=True))
        module.eval()
        with torch.no_grad():
            return module(*args, **kwargs)
    finally:
        for handle in hooks:
            handle.remove()
        for one, training in modes:
            one.training = training


def _arguments(module: Any, inputs: Inputs) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of forward: a dictionary by keywords if it has such parameters, else whole."""
    if not isinstance(inputs, dict):
        return [to_torch(module, one) for one in inputs], {}
    tensors = {key: to_torch(module, one) for key, one in inputs.items()}
    original = getattr(module, "_orig_mod", module)
    try:
        inspect.signature(original.forward).bind(**tensors)
    except TypeError:
        return [tensors], {}
    return [], tensors


def to_torch(module: Any, array: Array) -> Any:
    """A tensor on the module's device; floating numbers in the precision of its weights."""
    import torch

    tensor = torch.from_numpy(np.array(array, order="C"))
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is None:
        return tensor
    return tensor.to(weight.device, weight.dtype if tensor.is_floating_point() else None)


def _hook(name: str, calls: list[Call], results: bool) -> Any:
    def hook(module: Any, args: Any, kwargs: Any, result: Any) -> None:
        known = bool(kind_of_module(module))
        found = Call(name, module, own_forward=known and own_forward(module))
        if results:
            found.result = _kept(torch_array, result)
        if known:
            given = args[0] if args else next(iter(kwargs.values()))
            found.input = _kept(torch_array, given)
            output = result
            if found.own_forward:
                output = _attempted(stock_forward(module), given, result)
            found.output = _kept(torch_array, output)
        calls.append(found)

    return hook
