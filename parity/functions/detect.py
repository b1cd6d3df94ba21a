"""Detects the framework of a callable.

From its type (a module, a layer, a loss) or, for a plain function, from the names in its code.
"""

import dis
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "numpy")

# the framework to which a package belongs
_PACKAGES = {
    **dict.fromkeys(("torch", "segact_torch", "monai", "segmentation_models_pytorch"), "torch"),
    **dict.fromkeys(("torchmetrics", "torchvision", "kornia", "lightning"), "torch"),
    **dict.fromkeys(("keras", "segact_tf", "keras_hub"), "keras"),
    **dict.fromkeys(("tensorflow", "tf_keras"), "tensorflow"),
    **dict.fromkeys(("jax", "jaxlib", "optax", "flax", "equinox"), "jax"),
    **dict.fromkeys(("numpy", "scipy", "sklearn"), "numpy"),
}

_DEPTH = 4
"""The depth of calls to which a function's names are followed."""


def _root(module: str | None) -> str:
    """The framework of the package a module belongs to; empty for any other."""
    return _PACKAGES.get((module or "").partition(".")[0], "")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _imported(function: Any) -> set[str]:
    """The frameworks of what a Python function imports inside of itself."""
    instructions = (i for code in _codes(function.__code__) for i in dis.get_instructions(code))
    return {_root(str(i.argval)) for i in instructions if i.opname == "IMPORT_NAME"} - {""}


def _used(function: Any) -> Iterator[Any]:
    """The objects to which a Python function refers: globals, closure, annotations, defaults."""
    for code in _codes(function.__code__):
        used = [function.__globals__[n] for n in code.co_names if n in function.__globals__]
        yield from used
        for module in (thing for thing in used if isinstance(thing, ModuleType)):
            if not _root(module.__name__):  # a module of the user: the names that are used from it
                yield from (getattr(module, n) for n in code.co_names if hasattr(module, n))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from getattr(function, "__annotations__", {}).values()
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _of_module(function: Any, depth: int) -> set[str]:
    """For a function that uses no framework: those that its module imports, without NumPy."""
    if depth < _DEPTH:
        return set()
    modules = (value for value in function.__globals__.values() if isinstance(value, ModuleType))
    return {_root(module.__name__) for module in modules} - {"", "numpy"}


def _frameworks(thing: Any, depth: int = _DEPTH) -> set[str]:
    """The frameworks to which an object belongs, or that a function uses."""
    if isinstance(thing, ModuleType):
        return {_root(thing.__name__)} - {""}
    kind = thing if isinstance(thing, type) else type(thing)
    found = {_root(base.__module__) for base in kind.__mro__} - {""}
    if found or depth == 0:
        # with Keras on torch a Keras layer is also a torch module
        return {"keras"} if "keras" in found else found
    if isinstance(thing, functools.partial):
        parts = [thing.func, *thing.args, *thing.keywords.values()]
        return set().union(*(_frameworks(part, depth - 1) for part in parts))
    if inspect.ismethod(thing):
        return _frameworks(thing.__self__, depth - 1) | _frameworks(thing.__func__, depth - 1)
    if hasattr(thing, "__wrapped__"):
        return _frameworks(thing.__wrapped__, depth - 1)
    if root := _root(getattr(thing, "__module__", None)):
        return {root}
    if inspect.isfunction(thing):
        used = (_frameworks(other, depth - 1) for other in _used(thing))
        return _imported(thing).union(*used) or _of_module(thing, depth)
    if not isinstance(thing, type) and callable(thing) and inspect.isfunction(kind.__call__):
        state = getattr(thing, "__dict__", {}).values()
        return set().union(*(_frameworks(o, depth - 1) for o in (kind.__call__, *state)))
    return set()


def framework_of(thing: Callable[..., Any], name: str) -> str:
    """The framework of a callable; raises `TypeError` if none or several are detected."""
    found = _frameworks(thing)
    if len(found) > 1:  # NumPy is used with all others, and a backend with Keras
        found -= {"numpy"}
    if "keras" in found:
        import keras

        found -= {str(keras.backend.backend())}
    if len(found) == 1:
        return found.pop()
    what = "or its file uses " + " and ".join(sorted(found)) if found else "shows no framework"
    raise TypeError(
        f"{name} {what}; say which one its tensors are of: "
        f"parity.Function(f, framework=..., name=...), one of {', '.join(FRAMEWORKS)}"
    )
