"""A step: commands with a time limit, and how they ended. A failed step does not stop others."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAITING, DONE, FAILED, SKIPPED = "waiting", "done", "failed", "skipped"
_LAST_WORDS = 25


class Skip(Exception):
    """Raised by a step's reader if the step could not do anything; says why."""


@dataclass(frozen=True)
class Command:
    """A command line, to be run in the folder of the repository, and its environment variables."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: str = "output.log"

    def shown(self) -> str:
        """The command as typed in a shell."""
        given = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*given, *self.words])


@dataclass(frozen=True)
class Step:
    """The commands of a step, its time limit, and the reader of its files.

    Args:
        name: for `--only`.
        title: for the page.
        commands: run at the same time.
        limit: seconds, for all of them together.
        needs: modules without which the step is skipped.
        read: from the step's folder to its figures; raises `Skip`.
        alone: no other step runs at the same time.
        skipped: why the step is not run.
    """

    name: str
    title: str
    commands: tuple[Command, ...] = ()
    limit: float = 60
    needs: tuple[str, ...] = ()
    read: Callable[[Path], dict[str, Any]] = lambda folder: {}
    alone: bool = False
    skipped: str = ""


@dataclass
class Result:
    """How a step ended: `reason` says why it failed or was skipped."""

    step: Step
    status: str = WAITING
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    last_words: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.step.name,
            "title": self.step.title,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "limit": self.step.limit,
            "commands": [command.shown() for command in self.step.commands],
            "figures": self.figures,
            "last_words": self.last_words,
        }


class Runner:
    """Runs steps in the folder `work`, with `environment` for all, within `budget` seconds.

    A step and its child processes are killed when its limit, or the budget, is over.
    """

    def __init__(self, work: Path, environment: Mapping[str, str], budget: float) -> None:
        self.work, self.environment = work, dict(environment)
        self.ends = time.monotonic() + budget
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._stopped = False

    def folder(self, step: Step) -> Path:
        """The folder of the step's files."""
        return self.work / step.name

    def run(self, step: Step) -> Result:
        """Run one step to its end; errors are part of the result."""
        result = Result(step)
        absent = [module for module in step.needs if find_spec(module) is None]
        left = self.ends - time.monotonic()
        if step.skipped or absent:
            result.status = SKIPPED
            result.reason = step.skipped or f"not installed: {', '.join(absent)}"
            return result
        if left <= 0:
            result.status, result.reason = SKIPPED, "no time was left"
            return result
        folder = self.folder(step)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            result.reason = self._commands(step, folder, min(step.limit, left))
        except OSError as error:
            result.reason = str(error)
        result.seconds = time.monotonic() - started
        result.status = FAILED if result.reason else DONE
        self._read(result, folder)
        if result.status == FAILED:
            result.last_words = _last_words(step, folder)
        return result

    def _commands(self, step: Step, folder: Path, limit: float) -> str:
        """Why the commands failed; empty if all ended with 0."""
        ends = time.monotonic() + limit
        processes = [self._start(command, folder) for command in step.commands]
        problems = []
        for command, process in zip(step.commands, processes, strict=True):
            try:
                code = process.wait(max(0.0, ends - time.monotonic()))
                if code:
                    problems.append(_problem(folder / command.log, code))
            except subprocess.TimeoutExpired:
                _kill(process)
                problems.append(f"not done after {limit:.0f} s: stopped")
        return "; ".join(dict.fromkeys(problems))

    def _start(self, command: Command, folder: Path) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, **self.environment, **command.environment}
        with self._lock, (folder / command.log).open("wb") as log:
            if self._stopped:
                raise InterruptedError("stopped")
            process = subprocess.Popen(
                command.words,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it can be killed with its children
            )
            self._running.append(process)
        return process

    def _read(self, result: Result, folder: Path) -> None:
        try:
            result.figures = result.step.read(folder)
        except Skip as skip:
            result.status, result.reason = SKIPPED, str(skip)
        except Exception as error:  # the files of a failed step may be damaged
            if result.status == DONE:
                result.status = FAILED
                result.reason = f"what it left cannot be read: {type(error).__name__}: {error}"

    def stop(self) -> None:
        """Kill the running steps; no other starts."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                if process.poll() is None:
                    _kill(process)

    def run_all(self, steps: list[Step], jobs: int, tell: Callable[[Result], None]) -> list[Result]:
        """Run the `alone` steps first, then the others, `jobs` at a time; reports each end."""
        results = {}
        try:
            for step in (step for step in steps if step.alone):
                results[step.name] = self.run(step)
                tell(results[step.name])
            with ThreadPoolExecutor(jobs) as pool:
                waiting = [pool.submit(self.run, step) for step in steps if not step.alone]
                try:
                    for future in as_completed(waiting):
                        result = future.result()
                        results[result.step.name] = result
                        tell(result)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self.stop()
                    raise
        finally:
            self.stop()
        return [results[step.name] for step in steps]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its child processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(path: Path) -> list[str]:
    text = path.read_text(errors="replace") if path.is_file() else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _problem(log: Path, code: int) -> str:
    last = _lines(log)[-1:] or ["it said nothing"]
    return f"exit code {code}: {last[0].strip()}"


def _last_words(step: Step, folder: Path) -> list[str]:
    return [
        line for command in step.commands for line in _lines(folder / command.log)[-_LAST_WORDS:]
    ]
