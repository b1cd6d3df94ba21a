"""What a PyTorch module computes, from a call on fake tensors: `parity.weights.trace`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from parity.weights.compound import suffixes
from parity.weights.computed import as_in_eval
from parity.weights.layer import Layer
from parity.weights.parts import handle
from parity.weights.pytorch_layers import kind_of_module, known_module, loose_parameters
from parity.weights.trace import BATCH, Shape, Trace, Value

Specs = Sequence[tuple[Shape, str]]
_STEPS = 16
_SIDES = (224, 64, 32, 28, 96, 128, 299, 16)


def trace_pytorch(module: Any, specs: Specs, moved: set[int]) -> Trace | None:
    """The trace of a call in eval mode, or None if the module cannot be called on these inputs.

    `specs`: the inputs of the Keras model; `moved`: the numbers of axes of images whose channels
    PyTorch may have first. Channels first are tried first; integers are tried last.
    """
    if not specs:
        return None
    first = [(_first(shape) if len(shape) in moved else shape, dtype) for shape, dtype in specs]
    original = getattr(module, "_orig_mod", module)
    tried: list[Any] = []
    for given in (first, list(specs)):
        layout = "channels_first" if given is first else ""
        for whole in (False, True):
            inputs = [(shape, "int64" if whole or "int" in d else "") for shape, d in given]
            if inputs not in tried:
                tried.append(inputs)
                found = _attempt(original, inputs, layout)
                if found is not None:
                    return found
    return None


def _attempt(module: Any, inputs: list[tuple[Shape, str]], layout: str) -> Trace | None:
    """A trace on fake tensors, or else on real ones, since a module may need the numbers."""
    for fake in (True, False):
        # a module may raise any exception
        with _silenced(), suppress(Exception):
            return _traced(module, inputs, layout, fake)
    return None


@contextmanager
def _silenced() -> Iterator[None]:
    """A context without PyTorch's log of shapes that do not fit, which inputs on trial cause."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    silent = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = silent


def trace_by_layers(module: Any, layers: Sequence[Layer], partial: bool = False) -> Trace | None:
    """The trace of a call if the inputs of the module are not known: a few shapes that its layers
    could take are tried; None if it takes none of them. `partial`: a trace without outputs is
    enough, up to where the call fails: a Dense may take only images of one size."""
    original = getattr(module, "_orig_mod", module)
    for shape, dtype in _likely_inputs(layers):
        with _silenced(), suppress(Exception):
            return _traced(original, [(shape, dtype)], "channels_first", True, partial)
    return None


def _likely_inputs(layers: Sequence[Layer]) -> Iterator[tuple[Shape, str]]:
    """Images for the first convolution, or else inputs for the first layer."""
    first = next((one for one in layers if one.kind == "conv"), layers[0] if layers else None)
    if first is None:
        return
    if first.kind == "embedding":
        yield (BATCH, _STEPS), "int64"
    elif "kernel" in first.arrays:
        kernel = first.arrays["kernel"]
        features = int(kernel.shape[-2] * first.settings.get("groups", 1))
        if first.kind != "conv":
            yield (BATCH, features), ""
            yield (BATCH, _STEPS, features), ""
            return
        for size in _SIDES:
            yield (BATCH, features, *[size] * (kernel.ndim - 2)), ""


def _first(shape: Shape) -> Shape:
    return (shape[0], shape[-1], *shape[1:-1])


def _traced(module: Any, specs: Specs, layout: str, fake: bool, partial: bool = False) -> Trace:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    modes = [(one, one.training) for one in module.modules()]
    with ExitStack() as stack:
        for one, was in modes:
            stack.callback(setattr, one, "training", was)
        module.eval()
        stack.enter_context(as_in_eval(module))
        if fake:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch.no_grad())
        weight = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        inputs = [
            torch.ones(shape, dtype=torch.int64 if dtype else weight.dtype, device=weight.device)
            for shape, dtype in specs
        ]
        calls = _Calls(inputs, layout)
        for one in module.modules():
            calls.holds(one)
            if known_module(one):
                hook = one.register_forward_pre_hook(calls.enter, with_kwargs=True, prepend=True)
                stack.callback(hook.remove)
                hook = one.register_forward_hook(calls.leave, with_kwargs=True)
                stack.callback(hook.remove)
        try:
            with _recording(calls):
                outputs = module(*inputs)
        except Exception:  # a module may raise any exception
            if not partial:
                raise
            outputs = []
    return Trace(calls.inputs, calls.values_in(outputs), calls.calls)


def _tensors(nested: Any) -> list[Any]:
    """The tensors in nested tuples, lists and dictionaries (by key), in order."""
    import torch

    if isinstance(nested, torch.Tensor):
        return [nested]
    if isinstance(nested, dict):
        return [one for key in sorted(nested, key=str) for one in _tensors(nested[key])]
    if isinstance(nested, tuple | list):
        return [one for part in nested for one in _tensors(part)]
    return []


class _Calls:
    """The values of tensors, and the calls of layers, in order."""

    def __init__(self, inputs: list[Any], layout: str) -> None:
        self.inputs = [
            Value(tuple(one.shape), "input", layout=layout if one.ndim > 3 else "")
            for one in inputs
        ]
        self.kept = list(inputs)  # an id is valid only while its tensor lives
        pairs = zip(inputs, self.inputs, strict=True)
        self.values = {id(one): value for one, value in pairs}
        self.calls: list[Value] = []
        self.inside: list[list[Value]] = []

    def known(self, *nested: Any) -> Any:
        for tensor in _tensors(list(nested)):
            if id(tensor) in self.values:
                yield id(tensor), self.values[id(tensor)]

    def holds(self, module: Any) -> None:
        """Records the parameters that a user's own module holds itself as tensors."""
        for name, parameter in loose_parameters(module).items():
            value = Value(tuple(parameter.shape), "parameter", layer=handle(module, name))
            self.put(parameter, value)
            self.calls.append(value)

    def put(self, tensor: Any, value: Value) -> None:
        self.kept.append(tensor)
        self.values[id(tensor)] = value

    def values_in(self, outputs: Any) -> list[Value]:
        return [value for _, value in self.known(outputs)]

    def enter(self, module: Any, args: Any, kwargs: Any) -> None:
        self.inside.append([value for _, value in self.known(args, kwargs)])

    def leave(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        sources = self.inside.pop()
        if self.inside:
            return
        name = type(module).__name__
        for index, tensor in enumerate(_tensors(output)):
            before = taken = sources
            for suffix in suffixes(module, keras=False):
                own = handle(module, suffix)
                value = Value(tuple(tensor.shape), name, before, own, _layout(module))
                if not suffix.endswith("_reverse"):
                    taken = before
                value.given = taken[0] if taken else None
                before = [value]
                if not index:
                    self.calls.append(value)
            self.put(tensor, value)


def _recording(calls: _Calls) -> Any:
    """A mode that records every call of PyTorch's functions, except inside layers with weights."""
    from torch.overrides import TorchFunctionMode

    class Recording(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            kwargs = kwargs or {}
            name = getattr(func, "__name__", str(func))
            before = {} if calls.inside else dict(calls.known(args, kwargs))
            output = func(*args, **kwargs)
            if before and not calls.inside:
                made = args[0] if name == "__setitem__" else output
                for index, tensor in enumerate(_tensors(made)):
                    written = name == "__setitem__"
                    run = _runner(func, args, kwargs, list(before), index, written)
                    sources = list(before.values())
                    calls.put(tensor, Value(tuple(tensor.shape), name, sources, run=run))
            return output

    return Recording()


def _layout(module: Any) -> str:
    """The layout of a layer's output: channels_first, channels_last or ""."""
    kind = kind_of_module(module)
    return "channels_first" if kind in ("conv", "conv_transpose") else ""


def _runner(func: Any, args: Any, kwargs: Any, places: list[int], index: int, written: bool) -> Any:
    """A function that computes an output of a recorded call from arrays in place of its inputs."""

    def run(*arrays: Any) -> Any:
        import torch

        given = {
            place: torch.from_numpy(np.array(array, order="C"))
            for place, array in zip(places, arrays, strict=True)
        }

        def filled_in(one: Any) -> Any:
            if isinstance(one, torch.Tensor):
                return given.get(id(one), one)
            if isinstance(one, tuple | list):
                inner = [filled_in(each) for each in one]
                return type(one)(*inner) if hasattr(one, "_fields") else type(one)(inner)
            if isinstance(one, dict):
                return {key: filled_in(each) for key, each in one.items()}
            return one

        real = filled_in(tuple(args)), filled_in(kwargs)
        with torch.no_grad():
            output = func(*real[0], **real[1])
        return _tensors(real[0][0] if written else output)[index].numpy()

    return run
