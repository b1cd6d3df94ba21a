"""`segact-parity run`: judge every implementation."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from parity.cli.arguments import (
    ATOL_HELP,
    BACKEND_HELP,
    CASES,
    CASES_HELP,
    RTOL_HELP,
    Backend,
    Device,
    plain_errors,
    prepare_folder,
    refuse,
    require_writable,
    write_json,
    write_report,
)
from parity.cli.functions import file_of, judge_functions, split_functions
from parity.common.processes import progress_display
from parity.frameworks.installed import IMPLEMENTATIONS
from parity.judge.judgement import Judgement, judge
from parity.judge.run import Job
from parity.judge.run import run as run_workers
from parity.judge.user_logits import judge_file, load_file, look_like_probabilities
from parity.report import accuracy_tables
from parity.report.console import console
from parity.report.training_tables import print_trainings
from parity.suite.case import ACTIVATIONS, LOSSES
from parity.training import run as training


def _train_too(names: list[str], required: frozenset[str]) -> training.Trainings:
    """Run the trainings for a report."""
    with plain_errors(), progress_display(console(stderr=True)) as progress:
        found = training.run(names, training.Options(), progress)
    found.required = required
    return found


def _judge_workers(names: list[str], device: str, inputs: Path | None, dense: bool) -> Judgement:
    """Run the workers in a temporary folder and judge their records."""
    content = load_file(inputs) if inputs else None
    if content is not None and look_like_probabilities(content):
        print(
            f"segact-parity: {inputs}: all logits lie in [0, 1]; if they are probabilities, the "
            "figures below are of an activation applied twice",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="segact-parity-") as folder:
        job = Job(Path(folder), device, inputs.resolve() if inputs else None, dense and not inputs)
        with progress_display(console(stderr=True)) as progress:
            outcomes = run_workers(names, job, progress)
            task = progress.add_task("judge", message="comparing", total=None)
            if content is None:
                return judge(outcomes, swept=job.sweep)
            judgement = Judgement(outcomes)
            records = [outcome.record for outcome in outcomes if outcome.record]
            for found, row in judge_file(content, records) if records else ():
                judgement.measurements += found
                judgement.losses += [row] if row else []
                progress.update(task, message=found[0].case)
            return judgement


def run(
    context: typer.Context,
    inputs: Annotated[
        Path | None, typer.Option(help="Compare on your own logits and targets, an .npz file.")
    ] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only this implementation: {', '.join(IMPLEMENTATIONS)}, or your own function as "
            "mine=MODULE:NAME; may be repeated."
        ),
    ] = None,
    cases: Annotated[str | None, typer.Option(help=CASES_HELP)] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help=f"Compare your own function with this loss of segact: {', '.join(LOSSES)}."
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help=f"Compare your own function with losses of this one: {', '.join(ACTIVATIONS)}."
        ),
    ] = None,
    backend: Annotated[Backend | None, typer.Option(metavar="<str>", help=BACKEND_HELP)] = None,
    rtol: Annotated[float | None, typer.Option(help=RTOL_HELP)] = None,
    atol: Annotated[float | None, typer.Option(help=ATOL_HELP)] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the results to this JSON file; - is standard output."),
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Also train, and write a page with figures into this folder."
        ),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="Also test a million inputs per quantity.")
    ] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show every pair of implementations.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print only the summary, as Markdown.")
    ] = False,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Fail if any implementation is skipped.")
    ] = False,
) -> None:
    """Compare every installed implementation with the reference and with the others."""
    if context.args:
        extra = context.args[0]
        refuse(f"run takes no argument {extra}; for a file of your own: --inputs {extra}")
    names, own = split_functions(implementation or list(IMPLEMENTATIONS))
    if markdown and str(json_file) == "-":
        refuse("--markdown and --json - both write to standard output; choose one")
    if markdown and inputs:
        refuse("--markdown is the summary of the standard cases; it does not go with --inputs")
    read = [inputs, *map(file_of, own.values())]
    require_writable(json_file, *read)
    if own:
        if names or inputs or markdown:
            refuse(
                "your own functions are judged separately: no other implementation, --inputs or "
                "--markdown with them"
            )
        on = cases or CASES, backend, device.value
        prepare_folder(report_folder, json_file, *read)
        judgement = judge_functions(own, *on, (loss, activation), rtol, atol)
        out = write_json(judgement, json_file)
        accuracy_tables.print_functions(out, judgement)
        if report_folder:
            write_report(out, report_folder, judgement)
        raise typer.Exit(0 if judgement.passed else 1)
    if any(option is not None for option in (cases, loss, activation, backend, rtol, atol)):
        refuse(
            "--cases, --loss, --activation, --backend, --rtol and --atol go with a function of "
            "your own: --implementation mine=MODULE:NAME"
        )
    prepare_folder(report_folder, json_file, *read)
    with plain_errors():
        judgement = _judge_workers(list(dict.fromkeys(names)), device.value, inputs, dense)
    # an implementation that was named must have run
    judgement.required = frozenset(names if require_all or implementation else ())
    out = write_json(judgement, json_file)
    if markdown:
        print(accuracy_tables.markdown(judgement))
        out = console(stderr=True)
        accuracy_tables.print_verdict(out, judgement)
    else:
        accuracy_tables.print_report(out, judgement, verbose)
    passed = judgement.passed
    if report_folder:
        trainings = None if inputs else _train_too(names, judgement.required)
        if trainings and (trainings.compared or not trainings.passed):
            print_trainings(out, trainings)
            passed = passed and trainings.passed
        write_report(out, report_folder, judgement, trainings)
    raise typer.Exit(0 if passed else 1)
