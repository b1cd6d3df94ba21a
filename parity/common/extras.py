"""What is said where a package that an optional extra brings is not installed.

This module imports nothing but the standard library, and what imports it first can speak.
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
"""The modules that the extras bring; a test holds it to pyproject.toml."""


def advice(error: ModuleNotFoundError, extra: str) -> str:
    """One line on the package that is missing; empty if no extra brings it."""
    if (error.name or "").partition(".")[0] not in PACKAGES:
        return ""
    return (
        f"{error.name} is not installed; wanted the extra {extra}: pip install 'segact[{extra}]', "
        f"or in a clone pip install -e '.[{extra}]'"
    )


@contextmanager
def needs(program: str, extra: str) -> Iterator[None]:
    """A program, or its imports: one line and exit code 2 where it lacks a package of its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        words = advice(error, extra)
        if not words:
            raise
        print(f"{program}: {words}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def imports_of(module: str, extra: str) -> Iterator[None]:
    """The imports of a module: the error says which extra it wants."""
    try:
        yield
    except ModuleNotFoundError as error:
        words = advice(error, extra)
        if not words:
            raise
        raise ModuleNotFoundError(f"{module}: {words}", name=error.name) from None
