"""Functions of a user on the command line."""

import os
import sys
from pathlib import Path

from parity.cli.arguments import (
    known_name,
    plain_errors,
    refuse,
    require_cases,
    require_tolerance,
    writing,
)
from parity.common.naming import unknown
from parity.frameworks.installed import IMPLEMENTATIONS
from parity.functions import recorded
from parity.functions.nearest import nearest_in_any_order
from parity.functions.remote import Server
from parity.judge.judgement import Judgement
from parity.judge.run import Outcome
from parity.report.console import console
from parity.suite.case import ACTIVATIONS, LOSSES


def split_functions(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Implementations of segact, and a user's own functions, `NAME=MODULE:NAME`, by name."""
    targets: dict[str, str] = {}
    for text in (name for name in names if ":" in name):
        name, equals, target = text.partition("=")
        name, target = (name, target) if equals else (text, text)
        if not name or name in targets or name in IMPLEMENTATIONS or "[" in name:
            refuse(f"--implementation {text}: wanted another name before the =")
        targets[name] = target
    return [known_name(name) for name in names if ":" not in name], targets


def file_of(target: str) -> Path | None:
    """The file that `path/to/file.py:NAME` names; None for a module."""
    path, colon, _ = target.partition("(")[0].rpartition(":")
    return Path(path) if colon and path.endswith(".py") else None


def evaluate_function(
    name: str, target: str, cases: str, backend: str | None, device: str
) -> recorded.Evaluated:
    """Run a user's function in its own process; it may be in the current folder."""
    server = Server(backend or "", device, ahead=os.getcwd())
    try:
        with console(stderr=True).status(f"{name}: {target}"):
            return recorded.evaluate(name, target, cases, server)
    finally:
        server.close()


def record_function(
    target: str, output: Path, device: str, cases: str, backend: str | None
) -> None:
    """Write the record of a user's function."""
    require_cases(cases)
    with plain_errors():
        found = evaluate_function(target, target, cases, backend, device)
    for note in filter(None, (found.doubt, found.unsteady)):
        print(f"segact-parity: {note}", file=sys.stderr)
    with writing(output):
        recorded.writer(found, device).write(output)


def judge_functions(
    targets: dict[str, str],
    cases: str,
    backend: str | None,
    device: str,
    choice: tuple[str | None, str | None],
    rtol: float | None,
    atol: float | None,
) -> Judgement:
    """Compare a user's functions with each other, or one with a loss of segact."""
    require_tolerance(rtol, atol)
    require_cases(cases)
    for kind, value, known in (("loss", choice[0], LOSSES), ("activation", choice[1], ACTIVATIONS)):
        if value is not None and value not in known:
            refuse(unknown(kind, value, known))
    with plain_errors():
        found = [
            evaluate_function(name, target, cases, backend, device)
            for name, target in targets.items()
        ]
        notes = [f"{f.name} is {targets[f.name]} ({f.framework})" for f in found]
        notes += [f.unsteady for f in found if f.unsteady]
        measurements = recorded.compare_all(found, rtol, atol)
        notes += recorded.orders_that_agree(found, rtol, atol)
        if len(found) == 1 or any(choice):
            for function in found:
                best, said = nearest_in_any_order(function, rtol, atol, *choice)
                measurements += best.measurements
                notes += said if function.steady else []
    notes += recorded.losses_of_gradient(measurements)
    return Judgement([Outcome(function.name) for function in found], measurements, notes=notes)
