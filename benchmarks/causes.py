"""Why a loss is slower than its counterpart: a list of causes; the first that fits is taken.

Each cause was found by a profile or a count. If none fits, the cause is not known yet, and a test
of the committed run fails.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.cases import MIDDLE

if TYPE_CHECKING:
    from benchmarks.report import Row


def _is_even(row: "Row") -> bool:
    return row.ratio[0] <= 1


def _is_short(row: "Row") -> bool:
    """Whether there are few elements: for the loops 100,000 are few.

    On a GPU there are few if the kernels take less time than the counterpart's.
    """
    if row.on_device is not None and row.on_device[0] <= row.on_device[1]:
        return True
    return row.elements < MIDDLE or (row.elements == MIDDLE and row.served == "cpu")


def _sorts(row: "Row") -> bool:
    return row.loss.startswith("lovasz")


def _needs_the_range(row: "Row") -> bool:
    return "linear" in row.options


def _leaves_half(row: "Row") -> bool:
    return row.served == "cpu" and row.options in ("float16", "bfloat16")


def _multiplies_the_slopes(row: "Row") -> bool:
    return row.framework == "compile" and row.same and "normal_cdf" not in row.options


def _has_more_operations(row: "Row") -> bool:
    """Whether it has more operations, each of which is a pass over memory."""
    single = row.framework in ("keras-torch", "tensorflow") or row.served in ("formula", "compact")
    return single and (row.operations is None or row.operations[0] > row.operations[1])


def _has_more_arithmetic(row: "Row") -> bool:
    """The normal CDF, if the counterpart has only the sigmoid, and fused loops.

    There XLA counts them: `jax.jit(...).lower(...).compile().cost_analysis()`.
    """
    return "normal_cdf" in row.options or not row.same or row.framework in ("xla", "jax")


CAUSES: dict[str, tuple[str, Callable[["Row"], bool]]] = {
    "a": ("equal within the noise: the lower quartile is at most 1", _is_even),
    "b": ("overhead of the call: checks of arguments, autograd, the start of each loop or kernel",
          _is_short),
    "c": ("exact sums in addition to the sort, which the counterpart has, too", _sorts),
    "d": ("a minimum and a maximum of the batch, in a separate pass", _needs_the_range),
    "e": ("float32 inside; the counterpart stays in half precision", _leaves_half),
    "f": ("the slopes of an operator are multiplied in a pass of their own",
          _multiplies_the_slopes),
    "g": ("more operations than the rounded formula, each a pass over memory",
          _has_more_operations),
    "h": ("more arithmetic: the tails of both sides where the counterpart has one rounded value, "
          "the sigmoid, or an erf that loses the tail", _has_more_arithmetic),
}  # fmt: skip

UNKNOWN = "?"
WORDS = {letter: words for letter, (words, _) in CAUSES.items()}


def letter(row: "Row") -> str:
    """The letter of the cause; "?" if none is known."""
    return next((name for name, (_, fits) in CAUSES.items() if fits(row)), UNKNOWN)
