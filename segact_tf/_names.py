"""The error message for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Says that a name is unknown, and suggests a similar known one, if there is one.

    >>> unknown("activation", "ArcTan", ["sigmoid", "arctan"])
    "unknown activation 'ArcTan'; did you mean 'arctan'? Known: sigmoid, arctan"
    >>> unknown("activation", "gelu", ["sigmoid", "linear"])
    "unknown activation 'gelu'; known: sigmoid, linear"
    """
    lower = {choice.lower(): choice for choice in known}
    near = get_close_matches(str(name).lower(), lower, 1)
    hint = f"did you mean {lower[near[0]]!r}? Known" if near else "known"
    return f"unknown {kind} {name!r}; {hint}: {', '.join(lower.values())}"
