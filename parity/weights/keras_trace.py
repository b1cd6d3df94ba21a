"""What a Keras model computes, from a call on symbolic tensors: `parity.weights.trace`.

The layers are called as in the model's `call`, through nested models, blocks that a user wrote and
subclassed models; Keras records every operation. The nodes that it adds to the layers are removed
afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from parity.weights.compound import suffixes
from parity.weights.keras_layers import (
    input_shape,
    is_stock,
    known_layer,
    named_layers,
    own_weights,
    sublayers,
)
from parity.weights.parts import handle
from parity.weights.trace import Shape, Trace, Value, filled


def input_specs(model: Any) -> list[tuple[Shape, str]]:
    """The shapes (unknown sizes filled in) and dtypes of the inputs; [] if unknown."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        return [(filled(one.shape), str(one.dtype)) for one in inputs]
    shape = input_shape(model)
    if shape and all(isinstance(size, int | None) for size in shape):
        return [(filled(shape), str(model.compute_dtype))]
    return []


def trace_keras(model: Any) -> Trace | None:
    """The trace of a call in inference mode, or None if the model cannot be called on symbols."""
    import keras

    specs = input_specs(model)
    if not specs:
        return None
    layers = [layer for _, layer in named_layers(model)]
    operations = {id(one): one for layer in layers for one in getattr(layer, "operations", [])}
    operations |= {id(layer): layer for layer in layers}
    inputs = [keras.KerasTensor(shape, dtype) for shape, dtype in specs]
    inner: dict[int, Any] = {}
    with _nodes_kept(list(operations.values())), ExitStack() as stack:
        for layer in layers:
            if layer is not model and _is_composite(layer):
                stack.enter_context(_looked_into(layer, inner))
        try:
            outputs = _called(model, inputs)
            return _Reader(inputs, inner).trace(outputs)
        except Exception:  # a model may call functions of the backend, which take no symbols
            return None


def _called(model: Any, inputs: list[Any]) -> Any:
    if known_layer(model) or not sublayers(model):
        return model(inputs[0] if len(inputs) == 1 else inputs)
    functional = getattr(model, "_functional", model)  # of a Sequential
    if hasattr(functional, "_run_through_graph"):
        structure = functional._inputs_struct
        from keras import tree

        given = tree.pack_sequence_as(structure, inputs)
        return functional._run_through_graph(given, operation_fn=lambda operation: operation)
    return model.call(inputs[0] if len(inputs) == 1 else inputs)


def _is_composite(layer: Any) -> bool:
    """Whether to trace inside its `call`: a model, or a layer that is not one of Keras's."""
    return not known_layer(layer) and bool(sublayers(layer)) and not is_stock(layer)


@contextmanager
def _nodes_kept(operations: Sequence[Any]) -> Iterator[None]:
    """A context after which the layers have the same nodes as before."""
    before = [(one, len(one._inbound_nodes), len(one._outbound_nodes)) for one in operations]
    try:
        yield
    finally:
        for one, inbound, outbound in before:
            del one._inbound_nodes[inbound:]
            del one._outbound_nodes[outbound:]


@contextmanager
def _looked_into(layer: Any, inner: dict[int, Any]) -> Iterator[None]:
    """A context in which a layer runs its `call` on symbols; `inner` gets how outputs were made."""
    from keras import tree

    def symbolic_call(*args: Any, **kwargs: Any) -> Any:
        functional = getattr(layer, "_functional", layer)
        if hasattr(functional, "_run_through_graph"):
            outputs = functional._run_through_graph(args[0], operation_fn=lambda one: one)
        else:
            outputs = layer.call(*args, **kwargs)
        for tensor in tree.flatten(outputs):
            inner.setdefault(id(tensor), (tensor, tensor._keras_history))
        return outputs

    object.__setattr__(layer, "symbolic_call", symbolic_call)
    try:
        yield
    finally:
        object.__delattr__(layer, "symbolic_call")


class _Reader:
    """Converts the nodes that made symbolic outputs to values."""

    def __init__(self, inputs: list[Any], inner: dict[int, Any]) -> None:
        from keras import config

        self.inner = inner
        self.kept = inputs  # an id is valid only while its tensor lives
        image = str(config.image_data_format())
        self.inputs = [
            Value(tuple(one.shape), "input", layout=image if len(one.shape) > 3 else "")
            for one in inputs
        ]
        self.values = {id(one): value for one, value in zip(inputs, self.inputs, strict=True)}
        self.calls: list[Value] = []

    def trace(self, outputs: Any) -> Trace:
        from keras import tree

        # dictionaries are sorted by key, as in `tree.flatten`
        found = [self.value(one) for one in tree.flatten(outputs)]
        return Trace(self.inputs, found, self.calls)

    def value(self, tensor: Any) -> Value:
        waiting = [tensor]
        while waiting:  # not recursive: models are deep
            last = waiting[-1]
            if id(last) in self.values:
                waiting.pop()
                continue
            node, index = self._node(last)
            absent = [one for one in node.input_tensors if id(one) not in self.values]
            if absent:
                waiting += absent[::-1]
                continue
            self.kept.append(last)
            self.values[id(last)] = self._made(last, node, index)
            waiting.pop()
        return self.values[id(tensor)]

    def _node(self, tensor: Any) -> tuple[Any, int]:
        operation, node, index = self.inner.get(id(tensor), (None, tensor._keras_history))[1]
        return operation._inbound_nodes[node], index

    def _made(self, tensor: Any, node: Any, index: int) -> Value:
        operation = node.operation
        sources = [self.values[id(one)] for one in node.input_tensors]
        shape = tuple(tensor.shape)
        name = type(operation).__name__
        format_ = "" if name == "Flatten" else str(getattr(operation, "data_format", "") or "")
        value = Value(shape, name, sources, layout=format_, origin=str(operation.name))
        known = _known_layer(operation)
        if known is not None:
            return self._called(value, known)
        if hasattr(operation, "weights") and not is_stock(operation):
            value.sources = [*sources, *self._loose(operation)]
        if len(value.sources) == len(sources):
            value.run = _runner(node, index)
        return value

    def _called(self, value: Value, known: Any) -> Value:
        """The call of a layer with weights, part by part if it has several."""
        names = suffixes(known, keras=True)
        taken = value.sources[0] if value.sources else None
        for number, suffix in enumerate(names):
            own = handle(known, suffix)
            last = number == len(names) - 1
            one = value if last else Value(value.shape, value.operation, value.sources)
            one.layer = own
            one.given = value.given or (taken if suffix == "backward" else None)
            if not any(c.layer is own and c.sources == one.sources for c in self.calls):
                self.calls.append(one)
            if not last:
                value.sources = [one]
        return value

    def _loose(self, layer: Any) -> list[Value]:
        """The weights that a user's own layer holds itself, as tensors without sources."""
        found = []
        for name, weight in own_weights(layer).items():
            own = handle(layer, name)
            one = next((c for c in self.calls if c.layer is own), None)
            if one is None:
                one = Value(tuple(weight.shape), "parameter", layer=own)
                self.calls.append(one)
            found.append(one)
        return found


def _known_layer(operation: Any) -> Any:
    """The layer with weights that an operation is, or the only layer that it wraps."""
    if known_layer(operation):
        return operation
    if not hasattr(operation, "_flatten_layers"):
        return None
    found = [layer for _, layer in named_layers(operation) if known_layer(layer)]
    return found[0] if len(found) == 1 else None


def _runner(node: Any, index: int) -> Any:
    """A function that computes an output of a node from arrays in place of symbolic inputs."""
    symbols = list(node.input_tensors)
    args, kwargs = node.arguments.args, node.arguments.kwargs

    def run(*arrays: Any) -> Any:
        from keras import ops, tree

        given = {id(s): ops.convert_to_tensor(a) for s, a in zip(symbols, arrays, strict=True)}

        def filled_in(one: Any) -> Any:
            return given.get(id(one), one)

        real = tree.map_structure(filled_in, args), tree.map_structure(filled_in, kwargs)
        outputs = node.operation(*real[0], **real[1])
        return np.asarray(ops.convert_to_numpy(tree.flatten(outputs)[index]))

    return run
