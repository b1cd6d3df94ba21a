"""What the commands share: options, checks of arguments, writing results."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from parity.common.files import json_text, why_unwritable, write_atomically
from parity.common.naming import unknown
from parity.common.tolerance import check_tolerance
from parity.conventions.results import Results
from parity.frameworks.installed import IMPLEMENTATIONS
from parity.functions.recorded import FunctionError
from parity.functions.remote import RemoteError, TargetError
from parity.judge.judgement import Judgement
from parity.judge.user_logits import InputError
from parity.report import page
from parity.report.console import console, print_line
from parity.suite.inputs import case_inputs, case_names
from parity.suite.records import RecordError
from parity.training import run as training


class Device(StrEnum):
    """Where the implementations compute."""

    cpu = "cpu"
    cuda = "cuda"


class Backend(StrEnum):
    """The backend of Keras."""

    tensorflow = "tensorflow"
    jax = "jax"
    torch = "torch"


CASES = "segmentation"
CASES_HELP = (
    f"The inputs of your own functions: {', '.join(case_names())}, or one in one precision, "
    f"such as tails-float32; by default {CASES}."
)

BACKEND_HELP = f"The Keras backend of your own functions: {', '.join(Backend)}."

RTOL_HELP = "The relative tolerance of your own functions; by default 1e-5 in float32."
ATOL_HELP = (
    "The absolute tolerance of your own functions; by default 16 rounding units of the largest "
    "entry."
)


def refuse(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(f"segact-parity: {message}", file=sys.stderr)
    raise typer.Exit(2)


def known_name(name: str, more: tuple[str, ...] = (), or_own: bool = True) -> str:
    """The name of an implementation, or of one of `more`; any other is refused."""
    known = (*IMPLEMENTATIONS, *more)
    if name not in known:
        own = "; or MODULE:NAME, a function of your own" if or_own else ""
        refuse(unknown("implementation", name, known) + own)
    return name


def require_tolerance(rtol: float | None, atol: float | None) -> None:
    """Refuse invalid tolerances."""
    try:
        check_tolerance(rtol, atol)
    except ValueError as error:
        refuse(f"--{error}")


def require_cases(cases: str) -> None:
    """Refuse an unknown name of cases."""
    try:
        case_inputs(cases)
    except ValueError as error:
        refuse(f"--cases: {error}")


def require_writable(path: Path | None, *others: Path | None) -> None:
    """Refuse, before any work is done, a path that cannot be written to, or that is one of
    `others`: files that the command reads, or writes besides."""
    if path is None or str(path) == "-":
        return
    reason = why_unwritable(path)
    if not reason and any(other and other.resolve() == path.resolve() for other in others):
        reason = "the command reads or writes this file otherwise; wanted another file"
    if reason:
        refuse(f"{path}: cannot write there; {reason}")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors that a user can cause into one line and an exit code."""
    try:
        yield
    except (InputError, RecordError, TargetError, FunctionError) as error:
        refuse(str(error))
    except RemoteError as error:
        print(f"segact-parity: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("segact-parity: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Refuse a path that cannot be written to."""
    try:
        yield
    except OSError as error:
        refuse(f"{path}: cannot write there; {error.strerror or error}")


def write_json(found: Judgement | Results | training.Trainings, path: Path | None) -> Console:
    """Write JSON to the file, if one is wanted, or, for `-`, to standard output. Returns the
    console for all else."""
    if str(path) == "-":
        sys.stdout.write(json_text(found.as_dict()))
        return console(stderr=True)
    if path:
        with writing(path):
            write_atomically(path, json_text(found.as_dict()).encode())
    return console()


def import_early(*modules: str) -> None:
    """Import what is needed at the end, so that a missing package is noticed before the work."""
    for module in modules:
        import_module(module)


def prepare_folder(folder: Path | None, *others: Path | None) -> None:
    """Make the folder of a report before any work is done, or refuse; `others` as in
    `require_writable`."""
    if folder is None:
        return
    import_early("jinja2", "junitparser", "matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "wanted a folder" if folder.is_file() else error.strerror or str(error)
        refuse(f"{folder}: cannot write there; {reason}")
    for name in page.FILES:
        require_writable(folder / name, *others)


def write_report(
    out: Console,
    folder: Path,
    judgement: Judgement | None,
    trainings: training.Trainings | None = None,
) -> None:
    """Write the page and its files into a folder, and say where it is."""
    with writing(folder):
        page.write(folder, judgement, trainings)
    print_line(out, f"report: {folder / page.FILES[0]}")
