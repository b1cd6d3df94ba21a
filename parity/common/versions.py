"""The versions with which results were made."""

import platform
from importlib import metadata

_PACKAGES = ("segact", "numpy", "torch", "keras", "tensorflow", "jax", "mpmath")

try:
    VERSION = metadata.version("segact")
except metadata.PackageNotFoundError:  # a clone on the path that is not installed
    VERSION = "not installed"


def versions() -> dict[str, str]:
    """The versions of Python and of every installed package that may affect results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
