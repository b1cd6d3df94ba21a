"""`python -m benchmarks`: every loss and its counterpart, measured in turns in one run."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from parity.common.extras import needs

with needs("benchmarks", "benchmarks"):
    import torch
    import typer
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from benchmarks import figure, measure, report
    from benchmarks.cases import FRAMEWORKS
    from benchmarks.worker import Task
    from parity.common.files import json_text, why_unwritable, write_atomically
    from parity.common.naming import unknown
    from parity.frameworks.environment import environment
    from parity.frameworks.installed import missing

ROOT = Path(__file__).parents[1]
QUICK = {"sizes": (64, 1_000), "rounds": 3, "budget": 0.0, "quick": True}
IMPLEMENTATIONS = {
    **dict.fromkeys(("torch", "compile", "bandwidth"), "torch"),
    **dict.fromkeys(("tensorflow", "xla"), "keras-tensorflow"),
    "keras-torch": "keras-torch",
    "jax": "keras-jax",
}
"""By framework, its name in the judge, for its packages and environment."""
DEFAULT = {
    "cpu": ("torch", "compile", "keras-torch", "tensorflow", "xla", "jax"),
    "cuda": ("bandwidth", "torch", "compile"),
}
Say = Callable[[str], None]
"""Shows what is measured now."""
Keep = Callable[[], None]
"""Saves the results so far."""


def _refuse(words: str) -> NoReturn:
    print(f"benchmarks: {words}", file=sys.stderr)
    raise typer.Exit(2)


def _sizes(text: str | None) -> tuple[int, ...] | None:
    """Numbers of elements, such as 64,1e5; a batch has eight samples."""
    try:
        sizes = tuple(int(float(word)) for word in text.split(",")) if text else None
    except (ValueError, OverflowError):
        sizes = (0,)
    if sizes and any(size < 8 or size % 8 for size in sizes):
        _refuse(f"--sizes wants multiples of 8 from 8 on, such as 64,1e5, got {text}")
    return sizes


def _chosen(names: list[str], device: str) -> list[str]:
    for name in names:
        if name not in FRAMEWORKS:
            _refuse(unknown("framework", name, FRAMEWORKS))
        if name not in DEFAULT["cuda"] and device == "cuda":
            _refuse(f"--framework {name} is measured on a CPU alone, got --device cuda")
    return names or list(DEFAULT[device])


def _read(path: Path, option: str) -> report.Results:
    """The results of an earlier run."""
    try:
        return report.Results.from_dict(json.loads(path.read_text()))
    except OSError as error:
        _refuse(f"{option} {path}: {error.strerror}")
    except (ValueError, TypeError, KeyError, AttributeError):
        _refuse(f"{option} {path} is no JSON file that this version of the benchmarks wrote")


def _results(device: str, threads: int, resumed: Path | None) -> report.Results:
    """New results, or those of the file to resume, which has to be from this machine."""
    machine = {
        "device": measure.processor(),
        "threads": str(threads),
        "python": platform.python_version(),
    }
    if device == "cuda":
        machine["device"] = torch.cuda.get_device_name()
    if resumed is None or not resumed.exists():
        return report.Results(machine)
    found = _read(resumed, "--resume")
    for name, here in machine.items():
        if found.machine.get(name) != here:
            _refuse(f"--resume: {name} was {found.machine.get(name)}, and is {here} now")
    return replace(found, failed=[])


def _environment(task: Task) -> dict[str, str]:
    """The environment of the process: the number of threads, and otherwise a user's environment."""
    name = IMPLEMENTATIONS[task.framework]
    found = environment(name, task.device, task.threads, onednn=True)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **found, "PYTHONPATH": path}


def measure_framework(task: Task, results: report.Results, say: Say, keep: Keep) -> None:
    """Run a worker, and save its results as they come."""
    command = [sys.executable, "-m", "benchmarks.worker"]
    with tempfile.TemporaryFile("w+") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, env=_environment(task), text=True, **pipes) as worker:  # type: ignore[call-overload]
            json.dump(asdict(task), worker.stdin)
            worker.stdin.close()
            for line in worker.stdout:
                found = json.loads(line)
                if "name" in found:
                    say(f"{FRAMEWORKS[task.framework]}: {found['name']}")
                elif "row" in found:
                    results.add(report.row_of(found["row"]))
                    keep()
                elif "skipped" in found:
                    results.skipped.update([found["skipped"]])
                elif "failed" in found:
                    results.failed.append(found["failed"])
                else:
                    results.machine.update(found["machine"])
        if worker.returncode:
            errors.seek(0)
            words = errors.read().strip().splitlines() or [f"exit code {worker.returncode}"]
            results.failed.append(f"{task.framework}: {words[-1]}")


def main(
    framework: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(FRAMEWORKS)}; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only rows whose name contains these words; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int, typer.Option(min=1, help="The number of threads of each framework.")
    ] = 2,
    rounds: Annotated[
        int, typer.Option(min=3, help="The largest number of rounds for a row.")
    ] = 15,
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds after which no further round of a row starts.")
    ] = 0.4,
    sizes: Annotated[
        str | None, typer.Option(help="Numbers of elements, such as 64,1e5, for every row.")
    ] = None,
    huge: Annotated[bool, typer.Option("--huge", help="Also measure 1e8 elements.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short run on small inputs, to test the program.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the results to this file while they are measured."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue: keep the rows that are in the JSON file.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Compare with this JSON file: exit code 1 if a ratio is larger."),
    ] = None,
    figure_file: Annotated[
        Path | None, typer.Option("--figure", help="Draw the figure to this file, .png or .svg.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the tables into this page, between its markers.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown.")
    ] = False,
) -> None:
    """Measure every loss of each framework and its counterpart: ratios, memory, operations."""
    if device not in DEFAULT:
        _refuse(unknown("device", device, DEFAULT))
    frameworks = _chosen(framework or [], device)
    if device == "cuda" and not torch.cuda.is_available():
        _refuse("torch sees no CUDA device")
    if figure_file and figure_file.suffix not in (".png", ".svg"):
        _refuse(f"--figure wants a .png or .svg, got {figure_file}")
    for option, path in (("--json", json_file), ("--figure", figure_file)):
        if path and (why := why_unwritable(path)):
            _refuse(f"{option} {path}: cannot write there; {why}")
    if resume and not json_file:
        _refuse("--resume wants --json, whose rows it keeps")
    recorded = _read(against, "--against") if against else None
    results = _results(device, threads, json_file if resume else None)
    _into_page(page, results)  # refuse wrong paths before anything is measured
    options: dict[str, Any] = {"rounds": rounds, "budget": seconds, "sizes": _sizes(sizes)}
    options |= QUICK if quick else {}
    task = Task("", device, threads, only=tuple(only or ()), huge=huge, **options)

    def keep() -> None:
        if json_file:
            write_atomically(json_file, json_text(results.as_dict()).encode())

    _measure_all(frameworks, task, results, recorded, keep)
    if not results.rows and not results.failed:
        _refuse(f"no row has {' and '.join(task.only)} in its name")
    keep()
    if figure_file:
        figure.draw(results, figure_file)
    _into_page(page, results)
    if markdown:
        print(report.markdown(results))
    elif not page:
        report.print_tables(Console(), results)
    raise typer.Exit(_verdict(results, recorded))


def _measure_all(
    frameworks: list[str],
    task: Task,
    results: report.Results,
    recorded: report.Results | None,
    keep: Keep,
) -> None:
    """Measure each framework in its process; rows that are slower than recorded a second time."""
    with Progress(
        TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)
    ) as bar:
        shown = bar.add_task("")

        def say(words: str) -> None:
            bar.update(shown, description=words)

        for name in frameworks:
            why = missing(IMPLEMENTATIONS[name])
            if why:
                results.skipped[f"{name}: all"] = why
                continue
            say(FRAMEWORKS[name])
            done = tuple(row.key[1:] for row in results.rows if row.framework == name)
            measure_framework(replace(task, framework=name, done=done), results, say, keep)
        slow = report.exceeding(results.rows, recorded.rows) if recorded else []
        for name in frameworks:
            keys = [row.key[1:] for row, _ in slow if row.framework == name]
            if keys:
                measure_framework(replace(task, framework=name, keys=keys), results, say, keep)
        if "torch" in frameworks and not (results.imports or task.only or task.device == "cuda"):
            say("importing")
            results.imports.update(measure.import_seconds(3 if task.quick else 9))


def _into_page(page: Path | None, results: report.Results) -> None:
    if page is None:
        return
    try:
        text = report.into_page(page.read_text(), results)
    except OSError as error:
        _refuse(f"--page {page}: {error.strerror}")
    except ValueError as error:
        _refuse(f"--page {page} has {error}")
    if results.rows:
        write_atomically(page, text.encode())


def _verdict(results: report.Results, recorded: report.Results | None) -> int:
    """The exit code: 1 if a row failed, or has a larger ratio than recorded; prints which."""
    for line in results.failed:
        print(f"benchmarks: failed: {line}", file=sys.stderr)
    if recorded is None:
        return int(bool(results.failed))
    slow = report.exceeding(results.rows, recorded.rows)
    for row, old in slow:
        print(f"benchmarks: {report.comparison(row, old)}", file=sys.stderr)
    known = {row.key for row in recorded.rows}
    compared = sum(row.key in known for row in results.rows)
    print(
        f"benchmarks: {len(slow)} of {compared} rows exceed what is recorded",
        file=sys.stderr,
    )
    return int(bool(slow or results.failed))


if __name__ == "__main__":
    with needs("benchmarks", "benchmarks"):
        typer.run(main)
