"""The findings of assertions: passed to observers, and raised if an assertion failed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parity.common.tolerance import Difference


class ParityError(AssertionError):
    """Two things that should agree differ; the message says which, where and by how much.

    `result`: the findings as an object, from an assertion that has one:
    `parity.assert_model_parity` gives a `parity.models.result.ModelResult`.
    """

    def __init__(self, message: str = "", result: Any = None) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Finding:
    """The finding of one assertion: `what` was compared, the worst difference, the message.

    `short`: the part of a long message that is raised; `result`: the findings as an object.
    """

    what: str
    passed: bool
    worst: Difference | None
    message: str = ""
    short: str = ""
    result: Any = None


observers: list[Callable[[Finding], None]] = []
"""Called with the finding of every assertion, before it raises; used by the pytest plugin."""


def settle(finding: Finding) -> None:
    """Tell the observers, and raise `ParityError` unless it passed."""
    __tracebackhide__ = True
    for observe in observers:
        observe(finding)
    if not finding.passed:
        raise ParityError(finding.short or finding.message, finding.result)
