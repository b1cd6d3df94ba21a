"""Whether two functions have the same definition, as after running a notebook's cell twice."""

from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

# What a function does, without the position of its source.
_OF_CODE = (
    *("co_code", "co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"),
)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def same(one: Any, other: Any) -> bool:
    """Whether both are the same object, or functions of the same content.

    That is, of the same code, defaults and closure, in the same module. Global names are looked up
    at each call; what they refer to is not compared.
    """
    try:
        return bool(_content(one) == _content(other))
    except (RecursionError, ValueError):  # it encloses itself, or a variable without a value yet
        return one is other


def _content(value: Any) -> Any:
    """What is compared for a value; for most objects their identity."""
    if isinstance(value, (tuple, list, frozenset)):
        return type(value), [_content(part) for part in value]
    if isinstance(value, dict):
        return _content(list(value.items()))
    if isinstance(value, CodeType):
        return [_content(getattr(value, name)) for name in _OF_CODE]
    if isinstance(value, FunctionType):
        enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, enclosed]
        return id(value.__globals__), _content(parts)
    if isinstance(value, partial):
        return _content([value.func, value.args, value.keywords])
    if isinstance(value, MethodType):
        return _content([value.__self__, value.__func__])
    return (type(value), repr(value)) if isinstance(value, _PLAIN) else id(value)
