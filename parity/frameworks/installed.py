"""The implementations, and the packages that each needs."""

from collections.abc import Iterable
from importlib.util import find_spec

# slowest start first: the parent starts them in this order
_NEEDS = {
    "keras-jax": ("keras", "jax", "segact_tf"),
    "keras-tensorflow": ("keras", "tensorflow", "segact_tf"),
    "keras-torch": ("keras", "torch", "segact_tf"),
    "torch": ("torch", "segact_torch"),
}

IMPLEMENTATIONS = tuple(_NEEDS)


def absent_modules(modules: Iterable[str]) -> str:
    """A message with the modules that are not installed; empty if all are."""
    absent = [module for module in modules if find_spec(module) is None]
    verb = "are" if len(absent) > 1 else "is"
    return f"{' and '.join(absent)} {verb} not installed" if absent else ""


def missing(name: str) -> str:
    """Why an implementation cannot run here; empty if it can. Imports nothing."""
    return absent_modules(module for module in _NEEDS[name] if not module.startswith("segact"))


def broken(name: str) -> str:
    """A message if our own package, which is installed with this one, is missing; else empty."""
    return absent_modules(module for module in _NEEDS[name] if module.startswith("segact"))
