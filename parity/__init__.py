"""The judge: does every implementation give the same numbers, and are they the right ones?

An implementation runs in a process of its own and writes a record (`parity.records`). Records are
compared (`parity.compare`) with one another and with the reference (`parity.reference`, mpmath at
50 digits), against the bounds of `parity.bounds`. From the shell: `segact-parity run`.

For tests of your own functions and models: `assert_parity`, `assert_model_parity` and
`run_in_backend`; `parity.weights` carries weights from one framework to the other.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.assertions import assert_parity as assert_parity
    from parity.backends import run_in_backend as run_in_backend
    from parity.difference import ParityError as ParityError
    from parity.functions import Function as Function
    from parity.models import assert_model_parity as assert_model_parity

# imported when asked for: the judge's processes need none of them
_HOMES = {
    "Function": "functions",
    "ParityError": "difference",
    "assert_model_parity": "models",
    "assert_parity": "assertions",
    "run_in_backend": "backends",
}

__all__ = ["__version__", *_HOMES]

try:
    __version__ = metadata.version("segact")
except metadata.PackageNotFoundError:  # a checkout that is on the path but not installed
    __version__ = "not installed"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module parity has no attribute {name}")
    return getattr(import_module(f"parity.{_HOMES[name]}"), name)
