"""The versions that results are made with."""

import platform
from importlib import metadata

from parity.common.extras import imports_of

with imports_of("parity", "parity"):
    pass


_PACKAGES = ("segact", "numpy", "torch", "keras", "tensorflow", "jax", "mpmath")


try:
    VERSION = metadata.version("segact")
except metadata.PackageNotFoundError:  # a checkout that is on the path but not installed
    VERSION = "not installed"


def versions() -> dict[str, str]:
    """The versions of Python and of every installed package that may have had a part."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
