"""What an assertion found: told to whoever observes, and raised where it failed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from parity.common.tolerance import Difference

P = ParamSpec("P")
R = TypeVar("R")


class ParityError(AssertionError):
    """What should agree differs; the message says who, in what, where and by how much.

    `result`: what was found, as an object, from an assertion that has one:
    `parity.assert_model_parity` gives a `parity.models.result.ModelResult`.
    """

    def __init__(self, message: str = "", result: Any = None) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Finding:
    """What one assertion found: `what` was compared, the worst difference, the message if any.

    `short`: what is raised of a long message; `result`: what was found, as an object.
    """

    what: str
    passed: bool
    worst: Difference | None
    message: str = ""
    short: str = ""
    result: Any = None


observers: list[Callable[[Finding], None]] = []
"""Called with what every assertion found, before it raises; the pytest plugin's reports use it."""


def settle(finding: Finding) -> None:
    """Tell the observers, and raise `ParityError` unless it passed."""
    __tracebackhide__ = True
    for observe in observers:
        observe(finding)
    if not finding.passed:
        raise ParityError(finding.short or finding.message, finding.result)


def watched(function: Callable[P, R]) -> Callable[P, R]:
    """Of an assertion: the observers also learn of an error, where nothing could be compared."""

    @functools.wraps(function)
    def watching(*arguments: P.args, **options: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            return function(*arguments, **options)
        except ParityError:
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            for observe in observers:
                observe(Finding(f"error in {function.__name__}", False, None, message))
            raise

    return watching
