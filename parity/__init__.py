"""The judge: does every implementation give the same numbers, and are they the right ones?

An implementation runs in a process of its own and writes a record (`parity.records`). Records are
compared (`parity.compare`) with one another and with the reference (`parity.reference`, mpmath at
50 digits), against the bounds of `parity.bounds`. From the shell: `segact-parity run`.
"""

from importlib import metadata

__all__ = ["__version__"]

try:
    __version__ = metadata.version("segact")
except metadata.PackageNotFoundError:  # a checkout that is on the path but not installed
    __version__ = "not installed"
