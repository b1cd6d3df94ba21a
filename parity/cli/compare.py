"""`segact-parity compare`: compare two records."""

from pathlib import Path
from typing import Annotated

import typer

from parity.accuracy.measurement import compare
from parity.cli.arguments import (
    ATOL_HELP,
    RTOL_HELP,
    plain_errors,
    refuse,
    require_tolerance,
    require_writable,
    write_json,
)
from parity.functions import recorded
from parity.judge.judgement import Judgement
from parity.judge.run import Outcome
from parity.reference import REFERENCE_PATH
from parity.report import accuracy_tables
from parity.report.console import print_line, print_table
from parity.suite.records import STANDARD, Record


def _load_record(path: Path) -> Record:
    """The record at the path; the word `reference` is the shipped one."""
    shipped = str(path) == "reference" and not path.exists()
    return Record.load(REFERENCE_PATH if shipped else path)


def compare_records(
    left: Annotated[Path, typer.Argument(help="A record, written by `segact-parity record`.")],
    right: Annotated[
        Path,
        typer.Argument(help="Another record, or `reference` for the 50-digit one of the package."),
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the results to this JSON file; - is standard output."),
    ] = None,
    rtol: Annotated[float | None, typer.Option(help=RTOL_HELP)] = None,
    atol: Annotated[float | None, typer.Option(help=ATOL_HELP)] = None,
) -> None:
    """Compare two records: they may differ by the sum of their bounds.

    Records of your own functions are compared with --rtol and --atol.
    """
    require_writable(json_file, left, right)
    require_tolerance(rtol, atol)
    with plain_errors():
        one, two = _load_record(left), _load_record(right)
        if one.implementation == "reference":  # the reference is on the right
            one, two = two, one
        one.check_cases(two)
        standard, notes = one.cases == STANDARD, []
        if standard and (rtol is not None or atol is not None):
            refuse("--rtol and --atol go with records of your own functions; these have bounds")
        if standard:
            found = compare(one, two)
        else:
            found = recorded.compare_records(one, two, rtol, atol)
            notes = recorded.losses_of_gradient(found)
    judgement = Judgement(
        [Outcome(one.implementation, one), Outcome(two.implementation, two)], found, notes=notes
    )
    out = write_json(judgement, json_file)
    for item in (one, two):
        made = ", ".join(f"{key} {value}" for key, value in item.versions.items())
        of = f" ({item.framework})" if item.framework else ""
        words = f"{item.path}: {item.implementation}{of} on {item.device}; {made}"
        print_line(out, words)
    if standard:
        print_table(out, accuracy_tables.comparison_table(found))
        out.print()
        accuracy_tables.print_verdict(out, judgement)
    else:
        accuracy_tables.print_functions(out, judgement)
    raise typer.Exit(0 if judgement.passed else 1)
