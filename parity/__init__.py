"""The judge: checks that every implementation gives the same numbers, and the right ones.

An implementation runs in its own process and writes a record (`parity.suite.records`). Records are
compared (`parity.accuracy`) with one another and with the reference (`parity.reference`, mpmath
at 50 digits), against the bounds of `parity.accuracy.bounds`. From the shell: `segact-parity run`.

For tests of your own functions and models: `assert_parity`, `assert_model_parity` and
`run_in_backend`; `parity.weights` copies weights from one framework to the other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parity.common.versions import VERSION as __version__

if TYPE_CHECKING:
    from parity.common.findings import ParityError as ParityError
    from parity.functions.assertions import assert_parity as assert_parity
    from parity.functions.function import Function as Function
    from parity.functions.remote import run_in_backend as run_in_backend
    from parity.models.assertion import assert_model_parity as assert_model_parity

# imported when first used: the judge's processes do not need them
_HOMES = {
    "Function": "functions.function",
    "ParityError": "common.findings",
    "assert_model_parity": "models.assertion",
    "assert_parity": "functions.assertions",
    "run_in_backend": "functions.remote",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module parity has no attribute {name}")
    return getattr(import_module(f"parity.{_HOMES[name]}"), name)
