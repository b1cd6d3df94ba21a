"""Forwards that a user wrote: of a layer of a known kind, or of a module that contains it.

A `class ConvReLU(nn.Conv2d)` has the weights of its kind, but its forward may do more: apply an
activation, pad the input. A model's forward may call a function that pads between two layers.
(Keras calls a forward `call`.)
"""

import dis
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import CodeType
from typing import Any

from parity.weights.layer import is_pytorch

_PADS = {"pad", "constant_pad_nd"}
_CROPS = _PADS | {"crop", "center_crop", "narrow"}
_SLICES = {"BUILD_SLICE", "BINARY_SLICE"}
_FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "numpy")


def own_forward(module: Any) -> bool:
    """Whether the forward of a PyTorch module of a known kind is not that of PyTorch's class."""
    return _differs(module, "forward", "torch.nn")


def own_call(layer: Any) -> bool:
    """Whether the call of a Keras layer of a known kind is not that of Keras's class."""
    return _differs(layer, "call", "keras")


def stock_forward(module: Any) -> Callable[[Any], Any]:
    """The forward of PyTorch's class, bound to this module."""
    return lambda x: _stock(module, "torch.nn").forward(module, x)


def stock_call(layer: Any) -> Callable[[Any], Any]:
    """The call of Keras's class, bound to this layer."""
    return lambda x: _stock(layer, "keras").call(layer, x)


def _stock(layer: Any, package: str) -> Any:
    """The first class in the MRO of a layer that the framework itself defines."""
    return next(
        one for one in type(layer).__mro__ if f"{one.__module__}.".startswith(f"{package}.")
    )


def _differs(layer: Any, method: str, package: str) -> bool:
    if method in vars(layer):
        return True
    return getattr(type(layer), method) is not getattr(_stock(layer, package), method)


# Reshaping


def calls_one_of(module: Any, words: set[str]) -> bool:
    """Whether a PyTorch module, or one inside it, has a class with one of these names, or a forward
    of its own that calls a function with one of them."""
    scan = _Scan(words, slices=False)
    return any(type(one).__name__ in words or scan.finds(one) for one in module.modules())


# Padding by functions


def may_pad(layer: Any, owners: Iterable[Any], kind: str) -> bool:
    """Whether a function may pad the input of a convolution (or crop the output of a transposed
    one): in its own forward, in that of a module that contains it (`owners`), or in that of a
    module without weights next to it.

    It reads the names of the functions that these forwards call, and does not run them.
    """
    words, slices = (_CROPS, True) if kind == "conv_transpose" else (_PADS, False)
    scan = _Scan(words, slices)
    return scan.finds(layer) or any(
        scan.finds(one) for owner in owners for one in (owner, *_without_weights(owner))
    )


def is_padded_by_operation(layer: Any) -> bool:
    """Whether `keras.ops.pad` comes right before a layer of a functional model."""
    sources = (t for node in layer._inbound_nodes for t in node.input_tensors)
    return any(type(one._keras_history.operation).__name__ == "Pad" for one in sources)


def _without_weights(owner: Any) -> list[Any]:
    """The modules or layers directly inside that have no weights."""
    if is_pytorch(owner):
        return [one for one in owner.children() if next(one.parameters(), None) is None]
    inside = owner._flatten_layers(include_self=False, recursive=False)
    return [one for one in inside if not one.weights]


class _Scan:
    """Searches for names in the code of forwards and of the functions that they call.

    `slices`: a slice counts, too.
    """

    def __init__(self, words: set[str], slices: bool) -> None:
        self.words, self.slices = words, slices
        self.seen: dict[Any, bool] = {}

    def finds(self, owner: Any) -> bool:
        """Whether the forward of a module, or the call of a layer, contains one of the names."""
        method = "forward" if is_pytorch(owner) else "call"
        return self._in_function(vars(owner).get(method) or getattr(type(owner), method), owner)

    def _in_function(self, function: Any, owner: Any) -> bool:
        function = inspect.unwrap(getattr(function, "__func__", function))
        code = getattr(function, "__code__", None)
        name, module = (str(getattr(function, of, "")) for of in ("__name__", "__module__"))
        if name in self.words:
            return True
        if code is None or module.partition(".")[0] in _FRAMEWORKS:
            return False
        if function not in self.seen:
            self.seen[function] = False  # while it is searched: it may call itself
            self.seen[function] = self._in_code(function, code, owner)
        return self.seen[function]

    def _in_code(self, function: Any, code: CodeType, owner: Any) -> bool:
        names = {name for one in _codes(code) for name in one.co_names}
        if names & self.words or (self.slices and any(map(_has_slice, _codes(code)))):
            return True
        called = [function.__globals__[name] for name in names if name in function.__globals__]
        called += [getattr(type(owner), name) for name in names if hasattr(type(owner), name)]
        called += [vars(owner)[name] for name in names if name in vars(owner)]
        with suppress(ValueError):  # a cell that is still empty
            called += [cell.cell_contents for cell in function.__closure__ or ()]
        called = [one.func if isinstance(one, partial) else one for one in called]
        return any(self._in_function(one, owner) for one in called if inspect.isroutine(one))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the functions defined in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def _has_slice(code: CodeType) -> bool:
    return any(one.opname in _SLICES for one in dis.get_instructions(code))
