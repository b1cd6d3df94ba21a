"""`segact-parity train`: train the same network in every implementation."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.arguments import (
    known_name,
    plain_errors,
    prepare_folder,
    refuse,
    require_writable,
    write_json,
    write_report,
)
from parity.common.processes import progress_display
from parity.frameworks.installed import IMPLEMENTATIONS
from parity.report.console import console
from parity.report.training_tables import print_trainings
from parity.suite.case import ACTIVATIONS
from parity.training import run as training


def train(
    steps: Annotated[int, typer.Option(help="The number of steps of each training.")] = 100,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(training.OPTIMIZERS)}; may be repeated."),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 or float64; may be repeated.")
    ] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only this implementation: {', '.join(IMPLEMENTATIONS)}; may be repeated."
        ),
    ] = None,
    loss: Annotated[
        str, typer.Option(help=f"The loss that is minimised: {', '.join(training.LOSSES)}.")
    ] = training.Options.loss,
    activation: Annotated[
        str, typer.Option(help=f"The output activation: {', '.join(ACTIVATIONS)}.")
    ] = training.Options.activation,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the results to this JSON file; - is standard output."),
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Write a page with the curves, JSON and JUnit into this folder."
        ),
    ] = None,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Fail if any implementation is skipped.")
    ] = False,
) -> None:
    """Train the same small network in every implementation and compare the losses at every step.

    Exit code 1 also if only one implementation could be trained.
    """
    names = [known_name(name, or_own=False) for name in implementation or IMPLEMENTATIONS]
    try:
        options = training.Options(
            steps,
            tuple(dict.fromkeys(optimizer or training.OPTIMIZERS)),
            tuple(dict.fromkeys(dtype or training.DTYPES)),
            loss,
            activation,
        )
    except ValueError as error:
        refuse(str(error))
    require_writable(json_file)
    prepare_folder(report_folder, json_file)
    with plain_errors(), progress_display(console(stderr=True)) as progress:
        found = training.run(names, options, progress)
    found.required = frozenset(names if require_all or implementation else ())
    out = write_json(found, json_file)
    print_trainings(out, found)
    if report_folder:
        write_report(out, report_folder, None, found)
    raise typer.Exit(0 if found.passed and found.compared else 1)
