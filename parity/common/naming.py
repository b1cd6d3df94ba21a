"""Names: the class of a loss, and the message for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name that was probably meant, ignoring case; empty if none is similar."""
    choices = {choice: choice for choice in known}
    near = get_close_matches(str(name), choices, 1)
    if not near:
        choices = {choice.lower(): choice for choice in choices}
        near = get_close_matches(str(name).lower(), choices, 1)
    return choices[near[0]] if near else ""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Says that a name is unknown, and which one may be meant.

    >>> unknown("loss", "dise", ["dice", "jaccard"])
    'unknown loss dise; did you mean dice? One of dice, jaccard'
    >>> unknown("loss", "mae", ["dice", "jaccard"])
    'unknown loss mae; wanted one of dice, jaccard'
    """
    choices = list(known)
    near = nearest(name, choices)
    hint = f"did you mean {near}? One" if near else "wanted one"
    return f"unknown {kind} {name}; {hint} of {', '.join(choices)}"


def class_name(loss: str) -> str:
    """The name of the class of a loss, without PyTorch's `Loss` at the end.

    >>> class_name("dice_cross_entropy")
    'DiceCrossEntropy'
    """
    return "".join(word.title() for word in loss.split("_"))
