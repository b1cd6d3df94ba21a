"""The parent process: one process for each implementation, and the files it wrote."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress

from parity.accuracy import sweep
from parity.accuracy.comparison import Comparison
from parity.common import processes
from parity.frameworks.environment import environment
from parity.frameworks.installed import broken, missing
from parity.judge import worker
from parity.judge.curves import Figures
from parity.judge.user_logits import load_file
from parity.suite.case import Case
from parity.suite.cases import file_cases, judged_cases
from parity.suite.records import Record, RecordError


@dataclass
class Outcome:
    """The outcome of one implementation: a record, or why there is none."""

    name: str
    record: Record | None = None
    sweep: list[Comparison] = field(default_factory=list)
    curves: Figures = field(default_factory=dict)
    skipped: str = ""
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """The job of every implementation."""

    folder: Path
    device: str = "cpu"
    inputs: Path | None = None
    sweep: bool = False

    def record_path(self, name: str) -> Path:
        """The path of the record of an implementation."""
        return self.folder / f"{name}.safetensors"

    def sweep_path(self, name: str) -> Path:
        """The path of the result of its sweep."""
        return self.folder / f"{name}.sweep.json"

    def command(self, name: str) -> list[str]:
        """The command line of the process of an implementation."""
        command = processes.python("parity.judge.worker", name, "--device", self.device)
        command += ["--output", str(self.record_path(name))]
        if self.inputs:
            command += ["--inputs", str(self.inputs)]
        return command + (["--sweep", str(self.sweep_path(name))] if self.sweep else [])


def _read_record(path: Path, cases: Sequence[Case]) -> Record:
    """The record of a worker; raises unless it holds every case."""
    if not path.is_file():
        raise RecordError("the process ended without an error and wrote no record")
    record = Record.load(path)
    absent = record.lacks(cases)
    if absent:
        raise RecordError(f"the record lacks {len(absent)} cases, first {absent[0]}")
    return record


def _read_sweep(path: Path) -> tuple[list[Comparison], Figures]:
    """The result of a worker's sweep, and its error curves; raises unless it is complete."""
    if not path.is_file():
        raise RecordError("the process ended without an error and wrote no sweep")
    content = json.loads(path.read_text())
    found = [Comparison.from_dict(fields) for fields in content["measurements"]]
    absent = sorted(sweep.wanted() - sweep.swept(found))
    if absent:
        raise RecordError(f"the sweep lacks {len(absent)} parts, first {' '.join(absent[0])}")
    return found, content["curves"]


def _follow(outcome: Outcome, lines: Iterable[str], report: processes.Report) -> None:
    """Read a worker's steps, and the line that says that there is no device."""

    def steps() -> Iterable[str]:
        for line in lines:
            if line.startswith(worker.NO_DEVICE):
                outcome.skipped = line.removeprefix(worker.NO_DEVICE).strip()
            yield line

    processes.follow_steps(steps(), report)


def _finish(outcome: Outcome, job: Job, cases: Sequence[Case]) -> str:
    """Read the files of a worker; returns one word for the user."""
    if outcome.skipped:
        return "skipped"
    record = _read_record(job.record_path(outcome.name), cases)
    if job.sweep:
        outcome.sweep, outcome.curves = _read_sweep(job.sweep_path(outcome.name))
    outcome.record = record
    return "done"


def _task(outcome: Outcome, job: Job, cases: Sequence[Case]) -> processes.Task:
    return processes.Task(
        name=outcome.name,
        command=job.command(outcome.name),
        environment=partial(environment, outcome.name, job.device, float64=True),
        follow=partial(_follow, outcome),
        finish=partial(_finish, outcome, job, cases),
    )


def run(names: list[str], job: Job, progress: Progress) -> list[Outcome]:
    """Run every implementation that is installed, as many at a time as there are cores."""
    outcomes = {name: Outcome(name, error=broken(name)) for name in names}
    for outcome in outcomes.values():
        outcome.skipped = "" if outcome.error else missing(outcome.name)
    present = [outcome for outcome in outcomes.values() if not (outcome.skipped or outcome.error)]
    if present:
        cases = file_cases(load_file(job.inputs)) if job.inputs else judged_cases()
        tasks = [_task(outcome, job, cases) for outcome in present]
        for name, ended in processes.run(tasks, progress).items():
            outcome = outcomes[name]
            outcome.seconds = ended.seconds
            if ended.error:
                outcome.skipped = ""
                outcome.error = "\n".join([ended.error, *ended.last_words])
    return [outcomes[name] for name in names]
