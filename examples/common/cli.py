"""What the command lines of the examples have in common."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from examples.common.heads import HeadError
from examples.common.images import DataError
from examples.common.runs import RunError
from parity.weights import WeightsError


@contextmanager
def plain_errors(program: str) -> Iterator[None]:
    """Print errors that a user can cause as one line; exit code 2, or 130 for Ctrl-C."""
    try:
        yield
    except (RunError, DataError, HeadError, WeightsError) as error:
        _end(program, error, 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(program, f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt as error:
        _end(program, str(error) or "interrupted", 130)


def _end(program: str, message: object, code: int) -> None:
    print(f"{program}: {message}", file=sys.stderr)
    raise typer.Exit(code) from None


def typed_options(context: typer.Context, apart: Sequence[str]) -> dict[str, Any]:
    """The options that were typed, without those that are not the run's own."""
    found = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name not in apart and source is not None and source.name != "DEFAULT":
            found[name] = str(value) if isinstance(value, Path) else value
    return found


def who(options: dict[str, Any]) -> str:
    """The framework of a run in words."""
    names = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    keras = options["framework"] == "keras"
    return f"Keras on {names[options['backend']]}" if keras else "PyTorch"
