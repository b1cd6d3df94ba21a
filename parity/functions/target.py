"""A callable by its import path, `MODULE:NAME`, and the path of a callable."""

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from parity.common.naming import nearest, unknown
from parity.functions.function import Function, name_of


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _split_keywords(target: str, keywords: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path, and the keyword arguments, also those in parentheses after it."""
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

    A class is constructed with the keyword arguments, any other callable gets them at every call;
    they may also follow the name, as literals: `mypkg.losses:focal(gamma=1.5)`. Raises `ValueError`
    if there is no such module or name, it is not callable, or does not take a keyword.
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
    """The path by which another process finds a function: `MODULE:NAME`, or `FILE:NAME`.

    Raises `TypeError` for a lambda, a function inside of another, a method, or an object.
    """
    name = getattr(function, "__qualname__", "")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    bound = inspect.ismethod(function) and not isinstance(function.__self__, type)
    if not name or "<" in name or module is None or bound:
        raise TypeError(
            f"{name_of(function)} cannot be found by another process; wanted a function or class "
            "at the top of a module, or its path as text, such as 'mypkg.losses:focal'"
        )
    try:
        spec = importlib.util.find_spec(module.__name__)
    except (ImportError, ValueError):
        spec = None
    found = spec is not None and module.__name__ != "__main__" and spec.origin == file
    return f"{module.__name__ if found else file}:{name}"
