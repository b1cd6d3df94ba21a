"""The message if a package of an optional extra is not installed.

This module imports only the standard library, so it works if everything else is missing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = frozenset(
    [
        *("jinja2", "junitparser", "matplotlib", "mpmath", "rich", "safetensors", "scipy", "typer"),
        *("torch", "keras", "tensorflow", "jax", "triton"),
        *("monai", "segmentation_models_pytorch", "lightning", "PIL", "tensorboard"),
        "distributed",
    ]
)
"""The modules that the extras install; a test compares it with pyproject.toml."""


def advice(error: ModuleNotFoundError, extra: str) -> str:
    """One line about the missing package; empty if it is in no extra."""
    if (error.name or "").partition(".")[0] not in PACKAGES:
        return ""
    return (
        f"{error.name} is not installed; wanted the extra {extra}: pip install 'segact[{extra}]', "
        f"or in a clone pip install -e '.[{extra}]'"
    )


@contextmanager
def needs(program: str, extra: str) -> Iterator[None]:
    """For a program or its imports: one line and exit code 2 if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        words = advice(error, extra)
        if not words:
            raise
        print(f"{program}: {words}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def imports_of(extra: str) -> Iterator[None]:
    """For the imports of a module of that name: the error says which extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        words = advice(error, extra)
        if not words:
            raise
        raise ModuleNotFoundError(f"{extra}: {words}", name=error.name) from None
