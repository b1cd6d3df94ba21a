"""Whether two functions are one definition, made twice: a notebook's cell that is run again."""

from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

# What a function does, without where its source stands.
_OF_CODE = (
    *("co_code", "co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"),
)
_PLAIN = (bool, int, float, complex, str, bytes, frozenset)


def same(one: Any, other: Any) -> bool:
    """Whether both are the same object, or functions (or plain values) of the same content.

    Functions: the same code, defaults and enclosed values, in the same module; what their names
    stand for is looked up at each call and may change.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, _PLAIN):
        return repr(one) == repr(other)  # so that 0.0 is not -0.0
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, CodeType):
        return all(same(getattr(one, name), getattr(other, name)) for name in _OF_CODE)
    if isinstance(one, FunctionType):
        try:
            parts = [
                (f.__code__, f.__defaults__, f.__kwdefaults__, _enclosed(f)) for f in (one, other)
            ]
            return one.__globals__ is other.__globals__ and same(*parts)
        except (RecursionError, ValueError):  # it encloses itself, or what is not there yet
            return False
    if isinstance(one, partial):
        return same((one.func, one.args, one.keywords), (other.func, other.args, other.keywords))
    if isinstance(one, MethodType):
        return one.__self__ is other.__self__ and same(one.__func__, other.__func__)
    return False


def _enclosed(function: FunctionType) -> list[Any]:
    """The values of the variables around a function that it uses."""
    return [cell.cell_contents for cell in function.__closure__ or ()]
