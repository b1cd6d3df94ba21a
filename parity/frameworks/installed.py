"""The implementations, and what each needs installed."""

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
    """Which of the modules are not installed, in plain words; empty if all are."""
    absent = [module for module in modules if find_spec(module) is None]
    verb = "are" if len(absent) > 1 else "is"
    return f"{' and '.join(absent)} {verb} not installed" if absent else ""


def missing(name: str) -> str:
    """Why an implementation cannot run here, in plain words; empty if it can. Imports nothing."""
    return absent_modules(module for module in _NEEDS[name] if not module.startswith("segact"))


def broken(name: str) -> str:
    """What is wrong if our own package, which is installed with this one, is absent; else empty."""
    return absent_modules(module for module in _NEEDS[name] if module.startswith("segact"))
