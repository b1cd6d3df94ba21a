"""Why a loss is slower than its counterpart: a short list, whose first entry that fits is taken.

A cause that stands here was found by a profile or a count; what fits none is not known yet, and a
test of the committed run fails until it is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.cases import MIDDLE

if TYPE_CHECKING:
    from benchmarks.report import Row

EAGER = ("torch", "keras-torch")
"""The frameworks in which each call runs through Python."""


def _is_even(row: "Row") -> bool:
    return row.ratio[0] <= 1


def _is_short(row: "Row") -> bool:
    """Of few elements; where the loops serve, 100,000 are few."""
    few = row.elements < MIDDLE or (row.elements == MIDDLE and row.served == "cpu")
    return few and row.framework in EAGER


def _sorts(row: "Row") -> bool:
    return row.loss.startswith("lovasz")


def _has_more_operations(row: "Row") -> bool:
    """Where each operation is a pass over memory."""
    single = row.framework in ("keras-torch", "tensorflow") or row.served in ("formula", "compact")
    return single and (row.operations is None or row.operations[0] > row.operations[1])


def _needs_the_range(row: "Row") -> bool:
    return "linear" in row.options


def _has_more_arithmetic(row: "Row") -> bool:
    """Of the normal CDF, and wherever the counterpart has no other activation than the sigmoid."""
    return "normal_cdf" in row.options or not row.same


CAUSES: dict[str, tuple[str, Callable[["Row"], bool]]] = {
    "a": ("even: the lower quartile is at most 1", _is_even),
    "b": ("the call: checks of arguments and autograd's book-keeping, in Python", _is_short),
    "c": ("the sort, which the counterpart has, too, and exact sums beside it", _sorts),
    "d": ("a minimum and a maximum of the batch come first, a pass of their own", _needs_the_range),
    "e": ("more operations than the rounded formula's, each a pass over memory",
          _has_more_operations),
    "f": ("more arithmetic: the counterpart has the sigmoid, or an erf that loses the tail",
          _has_more_arithmetic),
}  # fmt: skip

UNKNOWN = "?"
WORDS = {letter: words for letter, (words, _) in CAUSES.items()}


def letter(row: "Row") -> str:
    """Of the cause; "?" where none is known."""
    return next((name for name, (_, fits) in CAUSES.items() if fits(row)), UNKNOWN)


def words(row: "Row") -> str:
    """The cause."""
    return WORDS.get(letter(row), "not known")
