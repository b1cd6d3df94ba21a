"""`segact-parity conventions`: the cross entropy of a sigmoid in each framework."""

import math
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from parity.cli.arguments import (
    import_early,
    plain_errors,
    refuse,
    require_writable,
    write_json,
    writing,
)
from parity.common.files import write_atomically
from parity.common.processes import progress_display
from parity.conventions import results as convention_rows
from parity.report import convention_figure, convention_tables
from parity.report.console import console


def _raw_outputs(text: str) -> list[float]:
    """The numbers of `--raw`, rounded to float32, each once."""
    try:
        with np.errstate(over="ignore"):
            found = [float(np.float32(word)) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        refuse(f"--raw is {text!r}; wanted finite numbers with commas between, such as -20,0,20")
    return list(dict.fromkeys(found))


def _check_figure(path: Path | None, json_file: Path | None) -> None:
    """Refuse, before any work is done, a figure that could not be written."""
    require_writable(path, json_file)
    if path:
        import_early("matplotlib")
    if path and path.suffix.lower() not in convention_figure.SUFFIXES:
        refuse(f"{path}: a figure is written as .png or .svg")


def _write_figure(found: convention_rows.Results, path: Path) -> None:
    if not found.ours:
        print("segact-parity: no figure: no implementation of segact ran", file=sys.stderr)
        raise typer.Exit(1)
    with writing(path):
        write_atomically(path, convention_figure.draw(found.ours, path.suffix.lower()))


def conventions(
    raw: Annotated[
        str,
        typer.Option(
            help="The raw outputs, separated by commas: --raw=-20,0,20.",
            show_default=", ".join(map(str, convention_rows.RAW)),
        ),
    ] = ",".join(map(str, convention_rows.RAW)),
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the results to this JSON file; - is standard output."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the conventions to this file, .png or .svg.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print only the short table, as Markdown.")
    ] = False,
) -> None:
    """Show the cross entropy of a sigmoid in each framework, without a judgement.

    Exit code 1: a framework failed, or none is installed.
    """
    if markdown and str(json_file) == "-":
        refuse("--markdown and --json - both write to standard output; choose one")
    outputs = _raw_outputs(raw)
    require_writable(json_file)
    _check_figure(figure, json_file)
    with plain_errors(), progress_display(console(stderr=True)) as progress:
        found = convention_rows.run(outputs, progress)
    out = write_json(found, json_file)
    if markdown:
        print(convention_tables.markdown(found))
        convention_tables.print_failures(console(stderr=True), found)
    else:
        convention_tables.print_results(out, found)
    if figure:
        _write_figure(found, figure)
    raise typer.Exit(0 if found.good and not found.failures else 1)
