"""Parallel processes: their progress, their last output, and stopping all of them."""

import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_STDERR_LINES = 15

Report = Callable[..., None]
"""Takes the arguments of `Progress.update`: `completed`, `total`, `message`."""


@dataclass(frozen=True)
class Task:
    """One process and how to handle it.

    `environment` gives its variables for a number of threads. `follow` reads its standard output
    to the end. `finish` is called if it ended without an error: it reads the files of the process,
    raises if they are incomplete, and returns one word for the user.
    """

    name: str
    command: Sequence[str]
    environment: Callable[[int], dict[str, str]]
    follow: Callable[[Iterable[str], Report], None]
    finish: Callable[[], str]


@dataclass
class Ended:
    """How a process ended: `error` is empty if it succeeded.

    `last_words` are the last lines of standard error, if the exit code is not 0.
    """

    error: str = ""
    last_words: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """The error and the last line of standard error, in one line."""
        words = [line.strip() for line in self.last_words if line.strip()]
        return ": ".join([self.error, *words[-1:]])


class Workers:
    """The running processes; after `stop` all are killed and no other starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self.stopped = False

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """`subprocess.Popen`."""
        with self._lock:
            if self.stopped:
                raise InterruptedError("stopped")
            process = subprocess.Popen(command, text=True, **options)
            self._running.append(process)
            return process

    def stop(self) -> None:
        """Kill all processes (`Popen` sends nothing to one that has ended)."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.kill()


def search_path() -> str:
    """PYTHONPATH for a worker: it imports this package, and nothing from the current folder."""
    home = Path(__file__).resolve().parents[2]
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    # site-packages is searched anyway; before the standard library it could shadow that
    return os.pathsep.join(folders if home in installed else [*folders, str(home)])


def python(module: str, *arguments: object) -> list[str]:
    """The command line that runs a module of this package."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


class Steps:
    """Prints the steps of a worker for `follow_steps`, at most one in 0.2 s."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._last = -1.0

    def say(self, message: str, done: int) -> None:
        """Print what is done, or nothing if something was printed just now."""
        if time.monotonic() - self._last > 0.2:
            self._last = time.monotonic()
            print(f"{done} {self.total} {message}", flush=True)


def follow_steps(lines: Iterable[str], report: Report) -> None:
    """Turn the lines of a worker, `done total message`, into progress."""
    for line in lines:
        fields = line.rstrip("\n").split(" ", 2)
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit():
            report(completed=int(fields[0]), total=int(fields[1]), message=fields[2])


def _run_process(task: Task, threads: int, report: Report, workers: Workers, ended: Ended) -> str:
    """Run the process to its end; returns the word of `finish`."""
    env = {**os.environ, **task.environment(threads), "PYTHONPATH": search_path()}
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        with workers.start(task.command, env=env, stdout=subprocess.PIPE, stderr=stderr) as process:
            task.follow(process.stdout or (), report)
        stderr.seek(0)
        last_words = stderr.read().splitlines()[-_STDERR_LINES:]
    if process.returncode != 0:
        ended.error, ended.last_words = f"exit code {process.returncode}", last_words
        return "failed"
    return task.finish()


def _run_one(task: Task, threads: int, progress: Progress, bar: TaskID, workers: Workers) -> Ended:
    """How one process ended; an error in it does not stop the others."""
    started = time.monotonic()
    ended = Ended()
    progress.start_task(bar)
    try:
        word = _run_process(task, threads, partial(progress.update, bar), workers, ended)
    except Exception as error:  # the files of a process may be damaged
        ended.error, word = str(error) or type(error).__name__, "failed"
    ended.seconds = time.monotonic() - started
    progress.update(bar, completed=1, total=1, message=word)
    if not (progress.console.is_terminal or workers.stopped):
        progress.console.print(f"{task.name}: {word}, {ended.seconds:.0f} s", soft_wrap=True)
    return ended


def run(tasks: Sequence[Task], progress: Progress) -> dict[str, Ended]:
    """Run every task, as many at a time as there are cores; returns how each ended, by name.

    If this function ends early, for example by Ctrl-C, all processes end.
    """
    cores = os.cpu_count() or 1
    side_by_side = max(1, min(cores, len(tasks)))
    threads = max(1, cores // side_by_side)
    workers = Workers()
    bars = [progress.add_task(t.name, start=False, total=None, message="waiting") for t in tasks]
    with ThreadPoolExecutor(side_by_side) as pool:
        waiting = {
            task.name: pool.submit(_run_one, task, threads, progress, bar, workers)
            for task, bar in zip(tasks, bars, strict=True)
        }
        try:
            return {name: future.result() for name, future in waiting.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise


def progress_display(console: Console) -> Progress:
    """One line per process: a bar, what it does, the time it took."""
    return Progress(
        TextColumn("{task.description:>16}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
        console=console,
        transient=True,
    )
