"""`segact-parity`: do the implementations give the same numbers, and the right ones?

Exit code 0: something was judged and all of it is within bounds. 1: something is out of bounds, or
nothing could be judged. 2: wrong usage, or a file that cannot be used.
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import typer
from rich.console import Console

from parity import (
    __version__,
    convention_figure,
    convention_tables,
    page,
    reference,
    report,
    training,
    userfunction,
)
from parity import conventions as convention_rows
from parity.backends import RemoteError, Server, TargetError
from parity.cases import ACTIVATIONS, LOSSES, standard_cases
from parity.compare import compare
from parity.difference import check_tolerance
from parity.implementations import IMPLEMENTATIONS, missing
from parity.inputs import case_inputs, case_names, input_sets
from parity.judgement import Judgement, judge
from parity.naming import unknown
from parity.processes import progress_display
from parity.records import (
    REFERENCE_PATH,
    STANDARD,
    Record,
    RecordError,
    RecordWriter,
    json_text,
    write_atomically,
)
from parity.runner import Job, Outcome
from parity.runner import run as run_workers
from parity.training.tables import print_trainings
from parity.userfile import InputError, judge_file, load_file, look_like_probabilities

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


class Device(StrEnum):
    """Where the implementations compute."""

    cpu = "cpu"
    cuda = "cuda"


class Backend(StrEnum):
    """What Keras runs on."""

    tensorflow = "tensorflow"
    jax = "jax"
    torch = "torch"


_CASES = "segmentation"
_CASES_HELP = (
    f"The inputs of your own functions: {', '.join(case_names())}, or one in one precision, "
    f"such as tails-float32; by default {_CASES}."
)
_RTOL_HELP = "The relative tolerance of your own functions; by default 1e-5 in float32."
_ATOL_HELP = (
    "The absolute tolerance of your own functions; by default 16 rounding units of the largest "
    "entry."
)


def _refuse(message: str) -> NoReturn:
    """One plain line and exit code 2."""
    print(f"segact-parity: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _known(name: str, more: tuple[str, ...] = (), or_own: bool = True) -> str:
    known = (*IMPLEMENTATIONS, *more)
    if name not in known:
        own = "; or MODULE:NAME, a function of your own" if or_own else ""
        _refuse(unknown("implementation", name, known) + own)
    return name


def _split(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Implementations of segact, and a user's own functions, `NAME=MODULE:NAME`, by name."""
    targets: dict[str, str] = {}
    for text in (name for name in names if ":" in name):
        name, equals, target = text.partition("=")
        name, target = (name, target) if equals else (text, text)
        if not name or name in targets or name in IMPLEMENTATIONS or "[" in name:
            _refuse(f"--implementation {text}: wanted another name before the =")
        targets[name] = target
    return [_known(name) for name in names if ":" not in name], targets


def _check_tolerance(rtol: float | None, atol: float | None) -> None:
    try:
        check_tolerance(rtol, atol)
    except ValueError as error:
        _refuse(f"--{error}")


def _check_cases(cases: str) -> None:
    try:
        case_inputs(cases)
    except ValueError as error:
        _refuse(f"--cases: {error}")


def _check_writable(path: Path | None) -> None:
    """Refuse, before any work is done, what could not be written to afterwards."""
    if path is None or str(path) == "-":
        return
    try:
        target = path.resolve()
        if path.exists() and not path.is_file() and not path.is_dir():
            reason = "" if os.access(path, os.W_OK) else "no permission"
        elif path.is_dir() or not target.parent.is_dir():
            reason = "wanted a file in a folder that exists"
        else:
            tempfile.TemporaryFile(dir=target.parent).close()
            reason = ""
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        _refuse(f"{path}: cannot write there; {reason}")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a user can cause into one plain line and an exit code."""
    try:
        yield
    except (InputError, RecordError, TargetError, userfunction.FunctionError) as error:
        _refuse(str(error))
    except RemoteError as error:
        print(f"segact-parity: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("segact-parity: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _refuse(f"{path}: cannot write there; {error.strerror or error}")


def _write_json(
    found: Judgement | convention_rows.Results | training.Trainings, path: Path
) -> None:
    text = json_text(found.as_dict())
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with _writing(path):
        write_atomically(path, text.encode())


def _import_early(*modules: str) -> None:
    """What is needed at the end: without it, no work is done in vain."""
    for module in modules:
        import_module(module)


def _prepare_folder(folder: Path | None) -> None:
    """Make the folder of a report before any work is done, or refuse."""
    if folder is None:
        return
    _import_early("jinja2", "junitparser", "matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "wanted a folder" if folder.is_file() else error.strerror or str(error)
        _refuse(f"{folder}: cannot write there; {reason}")
    for name in page.FILES:
        _check_writable(folder / name)


def _write_report(
    out: Console,
    folder: Path,
    judgement: Judgement | None,
    trainings: training.Trainings | None = None,
) -> None:
    with _writing(folder):
        page.write(folder, judgement, trainings)
    out.print(f"report: {folder / page.FILES[0]}", markup=False, soft_wrap=True)


def _train_too(names: list[str], required: frozenset[str]) -> training.Trainings:
    """The training of a report, so that it is whole."""
    with _plain_errors(), progress_display(report.console(stderr=True)) as progress:
        found = training.run(names, training.Options(), progress)
    found.required = required
    return found


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"segact-parity {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def _judge_workers(names: list[str], device: str, inputs: Path | None, dense: bool) -> Judgement:
    """Run the workers in a temporary folder and judge their records while it is there."""
    content = load_file(inputs) if inputs else None
    if content is not None and look_like_probabilities(content):
        print(
            f"segact-parity: {inputs}: all logits lie in [0, 1]; if they are probabilities, the "
            "figures below are of an activation applied twice",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="segact-parity-") as folder:
        job = Job(Path(folder), device, inputs.resolve() if inputs else None, dense and not inputs)
        with progress_display(report.console(stderr=True)) as progress:
            outcomes = run_workers(names, job, progress)
            if content is None:
                task = progress.add_task("judge", message="comparing", total=None)
                return judge(outcomes, swept=job.sweep)
            judgement = Judgement(outcomes)
            records = [outcome.record for outcome in outcomes if outcome.record]
            task = progress.add_task("judge", message="comparing", total=None)
            for found, row in judge_file(content, records) if records else ():
                judgement.measurements += found
                judgement.losses += [row] if row else []
                progress.update(task, message=found[0].case)
            return judgement


@app.command(context_settings={"allow_extra_args": True})
def run(
    context: typer.Context,
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz with your own logits and targets to judge.")
    ] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only this one of {', '.join(IMPLEMENTATIONS)}, or mine=MODULE:NAME, a function "
            "of your own; may be repeated."
        ),
    ] = None,
    cases: Annotated[str | None, typer.Option(help=_CASES_HELP)] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help=f"Hold your own function against this loss of the judge: {', '.join(LOSSES)}."
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help=f"Hold your own function against losses of this one: {', '.join(ACTIVATIONS)}."
        ),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="The Keras backend of your own functions.")
    ] = None,
    rtol: Annotated[float | None, typer.Option(help=_RTOL_HELP)] = None,
    atol: Annotated[float | None, typer.Option(help=_ATOL_HELP)] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there; - is standard output.")
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option("--report", help="Train too, and write a page with figures into that folder."),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="Sweep a million inputs per quantity.")
    ] = True,
    verbose: Annotated[bool, typer.Option(help="Show every pair of implementations.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the summary as Markdown instead.")] = False,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Fail if any implementation is skipped.")
    ] = False,
) -> None:
    """Judge every implementation that is installed against the reference and each other."""
    if context.args:
        extra = context.args[0]
        _refuse(f"run takes no argument {extra}; for a file of your own: --inputs {extra}")
    names, own = _split(implementation or list(IMPLEMENTATIONS))
    if markdown and str(json_file) == "-":
        _refuse("--markdown and --json - both write to standard output; choose one")
    if markdown and inputs:
        _refuse("--markdown is the summary of the standard cases; it does not go with --inputs")
    _check_writable(json_file)
    if own:
        if names or inputs or markdown:
            _refuse(
                "your own functions are judged apart: no other implementation, --inputs or "
                "--markdown beside them"
            )
        on = cases or _CASES, backend, device.value
        _prepare_folder(report_folder)
        judgement = _judge_functions(own, *on, (loss, activation), rtol, atol)
        if json_file:
            _write_json(judgement, json_file)
        out = report.console(stderr=str(json_file) == "-")
        report.print_functions(out, judgement)
        if report_folder:
            _write_report(out, report_folder, judgement)
        raise typer.Exit(0 if judgement.passed else 1)
    if any(option is not None for option in (cases, loss, activation, backend, rtol, atol)):
        _refuse(
            "--cases, --loss, --activation, --backend, --rtol and --atol go with a function of "
            "your own: --implementation mine=MODULE:NAME"
        )
    _prepare_folder(report_folder)
    with _plain_errors():
        judgement = _judge_workers(list(dict.fromkeys(names)), device.value, inputs, dense)
    # what was asked for by name must have run
    judgement.required = frozenset(names if require_all or implementation else ())
    if json_file:
        _write_json(judgement, json_file)
    out = report.console(stderr=str(json_file) == "-")
    if markdown:
        print(report.markdown(judgement))
        out = report.console(stderr=True)
        report.print_verdict(out, judgement)
    else:
        report.print_report(out, judgement, verbose)
    passed = judgement.passed
    if report_folder:
        trainings = None if inputs else _train_too(names, judgement.required)
        if trainings and (trainings.compared or not trainings.passed):
            print_trainings(out, trainings)
            passed = passed and trainings.passed
        _write_report(out, report_folder, judgement, trainings)
    raise typer.Exit(0 if passed else 1)


def _write_reference(path: Path) -> None:
    writer = RecordWriter("reference", "cpu")
    for name, inputs in input_sets().items():
        writer.add_inputs(name, inputs)
    for case in standard_cases():
        writer.add(case, reference.evaluate(case, input_sets()[case.input_set]))
    with _writing(path):
        writer.write(path)


@app.command()
def record(
    implementation: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(IMPLEMENTATIONS)}, `reference`, or MODULE:NAME, a function of your "
            "own."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The record to write.")],
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    cases: Annotated[str | None, typer.Option(help=_CASES_HELP)] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="The Keras backend of your own function.")
    ] = None,
) -> None:
    """Write the record of one implementation, to compare with another machine's or next year's."""
    _check_writable(output)
    if ":" in implementation:
        _record_function(implementation, output, device.value, cases or _CASES, backend)
        print(f"wrote {output}")
        return
    _known(implementation, ("reference",))
    if cases or backend:
        _refuse("--cases and --backend go with a function of your own, MODULE:NAME")
    with _plain_errors():
        _record(implementation, output, device.value)
    print(f"wrote {output}")


def _record(implementation: str, output: Path, device: str) -> None:
    if implementation == "reference":
        _write_reference(output)
        return
    if missing(implementation):
        _refuse(f"{implementation}: {missing(implementation)}")
    with tempfile.TemporaryDirectory(prefix="segact-parity-") as folder:
        job = Job(Path(folder), device)
        with progress_display(report.console(stderr=True)) as progress:
            (outcome,) = run_workers([implementation], job, progress)
        if outcome.record is None:
            print(
                f"segact-parity: {implementation}: {outcome.skipped or outcome.error}",
                file=sys.stderr,
            )
            raise typer.Exit(1)
        content = outcome.record.path.read_bytes()
    with _writing(output):
        write_atomically(output, content)


def _evaluate_function(
    name: str, target: str, cases: str, backend: str | None, device: str
) -> userfunction.Evaluated:
    """Run a user's function in a process of its own; it may lie in the folder one is in."""
    server = Server(backend or "", device, ahead=os.getcwd())
    try:
        with report.console(stderr=True).status(f"{name}: {target}"):
            return userfunction.evaluate(name, target, cases, server)
    finally:
        server.close()


def _record_function(
    target: str, output: Path, device: str, cases: str, backend: str | None
) -> None:
    _check_cases(cases)
    with _plain_errors():
        found = _evaluate_function(target, target, cases, backend, device)
    if found.doubt:
        print(f"segact-parity: {found.doubt}", file=sys.stderr)
    with _writing(output):
        userfunction.writer(found, device).write(output)


def _judge_functions(
    targets: dict[str, str],
    cases: str,
    backend: str | None,
    device: str,
    choice: tuple[str | None, str | None],
    rtol: float | None,
    atol: float | None,
) -> Judgement:
    """Judge a user's functions against each other, or against a loss of the judge."""
    _check_tolerance(rtol, atol)
    _check_cases(cases)
    for kind, value, known in (("loss", choice[0], LOSSES), ("activation", choice[1], ACTIVATIONS)):
        if value is not None and value not in known:
            _refuse(unknown(kind, value, known))
    with _plain_errors():
        found = [
            _evaluate_function(name, target, cases, backend, device)
            for name, target in targets.items()
        ]
        notes = [f"{f.name} is {targets[f.name]} ({f.framework})" for f in found]
        measurements = userfunction.compare_all(found, rtol, atol)
        notes += userfunction.orders_that_agree(found, rtol, atol)
        if len(found) == 1 or any(choice):
            for function in found:
                best, said = userfunction.nearest_in_any_order(function, rtol, atol, *choice)
                measurements += best.measurements
                notes += said
    notes += userfunction.losses_of_gradient(measurements)
    return Judgement([Outcome(function.name) for function in found], measurements, notes=notes)


def _load_record(path: Path) -> Record:
    """The record at the path; the word `reference` is the shipped one."""
    shipped = str(path) == "reference" and not path.exists()
    return Record.load(REFERENCE_PATH if shipped else path)


@app.command(name="compare")
def compare_records(
    left: Annotated[Path, typer.Argument(help="A record that record has written.")],
    right: Annotated[
        Path, typer.Argument(help="Another record, or `reference` for the shipped one.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there; - is standard output.")
    ] = None,
    rtol: Annotated[float | None, typer.Option(help=_RTOL_HELP)] = None,
    atol: Annotated[float | None, typer.Option(help=_ATOL_HELP)] = None,
) -> None:
    """Compare two records: within the sum of their bounds, or not.

    Records of a function of your own are compared to the tolerance given.
    """
    _check_writable(json_file)
    _check_tolerance(rtol, atol)
    with _plain_errors():
        one, two = _load_record(left), _load_record(right)
        if one.implementation == "reference":  # the truth belongs on the right
            one, two = two, one
        one.check_cases(two)
        standard, notes = one.cases == STANDARD, []
        if standard and (rtol is not None or atol is not None):
            _refuse("--rtol and --atol go with records of your own functions; these have bounds")
        if standard:
            found = compare(one, two)
        else:
            found = userfunction.compare_records(one, two, rtol, atol)
            notes = userfunction.losses_of_gradient(found)
    judgement = Judgement(
        [Outcome(one.implementation, one), Outcome(two.implementation, two)], found, notes=notes
    )
    if json_file:
        _write_json(judgement, json_file)
    out = report.console(stderr=str(json_file) == "-")
    for item in (one, two):
        made = ", ".join(f"{key} {value}" for key, value in item.versions.items())
        of = f" ({item.framework})" if item.framework else ""
        words = f"{item.path}: {item.implementation}{of} on {item.device}; {made}"
        out.print(words, markup=False, soft_wrap=True)
    if standard:
        report.print_table(out, report.comparison_table(found))
        out.print()
        report.print_verdict(out, judgement)
    else:
        report.print_functions(out, judgement)
    raise typer.Exit(0 if judgement.passed else 1)


def _raw_outputs(text: str) -> list[float]:
    """The numbers of `--raw`, as float32 holds them, each once."""
    try:
        with np.errstate(over="ignore"):
            found = [float(np.float32(word)) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        _refuse(f"--raw is {text!r}; wanted finite numbers with commas between, such as -20,0,20")
    return list(dict.fromkeys(found))


def _check_figure(path: Path | None) -> None:
    """Refuse, before any work is done, a figure that could not be written."""
    _check_writable(path)
    if path:
        _import_early("matplotlib")
    if path and path.suffix.lower() not in convention_figure.SUFFIXES:
        _refuse(f"{path}: a figure is written as .png or .svg")


def _write_figure(found: convention_rows.Results, path: Path) -> None:
    if not found.ours:
        print("segact-parity: no figure: no implementation of segact ran", file=sys.stderr)
        raise typer.Exit(1)
    with _writing(path):
        write_atomically(path, convention_figure.draw(found.ours, path.suffix.lower()))


@app.command()
def conventions(
    raw: Annotated[
        str, typer.Option(help="The raw outputs, with commas between: --raw=-20,0,20.")
    ] = ",".join(map(str, convention_rows.RAW)),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there; - is standard output.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the conventions there, as .png or .svg.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Print the short table as Markdown.")] = False,
) -> None:
    """Show what the cross entropy of a sigmoid is in each framework; nothing is judged.

    Exit code 1: a framework failed, or none is installed.
    """
    if markdown and str(json_file) == "-":
        _refuse("--markdown and --json - both write to standard output; choose one")
    outputs = _raw_outputs(raw)
    _check_writable(json_file)
    _check_figure(figure)
    with _plain_errors(), progress_display(report.console(stderr=True)) as progress:
        found = convention_rows.run(outputs, progress)
    if json_file:
        _write_json(found, json_file)
    if markdown:
        print(convention_tables.markdown(found))
        convention_tables.print_failures(report.console(stderr=True), found)
    else:
        convention_tables.print_results(report.console(stderr=str(json_file) == "-"), found)
    if figure:
        _write_figure(found, figure)
    raise typer.Exit(0 if found.good and not found.failures else 1)


@app.command()
def train(
    steps: Annotated[int, typer.Option(help="How many steps each training has.")] = 100,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(training.OPTIMIZERS)}; may be repeated."),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 or float64; may be repeated.")
    ] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this one of {', '.join(IMPLEMENTATIONS)}; may be repeated."),
    ] = None,
    loss: Annotated[
        str, typer.Option(help=f"The loss that is minimised: {', '.join(training.LOSSES)}.")
    ] = training.Options.loss,
    activation: Annotated[
        str, typer.Option(help=f"The output activation: {', '.join(ACTIVATIONS)}.")
    ] = training.Options.activation,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there; - is standard output.")
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option("--report", help="Write a page with the curves there, JSON and JUnit."),
    ] = None,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Fail if any implementation is skipped.")
    ] = False,
) -> None:
    """Train the same small network in every implementation and compare the losses at every step.

    Exit code 1 also where there was only one to train.
    """
    names = [_known(name, or_own=False) for name in implementation or IMPLEMENTATIONS]
    try:
        options = training.Options(
            steps,
            tuple(dict.fromkeys(optimizer or training.OPTIMIZERS)),
            tuple(dict.fromkeys(dtype or training.DTYPES)),
            loss,
            activation,
        )
    except ValueError as error:
        _refuse(str(error))
    _check_writable(json_file)
    _prepare_folder(report_folder)
    with _plain_errors(), progress_display(report.console(stderr=True)) as progress:
        found = training.run(names, options, progress)
    found.required = frozenset(names if require_all or implementation else ())
    if json_file:
        _write_json(found, json_file)
    out = report.console(stderr=str(json_file) == "-")
    print_trainings(out, found)
    if report_folder:
        _write_report(out, report_folder, None, found)
    raise typer.Exit(0 if found.passed and found.compared else 1)


def main() -> None:
    """The console script."""
    app()
