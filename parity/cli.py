"""`segact-parity`: do the implementations give the same numbers, and the right ones?

Exit code 0: something was judged and all of it is within bounds. 1: something is out of bounds, or
nothing could be judged. 2: wrong usage, or a file that cannot be used.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer

from parity import (
    __version__,
    convention_figure,
    convention_tables,
    reference,
    report,
)
from parity import conventions as convention_rows
from parity.cases import standard_cases
from parity.compare import compare
from parity.implementations import IMPLEMENTATIONS, missing
from parity.inputs import input_sets
from parity.judgement import Judgement, judge
from parity.records import REFERENCE_PATH, Record, RecordError, RecordWriter, write_atomically
from parity.runner import Job, Outcome, progress_display
from parity.runner import run as run_workers
from parity.userfile import InputError, judge_file, load_file

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


class Device(StrEnum):
    """Where the implementations compute."""

    cpu = "cpu"
    cuda = "cuda"


def _refuse(message: str) -> NoReturn:
    """One plain line and exit code 2."""
    print(f"segact-parity: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _known(name: str, more: tuple[str, ...] = ()) -> str:
    known = (*IMPLEMENTATIONS, *more)
    if name not in known:
        near = get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]}? One" if near else "wanted one"
        _refuse(f"unknown implementation {name}; {hint} of {', '.join(known)}")
    return name


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
    except (InputError, RecordError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        print("segact-parity: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _refuse(f"{path}: cannot write there; {error.strerror or error}")


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: those become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _write_json(found: Judgement | convention_rows.Results, path: Path) -> None:
    text = json.dumps(_plain(found.as_dict()), indent=1, allow_nan=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with _writing(path):
        write_atomically(path, text.encode())


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"segact-parity {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def _judge_workers(names: list[str], device: str, inputs: Path | None, dense: bool) -> Judgement:
    """Run the workers in a temporary folder and judge their records while it is there."""
    content = load_file(inputs) if inputs else None
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
        list[str] | None, typer.Option(help="Only this one; may be repeated.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there; - is standard output.")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="Sweep a million inputs per quantity.")
    ] = True,
    verbose: Annotated[bool, typer.Option(help="Show every pair.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the summary as Markdown instead.")] = False,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Fail if any implementation is skipped.")
    ] = False,
) -> None:
    """Judge every implementation that is installed against the reference and each other."""
    if context.args:
        extra = context.args[0]
        _refuse(f"run takes no argument {extra}; for a file of your own: --inputs {extra}")
    names = [_known(name) for name in implementation or IMPLEMENTATIONS]
    if markdown and str(json_file) == "-":
        _refuse("--markdown and --json - both write to standard output; choose one")
    if markdown and inputs:
        _refuse("--markdown is the summary of the standard cases; it does not go with --inputs")
    _check_writable(json_file)
    with _plain_errors():
        judgement = _judge_workers(list(dict.fromkeys(names)), device.value, inputs, dense)
    # what was asked for by name must have run
    judgement.required = frozenset(names if require_all or implementation else ())
    if json_file:
        _write_json(judgement, json_file)
    out = report.console(stderr=str(json_file) == "-")
    if markdown:
        print(report.markdown(judgement))
        report.print_verdict(report.console(stderr=True), judgement)
    else:
        report.print_report(out, judgement, verbose)
    raise typer.Exit(0 if judgement.passed else 1)


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
    implementation: Annotated[str, typer.Argument(help="An implementation, or `reference`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The record to write.")],
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
) -> None:
    """Write the record of one implementation, to compare with another machine's or next year's."""
    _known(implementation, ("reference",))
    _check_writable(output)
    with _plain_errors():
        _record(implementation, output, device.value)


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


def _load_record(path: Path) -> Record:
    """The record at the path; the word `reference` is the shipped one."""
    shipped = str(path) == "reference" and not path.exists()
    return Record.load(REFERENCE_PATH if shipped else path)


@app.command(name="compare")
def compare_records(
    left: Annotated[Path, typer.Argument(help="A record.")],
    right: Annotated[Path, typer.Argument(help="Another, or `reference` for the shipped one.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything there; - is standard output.")
    ] = None,
) -> None:
    """Compare two records: within the sum of their bounds, or not."""
    _check_writable(json_file)
    with _plain_errors():
        one, two = _load_record(left), _load_record(right)
        if one.implementation == "reference":  # the truth belongs on the right
            one, two = two, one
        found = compare(one, two)
    judgement = Judgement(
        [Outcome(one.implementation, one), Outcome(two.implementation, two)], found
    )
    if json_file:
        _write_json(judgement, json_file)
    out = report.console(stderr=str(json_file) == "-")
    for item in (one, two):
        made = ", ".join(f"{key} {value}" for key, value in item.versions.items())
        out.print(f"{item.path}: {item.implementation} on {item.device}; {made}", soft_wrap=True)
    report.print_table(out, report.comparison_table(found))
    out.print()
    report.print_verdict(out, judgement)
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
    """Refuse, before any work is done, a figure that could not be drawn or written."""
    _check_writable(path)
    if path is None:
        return
    if path.suffix.lower() not in convention_figure.SUFFIXES:
        _refuse(f"{path}: a figure is written as .png or .svg")
    if convention_figure.missing():
        _refuse(f"--figure: {convention_figure.missing()}")


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


def main() -> None:
    """The console script."""
    app()
