"""Words for a name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """`unknown loss dise; did you mean dice? One of dice, jaccard`."""
    choices = list(known)
    near = get_close_matches(str(name), choices, 1, 0.4)
    hint = f"did you mean {near[0]}? One" if near else "wanted one"
    return f"unknown {kind} {name}; {hint} of {', '.join(choices)}"
