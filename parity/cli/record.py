"""`segact-parity record`: write the record of one implementation."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from parity.cli.arguments import (
    BACKEND_HELP,
    CASES,
    CASES_HELP,
    Backend,
    Device,
    known_name,
    plain_errors,
    refuse,
    require_writable,
    writing,
)
from parity.cli.functions import file_of, record_function
from parity.common.files import write_atomically
from parity.common.processes import progress_display
from parity.frameworks.installed import IMPLEMENTATIONS, missing
from parity.judge.run import Job
from parity.judge.run import run as run_workers
from parity.reference import multiprecision
from parity.report.console import console
from parity.suite.cases import standard_cases
from parity.suite.inputs import input_sets
from parity.suite.records import RecordWriter


def _write_reference(path: Path) -> None:
    writer = RecordWriter("reference", "cpu")
    for name, inputs in input_sets().items():
        writer.add_inputs(name, inputs)
    for case in standard_cases():
        writer.add(case, multiprecision.evaluate(case.bind(input_sets()[case.input_set])))
    with writing(path):
        writer.write(path)


def record(
    implementation: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(IMPLEMENTATIONS)}, `reference`, or your own function, MODULE:NAME."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The record to write.")],
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    cases: Annotated[str | None, typer.Option(help=CASES_HELP)] = None,
    backend: Annotated[Backend | None, typer.Option(metavar="<str>", help=BACKEND_HELP)] = None,
) -> None:
    """Write a record, the results of one implementation, to compare with another record."""
    require_writable(output, file_of(implementation))
    if ":" in implementation:
        record_function(implementation, output, device.value, cases or CASES, backend)
        print(f"wrote {output}")
        return
    known_name(implementation, ("reference",))
    if cases or backend:
        refuse("--cases and --backend go with a function of your own, MODULE:NAME")
    with plain_errors():
        _record(implementation, output, device.value)
    print(f"wrote {output}")


def _record(implementation: str, output: Path, device: str) -> None:
    if implementation == "reference":
        _write_reference(output)
        return
    if missing(implementation):
        refuse(f"{implementation}: {missing(implementation)}")
    with tempfile.TemporaryDirectory(prefix="segact-parity-") as folder:
        job = Job(Path(folder), device)
        with progress_display(console(stderr=True)) as progress:
            (outcome,) = run_workers([implementation], job, progress)
        if outcome.record is None:
            print(
                f"segact-parity: {implementation}: {outcome.skipped or outcome.error}",
                file=sys.stderr,
            )
            raise typer.Exit(1)
        content = outcome.record.path.read_bytes()
    with writing(output):
        write_atomically(output, content)
