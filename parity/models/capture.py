"""Running a Keras model and a PyTorch module in inference mode, and what went through the layers.

Both are left as they were, on an error too: the training mode, no hook, no replaced method.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.keras_layers import kind_of_layer, named_layers, sublayers
from parity.weights.pytorch_layers import kind_of_module, leaf_modules


@dataclass
class Call:
    """One call of a layer without layers of its own. `input` and `output`, in the framework's own
    layout, are kept of layers of a known kind; the output is what an `activation=` gets."""

    name: str
    layer: Any
    input: Array | None = None
    output: Array | None = None

    @property
    def label(self) -> str:
        """Name and class."""
        return f"{self.name} ({type(self.layer).__name__})"


def flat(outputs: Any) -> list[Any]:
    """The tensors of nested tuples, lists and dictionaries (by their keys' order), one by one."""
    if isinstance(outputs, dict):
        return [one for key in sorted(outputs) for one in flat(outputs[key])]
    if isinstance(outputs, tuple | list):
        return [one for part in outputs for one in flat(part)]
    return [outputs]


def keras_array(tensor: Any) -> Array:
    """A copy of a tensor of the Keras backend, in its own precision."""
    import ml_dtypes  # Keras needs it too
    from keras import ops

    array = np.array(ops.convert_to_numpy(tensor))
    return array.astype(ml_dtypes.bfloat16) if "bfloat16" in str(tensor.dtype) else array


def torch_array(tensor: Any) -> Array:
    """A copy of a PyTorch tensor, in its own precision: what comes later may change the tensor in
    place."""
    import ml_dtypes

    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return np.array(tensor)
    return np.asarray(tensor.float()).astype(ml_dtypes.bfloat16)


def _kept(as_array: Callable[[Any], Array], tensor: Any) -> Array | None:
    """The numbers of a tensor; None inside of a traced loop or map, where it has none."""
    try:
        return as_array(tensor)
    except Exception:  # every framework has its own; the model itself is not to fail by it
        return None


# Keras


def run_keras(model: Any, inputs: Sequence[Array], calls: list[Call] | None = None) -> list[Array]:
    """The outputs of a Keras model with `training=False`; appends to `calls` as layers finish."""
    tensors = [_to_keras(model, one) for one in inputs]
    with ExitStack() as stack:
        if calls is not None:
            stack.enter_context(_eagerly())
            for name, operation in _keras_leaves(model):
                stack.enter_context(_watched(operation, name, calls))
        outputs = model(tensors[0] if len(tensors) == 1 else tensors, training=False)
    return [keras_array(one) for one in flat(outputs)]


def _to_keras(model: Any, array: Array) -> Any:
    """A tensor of the backend, in float64 only if the model has such weights."""
    from keras import ops

    double = any("float64" in str(weight.dtype) for weight in model.weights)
    return ops.convert_to_tensor(array, "float64" if double and array.dtype.kind == "f" else None)


@contextmanager
def _eagerly() -> Iterator[None]:
    """On TensorFlow, run what is compiled with `tf.function` eagerly, where layers give numbers."""
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
    """Layers without layers of their own, and the operations of functional models."""
    for name, layer in named_layers(model):
        if kind_of_layer(layer) or not sublayers(layer):
            yield name, layer
        for operation in getattr(layer, "operations", []):
            if not hasattr(operation, "weights"):
                yield operation.name, operation


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of the object itself, past every framework's own bookkeeping, for a while."""
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
def _watched(operation: Any, name: str, calls: list[Call]) -> Iterator[None]:
    call: Any = operation.call
    activation: Any = getattr(operation, "activation", None)
    known = bool(kind_of_layer(operation))
    before_activation: list[Any] = []

    def watched_call(*args: Any, **kwargs: Any) -> Any:
        before_activation.clear()
        output = call(*args, **kwargs)
        found = Call(name, operation)
        if known:
            found.input = _kept(keras_array, args[0] if args else next(iter(kwargs.values())))
            last = before_activation[0] if before_activation else output
            found.output = _kept(keras_array, last)
        calls.append(found)
        return output

    def watched_activation(x: Any, *args: Any, **kwargs: Any) -> Any:
        before_activation.append(x)
        return activation(x, *args, **kwargs)

    with _replaced(operation, "call", watched_call), ExitStack() as stack:
        if known and activation is not None:
            stack.enter_context(_replaced(operation, "activation", watched_activation))
        yield


# PyTorch


def run_pytorch(
    module: Any, inputs: Sequence[Array], calls: list[Call] | None = None
) -> list[Array]:
    """The outputs of a PyTorch module in eval mode without gradients, on its own device and in its
    own precision; appends to `calls` as modules finish."""
    original = getattr(module, "_orig_mod", module)
    if calls is not None and original is not module:  # hooks would have it compiled anew
        _run_pytorch(original, inputs, calls)
        calls = None
    return [torch_array(one) for one in flat(_run_pytorch(module, inputs, calls))]


def _run_pytorch(module: Any, inputs: Sequence[Array], calls: list[Call] | None) -> Any:
    import torch

    modes = [(one, one.training) for one in module.modules()]
    hooks = []
    try:
        if calls is not None:
            for name, one in leaf_modules(module):
                hook = _hook(name, calls)
                hooks.append(one.register_forward_hook(hook, with_kwargs=True))
        module.eval()
        with torch.no_grad():
            return module(*(to_torch(module, one) for one in inputs))
    finally:
        for handle in hooks:
            handle.remove()
        for one, training in modes:
            one.training = training


def to_torch(module: Any, array: Array) -> Any:
    """A tensor on the module's device; floating numbers in the precision of its weights."""
    import torch

    tensor = torch.from_numpy(np.array(array, order="C"))
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is None:
        return tensor
    return tensor.to(weight.device, weight.dtype if tensor.is_floating_point() else None)


def _hook(name: str, calls: list[Call]) -> Any:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        found = Call(name, module)
        if kind_of_module(module):
            found.input = _kept(torch_array, args[0] if args else next(iter(kwargs.values())))
            found.output = _kept(torch_array, output)
        calls.append(found)

    return hook
