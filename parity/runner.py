"""The parent: one process per implementation, side by side, with progress."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from parity import dense, worker
from parity.cases import Case, file_cases, judged_cases
from parity.compare import Measurement
from parity.implementations import broken, environment, missing
from parity.records import Record, RecordError
from parity.userfile import load_file

_STDERR_LINES = 15


@dataclass
class Outcome:
    """What came of one implementation: a record, or why there is none."""

    name: str
    record: Record | None = None
    sweep: list[Measurement] = field(default_factory=list)
    skipped: str = ""
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """What every implementation is asked to do."""

    folder: Path
    device: str = "cpu"
    inputs: Path | None = None
    sweep: bool = False

    def record_path(self, name: str) -> Path:
        """Where the record of an implementation goes."""
        return self.folder / f"{name}.safetensors"

    def sweep_path(self, name: str) -> Path:
        """Where the result of its sweep goes."""
        return self.folder / f"{name}.sweep.json"

    def command(self, name: str) -> list[str]:
        """The command line of the process of an implementation."""
        command = [sys.executable, "-P", "-m", "parity.worker", name, "--device", self.device]
        command += ["--output", str(self.record_path(name))]
        if self.inputs:
            command += ["--inputs", str(self.inputs)]
        return command + (["--sweep", str(self.sweep_path(name))] if self.sweep else [])


class Workers:
    """The processes that run; once stopped, they are killed and no other starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self.stopped = False

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """`subprocess.Popen`."""
        with self._lock:
            if self.stopped:
                raise InterruptedError("stopped")
            process = subprocess.Popen(command, text=True, **options)
            self._running.append(process)
            return process

    def stop(self) -> None:
        """Kill them all (`Popen` sends nothing to one that has ended)."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.kill()


def search_path() -> str:
    """PYTHONPATH for a worker, which must import this very package and nothing from the cwd."""
    home = Path(__file__).resolve().parents[1]
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    # site-packages is searched anyway, and ahead of the standard library it could shadow that
    return os.pathsep.join(folders if home in installed else [*folders, str(home)])


def _follow(process: subprocess.Popen[str], progress: Progress, task: TaskID) -> str:
    """Turn the lines of a worker, `done total message`, into progress.

    Returns why there is no device, if the worker says so.
    """
    assert process.stdout is not None
    no_device = ""
    for line in process.stdout:
        if line.startswith(worker.NO_DEVICE):
            no_device = line.removeprefix(worker.NO_DEVICE).strip()
        fields = line.rstrip("\n").split(" ", 2)
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit():
            done, total, message = int(fields[0]), int(fields[1]), fields[2]
            progress.update(task, completed=done, total=total, message=message)
    return no_device


def _read_record(path: Path, cases: Sequence[Case]) -> Record:
    """The record of a worker, which must hold every case."""
    if not path.is_file():
        raise RecordError("the process ended without an error and wrote no record")
    record = Record.load(path)
    absent = record.lacks(cases)
    if absent:
        raise RecordError(f"the record lacks {len(absent)} cases, first {absent[0]}")
    return record


def _read_sweep(path: Path) -> list[Measurement]:
    """The result of a worker's sweep, which must cover everything."""
    if not path.is_file():
        raise RecordError("the process ended without an error and wrote no sweep")
    found = [Measurement(**fields) for fields in json.loads(path.read_text())]
    absent = sorted(dense.wanted() - dense.swept(found))
    if absent:
        raise RecordError(f"the sweep lacks {len(absent)} parts, first {' '.join(absent[0])}")
    return found


def _fill(
    outcome: Outcome,
    job: Job,
    threads: int,
    progress: Progress,
    task: TaskID,
    cases: Sequence[Case],
    workers: Workers,
) -> None:
    """Run a worker and read what it wrote."""
    name = outcome.name
    env = {**os.environ, **environment(name, job.device, threads), "PYTHONPATH": search_path()}
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        with workers.start(
            job.command(name), env=env, stdout=subprocess.PIPE, stderr=stderr
        ) as process:
            outcome.skipped = _follow(process, progress, task)
        stderr.seek(0)
        last_words = stderr.read().splitlines()[-_STDERR_LINES:]
    if process.returncode != 0:
        outcome.skipped = ""
        outcome.error = "\n".join([f"exit code {process.returncode}", *last_words])
    elif not outcome.skipped:
        record = _read_record(job.record_path(name), cases)
        if job.sweep:
            outcome.sweep = _read_sweep(job.sweep_path(name))
        outcome.record = record


def _run_one(
    name: str,
    job: Job,
    threads: int,
    progress: Progress,
    task: TaskID,
    cases: Sequence[Case],
    workers: Workers,
) -> Outcome:
    """What came of one implementation; nothing that goes wrong in it ends the others."""
    started = time.monotonic()
    outcome = Outcome(name)
    progress.start_task(task)
    try:
        _fill(outcome, job, threads, progress, task, cases, workers)
    except Exception as error:  # a worker may leave anything behind
        outcome.error = str(error) or type(error).__name__
    outcome.seconds = time.monotonic() - started
    words = "done" if outcome.record else "skipped" if outcome.skipped else "failed"
    progress.update(task, completed=1, total=1, message=words)
    if not (progress.console.is_terminal or workers.stopped):
        progress.console.print(f"{name}: {words}, {outcome.seconds:.0f} s", soft_wrap=True)
    return outcome


def run(names: list[str], job: Job, progress: Progress) -> list[Outcome]:
    """Run every implementation that is installed, as many at a time as there are cores."""
    cores = os.cpu_count() or 1
    outcomes = {name: Outcome(name, error=broken(name)) for name in names}
    for outcome in outcomes.values():
        outcome.skipped = "" if outcome.error else missing(outcome.name)
    present = [name for name, o in outcomes.items() if not o.skipped and not o.error]
    if present:
        cases = file_cases(load_file(job.inputs)) if job.inputs else judged_cases()
        side_by_side = min(cores, len(present))
        threads = max(1, cores // side_by_side)
        tasks = {
            name: progress.add_task(name, start=False, total=None, message="waiting")
            for name in present
        }
        workers = Workers()
        with ThreadPoolExecutor(side_by_side) as pool:
            waiting = [
                pool.submit(_run_one, name, job, threads, progress, tasks[name], cases, workers)
                for name in present
            ]
            try:
                outcomes.update({done.name: done for done in (f.result() for f in waiting)})
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                workers.stop()
                raise
    return [outcomes[name] for name in names]


def progress_display(console: Console) -> Progress:
    """One line per implementation: a bar, what it does, the time it took."""
    return Progress(
        TextColumn("{task.description:>16}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
        console=console,
        transient=True,
    )
