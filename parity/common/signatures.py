"""Finds which of a function's first two parameters are the outputs and which the targets.

It is read from their names. `y` can be either: with `x` it is the target, with `t` the output. If
the names do not show it, the outputs come first, and `Order.doubt` says so.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_PREDICTION, _TARGET = "prediction", "target"

# Words that decide in any name: `true_mask` is a target, `mask_pred` a prediction.
_STRONG = {
    **dict.fromkeys(("true", "truth", "groundtruth", "gt", "target", "actual"), _TARGET),
    **dict.fromkeys(("pred", "predicted", "prediction", "hat", "estimate", "output"), _PREDICTION),
    **dict.fromkeys(("logit", "prob", "probability", "probabilities", "score"), _PREDICTION),
}
_WEAK = {
    **dict.fromkeys(("label", "mask", "annotation", "segmentation"), _TARGET),
    **dict.fromkeys(("x", "z", "p", "input", "raw"), _PREDICTION),
}
_METHODS = ("forward", "call", "update_state", "update")
"""The method with the parameters of a module, layer or metric; its `__call__` takes any."""


@dataclass(frozen=True)
class Order:
    """How a function's parameters are read; `certain` if both of the first two names are known.

    `parameters` are the names of the positional ones; empty without a signature.
    """

    targets_first: bool = False
    certain: bool = False
    parameters: tuple[str, ...] = ()

    def doubt(self, name: str) -> str:
        """What was assumed about the function, and how to correct it; empty if nothing was."""
        if self.certain:
            return ""
        shown = f"({', '.join(self.parameters[:2])})" if len(self.parameters) > 1 else ""
        which = "targets" if self.targets_first else "outputs"
        return (
            f"{name}{shown} was given the {which} first, and its parameters do not say whether "
            f"that is right: parity.Function(..., targets_first={not self.targets_first}) is the "
            "other way round"
        )


KNOWN = Order(certain=True)
"""The order of a callable without readable parameters."""


def order(function: Callable[..., Any], targets_first: bool | None = None) -> Order:
    """How the function's parameters are read, or what the user said about them."""
    names = parameters(function)
    if targets_first is not None:
        return Order(targets_first, True, names)
    return Order(*read(names), names)


def read(names: Sequence[str]) -> tuple[bool, bool]:
    """Whether the targets come first in parameters with these names, and whether that is certain.

    >>> read(["y_true", "y_pred"]), read(["y", "t"]), read(["labels", "b"]), read(["a", "b"])
    ((True, True), (False, True), (True, False), (False, False))
    """
    one, two = [*names, "", ""][:2]
    (first, _), (second, strong) = _kind(one), _kind(two)
    if first == _TARGET:
        return second != _TARGET, second == _PREDICTION
    if first == _PREDICTION:
        return False, second in (_TARGET, "y", "t")
    if first == "y":
        return second == _PREDICTION, strong or second == "t"
    return second == _PREDICTION and strong, False


def _kind(name: str) -> tuple[str, bool]:
    """What a parameter takes, by its name, and whether the name is clear.

    A prediction, a target, `y` or `t` (which depend on the other name), or unknown.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    plain = {_singular(word.lower()) for word in words}
    if len(plain) == 1 and plain <= {"y", "t"}:
        return plain.pop(), False
    for known, strong in ((_STRONG, True), (_WEAK, False)):
        kinds = {known[word] for word in plain if word in known}
        if kinds:
            return (kinds.pop(), strong) if len(kinds) == 1 else ("", False)
    return "", False


def _singular(word: str) -> str:
    """`labels` is `label`, and `ytrue` is `true`."""
    for found in (word, word.removesuffix("s"), word.removeprefix("y")):
        if found in _STRONG or found in _WEAK:
            return found
    return word


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the positional parameters, in order; empty if they cannot be read.

    For a module, layer or metric those of its own method.
    """
    function = getattr(function, "_orig_mod", function)  # a function from torch.compile
    methods = (getattr(function, name, None) for name in _METHODS)
    found = (_positional(each) for each in (function, *methods) if each is not None)
    return next(filter(None, found), ())


def _positional(function: Any) -> tuple[str, ...]:
    schema: Any = getattr(function, "schema", None)  # a function from torch.jit.script
    if hasattr(schema, "arguments"):
        return tuple(a.name for a in schema.arguments if a.name != "self")
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in, or without a signature
        return ()
    return tuple(p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
