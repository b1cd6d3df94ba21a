"""A user's function, wherever it comes from: which framework it is written in, and calling it.

`as_function` finds the framework from what a callable is (a module, a layer, a loss) or, for a
plain function, from the names it uses. `load_target` finds a callable by its import path.
"""

import ast
import dis
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from parity.engines import ENGINES, Evaluation, check_device
from parity.inputs import SEED, Array
from parity.naming import nearest, unknown
from parity.signatures import Order, order

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


def direction(shape: tuple[int, ...], dtype: str) -> Array:
    """What a value that is no single number is multiplied by before it is summed: seeded, in
    [1/2, 3/2), so that no gradient cancels as that of the sum of a softmax does.
    """
    if not shape:
        return np.ones(shape)
    return np.random.default_rng(SEED).uniform(0.5, 1.5, shape)


@dataclass(frozen=True)
class Function:
    """A callable with its framework; the arrays that it takes are tensors of that framework.

    `framework`: one of `FRAMEWORKS`; "keras" is Keras on the backend that it runs on here. `name`
    is what messages call it. Where `targets_first`, the second array is given first, as Keras's
    losses take it; None reads that from what the first two parameters are called.
    """

    call: Callable[..., Any]
    framework: str
    name: str
    targets_first: bool | None = None

    def __post_init__(self) -> None:
        if self.framework not in FRAMEWORKS:
            raise ValueError(unknown("framework", self.framework, FRAMEWORKS))

    @property
    def order(self) -> Order:
        """In which order the first two arrays are given."""
        return order(self.call, self.targets_first)

    @property
    def _engine(self) -> str:
        """The framework that computes."""
        if self.framework != "keras":
            return self.framework
        import keras

        backend = str(keras.backend.backend())
        if backend not in ENGINES:
            raise ValueError(f"{self.name}: Keras runs on {backend}; wanted one of {list(ENGINES)}")
        return backend

    @property
    def backend(self) -> str:
        """What Keras runs on, for one of Keras; else empty."""
        return self._engine if self.framework == "keras" else ""

    def evaluate(
        self, arrays: Sequence[Array], wanted: Sequence[int] = (), device: str = "cpu"
    ) -> Evaluation:
        """The value and the gradients in the arrays at the positions `wanted`.

        A gradient is None where there is none. An error of the function goes through, with a note
        that says whose it is.
        """

        order = self.order

        def given(values: Sequence[Any]) -> Sequence[Any]:
            if order.targets_first and len(values) > 1:
                return (values[1], values[0], *values[2:])
            return values

        def call(*tensors: Any) -> Any:
            return self.call(*given(tensors))

        try:
            check_device(self._engine, device)
            return ENGINES[self._engine](call, arrays, wanted, direction, device)
        except Exception as error:
            shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in given(arrays))
            error.add_note(f"in {self.name} ({self.framework}), given {shapes}")
            if len(arrays) > 1 and not order.certain:
                error.add_note(order.doubt(self.name))
            raise


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


def _framework(thing: Callable[..., Any], name: str) -> str:
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


def _name(thing: Any) -> str:
    """What to call it: `segact_torch.losses:dice` is `dice`, a loss or module its class's name."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    name = getattr(thing, "__name__", None) or type(thing).__name__
    return "lambda" if name == "<lambda>" else str(name)


def as_function(thing: Any, name: str = "") -> Any:
    """A callable as a `Function`; one that is a `Function` already (or acts as one) is returned.

    Raises `TypeError` for what cannot be called, for a class, and where the framework is not clear.
    """
    if hasattr(thing, "evaluate") and hasattr(thing, "framework"):
        return thing
    if not callable(thing):
        raise TypeError(f"{thing!r} cannot be called; wanted a function, module, layer or loss")
    name = name or _name(thing)
    if isinstance(thing, type):
        raise TypeError(f"{name} is a class; wanted an instance, {name}(...)")
    return Function(thing, _framework(thing, name), name)


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _split_keywords(target: str, keywords: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path, and the keywords with those that stand in parentheses behind it."""
    path, parenthesis, _ = target.partition("(")
    if not parenthesis:
        return target, keywords
    try:
        call = ast.parse(f"f{target[len(path) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        found = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{target}: wanted keywords with plain values in the parentheses, such as "
            f"{path}(gamma=1.5, reduction='none')"
        ) from None
    return path, keywords | found


def load_target(target: str, keywords: dict[str, Any] | None = None) -> Any:
    """The callable at `mypkg.losses:focal` or `path/to/file.py:focal`; imports it.

    A class is constructed with the keywords, and anything else gets them at every call; they may
    also stand behind the name, as literals: `mypkg.losses:focal(gamma=1.5)`. Raises `ValueError` if
    there is no such module or name, it cannot be called, or takes no such keyword.
    """
    path, keywords = _split_keywords(target, keywords or {})
    module_name, colon, attribute = path.rpartition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"{target}: wanted MODULE:NAME, such as mypkg.losses:focal")
    if module_name.endswith(".py"):
        if not Path(module_name).is_file():
            raise ValueError(f"{target}: there is no file {module_name}")
        module = _load_file(Path(module_name).resolve())
    else:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name + ".").startswith(error.name + "."):
                raise ValueError(f"{target}: there is no module {error.name}") from error
            raise
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = nearest(part, dir(found))
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(f"{target}: {module_name} has no {part}{hint}")
        found = getattr(found, part)
    if isinstance(found, Function) and not keywords:
        return found
    if not callable(found):
        raise ValueError(f"{target}: {attribute} cannot be called; it is {type(found).__name__}")
    _check_keywords(target, found, keywords)
    if isinstance(found, type):
        return found(**keywords)
    return functools.partial(found, **keywords) if keywords else found


def _check_keywords(target: str, thing: Callable[..., Any], keywords: dict[str, Any]) -> None:
    """Raises `ValueError` for a keyword that a callable does not take, where its signature says."""
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return
    if any(p.kind == p.VAR_KEYWORD for p in found):
        return
    known = [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for keyword in keywords:
        if keyword not in known:
            raise ValueError(f"{target}: {unknown('keyword', keyword, known)}")


def target_of(function: Callable[..., Any]) -> str:
    """Where another process finds a function: `MODULE:NAME`, or `FILE:NAME`.

    Raises `TypeError` for a lambda, a function inside of another, a method, or an object.
    """
    name = getattr(function, "__qualname__", "")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    bound = inspect.ismethod(function) and not isinstance(function.__self__, type)
    if not name or "<" in name or module is None or bound:
        raise TypeError(
            f"{_name(function)} cannot be found by another process; wanted a function or class at "
            "the top of a module, or its path as text, such as 'mypkg.losses:focal'"
        )
    try:
        spec = importlib.util.find_spec(module.__name__)
    except (ImportError, ValueError):
        spec = None
    found = spec is not None and module.__name__ != "__main__" and spec.origin == file
    return f"{module.__name__ if found else file}:{name}"
