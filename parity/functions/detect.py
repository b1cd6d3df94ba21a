"""Which framework a callable is written in.

From what it is (a module, a layer, a loss) or, for a plain function, from the names it uses.
"""

import dis
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "numpy")

# the framework that a package is written in
_PACKAGES = {
    **dict.fromkeys(("torch", "segact_torch", "monai", "segmentation_models_pytorch"), "torch"),
    **dict.fromkeys(("torchmetrics", "torchvision", "kornia", "lightning"), "torch"),
    **dict.fromkeys(("keras", "segact_tf", "keras_hub"), "keras"),
    **dict.fromkeys(("tensorflow", "tf_keras"), "tensorflow"),
    **dict.fromkeys(("jax", "jaxlib", "optax", "flax", "equinox"), "jax"),
    **dict.fromkeys(("numpy", "scipy", "sklearn"), "numpy"),
}

_DEPTH = 4
"""How many calls deep a function's names are followed."""


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
    """What a Python function refers to: globals, what it closes over, annotations, defaults."""
    for code in _codes(function.__code__):
        used = [function.__globals__[n] for n in code.co_names if n in function.__globals__]
        yield from used
        for module in (thing for thing in used if isinstance(thing, ModuleType)):
            if not _root(module.__name__):  # of the user's own: what is taken from it
                yield from (getattr(module, n) for n in code.co_names if hasattr(module, n))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    yield from getattr(function, "__annotations__", {}).values()
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _of_module(function: Any, depth: int) -> set[str]:
    """Of a function that names no framework itself: what its module imports, NumPy apart."""
    if depth < _DEPTH:
        return set()
    modules = (value for value in function.__globals__.values() if isinstance(value, ModuleType))
    return {_root(module.__name__) for module in modules} - {"", "numpy"}


def _frameworks(thing: Any, depth: int = _DEPTH) -> set[str]:
    """The frameworks that an object is of, or that a function uses."""
    if isinstance(thing, ModuleType):
        return {_root(thing.__name__)} - {""}
    kind = thing if isinstance(thing, type) else type(thing)
    found = {_root(base.__module__) for base in kind.__mro__} - {""}
    if found or depth == 0:
        # a Keras layer is a torch module, too, where Keras runs on torch
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
    """The one framework of a callable; raises `TypeError` if it shows none or several."""
    found = _frameworks(thing)
    if len(found) > 1:  # NumPy serves in all others, and a backend in Keras
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
