"""The parent: one process per implementation, side by side, with progress."""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from parity import worker
from parity.compare import Measurement
from parity.implementations import environment, missing
from parity.records import Record

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
        command = [sys.executable, "-m", "parity.worker", name, "--device", self.device]
        command += ["--output", str(self.record_path(name))]
        if self.inputs:
            command += ["--inputs", str(self.inputs)]
        return command + (["--sweep", str(self.sweep_path(name))] if self.sweep else [])


def _follow(process: subprocess.Popen[str], progress: Progress, task: TaskID) -> None:
    """Turn the lines of a worker, `done total message`, into progress."""
    assert process.stdout is not None
    for line in process.stdout:
        fields = line.rstrip("\n").split(" ", 2)
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit():
            done, total, message = int(fields[0]), int(fields[1]), fields[2]
            progress.update(task, completed=done, total=total, message=message)


def _run_one(name: str, job: Job, threads: int, progress: Progress, task: TaskID) -> Outcome:
    started = time.monotonic()
    env = {**os.environ, **environment(name, job.device, threads)}
    progress.start_task(task)
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        with subprocess.Popen(
            job.command(name), env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process:
            _follow(process, progress, task)
        stderr.seek(0)
        last_words = stderr.read().splitlines()[-_STDERR_LINES:]
    outcome = Outcome(name, seconds=time.monotonic() - started)
    if process.returncode == worker.NO_DEVICE:
        outcome.skipped = last_words[-1]
    elif process.returncode != 0:
        outcome.error = f"exit code {process.returncode}\n" + "\n".join(last_words)
    else:
        outcome.record = Record.load(job.record_path(name))
        if job.sweep:
            found = json.loads(job.sweep_path(name).read_text())
            outcome.sweep = [Measurement(**fields) for fields in found]
    words = "done" if outcome.record else "skipped" if outcome.skipped else "failed"
    progress.update(task, completed=1, total=1, message=words)
    return outcome


def run(names: list[str], job: Job, progress: Progress) -> list[Outcome]:
    """Run every implementation that is installed, as many at a time as there are cores."""
    cores = os.cpu_count() or 1
    outcomes = {name: Outcome(name, skipped=missing(name)) for name in names}
    present = [name for name in names if not outcomes[name].skipped]
    if present:
        side_by_side = min(cores, len(present))
        threads = max(1, cores // side_by_side)
        tasks = {
            name: progress.add_task(name, start=False, total=None, message="waiting")
            for name in present
        }
        with ThreadPoolExecutor(side_by_side) as pool:
            waiting = [
                pool.submit(_run_one, name, job, threads, progress, tasks[name]) for name in present
            ]
            outcomes.update({done.name: done for done in (future.result() for future in waiting)})
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
